"""Dynamic time warping of two feature sequences: exact, and the FastDTW approximation.

A path runs from (0, 0) to (X - 1, Y - 1) in steps (1, 0), (0, 1) and (1, 1), all of weight 1, and minimises the sum of
Euclidean distances between the paired frames. Costs are computed cell by cell inside compiled loops, so memory is one
byte per cell for the exact path and one byte per cell of the band for the approximate one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aasvc_cli.compiled import compiled
from aasvc_cli.errors import DataError

Frames = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

MAX_CELLS = 400_000_000
"""Largest grid of the exact search: 100 s against 100 s at 5 ms per frame, 400 MB."""

FROM_X = 0  # the predecessor is (i - 1, j)
FROM_Y = 1  # the predecessor is (i, j - 1)
FROM_BOTH = 2  # the predecessor is (i - 1, j - 1)


def exact_path(x: Frames, y: Frames) -> Indices:
    """The path of least total distance.

    Args:
        x: (X, D)
        y: (Y, D)

    Returns:
        (P, 2) indices into x and y, in order of time; (0, 2) if either side has no frames.

    Raises:
        DataError: the grid is larger than :data:`MAX_CELLS`.
    """
    x, y = _pair(x, y)
    if not len(x) or not len(y):
        return np.zeros((0, 2), dtype=np.int64)
    if len(x) * len(y) > MAX_CELLS:
        raise DataError(
            f"{len(x)} x {len(y)} frames are too many for an exact alignment (limit: {MAX_CELLS:.0e} cells); split "
            "the recordings, or use the published mode, whose alignment is approximate"
        )
    lows = np.zeros(len(x), dtype=np.int64)
    highs = np.full(len(x), len(y), dtype=np.int64)
    return _banded_path(x, y, lows, highs)


def fast_path(x: Frames, y: Frames, radius: int = 1) -> Indices:
    """The path that FastDTW (Salvador and Chan, 2007) finds: coarse to fine, in time and memory O(X + Y).

    Ties are decided as in the Python package ``fastdtw``: first (i - 1, j), then (i, j - 1), then the diagonal, which
    makes the paths the same as that package's. Note that this favours detours among equally good paths.

    Args:
        x: (X, D)
        y: (Y, D)
        radius: frames by which the band is wider than the path of the coarser level; at least 1.

    Returns:
        (P, 2) indices into x and y, in order of time; (0, 2) if either side has no frames.
    """
    if radius < 1:
        raise ValueError(f"radius must be at least 1, not {radius}")
    x, y = _pair(x, y)
    if not len(x) or not len(y):
        return np.zeros((0, 2), dtype=np.int64)
    levels = [(x, y)]
    while min(len(levels[-1][0]), len(levels[-1][1])) >= radius + 2:
        fine_x, fine_y = levels[-1]
        levels.append((_halved(fine_x), _halved(fine_y)))
    coarse_x, coarse_y = levels.pop()
    path = exact_path(coarse_x, coarse_y)
    for fine_x, fine_y in reversed(levels):
        lows, highs = _widened_band(path, len(fine_x), len(fine_y), radius)
        path = _banded_path(fine_x, fine_y, lows, highs)
    return path


def warm_up() -> None:
    """Compile everything (some seconds after an installation), so that worker processes find it on disk."""
    frames = np.zeros((8, 2))
    fast_path(frames, frames)


def _pair(x: Frames, y: Frames) -> tuple[Frames, Frames]:
    x = np.ascontiguousarray(x, dtype=np.float64)
    y = np.ascontiguousarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected two (frames, dimensions) arrays of equal width, not {x.shape} and {y.shape}")
    return x, y


def _halved(frames: Frames) -> Frames:
    """Means of neighbouring frames; an odd last frame is dropped."""
    even = len(frames) - len(frames) % 2
    return np.ascontiguousarray((frames[0:even:2] + frames[1:even:2]) / 2)


def _widened_band(path: Indices, n_x: int, n_y: int, radius: int) -> tuple[Indices, Indices]:
    """First and one-past-last column of each row of the finer grid around a coarser path.

    Monotone paths make the columns of a row one interval.
    """
    n_coarse = int(path[-1, 0]) + 1
    first = np.full(n_coarse, np.iinfo(np.int64).max)
    last = np.full(n_coarse, -1)
    np.minimum.at(first, path[:, 0], path[:, 1])
    np.maximum.at(last, path[:, 0], path[:, 1])
    coarse_row = np.arange(n_x) // 2
    # Both ends grow with the row, so the extremes over rows +- radius are at the ends of that interval.
    low = first[np.clip(coarse_row - radius, 0, n_coarse - 1)] - radius
    high = last[np.clip(coarse_row + radius, 0, n_coarse - 1)] + radius
    return np.maximum(2 * low, 0), np.minimum(2 * high + 2, n_y)


@compiled
def _banded_path(x: Frames, y: Frames, lows: Indices, highs: Indices) -> Indices:
    n_x, n_y, width = len(x), len(y), x.shape[1]
    offsets = np.zeros(n_x + 1, dtype=np.int64)
    for i in range(n_x):
        offsets[i + 1] = offsets[i] + highs[i] - lows[i]
    origin = np.zeros(offsets[n_x], dtype=np.int8)
    above = np.zeros(n_y)
    row = np.zeros(n_y)
    for i in range(n_x):
        low, high = lows[i], highs[i]
        for j in range(low, high):
            total = 0.0
            for d in range(width):
                difference = x[i, d] - y[j, d]
                total += difference * difference
            distance = np.sqrt(total)
            from_x, from_y, from_both = np.inf, np.inf, np.inf
            if i == 0 and j == 0:
                from_both = 0.0
            if i > 0 and lows[i - 1] <= j < highs[i - 1]:
                from_x = above[j]
            if j > low:
                from_y = row[j - 1]
            if i > 0 and lows[i - 1] <= j - 1 < highs[i - 1]:
                from_both = above[j - 1]
            # Sums are compared, not predecessors: rounding can make equal what was not, and then the order decides.
            best, step = from_x + distance, FROM_X
            if from_y + distance < best:
                best, step = from_y + distance, FROM_Y
            if from_both + distance < best:
                best, step = from_both + distance, FROM_BOTH
            row[j] = best
            origin[offsets[i] + j - low] = step
        above, row = row, above

    path = np.zeros((n_x + n_y, 2), dtype=np.int64)
    i, j, position = n_x - 1, n_y - 1, n_x + n_y
    while i >= 0 and j >= 0:
        position -= 1
        path[position, 0] = i
        path[position, 1] = j
        step = origin[offsets[i] + j - lows[i]]
        if step != FROM_Y:
            i -= 1
        if step != FROM_X:
            j -= 1
    return path[position:].copy()
