"""Sentences that nobody read: the beginning of one pair and the end of another, joined where both are quiet.

A small corpus repeats its few contexts in every epoch, and a network with attention learns them by heart: which sound
comes after which, at which place of the sentence. Pairs joined at random take that away, while every sound keeps the
counterpart that it has. So recordings are recombined for recognisers, too (Lam et al., On-the-fly aligned data
augmentation for sequence-to-sequence ASR, 2021).

Where a target may be cut is seen by its level; which moment of the source that is, by dynamic time warping of the
envelopes of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.dtw import exact_path
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.data.augmentation import envelopes

Array = npt.NDArray[np.float32]
Cuts = npt.NDArray[np.int64]

SMOOTH_FRAMES = 5
"""Frames over which the level is averaged before its minima are looked for."""
EDGE_FRAMES = 20
"""Frames at either end that are not cut off by themselves."""
REACH = 4
"""Frames by which the cut of the source may move to where the source is quietest."""
SHORTEST = 0.5
"""A joined target is at least this long, relative to the pair whose place it takes."""


@dataclass(frozen=True)
class Splicer:
    """Joins pairs of log-mels of the same kind.

    Attributes:
        share: of the pairs that are joined with another one
        frames_per_step: source frames that one target frame can take up at most
    """

    share: float
    mel: MelConfig
    frames_per_step: float
    _known: dict[int, Cuts] = field(default_factory=dict, repr=False, compare=False)

    def __call__(
        self, index: int, count: int, load: Callable[[int], tuple[Array, Array]], *, seed: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """A pair, or what begins as it and ends as another; never longer than the pair itself on either side.

        Args:
            index: of the pair
            count: of pairs there are
            load: gives the log-mels (S, M) and (T, M) of a pair
            seed: what distinguishes this version from others, and the pair from others

        Returns:
            (S', M) and (T', M)
        """
        random = np.random.default_rng((*seed, 1))
        source, target = load(index)
        if count < 2 or random.uniform() >= self.share:
            return source, target
        other = (index + 1 + int(random.integers(count - 1))) % count
        next_source, next_target = load(other)
        here, there = self._cuts(index, source, target), self._cuts(other, next_source, next_target)
        first, second = (grid.ravel() for grid in np.meshgrid(np.arange(len(here)), np.arange(len(there))))
        n_source = here[first, 0] + len(next_source) - there[second, 0]
        n_target = here[first, 1] + len(next_target) - there[second, 1]
        fits = (n_source <= len(source)) & (n_target <= len(target)) & (n_target >= SHORTEST * len(target))
        possible = np.flatnonzero(fits & (n_source <= np.floor(n_target * self.frames_per_step)))
        if not len(possible):
            return source, target
        chosen = possible[int(random.integers(len(possible)))]
        begin, end = here[first[chosen]], there[second[chosen]]
        return (
            np.concatenate([source[: begin[0]], next_source[end[0] :]]),
            np.concatenate([target[: begin[1]], next_target[end[1] :]]),
        )

    def _cuts(self, index: int, source: Array, target: Array) -> Cuts:
        if index not in self._known:
            self._known[index] = cuts(source, target, self.mel)
        return self._known[index]


def cuts(source: Array, target: Array, mel: MelConfig) -> Cuts:
    """Where a pair can be cut in two: (n, 2), the first source frame and the first target frame of the second part.

    Args:
        source, target: (S, M) and (T, M) log-mels of the same sentence
    """
    if min(len(source), len(target)) <= 2 * EDGE_FRAMES:
        return np.zeros((0, 2), dtype=np.int64)
    path = exact_path(_comparable(source, mel), _comparable(target, mel))
    quiet, level = _quiet_frames(target), _level(source)
    found = []
    for frame in quiet:
        met = path[path[:, 1] == frame, 0]
        low = max(EDGE_FRAMES, int(met.min()) - REACH)
        high = min(len(source) - EDGE_FRAMES, int(met.max()) + REACH + 1)
        if low < high:
            found.append((low + int(np.argmin(level[low:high])), frame))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _quiet_frames(log_mel: Array) -> npt.NDArray[np.int64]:
    """Minima of the level in the quieter half of a recording, but for its ends."""
    level = _level(log_mel)
    inside = level[1:-1]
    minima = 1 + np.flatnonzero((inside < level[:-2]) & (inside <= level[2:]) & (inside < np.median(level)))
    return minima[(minima >= EDGE_FRAMES) & (minima < len(log_mel) - EDGE_FRAMES)]


def _level(log_mel: Array) -> Array:
    """(T, M) -> (T,), the mean over bands and some frames."""
    mean = np.pad(log_mel.mean(axis=1), SMOOTH_FRAMES // 2, mode="edge")
    return np.convolve(mean, np.full(SMOOTH_FRAMES, 1.0 / SMOOTH_FRAMES), mode="valid").astype(np.float32)


def _comparable(log_mel: Array, mel: MelConfig) -> npt.NDArray[np.float64]:
    """Envelopes whose bands have mean 0 and variance 1 over the recording, as two voices differ in both."""
    smooth = envelopes(log_mel, mel).astype(np.float64)
    spread = smooth.std(axis=0)
    return np.asarray((smooth - smooth.mean(axis=0)) / np.where(spread > 0, spread, 1.0) / math.sqrt(mel.n_mels))
