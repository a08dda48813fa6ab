"""Where two recordings say the same: the path between what their speakers say, and what it costs.

Content features of two people who say the same words lie close together at the same words, and only there. So dynamic
time warping finds which moment of one recording belongs to which of the other before anything is trained, and the mean
cost along the path tells whether they say the same at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EXACT_CELLS = 36_000_000
"""Largest grid that is searched exactly: two minutes against two minutes."""
FAST_RADIUS = 250
"""Frames (5 s) by which a longer search may leave the path of its coarser level."""
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True, eq=False)
class ContentPath:
    """The best path between two recordings.

    Attributes:
        frames: (P, 2) frames of source and target, in order of time; neither ever goes back
        costs: (P,) one minus the cosine between the two frames: 0 for the same, 1 for what has nothing in common
    """

    frames: Indices
    costs: Floats

    @property
    def cost(self) -> float:
        """Mean along the path; low if both say the same words."""
        return float(self.costs.mean())

    def source_positions(self) -> Floats:
        """For each target frame, the mean of the source frames that belong to it: (T,), never falling."""
        source, target = self.frames.T
        return np.bincount(target, weights=source) / np.bincount(target)


def content_path(source: Array, target: Array) -> ContentPath:
    """The path of least cost between two recordings, from the first frames of both to the last.

    Args:
        source: (S, D) content features, at least one frame
        target: (T, D) at the same frame rate

    Raises:
        ValueError: no frames, or unequal widths.
    """
    from aasvc_cli.audio.dtw import exact_path, fast_path  # loads numba

    if not len(source) or not len(target):
        raise ValueError("a recording without frames has no path")
    x, y = _directions(source), _directions(target)
    small = len(x) * len(y) <= EXACT_CELLS
    frames = exact_path(x, y) if small else fast_path(x, y, radius=FAST_RADIUS)
    return ContentPath(frames, 1.0 - (x[frames[:, 0]] * y[frames[:, 1]]).sum(axis=1))


def _directions(frames: Array) -> Floats:
    """Frames of length 1, between which distances depend on the angle alone: (T, D) -> (T, D)."""
    values = frames.astype(np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _SMALLEST_NORM)
