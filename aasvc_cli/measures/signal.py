"""Signal measures of a conversion against the target speaker's own recording of the sentence.

MCD, F0RMSE, F0CORR, DDUR and global variance in two modes that are never mixed:

``published``
    The procedure of the AAS-VC recipe, number for number: 1024-point analysis and warping 0.466 at every sample rate,
    a short high-pass, the power coefficient c0 inside the distortion, and FastDTW. Scores of different sample rates
    cannot be compared with each other or with the literature.
``corrected``
    The same measures with an analysis that fits the sample rate, without c0 and without the high-pass, on exact DTW
    paths. Scores do not depend on the loudness of the recordings. Log-F0 error, voicing error and speaking rate, which
    the recipe does not have, come from this analysis.

Both take the F0 contour that the recipe finds (:func:`pitch`), because Harvest is most of the work.

All functions take arrays; nothing here touches files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.f0 import dio, frame_times, harvest
from aasvc_cli.audio.resampling import resample
from aasvc_cli.audio.world import FloatArray, Wave, checked_signal, spectral_envelope, sptk, world
from aasvc_cli.errors import DataError, MissingExtraError

Indices = npt.NDArray[np.int64]

Mode = Literal["published", "corrected"]
MODES: tuple[Mode, ...] = get_args(Mode)

ANALYSIS_VERSION = 2
"""Counts changes of the outcome of :func:`pitch` and :func:`analyse`; kept results of other versions are not used."""

BLOCK_FRAMES = 2048
"""Frames whose envelopes are in memory at once."""
MCEP_ORDER = 39
POWER_THRESHOLD = -20.0
"""Frames this many dB below the mean power of their recording do not count in the MCD."""
DECIBELS_PER_NEPER = 10.0 / math.log(10.0)
SEMITONES_PER_OCTAVE = 12.0

PUBLISHED_FFT_SIZE = 1024
PUBLISHED_ALPHA = 0.466
PUBLISHED_HIGH_PASS_HZ = 70.0
PUBLISHED_HIGH_PASS_TAPS = 255
PUBLISHED_HIGH_PASS_DELAY = (PUBLISHED_HIGH_PASS_TAPS - 1) // 2
"""Samples."""
PUBLISHED_MAX_RATE = 160_000
"""Above, three periods of the 500 Hz that CheapTrick assumes in unvoiced frames do not fit into 1024 samples, and
WORLD writes outside its buffers."""

USUAL_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates in Hz that a recording may have had before it was stored at a higher one."""
_BAND_MARGIN = 1.05
"""How far the slope of a filter reaches beyond half the sample rate that a recording had."""
_LEAST_OF_BAND = 0.8
"""What share of that half telephones and encoders leave; a sound that is merely dark ends anywhere."""

MAX_FILTER_TAPS = 4_000_000
"""Of the filter bank of the published resampling, whose size grows with both sample rates over their divisor."""

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
class PairScores:
    """The measures of one utterance in one mode. NaN: not defined, for instance F0 without voiced frames.

    Attributes:
        mcd: :func:`mel_cepstral_distortion` in dB.
        f0_rmse: :func:`f0_rmse` in Hz.
        f0_corr: :func:`f0_correlation`.
        ddur: :func:`duration_difference` in seconds.
        variance: :func:`global_variance` of the conversion alone, as published.
        variance_ratio: :func:`global_variance_ratio`.
        log_f0_rmse: :func:`log_f0_rmse` in semitones.
        voicing_error: :func:`voicing_error`, 0 to 1.
        speaking_rate: :func:`speaking_rate_ratio`.
    """

    mcd: float
    f0_rmse: float
    f0_corr: float
    ddur: float
    variance: float = math.nan
    variance_ratio: float = math.nan
    log_f0_rmse: float = math.nan
    voicing_error: float = math.nan
    speaking_rate: float = math.nan

    def named(self, mode: Mode) -> dict[str, float]:
        """Values by the names of :data:`aasvc_cli.measures.catalogue.MEASURES`.

        ``published`` has what the recipe has; ``corrected`` marks its version of that, and has the rest.
        """
        literature = {"MCD": self.mcd, "F0RMSE": self.f0_rmse, "F0CORR": self.f0_corr, "DDUR": self.ddur}
        if mode == "published":
            return literature | {"GV": self.variance}
        return {f"{name}_corrected": value for name, value in literature.items()} | {
            "GV_corrected": self.variance_ratio,
            "logF0RMSE": self.log_f0_rmse,
            "VUV": self.voicing_error,
            "RATE": self.speaking_rate,
        }


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
        silent: True if every sample is zero.
    """

    settings: AnalysisSettings
    f0: FloatArray
    mcep: FloatArray
    loud: npt.NDArray[np.bool_]
    trimmed_samples: int
    silent: bool = False


def score_pair(
    converted: Wave,
    converted_rate: int,
    target: Wave,
    target_rate: int,
    *,
    f0_min: float,
    f0_max: float,
    mode: Mode = "published",
    most_rate: int | None = None,
) -> PairScores:
    """All measures of one converted signal against the target recording.

    Args:
        converted, target: (n,), full scale at 1.0.
        f0_min, f0_max: F0 search range in Hz, used for both signals.
        most_rate: as for :func:`to_common_rate`.

    Raises:
        DataError: a signal that cannot be analysed.
    """
    converted, target, sample_rate = to_common_rate(
        converted, converted_rate, target, target_rate, mode=mode, most_rate=most_rate
    )
    return score_analyses(
        analyse(converted, sample_rate, f0_min=f0_min, f0_max=f0_max, mode=mode),
        analyse(target, sample_rate, f0_min=f0_min, f0_max=f0_max, mode=mode),
    )


def score_analyses(converted: Analysis, target: Analysis) -> PairScores:
    """All measures of two analysed signals."""
    pairs = aligned_f0(converted, target)
    path = aligned_loud_frames(converted, target)
    return PairScores(
        mcd=mel_cepstral_distortion(converted, target, path),
        f0_rmse=f0_rmse(pairs),
        f0_corr=f0_correlation(pairs),
        ddur=duration_difference(converted, target),
        variance=global_variance(converted),
        variance_ratio=global_variance_ratio(converted, target),
        log_f0_rmse=log_f0_rmse(pairs),
        voicing_error=voicing_error(converted, target, path),
        speaking_rate=speaking_rate_ratio(converted, target),
    )


def mel_cepstral_distortion(converted: Analysis, target: Analysis, path: Indices) -> float:
    """Mean along a path of ``10 / ln 10 * sqrt(2 * sum of squared differences)``, in dB.

    Kubichek, "Mel-cepstral distance measure for objective speech quality assessment" (1993).

    Args:
        path: (P, 2), see :func:`aligned_loud_frames`: only frames within 20 dB of the mean power count
    """
    if not len(path):
        return math.nan
    first = converted.settings.first_coefficient
    squares = np.square(target.mcep[path[:, 1], first:] - converted.mcep[path[:, 0], first:]).sum(axis=1)
    return float(np.mean(DECIBELS_PER_NEPER * np.sqrt(2.0 * squares)))


def voicing_error(converted: Analysis, target: Analysis, path: Indices) -> float:
    """Share of the frames along a path that are voiced on one side only.

    The usual V/UV error (for instance Hayashi et al., "ESPnet2-TTS", 2021), taken on loud frames: in silence there is
    nothing to voice, and counting it would reward recordings with long pauses.

    Args:
        path: (P, 2), see :func:`aligned_loud_frames`
    """
    if not len(path):
        return math.nan
    return float(np.mean((converted.f0[path[:, 0]] > 0) != (target.f0[path[:, 1]] > 0)))


def aligned_loud_frames(converted: Analysis, target: Analysis) -> Indices:
    """Frames of the converted and the target signal along an alignment of their loud frames: (P, 2)."""
    first = _common_settings(converted, target).first_coefficient
    path = _path(converted, target.mcep[target.loud, first:], converted.mcep[converted.loud, first:])
    return np.stack([np.flatnonzero(converted.loud)[path[:, 1]], np.flatnonzero(target.loud)[path[:, 0]]], axis=1)


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


def log_f0_rmse(pairs: FloatArray) -> float:
    """Root mean square of the F0 ratio in semitones (12 log2); NaN with fewer than two pairs.

    The error as an ear hears it: it does not grow with the pitch of the voice. One semitone is 0.0578 in natural
    logarithms, the unit of ESPnet's "log-F0 RMSE".
    """
    if len(pairs) < 2:
        return math.nan
    return float(SEMITONES_PER_OCTAVE * np.sqrt(np.mean(np.square(np.log2(pairs[:, 0] / pairs[:, 1])))))


def global_variance(analysis: Analysis) -> float:
    """The recipe's GV: mean over coefficients of ``|ln variance over loud frames|``, of the conversion alone.

    Named and kept as published. It grows when the variance shrinks, but depends on the speaker and on the loudness
    contour (c0 counts in the published mode); :func:`global_variance_ratio` is what can be read by itself.
    """
    variance = _variance(analysis)
    return math.nan if variance is None else float(np.mean(np.abs(np.log(variance))))


def global_variance_ratio(converted: Analysis, target: Analysis) -> float:
    """Mean over coefficients of ``ln(variance of the conversion / variance of the target)``, over loud frames.

    Global variance after Toda and Tokuda (2007): 0 is the target's liveliness, below is smoother ("muffled"), above
    rougher.
    """
    _common_settings(converted, target)
    variance, target_variance = _variance(converted), _variance(target)
    if variance is None or target_variance is None:
        return math.nan
    return float(np.mean(np.log(variance / target_variance)))


def speaking_rate_ratio(converted: Analysis, target: Analysis) -> float:
    """Speaking rate of the conversion divided by that of the target, pauses inside the sentence included.

    Both say the same sentence, so this is the target's duration divided by the conversion's, without leading and
    trailing silence. 1: as fast as the target; above 1: faster. NaN if either is silent.
    """
    _common_settings(converted, target)
    if converted.silent or target.silent:
        return math.nan
    return target.trimmed_samples / converted.trimmed_samples


def duration_difference(converted: Analysis, target: Analysis) -> float:
    """Absolute difference of the durations in seconds, without leading and trailing silence."""
    sample_rate = _common_settings(converted, target).sample_rate
    return abs(converted.trimmed_samples - target.trimmed_samples) / sample_rate


def pitch(wave: Wave, sample_rate: int, *, f0_min: float, f0_max: float) -> FloatArray:
    """F0 by Harvest of the high-passed signal, every 5 ms: (T,) Hz, 0 where unvoiced. Both modes use it.

    Raises:
        DataError: a signal, sample rate or search range that cannot be analysed.
    """
    return harvest(_published_signal(wave, sample_rate), sample_rate, f0_min=f0_min, f0_max=f0_max)


def analyse(
    wave: Wave,
    sample_rate: int,
    *,
    f0_min: float,
    f0_max: float,
    mode: Mode = "published",
    f0: FloatArray | None = None,
) -> Analysis:
    """F0, envelope (CheapTrick) and mel-cepstrum of one signal, every 5 ms.

    Args:
        wave: (n,), full scale at 1.0.
        f0: (T,) of :func:`pitch`, where it is known already.

    Raises:
        DataError: no samples, samples that are not finite, or a sample rate or F0 range that cannot be analysed.
    """
    settings = settings_for(mode, sample_rate, f0_min)
    if f0 is None:
        f0 = pitch(wave, sample_rate, f0_min=f0_min, f0_max=f0_max)
    times = frame_times(len(f0))
    if settings.high_pass:
        signal = _published_signal(wave, sample_rate)
    else:
        signal = checked_signal(wave, sample_rate) * 32768.0
        times = times - PUBLISHED_HIGH_PASS_DELAY / sample_rate  # where the F0 of each frame was found
    mcep, power = [], []
    for start in range(0, len(f0), BLOCK_FRAMES):
        frames = slice(start, start + BLOCK_FRAMES)
        spectrum = spectral_envelope(signal, f0[frames], times[frames], sample_rate, fft_size=settings.fft_size)
        mcep.append(mel_cepstrum(np.log(spectrum), MCEP_ORDER, settings.alpha))
        power.append(frame_power(spectrum))
    start, end = trim_bounds(wave)
    return Analysis(
        settings=settings,
        f0=f0,
        mcep=np.concatenate(mcep),
        loud=relative_level(np.concatenate(power)) > POWER_THRESHOLD,
        trimmed_samples=end - start,
        silent=not np.any(wave),
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
    fft_size = int(world().get_cheaptrick_fft_size(sample_rate, min(f0_min, 71.0)))
    return AnalysisSettings(mode, sample_rate, fft_size, _alpha(sample_rate), 1, False, "exact")


def to_common_rate(
    converted: Wave,
    converted_rate: int,
    target: Wave,
    target_rate: int,
    *,
    mode: Mode = "published",
    most_rate: int | None = None,
) -> tuple[Wave, Wave, int]:
    """Both signals at one sample rate.

    ``published`` brings the converted signal to the target's rate, with torchaudio's default sinc filter.
    ``corrected`` brings both to the lower of the two rates with soxr, because an upsampled signal has an empty upper
    band that would count as distortion.

    Args:
        most_rate: the :func:`rate_before` of the targets, which bounds the rate of the corrected mode in the same way
    """
    if mode == "published":
        return resample_published(converted, converted_rate, target_rate), target, target_rate
    rate = min(converted_rate, target_rate, most_rate or target_rate)
    return resample(converted, converted_rate, rate), resample(target, target_rate, rate), rate


def rate_before(bandwidth: float, sample_rate: int) -> int | None:
    """The sample rate that recordings had before they were stored at a higher one, in Hz; None if it is their own.

    Args:
        bandwidth: the highest frequency in Hz at which any of them has sound, see
            :func:`aasvc_cli.audio.quality.bandwidth`
    """
    for rate in USUAL_RATES:
        if rate > sample_rate / _BAND_MARGIN:
            return None
        if _LEAST_OF_BAND <= bandwidth / (rate / 2) <= _BAND_MARGIN:
            return rate
    return None


def resample_published(wave: Wave, sample_rate: int, new_rate: int) -> Wave:
    """Resample by torchaudio's default, a windowed sinc of 6 zero crossings at 99 % of the band.

    Returns:
        (ceil(n * new_rate / sample_rate),) float32

    Raises:
        DataError: the two sample rates have hardly a common divisor, so that the filters would take gigabytes.
        MissingExtraError: torchaudio does not load, as beside a torch of another release.
    """
    if sample_rate == new_rate:
        return wave
    divisor = math.gcd(sample_rate, new_rate)
    taps = (sample_rate // divisor) * (new_rate // divisor)
    if taps > MAX_FILTER_TAPS:
        raise DataError(
            f"{sample_rate} Hz to {new_rate} Hz: the published resampling needs sample rates with a common divisor, "
            "such as 48000 and 24000; resample the recordings, or use the corrected definition"
        )
    import torch

    try:
        from torchaudio.functional import resample as sinc_resample
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingExtraError(
            f"{sample_rate} Hz to {new_rate} Hz: the published resampling needs torchaudio, which does not load "
            f"({reason}); run: pip install torchaudio, or use the corrected definition"
        ) from None
    samples = torch.from_numpy(np.array(wave, dtype=np.float32))
    return np.asarray(sinc_resample(samples, sample_rate, new_rate).numpy())


def frame_power(envelope: FloatArray) -> FloatArray:
    """Power of each frame; (T, bins) power envelope -> (T,)."""
    return np.asarray(envelope[:, 0] + envelope[:, -1] + 2.0 * envelope[:, 1:-1].sum(axis=1))


def relative_level(power: FloatArray) -> FloatArray:
    """Power of each frame in dB relative to the mean over frames: (T,) -> (T,)."""
    return np.asarray(10.0 * np.log10(power / power.mean()))


def mel_cepstrum(log_envelope: FloatArray, order: int, alpha: float) -> FloatArray:
    """Mel-cepstrum of the logarithm of a power envelope (SPTK's ``sp2mc``, up to rounding).

    The mel-cepstrum is linear in the log spectrum, so that one matrix serves every frame.

    Args:
        log_envelope: (T, n_fft // 2 + 1), natural logarithm of power.

    Returns:
        (T, order + 1): cepstrum of the log amplitude, warped by the all-pass constant.
    """
    return log_envelope @ _mel_cepstrum_matrix(log_envelope.shape[1], order, alpha)


def trim_bounds(wave: Wave) -> tuple[int, int]:
    """First and one-past-last sample between leading and trailing silence, 60 dB below the loudest frame (librosa).

    A signal without any sound is kept whole.
    """
    from librosa.effects import trim

    _, (start, end) = trim(wave)
    return int(start), int(end)


def voiced_f0(wave: Wave, sample_rate: int, *, f0_min: float = 50.0, f0_max: float = 800.0) -> FloatArray:
    """F0 of the voiced frames with the quick estimator, for statistics: (V,) in Hz."""
    f0 = dio(wave, sample_rate, f0_min=f0_min, f0_max=min(f0_max, 0.49 * sample_rate))
    return f0[f0 > 0]


def estimate_f0_range(values: Iterable[FloatArray], origin: str = "estimated") -> F0Range:
    """Search range from F0 values found in a wide range.

    From 0.75 times the first quartile to 1.5 times the third (De Looze and Hirst, Detecting changes in key and range
    for the automatic modelling and coding of intonation, Speech Prosody 2008), rounded outwards to 10 Hz and kept
    within 40-800 Hz. Quartiles are not moved by octave errors, and the octaves below and above what is usual are left
    out, where an estimator errs most: with them, F0 of a recording hardly agrees with F0 of the same recording a few
    milliseconds later.

    Raises:
        DataError: no voiced frames at all.
    """
    voiced = np.concatenate([np.zeros(0), *values])
    if not len(voiced):
        raise DataError(
            "no voiced frames in the target recordings to estimate the F0 range from; expected speech, or a range by "
            "--f0-min and --f0-max"
        )
    first, third = np.percentile(voiced, [25, 75])
    low = max(40.0, 10.0 * math.floor(0.75 * first / 10.0))
    return F0Range(low, min(800.0, 10.0 * math.ceil(1.5 * third / 10.0)), origin)


def recipe_f0_range(speaker: str) -> F0Range | None:
    """The recipe's range for one of its speakers; None for others."""
    bounds = RECIPE_F0_RANGES.get(speaker.lower())
    return None if bounds is None else F0Range(*bounds, origin=f"recipe's range for {speaker.lower()}")


def describe(mode: Mode) -> str:
    """One line for tables and reports that says which definition the numbers follow."""
    if mode == "published":
        return "published definition: FFT 1024, alpha 0.466, c0 included, FastDTW"
    return "corrected definition: FFT size and alpha by sample rate, c0 left out, exact DTW"


def _variance(analysis: Analysis) -> FloatArray | None:
    """Variance over loud frames of each coefficient that counts; None where one does not vary, as without sound."""
    loud = analysis.mcep[analysis.loud, analysis.settings.first_coefficient :]
    if len(loud) < 2 or analysis.silent:
        return None
    variance = np.asarray(loud.var(axis=0), dtype=np.float64)
    return variance if variance.all() else None


@lru_cache(maxsize=8)
def _mel_cepstrum_matrix(n_bins: int, order: int, alpha: float) -> FloatArray:
    """(bins, order + 1): what SPTK's inverse transform and ``freqt`` make of one in each bin and zero elsewhere.

    A coefficient of the warped cepstrum weighs those of the cepstrum by powers of the all-pass filter, one after the
    other (Oppenheim and Johnson, "Discrete representation of signals", 1972).
    """
    from scipy.signal import lfilter

    n_fft = 2 * (n_bins - 1)
    rows = np.zeros((order + 1, n_fft))
    rows[0] = lfilter([1.0], [1.0, -alpha], np.eye(1, n_fft)[0])
    rows[1:2] = lfilter([0.0, 1.0 - alpha**2], [1.0, -alpha], rows[:1])
    for index in range(2, order + 1):
        rows[index] = lfilter([-alpha, 1.0], [1.0, -alpha], rows[index - 1])
    rows[:, 0] /= 2.0  # amplitude, not power
    matrix = np.fft.rfft(rows).real.T / n_fft
    matrix[1:-1] *= 2.0  # these bins stand for their mirror images, too
    return matrix


@lru_cache(maxsize=8)
def _alpha(sample_rate: int) -> float:
    """The all-pass constant that comes nearest to the mel scale."""
    return float(sptk().util.mcepalpha(sample_rate))


def _common_settings(converted: Analysis, target: Analysis) -> AnalysisSettings:
    if converted.settings != target.settings:
        raise ValueError(f"analyses differ: {converted.settings} and {target.settings}")
    return converted.settings


def _path(analysis: Analysis, target_frames: FloatArray, converted_frames: FloatArray) -> Indices:
    """Indices into target and converted frames. The recipe puts the target first, which decides its ties."""
    from aasvc_cli.audio import dtw

    if analysis.settings.mode == "published":
        return dtw.fast_path(target_frames, converted_frames, radius=1)
    return dtw.exact_path(target_frames, converted_frames)


def _published_signal(wave: Wave, sample_rate: int) -> FloatArray:
    """The recipe's input of the analysis: scaled in float32, and high-passed."""
    checked = checked_signal(wave, sample_rate)
    scaled = (checked.astype(np.float32) * np.float32(32767)).astype(np.float64)
    return np.ascontiguousarray(_published_high_pass(scaled, sample_rate))


def _published_high_pass(wave: FloatArray, sample_rate: int) -> FloatArray:
    """The recipe's causal FIR filter, which at 48 kHz is too short to do more than tilt the spectrum."""
    return np.convolve(_published_taps(sample_rate), wave)[: len(wave)]


@lru_cache(maxsize=8)
def _published_taps(sample_rate: int) -> FloatArray:
    """A sinc under a Hamming window, with gain 1 at half the sample rate."""
    cutoff = PUBLISHED_HIGH_PASS_HZ / (sample_rate // 2)
    offsets = np.arange(PUBLISHED_HIGH_PASS_TAPS) - PUBLISHED_HIGH_PASS_DELAY
    taps = (np.sinc(offsets) - cutoff * np.sinc(cutoff * offsets)) * np.hamming(PUBLISHED_HIGH_PASS_TAPS)
    return np.asarray(taps / np.sum(taps * np.cos(np.pi * offsets)))
