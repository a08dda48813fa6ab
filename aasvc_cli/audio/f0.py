"""Fundamental frequency (F0), by the two estimators of WORLD. Whatever needs F0 asks here.

:func:`harvest` follows the pitch where a voice fades in and out; it takes about a tenth of the recording's length.
:func:`dio` is ten times as fast and good enough for statistics and pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aasvc_cli.audio.world import FloatArray, Wave, checked_signal, world
from aasvc_cli.errors import DataError

FRAME_PERIOD = 5.0
"""Milliseconds between two values of F0, unless asked for otherwise."""
PIECE_SECONDS = 60.0
"""Longer signals are analysed in pieces: Harvest's memory grows with the square of the length."""
MARGIN_SECONDS = 2.0
"""Context on either side of a piece, computed and dropped."""


def harvest(
    wave: Wave, sample_rate: int, *, f0_min: float, f0_max: float, frame_period: float = FRAME_PERIOD
) -> FloatArray:
    """F0 by Harvest (Morise, "Harvest: A high-performance fundamental frequency estimator", Interspeech 2017).

    Args:
        wave: (n,), at any scale.
        f0_min, f0_max: search range in Hz.
        frame_period: milliseconds.

    Returns:
        (T,) Hz, 0 where unvoiced, with T = 1000 n / sample_rate / frame_period + 1, rounded down.

    Raises:
        DataError: a signal, sample rate or search range that cannot be analysed.
    """

    def estimate(signal: FloatArray) -> FloatArray:
        f0, _ = world().harvest(signal, sample_rate, f0_floor=f0_min, f0_ceil=f0_max, frame_period=frame_period)
        return np.asarray(f0, dtype=np.float64)

    signal = _checked(wave, sample_rate, f0_min, f0_max)
    return _in_pieces(estimate, signal, sample_rate, frame_period)


def dio(
    wave: Wave, sample_rate: int, *, f0_min: float, f0_max: float, frame_period: float = FRAME_PERIOD
) -> FloatArray:
    """F0 by DIO (Morise et al., 2009), refined by StoneMask; arguments, result and errors of :func:`harvest`."""

    def estimate(signal: FloatArray) -> FloatArray:
        rough, times = world().dio(signal, sample_rate, f0_floor=f0_min, f0_ceil=f0_max, frame_period=frame_period)
        return np.asarray(world().stonemask(signal, rough, times, sample_rate), dtype=np.float64)

    signal = _checked(wave, sample_rate, f0_min, f0_max)
    return _in_pieces(estimate, signal, sample_rate, frame_period)


def frame_times(count: int, frame_period: float = FRAME_PERIOD) -> FloatArray:
    """Times of the first frames in seconds: (count,)."""
    return np.asarray(np.arange(count) * (frame_period / 1000.0))


def with_length(f0: FloatArray, count: int) -> FloatArray:
    """A contour cut or continued by unvoiced frames; WORLD counts frames in floating point and may be one off."""
    return np.pad(f0[:count], (0, max(0, count - len(f0))))


def _checked(wave: Wave, sample_rate: int, f0_min: float, f0_max: float) -> FloatArray:
    signal = checked_signal(wave, sample_rate)
    if not 0 < f0_min < f0_max < sample_rate / 2:
        raise DataError(f"F0 range {f0_min:g}-{f0_max:g} Hz: expected 0 < minimum < maximum < {sample_rate / 2:g} Hz")
    return signal


def _in_pieces(
    estimate: Callable[[FloatArray], FloatArray], signal: FloatArray, sample_rate: int, frame_period: float
) -> FloatArray:
    """The contour of a signal of any length, in one piece if it is short enough."""
    if len(signal) <= PIECE_SECONDS * sample_rate:
        return estimate(signal)
    frames_per_second = 1000.0 / frame_period
    n_frames = int(1000.0 * len(signal) / sample_rate / frame_period) + 1
    piece, margin = round(PIECE_SECONDS * frames_per_second), round(MARGIN_SECONDS * frames_per_second)
    f0 = np.zeros(n_frames)
    for first in range(0, n_frames, piece):
        last = min(first + piece, n_frames)
        begin = max(0, first - margin)
        start, stop = (round(frame * sample_rate / frames_per_second) for frame in (begin, last + margin))
        contour = estimate(np.ascontiguousarray(signal[start:stop]))
        f0[first:last] = with_length(contour[first - begin :], last - first)
    return f0
