"""Blind listening tests: which sounds are asked about in which order, and what the answers say.

A test compares systems on the utterances that all of them have. Systems are never named to listeners; their order is
drawn anew for each listener from the seed of the test. Among the questions are hidden anchors, a recording of which
only what lies below 3.5 kHz is left (as in ITU-R BS.1534): who prefers it, or rates it best, was not listening.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal

from aasvc_cli.errors import DataError
from aasvc_cli.measures.statistics import Summary, summarise

Question = Literal["preference", "mos"]
ANCHOR = "anchor"
"""Stands for a system among the others."""
ANCHOR_HZ = 3500.0
ANCHOR_EVERY = 5
"""One utterance in so many has a question with the anchor."""
NEITHER = "neither"
CHOICES: Mapping[str, tuple[str, ...]] = {
    "preference": ("first", "second", NEITHER), "mos": ("1", "2", "3", "4", "5")
}  # fmt: skip
"""What a listener may answer."""


@dataclass(frozen=True)
class Trial:
    """One question.

    Attributes:
        utterance: name of the recordings
        first, second: systems in the order in which they are heard; ``second`` is empty where one is rated
        origin: the system that an anchor is made of; empty without one
    """

    utterance: str
    first: str
    second: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Answer:
    """What a listener said: a line of the file of answers.

    Attributes:
        question: ``preference`` or ``mos``
        answer: of :data:`CHOICES`
        seconds: from hearing the question to the answer
    """

    listener: str
    question: str
    seed: int
    trial: int
    utterance: str
    first: str
    second: str
    answer: str
    seconds: float


COLUMNS = tuple(field.name for field in fields(Answer))


@dataclass(frozen=True)
class Verdict:
    """What all answers say of one system, or of one against another.

    Attributes:
        against: the other system of a preference; empty for a rating
        summary: the mean rating, or the share that prefers ``system`` (who hears no difference counts half for each),
            with a 95 % bootstrap interval
    """

    question: str
    system: str
    against: str
    summary: Summary


def plan(
    utterances: Sequence[str], systems: Sequence[str], question: Question, seed: int, listener: str
) -> list[Trial]:
    """All questions of a listener, in an order that is the same whenever it is asked for.

    Args:
        utterances: that all systems have
        systems: two or more for a preference
    """
    draw = random.Random(f"{seed} {listener}")
    trials = [trial for utterance in utterances for trial in _questions(utterance, systems, question)]
    trials += [
        Trial(utterance, origin, ANCHOR, origin) if question == "preference" else Trial(utterance, ANCHOR, "", origin)
        for utterance in utterances[::ANCHOR_EVERY]
        for origin in [draw.choice(list(systems))]
    ]
    draw.shuffle(trials)
    trials = list(_balanced(trials))
    draw.shuffle(trials)
    return trials


def _balanced(trials: Iterable[Trial]) -> Iterator[Trial]:
    """Each system of a pair is the first one in every other of their questions."""
    turned: dict[frozenset[str], bool] = {}
    for trial in trials:
        pair = frozenset((trial.first, trial.second))
        turned[pair] = not turned.get(pair, False)
        swapped = trial.second and (turned[pair] != (trial.first < trial.second))
        yield Trial(trial.utterance, trial.second, trial.first, trial.origin) if swapped else trial


def _questions(utterance: str, systems: Sequence[str], question: Question) -> Iterator[Trial]:
    if question == "mos":
        yield from (Trial(utterance, system) for system in systems)
    else:
        yield from (Trial(utterance, one, other) for one, other in itertools.combinations(systems, 2))


def to_csv(answers: Iterable[Answer]) -> str:
    """Answers as the text of a file."""
    return _csv(COLUMNS, (astuple(answer) for answer in answers))


def from_csv(text: str, name: str) -> list[Answer]:
    """The answers in the text of a file.

    Args:
        name: of the file, for messages

    Raises:
        DataError: it is none of these files, or a line has a fault.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{name}: not readable as CSV ({error})") from None
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DataError(f"{name}: no answers of a listening test; expected the columns {','.join(COLUMNS)}")
    answers = []
    for number, row in enumerate(rows, start=2):
        try:
            answer = Answer(
                row["listener"], row["question"], int(row["seed"]), int(row["trial"]), row["utterance"], row["first"],
                row["second"], row["answer"], float(row["seconds"]),
            )  # fmt: skip
        except (TypeError, ValueError):
            raise DataError(f"{name}: line {number} is no answer; take it out") from None
        if answer.answer not in CHOICES.get(answer.question, ()):
            raise DataError(
                f"{name}: line {number}: {answer.question[:20]} cannot be answered with {answer.answer[:20]!r}"
            )
        answers.append(answer)
    return answers


def verdicts(answers: Iterable[Answer]) -> list[Verdict]:
    """What the answers say, the anchors as a system of their own; a rating first, then preferences."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for each in answers:
        if each.question == "mos":
            values.setdefault(("mos", each.first, ""), []).append(float(each.answer))
            continue
        share = {"first": 1.0, "second": 0.0}.get(each.answer, 0.5)
        one, other = sorted((each.first, each.second), key=lambda system: (system == ANCHOR, system))
        values.setdefault(("preference", one, other), []).append(share if one == each.first else 1.0 - share)
    return [Verdict(*key, summarise(scores)) for key, scores in sorted(values.items())]


def verdicts_csv(verdicts: Iterable[Verdict]) -> str:
    """Verdicts as the text of a file."""
    rows = (
        (v.question, v.system, v.against, v.summary.mean, v.summary.low, v.summary.high, v.summary.n) for v in verdicts
    )
    return _csv(("question", "system", "against", "mean", "low", "high", "n"), rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
