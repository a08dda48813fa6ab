"""Sentences of recordings, from text files in the forms that corpora come in."""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aasvc_cli.audio.files import AUDIO_SUFFIXES
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import storage_error

EXPECTED = "expected lines <id> <sentence>"
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LEGACY_ENCODINGS = (("EUC-JP", "euc_jp"), ("Shift-JIS", "cp932"), ("GB 18030", "gb18030"))
"""Guessed at in this order where a file is not UTF-8: names for people (and for iconv), and for Python."""
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Sentences:
    """The sentences of one file.

    Attributes:
        by_id: sentence by utterance id, in composed Unicode (NFC) and without the suffix of a recording.
        unread: numbers of the lines that are not ``<id> <sentence>``; blank lines do not count.
    """

    by_id: Mapping[str, str]
    unread: Sequence[int] = ()


def read_sentences(path: Path) -> Sentences:
    """Sentences by utterance id, one a line.

    UTF-8, or UTF-16 or UTF-32 with a byte order mark. Between id and sentence stands one thing in the whole file: a
    tab, ``|``, a comma (quotes as in CSV), a colon as in JSUT, or blanks of any width. Further columns, such as the
    normalised text of LJSpeech, are not read.

    Raises:
        StorageError: it cannot be read.
        DataError: not text in one of these encodings, no sentences, or two sentences for one id.
    """
    rows = list(_rows(path, decoded(path)))
    by_id: dict[str, str] = {}
    lines: dict[str, int] = {}
    unread = []
    for number, columns in rows:
        utterance_id, sentence = utterance_name(columns[0]), columns[1].strip() if len(columns) > 1 else ""
        if not utterance_id or not sentence:
            unread.append(number)
        elif by_id.setdefault(utterance_id, sentence) != sentence:
            raise DataError(
                f"{path}: lines {lines[utterance_id]} and {number} have different sentences for {utterance_id}; "
                "expected one"
            )
        else:
            lines.setdefault(utterance_id, number)
    if not by_id:
        first = f"; line {rows[0][0]} is {_shortened(rows[0][1][0])}" if rows else ""
        raise DataError(f"{path}: no sentences{first}; {EXPECTED}")
    return Sentences(by_id, tuple(unread))


def read_texts(folder: Path, on_note: Callable[[str], None] | None = None) -> dict[str, str]:
    """Sentences by utterance id from ``text/<set>.txt`` of a speaker; empty without any.

    Args:
        on_note: called with a sentence for each file that has no texts because of its form, and for each with lines
            that are not read; without it, such a file is an error.
    """
    texts: dict[str, str] = {}
    for path in sorted((folder / "text").glob("*.txt")):
        if path.name.startswith("."):
            continue
        try:
            sentences = read_sentences(path)
        except DataError as error:
            if on_note is None:
                raise
            on_note(f"{error}; its sentences are left out")
            continue
        texts |= sentences.by_id
        if sentences.unread and on_note is not None:
            on_note(unread_note(path, sentences))
    return texts


def unread_note(path: Path, sentences: Sentences) -> str:
    """A sentence about the lines of a file that are not read."""
    numbers = ", ".join(map(str, sentences.unread[:3])) + (", ..." if len(sentences.unread) > 3 else "")
    return f"{path}: {len(sentences.unread)} lines are not <id> <sentence>: {numbers}"


def utterance_name(name: str) -> str:
    """An utterance id as recordings have it: composed accents, forward slashes, no suffix."""
    name = unicodedata.normalize("NFC", name.strip().strip("\ufeff")).replace("\\", "/")
    path = PurePosixPath(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in AUDIO_SUFFIXES else name


def sentences_of(names: Iterable[str], by_id: Mapping[str, str]) -> dict[str, str]:
    """The sentences of recordings: by their id, or else by its last part where that is the only one of this name."""
    by_stem: dict[str, list[str]] = {}
    for utterance_id in by_id:
        by_stem.setdefault(utterance_id.rsplit("/", 1)[-1], []).append(utterance_id)
    sentences = {}
    for name in names:
        alike = by_stem.get(name.rsplit("/", 1)[-1], [])
        key = name if name in by_id else alike[0] if len(alike) == 1 else None
        if key is not None:
            sentences[name] = by_id[key]
    return sentences


def decoded(path: Path) -> str:
    """A text file as text; raises StorageError, or DataError for an encoding that it does not name."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MB, which no list of sentences is; {EXPECTED}")
        data = path.read_bytes()
    except OSError as error:
        raise storage_error("read", path, error) from None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not {encoding.removesuffix('-sig').upper()} text (line {line}){_guess(data)}"
        ) from None
    if "\0" in text:
        raise DataError(f"{path}: not text, or UTF-16 without a byte order mark; save it as UTF-8")
    return text


def _guess(data: bytes) -> str:
    """What a file that is not UTF-8 seems to be, and how to convert it."""
    for name, encoding in LEGACY_ENCODINGS:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        japanese = sum("\u3041" <= letter <= "\u30ff" for letter in text)
        if japanese or (encoding == "gb18030" and any("\u4e00" <= letter <= "\u9fff" for letter in text)):
            return f"; it looks like {name}: iconv -f {name.replace(' ', '')} -t UTF-8"
    return "; save it as UTF-8 (Latin-1: iconv -f ISO-8859-1 -t UTF-8)"


def _rows(path: Path, text: str) -> Iterable[tuple[int, list[str]]]:
    """Line number and columns of every line that is not blank."""
    # not splitlines(), which also ends lines at characters that may stand in a sentence
    lines = [(n, line) for n, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1) if line.strip()]
    split = _splitter([line for _, line in lines], path.suffix.lower())
    for number, line in lines:
        yield number, split(line)


def _splitter(lines: Sequence[str], suffix: str) -> Callable[[str], list[str]]:
    """How the lines of a file come apart: by what separates the first column in all of them, or else by blanks."""
    for separator in ("\t", "|"):
        if all(separator in line for line in lines):
            return lambda line: _columns(line, separator)
    if suffix == ".csv" or all(re.match(r'\s*("[^"]*"|[^\s,":]+)\s*,', line) for line in lines):
        return lambda line: _columns(line, ",")
    if all(re.match(r"\s*[^\s:,]+:\s*\S", line) for line in lines):
        return lambda line: line.split(":", 1)
    return lambda line: line.split(None, 1)


def _columns(line: str, separator: str) -> list[str]:
    """Columns of one line, with the quotes of CSV where it begins with one of them or commas separate."""
    if separator == "," or line.lstrip().startswith('"'):
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return line.split(separator)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
