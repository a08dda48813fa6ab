"""One file to hear, see and compare conversions: how what stands on the page becomes HTML.

:func:`render` turns a :class:`~aasvc_cli.report.content.Page` into one HTML document that needs nothing else, neither
network nor neighbouring files. Text that comes from users (names, sentences, recognised words) is escaped everywhere; a
content-security policy keeps the document from loading or running anything but what it was written with.
"""

from __future__ import annotations

import base64
import bisect
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from aasvc_cli import __version__
from aasvc_cli.measures.statistics import SIGNIFICANCE, Difference, ErrorCounts
from aasvc_cli.measures.transcripts import Edit, Transcript
from aasvc_cli.report import drawing
from aasvc_cli.report.content import Alignment, Measure, Page, Take, Utterance

if TYPE_CHECKING:
    from jinja2 import Environment


SHOWN_EXTREMES = 3
"""Utterances named as best, and as many as worst."""
SHOWN_COLUMNS = 6
"""Measures that the table of utterances shows at first; the others can be switched on."""


def render(page: Page) -> str:
    """The page as one HTML document.

    Raises:
        ValueError: keys of measures or systems, or the recordings of an utterance, are not unique.
    """
    _check(page)
    ranks = rank(page)
    utterances = sorted(page.utterances, key=lambda u: (ranks.get(u.utterance_id, math.inf), u.utterance_id))
    values = {m.name: _values(page, m.name) for m in page.measures}
    return fill(
        "page.html.jinja",
        page=page,
        significance=SIGNIFICANCE,
        utterances=utterances,
        ranks=ranks,
        ranked=[m for m in page.measures if m.ranked],
        extremes=_extremes([u for u in utterances if u.utterance_id in ranks]),
        shown=_shown(page.measures),
        charts={m.name: _chart(page, m, values[m.name]) for m in page.measures},
        differences={d.measure.name: d for d in page.differences},
        verdicts={d.measure.name: _verdict(page, d) for d in page.differences},
        values=json.dumps({u.utterance_id: _sortable(u, ranks) for u in utterances}, allow_nan=False),
        anchors={u.utterance_id: f"utterance-{number}" for number, u in enumerate(utterances, start=1)},
        styles=drawing.styles(page.systems),
        pieces=_pieces,
        errors=_errors,
        legend_mark=drawing.legend_mark,
        legend_line=drawing.legend_line,
        views={u.utterance_id: view(u, page.f0_range) for u in utterances if u.takes},
        curves=[(each, [drawing.curve(c, each.best_step) for c in each.curves]) for each in page.trainings],
    )  # fmt: skip


def fill(template: str, **values: Any) -> str:
    """A document from one of the templates, with its script and style in it."""
    script = _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            version=__version__,
            script=script,
            style=_asset("page.css"),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **values,
        )
    )


def rank(page: Page) -> dict[str, int]:
    """Place of each utterance, 1 for the best: by the mean of its places in the ranked measures, over all systems.

    Utterances without any defined value have none.
    """
    places: dict[str, list[float]] = {}
    for system in page.judged:
        for measure in page.measures:
            if not measure.ranked:
                continue
            scored = [
                (measure.loss(value), u.utterance_id)
                for u in page.utterances
                if not math.isnan(value := u.scores.get(system.key, {}).get(measure.name, math.nan))
            ]
            values = sorted(loss for loss, _ in scored)
            for loss, utterance_id in scored:
                # equal values share the mean of their places; few values count as much as many
                place = (bisect.bisect_left(values, loss) + bisect.bisect_right(values, loss) - 1) / 2
                places.setdefault(utterance_id, []).append(place / max(1, len(values) - 1))
    order = sorted(places, key=lambda utterance_id: (statistics.fmean(places[utterance_id]), utterance_id))
    return {utterance_id: place for place, utterance_id in enumerate(order, start=1)}


@dataclass(frozen=True)
class TakeView:
    """A recording as the template needs it."""

    take: Take
    letter: str
    """The key that switches to it."""
    sound: str
    """data: URI"""
    picture: str | None
    """data: URI of the spectrogram"""
    f0_path: str
    line: str
    """Style of its F0 contour."""
    width: float
    """Percent of the longest recording of the utterance."""
    description: str


@dataclass(frozen=True)
class View:
    """An utterance as the template needs it."""

    takes: Sequence[TakeView]
    seconds: float
    ticks: Sequence[tuple[float, str]]
    """Percent and label."""
    pitch: Any
    alignments: Sequence[tuple[Alignment, str, str]]
    """With the picture as data: URI and the path."""


def view(utterance: Utterance, f0_range: tuple[float, float]) -> View:
    """The recordings and pictures of an utterance, ready for the template."""
    seconds = max(take.seconds for take in utterance.takes) or 1.0
    mels = [take.mel for take in utterance.takes if take.mel is not None and take.mel.size]
    colours = drawing.mel_range(mels)  # one range for all, so that loudness can be compared
    takes = [
        TakeView(
            take=take,
            letter=chr(ord("A") + index),
            sound=data_uri(take.sound.data, take.sound.media_type),
            picture=None if take.mel is None or not take.mel.size else _png(drawing.spectrogram(take.mel, *colours)),
            f0_path=drawing.f0_path(take.f0, f0_range),
            line=line,
            width=100.0 * take.seconds / seconds,
            description=describe(take),
        )
        for index, (take, line) in enumerate(zip(utterance.takes, drawing.contour_styles(utterance.takes), strict=True))
    ]
    return View(
        takes=takes,
        seconds=seconds,
        ticks=drawing.time_ticks(seconds),
        pitch=drawing.pitch(utterance.takes, seconds, f0_range),
        alignments=[
            (alignment, _png(drawing.matrix(alignment.weights)), drawing.alignment_path(alignment))
            for alignment in utterance.alignments
        ],
    )


def describe(take: Take) -> str:
    """The text alternative of a recording's picture."""
    what = {"source": "source", "conversion": f"conversion by {take.label}", "target": "target"}[take.role]
    text = f"Mel spectrogram of the {what}, {take.seconds:.2f} seconds"
    if take.f0 is None or not len(take.f0):
        return f"{text}."
    voiced = take.f0[take.f0 > 0]
    if not len(voiced):
        return f"{text}, without voiced frames."
    low, middle, high = np.percentile(voiced, [5, 50, 95])
    share = 100.0 * len(voiced) / len(take.f0)
    return f"{text}; F0 mostly {low:.0f} to {high:.0f} hertz, median {middle:.0f}; {share:.0f} % voiced."


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes inside the document."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _png(data: bytes) -> str:
    return data_uri(data, "image/png")


def _check(page: Page) -> None:
    for what, keys in (
        ("measures", [measure.name for measure in page.measures]),
        ("systems", [system.key for system in page.systems]),
        ("utterances", [utterance.utterance_id for utterance in page.utterances]),
    ):
        if len(set(keys)) < len(keys):
            raise ValueError(f"{what} of a page must differ, found {keys}")
    for utterance in page.utterances:
        players = [(take.role, take.system) for take in utterance.takes]
        if len(set(players)) < len(players):
            raise ValueError(f"{utterance.utterance_id}: one recording per role and system, found {players}")


def _values(page: Page, measure: str) -> dict[str, list[float]]:
    """Defined values of a measure by system."""
    return {
        system.key: [
            value
            for utterance in page.utterances
            if math.isfinite(value := utterance.scores.get(system.key, {}).get(measure, math.nan))
        ]
        for system in page.systems
    }


def _chart(page: Page, measure: Measure, values: Mapping[str, Sequence[float]]) -> Any:
    styles = drawing.styles(page.systems)
    lanes = [
        drawing.Lane(system.name, styles[system.key], system.means.get(measure.name), values[system.key])
        for system in page.systems
        if measure.name in system.means
    ]
    return drawing.distribution(measure, lanes)


def _sortable(utterance: Utterance, ranks: Mapping[str, int]) -> dict[str, float]:
    """What the script sorts and filters by; only what is defined."""
    values: dict[str, float] = {
        f"{system}/{measure}": value
        for system, scores in utterance.scores.items()
        for measure, value in scores.items()
        if math.isfinite(value)
    }
    place = ranks.get(utterance.utterance_id)
    return values if place is None else {"rank": place, **values}


def _pieces(transcript: Transcript) -> list[Edit]:
    """The edits of a transcript with what stands between them: a blank between words, nothing between characters."""
    if "".join(edit.reference for edit in transcript.edits) == transcript.reference:
        return list(transcript.edits)
    blank = Edit("equal", " ", " ")
    return [piece for edit in transcript.edits for piece in (blank, edit)][1:]


def _errors(transcript: Transcript) -> str:
    """The counts of a transcript in words, such as ``CER 0.125 (1 changed, 1 missing)``."""
    return "; ".join(_counted(name, counts) for name, counts in transcript.counts.items())


def _counted(name: str, counts: ErrorCounts) -> str:
    numbers = {"changed": counts.substitutions, "missing": counts.deletions, "added": counts.insertions}
    words = ", ".join(f"{number} {word}" for word, number in numbers.items() if number)
    rate = f"{counts.rate:.3f}" if counts.length else "not defined"
    return f"{name.replace('_', ' ').replace('KANA', 'kana')} {rate}" + (f" ({words})" if words else "")


def _verdict(page: Page, difference: Difference) -> str:
    """Which of the two systems is better in a measure, as far as the paired test tells."""
    if not difference.clear or not difference.better:
        return "no clear difference"
    return f"{page.judged[difference.better - 1].name} better"


def _extremes(ranked: Sequence[Utterance]) -> dict[str, Sequence[Utterance]]:
    """The best and the worst, none of them twice."""
    count = min(SHOWN_EXTREMES, len(ranked) // 2)
    return {"Best": ranked[:count], "Worst": ranked[::-1][:count]} if count else {}


def _shown(measures: Iterable[Measure]) -> set[str]:
    """Measures whose columns are visible at first."""
    chosen = [m.name for m in measures if m.shown]
    room = max(0, SHOWN_COLUMNS - len(chosen))
    return {*chosen, *[m.name for m in measures if m.shown is None][:room]}


def _breakable(name: str) -> Markup:
    """A name that may be broken where its parts meet."""
    return Markup("_<wbr>").join(name.split("_"))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    environment.filters["fixed"] = lambda value, digits=1: f"{value:.{digits}f}"
    return environment


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    """A file of the folder of templates."""
    return (resources.files("aasvc_cli") / "report" / "templates" / name).read_text(encoding="utf-8")
