"""What both sides of a pair say, as speech recognition hears it, and how far apart that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.data.wording import Verdict
from aasvc_cli.measures.recognition import Listener
from aasvc_cli.measures.transcripts import align, normalise

DIFFERENT = 0.5
"""Difference of two texts from which on they are no longer two hearings of one: recognition errs on both sides."""
UNLIKE = 0.25


@dataclass(frozen=True)
class SpokenTexts:
    """What was recognised on both sides of a pair.

    Attributes:
        difference: edits for each character of the longer text, after normalisation: 0 for the same text, 1 at most
    """

    source: str
    target: str
    difference: float

    @property
    def verdict(self) -> Verdict:
        """What the pair is, as far as recognition tells."""
        return "wrong" if self.difference >= DIFFERENT else "near" if self.difference >= UNLIKE else ""


def spoken_texts(
    pairs: Sequence[ParallelPair],
    listener: Listener,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[SpokenTexts]:
    """Recognise both sides of each pair, in order."""
    for done, pair in enumerate(pairs, start=1):
        source, target = listener.text(pair.source), listener.text(pair.target)
        if on_progress is not None:
            on_progress(done, len(pairs))
        yield SpokenTexts(source, target, difference(source, target, listener.language))


def difference(one: str, other: str, language: str) -> float:
    """Edits between two texts for each character of the longer one; 0 if both are empty."""
    left, right = normalise(one, language), normalise(other, language)
    edits = sum(kind != "equal" for kind, _, _ in align(left, right))
    return edits / max(1, len(left), len(right))
