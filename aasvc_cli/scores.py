"""What the measures are called, and statistics over utterances: means with intervals, and paired comparisons.

Every interval is a 95 % percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over utterances with a seed, so
that the same scores give the same interval. Nothing here depends on the order of the utterances.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

Best = Literal["low", "high", "zero", "one"]
Group = Literal["signal", "text", "mos", "speaker"]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

SIGNIFICANCE = 0.05
"""Below this p one of two systems is called better."""
N_RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Measure:
    """One number per utterance: what it is called and how it is read.

    Attributes:
        name: stable identifier in JSON, CSV and thresholds.
        title: name in tables and pictures; with :attr:`unit` in :attr:`heading`.
        best: which values are good: low ones, high ones, those near zero or those near one.
        meaning: one line for people.
        definition: ``published`` or ``corrected`` where the two differ, else empty.
        group: what has to be computed for it.
    """

    name: str
    title: str
    unit: str
    best: Best
    meaning: str
    definition: str = ""
    group: Group = "signal"

    @property
    def heading(self) -> str:
        """Title and unit of a column."""
        return self.title + (f" [{self.unit}]" if self.unit else "")

    def loss(self, value: float) -> float:
        """The value turned so that smaller is better; the distance from the ideal where that is a point."""
        if self.best == "low":
            return value
        if self.best == "high":
            return -value
        if self.best == "zero":
            return abs(value)
        return abs(math.log(value)) if value > 0 else math.inf

    def to_tree(self) -> dict[str, str]:
        """JSON-able."""
        return asdict(self)


_F0_MEANING = "root mean square error of F0 on aligned voiced frames"
_CORRELATION_MEANING = "Pearson correlation of F0 on aligned voiced frames"
_DURATION_MEANING = "absolute difference of durations without leading and trailing silence"

MEASURES: tuple[Measure, ...] = (
    Measure("MCD", "MCD", "dB", "low", "mel-cepstral distortion with c0", "published"),
    Measure("F0RMSE", "F0RMSE", "Hz", "low", _F0_MEANING, "published"),
    Measure("F0CORR", "F0CORR", "", "high", _CORRELATION_MEANING, "published"),
    Measure("DDUR", "DDUR", "s", "low", _DURATION_MEANING, "published"),
    Measure("GV", "GV", "", "low", "mean over coefficients of |ln variance over time| of the conversion", "published"),
    Measure("MCD_corrected", "MCD corrected", "dB", "low", "mel-cepstral distortion without c0", "corrected"),
    Measure("F0RMSE_corrected", "F0RMSE corrected", "Hz", "low", _F0_MEANING, "corrected"),
    Measure("F0CORR_corrected", "F0CORR corrected", "", "high", _CORRELATION_MEANING, "corrected"),
    Measure("DDUR_corrected", "DDUR corrected", "s", "low", _DURATION_MEANING, "corrected"),
    Measure(
        "GV_corrected", "GV corrected", "", "zero",
        "mean over coefficients of ln(variance of the conversion / of the target); below zero: smoother", "corrected",
    ),
    Measure("logF0RMSE", "log-F0 RMSE", "semitones", "low", "F0 error on a musical scale, aligned voiced frames"),
    Measure("VUV", "V/UV error", "", "low", "share of aligned loud frames that are voiced on one side only"),
    Measure("RATE", "rate ratio", "", "one", "speaking rate of the conversion / of the target; above one: faster"),
    Measure("CER", "CER", "", "low", "character errors of speech recognition per character said", group="text"),
    Measure("KANA_CER", "kana CER", "", "low", "the same on readings, blind to spelling", group="text"),
    Measure("WER", "WER", "", "low", "word errors of speech recognition per word said", group="text"),
    Measure("DNSMOS", "DNSMOS", "1-5", "high", "predicted opinion of the whole (DNSMOS P.835 OVRL)", group="mos"),
    Measure("DNSMOS_SIG", "DNSMOS speech", "1-5", "high", "predicted opinion of the speech (P.835 SIG)", group="mos"),
    Measure("DNSMOS_BAK", "DNSMOS noise", "1-5", "high", "predicted opinion of the silence (P.835 BAK)", group="mos"),
    Measure("DNSMOS_P808", "DNSMOS P.808", "1-5", "high", "predicted opinion of the whole (P.808)", group="mos"),
    Measure("SQUIM_STOI", "SQUIM STOI", "", "high", "intelligibility without a reference (SQUIM)", group="mos"),
    Measure("SQUIM_PESQ", "SQUIM PESQ", "", "high", "quality without a reference (SQUIM)", group="mos"),
    Measure("SQUIM_SISDR", "SQUIM SI-SDR", "dB", "high", "distortion without a reference (SQUIM)", group="mos"),
    Measure("SIM", "similarity", "", "high", "cosine between the voice and the target's mean voice", group="speaker"),
    Measure("SIM_SOURCE", "similarity to source", "", "low", "the same to the source's mean voice", group="speaker"),
)  # fmt: skip
"""Every measure there is, in the order of a table."""

BY_NAME: dict[str, Measure] = {measure.name: measure for measure in MEASURES}


def find_measure(name: str) -> Measure | None:
    """A measure by its name in any case; hyphens and blanks count as underscores."""
    wanted = name.strip().lower().replace("-", "_").replace(" ", "_")
    return next((measure for measure in MEASURES if measure.name.lower() == wanted), None)


@dataclass(frozen=True)
class Threshold:
    """A bound on a mean that must not be crossed: ``cer>0.2`` fails where the mean CER is above 0.2."""

    measure: Measure
    operator: str
    bound: float
    text: str

    def crossed(self, mean: float) -> bool:
        """Whether a mean fails; what is not defined fails, because nobody could rely on it."""
        return not math.isfinite(mean) or OPERATORS[self.operator](mean, self.bound)


def parse_threshold(text: str) -> Threshold:
    """Read ``NAME OPERATOR NUMBER``; a number may end in %.

    Raises:
        ValueError: with a message for people.
    """
    found = re.fullmatch(r"\s*([A-Za-z0-9_ -]+?)\s*(<=|>=|<|>)\s*(\S+?)(\s*%)?\s*", text)
    if found is None:
        raise ValueError(f"{text!r}: expected a measure, one of < <= > >=, and a number, like cer>0.2")
    name, sign, number, percent = found.groups()
    measure = find_measure(name)
    if measure is None:
        raise ValueError(f"{text!r}: no measure {name!r}; there are {', '.join(each.name for each in MEASURES)}")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ValueError(f"{text!r}: {number!r} is no number")
    return Threshold(measure, sign, bound / 100.0 if percent else bound, text.strip())


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
    ratios = np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = generator.integers(0, n, n)
        ratios[i] = numerators[drawn].sum() / weights[drawn].sum()
    low, high = np.percentile(ratios, PERCENTILES)
    return float(low), float(high)


def _wilcoxon(differences: FloatArray) -> float:
    from scipy.stats import wilcoxon

    if len(differences) < 2 or not np.isfinite(differences).all():
        return math.nan
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, zero_method="pratt", method="auto").pvalue)
