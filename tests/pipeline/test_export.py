"""aasvc export: what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aasvc_cli.config.reading import parse_section
from aasvc_cli.conversion.voice import is_exported
from aasvc_cli.exporting import checked, page
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import load_vocoder, write_vocoder
from aasvc_cli.vocoder.folder import StoredVocoder
from aasvc_cli.vocoder.gan_generators import ParallelWaveGan, ParallelWaveGanSizes
from tests.exports import make_graphs_once, speaking_voice


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    return speaking_voice(tmp_path / "voice")


def test_a_folder_with_something_in_it_is_left_alone(aasvc: Callable[..., Any], voice: Path, tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "diary.txt").write_text("mine")
    outcome = aasvc("export", voice, tmp_path / "there")
    assert outcome.code == 1 and "is there already; choose a new folder" in outcome.err
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["diary.txt"]


def test_griffin_lim_is_refused_by_name_and_nothing_is_written(aasvc: Callable[..., Any], voice: Path, tmp_path: Path):
    outcome = aasvc("export", voice, tmp_path / "out", "--vocoder", "griffin-lim")
    assert outcome.code == 1 and "griffin-lim: this kind of vocoder cannot be exported" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_vocoder_that_cannot_go_on_a_page_is_refused_before_anything_is_computed(
    aasvc: Callable[..., Any], voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checked, "graph_files", None)
    sizes = {"aux_channels": 20, "layers": 2, "stacks": 1, "upsample_scales": [8, 4, 4]}
    weights = ParallelWaveGan(parse_section(ParallelWaveGanSizes, sizes, "", "test")).state_dict()
    mel = load_vocoder(voice / "own").mel
    write_vocoder(tmp_path / "pwg", StoredVocoder("parallel-wavegan", mel, sizes, weights))
    outcome = aasvc("export", voice, tmp_path / "out", "--format", "web", "--vocoder", tmp_path / "pwg", "-q")
    assert outcome.code == 1 and not (tmp_path / "out").exists()
    assert outcome.err.splitlines() == [
        f"aasvc: error: {tmp_path / 'pwg'}: this vocoder, a ParallelWaveGAN, is too slow for a page; choose another "
        "with --vocoder, or export without --format web"
    ]


def test_a_published_model_needs_the_statistics_of_its_speaker(aasvc: Callable[..., Any], data: Path, tmp_path: Path):
    outcome = aasvc("export", data / "aasvc-deterministic", tmp_path / "out", "--vocoder", data / "vocoder-hifigan")
    assert outcome.code == 1
    assert not (tmp_path / "out").exists()


def test_a_page_without_its_runtime_says_how_to_get_it(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(page.DownloadError, match=r"npm pack onnxruntime-web@.* put onnxruntime-web-.*\.tgz into"):
        page._runtime(home, print)


def test_a_runtime_that_is_not_the_one_expected_is_thrown_away(home: Home):
    package = home.cache / f"onnxruntime-web-{page.RUNTIME_VERSION}.tgz"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"something else")
    with pytest.raises(page.DownloadError, match="is not the onnxruntime-web that was expected"):
        page._runtime(home, print)
    assert not package.exists()


@pytest.mark.slow
def test_a_voice_is_exported_with_its_card_and_replaced_when_asked(
    aasvc: Callable[..., Any], voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_graphs_once(monkeypatch)
    out = tmp_path / "out"
    outcome = aasvc("export", voice, out, "--json", tmp_path / "out.json")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "vocoder.onnx", "voice.onnx"]
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["difference"] < 1e-4 and facts["vocoder"] == "own"
    assert facts["files"] == {path.name: path.stat().st_size for path in out.iterdir()}
    assert is_exported(out)
    again = aasvc("export", out, tmp_path / "again")
    assert again.code == 1 and "is an exported model already" in again.err
    (out / "card.json").write_text("{}")
    assert aasvc("export", voice, out, "--overwrite").code == 0
    assert {path.name: path.stat().st_size for path in out.iterdir()} == facts["files"]
