"""What both sides of a pair say, as speech recognition hears it, and how far apart that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aasvc_cli.audio.files import read_audio
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.data.wording import Verdict
from aasvc_cli.measures.judges import Recogniser
from aasvc_cli.measures.transcripts import align, guess_language, normalise
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.result_cache import ResultCache

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
    recogniser: Recogniser,
    language: str | None,
    cache: ResultCache,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[SpokenTexts]:
    """Recognise both sides of each pair, in order; what was recognised before is kept.

    Args:
        language: two letters; None to guess it from the script of the pairs' texts
    """
    code = language or guess_language([pair.text or "" for pair in pairs])
    identity = {key: value for key, value in recogniser.description.items() if key != "model"}

    def recognised(path: Path) -> str:
        key = {"content": file_sha256(path), "language": code, "recogniser": identity}
        return str(cache.tree("transcripts", key, lambda: recogniser.recognise(*read_audio(path), code)))

    for done, pair in enumerate(pairs, start=1):
        source, target = recognised(pair.source), recognised(pair.target)
        yield SpokenTexts(source, target, difference(source, target, code))
        if on_progress is not None:
            on_progress(done, len(pairs))


def difference(one: str, other: str, language: str) -> float:
    """Edits between two texts for each character of the longer one; 0 if both are empty."""
    left, right = normalise(one, language), normalise(other, language)
    edits = sum(kind != "equal" for kind, _, _ in align(left, right))
    return edits / max(1, len(left), len(right))
