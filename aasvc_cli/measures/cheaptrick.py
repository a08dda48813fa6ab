"""Spectral envelopes by the CheapTrick algorithm, twice as fast as WORLD's own code and equal to it up to rounding.

The algorithm and all its constants are Morise's ("CheapTrick, a spectral envelope estimator for high-quality speech
synthesis", Speech Communication 67, 2015), as released in WORLD (modified BSD licence). What makes it fast:

- The transforms of many frames are taken at once, and those of symmetric sequences as cosine transforms.
- Smoothing along frequency by a box is the difference of two values of a running sum, whose places lie equally far
  from every bin.
- Unvoiced frames share their window and their lifter.
- WORLD adds noise of 1e-12 to samples and of 1e-15 to power, which takes a third of its time and shows only in digital
  silence and in bands without any sound. For frames with such, and only for these, WORLD itself is asked.

The tests hold the outcome against WORLD's.
"""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from aasvc_cli.compiled import compiled

FloatArray = npt.NDArray[np.float64]

UNVOICED_F0 = 500.0
"""What unvoiced frames are analysed with, in Hz."""
RECOVERY = -0.15
"""Morise's q1: how much of the smoothing is undone."""
FAINT = 1e-5
"""Power of a bin, for samples of 16 bit, below which the noise that WORLD adds could show."""
TINY = 1e-300
STEP = 32
"""Sines computed from one of their kind."""
BLOCK_BYTES = 1 << 19
"""Frames transformed at once; small enough for the cache of a processor."""


def log_envelope(wave: FloatArray, f0: FloatArray, times: FloatArray, sample_rate: int, *, fft_size: int) -> FloatArray:
    """Natural logarithm of the power envelope of each frame.

    Args:
        wave: (n,), full scale at 32768.
        f0: (T,) Hz, 0 where unvoiced; what is too low for the FFT size counts as unvoiced.
        times: (T,) of the frames in seconds.

    Returns:
        (T, fft_size // 2 + 1)
    """
    wave = np.ascontiguousarray(wave, dtype=np.float64)
    used = np.where(f0 <= 3.0 * sample_rate / (fft_size - 3.0), UNVOICED_F0, f0)
    unvoiced_lifter = np.ones((1, fft_size // 2 + 1))
    _lift(unvoiced_lifter, np.array([UNVOICED_F0]), sample_rate, np.zeros(0))
    result = np.empty((len(f0), fft_size // 2 + 1))
    faint = np.zeros(len(f0), dtype=np.bool_)
    block = max(1, BLOCK_BYTES // (fft_size * result.itemsize))
    for start in range(0, len(f0), block):
        part = slice(start, start + block)
        frames = np.zeros((len(used[part]), fft_size))
        _windowed(wave, used[part], times[part], sample_rate, frames)
        spectra = scipy.fft.rfft(frames, overwrite_x=True)
        smooth = _smoothed_power(spectra, used[part], sample_rate / fft_size)
        faint[part] = smooth.min(axis=1) < FAINT
        cepstra = scipy.fft.dct(np.log(np.maximum(smooth, TINY)), type=1, overwrite_x=True)
        _lift(cepstra, used[part], sample_rate, unvoiced_lifter[0])
        result[part] = scipy.fft.dct(cepstra, type=1, overwrite_x=True)
    result /= fft_size
    if faint.any():
        # the noise of a frame depends on all frames before it
        n = int(np.flatnonzero(faint)[-1]) + 1
        theirs = _world().cheaptrick(wave, f0[:n], times[:n], sample_rate, fft_size=fft_size)
        result[:n][faint[:n]] = np.log(theirs[faint[:n]])
    return result


def warm_up() -> None:
    """Compile everything (some seconds after an installation), so that worker processes find it on disk."""
    wave = 1000.0 * np.cos(2 * np.pi * 150 * np.arange(4000) / 16000)
    log_envelope(wave, np.array([0.0, 150.0]), np.array([0.05, 0.1]), 16000, fft_size=1024)


@compiled
def _lift(cepstra: FloatArray, f0: FloatArray, sample_rate: int, unvoiced: FloatArray) -> None:
    """Smooth over one F0 and then recover the peaks, by a factor for each cepstral coefficient: (T, bins), in place.

    Args:
        unvoiced: the factors of unvoiced frames, if they are known.
    """
    n = cepstra.shape[1]
    # sin((STEP a + b) x) by the addition theorem
    n_far = n // STEP + 1
    near_sines, near_cosines = np.empty(STEP), np.empty(STEP)
    for t in range(len(f0)):
        if len(unvoiced) and f0[t] == UNVOICED_F0:
            for i in range(n):
                cepstra[t, i] *= unvoiced[i]
            continue
        x = math.pi * f0[t] / sample_rate
        for b in range(STEP):
            near_sines[b], near_cosines[b] = math.sin(b * x), math.cos(b * x)
        for a in range(n_far):
            far_sine, far_cosine = math.sin(STEP * a * x), math.cos(STEP * a * x)
            for b in range(min(STEP, n - STEP * a)):
                i = STEP * a + b
                sine = far_sine * near_cosines[b] + far_cosine * near_sines[b]
                smoothing = sine / (i * x) if i else 1.0
                cepstra[t, i] *= smoothing * (1.0 - 4.0 * RECOVERY * sine * sine)  # cos 2x = 1 - 2 sin^2 x


@compiled
def _windowed(wave: FloatArray, f0: FloatArray, times: FloatArray, sample_rate: int, frames: FloatArray) -> None:
    """Three periods of the signal under a Hann window of unit energy, without their mean, into frames of zeros."""
    window = np.empty(frames.shape[1])
    last = len(wave) - 1
    before = 0.0
    half = 0
    for t in range(len(f0)):
        if f0[t] != before:
            before = f0[t]
            half = int(1.5 * sample_rate / f0[t] + 0.5)
            squares = 0.0
            for i in range(half + 1):
                value = 0.5 + 0.5 * math.cos(math.pi * (i / 1.5 / sample_rate) * f0[t])
                window[half + i] = window[half - i] = value
                squares += value * value * (2.0 if i else 1.0)
            for i in range(2 * half + 1):
                window[i] /= math.sqrt(squares)
        first = int(times[t] * sample_rate + 0.001 + 0.5) - half
        total, weight = 0.0, 0.0
        for i in range(2 * half + 1):
            frames[t, i] = wave[min(last, max(0, first + i))] * window[i]
            total += frames[t, i]
            weight += window[i]
        for i in range(2 * half + 1):
            frames[t, i] -= window[i] * (total / weight)


@compiled
def _smoothed_power(spectra: npt.NDArray[np.complex128], f0: FloatArray, bin_width: float) -> FloatArray:
    """Power with what lies below F0 corrected, averaged over two thirds of F0: (T, bins).

    The running sum is WORLD's to the last bit, because the difference of two of its values loses as many digits as the
    spectrum falls.

    Args:
        f0, bin_width: in Hz.
    """
    n_frames, n_bins = spectra.shape
    last = n_bins - 1
    smooth = np.empty((n_frames, n_bins))
    power = np.empty(n_bins)
    sums = np.empty(3 * n_bins)
    for t in range(n_frames):
        for i in range(n_bins):
            power[i] = spectra[t, i].real * spectra[t, i].real + spectra[t, i].imag * spectra[t, i].imag
        # below F0 the power at the mirror image about half of F0 is added
        base = int(f0[t] / bin_width)
        fraction = f0[t] / bin_width - base
        for i in range(base + 1):
            smooth[t, i] = power[base - i] + (power[base - i + 1] - power[base - i]) * fraction
        for i in range(base + 1):
            power[i] += smooth[t, i]
        # running sum over the spectrum continued by its mirror images
        width = f0[t] * 2.0 / 3.0
        border = int(width / bin_width) + 1
        total = 0.0
        for i in range(n_bins + 2 * border):
            k = abs(i - border)
            total += power[k if k <= last else 2 * last - k] * bin_width
            sums[i] = total
        low, high = border - 0.5 - width / bin_width / 2.0, border - 0.5 + width / bin_width / 2.0
        i, j = int(low), int(high)
        a, b = low - i, high - j
        for k in range(n_bins):
            upper = sums[j + k] + (sums[j + k + 1] - sums[j + k]) * b
            lower = sums[i + k] + (sums[i + k + 1] - sums[i + k]) * a
            smooth[t, k] = (upper - lower) / width
    return smooth


def _world() -> Any:
    """The package pyworld."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a deprecated way of reading its own version number
        return importlib.import_module("pyworld")
