"""Word and character errors of a recognised text against the reference.

Texts are normalised for their language first, so that only differences that one can hear count:

Japanese and other languages without blanks between words
    NFKC, lower case, nothing but letters, marks and digits; errors count characters. For Japanese the readings can be
    compared as well, which forgives 綺麗 for きれい.
English
    Whisper's normaliser, as in most published error rates: no asides, fillers and punctuation, contractions written
    out, numbers as digits, American spelling; errors count words, and characters with one blank between words.
Others
    NFKC, lower case, no punctuation; words and characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from aasvc_cli.errors import MissingExtraError
from aasvc_cli.measures.statistics import ErrorCounts

EditKind = Literal["equal", "substitute", "delete", "insert"]
INSERT, DELETE, BOTH = range(3)
"""Steps of an alignment, by the texts that go on."""

Reader = Callable[[str], str]
"""Japanese text -> katakana as pronounced."""

WITHOUT_BLANKS = frozenset({"ja", "zh", "yue", "th", "lo", "km", "my", "bo"})
"""Languages whose writing has no blanks between words."""

KANJI_DIGITS = "零一二三四五六七八九"


@dataclass(frozen=True)
class Edit:
    """One run of tokens in the alignment of two texts.

    Attributes:
        reference: tokens of the reference, joined; empty for an insertion.
        recognised: tokens of the recognised text, joined; empty for a deletion.
    """

    kind: EditKind
    reference: str
    recognised: str

    def to_tree(self) -> list[str]:
        """JSON-able: [kind, reference, recognised]."""
        return [self.kind, self.reference, self.recognised]


@dataclass(frozen=True)
class Transcript:
    """The recognised text of one recording, against the reference.

    Attributes:
        text: as recognised.
        reference, recognised: both sides after normalisation.
        counts: edits by the name of the measure (CER, KANA_CER, WER).
        edits: the alignment of the normalised texts, in characters (Japanese and the like) or words.
    """

    text: str
    reference: str
    recognised: str
    counts: dict[str, ErrorCounts]
    edits: tuple[Edit, ...]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "text": self.text,
            "reference": self.reference,
            "recognised": self.recognised,
            "counts": {name: counts.to_tree() for name, counts in self.counts.items()},
            "edits": [edit.to_tree() for edit in self.edits],
        }


def align(reference: Sequence[str], recognised: Sequence[str]) -> list[tuple[EditKind, str, str]]:
    """The alignment with the fewest edits; among equally good ones substitutions come before insertions and deletions.

    Returns:
        (kind, token of the reference or "", recognised token or "") in order.
    """
    n, m = len(reference), len(recognised)
    numbers = {token: number for number, token in enumerate({*reference, *recognised})}
    heard = np.array([numbers[token] for token in recognised], dtype=np.int64)
    places = np.arange(m + 1)
    above = places
    steps = np.full((n + 1, m + 1), INSERT, dtype=np.uint8)  # a byte a cell, as texts may be long
    steps[1:, 0] = DELETE
    for i in range(1, n + 1):
        diagonal = above[:-1] + (heard != numbers[reference[i - 1]])
        row = np.concatenate([[i], np.minimum(diagonal, above[1:] + 1)])
        row = np.minimum.accumulate(row - places) + places  # insertions add one a place
        steps[i, 1:][row[1:] == above[1:] + 1] = DELETE
        steps[i, 1:][row[1:] == diagonal] = BOTH
        above = row
    edits: list[tuple[EditKind, str, str]] = []
    i, j = n, m
    while i or j:
        if steps[i, j] == BOTH:
            i, j = i - 1, j - 1
            same = reference[i] == recognised[j]
            edits.append(("equal" if same else "substitute", reference[i], recognised[j]))
        elif steps[i, j] == DELETE:
            i -= 1
            edits.append(("delete", reference[i], ""))
        else:
            j -= 1
            edits.append(("insert", "", recognised[j]))
    return edits[::-1]


def count_edits(alignment: Sequence[tuple[EditKind, str, str]]) -> ErrorCounts:
    """Substitutions, deletions and insertions of an alignment."""
    kinds = [kind for kind, _, _ in alignment]
    return ErrorCounts(
        kinds.count("substitute"), kinds.count("delete"), kinds.count("insert"), len(kinds) - kinds.count("insert")
    )


def group_edits(alignment: Sequence[tuple[EditKind, str, str]], joint: str = "") -> tuple[Edit, ...]:
    """Neighbouring edits of one kind put together; ``joint`` stands between tokens."""
    runs: list[tuple[EditKind, list[str], list[str]]] = []
    for kind, reference, recognised in alignment:
        if not runs or runs[-1][0] != kind:
            runs.append((kind, [], []))
        runs[-1][1].append(reference)
        runs[-1][2].append(recognised)
    return tuple(Edit(kind, joint.join(left), joint.join(right)) for kind, left, right in runs)


def transcript(reference: str, recognised: str, language: str, reader: Reader | None = None) -> Transcript:
    """The error counts and edits of one recognised text.

    Args:
        reference: the sentence.
        recognised: the recognised text.
        language: two-letter code.
        reader: gives readings, for the kana error rate of Japanese.
    """
    left, right = normalise(reference, language), normalise(recognised, language)
    characters = align(left, right)
    counts = {"CER": count_edits(characters)}
    if language in WITHOUT_BLANKS:
        edits = group_edits(characters)
    else:
        words = align(left.split(), right.split())
        counts["WER"] = count_edits(words)
        edits = group_edits(words, " ")
    if language == "ja" and reader is not None:
        counts["KANA_CER"] = count_edits(align(reading(reference, reader), reading(recognised, reader)))
    return Transcript(recognised, left, right, counts, edits)


def language_of_script(texts: Iterable[str]) -> str | None:
    """``ja`` for texts with kana, ``zh`` for Chinese characters alone, ``ko`` for Hangul; None for other scripts, in
    which many languages are written."""
    joined = "".join(texts)
    if re.search("[\u3041-\u30ff]", joined):
        return "ja"
    if re.search("[\uac00-\ud7a3]", joined):
        return "ko"
    return "zh" if re.search("[\u4e00-\u9fff]", joined) else None


def normalise(text: str, language: str) -> str:
    """A text reduced to what is audible, by the rules of its language.

    Raises:
        MissingExtraError: for English without the package whisper-normalizer.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    if language in WITHOUT_BLANKS:
        return unicodedata.normalize("NFKC", "".join(c for c in text if unicodedata.category(c)[0] in "LMN"))
    text = text.replace("\u2019", "'")
    if language == "en":
        return _english_normaliser()(text).strip()
    kept = (c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in text)
    return " ".join(unicodedata.normalize("NFKC", "".join(kept)).split())


def reading(text: str, reader: Reader) -> str:
    """Katakana of a Japanese text, numbers read as words, without punctuation."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"[0-9]+", lambda digits: _kanji_number(digits[0]), text)
    kana = "".join(chr(ord(c) + 0x60) if "\u3041" <= c <= "\u3096" else c for c in reader(text))
    return normalise(kana, "ja")


@lru_cache(maxsize=1)
def _english_normaliser() -> Callable[[str], str]:
    """Whisper's own; raises MissingExtraError."""
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise MissingExtraError("whisper-normalizer is not installed; run: pip install 'aasvc[asr]'") from None
    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser


def _kanji_number(digits: str) -> str:
    """A number as Japanese writes it in words; digit by digit where that has no end."""
    value = int(digits)
    if len(digits) > 16 or (len(digits) > 1 and digits[0] == "0"):
        return "".join(KANJI_DIGITS[int(digit)] for digit in digits)
    if not value:
        return KANJI_DIGITS[0]
    written = ""
    for power, name in ((12, "兆"), (8, "億"), (4, "万"), (0, "")):
        group = value // 10**power % 10**4
        if not group:
            continue
        for digit, unit in zip(f"{group:04d}", ("千", "百", "十", ""), strict=True):
            if digit != "0":
                written += ("" if digit == "1" and unit else KANJI_DIGITS[int(digit)]) + unit
        written += name
    return written
