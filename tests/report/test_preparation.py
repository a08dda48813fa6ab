"""The page of `prepare`: what it shows, of whom, and that names and messages stay text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from aasvc_cli.report import drawing
from aasvc_cli.report.preparation import preparation_page, render_preparation, worst_pairs
from tests.pages import Element, parse, preparation


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Element:
    report = preparation(tmp_path_factory.mktemp("recordings"))
    return parse(render_preparation(preparation_page(report)))


def test_the_doubtful_pair_comes_first_with_both_players_both_spectrograms_and_the_reason(document: Element) -> None:
    first, *others = document.find("article")
    assert (first.attributes["data-name"], len(others)) == ("one", 2)
    assert len(first.find("audio")) == len(first.find("img")) == 2
    assert [note.text for note in first.find("p", class_="reason")] == ["costs too much"]
    numbers = {row.find("dt")[0].text: row.find("dd")[0].text for row in first.find("dl")[0].find("div")}
    assert numbers == {
        "misfit": "1.00",
        "length ratio": "1.00",
        "level": "-20 and -25 LUFS",
        "bandwidth": "7.0 and 7.0 kHz",
    }


def test_charts_say_their_numbers_in_words(document: Element) -> None:
    charts = {
        figure.find("strong")[0].text: figure.find("svg")[0].attributes["aria-label"] or ""
        for figure in document.find("figure")
        if figure.find("strong")
    }
    assert list(charts) == ["Length", "Length ratio", "Misfit", "Level", "Bandwidth", "F0"]
    assert charts["Level"].startswith("Level in LUFS, median and range of nine in ten: source -21 (")
    assert "source 110 (" in charts["F0"] and "target 220 (" in charts["F0"]


def test_what_was_cut_is_listed_with_its_place_and_what_was_left_out_with_its_reason(document: Element) -> None:
    (cut,) = document.find("section", class_="cut")
    rows = [[cell.text for cell in row.children] for row in cut.find("tbody")[0].find("tr")]
    assert rows == [
        ["long-1", "0.00 – 4.00", "0.00 – 5.00", ""],
        ["long-2", "4.50 – 6.00", "5.50 – 6.00", "is only in one of the two recordings"],
    ]
    assert "1 piece is used, 1 is left out" in (cut.find("svg")[0].attributes["aria-label"] or "")
    (table,) = document.find("table", class_="left-out")
    assert [cell.text for cell in table.find("tbody")[0].find("tr")[0].children] == [
        "long-2", "piece", "is only in one of the two recordings",
    ]  # fmt: skip


def test_names_and_messages_are_text_whatever_they_hold(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    document = parse(render_preparation(preparation_page(preparation(tmp_path, name=hostile, message=hostile))))
    assert len(document.find("script")) == 1
    assert not [image for image in document.find("img") if image.attributes["src"] == "x"]
    assert document.find("article")[0].find("h3")[0].text == hostile


def test_a_recording_that_vanished_costs_only_its_player(tmp_path: Path) -> None:
    report = preparation(tmp_path)
    report.measured[0].paths[0].unlink()
    first = parse(render_preparation(preparation_page(report))).find("article")[0]
    assert len(first.find("audio")) == 1
    assert "source0.wav" in first.find("p", class_="reason")[1].text


def test_pairs_that_were_left_out_come_before_those_that_were_only_noticed(tmp_path: Path) -> None:
    report = preparation(tmp_path)
    noticed = dataclasses.replace(report.findings[0], utterance_id="two", code="level")
    out = dataclasses.replace(noticed, utterance_id="three", code="duration_ratio", excluded=True)
    report = dataclasses.replace(report, findings=(noticed, out))
    assert [pair.utterance_id for pair in worst_pairs(report)] == ["three", "two", "one"]
    assert [pair.utterance_id for pair in worst_pairs(report, 1)] == ["three"]


def test_bars_of_a_histogram_are_as_tall_as_their_counts() -> None:
    view = drawing.histogram("x", "s", {"both": [0.0] * 6 + [1.0] * 3})
    bars = parse(str(view.svg)).find("path", class_="bars")[0].attributes["d"] or ""
    heights = [float(bar.split("v-")[1].split("h")[0]) for bar in bars.split("z") if bar]
    assert heights[0] == pytest.approx(2 * heights[1])
    assert view.caption == f"median 0 ({np.percentile([0] * 6 + [1] * 3, 5):.3g} to 1)"


def test_without_values_there_is_no_chart() -> None:
    assert drawing.histogram("x", "", {"source": [], "target": [float("nan")]}).caption == "no values"
