"""Tables of an evaluation: drawn by Rich on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

import io
import math
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aasvc_cli.measures.catalogue import Measure
    from aasvc_cli.measures.results import Comparison, EvaluateResult, UtteranceScores
    from aasvc_cli.measures.statistics import Summary
    from aasvc_cli.measures.transcripts import Edit

WORST = 3
"""Utterances whose texts are shown, worst first."""


def score_lines(result: EvaluateResult) -> list[str]:
    """Scores per utterance in blocks of related measures, the texts recognised worst, then the means."""
    lines: list[str] = []
    for title, measures in _blocks(result):
        rows = [["utterance", *(measure.heading for measure in measures)]]
        rows += [
            [utterance.utterance_id, *(_number(_score(utterance, measure)) for measure in measures)]
            for utterance in result.utterances
        ]
        lines += [*draw(rows, title), ""]
    worst = list(_worst_texts(result))
    if worst:
        lines += [*worst, ""]
    return lines + summary_lines(result)


def summary_lines(result: EvaluateResult) -> list[str]:
    """One line per measure: mean, interval, the same of the unconverted and of the target recordings."""
    sides = [("unconverted", result.baseline), ("target itself", result.ceiling)]
    shown = [(title, summaries) for title, summaries in sides if summaries]
    rows = [["measure", "mean", "95 % interval", *(title for title, _ in shown), "n", "meaning"]]
    for measure in result.measures:
        summary = result.corpus[measure.name]
        others = [_number(summaries[measure.name].mean) if measure.name in summaries else "" for _, summaries in shown]
        meaning = _good(measure) + measure.meaning + _counts(summary)
        rows.append(
            [measure.heading, _number(summary.mean), _interval(summary.low, summary.high), *others, str(summary.n),
             meaning]
        )  # fmt: skip
    return draw(rows, result.name, left=(0, len(rows[0]) - 1)) + _source_lines(result)


def _source_lines(result: EvaluateResult) -> list[str]:
    """The means of each source speaker, one line per measure; none if there is only one."""
    if not result.by_source:
        return []
    rows = [["measure", *result.by_source]]
    for measure in result.measures:
        summaries = [each.get(measure.name) for each in result.by_source.values()]
        rows.append([measure.heading, *("" if each is None else _number(each.mean) for each in summaries)])
    return ["", *draw(rows, "mean by source speaker")]


def comparison_lines(comparison: Comparison) -> list[str]:
    """Both systems measure by measure, and whether the difference is more than chance."""
    first, second = (system.name for system in comparison.systems)
    rows = [["measure", "first", "second", "difference", "95 % interval", "p", "n", "better"]]
    rows += [
        [
            each.measure.heading, _number(each.first), _number(each.second), _signed(each.difference),
            _interval(each.low, each.high), "" if math.isnan(each.p) else f"{each.p:.3g}", str(each.n),
            ("neither", "first", "second")[each.better] + ("" if each.clear or not each.better else ", not clearly"),
        ]
        for each in comparison.differences
    ]  # fmt: skip
    title = f"first: {first}, second: {second} (p: Wilcoxon signed-rank test, interval: paired bootstrap)"
    return draw(rows, title, left=(0, len(rows[0]) - 1))


def draw(rows: Sequence[Sequence[str]], title: str, left: Sequence[int] = (0,)) -> list[str]:
    """A table whose first row is its heading; columns named in ``left`` start at the left."""
    if sys.stdout.isatty():
        return _rich(rows, title, left)
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [title]
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - _width(cell))
            cells.append(cell + blank if column in left else blank + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def marked(edits: Sequence[Edit], joint: str = "") -> str:
    """An alignment in one line: [-what was not heard-]{+what was heard instead+}."""
    parts = []
    for edit in edits:
        if edit.kind == "equal":
            parts.append(edit.reference)
            continue
        gone = f"[-{edit.reference}-]" if edit.reference else ""
        came = f"{{+{edit.recognised}+}}" if edit.recognised else ""
        parts.append(gone + came)
    return joint.join(parts)


def _rich(rows: Sequence[Sequence[str]], title: str, left: Sequence[int]) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column, heading in enumerate(rows[0]):
        table.add_column(Text(heading), justify="left" if column in left else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size((100, 24)).columns
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.rstrip("\n").split("\n")]


def _blocks(result: EvaluateResult) -> Iterator[tuple[str, list[Measure]]]:
    titles = {
        "published": result.definitions.get("published", ""),
        "corrected": result.definitions.get("corrected", ""),
        "": "further measures",
    }
    for definition, title in titles.items():
        measures = [measure for measure in result.measures if measure.definition == definition]
        if measures:
            yield title, measures


def _worst_texts(result: EvaluateResult) -> Iterator[str]:
    name = next((name for name in ("WER", "CER") if name in result.corpus), None)
    if name is None:
        return
    joint = " " if name == "WER" else ""
    for utterance in result.worst(name, WORST):
        if utterance.transcript is not None and utterance.scores[name] > 0:
            text = marked(utterance.transcript.edits, joint)
            yield f"{utterance.utterance_id}: {name} {utterance.scores[name]:.3f}: {text}"


def _score(utterance: UtteranceScores, measure: Measure) -> float:
    return utterance.scores.get(measure.name, math.nan)


def _good(measure: Measure) -> str:
    return {"low": "low is good: ", "high": "high is good: ", "zero": "zero is good: ", "one": "one is good: "}[
        measure.best
    ]


def _counts(summary: Summary) -> str:
    if summary.counts is None:
        return ""
    counts = summary.counts
    return (
        f"; {counts.substitutions} substituted, {counts.deletions} deleted, {counts.insertions} inserted of "
        f"{counts.length}"
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3f}"


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low:.3f} .. {high:.3f}"


def _width(text: str) -> int:
    """Columns on a terminal; full-width characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c))
