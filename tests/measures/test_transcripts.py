"""Edit distances against brute force; texts that sound alike are alike."""

from __future__ import annotations

import sys
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.errors import MissingExtraError
from aasvc_cli.measures import transcripts
from aasvc_cli.measures.judges import japanese_reader
from aasvc_cli.measures.statistics import ErrorCounts
from aasvc_cli.measures.transcripts import (
    Edit,
    align,
    count_edits,
    group_edits,
    language_of_script,
    normalise,
    reading,
    transcript,
)
from tests.examples import examples

WORDS = st.text("abc", max_size=7)


def distance(left: str, right: str) -> int:
    """Levenshtein distance by its definition."""

    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = left[i - 1] == right[j - 1]
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (not same))

    return between(len(left), len(right))


# -- alignment


@given(WORDS, WORDS)
@examples(200)
def test_an_alignment_has_the_fewest_edits_and_spells_both_texts(left, right):
    alignment = align(left, right)
    counts = count_edits(alignment)
    assert counts.errors == distance(left, right)
    assert counts.length == len(left)
    assert "".join(reference for _, reference, _ in alignment) == left
    assert "".join(recognised for _, _, recognised in alignment) == right
    for kind, reference, recognised in alignment:
        assert (kind == "equal") == (reference == recognised)


@given(WORDS, WORDS)
@examples(50)
def test_exchanging_the_texts_exchanges_insertions_and_deletions(left, right):
    forth, back = count_edits(align(left, right)), count_edits(align(right, left))
    assert forth.errors == back.errors
    assert forth.insertions - forth.deletions == back.deletions - back.insertions == len(right) - len(left)


def test_neighbouring_edits_are_shown_as_one():
    assert group_edits(align("abcd", "axyd")) == (
        Edit("equal", "a", "a"), Edit("substitute", "bc", "xy"), Edit("equal", "d", "d"),
    )  # fmt: skip
    assert group_edits(align(["a", "b"], ["b"]), " ") == (Edit("delete", "a", ""), Edit("equal", "b", "b"))


# -- normalisation


def test_english_that_sounds_alike_is_alike():
    alike = {
        "Don't you KNOW it?": "do not you know it",
        "It's Mr. Smith's café": "it is mister smith's cafe",
        "twenty-one": "21",
        "two hundred and five people": "205 people",
        "one thousand two hundred thirty four": "1,234",
        "three point five": "3.5",
        "uh, I [laughs] won\u2019t": "I will not",
        "nineteen eighty four": "1984",
        "ten percent": "10%",
        "the grey colour": "the gray color",
    }
    assert [left for left, right in alike.items() if normalise(left, "en") != normalise(right, "en")] == []


def test_english_that_sounds_different_stays_different():
    different = {"two and two": "22", "its": "it is", "a": "b"}
    assert [left for left, right in different.items() if normalise(left, "en") == normalise(right, "en")] == []


def test_english_needs_its_normaliser(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    transcripts._english_normaliser.cache_clear()
    with pytest.raises(MissingExtraError, match=r"aasvc\[asr\]"):
        normalise("hello", "en")


@given(st.text(max_size=30), st.sampled_from(["ja", "de"]))
@examples(100)
def test_normalising_twice_changes_nothing_more(text, language):
    once = normalise(text, language)
    assert normalise(once, language) == once
    assert once == once.strip()


def test_japanese_loses_width_blanks_and_punctuation_only():
    assert normalise("「ＡＢＣ」、 今日は　３人で…パーティー！", "ja") == "abc今日は3人でパーティー"


def test_other_languages_keep_their_letters_and_words():
    assert normalise("Straße, Äpfel – l’été!", "de") == "straße äpfel l'été"


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["Hello", "今日は"], "ja"), (["今天天气很好"], "zh"), (["오늘은"], "ko"),
        (["Hello"], None), (["Привет"], None), ([], None),
    ],
)  # fmt: skip
def test_a_script_tells_the_language_where_only_one_is_written_in_it(texts: list[str], language: str | None):
    assert language_of_script(texts) == language


# -- transcripts


def test_japanese_counts_characters_and_no_words():
    found = transcript("今日は、晴れ。", "今日も晴れだ", "ja")
    assert found.counts == {"CER": ErrorCounts(1, 0, 1, 5)}
    assert (found.reference, found.recognised) == ("今日は晴れ", "今日も晴れだ")
    assert [edit.kind for edit in found.edits] == ["equal", "substitute", "equal", "insert"]


def test_english_counts_words_and_characters():
    found = transcript("The cat sat.", "the bat sat down", "en")
    assert found.counts == {"CER": ErrorCounts(1, 0, 5, 11), "WER": ErrorCounts(1, 0, 1, 3)}
    assert found.edits[1] == Edit("substitute", "cat", "bat")


def test_an_empty_transcript_is_all_deletions_and_an_empty_reference_has_no_rate():
    assert transcript("abc", "", "en").counts["CER"] == ErrorCounts(0, 3, 0, 3)
    silent = transcript("", "ab", "en").counts["CER"]
    assert silent == ErrorCounts(0, 0, 2, 0)
    assert silent.rate != silent.rate


def test_readings_forgive_spelling():
    found = transcript("きれい", "綺麗", "ja", lambda text: text.replace("綺麗", "キレー").replace("キレイ", "キレー")
                       .replace("きれい", "キレー"))  # fmt: skip
    assert found.counts["CER"].errors == 3
    assert found.counts["KANA_CER"] == ErrorCounts(0, 0, 0, 3)


@pytest.mark.parametrize(
    ("digits", "kanji"),
    [("0", "零"), ("3", "三"), ("10", "十"), ("21", "二十一"), ("100", "百"), ("1,234", "千二百三十四"),
     ("10000", "一万"), ("20305", "二万三百五"), ("100000000", "一億"), ("007", "零零七")],
)  # fmt: skip
def test_numbers_are_read_as_words(digits, kanji):
    assert reading(digits, lambda text: text) == kanji


def test_an_installed_library_reads_japanese():
    found = japanese_reader()
    if found is None:
        pytest.skip("no library that reads Japanese: pip install 'aasvc[kana]'")
    _, read = found
    assert reading("今日は3人で部屋を綺麗にした。", read) == reading("きょうは三人でへやをきれいにした", read)
    assert reading("病院", read) in ("ビョウイン", "ビョーイン")
