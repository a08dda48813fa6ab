"""What a page shows, as plain data that knows nothing of folders, runs or models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aasvc_cli.measures import catalogue
from aasvc_cli.measures.listening import Verdict
from aasvc_cli.measures.statistics import Difference, Summary
from aasvc_cli.measures.transcripts import Transcript

Array = npt.NDArray[np.floating[Any]]
Role = Literal["source", "conversion", "target"]


@dataclass(frozen=True)
class Measure(catalogue.Measure):
    """A measure as the page shows it.

    Attributes:
        digits: after the point
        ranked: counts in the ranking of utterances
        shown: has a column in the table of utterances from the start; None leaves it to the page
    """

    digits: int = 2
    ranked: bool = True
    shown: bool | None = None

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return {"low": "lower is better", "high": "higher is better", "zero": "best at 0", "one": "best at 1"}[
            self.best
        ]

    def text(self, value: float | None) -> str:
        """A value for people; a dash where it is not defined."""
        if value is None or not math.isfinite(value):
            return "–"
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}".replace("-", "−")  # + 0.0: no minus before zero


@dataclass(frozen=True)
class System:
    """One column of the summary: a converter, or a reference to hold it against.

    Attributes:
        key: unique on the page
        note: what it is, in one line
        means: measure name -> mean
        reference: not judged itself, such as the unconverted source or the target's own recordings
    """

    key: str
    name: str
    note: str = ""
    means: Mapping[str, Summary] = field(default_factory=dict)
    reference: bool = False


@dataclass(frozen=True)
class Sound:
    """A recording, encoded for a browser."""

    data: bytes
    media_type: str


@dataclass(frozen=True, eq=False)
class Take:
    """One recording of an utterance.

    Attributes:
        label: of the player, such as a system's name
        system: key of the system that made it; empty for source and target
        mel: (T, M) log-mel spectrogram
        f0: (F,) in Hz over the whole recording, 0 where unvoiced
    """

    role: Role
    label: str
    seconds: float
    sound: Sound
    system: str = ""
    mel: Array | None = None
    f0: Array | None = None
    transcript: Transcript | None = None


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which token of the source a model hears at each frame of the target.

    Attributes:
        weights: (T, K) probabilities
        path: (T,) token of each frame on the best monotonic path
    """

    label: str
    weights: Array
    path: Sequence[int]


@dataclass(frozen=True, eq=False)
class Utterance:
    """One sentence: its scores, and its recordings if the page has room for them.

    Attributes:
        scores: system key -> measure name -> value
        takes: source, conversions, target, as far as there are any; at most one of a role and system
    """

    utterance_id: str
    text: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    takes: Sequence[Take] = ()
    alignments: Sequence[Alignment] = ()


@dataclass(frozen=True)
class Curve:
    """One number over the steps of a training: (step, value) of training and of dev set."""

    name: str
    train: Sequence[tuple[int, float]] = ()
    dev: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Training:
    """The course of a training."""

    name: str
    curves: Sequence[Curve]
    best_step: int | None = None


@dataclass(frozen=True, eq=False)
class Page:
    """Everything that stands on the page.

    Attributes:
        facts: term and description, for the head of the page
        f0_range: lowest and highest F0 drawn, in Hz
        notes: what a reader must know, such as what was left out
    """

    title: str
    lead: str = ""
    facts: Sequence[tuple[str, str]] = ()
    measures: Sequence[Measure] = ()
    systems: Sequence[System] = ()
    differences: Sequence[Difference] = ()
    utterances: Sequence[Utterance] = ()
    test: str = ""
    """Of the differences, in words."""
    trainings: Sequence[Training] = ()
    f0_range: tuple[float, float] = (60.0, 500.0)
    notes: Sequence[str] = ()
    by_source: Mapping[str, Mapping[str, Mapping[str, Summary]]] = field(default_factory=dict)
    """Name of a system -> source speaker -> measure name -> mean; of systems that several speakers went through."""
    listening: Sequence[Verdict] = ()
    """Of a blind listening test."""

    @property
    def judged(self) -> list[System]:
        """The systems without the references."""
        return [system for system in self.systems if not system.reference]
