"""The page to listen, in a real Chromium: by the keyboard, to the end, without a word about the systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aasvc_cli.audio.files import write_audio
from aasvc_cli.measures.listening import Question
from aasvc_cli.serve.app import build
from aasvc_cli.serve.guard import Policy
from aasvc_cli.serve.listen import BlindTest
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.home import Home
from tests.browsers import Window
from tests.serve.pages import barriers, cut_off, opened, told, width_on_a_small_screen

pytestmark = pytest.mark.browser


@pytest.fixture(params=["preference", "mos"])
def test_of(request: pytest.FixtureRequest, tmp_path: Path) -> BlindTest:
    """Two systems with two utterances, and an anchor."""
    question: Question = request.param
    for system in ("secret-one", "secret-two"):
        for number in range(2):
            tone = 0.1 * np.sin(np.arange(4800) * (0.1 + 0.02 * number))
            write_audio(tmp_path / system / f"u{number}.wav", tone.astype(np.float32), 16000)
    folders = [tmp_path / "secret-one", tmp_path / "secret-two"]
    return BlindTest.of(folders, question, 1, tmp_path / "answers.csv")


@pytest.fixture
def window(browser: Any, serve: Callable[[Any], str], test_of: BlindTest, home: Home) -> Iterator[Window]:
    yield from opened(browser, f"{serve(build(Voices(home), Policy(), None, test_of))}listen")


def counted(window: Window) -> str:
    return window.js("document.querySelector('#count').textContent")


def enabled(window: Window) -> bool:
    return window.js("[...document.querySelectorAll('.choice')].every(c => !c.disabled)")


def test_a_listener_answers_to_the_end(window: Window, test_of: BlindTest):
    count = {"preference": 3, "mos": 5}[test_of.question]
    for number in range(count):
        expected = f"{number} of {count} answered"
        window.until(lambda expected=expected: counted(window) == expected, "the next question")  # type: ignore[misc]
        assert not enabled(window)
        assert "secret" not in window.js("document.documentElement.outerHTML").replace(str(test_of.path), "")
        for key in "ab"[: len(window.js("[...document.querySelectorAll('.hear')]"))]:
            window.press(key)
            window.until(lambda key=key: heard(window, key), f"{key} has ended")  # type: ignore[misc]
        window.until(lambda: enabled(window), "all has been heard")
        if number == 0:
            assert barriers(window) == []
            assert width_on_a_small_screen(window) <= 360
        window.press("3")
    window.until(lambda: window.js("document.querySelector('#trial').hidden"), "it is over")
    expected = {"preference": "second", "mos": "3"}[test_of.question]
    assert [each.answer for each in test_of.answers] == [expected] * count
    assert barriers(window) == []


def test_an_answer_that_is_lost_is_not_said_to_be_kept(window: Window, test_of: BlindTest):
    window.until(lambda: counted(window).startswith("0"), "the first question")
    for key in "ab"[: len(window.js("[...document.querySelectorAll('.hear')]"))]:
        window.press(key)
        window.until(lambda key=key: heard(window, key), f"{key} has ended")  # type: ignore[misc]
    cut_off(window)
    window.press("1")
    assert told(window) == ("the server does not answer; is aasvc serve still running?", "")
    assert counted(window).startswith("0") and enabled(window) and test_of.answers == []


def heard(window: Window, key: str) -> bool:
    return window.js("document.querySelector(arguments[0]).ended", {"a": "audio.first", "b": "audio.second"}[key])
