"""``aasvc evaluate --report`` from the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from aasvc_cli.measures.listening import Answer, to_csv
from aasvc_cli.measures.results import EvaluateResult
from aasvc_cli.pipeline.report import write_report
from tests.pages import RATE, parse, tone

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Two systems, their source and their target: two utterances of half a second."""
    root = tmp_path_factory.mktemp("recordings")
    folders = {}
    for name, f0 in (("source", 110.0), ("one", 200.0), ("two", 210.0), ("target", 220.0)):
        folders[name] = root / name
        folders[name].mkdir()
        for utterance, seconds in (("a <b>", 0.5), ("c&d", 0.7)):
            soundfile.write(folders[name] / f"{utterance}.wav", tone(seconds, f0), RATE)
    return folders


def evaluate(aasvc: Callable[..., Any], folders: Folders, *rest: object) -> Any:
    both = ["--target", folders["target"], "--source", folders["source"], "--measures", "signal", "--jobs", "1"]
    return aasvc("evaluate", *both, "--mode", "corrected", *rest)


def test_the_report_of_two_folders_has_source_conversion_and_target(
    aasvc: Callable[..., Any], recordings: Folders, tmp_path: Path
):
    report = tmp_path / "new folder" / "out.html"
    done = evaluate(aasvc, recordings, "--converted", recordings["one"], "--report", report)
    assert done.code == 0, done.err
    assert f"report: {report}  (2 of 2 utterances to hear" in done.err
    document = parse(report.read_text(encoding="utf-8"))
    assert [article.attributes["data-name"] for article in document.find("article")] in (
        ["a <b>", "c&d"], ["c&d", "a <b>"],
    )  # fmt: skip
    assert len(document.find("audio")) == 6
    assert document.find("h1")[0].text == "one"


def test_two_systems_share_one_report_and_a_crossed_bound_does_not_keep_it_from_being_written(
    aasvc: Callable[..., Any], recordings: Folders, tmp_path: Path
):
    report = tmp_path / "out.html"
    done = evaluate(
        aasvc, recordings, recordings["one"], recordings["two"], "--report", report, "--report-utterances", 1,
        "--fail-if", "F0RMSE_corrected>0.001",
    )  # fmt: skip
    assert done.code == 1
    assert "fails F0RMSE_corrected>0.001" in done.err
    document = parse(report.read_text(encoding="utf-8"))
    assert document.find("h1")[0].text == "one and two"
    assert len(document.find("audio")) == 4
    assert "1 of 2 utterances" in document.find("header")[0].text


def test_the_answers_of_a_listening_test_stand_in_the_report(
    aasvc: Callable[..., Any], recordings: Folders, tmp_path: Path
):
    answers = [Answer(str(who), "preference", 1, 0, "c&d", "one", "two", "first", 3.0) for who in range(4)]
    (tmp_path / "answers.csv").write_text(to_csv(answers), encoding="utf-8")
    report = tmp_path / "out.html"
    done = evaluate(
        aasvc, recordings, recordings["one"], recordings["two"], "--report", report, "--report-utterances", 0,
        "--listening", tmp_path / "answers.csv",
    )  # fmt: skip
    assert done.code == 0, done.err
    (table,) = parse(report.read_text(encoding="utf-8")).find("section", id="listening")
    assert "one preferred to two 100 % 100 … 100 4" in " ".join(table.text.split())


def test_a_folder_in_place_of_the_report_is_refused_before_any_work(
    aasvc: Callable[..., Any], recordings: Folders, tmp_path: Path
):
    done = evaluate(aasvc, recordings, "--converted", recordings["one"], "--report", tmp_path)
    assert done.code == 2
    assert str(tmp_path) in done.err
    assert done.out == ""


def test_a_report_that_cannot_be_written_is_one_line_and_leaves_nothing_behind(
    aasvc: Callable[..., Any], recordings: Folders, tmp_path: Path
):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    done = evaluate(aasvc, recordings, "--converted", recordings["one"], "--report", tmp_path / "file" / "out.html")
    assert done.code == 1
    assert [line for line in done.err.splitlines() if "error" in line] == [done.err.splitlines()[-1]]
    assert str(tmp_path / "file") in done.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["file"]


def test_a_model_that_does_not_load_is_a_note_on_the_page(tmp_path: Path):
    result = EvaluateResult("a run", None, {}, (), (), {}, folder=tmp_path / "gone")
    written = write_report(result, tmp_path / "out.html")
    assert written.n_utterances == 0
    assert f"No alignments of gone: {tmp_path / 'gone'}" in written.path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_report_of_a_run_has_its_alignments_and_its_curves(aasvc: Callable[..., Any], trained: Any, tmp_path: Path):
    done = aasvc("convert", "--set", "eval", "--model", "tiny")
    assert done.code == 0, done.err
    report = tmp_path / "out.html"
    done = aasvc("evaluate", "--model", "tiny", "--measures", "signal", "--jobs", "1", "--report", report)
    document = parse(report.read_text(encoding="utf-8"))
    assert len(document.find("article")) == 2
    assert len(document.find("div", class_="matrix")) == 2
    assert {"l1", "total"} <= {caption.find("strong")[0].text for caption in document.find("figcaption")}
    # the page stands for itself: the recordings may go
    shutil.rmtree(trained.exp)
    assert len(document.find("audio")) == 6
