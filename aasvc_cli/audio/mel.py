"""Log-mel spectrograms."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import DataError

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

LOG_FLOOR = 1e-10
"""Smallest mel magnitude; the logarithm of digital silence is that of this value."""

_BLOCK_FRAMES = 64
"""Frames analysed at a time, so that the spectra of one block stay in the processor's cache."""


def n_frames(n_samples: int, hop_length: int) -> int:
    """Frames of any feature of a recording with that many samples."""
    return 1 + n_samples // hop_length


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
    signal = checked_mono(wave)
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


def at_sample_rate(config: MelConfig, sample_rate: int) -> MelConfig:
    """The same analysis for recordings of another rate: windows of about the same length, bands of the same width.

    ``n_fft`` stays a power of two if it was one, the hop the same part of it, and no band lies above half the rate.
    """
    scale = sample_rate / config.sample_rate
    if config.n_fft & (config.n_fft - 1) == 0:
        n_fft = 1 << round(math.log2(config.n_fft * scale))
    else:
        n_fft = 2 * round(config.n_fft * scale / 2)
    stretch = n_fft / config.n_fft
    fmax = None if config.fmax is None or config.fmax >= sample_rate / 2 else config.fmax
    tops = [_hertz_to_mel(top) for top in (fmax or sample_rate / 2, config.fmax or config.sample_rate / 2)]
    bottom = _hertz_to_mel(config.fmin)
    n_mels = config.n_mels * (tops[0] - bottom) / (tops[1] - bottom)
    return replace(
        config,
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=max(1, round(config.hop_length * stretch)),
        win_length=None if config.win_length is None else round(config.win_length * stretch),
        n_mels=config.n_mels if fmax == config.fmax and fmax is not None else 8 * round(n_mels / 8),
        fmax=fmax,
    )


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


def checked_mono(wave: Array) -> Array:
    """Samples as float32; raises DataError if there are none."""
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
