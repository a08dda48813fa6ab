"""Other sample rates."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def resample(wave: Array, sample_rate: int, new_rate: int) -> Array:
    """A recording at another sample rate, by soxr's high quality: (n,) -> (ceil(n * new_rate / sample_rate),)."""
    if sample_rate == new_rate:
        return wave
    import soxr

    length = math.ceil(len(wave) * new_rate / sample_rate)
    resampled = soxr.resample(wave, sample_rate, new_rate, quality="HQ")
    # soxr may be a sample off at the end
    return np.asarray(np.pad(resampled[:length], (0, max(0, length - len(resampled)))), dtype=np.float32)
