"""The page in a real browser: it plays, sorts, filters and switches, and nothing leaves it."""

from __future__ import annotations

import dataclasses
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aasvc_cli.report.page import render
from aasvc_cli.report.preparation import preparation_page, render_preparation
from tests.browsers import Window, open_browser
from tests.pages import page, preparation

pytestmark = pytest.mark.browser

NAMES = {"first": "good morning", "second": "おはよう", "third": "good night"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser without a window; one for all tests, as it takes seconds to start."""
    with open_browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Pages of one and of two systems."""
    folder = tmp_path_factory.mktemp("pages with blanks, アクセント")
    for n_systems in (1, 2):
        path = folder / f"page #{n_systems}.html"
        path.write_text(render(page(n_systems, NAMES)), encoding="utf-8")
    return {n_systems: folder / f"page #{n_systems}.html" for n_systems in (1, 2)}


@pytest.fixture
def window(browser: Any, files: dict[int, Path]) -> Iterator[Window]:
    """The page of one system, freshly opened; at the end nothing may have gone wrong or out."""
    opened = Window(browser, files[1].as_uri())
    yield opened
    assert opened.complaints() == []
    outside = [url for url in opened.requests() if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []


def test_a_recording_plays_from_its_button_and_pauses_again(window: Window):
    window.click("article[data-name=second] .take.conversion .play")
    window.until(lambda: window.playing() == [("second", "B")], "it plays")
    window.until(lambda: window.share("second", "B") > 0.1, "it gets on")
    assert window.js("document.querySelector('article[data-name=second] .playing .play').ariaPressed") == "true"
    window.click("article[data-name=second] .take.conversion .play")
    window.until(lambda: window.playing() == [], "it pauses")
    assert window.js("document.querySelectorAll('.playing').length") == 0


def test_every_recording_can_be_decoded_by_the_browser(window: Window):
    found = window.browser.execute_async_script(
        "const done = arguments[0], all = [...document.querySelectorAll('audio')];"
        "Promise.all(all.map(a => new Promise((yes, no) => { a.onloadedmetadata = () => yes(["
        "a.duration, +a.closest('.take').dataset.seconds]); a.onerror = () => no(a.error.message); a.preload = 'auto';"
        "a.load(); }))).then(done, done)"
    )
    assert isinstance(found, list), found
    assert len(found) == 9
    for heard, expected in found:
        assert heard == pytest.approx(expected, abs=0.05)


def test_letters_and_arrows_switch_at_the_same_relative_position(window: Window):
    # slowly, so that a busy machine sees a recording play before it ends
    window.js("document.querySelectorAll('audio').forEach(a => { a.playbackRate = a.defaultPlaybackRate = 0.2 })")
    window.click("article[data-name=second] .take.source .play")
    window.until(lambda: window.share("second", "A") > 0.4, "it gets on")
    for key, letter in (("b", "B"), ("\ue014", "C"), ("\ue012", "B"), ("a", "A")):  # an arrow to the right, to the left
        old = window.playing()[0][1]
        before = window.share("second", old)
        window.press(key)
        window.until(lambda letter=letter: window.playing() == [("second", letter)], f"{letter} plays")  # type: ignore[misc]
        after = window.share("second", letter)
        # it goes on playing while this is measured, but it neither starts anew nor jumps
        assert before - 0.02 <= after <= before + 0.3
        if after > 0.7:  # not to the end, where it stops
            window.press("0")


def test_switching_while_paused_keeps_the_relative_position_exactly(window: Window):
    window.press("j")
    window.js("(seek => { seek.value = 0.75; seek.dispatchEvent(new Event('input', {bubbles: true})) })"
              "(document.querySelector('article[data-name=first] .take[data-letter=B] .seek'))")  # fmt: skip
    share = window.share("first", "B")
    assert share > 0.3
    window.press("c")
    assert window.share("first", "C") == pytest.approx(share, abs=0.01)
    assert window.playing() == []
    window.press(" ")
    window.until(lambda: window.playing() == [("first", "C")], "it plays from there")
    assert window.share("first", "C") >= share - 0.02


def test_j_and_k_go_through_the_utterances_and_the_space_bar_plays_the_current_one(window: Window):
    def current() -> list[str]:
        return window.js("[...document.querySelectorAll('article.current')].map(a => a.dataset.name)")

    order = window.articles()
    for key, position in (("j", 0), ("j", 1), ("j", 2), ("j", 2), ("k", 1)):
        window.press(key)
        assert current() == [order[position]]
        assert window.js("document.activeElement.dataset.name") == order[position]
    window.press(" ")
    window.until(lambda: window.playing() == [(order[1], "B")], "the conversion plays")
    window.press("k")
    window.until(lambda: window.playing() == [(order[0], "B")], "the same side of the other utterance plays")


def test_a_recording_that_ends_can_be_played_again(window: Window):
    window.js("(seek => { seek.value = seek.max - 0.1; seek.dispatchEvent(new Event('input', {bubbles: true})) })"
              "(document.querySelector('article[data-name=third] .take[data-letter=A] .seek'))")  # fmt: skip
    window.press(" ")
    window.until(lambda: window.playing() == [] and window.share("third", "A") == 0.0, "it has ended")
    window.press(" ")
    window.until(lambda: window.playing() == [("third", "A")], "it plays again")


def test_columns_sort_both_ways_and_what_is_not_defined_comes_last(window: Window):
    assert window.rows() == window.articles() == ["first", "third", "second"]  # the best first
    for expected in (["first", "third", "second"], ["second", "third", "first"]):
        window.click("#scores [data-sort='one/mcd']")
        assert window.rows() == window.articles() == expected
    sorts = window.js("[...document.querySelectorAll('#scores th[aria-sort]')].map(th => [th.innerText, th.ariaSort])")
    assert [(head.split()[-2:], way) for head, way in sorts if way != "none"] == [(["MCD", "dB"], "descending")]
    for expected in (["second", "first", "third"], ["first", "second", "third"]):
        window.click("#scores [data-sort='one/corr']")
        assert window.rows() == expected
    window.js(
        "(sort => { sort.value = 'name'; sort.dispatchEvent(new Event('change')) })(document.querySelector('#sort'))"
    )
    assert window.rows() == ["first", "second", "third"]


def test_words_and_bounds_filter_and_clearing_brings_everything_back(window: Window):
    def told() -> str:
        return window.js("document.querySelector('#count').textContent")

    window.press("/")
    window.press("GOOD")
    assert set(window.rows()) == set(window.articles()) == {"first", "third"}
    assert told() == "2 of 3 utterances"
    window.press(" night")
    assert window.rows() == ["third"]
    window.click(".filter [type=reset]")
    window.until(lambda: told() == "3 utterances", "everything is back")
    assert len(window.rows()) == 3
    window.js("document.querySelector('#where-measure').value = 'one/mcd'")
    window.click("#where-value")
    window.press("6")
    assert set(window.rows()) == set(window.articles()) == {"second", "third"}
    window.js("(select => { select.value = 'le'; select.dispatchEvent(new Event('input', {bubbles: true})) })"
              "(document.querySelector('#where-relation'))")  # fmt: skip
    assert set(window.rows()) == {"first", "third"}
    window.click("#find")
    window.press("おはよう")
    assert window.rows() == []
    assert told() == "0 of 3 utterances"


def test_filtering_out_the_playing_recording_stops_it(window: Window):
    window.click("article[data-name=first] .take.source .play")
    window.until(lambda: window.playing() == [("first", "A")], "it plays")
    window.press("/")
    window.press("night")
    window.until(lambda: window.playing() == [], "it stops")


def test_the_theme_changes_and_is_remembered(window: Window):
    def background() -> str:
        return window.js("getComputedStyle(document.body).backgroundColor")

    before = background()
    window.click("#theme")
    after = background()
    assert after != before
    assert window.js("document.querySelector('#theme').ariaPressed") in ("true", "false")
    window.browser.refresh()
    assert background() == after
    window.click("#theme")
    assert background() == before


def test_the_theme_follows_the_system_until_one_is_chosen(window: Window):
    seen = set()
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        window.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen.add(window.js("getComputedStyle(document.body).backgroundColor"))
        dark = str(scheme == "dark").lower()
        window.until(lambda dark=dark: window.js("document.querySelector('#theme').ariaPressed") == dark, scheme)  # type: ignore[misc]
    assert len(seen) == 2
    window.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_question_mark_opens_help_and_escape_closes_it(window: Window):
    window.press("?")
    window.until(lambda: window.js("document.querySelector('#help').open"), "help is open")
    window.press("j")
    assert window.js("document.querySelectorAll('article.current').length") == 0
    window.press("\ue00c")
    window.until(lambda: not window.js("document.querySelector('#help').open"), "help is closed")


def test_single_keys_can_be_switched_off(window: Window):
    window.click("#help-open")
    window.click("#keys")
    window.press("\ue00c")
    window.until(lambda: not window.js("document.querySelector('#help').open"), "help is closed")
    window.press("j?")
    assert window.js("document.querySelectorAll('article.current').length") == 0
    assert not window.js("document.querySelector('#help').open")
    window.browser.refresh()
    assert window.js("document.querySelector('#keys').checked") is False


def test_keys_mean_letters_while_somebody_writes(window: Window):
    window.press("/")
    window.press("jab ?")
    assert window.js("document.querySelector('#find').value") == "jab ?"
    assert window.js("document.querySelectorAll('article.current').length") == 0


@pytest.mark.parametrize("n_systems", [1, 2])
def test_nothing_is_wider_than_a_small_screen(browser: Any, files: dict[int, Path], n_systems: int):
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert Window(browser, files[n_systems].as_uri()).js("document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_two_systems_have_four_players_and_a_switch_between_them(browser: Any, files: dict[int, Path]):
    window = Window(browser, files[2].as_uri())
    window.click("article[data-name=first] .take[data-letter=B] .play")
    window.until(lambda: window.playing() == [("first", "B")], "the first system plays")
    window.press("c")
    window.until(lambda: window.playing() == [("first", "C")], "the second system plays")
    assert window.js("document.querySelectorAll('article[data-name=first] audio').length") == 4
    assert window.complaints() == []


def test_without_scripts_there_are_native_players(browser: Any, files: dict[int, Path]):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(files[1].as_uri())
        from selenium.webdriver.common.by import By

        players = browser.find_elements(By.TAG_NAME, "audio")
        assert len(players) == 9
        assert all(player.is_displayed() and player.get_attribute("controls") for player in players)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


class _Listener(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_even_a_page_that_was_tampered_with_loads_nothing(browser: Any, tmp_path: Path):
    """What escaping missed, the browser would refuse: scripts and pictures that were not in the page when written."""
    _Listener.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    smuggled = (
        f'<img src="{address}/img"><script>window.hacked = 1; fetch("{address}/fetch")</script>'
        f'<audio src="{address}/audio" preload="auto"></audio><script src="{address}/script.js"></script>'
        f'<link rel="stylesheet" href="{address}/style.css"><p onclick="window.hacked = 2" id="bait">x</p>'
    )
    path = tmp_path / "tampered.html"
    path.write_text(render(page(1, NAMES)).replace("<main", smuggled + "<main"), encoding="utf-8")
    try:
        window = Window(browser, path.as_uri())
        window.click("#bait")
        time.sleep(0.5)
        assert window.js("window.hacked") is None
        assert _Listener.asked == []
        assert any("Content Security Policy" in message for message in window.complaints())
        # the same smuggled goods do reach the server from a page without the policy: the listener listens
        path.write_text(f"<!DOCTYPE html>{smuggled}", encoding="utf-8")
        window = Window(browser, path.as_uri())
        window.until(lambda: "/img" in _Listener.asked and "/fetch" in _Listener.asked, "the listener is asked")
        assert window.js("window.hacked") == 1
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "text", ["<script>window.hacked=1</script>", "\"><img src=x onerror='window.hacked=1'>", "</script><b>&lt;"]
)
def test_names_and_sentences_are_shown_as_they_were_written(browser: Any, tmp_path: Path, text: str):
    path = tmp_path / "hostile.html"
    path.write_text(render(page(1, {text: text}, title=text)), encoding="utf-8")
    window = Window(browser, path.as_uri())
    assert window.js("window.hacked") is None
    assert window.js("document.querySelector('article h3').textContent") == text
    assert window.js("document.querySelector('article p').textContent") == text
    assert window.js("document.title") == text
    window.press("j", " ")
    window.until(lambda: window.playing() == [(text, "B")], "it plays")
    assert window.complaints() == []


def test_labels_of_the_f0_chart_stay_small_without_an_alignment_beside_it(browser: Any, tmp_path: Path):
    made = page()
    alone = tuple(dataclasses.replace(utterance, alignments=()) for utterance in made.utterances)
    path = tmp_path / "page.html"
    path.write_text(render(dataclasses.replace(made, utterances=alone)), encoding="utf-8")
    window = Window(browser, path.as_uri())
    heights = window.js(
        "[...document.querySelectorAll('.figures svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert heights
    assert max(heights) < 20


def test_the_page_of_a_preparation_plays_both_sides_and_asks_for_nothing(browser: Any, tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(render_preparation(preparation_page(preparation(tmp_path))), encoding="utf-8")
    window = Window(browser, path.as_uri())
    assert window.articles() == ["one", "two", "three"]
    window.click("article[data-name=two] .take[data-letter=A] .play")
    window.until(lambda: window.playing() == [("two", "A")], "the source plays")
    window.press("b")
    window.until(lambda: window.playing() == [("two", "B")], "the target takes over")
    sizes = window.js("[...document.querySelectorAll('.curves svg, .timeline svg')].map(s => s.clientHeight)")
    assert len(sizes) == 7
    assert min(sizes) > 50
    assert window.js("document.documentElement.scrollWidth <= window.innerWidth")
    assert window.complaints() == []
    assert [url for url in window.requests() if not url.startswith(("file:", "data:"))] == []
