"""The page to convert, in a real Chromium whose microphone hears a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aasvc_cli.serve.app import build
from aasvc_cli.serve.guard import Policy
from aasvc_cli.serve.voices import Voices
from aasvc_cli.storage.home import Home
from tests.browsers import Window
from tests.serve.pages import barriers, cut_off, opened, tab_to, told, width_on_a_small_screen

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(serve: Callable[[Any], str], spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a server with the bundled voice, which has spoken before."""
    voices = Voices(Home(tmp_path_factory.mktemp("home")))
    url = serve(build(voices, Policy()))
    httpx.post(f"{url}v1/convert", content=spoken.read_bytes(), timeout=120).raise_for_status()
    return url


@pytest.fixture
def window(browser: Any, address: str) -> Iterator[Window]:
    yield from opened(browser, address)


def seconds(window: Window, role: str) -> float:
    return window.js(f"document.querySelector('#{role} audio').duration || 0")


def heard(window: Window) -> list[str]:
    return window.js(
        "[...document.querySelectorAll('audio')].filter(a => !a.paused && !a.ended).map(a => a.parentElement.id)"
    )


def speak(window: Window, length: float) -> None:
    window.press("r")
    window.until(lambda: window.js("document.querySelector('#record').classList.contains('recording')"), "it records")
    time.sleep(length)
    window.press("r")


def wait_for_conversion(window: Window) -> float:
    """How long it took from the end of speech to the first sound."""
    window.until(
        lambda: window.js("document.querySelector('#status').textContent.startsWith('First sound')"), "sound", 60
    )
    return float(window.js("document.querySelector('#status').dataset.seconds"))


def pictures(window: Window) -> list[str]:
    return window.js("[...document.querySelectorAll('.take:not([hidden]) img:not([hidden])')].map(i => i.alt)")


def test_what_is_spoken_is_heard_in_the_other_voice_soon_after(window: Window, record_property: Callable[..., None]):
    """At most 0.3 times the length of the recording and 0.3 s, warm; the microphone is asked for before.

    What else the machine does only adds to it, so each length has three tries.
    """
    speak(window, 0.5)
    wait_for_conversion(window)
    waits, soon = [], []
    for length in (2.0, 4.0):
        for _ in range(3):
            window.js("document.querySelector('#status').textContent = ''")
            speak(window, length)
            waits.append((seconds_of_source := wait_for_source(window, length), wait_for_conversion(window)))
            assert seconds_of_source == pytest.approx(length, abs=1.0)
            if waits[-1][1] <= 0.3 * seconds_of_source + 0.3:
                soon.append(length)
                break
    record_property("seconds from the end of speech to the first sound", waits)
    print(f"length and wait until the first sound, in seconds: {waits}")
    assert soon == [2.0, 4.0], waits


def wait_for_source(window: Window, length: float) -> float:
    window.until(lambda: seconds(window, "source") > 0.5 * length, "the source is there")
    return seconds(window, "source")


def test_an_example_is_shown_and_heard_with_the_target_at_the_same_position(window: Window):
    window.until(lambda: window.js("document.querySelector('#example').options.length") == 11, "examples are listed")
    window.js("(e => { e.value = '2'; e.dispatchEvent(new Event('change')) })(document.querySelector('#example'))")
    wait_for_conversion(window)
    window.until(lambda: len(pictures(window)) == 3, "three spectrograms")
    assert all("F0 mostly" in words for words in pictures(window))
    paths = window.js("[...document.querySelectorAll('.f0')].map(p => p.getAttribute('d').length)")
    assert min(paths) > 100
    window.until(lambda: heard(window) == [], "the conversion has ended")
    window.js("document.querySelector('#conversion audio').currentTime = 0.6")
    for key, role in (("a", "source"), ("c", "target"), ("b", "conversion")):
        window.press(key)
        share = window.js(f"(a => a.currentTime / a.duration)(document.querySelector('#{role} audio'))")
        assert share == pytest.approx(0.6 / seconds(window, "conversion"), abs=0.02)
    window.press(" ")
    window.until(lambda: heard(window) == ["conversion"], "it plays from there")
    window.press("a")
    window.until(lambda: heard(window) == ["source"], "the source goes on in its place")


def test_a_file_is_converted_and_the_result_can_be_saved(window: Window, spoken: Path):
    from selenium.webdriver.common.by import By

    window.browser.find_element(By.CSS_SELECTOR, "#file").send_keys(str(spoken))
    wait_for_conversion(window)
    saved = window.browser.execute_async_script(
        "const done = arguments[0]; fetch(document.querySelector('#download').href).then(r => r.arrayBuffer()).then("
        "b => done(String.fromCharCode(...new Uint8Array(b.slice(0, 4)))))"
    )
    assert saved == "RIFF"
    window.js("(r => { r.value = '0.5'; r.dispatchEvent(new Event('change')) })(document.querySelector('#rate'))")
    assert window.js("document.querySelector('#conversion audio').playbackRate") == 0.5


def test_what_is_no_recording_is_refused_where_it_can_be_read(browser: Any, address: str, tmp_path: Path):
    from selenium.webdriver.common.by import By

    window = Window(browser, address)
    path = tmp_path / "letter.txt"
    path.write_text("no sound at all")
    window.browser.find_element(By.CSS_SELECTOR, "#file").send_keys(str(path))
    problem, status = told(window)
    assert "expected wav, flac, ogg or mp3" in problem and status.startswith("Record or choose")


def test_nothing_is_said_to_go_on_after_a_failure(window: Window):
    speak(window, 0.5)
    wait_for_conversion(window)
    cut_off(window)
    speak(window, 0.5)
    problem, status = told(window)
    assert problem == "the server does not answer; is aasvc serve still running?"
    assert status.startswith("Record or choose")
    assert window.js("document.querySelector('#download').hidden"), "there is nothing to download any more"
    assert window.js("document.querySelector('#record').ariaPressed") == "false"


def test_the_keyboard_alone_is_enough(window: Window):
    for selector in ("#theme", "#voice", "#record"):
        tab_to(window, selector)
    window.press("\ue007")
    window.until(lambda: window.js("document.querySelector('#record').ariaPressed") == "true", "it records")
    time.sleep(1.2)
    window.press("\ue007")
    wait_for_conversion(window)
    for selector in ("#source .play", "#conversion .seek", "#rate", "#download"):
        tab_to(window, selector)


def test_nobody_is_kept_out_and_nothing_is_wider_than_a_small_screen(window: Window, spoken: Path):
    from selenium.webdriver.common.by import By

    assert barriers(window) == []
    window.browser.find_element(By.CSS_SELECTOR, "#file").send_keys(str(spoken))
    window.until(lambda: len(pictures(window)) == 2, "spectrograms", 60)
    assert barriers(window) == []
    assert width_on_a_small_screen(window) <= 360
