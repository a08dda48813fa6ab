"""Acoustic features of one recording, and their mean and scale.

Arrays in, arrays out: nothing here opens a file. Every feature of a recording has the same number of frames,
``1 + n_samples // hop_length``, so that any of them can stand on any side of the model.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.config import FeatureConfig, MelConfig
from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.likeness import Likeness

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

LOG_FLOOR = 1e-10
"""Smallest mel magnitude; the logarithm of digital silence is that of this value."""

_POWER_FLOOR = 1e-12
"""Added to WORLD's power envelope (about -120 dB of a full-scale signal), which is all but zero in digital silence."""

_BLOCK_FRAMES = 64
"""Frames analysed at a time, so that the spectra of one block stay in the processor's cache."""


def n_frames(n_samples: int, hop_length: int) -> int:
    """Frames of any feature of a recording with that many samples."""
    return 1 + n_samples // hop_length


def resample(wave: Array, sample_rate: int, new_rate: int) -> Array:
    """A recording at another sample rate, by soxr's high quality: (n,) -> (ceil(n * new_rate / sample_rate),)."""
    if sample_rate == new_rate:
        return wave
    import soxr

    length = math.ceil(len(wave) * new_rate / sample_rate)
    resampled = soxr.resample(wave, sample_rate, new_rate, quality="HQ")
    # soxr may be a sample off at the end
    return np.asarray(np.pad(resampled[:length], (0, max(0, length - len(resampled)))), dtype=np.float32)


def log_mel(wave: Array, config: MelConfig) -> Array:
    """Log-mel magnitude spectrogram, as the published recipe computes it (with librosa, to which it is equal).

    A centred short-time spectrum with reflect padding and a periodic Hann window (zero-padded to ``n_fft`` if shorter),
    magnitudes through Slaney's mel filters, floor at 1e-10, logarithm. A recording that is shorter than the padding is
    reflected as often as needed.

    Args:
        wave: (n,) float32 at ``config.sample_rate``

    Returns:
        (T, n_mels) float32 with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all.
    """
    signal = _checked(wave)
    half = config.n_fft // 2
    padded = np.pad(signal, half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft)[:: config.hop_length]
    window, basis = _hann(config.n_fft, config.win_length or config.n_fft), _basis(config)
    mel = np.empty((len(frames), config.n_mels), dtype=np.float32)
    # Bands without energy (above the bandwidth of an upsampled recording) lie below the rounding noise of a transform
    # in float32, so windowing and transform are in float64; the rest need not be.
    windowed = np.empty((_BLOCK_FRAMES, config.n_fft))
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        np.multiply(block, window, out=windowed[: len(block)])
        magnitude = np.abs(np.fft.rfft(windowed[: len(block)], axis=1).astype(np.complex64))  # (t, n_fft // 2 + 1)
        np.matmul(magnitude, basis, out=mel[start : start + len(block)])
    np.maximum(mel, np.float32(LOG_FLOOR), out=mel)
    if config.log_base == 10.0:
        return np.log10(mel, out=mel)
    if config.log_base == 2.0:
        return np.log2(mel, out=mel)
    np.log(mel, out=mel)
    return mel if config.log_base is None else mel / np.float32(np.log(config.log_base))


def mel_centres(config: MelConfig) -> Array64:
    """Centre frequencies of the mel bands in Hz: (n_mels,), rising."""
    return _mel_corners(config)[1:-1]


def mel_basis(config: MelConfig) -> Array:
    """Slaney's mel filters with unit area, as librosa's defaults: (n_mels, 1 + n_fft // 2) float32.

    Malcolm Slaney, Auditory Toolbox (1998): triangles whose corners are linear in frequency up to 1 kHz (200/3 Hz per
    mel) and logarithmic above (27 steps for a factor of 6.4).
    """
    corners = _mel_corners(config)
    bins = np.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return (np.maximum(triangles, 0.0) * (2.0 / (high - low))).astype(np.float32)


def mcep(wave: Array, config: FeatureConfig) -> Array:
    """Mel-cepstrum of WORLD's spectral envelope, at the frame times of :func:`log_mel`.

    F0 by DIO and StoneMask, envelope by CheapTrick with the FFT size that the lowest F0 needs at this sample rate, and
    frequency warping that follows the mel scale at this sample rate.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``

    Returns:
        (T, order + 1) float32, c0 first, with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all.
        MissingExtraError: pyworld or pysptk cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both import pkg_resources, which says that it is deprecated
            import pysptk
            import pyworld
    except ImportError as error:
        raise MissingExtraError(
            f"the feature mcep needs pyworld and pysptk ({error}); run: pip install pyworld pysptk 'setuptools<82'"
        ) from None
    sample_rate, hop_length, settings = config.mel.sample_rate, config.mel.hop_length, config.mcep
    signal = _checked(wave).astype(np.float64)
    count = n_frames(len(signal), hop_length)
    f0_ceil = min(settings.f0_ceil, sample_rate / 2 - 1)
    rough, times = pyworld.dio(
        signal, sample_rate, f0_floor=settings.f0_floor, f0_ceil=f0_ceil, frame_period=1000 * hop_length / sample_rate
    )
    # WORLD counts frames in floating point, so it may be one off at either side
    f0, exact_times = np.zeros(count), np.arange(count) * (hop_length / sample_rate)
    shared = min(count, len(rough))
    f0[:shared] = pyworld.stonemask(signal, rough, times, sample_rate)[:shared]
    fft_size = pyworld.get_cheaptrick_fft_size(sample_rate, settings.f0_floor)
    envelope = pyworld.cheaptrick(
        signal, f0, exact_times, sample_rate, f0_floor=settings.f0_floor, fft_size=fft_size
    )  # (T, fft_size // 2 + 1), power
    cepstrum = pysptk.sp2mc(envelope + _POWER_FLOOR, settings.order, pysptk.util.mcepalpha(sample_rate))
    return np.ascontiguousarray(cepstrum, dtype=np.float32)


def f0(wave: Array, config: FeatureConfig) -> Array:
    """Fundamental frequency at the frame times of :func:`log_mel`, by Harvest.

    Harvest also follows the pitch where a voice fades in and out, which DIO does not.

    Args:
        wave: (n,) float32 at ``config.mel.sample_rate``

    Returns:
        (T, 1) float32 in Hz, 0 where unvoiced, with T = 1 + n // hop_length

    Raises:
        DataError: no samples at all.
    """
    from aasvc_cli.harvest import harvest

    signal, settings, mel = _checked(wave).astype(np.float64), config.mcep, config.mel
    found, _ = harvest(
        signal,
        mel.sample_rate,
        f0_min=settings.f0_floor,
        f0_max=min(settings.f0_ceil, mel.sample_rate / 2 - 1),
        frame_period=1000 * mel.hop_length / mel.sample_rate,
    )
    # frames are counted in floating point there, so it may be one off at the end
    result = np.zeros(n_frames(len(signal), mel.hop_length), dtype=np.float32)
    shared = min(len(result), len(found))
    result[:shared] = found[:shared]
    return result[:, None]


@dataclass(frozen=True)
class FeatureSpec:
    """How one kind of feature is computed, and which settings decide its values."""

    compute: Callable[[Array, FeatureConfig], Array]
    settings: Callable[[FeatureConfig], Mapping[str, Any]]
    version: int = 1
    """Counted up when the values change under the same settings."""


def _mel_settings(config: FeatureConfig) -> dict[str, Any]:
    mel = config.mel
    return asdict(mel) | {
        "win_length": mel.win_length or mel.n_fft,
        "fmax": mel.fmax if mel.fmax is not None else mel.sample_rate / 2,
    }


def _mcep_settings(config: FeatureConfig) -> dict[str, Any]:
    return asdict(config.mcep) | {"sample_rate": config.mel.sample_rate, "hop_length": config.mel.hop_length}


FEATURES: dict[str, FeatureSpec] = {
    "mel": FeatureSpec(lambda wave, config: log_mel(wave, config.mel), _mel_settings),
    "mcep": FeatureSpec(mcep, _mcep_settings),
    "f0": FeatureSpec(f0, _mcep_settings),
}
"""All kinds of features. A new kind is one more entry."""


def extract(kind: str, wave: Array, config: FeatureConfig) -> Array:
    """One feature of a recording at ``config.mel.sample_rate``: (n,) -> (T, D) float32."""
    return FEATURES[kind].compute(wave, config)


def feature_key(kind: str, config: FeatureConfig) -> str:
    """12 hexadecimal digits of everything that decides the values of a feature.

    Settings that mean the same (``fmax: null`` and half the sample rate) have the same key.
    """
    spec = FEATURES[kind]
    told = json.dumps({"kind": kind, "version": spec.version} | dict(spec.settings(config)), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Mean and scale per dimension of one feature.

    Attributes:
        mean: (D,) float32
        scale: (D,) float32, square root of the population variance; 1 where a dimension is constant
        n_frames: how many frames they were computed from
        low, high: (D,) float32, least and largest value seen; None where only mean and scale are known
        likeness: what its recordings have in common; None where that is not known
    """

    mean: Array
    scale: Array
    n_frames: int
    low: Array | None = None
    high: Array | None = None
    likeness: Likeness | None = None

    def normalise(self, feature: Array) -> Array:
        """(..., D) -> (..., D): zero mean and unit variance per dimension."""
        return (feature - self.mean) / self.scale

    def denormalise(self, feature: Array) -> Array:
        """(..., D) -> (..., D): the inverse of :meth:`normalise`."""
        return feature * self.scale + self.mean

    def limit(self, feature: Array) -> Array:
        """(..., D) -> (..., D): values that the speaker never reached are brought back to those he did."""
        return feature if self.low is None or self.high is None else np.clip(feature, self.low, self.high)

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; every float32 comes back exactly."""
        tree: dict[str, Any] = {"n_frames": self.n_frames, "mean": self.mean.tolist(), "scale": self.scale.tolist()}
        if self.low is not None and self.high is not None:
            tree |= {"low": self.low.tolist(), "high": self.high.tolist()}
        if self.likeness is not None:
            tree["likeness"] = self.likeness.to_tree()
        return tree

    @classmethod
    def from_tree(cls, tree: Any, origin: str) -> FeatureStats:
        """The inverse of :meth:`to_tree`; raises DataError that names ``origin``."""
        try:
            mean, scale = (np.asarray(tree[name], dtype=np.float32) for name in ("mean", "scale"))
            count = int(tree["n_frames"])
            known = "low" in tree and "high" in tree
            low, high = (np.asarray(tree[name], dtype=np.float32) if known else None for name in ("low", "high"))
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{origin}: expected n_frames and equally long lists mean and scale") from None
        if mean.ndim != 1 or mean.shape != scale.shape or not len(mean):
            raise DataError(f"{origin}: mean {mean.shape} and scale {scale.shape} must be equally long lists")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise DataError(f"{origin}: mean and scale must be finite numbers, and scale above zero")
        for bound in (low, high):
            if bound is not None and (bound.shape != mean.shape or not np.isfinite(bound).all()):
                raise DataError(f"{origin}: low and high must be lists of {len(mean)} finite numbers, as mean is")
        likeness = Likeness.from_tree(tree["likeness"], len(mean), origin) if "likeness" in tree else None
        return cls(mean, scale, count, low, high, likeness)


class RunningStats:
    """Mean and variance of frames that arrive in pieces.

    Pieces are merged by their own mean and sum of squared deviations (Chan, Golub and LeVeque, 1983), in float64: no
    sum of raw squares, hence nothing cancels however many frames there are or however far from zero they lie.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._count = 0
        self._mean: Array64 | None = None
        self._squares: Array64 | None = None
        self._low: Array64 | None = None
        self._high: Array64 | None = None

    @property
    def n_frames(self) -> int:
        """Frames seen so far."""
        return self._count

    def update(self, frames: npt.NDArray[np.floating[Any]]) -> None:
        """Add frames: (T, D)."""
        if not len(frames):
            return
        values = frames.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        # the mean itself is rounded; its error, found as the mean of what is left, is put right
        rest = values.mean(axis=0)
        squares = np.einsum("td,td->d", values, values) - len(values) * rest * rest
        self._absorb(len(values), mean + rest, squares)
        self._widen(frames.min(axis=0).astype(np.float64), frames.max(axis=0).astype(np.float64))

    def merge(self, other: RunningStats) -> None:
        """Add all frames that another one has seen."""
        if other._mean is not None and other._squares is not None:
            self._absorb(other._count, other._mean, other._squares)
        if other._low is not None and other._high is not None:
            self._widen(other._low, other._high)

    def result(self) -> FeatureStats:
        """Mean, scale and range of everything seen; raises DataError if nothing was."""
        if self._mean is None or self._squares is None or self._low is None or self._high is None:
            raise DataError("no frames to compute statistics from")
        variance = np.maximum(self._squares / self._count, 0.0)
        # below this, what looks like variance is the rounding of a constant
        epsilon = np.finfo(np.float64).eps
        noise = self._count * epsilon * variance + (self._count * epsilon * self._mean) ** 2
        scale = np.where(variance <= noise, 1.0, np.sqrt(variance)).astype(np.float32)
        scale[scale == 0.0] = 1.0
        low, high = self._low.astype(np.float32), self._high.astype(np.float32)
        return FeatureStats(self._mean.astype(np.float32), scale, self._count, low, high)

    def _widen(self, low: Array64, high: Array64) -> None:
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)

    def _absorb(self, count: int, mean: Array64, squares: Array64) -> None:
        if self._mean is None or self._squares is None:
            self._count, self._mean, self._squares = count, mean.copy(), squares.copy()
            return
        if mean.shape != self._mean.shape:
            raise DataError(f"features of {len(mean)} dimensions cannot join others of {len(self._mean)}")
        total = self._count + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._squares = self._squares + squares + difference * difference * (self._count * (count / total))
        self._count = total


@dataclass(frozen=True, eq=False)
class NormStats:
    """The statistics that one model normalises its three features with.

    Attributes:
        kinds: kind of feature (``mel``, ...) of ``source``, ``target`` and ``duration``
        keys: :func:`feature_key` of the same three
        origin: the data or model they come from
    """

    source: FeatureStats
    target: FeatureStats
    duration: FeatureStats
    kinds: Mapping[str, str]
    keys: Mapping[str, str]
    origin: str

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        sides = {"source": self.source, "target": self.target, "duration": self.duration}
        return {
            "origin": self.origin,
            **{side: {"kind": self.kinds[side], "key": self.keys[side]} | sides[side].to_tree() for side in SIDES},
        }

    @classmethod
    def from_tree(cls, tree: Any, origin: str) -> NormStats:
        """The inverse of :meth:`to_tree`.

        Args:
            origin: names the file in errors; what the statistics come from is kept in the tree.

        Raises:
            DataError: something is missing or impossible.
        """
        try:
            kinds = {side: str(tree[side]["kind"]) for side in SIDES}
            keys = {side: str(tree[side]["key"]) for side in SIDES}
        except (KeyError, TypeError):
            raise DataError(
                f"{origin}: expected statistics of source, target and duration with kind and key; run: aasvc stats"
            ) from None
        source, target, duration = (FeatureStats.from_tree(tree[side], f"{origin}: {side}") for side in SIDES)
        return cls(source, target, duration, kinds, keys, str(tree.get("origin", origin)))


SIDES = ("source", "target", "duration")
"""The three inputs that a model normalises."""


def feature_keys(config: FeatureConfig) -> dict[str, str]:
    """:func:`feature_key` of the features on the three sides of a model."""
    return {side: feature_key(getattr(config, side), config) for side in SIDES}


def _checked(wave: Array) -> Array:
    if wave.ndim != 1:
        raise ValueError(f"expected mono samples (n,), got {wave.shape}")
    if not len(wave):
        raise DataError("a recording without samples has no features")
    return np.asarray(wave, dtype=np.float32)


@lru_cache(maxsize=8)
def _hann(n_fft: int, win_length: int) -> Array64:
    """Periodic Hann window in the middle of ``n_fft`` samples; read-only."""
    window = np.zeros(n_fft)
    left = (n_fft - win_length) // 2
    window[left : left + win_length] = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(win_length) / win_length)
    window.flags.writeable = False
    return window


@lru_cache(maxsize=8)
def _basis(config: MelConfig) -> Array:
    """:func:`mel_basis` transposed for the product with (T, n_fft // 2 + 1); read-only."""
    basis = np.ascontiguousarray(mel_basis(config).T)
    basis.flags.writeable = False
    return basis


_LINEAR_HERTZ = 200.0 / 3.0
_BREAK_HERTZ = 1000.0
_BREAK_MEL = _BREAK_HERTZ / _LINEAR_HERTZ
_LOG_STEP = np.log(6.4) / 27.0


def _mel_corners(config: MelConfig) -> Array64:
    """(n_mels + 2,): where each triangle begins, peaks and ends is three neighbours."""
    top = config.fmax if config.fmax is not None else config.sample_rate / 2
    return _mel_to_hertz(np.linspace(_hertz_to_mel(config.fmin), _hertz_to_mel(top), config.n_mels + 2))


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _LINEAR_HERTZ
    return float(_BREAK_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP)


def _mel_to_hertz(mel: Array64) -> Array64:
    linear = mel * _LINEAR_HERTZ
    return np.where(mel < _BREAK_MEL, linear, _BREAK_HERTZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))
