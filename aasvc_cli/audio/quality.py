"""What a recording is like: its level, bandwidth, clipping, where the speech begins and ends, and its pauses."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.pauses import FRAME_SECONDS, LevelMeter, frame_length, silent_frames

Wave = npt.NDArray[np.float32]

KEPT_SECONDS = 0.05
"""Of the silence before and after the speech; the first consonant often lies below the threshold."""
SHORTEST_PAUSE = 0.15
LOUDNESS_SECONDS = 0.4
"""A block of ITU-R BS.1770; shorter recordings have no loudness."""
_CLIP_FLOOR = 0.05
"""Peaks below are too near to the steps of 16 bits for runs of equal samples to mean anything."""
_CLIP_SECONDS = 1.5e-4
_SPECTRUM_SECONDS = 0.04
_BANDWIDTH_RANGE_DB = 60.0
_LOUD_PERCENTILE = 95.0


@dataclass(frozen=True)
class Quality:
    """Measured on one mono recording.

    Attributes:
        seconds, sample_rate: of the recording as it was read
        peak: largest magnitude, 1.0 is full scale
        clipped_share: samples in runs of equal ones at the peak, over all
        loudness: ITU-R BS.1770 in LUFS; None below 0.4 s or in silence
        bandwidth: highest frequency in Hz at which there is sound in the loud parts
        start, stop: the speech with 50 ms around it, in seconds
        pauses: (start, stop) in seconds of silences of 0.15 s or more inside the speech
    """

    seconds: float
    sample_rate: int
    peak: float
    clipped_share: float
    loudness: float | None
    bandwidth: float
    start: float
    stop: float
    pauses: tuple[tuple[float, float], ...]


def measure(wave: Wave, sample_rate: int) -> Quality:
    """Everything of :class:`Quality` for samples (n,), n > 0."""
    start, stop, pauses = find_speech(wave, sample_rate)
    return Quality(
        seconds=len(wave) / sample_rate,
        sample_rate=sample_rate,
        peak=float(max(wave.max(), -wave.min())),
        clipped_share=clipped_share(wave, sample_rate),
        loudness=loudness(wave, sample_rate),
        bandwidth=bandwidth(wave, sample_rate),
        start=start,
        stop=stop,
        pauses=pauses,
    )


def clipped_share(wave: Wave, sample_rate: int) -> float:
    """Share of samples that lie in runs of equal ones at the largest or the smallest value.

    That is what clipping leaves, wherever full scale was when it happened; a single peak at full scale is not clipping.
    """
    shortest = max(3, round(_CLIP_SECONDS * sample_rate))
    clipped = 0
    for extreme in (wave.max(), wave.min()):
        if abs(extreme) >= _CLIP_FLOOR:
            at = np.concatenate([[False], wave == extreme, [False]])
            edges = np.flatnonzero(np.diff(at.astype(np.int8)))
            runs = edges[1::2] - edges[::2]
            clipped += int(runs[runs >= shortest].sum())
    return clipped / len(wave)


def loudness(wave: Wave, sample_rate: int) -> float | None:
    """Integrated loudness in LUFS by ITU-R BS.1770; None below 0.4 s or in silence."""
    import pyloudnorm

    if len(wave) < LOUDNESS_SECONDS * sample_rate:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of blocks without sound
        level = float(pyloudnorm.Meter(sample_rate).integrated_loudness(wave.astype(np.float64)))
    return level if math.isfinite(level) else None


def bandwidth(wave: Wave, sample_rate: int) -> float:
    """The highest frequency in Hz at which the loud parts are less than 60 dB below their strongest one.

    A recording that was made from one of a lower rate has nothing above half that rate, whatever its header says.
    """
    length = max(64, 1 << round(math.log2(_SPECTRUM_SECONDS * sample_rate)))
    padded = np.pad(wave, (0, max(0, length - len(wave)))).astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[:: length // 2]
    # of a long recording, every n-th frame
    power = np.abs(np.fft.rfft(frames[:: 1 + len(frames) // 1000] * np.hanning(length), axis=1)) ** 2
    loud = np.percentile(power, _LOUD_PERCENTILE, axis=0)
    smooth = np.convolve(np.pad(loud, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    strongest = smooth.max()
    if strongest <= 0.0:
        return 0.0
    present = np.flatnonzero(smooth >= strongest * 10.0 ** (-_BANDWIDTH_RANGE_DB / 10.0))
    return float(present[-1] * sample_rate / length)


def find_speech(wave: Wave, sample_rate: int) -> tuple[float, float, tuple[tuple[float, float], ...]]:
    """Where the speech starts and stops, with 50 ms around it, and its pauses; all of it if it is silent throughout."""
    meter = LevelMeter(sample_rate)
    meter.add(wave)
    speech = np.flatnonzero(~silent_frames(meter.levels()))
    seconds = len(wave) / sample_rate
    if not len(speech):
        return 0.0, seconds, ()
    frame = frame_length(sample_rate) / sample_rate
    gaps = np.flatnonzero(np.diff(speech) > SHORTEST_PAUSE / FRAME_SECONDS)
    pauses = tuple((float((speech[gap] + 1) * frame), float(speech[gap + 1] * frame)) for gap in gaps)
    start, stop = speech[0] * frame - KEPT_SECONDS, (speech[-1] + 1) * frame + KEPT_SECONDS
    return max(0.0, float(start)), min(seconds, float(stop)), pauses
