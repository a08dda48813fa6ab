"""How far apart two recognised texts are."""

from __future__ import annotations

import pytest

from aasvc_cli.data.spoken_texts import SpokenTexts, difference


@pytest.mark.parametrize(
    ("one", "other", "language", "expected"),
    [
        ("", "", "en", 0.0),
        ("Good morning.", "good morning", "en", 0.0),
        ("abcd", "abxd", "fr", 0.25),
        ("abcd", "", "fr", 1.0),
        ("ab", "abcd", "fr", 0.5),
        ("おはよう。", "おはよう", "ja", 0.0),
    ],
)
def test_differences_count_edits_after_normalisation(one: str, other: str, language: str, expected: float) -> None:
    assert difference(one, other, language) == difference(other, one, language) == expected


@pytest.mark.parametrize(("value", "verdict"), [(0.0, ""), (0.25, "near"), (0.49, "near"), (0.5, "wrong")])
def test_two_hearings_of_one_text_may_differ_a_little(value: float, verdict: str) -> None:
    assert SpokenTexts("", "", value).verdict == verdict
