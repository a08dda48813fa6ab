"""A real browser without a window, and a page in it as tests use it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required", "--window-size=1200,900",
)  # fmt: skip


@contextlib.contextmanager
def open_browser(folder: Path, *arguments: str) -> Iterator[Any]:
    """A browser that keeps its things in a folder; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; it is in the extra test")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its driver here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*QUIET, f"--user-data-dir={folder}", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        window = webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        pytest.skip(f"the browser does not start here: {str(error).splitlines()[0]}")
    window.set_script_timeout(20)
    try:
        yield window
    finally:
        window.quit()


class Window:
    """A page in the browser, as a test uses it."""

    def __init__(self, browser: Any, address: str):
        self.browser = browser
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(address)
        browser.execute_script("localStorage.clear()")
        browser.refresh()

    def js(self, script: str, *arguments: object) -> Any:
        """The value of an expression."""
        return self.browser.execute_script(f"return {script}", *arguments)

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        from selenium.webdriver.common.by import By

        element = self.browser.find_element(By.CSS_SELECTOR, selector)
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
        """Wait for something to become true."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"waited in vain: {what}"
            time.sleep(0.02)
        return found

    def playing(self) -> list[tuple[str, str]]:
        """Utterance and letter of every recording that is heard."""
        return [
            tuple(each)
            for each in self.js(
                "[...document.querySelectorAll('audio')].filter(a => !a.paused).map(a => "
                "[a.closest('article').dataset.name, a.closest('.take').dataset.letter])"
            )
        ]

    def share(self, name: str, letter: str) -> float:
        """Where a recording is, as a share of its length."""
        return self.js(
            "(seek => seek.value / seek.max)(document.querySelector("
            f"'article[data-name={name}] .take[data-letter={letter}] .seek'))"
        )

    def rows(self) -> list[str]:
        """Utterances that the table shows, in its order."""
        return self.js(
            "[...document.querySelectorAll('#scores tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
        )

    def articles(self) -> list[str]:
        """Utterances that can be heard, in the order of the page."""
        return self.js("[...document.querySelectorAll('article')].filter(a => !a.hidden).map(a => a.dataset.name)")

    def complaints(self) -> list[str]:
        """What the console holds that should not be there."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Every address that the page asked for since it was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        # the browser's own first page may still have been loading
        return [each["request"]["url"] for each in asked if not each["documentURL"].startswith("chrome://")]
