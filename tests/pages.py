"""Small pages with sounds that are made up, for the tests of the report."""

from __future__ import annotations

import math
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import soundfile

from aasvc_cli.audio.quality import Quality
from aasvc_cli.data.analysis import Excerpt
from aasvc_cli.data.cutting import Piece
from aasvc_cli.data.excerpts import Cut
from aasvc_cli.data.manifest import Finding
from aasvc_cli.data.preparation import MeasuredPair, PrepareReport
from aasvc_cli.measures.statistics import Difference, ErrorCounts, Summary
from aasvc_cli.measures.transcripts import Edit, Transcript
from aasvc_cli.report.collect import f0_contour, sound
from aasvc_cli.report.content import (
    Alignment,
    Curve,
    Measure,
    Page,
    Sound,
    System,
    Take,
    Training,
    Utterance,
)

RATE = 16000
MEASURES = (
    Measure("mcd", "MCD", "dB", "low", "mel-cepstral distortion"),
    Measure("corr", "F0CORR", "", "high", "correlation of F0"),
    Measure("rate", "rate ratio", "", "one", "speaking rate", ranked=False),
)
SCORES = {
    "first": {"mcd": 5.0, "corr": 0.9, "rate": 1.1},
    "second": {"mcd": 6.5, "corr": 0.5, "rate": 0.9},
    "third": {"mcd": 6.0, "corr": math.nan, "rate": 1.0},
}


def tone(seconds: float, f0: float) -> np.ndarray:
    """A buzz with overtones that fades in and out."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * f0 * k * time) / k for k in range(1, 8))
    return (0.2 * wave * np.sin(np.pi * time / seconds) ** 0.5).astype(np.float32)


@cache
def recording(seconds: float, f0: float) -> tuple[Sound, np.ndarray]:
    """A tone as a page holds it, and its contour; made once, as every page of these tests has the same few."""
    wave = tone(seconds, f0)
    return sound(wave, RATE), f0_contour(wave, RATE, (60.0, 500.0))


def take(role: str, seconds: float, f0: float, *, label: str = "", system: str = "", **rest: object) -> Take:
    """A recording of a tone."""
    mel = np.random.default_rng(0).normal(size=(round(seconds * 50), 8))
    heard, contour = recording(seconds, f0)
    return Take(role, label or role, seconds, heard, system, mel, contour.copy(), **rest)  # type: ignore[arg-type]


def utterance(name: str, text: str, systems: list[str], seconds: float = 1.5) -> Utterance:
    """Source, one conversion per system, target; each a little longer than the one before."""
    edits = (Edit("equal", "good", "good"), Edit("substitute", "dog", "frog"), Edit("delete", "gy", ""))
    counts = {"WER": ErrorCounts(substitutions=1, deletions=1, insertions=0, length=3)}
    heard = Transcript("Good frog", "good dog gy", "good frog", counts, edits)
    conversions = [
        take("conversion", seconds * (1.1 + 0.1 * i), 200, label=key, system=key, transcript=heard)
        for i, key in enumerate(systems)
    ]
    takes = [take("source", seconds, 110), *conversions, take("target", seconds * 1.4, 220)]
    scores = {key: {m: v + 0.5 * i for m, v in SCORES.get(name, {}).items()} for i, key in enumerate(systems)}
    path = [round(i * 5 / 19) for i in range(20)]
    weights = np.full((20, 6), 0.02)
    weights[range(20), path] = 0.9
    return Utterance(name, text, scores, takes, [Alignment("", weights, path)])


def page(n_systems: int = 1, names: dict[str, str] | None = None, **rest: object) -> Page:
    """A page of one or two systems.

    Args:
        names: utterance -> text; by default those of SCORES
    """
    keys = ["one", "two"][:n_systems]
    texts = names or {name: f"sentence of {name}" for name in SCORES}
    estimates = {m.name: Summary(5.0, 4.5, 5.5, 3, 0) for m in MEASURES}
    fields: dict[str, object] = {
        "title": "a run",
        "lead": "to hear",
        "facts": [("Data", "some")],
        "measures": MEASURES,
        "systems": [
            *[System(key, key, "", estimates) for key in keys],
            System("source", "source", "", estimates, True),
        ],
        "differences": [Difference(MEASURES[0], 5.0, 5.5, 0.5, 0.2, 0.8, 0.01, 1, 3)] if n_systems == 2 else [],
        "test": "a paired test" if n_systems == 2 else "",
        "utterances": [utterance(name, text, keys) for name, text in texts.items()],
        "trainings": [Training("one", [Curve("l1", [(1, 2.0), (2, 1.0)], [(2, 1.5)])], 2)],
        "f0_range": (60.0, 400.0),
        "notes": ["something was left out"],
    }
    return Page(**{**fields, **rest})  # type: ignore[arg-type]


VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}


class Element:
    """An element of a parsed document."""

    def __init__(self, tag: str, attributes: dict[str, str | None], parent: Element | None):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element] = []
        self.text = ""
        """Its own text and that of its children."""

    def find(self, tag: str, **attributes: str) -> list[Element]:
        """All elements below with that tag (any for an empty one) and attributes; class means one of the classes."""
        found = []
        for child in self.children:
            classes = (child.attributes.get("class") or "").split()
            fits = all(
                value in classes if key == "class_" else child.attributes.get(key.replace("_", "-")) == value
                for key, value in attributes.items()
            )
            if (not tag or child.tag == tag) and fits:
                found.append(child)
            found += child.find(tag, **attributes)
        return found

    def inside(self, tag: str) -> bool:
        """Whether an element of that tag is around this one."""
        return self.parent is not None and (self.parent.tag == tag or self.parent.inside(tag))


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.current = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        element = Element(tag, dict(attrs), self.current)
        self.current.children.append(element)
        if tag not in VOID:
            self.current = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.current.children.append(Element(tag, dict(attrs), self.current))

    def handle_endtag(self, tag: str) -> None:
        assert self.current.tag == tag, f"</{tag}> closes <{self.current.tag}>, line {self.getpos()[0]}"
        assert self.current.parent is not None
        self.current = self.current.parent

    def handle_data(self, data: str) -> None:
        element: Element | None = self.current
        while element is not None:
            element.text += data
            element = element.parent


def parse(html: str) -> Element:
    """The tree of a document whose elements are all closed in order; anything else fails."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert builder.current is builder.root, f"<{builder.current.tag}> is never closed"
    return builder.root


def preparation(folder: Path, *, name: str = "one", message: str = "costs too much") -> PrepareReport:
    """What prepare says of three pairs of tones below a folder, of which the first is doubtful, and of a long pair.

    Args:
        name, message: of the doubtful pair
    """
    measured = []
    for index, utterance_id in enumerate((name, "two", "three")):
        paths = folder / f"source{index}.wav", folder / f"target{index}.wav"
        for path, f0 in zip(paths, (110.0, 220.0), strict=True):
            soundfile.write(path, tone(3.0 + 0.1 * index, f0), RATE)
        qualities = tuple(Quality(1.0, RATE, 0.2, 0.0, level, 7000.0, 0.0, 1.0, ()) for level in (-20.0 - index, -25.0))
        seconds = 0.8 + 0.1 * index, 0.8 + 0.1 * index
        misfit = (1.0, 0.2, 0.1)[index]
        measured.append(MeasuredPair(utterance_id, "", "words", paths, qualities, seconds, True, misfit))  # type: ignore[arg-type]
    pieces = {
        "long-1": Piece(Excerpt(0.0, 4.0), Excerpt(0.0, 5.0)),
        "long-2": Piece(Excerpt(4.5, 6.0), Excerpt(5.5, 6.0), "is only in one of the two recordings"),
    }
    findings = (
        Finding(name, "", "", "different_words", False, message),
        Finding("long-2", "", "", "piece", True, "is only in one of the two recordings"),
    )
    return PrepareReport(
        name="pages", manifest=folder / "manifest.json", report=folder / "report.json", source_speaker="anna",
        target_speaker="bob", n_pairs={"train": 2, "dev": 1, "eval": 0}, n_matched=4, matched_by={"path": 4},
        source_seconds=100.0, target_seconds=110.0, trimmed_seconds=3.0,
        cuts=(Cut("long", "", (6.0, 7.0), pieces),), ranking=None, findings=findings, measured=tuple(measured),
        advice=("listen to the first pair",), sample_rate=RATE, batch_size=4, frames_per_token=4, n_breaking=0,
        smallest_frames_per_token=1, n_computed=8, n_fresh=0, analysed_seconds=210.0, elapsed_seconds=1.0,
    )  # fmt: skip
