"""Every measure: name, unit, direction, meaning, and what is needed to compute it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

Best = Literal["low", "high", "zero", "one"]
Group = Literal["signal", "text", "mos", "speaker"]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


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
    def mode(self) -> str:
        """The definition of the signal measures that brings it along; empty for other groups."""
        return self.definition or ("corrected" if self.group == "signal" else "")

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
        """Whether a mean fails; an undefined one fails, too."""
        return not math.isfinite(mean) or OPERATORS[self.operator](mean, self.bound)


def parse_threshold(text: str) -> Threshold:
    """Read ``NAME OPERATOR NUMBER``; a number may end in %.

    Raises:
        ValueError: with a message for people.
    """
    match = re.fullmatch(r"\s*([A-Za-z0-9_ -]+?)\s*(<=|>=|<|>)\s*(\S+?)(\s*%)?\s*", text)
    if match is None:
        raise ValueError(f"{text!r}: expected a measure, one of < <= > >=, and a number, like cer>0.2")
    name, sign, number, percent = match.groups()
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
