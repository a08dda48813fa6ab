"""Word and character errors of a recognised text against what was to be said.

Texts are normalised for their language first, so that only differences that one can hear count:

Japanese and other languages without blanks between words
    NFKC, lower case, nothing but letters, marks and digits; errors count characters. For Japanese the readings can be
    compared as well, which forgives 綺麗 for きれい.
English
    in the manner of Whisper's normaliser: no brackets, fillers and punctuation, contractions written out, numbers as
    digits; errors count words, and characters with one blank between words.
Others
    NFKC, lower case, no punctuation; words and characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aasvc_cli.measures.statistics import ErrorCounts

EditKind = Literal["equal", "substitute", "delete", "insert"]

Reader = Callable[[str], str]
"""Japanese text -> katakana as pronounced."""

WITHOUT_BLANKS = frozenset({"ja", "zh", "yue", "th", "lo", "km", "my", "bo"})
"""Languages whose writing has no blanks between words."""

CONTRACTIONS = {
    "won't": "will not", "can't": "can not", "shan't": "shall not", "let's": "let us", "ain't": "aint",
    "y'all": "you all", "o'clock": "oclock", "cannot": "can not", "gonna": "going to", "wanna": "want to",
    "gotta": "got to", "n't": " not", "'re": " are", "'ll": " will", "'ve": " have", "'m": " am", "'d": " would",
    "it's": "it is", "that's": "that is", "there's": "there is", "what's": "what is", "he's": "he is",
    "she's": "she is", "who's": "who is", "where's": "where is", "here's": "here is", "how's": "how is",
}  # fmt: skip
TITLES = {"mr": "mister", "mrs": "missus", "ms": "miss", "dr": "doctor", "st": "saint", "prof": "professor"}
FILLERS = frozenset({"hmm", "mm", "mhm", "mmm", "uh", "um", "uhm", "er", "ah"})
UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
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
    """What speech recognition heard in one recording, against the reference.

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
    rows = [list(range(m + 1))]
    for i in range(1, n + 1):
        above, row = rows[-1], [i]
        for j in range(1, m + 1):
            diagonal = above[j - 1] + (reference[i - 1] != recognised[j - 1])
            row.append(min(diagonal, above[j] + 1, row[j - 1] + 1))
        rows.append(row)
    found: list[tuple[EditKind, str, str]] = []
    i, j = n, m
    while i or j:
        same = i > 0 and j > 0 and reference[i - 1] == recognised[j - 1]
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (not same):
            i, j = i - 1, j - 1
            found.append(("equal" if same else "substitute", reference[i], recognised[j]))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            found.append(("delete", reference[i], ""))
        else:
            j -= 1
            found.append(("insert", "", recognised[j]))
    return found[::-1]


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


def transcript(reference: str, heard: str, language: str, reader: Reader | None = None) -> Transcript:
    """Everything there is to say about one recognised text.

    Args:
        reference: what was to be said.
        heard: what was recognised.
        language: two-letter code.
        reader: gives readings, for the kana error rate of Japanese.
    """
    left, right = normalise(reference, language), normalise(heard, language)
    characters = align(left, right)
    counts = {"CER": count_edits(characters)}
    if language in WITHOUT_BLANKS:
        edits = group_edits(characters)
    else:
        words = align(left.split(), right.split())
        counts["WER"] = count_edits(words)
        edits = group_edits(words, " ")
    if language == "ja" and reader is not None:
        counts["KANA_CER"] = count_edits(align(reading(reference, reader), reading(heard, reader)))
    return Transcript(heard, left, right, counts, edits)


def guess_language(texts: Sequence[str]) -> str:
    """``ja`` for texts with kana, ``zh`` for Chinese characters alone, else ``en``."""
    joined = "".join(texts)
    if re.search("[\u3041-\u30ff]", joined):
        return "ja"
    return "zh" if re.search("[\u4e00-\u9fff]", joined) else "en"


def normalise(text: str, language: str) -> str:
    """A text without what cannot be heard, for its language."""
    text = unicodedata.normalize("NFKC", text).lower()
    if language in WITHOUT_BLANKS:
        return unicodedata.normalize("NFKC", "".join(c for c in text if unicodedata.category(c)[0] in "LMN"))
    if language == "en":
        return _normalised_english(text)
    text = text.replace("\u2019", "'")
    kept = (c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in text)
    return " ".join(unicodedata.normalize("NFKC", "".join(kept)).split())


def reading(text: str, reader: Reader) -> str:
    """Katakana of a Japanese text, numbers read as words, without punctuation."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"[0-9]+", lambda digits: _kanji_number(digits[0]), text)
    kana = "".join(chr(ord(c) + 0x60) if "\u3041" <= c <= "\u3096" else c for c in reader(text))
    return normalise(kana, "ja")


def _normalised_english(text: str) -> str:
    text = text.replace("\u2019", "'").replace("`", "'")
    text = re.sub(r"[<\[(][^>\])]*[>\])]", " ", text)  # asides such as [applause]
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    for short, long in CONTRACTIONS.items():
        before = "" if short[0] == "'" or short == "n't" else r"\b"
        text = re.sub(rf"{before}{short}\b", long, text)
    text = text.replace("%", " percent ").replace("&", " and ")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c)[0] != "M")
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", text)
    text = re.sub(r"'(?=s\b)", "", text)  # possessives
    words = re.sub(r"[^a-z0-9]+", " ", text).split()
    words = [TITLES.get(word, word) for word in words if word not in FILLERS]
    return " ".join(_numbers_as_digits(words))


def _numbers_as_digits(words: Sequence[str]) -> list[str]:
    """Runs of number words as one number: "two hundred and five" -> 205."""
    found: list[str] = []
    i = 0
    while i < len(words):
        end, value = _number_at(words, i)
        if end == i:
            found.append(words[i])
            i += 1
        else:
            found.append(str(value))
            i = end
    return found


def _number_at(words: Sequence[str], start: int) -> tuple[int, int]:
    """The longest number that starts at a word: (one past its last word, value)."""
    total, part, i = 0, 0, start
    step = 0  # value of the word before, so that "five six" stays two numbers
    while i < len(words):
        word = words[i]
        if word in UNITS and (i == start or step >= 100 or (step >= 20 and 0 < UNITS[word] < 10)):
            part, step = part + UNITS[word], UNITS[word]
        elif word in TENS and (i == start or step >= 100):
            part, step = part + TENS[word], TENS[word]
        elif word == "hundred" and i > start and 0 < part < 100:
            part, step = part * 100, 100
        elif word in SCALES and i > start and part:
            total, part, step = total + part * SCALES[word], 0, 1000
        elif word == "and" and step >= 100 and i + 1 < len(words) and (words[i + 1] in UNITS or words[i + 1] in TENS):
            pass
        else:
            break
        i += 1
    return i, total + part


def _kanji_number(digits: str) -> str:
    """A number as Japanese writes it in words; digit by digit where that has no end."""
    value = int(digits)
    if len(digits) > 16 or (len(digits) > 1 and digits[0] == "0"):
        return "".join(KANJI_DIGITS[int(digit)] for digit in digits)
    if not value:
        return KANJI_DIGITS[0]
    found = ""
    for power, name in ((12, "兆"), (8, "億"), (4, "万"), (0, "")):
        group = value // 10**power % 10**4
        if not group:
            continue
        for digit, unit in zip(f"{group:04d}", ("千", "百", "十", ""), strict=True):
            if digit != "0":
                found += ("" if digit == "1" and unit else KANJI_DIGITS[int(digit)]) + unit
        found += name
    return found
