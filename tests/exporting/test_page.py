"""The exported page in a real browser: it records, converts and plays, and connects to nothing."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.exporting.page import RUNTIME_VERSION, page_files
from aasvc_cli.storage.files import write_bytes
from aasvc_cli.storage.home import Home
from tests.browsers import Window, open_browser
from tests.exports import RATE, sound, tiny_converter
from tests.serve.pages import barriers, width_on_a_small_screen

pytestmark = pytest.mark.browser
PACKAGE = f"onnxruntime-web-{RUNTIME_VERSION}.tgz"
RUNTIME_VARIABLE = "ONNXRUNTIME_WEB"
"""A folder with the package of onnxruntime-web, for machines without npm."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server as anybody has one."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page with a small voice, a recording beside it, and what torch makes of the recording."""
    folder = tmp_path_factory.mktemp("page")
    home = Home(folder / "home")
    if known := os.environ.get(RUNTIME_VARIABLE):
        home.cache.mkdir(parents=True)
        shutil.copy(Path(known) / PACKAGE, home.cache)
    elif shutil.which("npm") is None:
        pytest.skip(f"no npm here to fetch onnxruntime-web with, and {RUNTIME_VARIABLE} names no folder with {PACKAGE}")
    converter = tiny_converter(folder / "tiny", duration_predictor="poisson")
    for name, content in page_files(home, converter.voice, converter.vocoder, "tiny").items():
        write_bytes(folder / "page" / name, content)
    soundfile.write(folder / "in.wav", sound(2.0), RATE, subtype="FLOAT")
    np.save(folder / "expected.npy", converter.convert(sound(2.0), RATE).wave)
    return folder


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=place / "page")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def browser(place: Path, tmp_path: Path) -> Iterator[Any]:
    """A browser whose microphone plays the recording."""
    microphone = (
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={place / 'in.wav'}",
    )  # fmt: skip
    with open_browser(tmp_path / "profile", *microphone) as window:
        yield window


def status(browser: Any, *starts: str) -> str:
    """What the page says, once it begins with one of these."""
    from selenium.webdriver.support.ui import WebDriverWait

    def said(_: Any) -> str:
        text = browser.execute_script("return document.getElementById('status').textContent")
        return text if text.startswith(starts) else ""

    return WebDriverWait(browser, 120, 0.1).until(said)


def keep_what_is_played(browser: Any) -> None:
    """Let :func:`converted` find the sounds that the page makes; its policy keeps it from reading what it plays."""
    browser.execute_script(
        "const make = URL.createObjectURL; URL.createObjectURL = (blob) => make.call(URL, window.made = blob)"
    )


def converted(browser: Any) -> np.ndarray:
    """The samples of the conversion, which is made last."""
    script = """
    const done = arguments[0];
    window.made.arrayBuffer().then((content) => done([...new Int16Array(content, 44)]));
    """
    return np.array(browser.execute_async_script(script)) / 32767


def requests(browser: Any) -> set[str]:
    """Every address that was asked for."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


def test_a_file_is_converted_as_torch_does_and_nothing_is_sent(browser: Any, address: str, place: Path):
    browser.get(address)
    assert status(browser, "Ready", "The voice") == "Ready"
    keep_what_is_played(browser)
    browser.find_element("id", "file").send_keys(str(place / "in.wav"))
    assert "× real time" in status(browser, "2", "1", "This", "Too", "in.wav")
    expected, found = np.load(place / "expected.npy"), converted(browser)
    assert len(found) == len(expected) and np.abs(found - expected).max() < 1e-3
    assert np.abs(expected).max() > 0.01
    asked = {url for url in requests(browser) if not url.startswith(("blob:", "data:", "chrome:"))}
    assert asked and all(url.startswith(address) for url in asked)
    assert {entry["message"] for entry in browser.get_log("browser")} == set()


def test_the_microphone_is_recorded_with_the_keyboard_alone(browser: Any, address: str):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.set_window_size(360, 700)
    browser.get(address)
    assert status(browser, "Ready", "The voice") == "Ready"
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    ActionChains(browser).send_keys(Keys.TAB, Keys.ENTER).perform()
    status(browser, "Speak now")
    ActionChains(browser).pause(1.5).send_keys(Keys.ENTER).perform()
    assert "× real time" in status(browser, *"0123456789", "This", "Too", "The microphone")
    assert browser.find_element("id", "conversion").is_displayed()


def test_nobody_is_kept_out_before_and_after_a_conversion(browser: Any, address: str, place: Path):
    window = Window(browser, address)
    assert status(browser, "Ready", "The voice") == "Ready"
    assert barriers(window) == []
    browser.find_element("id", "file").send_keys(str(place / "in.wav"))
    assert "× real time" in status(browser, *"0123456789", "This", "Too", "in.wav")
    assert barriers(window) == []  # with players and the download
    assert width_on_a_small_screen(window) <= 360


def test_the_page_may_connect_to_nothing_but_itself(browser: Any, address: str):
    browser.get(address)
    script = """
    const done = arguments[arguments.length - 1];
    fetch("http://127.0.0.1:9/").then(() => done("sent"), () => done("refused"));
    """
    assert browser.execute_async_script(script) == "refused"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
