"""Sentences that come with recordings."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from aasvc_cli.storage.files import storage_error

_SHOWN_CHARACTERS = 40


def read_texts(folder: Path, on_note: Callable[[str], None] | None = None) -> dict[str, str]:
    """Sentences by utterance id from ``text/<set>.txt`` of a speaker; empty without any.

    A line is ``<id> <sentence>``, with a space, a tab or ``|`` between the two; UTF-8, or UTF-16 that says so.

    Args:
        on_note: called with a sentence that names a file which is not of this form, which then has no texts
    """
    texts: dict[str, str] = {}
    for path in sorted((folder / "text").glob("*.txt")):
        if path.name.startswith("."):
            continue
        content = decoded(path)
        if content is None:
            if on_note:
                on_note(f"{path}: not UTF-8, so its sentences are left out; convert it with iconv -f ENCODING -t UTF-8")
            continue
        others = []
        for line in filter(None, map(str.strip, content.splitlines())):
            utterance_id, sentence = _split(line)
            if sentence:
                texts[utterance_id] = sentence
            else:
                others.append(line)
        if others and on_note:
            on_note(
                f"{path}: {len(others)} lines are not of the form ID SENTENCE, e.g. {others[0][:_SHOWN_CHARACTERS]!r}"
            )
    return texts


def decoded(path: Path) -> str | None:
    """A text file as text, None if it is neither UTF-8 nor UTF-16 with a byte order mark; raises StorageError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise storage_error("read", path, error) from None
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        return None


def _split(line: str) -> tuple[str, str]:
    utterance_id, _, sentence = line.replace("\t", " ").partition(" ")
    if "|" in utterance_id:
        # as in the metadata of LJSpeech, whose third column is the second one normalised
        utterance_id, _, sentence = line.partition("|")
        sentence = sentence.partition("|")[0]
    return utterance_id.strip(), sentence.strip()
