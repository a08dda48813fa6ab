"""Objective measures of a conversion against the target speaker's own recording of the sentence.

MCD, F0RMSE, F0CORR and DDUR in two modes that are never mixed:

``published``
    The procedure of the AAS-VC recipe, number for number: 1024-point analysis and warping 0.466 at every sample rate,
    a short high-pass, the power coefficient c0 inside the distortion, and FastDTW. Scores of different sample rates
    cannot be compared with each other or with the literature.
``corrected``
    The same four measures with an analysis that fits the sample rate, without c0 and without the high-pass, on exact
    DTW paths. Scores do not depend on the loudness of the recordings.

All functions take arrays; nothing here touches files.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.features import resample

FloatArray = npt.NDArray[np.float64]
Wave = npt.NDArray[np.floating[Any]]

Mode = Literal["published", "corrected"]
MODES: tuple[Mode, ...] = get_args(Mode)

FRAME_PERIOD = 5.0
"""Milliseconds between two frames of F0 and envelope."""
MCEP_ORDER = 39
POWER_THRESHOLD = -20.0
"""Frames this many dB below the mean power of their recording do not count in the MCD."""
DECIBELS_PER_NEPER = 10.0 / math.log(10.0)

PUBLISHED_FFT_SIZE = 1024
PUBLISHED_ALPHA = 0.466
PUBLISHED_HIGH_PASS_HZ = 70.0
PUBLISHED_HIGH_PASS_TAPS = 255
PUBLISHED_MAX_RATE = 160_000
"""Above, three periods of the 500 Hz that CheapTrick assumes in unvoiced frames do not fit into 1024 samples, and
WORLD writes outside its buffers."""

RESAMPLE_ZEROS = 6
RESAMPLE_ROLLOFF = 0.99


RECIPE_F0_RANGES: dict[str, tuple[float, float]] = {
    "male": (40.0, 290.0),
    "female": (90.0, 440.0),
    "bdl": (70.0, 210.0),
    "clb": (110.0, 270.0),
    "rms": (55.0, 200.0),
    "slt": (120.0, 275.0),
}
"""The recipe's F0 search ranges in Hz by target speaker (Hi-Fi-CAPTAIN, CMU ARCTIC)."""


@dataclass(frozen=True)
class Measure:
    """How one field of :class:`PairScores` is shown."""

    field: str
    name: str
    unit: str
    best: Literal["low", "high"]
    meaning: str


MEASURES: tuple[Measure, ...] = (
    Measure("mcd", "MCD", "dB", "low", "mel-cepstral distortion"),
    Measure("f0_rmse", "F0RMSE", "Hz", "low", "root mean square error of F0 on aligned voiced frames"),
    Measure("f0_corr", "F0CORR", "", "high", "Pearson correlation of F0 on aligned voiced frames"),
    Measure("ddur", "DDUR", "s", "low", "absolute difference of durations without leading and trailing silence"),
)


@dataclass(frozen=True)
class PairScores:
    """The measures of one utterance. NaN: not defined, for instance F0 without voiced frames."""

    mcd: float
    f0_rmse: float
    f0_corr: float
    ddur: float

    def to_tree(self) -> dict[str, float]:
        """Values by the names of the literature."""
        return {measure.name: getattr(self, measure.field) for measure in MEASURES}


@dataclass(frozen=True)
class F0Range:
    """Search range of F0 in Hz, for both signals of a pair, and where it comes from."""

    minimum: float
    maximum: float
    origin: str

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class AnalysisSettings:
    """Everything that a mode decides, at one sample rate."""

    mode: Mode
    sample_rate: int
    fft_size: int
    alpha: float
    """All-pass constant of the mel-cepstrum."""
    first_coefficient: int
    """0: c0 counts in alignment and distortion; 1: it does not."""
    high_pass: bool
    alignment: Literal["fastdtw, radius 1", "exact"]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Analysis:
    """What the measures need of one signal.

    Attributes:
        f0: (T,) Hz, 0 where unvoiced.
        mcep: (T, 40) mel-cepstrum c0..c39, natural logarithm of amplitude.
        loud: (T,) True where the frame is loud enough for the MCD.
        trimmed_samples: length without leading and trailing silence.
    """

    settings: AnalysisSettings
    f0: FloatArray
    mcep: FloatArray
    loud: npt.NDArray[np.bool_]
    trimmed_samples: int


@dataclass(frozen=True)
class Summary:
    """Mean over utterances with a 95 % bootstrap confidence interval.

    Attributes:
        low, high: NaN with fewer than two values.
        n: utterances with a value.
        n_undefined: utterances left out because the measure is not defined for them.
    """

    mean: float
    low: float
    high: float
    n: int
    n_undefined: int

    def to_tree(self) -> dict[str, float | int]:
        """JSON-able (NaN where undefined)."""
        return asdict(self)


def score_pair(
    converted: Wave,
    converted_rate: int,
    target: Wave,
    target_rate: int,
    *,
    f0_min: float,
    f0_max: float,
    mode: Mode = "published",
) -> PairScores:
    """All measures of one converted signal against the target recording.

    Args:
        converted, target: (n,), full scale at 1.0.
        f0_min, f0_max: F0 search range in Hz, used for both signals.

    Raises:
        DataError: a signal that cannot be analysed.
    """
    converted, target, sample_rate = to_common_rate(converted, converted_rate, target, target_rate, mode=mode)
    return score_analyses(
        analyse(converted, sample_rate, f0_min=f0_min, f0_max=f0_max, mode=mode),
        analyse(target, sample_rate, f0_min=f0_min, f0_max=f0_max, mode=mode),
    )


def score_analyses(converted: Analysis, target: Analysis) -> PairScores:
    """All measures of two analysed signals."""
    pairs = aligned_f0(converted, target)
    return PairScores(
        mcd=mel_cepstral_distortion(converted, target),
        f0_rmse=f0_rmse(pairs),
        f0_corr=f0_correlation(pairs),
        ddur=duration_difference(converted, target),
    )


def mel_cepstral_distortion(converted: Analysis, target: Analysis) -> float:
    """Mean over the alignment of ``10 / ln 10 * sqrt(2 * sum of squared differences)``, in dB.

    Only frames within 20 dB of the mean power of their recording are aligned.
    """
    first = _common_settings(converted, target).first_coefficient
    x, y = target.mcep[target.loud, first:], converted.mcep[converted.loud, first:]
    path = _path(converted, x, y)
    if not len(path):
        return math.nan
    squares = np.square(x[path[:, 0]] - y[path[:, 1]]).sum(axis=1)
    return float(np.mean(DECIBELS_PER_NEPER * np.sqrt(2.0 * squares)))


def aligned_f0(converted: Analysis, target: Analysis) -> FloatArray:
    """F0 of the converted and the target signal along an alignment of their voiced frames: (P, 2) in Hz.

    The alignment sees mel-cepstra only. Without voiced frames on either side it is empty.
    """
    first = _common_settings(converted, target).first_coefficient
    voiced, target_voiced = converted.f0 > 0, target.f0 > 0
    path = _path(converted, target.mcep[target_voiced, first:], converted.mcep[voiced, first:])
    return np.stack([converted.f0[voiced][path[:, 1]], target.f0[target_voiced][path[:, 0]]], axis=1)


def f0_rmse(pairs: FloatArray) -> float:
    """Root mean square of the F0 difference in Hz; NaN with fewer than two pairs, as published."""
    if len(pairs) < 2:
        return math.nan
    return float(np.sqrt(np.mean(np.square(pairs[:, 0] - pairs[:, 1]))))


def f0_correlation(pairs: FloatArray) -> float:
    """Pearson correlation of F0; NaN with fewer than two pairs or a constant contour."""
    if len(pairs) < 2 or np.any(pairs.max(axis=0) == pairs.min(axis=0)):
        return math.nan
    centred = pairs - pairs.mean(axis=0)
    x, y = (centred / np.linalg.norm(centred, axis=0)).T
    return float(np.clip(x @ y, -1.0, 1.0))


def duration_difference(converted: Analysis, target: Analysis) -> float:
    """Absolute difference of the durations in seconds, without leading and trailing silence."""
    sample_rate = _common_settings(converted, target).sample_rate
    return abs(converted.trimmed_samples - target.trimmed_samples) / sample_rate


def analyse(wave: Wave, sample_rate: int, *, f0_min: float, f0_max: float, mode: Mode = "published") -> Analysis:
    """F0 (Harvest), envelope (CheapTrick) and mel-cepstrum of one signal, every 5 ms.

    Args:
        wave: (n,), full scale at 1.0.

    Raises:
        DataError: no samples, samples that are not finite, or an impossible F0 range.
    """
    wave = _checked(wave)
    settings = settings_for(mode, sample_rate, f0_min)
    if not 0 < f0_min < f0_max < sample_rate / 2:
        raise DataError(f"F0 range {f0_min:g}-{f0_max:g} Hz: expected 0 < minimum < maximum < {sample_rate / 2:g} Hz")
    world = _world()
    # The published scaling is a product in float32; 32768 is the true full scale of 16 bit.
    scaled = (wave.astype(np.float32) * np.float32(32767)).astype(np.float64) if mode == "published" else wave * 32768.0
    if settings.high_pass:
        scaled = _published_high_pass(scaled, sample_rate)
    scaled = np.ascontiguousarray(scaled, dtype=np.float64)
    f0, times = world.harvest(scaled, sample_rate, f0_floor=f0_min, f0_ceil=f0_max, frame_period=FRAME_PERIOD)
    envelope = world.cheaptrick(scaled, f0, times, sample_rate, fft_size=settings.fft_size)
    start, end = trim_bounds(wave)
    return Analysis(
        settings=settings,
        f0=f0,
        mcep=mel_cepstrum(envelope, MCEP_ORDER, settings.alpha),
        loud=relative_power(envelope) > POWER_THRESHOLD,
        trimmed_samples=end - start,
    )


def settings_for(mode: Mode, sample_rate: int, f0_min: float) -> AnalysisSettings:
    """The analysis of a mode at a sample rate.

    Raises DataError for an unknown mode or a sample rate that the mode cannot do. In the corrected mode the FFT is
    long enough for the lowest F0 searched (WORLD analyses frames below its limit as if they had 500 Hz) and never
    shorter than WORLD's default, which is made for 71 Hz.
    """
    if mode == "published":
        if sample_rate > PUBLISHED_MAX_RATE:
            raise DataError(
                f"{sample_rate} Hz: the published analysis works up to {PUBLISHED_MAX_RATE} Hz; use the corrected mode"
            )
        return AnalysisSettings(mode, sample_rate, PUBLISHED_FFT_SIZE, PUBLISHED_ALPHA, 0, True, "fastdtw, radius 1")
    if mode != "corrected":
        raise DataError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    fft_size = int(_world().get_cheaptrick_fft_size(sample_rate, min(f0_min, 71.0)))
    return AnalysisSettings(mode, sample_rate, fft_size, float(_sptk().util.mcepalpha(sample_rate)), 1, False, "exact")


def to_common_rate(
    converted: Wave, converted_rate: int, target: Wave, target_rate: int, *, mode: Mode = "published"
) -> tuple[Wave, Wave, int]:
    """Both signals at one sample rate.

    ``published`` brings the converted signal to the target's rate, with torchaudio's default sinc filter.
    ``corrected`` brings both to the lower of the two rates with soxr, because an upsampled signal has an empty upper
    band that would count as distortion.
    """
    if converted_rate == target_rate:
        return converted, target, target_rate
    if mode == "published":
        return resample_published(converted, converted_rate, target_rate), target, target_rate
    rate = min(converted_rate, target_rate)
    return resample(converted, converted_rate, rate), resample(target, target_rate, rate), rate


def resample_published(wave: Wave, sample_rate: int, new_rate: int) -> Wave:
    """Resample as torchaudio does by default: a sinc of 6 zero crossings under a Hann window, at 99 % of the band.

    Written out here because torchaudio cannot be imported beside every release of torch.

    Returns:
        (ceil(n * new_rate / sample_rate),) float32
    """
    if sample_rate == new_rate:
        return wave
    divisor = math.gcd(sample_rate, new_rate)
    old, new = sample_rate // divisor, new_rate // divisor
    cutoff = min(old, new) * RESAMPLE_ROLLOFF
    width = math.ceil(RESAMPLE_ZEROS * old / cutoff)
    # One filter per output phase, over the input samples of one period and `width` on either side.
    delay = np.arange(-width, width + old) / old - np.arange(new)[:, None] / new
    zeros = np.clip(delay * cutoff, -RESAMPLE_ZEROS, RESAMPLE_ZEROS)
    filters = np.sinc(zeros) * np.cos(zeros * np.pi / RESAMPLE_ZEROS / 2) ** 2 * (cutoff / old)  # (new, old + 2 width)
    padded = np.pad(np.asarray(wave, dtype=np.float64), (width, width + old))
    periods = np.lib.stride_tricks.sliding_window_view(padded, old + 2 * width)[::old]
    return (periods @ filters.T).ravel()[: math.ceil(new * len(wave) / old)].astype(np.float32)


def relative_power(envelope: FloatArray) -> FloatArray:
    """Power of each frame in dB relative to the mean over frames; (T, bins) power envelope -> (T,)."""
    power = envelope[:, 0] + envelope[:, -1] + 2.0 * envelope[:, 1:-1].sum(axis=1)
    return np.asarray(10.0 * np.log10(power / power.mean()), dtype=np.float64)


def mel_cepstrum(envelope: FloatArray, order: int, alpha: float) -> FloatArray:
    """Mel-cepstrum of a power envelope (SPTK's ``sp2mc``).

    Args:
        envelope: (T, n_fft // 2 + 1), power.

    Returns:
        (T, order + 1): cepstrum of the log amplitude, warped by the all-pass constant.
    """
    return np.asarray(_sptk().sp2mc(envelope, order, alpha), dtype=np.float64)


def trim_bounds(wave: Wave) -> tuple[int, int]:
    """First and one-past-last sample between leading and trailing silence, by the defaults of librosa's trimming.

    Silence is what lies 60 dB below the loudest frame; a signal without any sound is kept whole.
    """
    from librosa.effects import trim

    if not np.any(wave):
        return 0, len(wave)
    start, end = trim(wave)[1]
    return int(start), int(end)


def voiced_f0(wave: Wave, sample_rate: int, *, f0_min: float = 50.0, f0_max: float = 800.0) -> FloatArray:
    """F0 of the voiced frames with a quick estimator (WORLD's DIO), for statistics: (V,) in Hz."""
    samples = np.ascontiguousarray(_checked(wave), dtype=np.float64)
    f0, _ = _world().dio(samples, sample_rate, f0_floor=f0_min, f0_ceil=f0_max, frame_period=FRAME_PERIOD)
    return np.asarray(f0[f0 > 0], dtype=np.float64)


def estimate_f0_range(values: Iterable[FloatArray], origin: str = "estimated") -> F0Range:
    """Search range from F0 values found in a wide range.

    One octave below the first quartile to one octave above the third, rounded outwards to 10 Hz and kept within
    40-800 Hz. Quartiles are not moved by the octave errors that a plain minimum and maximum would keep; the octave on
    either side leaves room for expressive speech and for a conversion that misses the target's register, whose F0
    would otherwise be taken for a harmonic inside the range.

    Raises:
        DataError: no voiced frames at all.
    """
    voiced = np.concatenate([np.zeros(0), *values])
    if not len(voiced):
        raise DataError("no voiced frames in the target recordings to estimate the F0 range from; give it yourself")
    first, third = np.percentile(voiced, [25, 75])
    low = max(40.0, 10.0 * math.floor(0.5 * first / 10.0))
    return F0Range(low, min(800.0, 10.0 * math.ceil(2.0 * third / 10.0)), origin)


def recipe_f0_range(speaker: str) -> F0Range | None:
    """The recipe's range for one of its speakers; None for anybody else."""
    found = RECIPE_F0_RANGES.get(speaker.lower())
    return None if found is None else F0Range(*found, origin=f"recipe's range for {speaker.lower()}")


def summarise(values: Sequence[float], *, seed: int = 0, n_resamples: int = 2000) -> Summary:
    """Mean of the defined values and the 2.5 and 97.5 percentiles of resampled means.

    The result does not depend on the order of the values: they are sorted before resampling.
    """
    every = np.asarray(values, dtype=np.float64)
    defined = np.sort(every[np.isfinite(every)])
    n, n_undefined = len(defined), len(every) - int(np.isfinite(every).sum())
    if not n:
        return Summary(math.nan, math.nan, math.nan, 0, n_undefined)
    mean = float(defined.mean())
    if n == 1:
        return Summary(mean, math.nan, math.nan, 1, n_undefined)
    generator = np.random.default_rng(seed)
    means = np.array([defined[generator.integers(0, n, n)].mean() for _ in range(n_resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Summary(mean, float(low), float(high), n, n_undefined)


def summarise_scores(scores: Sequence[PairScores], *, seed: int = 0) -> dict[str, Summary]:
    """A summary per measure, by its name in :data:`MEASURES`."""
    return {m.name: summarise([getattr(score, m.field) for score in scores], seed=seed) for m in MEASURES}


def describe(mode: Mode) -> str:
    """One line for tables and reports that says which definition the numbers follow."""
    if mode == "published":
        return "published definition: FFT 1024, alpha 0.466, c0 included, FastDTW"
    return "corrected definition: FFT size and alpha by sample rate, c0 left out, exact DTW"


def _common_settings(converted: Analysis, target: Analysis) -> AnalysisSettings:
    if converted.settings != target.settings:
        raise ValueError(f"analyses differ: {converted.settings} and {target.settings}")
    return converted.settings


def _path(analysis: Analysis, target_frames: FloatArray, converted_frames: FloatArray) -> npt.NDArray[np.int64]:
    """Indices into target and converted frames. The recipe puts the target first, which decides its ties."""
    from aasvc_cli import dtw  # numba: about a second that nobody else should pay

    if analysis.settings.mode == "published":
        return dtw.fast_path(target_frames, converted_frames, radius=1)
    return dtw.exact_path(target_frames, converted_frames)


def _published_high_pass(wave: Wave, sample_rate: int) -> FloatArray:
    """The recipe's causal FIR filter, which at 48 kHz is too short to do more than tilt the spectrum."""
    from scipy.signal import firwin, lfilter

    taps = firwin(PUBLISHED_HIGH_PASS_TAPS, PUBLISHED_HIGH_PASS_HZ / (sample_rate // 2), pass_zero=False)
    return np.asarray(lfilter(taps, 1, wave), dtype=np.float64)


def _checked(wave: Wave) -> Wave:
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise DataError(f"expected one channel of samples, found an array of shape {wave.shape}")
    if not len(wave):
        raise DataError("no samples to analyse")
    if not np.isfinite(wave).all():
        raise DataError("samples that are not numbers (NaN or infinite)")
    return wave


def _world() -> Any:
    """The package pyworld."""
    return _analysis_package("pyworld")


def _sptk() -> Any:
    """The package pysptk."""
    return _analysis_package("pysptk")


def _analysis_package(name: str) -> Any:
    """Import quietly: both packages warn about a deprecated way of reading their own version number."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"the scores need {name}, which does not load ({error}); run: pip install {name} 'setuptools<82'"
        ) from None
