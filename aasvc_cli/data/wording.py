"""Which pairs do not hold the same words, told without any text.

The cost of the path between two recordings (:mod:`aasvc_cli.data.content_path`) depends on more than their words: on
the language, the microphones, the two voices. So it is held against what the same source costs with other sentences of
the target, of nearly the same length. Where the words agree, a pair costs much less than those; where they do
not, it costs as much. How these others cost among themselves tells what is usual for different words in this set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from aasvc_cli.data.content_path import content_path

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Verdict = Literal["wrong", "near", ""]

POOLED_FRAMES = 2
"""Content frames that become one: 25 a second tell words apart as well as 50, in a quarter of the time."""
N_OTHERS = 4
"""Sentences that a pair is held against."""
FEWEST_PAIRS = 8
"""With fewer, nothing is usual."""
CONFIDENCE = 0.8
"""Share of the named pairs that must be wrong, as far as the set itself tells."""
LEAST_CONTRAST = 0.97
"""Where a typical pair fits no better than this share of what other sentences do, content tells nothing."""
LEAST_FIT = 0.75
"""Usual misfit from which on the pairs of a set hold other words in part: 0.1 to 0.3 is usual where the words agree and
the speech is clear, 0.5 to 0.7 on telephone lines."""
_TAIL = (0.1, 0.25, 0.5)
"""Quantiles of pairs of different words above which next to no pair of the same words lies."""


@dataclass(frozen=True)
class Fit:
    """How well the two recordings of a pair fit each other.

    Attributes:
        cost: mean along their path; 0 for the same content, about 1 for what has nothing in common
        others: the same for this source and other sentences of the target
        length_ratio: seconds of the target for a second of the source
    """

    cost: float
    others: tuple[float, ...]
    length_ratio: float

    @cached_property
    def misfit(self) -> float:
        """The cost as a share of what other sentences cost: about 1 if this is another sentence itself."""
        return self.cost / statistics.fmean(self.others)


@dataclass(frozen=True)
class Limits:
    """Misfits of a set from which on a pair is named.

    Attributes:
        near, wrong: from here on a pair is worth a look, and most probably has different words
    """

    near: float
    wrong: float

    def verdict(self, misfit: float) -> Verdict:
        """What a pair of that misfit is."""
        return "wrong" if misfit >= self.wrong else "near" if misfit >= self.near else ""


def pooled(frames: Array) -> Array:
    """Means of :data:`POOLED_FRAMES` neighbouring frames: (T, D) -> (ceil(T / 2), D)."""
    starts = np.arange(0, len(frames), POOLED_FRAMES)
    counts = np.diff(np.append(starts, len(frames)))[:, None]
    return (np.add.reduceat(frames, starts, axis=0) / counts).astype(np.float32)


def nearest_in_length(lengths: Sequence[float], count: int = N_OTHERS) -> list[list[int]]:
    """For each place, those of the ``count`` others whose lengths are nearest to its own."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    nearest = [[] for _ in order]  # type: list[list[int]]
    for place, index in enumerate(order):
        around = [*order[max(0, place - count) : place], *order[place + 1 : place + 1 + count]]
        around.sort(key=lambda other: (abs(lengths[other] - lengths[index]), other))
        nearest[index] = around[:count]
    return nearest


def fit(source: Array, target: Array, others: Sequence[Callable[[], Array]]) -> Fit:
    """Compare a source with its own target and with others; all (T, D), without their speaker's mean."""
    costs = tuple(content_path(source, other()).cost for other in others)
    return Fit(content_path(source, target).cost, costs, len(target) / len(source))


def limits(fits: Sequence[Fit]) -> Limits | None:
    """From which misfit on pairs of a set are named; None where the content tells nothing.

    The limit lies midway between the usual misfit and that of different words, and higher if more than one in five of
    the pairs above it would have the same words after all. How many are wrong is estimated from those that lie where
    pairs of different words do and pairs of the same words hardly ever (as the share of true null hypotheses in Storey,
    A direct approach to false discovery rates, 2002).
    """
    if len(fits) < FEWEST_PAIRS:
        return None
    misfits = np.array([each.misfit for each in fits])
    different = np.array([misfit for each in fits for misfit in _of_different_words(each)])
    usual, typical = float(np.median(misfits)), float(np.median(different))
    if usual > LEAST_CONTRAST * typical:
        return None
    share = float(np.mean([(misfits >= np.quantile(different, tail)).mean() / (1 - tail) for tail in _TAIL]))
    wrong = (usual + typical) / 2
    for misfit in np.sort(misfits[misfits >= wrong]):
        if share * (different >= wrong).mean() >= CONFIDENCE * (misfits >= wrong).mean():
            break
        wrong = math.nextafter(float(misfit), math.inf)
    return Limits((usual + wrong) / 2, wrong)


def _of_different_words(each: Fit) -> list[float]:
    """Misfits of other sentences among themselves."""
    count, total = len(each.others), sum(each.others)
    if count < 2:
        return [1.0] * count
    return [other * (count - 1) / (total - other) for other in each.others]
