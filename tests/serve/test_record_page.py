"""The page to record, in a real Chromium whose microphone hears a sentence over and over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.serve.app import build
from aasvc_cli.serve.guard import Policy
from aasvc_cli.serve.recording import Session
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.home import Home
from tests.browsers import Window
from tests.serve.pages import barriers, cut_off, opened, tab_to, told, width_on_a_small_screen

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def spoken(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence with a pause before it and after it, and again."""
    wave, rate = read_audio(demo_corpus / "male" / "wav" / "eval" / "eval_0680.ogg")
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(path, np.pad(wave, rate), rate, subtype="PCM_16")
    return path


@pytest.fixture
def session(demo_corpus: Path, tmp_path: Path) -> Session:
    """Three sentences of a target; the microphone hears the first of them."""
    for path in sorted((demo_corpus / "female" / "wav" / "eval").iterdir())[:3]:
        (tmp_path / "target").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "target")
    (tmp_path / "texts.txt").write_text(
        "eval_0680 病院では、星がたくさん見えます。\neval_0681 Good night.\neval_0682 x\n"
    )
    return Session.plan(tmp_path / "mine", tmp_path / "texts.txt", tmp_path / "target")


@pytest.fixture
def address(serve: Callable[[Any], str], session: Session, home: Home) -> str:
    return f"{serve(build(Voices(home), Policy(), session))}record"


@pytest.fixture
def window(browser: Any, address: str) -> Iterator[Window]:
    yield from opened(browser, address)


def text(window: Window, selector: str) -> str:
    return window.js("document.querySelector(arguments[0]).textContent", selector)


def begin(window: Window) -> None:
    """Press the key to record."""
    window.until(lambda: text(window, "#sentence"), "a sentence is shown")
    window.press(" ")
    window.until(lambda: text(window, "#record .word") == "Stop", "it records")


def test_a_session_goes_by_the_keyboard_alone_and_is_gone_on_with(window: Window, session: Session, address: str):
    window.until(lambda: text(window, "#sentence") == "病院では、星がたくさん見えます。", "the first sentence is shown")
    assert text(window, "#count") == "0 of 3 recorded"
    window.press("t")
    window.until(lambda: window.js("!document.querySelector('#player').paused"), "the target's reading plays")
    begin(window)
    assert window.js("document.querySelector('#player').paused")
    time.sleep(2.5)
    window.press(" ")
    window.until(lambda: text(window, "#count").startswith("1") or not hidden(window, "#faults"), "it is judged")
    if not hidden(window, "#faults"):  # the microphone's file runs on and on, so a reading may begin anywhere in it
        window.press("k")
        window.until(lambda: text(window, "#count").startswith("1"), "it is kept all the same")
    assert session.path(session.sentences[0]).is_file()
    assert text(window, "#sentence") == "Good night."
    assert float(window.js("document.querySelector('#status').dataset.checked")) < 2.0
    # it can be left and gone on with
    window.browser.get(address)
    window.until(lambda: text(window, "#sentence") == "Good night.", "it goes on with the second sentence")
    window.press("\ue012")
    window.until(lambda: "(recorded)" in text(window, "#name"), "the first one is there")
    window.press("l")
    window.until(lambda: "/own" in window.js("document.querySelector('#player').src"), "it can be heard")
    window.press("\ue014")
    for name in ("record", "target", "next"):
        tab_to(window, f"#{name}")


def test_a_reading_belongs_to_its_sentence_and_one_that_is_lost_is_said_to_be(window: Window, session: Session):
    begin(window)
    window.press("\ue014")
    assert text(window, "#sentence") == "病院では、星がたくさん見えます。", "nothing else can be done while it records"
    cut_off(window)
    time.sleep(0.5)
    window.press(" ")
    assert told(window) == ("the server does not answer; is aasvc serve still running?", "Nothing was kept.")
    assert text(window, "#record .word") == "Record" and not session.path(session.sentences[0]).exists()


def hidden(window: Window, selector: str) -> bool:
    return window.js("document.querySelector(arguments[0]).hidden", selector)


def wait_for_level(window: Window, above: float, below: float, seconds: float) -> None:
    """Until the microphone has heard only levels between two bounds for so long."""
    since = time.monotonic()
    end = since + 20
    while time.monotonic() - since < seconds:
        level = float(window.js("document.querySelector('#level').value"))
        if not above <= level <= below:
            since = time.monotonic()
        assert time.monotonic() < end, "the microphone does not hear that"


def test_a_good_reading_is_kept_without_another_key_and_the_next_sentence_comes(window: Window, session: Session):
    begin(window)  # for the microphone to be open; what it hears then has faults
    time.sleep(0.3)
    window.press(" ")
    window.until(lambda: not hidden(window, "#faults"), "that was nothing")
    for _ in range(6):  # on a busy machine the key may come late, and the reading without its first word
        wait_for_level(window, -100, -50, 0.3)
        begin(window)
        wait_for_level(window, -40, 0, 0.1)
        wait_for_level(window, -100, -50, 0.5)
        window.press(" ")
        window.until(lambda: not text(window, "#status").startswith(("Recording", "Checking")), "it is judged", 60)
        if hidden(window, "#faults"):
            break
    assert text(window, "#faults") == ""
    window.until(lambda: text(window, "#sentence") == "Good night.", "the next sentence is shown")
    assert text(window, "#status").startswith("eval_0680 is kept")
    print(f"checked within {window.js('document.querySelector(`#status`).dataset.checked')} s")


def test_what_is_wrong_with_a_reading_is_told_and_it_is_not_kept(window: Window, session: Session):
    begin(window)
    time.sleep(0.3)
    window.press(" ")
    window.until(lambda: not hidden(window, "#faults"), "faults are shown")
    assert text(window, "#faults")
    assert text(window, "#status") == "Not kept. Read it again."
    assert not session.path(session.sentences[0]).exists()


def test_nobody_is_kept_out_and_nothing_is_wider_than_a_small_screen(window: Window):
    assert barriers(window) == []
    assert width_on_a_small_screen(window) <= 360
