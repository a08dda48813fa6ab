"""What is said in recordings, and in which language, as a recogniser hears it; what was heard before is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aasvc_cli.audio.files import read_audio
from aasvc_cli.measures.judges import Recogniser
from aasvc_cli.measures.transcripts import language_of_script
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.result_cache import ResultCache

N_HEARD = 5
"""Recordings that tell a language: of one sentence alone a recogniser may mistake it."""


@dataclass(frozen=True)
class Listener:
    """A recogniser that listens to recordings of one language.

    Attributes:
        language: two letters, such as ``ja``
        note: how the language came to be known, for users; empty if they named it
    """

    recogniser: Recogniser
    cache: ResultCache
    language: str
    note: str = ""

    def text(self, path: Path) -> str:
        """What is recognised in a recording. Raises DataError for one that cannot be read or heard."""
        key = _key(path, self.recogniser, language=self.language)
        heard = self.cache.tree("transcripts", key, lambda: self.recogniser.recognise(*read_audio(path), self.language))
        return str(heard)


def listener(
    recogniser: Recogniser,
    cache: ResultCache,
    language: str | None,
    texts: Iterable[str],
    recordings: Iterable[Path],
) -> Listener:
    """One for the language that was named, or else the one that the script of the texts or the recordings tell.

    Args:
        texts: what is said, as far as it is known
        recordings: of the target, who is the best to understand; the largest files that can be heard are listened to
    """
    if language is not None:
        return Listener(recogniser, cache, language)
    written = language_of_script(texts)
    if written is not None:
        return Listener(recogniser, cache, written)
    there = {path for path in recordings if path.is_file()}
    largest = sorted(there, key=lambda path: (-path.stat().st_size, path))
    heard = list(islice(_heard(recogniser, cache, largest), N_HEARD))
    chances = sum(map(Counter, heard), Counter[str]())
    language = max(chances, key=lambda code: (chances[code], code), default="en")
    by = f"by the sound ({chances[language] / len(heard):.0%} sure)" if chances else "as nothing was heard in them"
    note = f"recognised as {language}, {by}; another language: --language CODE"
    return Listener(recogniser, cache, language, note)


def _heard(recogniser: Recogniser, cache: ResultCache, recordings: Iterable[Path]) -> Iterator[Mapping[str, float]]:
    """The languages that recordings may be in, for each recording that can be heard."""

    def chances(path: Path) -> Mapping[str, float]:
        tree: Mapping[str, float] = cache.tree(
            "languages", _key(path, recogniser), lambda: dict(recogniser.languages(*read_audio(path)))
        )
        return tree

    for path in recordings:
        try:
            yield chances(path)
        except Exception:  # whatever it is, the recording is reported where its own turn comes
            continue


def _key(path: Path, recogniser: Recogniser, **more: str) -> dict[str, Any]:
    identity = {key: value for key, value in recogniser.description.items() if key != "model"}
    return {"content": file_sha256(path), "recogniser": identity, **more}
