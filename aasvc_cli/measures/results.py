"""The outcome of an evaluation: one system with its utterances, and two systems side by side.

``to_tree`` gives the JSON of ``aasvc evaluate --json``. Its keys are stable; :data:`FORMAT` counts changes that would
break a reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aasvc_cli.measures.catalogue import BY_NAME, MEASURES, Measure, Threshold
from aasvc_cli.measures.signal import AnalysisSettings, F0Range
from aasvc_cli.measures.statistics import Difference, ErrorCounts, Summary, compare
from aasvc_cli.measures.transcripts import Transcript

FORMAT = 2


@dataclass(frozen=True)
class Failure:
    """An utterance that could not be scored (or not completely), and why."""

    utterance_id: str
    reason: str

    def to_tree(self) -> dict[str, str]:
        """JSON-able."""
        return {"id": self.utterance_id, "reason": self.reason}


@dataclass(frozen=True)
class Skipped:
    """Measures that were left out.

    Attributes:
        what: which ones, for people.
        reason: one line that says why, or how to get them.
    """

    what: str
    reason: str

    def to_tree(self) -> dict[str, str]:
        """JSON-able."""
        return {"what": self.what, "reason": self.reason}


@dataclass(frozen=True)
class UtteranceScores:
    """One scored utterance.

    Attributes:
        scores: measure name -> value; NaN where it is not defined, for instance F0 without voiced frames.
        baseline: the unconverted source recording against the same target, where that was asked for.
        ceiling: measures of a single recording (error rates, opinions, similarity) taken from the target's own.
        text: the sentence as written; None if no text is known.
        transcript: what speech recognition heard in the conversion.
        target_transcript: what it heard in the target recording.
    """

    utterance_id: str
    converted: Path
    target: Path
    sample_rate: int
    scores: Mapping[str, float]
    source: Path | None = None
    baseline: Mapping[str, float] | None = None
    ceiling: Mapping[str, float] | None = None
    text: str | None = None
    transcript: Transcript | None = None
    target_transcript: Transcript | None = None

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; null where a measure is not defined."""
        tree: dict[str, Any] = {
            "id": self.utterance_id,
            "converted": str(self.converted),
            "target": str(self.target),
            "source": None if self.source is None else str(self.source),
            "sample_rate": self.sample_rate,
            "scores": finite(self.scores),
        }
        if self.baseline is not None:
            tree["baseline"] = finite(self.baseline)
        if self.ceiling is not None:
            tree["ceiling"] = finite(self.ceiling)
        if self.text is not None:
            tree["text"] = self.text
        if self.transcript is not None:
            tree["transcript"] = self.transcript.to_tree()
        if self.target_transcript is not None:
            tree["target_transcript"] = self.target_transcript.to_tree()
        return tree


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of one system on a set of utterances.

    Attributes:
        name: of the run and set, or the folder.
        f0_range: None if no signal measure was asked for.
        folder: the model folder, if it is a run.
        log: its training log, if there is one.
        definitions: of the signal measures, in words, by mode.
        analysis: the analysis behind the signal measures, one per mode and sample rate.
        recogniser: what recognised the speech, and how; None if nothing did.
        corpus: measure name -> mean over utterances with interval.
        by_source: the same for each source speaker, if there are several.
        baseline: the same for the unconverted source recordings; None if not asked for.
        ceiling: the same for the target recordings, where a measure needs one recording only.
        failures: what could not be scored; never counted in the means.
        skipped: measures that were left out, and why.
        notes: what a reader of the scores should know besides, one line each.
        without_target: converted recordings without a target recording.
        without_conversion: target recordings that nothing was converted for.
        path: the JSON file, if one was written.
        unsaved: why it could not be written; empty if it was, or none was meant to be.
    """

    name: str
    f0_range: F0Range | None
    definitions: Mapping[str, str]
    analysis: tuple[AnalysisSettings, ...]
    utterances: tuple[UtteranceScores, ...]
    corpus: Mapping[str, Summary]
    by_source: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    baseline: Mapping[str, Summary] | None = None
    ceiling: Mapping[str, Summary] | None = None
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    without_target: tuple[str, ...] = ()
    without_conversion: tuple[str, ...] = ()
    recogniser: Mapping[str, Any] | None = None
    folder: Path | None = None
    log: Path | None = None
    set_name: str | None = None
    prepared: str | None = None
    path: Path | None = None
    unsaved: str = ""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures of this result, in the order of a table."""
        return tuple(measure for measure in MEASURES if measure.name in self.corpus)

    @property
    def n_failed(self) -> int:
        """Utterances of which something could not be scored."""
        return len({failure.utterance_id for failure in self.failures})

    @property
    def undefined(self) -> dict[str, list[str]]:
        """Measure name -> ids of the utterances for which it is not defined; measures without any are left out."""
        names = {}
        for measure in self.measures:
            ids = [u.utterance_id for u in self.utterances if not math.isfinite(u.scores.get(measure.name, math.nan))]
            if ids:
                names[measure.name] = ids
        return names

    def worst(self, name: str, count: int) -> list[UtteranceScores]:
        """The utterances that a measure finds worst, worst first; undefined ones are left out."""
        measure = BY_NAME[name]
        defined = [each for each in self.utterances if math.isfinite(each.scores.get(name, math.nan))]
        return sorted(defined, key=lambda each: (-measure.loss(each.scores[name]), each.utterance_id))[:count]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; null where a measure is not defined."""
        tree: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "model": None if self.folder is None else str(self.folder),
            "log": None if self.log is None else str(self.log),
            "prepared": self.prepared,
            "set": self.set_name,
            "definitions": dict(self.definitions),
            "analysis": [settings.to_tree() for settings in self.analysis],
            "f0_range": None if self.f0_range is None else self.f0_range.to_tree(),
            "recogniser": None if self.recogniser is None else dict(self.recogniser),
            "measures": [measure.to_tree() for measure in self.measures],
            "n_scored": len(self.utterances),
            "n_failed": self.n_failed,
            "corpus": _summaries(self.corpus),
        }
        if self.by_source:
            tree["by_source"] = {speaker: _summaries(each) for speaker, each in self.by_source.items()}
        if self.baseline is not None:
            tree["baseline"] = _summaries(self.baseline)
        if self.ceiling is not None:
            tree["ceiling"] = _summaries(self.ceiling)
        tree["utterances"] = [utterance.to_tree() for utterance in self.utterances]
        tree["undefined"] = self.undefined
        tree["failures"] = [failure.to_tree() for failure in self.failures]
        tree["skipped"] = [skipped.to_tree() for skipped in self.skipped]
        tree["notes"] = list(self.notes)
        tree["without_target"] = list(self.without_target)
        tree["without_conversion"] = list(self.without_conversion)
        return tree

    def rows(self) -> Iterator[list[str | float]]:
        """The table of utterances: a heading, then one row each; NaN where a measure is not defined."""
        return _table([self], [measure.name for measure in self.measures])


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances.

    Attributes:
        differences: second minus first per measure that both have.
        only_first, only_second: utterances that one system alone has; no difference counts them.
    """

    first: EvaluateResult
    second: EvaluateResult
    differences: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def systems(self) -> tuple[EvaluateResult, EvaluateResult]:
        """Both, in order."""
        return self.first, self.second

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; null where something is not defined."""
        return {
            "format": FORMAT,
            "systems": [system.to_tree() for system in self.systems],
            "differences": [finite(difference.to_tree()) for difference in self.differences],
            "test": "paired bootstrap for the interval, Wilcoxon signed-rank test (two-sided, Pratt) for p",
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }

    def rows(self) -> Iterator[list[str | float]]:
        """The tables of both systems, one below the other, with the same columns."""
        return _table(
            self.systems, [m.name for m in MEASURES if any(m.name in system.corpus for system in self.systems)]
        )


def counted(number: int, what: str) -> str:
    """How many there are of something that takes an s for more than one: ``1 pair``, ``2 pairs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def finite(tree: Mapping[str, Any]) -> dict[str, Any]:
    """None instead of NaN, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in tree.items()
    }


def _table(systems: Sequence[EvaluateResult], names: Sequence[str]) -> Iterator[list[str | float]]:
    """A heading, then one row per utterance of each system."""
    yield ["system", "id", *names, "text", "recognised", "converted", "target"]
    for system in systems:
        for each in system.utterances:
            values = [each.scores.get(name, math.nan) for name in names]
            recognised = each.transcript.text if each.transcript else ""
            paths = [str(each.converted), str(each.target)]
            yield [system.name, each.utterance_id, *values, each.text or "", recognised, *paths]


def _summaries(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return {name: finite(summary.to_tree()) for name, summary in summaries.items()}


def compare_results(first: EvaluateResult, second: EvaluateResult, *, seed: int = 0) -> Comparison:
    """Two systems on the utterances that both have, measure by measure."""
    of_first = {each.utterance_id: each for each in first.utterances}
    of_second = {each.utterance_id: each for each in second.utterances}
    shared = sorted(of_first.keys() & of_second.keys())
    differences = []
    for measure in first.measures:
        if measure.name not in second.corpus or not shared:
            continue
        a, b = ([side[name].scores.get(measure.name, math.nan) for name in shared] for side in (of_first, of_second))
        weights = None
        if measure.group == "text":
            weights = [float(_length(of_first[name], measure.name)) for name in shared]
        differences.append(compare(measure, a, b, weights=weights, seed=seed))
    return Comparison(
        first, second, tuple(differences), tuple(sorted(of_first.keys() - of_second.keys())),
        tuple(sorted(of_second.keys() - of_first.keys())),
    )  # fmt: skip


def crossed(result: EvaluateResult, thresholds: Sequence[Threshold]) -> list[str]:
    """One line for each threshold that a result crosses. A measure that was not computed counts as crossed."""
    lines = []
    for threshold in thresholds:
        summary = result.corpus.get(threshold.measure.name)
        if summary is None:
            lines.append(f"{threshold.text}: {threshold.measure.title} was not computed")
        elif threshold.crossed(summary.mean):
            value = f"{summary.mean:.6g}" if math.isfinite(summary.mean) else "not defined"
            lines.append(f"{threshold.text}: {threshold.measure.title} is {value}")
    return lines


def _length(utterance: UtteranceScores, name: str) -> int:
    counts: ErrorCounts | None = utterance.transcript.counts.get(name) if utterance.transcript else None
    return 0 if counts is None else counts.length
