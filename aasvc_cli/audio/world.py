"""WORLD (pyworld) and SPTK (pysptk), loaded quietly and never given what they cannot take.

WORLD's C++ code checks no bounds: a sample rate or an FFT size outside of what it was written for overwrites memory.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.errors import DataError, MissingExtraError

FloatArray = npt.NDArray[np.float64]
Wave = npt.NDArray[np.floating[Any]]

UNVOICED_F0 = 500.0
"""CheapTrick analyses unvoiced frames as if they had this F0, in Hz."""
MIN_SAMPLE_RATE = 2 * int(UNVOICED_F0)
"""Lowest sample rate in Hz; below it, :data:`UNVOICED_F0` is above half the rate."""
MAX_SAMPLE_RATE = 384_000


def world() -> Any:
    """The package pyworld."""
    return _quietly("pyworld")


def sptk() -> Any:
    """The package pysptk."""
    return _quietly("pysptk")


def checked_signal(wave: Wave, sample_rate: int) -> FloatArray:
    """A signal as WORLD wants it: (n,) contiguous float64.

    Raises:
        DataError: no samples, several channels, samples that are not finite, or a sample rate that WORLD cannot take.
    """
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise DataError(f"expected one channel of samples, found an array of shape {wave.shape}")
    if not len(wave):
        raise DataError("no samples to analyse")
    if not np.isfinite(wave).all():
        raise DataError("samples that are not numbers (NaN or infinite)")
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise DataError(
            f"sample rate {sample_rate} Hz: expected {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz for an analysis of F0 "
            "and spectrum; is the header of the recording right?"
        )
    return np.ascontiguousarray(wave, dtype=np.float64)


def shortest_fft(sample_rate: int) -> int:
    """Samples that CheapTrick's window of three periods takes in unvoiced frames; a shorter FFT corrupts memory."""
    return int(3.0 * sample_rate / UNVOICED_F0) + 4


def spectral_envelope(
    signal: FloatArray, f0: FloatArray, times: FloatArray, sample_rate: int, *, fft_size: int, f0_floor: float = 71.0
) -> FloatArray:
    """Spectral envelope by CheapTrick (Morise, 2015).

    Args:
        signal: (n,) from :func:`checked_signal`.
        f0: (T,) Hz, 0 where unvoiced.
        times: (T,) seconds.

    Returns:
        (T, fft_size // 2 + 1) power.

    Raises:
        DataError: the FFT is too short for this sample rate.
    """
    if fft_size < shortest_fft(sample_rate):
        raise DataError(f"FFT size {fft_size}: too short for {sample_rate} Hz, expected {shortest_fft(sample_rate)}")
    envelope = world().cheaptrick(
        signal, np.ascontiguousarray(f0), np.ascontiguousarray(times), sample_rate, f0_floor=f0_floor, fft_size=fft_size
    )
    return np.asarray(envelope, dtype=np.float64)


def _quietly(name: str) -> Any:
    """Import without the warnings of both packages about how they read their own version number (pkg_resources)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} does not load ({error}); run: pip install {name} 'setuptools<82'") from None
