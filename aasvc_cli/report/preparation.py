"""``aasvc prepare --report``: what the recordings of two speakers are like, to see and to hear, as one HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.quality import Quality
from aasvc_cli.data.excerpts import Cut
from aasvc_cli.data.manifest import Finding
from aasvc_cli.data.preparation import MeasuredPair, PrepareReport
from aasvc_cli.errors import AasvcError
from aasvc_cli.report import drawing
from aasvc_cli.report.collect import WIDE_F0_RANGE, drawn_range, f0_contour, take
from aasvc_cli.report.content import Take, Utterance
from aasvc_cli.report.page import fill, view

OnProgress = Callable[[int, int], None]

SHOWN_PAIRS = 20
"""Pairs that can be heard on the page."""
LONGEST_SECONDS = 60.0
"""A longer recording has no player."""
F0_RECORDINGS = 40
"""Recordings of each speaker whose F0 is looked at, evenly spread."""
_F0_POINTS = 2000


@dataclass(frozen=True, eq=False)
class Doubtful:
    """A pair to listen to.

    Attributes:
        numbers: term and value of what was measured on it
        left_out: not in the prepared set
    """

    utterance: Utterance
    reasons: Sequence[str]
    numbers: Sequence[tuple[str, str]]
    left_out: bool


@dataclass(frozen=True, eq=False)
class PreparationPage:
    """Everything that stands on the page.

    Attributes:
        facts: term and description, for the head of the page
        notes: advice, a sentence each
        doubtful: the worst pairs, the worst first
        cuts: long pairs, with their drawings
        left_out: name, code and message of what is not in the set
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    charts: Sequence[drawing.CurveView]
    doubtful: Sequence[Doubtful]
    cuts: Sequence[Cut]
    left_out: Sequence[Finding]
    f0_range: tuple[float, float]


def preparation_page(report: PrepareReport, on_progress: OnProgress | None = None) -> PreparationPage:
    """The page of a preparation; recordings that vanished meanwhile have no player."""
    chosen = worst_pairs(report)
    doubtful = []
    for done, pair in enumerate(chosen, start=1):
        doubtful.append(_doubtful(pair, report))
        if on_progress is not None:
            on_progress(done, len(chosen))
    contours = [each.f0 for one in doubtful for each in one.utterance.takes if each.f0 is not None]
    n_pairs = ", ".join(f"{count} {name}" for name, count in report.n_pairs.items())
    return PreparationPage(
        title=f"Recordings of {report.name}",
        lead=f"{n_pairs} pairs of {report.source_speaker} (source) and {report.target_speaker} (target).",
        facts=_facts(report),
        notes=report.advice,
        charts=_charts(report),
        doubtful=doubtful,
        cuts=report.cuts,
        left_out=[finding for finding in report.findings if finding.excluded],
        f0_range=drawn_range(contours),
    )


def render_preparation(page: PreparationPage) -> str:
    """The page as one HTML document."""
    return fill(
        "preparation.html.jinja",
        page=page,
        views={each.utterance.utterance_id: view(each.utterance, page.f0_range) for each in page.doubtful},
        timelines={cut.utterance_id: _timeline(cut) for cut in page.cuts},
    )


def worst_pairs(report: PrepareReport, count: int = SHOWN_PAIRS) -> list[MeasuredPair]:
    """Pairs in which something was noticed, those that were left out or have other words first; then by misfit."""
    severity: dict[tuple[str, str], int] = {}
    for finding in report.findings:
        key = finding.set, finding.utterance_id
        grave = 2 if finding.excluded or finding.code == "different_words" else 1
        severity[key] = max(grave, severity.get(key, 0))
    ordered = sorted(
        report.measured,
        key=lambda pair: (-severity.get((pair.set, pair.utterance_id), 0), -(pair.misfit or 0.0), pair.utterance_id),
    )
    return ordered[:count]


def _doubtful(pair: MeasuredPair, report: PrepareReport) -> Doubtful:
    findings = [each for each in report.findings if (each.set, each.utterance_id) == (pair.set, pair.utterance_id)]
    takes: list[Take] = []
    reasons = [each.message for each in findings] or ["nothing was noticed, but others fit better"]
    for role, path, seconds in zip(("source", "target"), pair.paths, pair.seconds, strict=True):
        if seconds > LONGEST_SECONDS:
            reasons.append(f"the {role} is too long for a player here")
            continue
        try:
            takes.append(take(role, role, path))  # type: ignore[arg-type]
        except AasvcError as error:
            reasons.append(str(error))
    levels = " and ".join("–" if each.loudness is None else f"{each.loudness:.0f}" for each in pair.qualities)
    numbers = [
        ("length ratio", f"{pair.seconds[1] / max(pair.seconds[0], 1e-9):.2f}"),
        ("level", f"{levels} LUFS"),
        ("bandwidth", " and ".join(f"{each.bandwidth / 1000:.1f}" for each in pair.qualities) + " kHz"),
    ]
    if pair.misfit is not None:
        numbers.insert(0, ("misfit", f"{pair.misfit:.2f}"))
    utterance = Utterance(pair.utterance_id, pair.text or "", takes=takes)
    return Doubtful(utterance, reasons, numbers, any(each.excluded for each in findings))


def _facts(report: PrepareReport) -> list[tuple[str, str]]:
    codes = Counter(finding.code for finding in report.findings if finding.excluded)
    noted = Counter(finding.code for finding in report.findings if not finding.excluded and finding.utterance_id)
    facts = [
        ("Matched", ", ".join(f"{count} by {rule}" for rule, count in report.matched_by.items())),
        ("Speech", f"{report.source_seconds / 60:.1f} and {report.target_seconds / 60:.1f} minutes"),
        ("Left out", _counted(codes) or "nothing"),
        ("Noticed", _counted(noted) or "nothing"),
        ("Silence trimmed", f"{report.trimmed_seconds:.0f} s"),
        ("Long pairs cut", str(report.n_cut)),
        ("Sample rate", f"{report.sample_rate} Hz"),
    ]
    return [fact for fact in facts if fact[1] not in ("0", "0 s")]


def _counted(codes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in Counter(codes).most_common())


def _charts(report: PrepareReport) -> list[drawing.CurveView]:
    pairs = [pair for pair in report.measured if pair.good]
    sides = ("source", "target")
    qualities = {side: [pair.qualities[index] for pair in pairs] for index, side in enumerate(sides)}
    charts = [
        drawing.histogram(
            "Length", "s", {side: [pair.seconds[index] for pair in pairs] for index, side in enumerate(sides)}
        ),
        drawing.histogram("Length ratio", "", {"both": [pair.seconds[1] / pair.seconds[0] for pair in pairs]}),
        drawing.histogram("Misfit", "", {"both": [pair.misfit for pair in pairs if pair.misfit is not None]}),
        drawing.histogram(
            "Level",
            "LUFS",
            {side: _levels(listed) for side, listed in qualities.items()},
        ),
        drawing.histogram(
            "Bandwidth", "kHz", {side: [each.bandwidth / 1000 for each in listed] for side, listed in qualities.items()}
        ),
        drawing.histogram("F0", "Hz", {side: _f0(pairs, index) for index, side in enumerate(sides)}),
    ]
    return [chart for chart in charts if chart.caption != "no values"]


def _levels(qualities: Sequence[Quality]) -> list[float]:
    return [each.loudness for each in qualities if each.loudness is not None]


def _f0(pairs: Sequence[MeasuredPair], side: int) -> list[float]:
    """F0 of the voiced frames of some recordings, in Hz."""
    voiced = []
    for pair in pairs[:: max(1, len(pairs) // F0_RECORDINGS)][:F0_RECORDINGS]:
        try:
            contour = f0_contour(*read_audio(pair.paths[side]), WIDE_F0_RANGE)
        except AasvcError:
            continue
        voiced.append(contour[contour > 0])
    frames = np.concatenate(voiced) if voiced else np.zeros(0)
    return [float(value) for value in frames[:: max(1, len(frames) // _F0_POINTS)]]


def _timeline(cut: Cut) -> Markup:
    pieces = [
        ((piece.source.start, piece.source.stop), (piece.target.start, piece.target.stop), not piece.fault)
        for piece in cut.pieces.values()
    ]
    return drawing.cut_timeline(cut.seconds, pieces)
