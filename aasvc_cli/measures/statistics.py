"""Means with bootstrap intervals, pooled error counts, and paired comparisons of two systems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aasvc_cli.measures.catalogue import MEASURES, Measure

FloatArray = npt.NDArray[np.float64]

SIGNIFICANCE = 0.05
"""Below this p one of two systems is called better."""
N_RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)
MAX_DRAWN = 1_000_000
"""Utterances that are drawn at once, so that memory does not grow with the set."""


@dataclass(frozen=True)
class ErrorCounts:
    """Edits between a reference and what was recognised.

    Attributes:
        length: tokens of the reference.
    """

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per token of the reference; NaN for an empty reference."""
        return self.errors / self.length if self.length else math.nan

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        """Counts of both."""
        return ErrorCounts(
            self.substitutions + other.substitutions, self.deletions + other.deletions,
            self.insertions + other.insertions, self.length + other.length,
        )  # fmt: skip

    def to_tree(self) -> dict[str, int]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """Mean over utterances with a 95 % bootstrap confidence interval.

    Attributes:
        mean: of error rates, the rate of the summed counts.
        low, high: NaN with fewer than two values.
        n: utterances with a value.
        n_undefined: utterances left out because the measure is not defined for them.
        counts: summed edits behind an error rate; else None.
    """

    mean: float
    low: float
    high: float
    n: int
    n_undefined: int
    counts: ErrorCounts | None = None

    def to_tree(self) -> dict[str, Any]:
        """JSON-able (NaN where undefined)."""
        tree: dict[str, Any] = {
            "mean": self.mean, "low": self.low, "high": self.high, "n": self.n, "n_undefined": self.n_undefined,
        }  # fmt: skip
        return tree if self.counts is None else tree | {"counts": self.counts.to_tree()}


@dataclass(frozen=True)
class Difference:
    """Two systems on the same utterances: second minus first.

    Attributes:
        first, second: means over the shared utterances (rates of summed counts for error rates).
        difference: second minus first.
        low, high: 95 % paired bootstrap interval of the difference; NaN with fewer than two utterances.
        p: two-sided Wilcoxon signed-rank test on the utterances; NaN with fewer than two.
        better: which system is better by the mean of what is good about the measure: 1, 2, or 0 for neither.
        n: utterances with a value in both.
    """

    measure: Measure
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    better: Literal[0, 1, 2]
    n: int

    @property
    def clear(self) -> bool:
        """Whether the test finds a difference; False where it is not defined."""
        return self.p < SIGNIFICANCE

    def to_tree(self) -> dict[str, Any]:
        """JSON-able (NaN where undefined)."""
        return asdict(self) | {"measure": self.measure.name}


def summarise(values: Sequence[float], *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Summary:
    """Mean of the defined values and the 2.5 and 97.5 percentiles of resampled means.

    The result does not depend on the order of the values: they are sorted before resampling.
    """
    every = np.asarray(values, dtype=np.float64)
    defined = np.sort(every[np.isfinite(every)])
    n, n_undefined = len(defined), len(every) - int(np.isfinite(every).sum())
    if not n:
        return Summary(math.nan, math.nan, math.nan, 0, n_undefined)
    low, high = _interval(defined, np.ones(n), seed, n_resamples)
    return Summary(float(defined.mean()), low, high, n, n_undefined)


def summarise_counts(counts: Sequence[ErrorCounts | None], *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Summary:
    """Rate of the summed counts; the interval resamples utterances with their lengths.

    Utterances without counts, or with an empty reference, are undefined.
    """
    defined = sorted(
        (each for each in counts if each is not None and each.length), key=lambda each: (each.errors, each.length)
    )
    n_undefined = len(counts) - len(defined)
    if not defined:
        return Summary(math.nan, math.nan, math.nan, 0, n_undefined)
    total = sum(defined, ErrorCounts(0, 0, 0, 0))
    errors = np.array([float(each.errors) for each in defined])
    lengths = np.array([float(each.length) for each in defined])
    low, high = _interval(errors, lengths, seed, n_resamples)
    return Summary(total.rate, low, high, len(defined), n_undefined, total)


def compare(
    measure: Measure,
    first: Sequence[float],
    second: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Difference:
    """Two systems on the same utterances, in the same order.

    The interval resamples pairs. The test is Wilcoxon's signed-rank test (two-sided, zero differences split by Pratt's
    method, exact for few untied values): on the scores themselves, or on their distances from the ideal where a measure
    is good near a point. Several measures mean several tests; p is not corrected for that.

    Args:
        weights: lengths of the references of error rates, so that the mean is the rate of the summed counts.

    Returns:
        Exchanging the systems negates the difference and the interval and leaves p as it is.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    defined = np.isfinite(a) & np.isfinite(b) & (w > 0)
    a, b, w = a[defined], b[defined], w[defined]
    n = len(a)
    if not n:
        return Difference(measure, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0)
    # Sorted by what exchanging the systems does not change, so that both directions resample the same utterances.
    order = np.lexsort((w, np.minimum(a, b), np.abs(b - a)))
    a, b, w = a[order], b[order], w[order]
    low, high = _interval((b - a) * w, w, seed, n_resamples)
    losses = np.array([[measure.loss(x), measure.loss(y)] for x, y in zip(a, b, strict=True)])
    loss_difference = float(np.average(losses[:, 1] - losses[:, 0], weights=w))
    better: Literal[0, 1, 2] = 0 if loss_difference == 0 else 2 if loss_difference < 0 else 1
    mean_a, mean_b = float(np.average(a, weights=w)), float(np.average(b, weights=w))
    p = _wilcoxon(losses[:, 1] - losses[:, 0])
    return Difference(measure, mean_a, mean_b, float(np.average(b - a, weights=w)), low, high, p, better, n)


def summarise_scores(
    scores: Sequence[Mapping[str, float]],
    counts: Mapping[str, Sequence[ErrorCounts | None]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Summary]:
    """A summary per measure that any utterance has, by name, in the order of :data:`MEASURES`.

    Args:
        counts: measure name -> edits per utterance, for error rates.
    """
    summaries = {}
    for measure in MEASURES:
        if counts and measure.name in counts:
            summaries[measure.name] = summarise_counts(counts[measure.name], seed=seed)
        elif any(measure.name in each for each in scores):
            values = [each.get(measure.name, math.nan) for each in scores]
            summaries[measure.name] = summarise(values, seed=seed)
    return summaries


def _interval(numerators: FloatArray, weights: FloatArray, seed: int, n_resamples: int) -> tuple[float, float]:
    """Percentiles of resampled ratios of sums; NaN for a single value."""
    n = len(numerators)
    if n < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    at_once = max(1, MAX_DRAWN // n)
    ratios = []
    for start in range(0, n_resamples, at_once):
        drawn = generator.integers(0, n, (min(at_once, n_resamples - start), n))
        ratios.append(numerators[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(ratios), PERCENTILES)
    return float(low), float(high)


def _wilcoxon(differences: FloatArray) -> float:
    from scipy.stats import wilcoxon

    if len(differences) < 2 or not np.isfinite(differences).all():
        return math.nan
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, zero_method="pratt", method="auto").pvalue)
