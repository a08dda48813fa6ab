"""Files and folders that the user may not read or write: one line that names them, and nothing half-written.

Root ignores permissions, so these tests skip for root; ``.ci/run`` runs them as another user.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aasvc_cli.storage.home import Home

pytestmark = pytest.mark.unprivileged
Aasvc = Callable[..., Any]


@contextmanager
def forbidden(path: Path, mode: int = 0) -> Iterator[None]:
    """A file or folder with fewer permissions, which come back afterwards."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


READ_ONLY = 0o500


@pytest.fixture
def recording(data: Path, tmp_path: Path) -> Path:
    """A recording of this test's own."""
    return Path(shutil.copy(data / "male.flac", tmp_path / "in.flac"))


def refused(outcome: Any, path: Path) -> None:
    """A command failed with one line that names the path and the permission."""
    assert outcome.code == 1, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1, outcome.err
    assert str(path) in outcome.err
    assert "permission" in outcome.err.lower()


def test_a_recording_that_cannot_be_read_is_named_by_convert(aasvc: Aasvc, trained: Home, recording: Path):
    output = recording.with_name("out.wav")
    with forbidden(recording):
        refused(aasvc("--quiet", "convert", recording, "-o", output, "--model", "tiny"), recording)
    assert not output.exists()


def test_a_folder_that_cannot_be_written_is_named_by_convert(aasvc: Aasvc, trained: Home, recording: Path):
    folder = recording.with_name("results")
    folder.mkdir()
    with forbidden(folder, READ_ONLY):
        refused(aasvc("--quiet", "convert", recording, "-o", folder / "out.wav", "--model", "tiny"), folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["config.yaml", "stats.json", "best.safetensors"])
def test_a_file_of_a_model_that_cannot_be_read_is_named(aasvc: Aasvc, trained: Home, recording: Path, name: str):
    path = trained.exp / "male_female_tiny" / name
    with forbidden(path):
        refused(aasvc("--quiet", "convert", recording, "-o", "out.wav", "--model", "tiny"), path)


def test_a_settings_file_that_cannot_be_read_is_named(aasvc: Aasvc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "aasvc.yaml"
    settings.write_text("train: {seed: 1}")
    with forbidden(settings):
        refused(aasvc("--quiet", "stats"), Path("aasvc.yaml"))


def test_a_recording_that_cannot_be_read_is_left_out_by_prepare_and_named(
    aasvc: Aasvc, small_corpus: Path, tiny_conf: Path, tmp_path: Path
):
    corpus = tmp_path / "ja-JP"
    shutil.copytree(small_corpus, corpus)
    unreadable = min((corpus / "male" / "wav" / "train_parallel").iterdir())
    with forbidden(unreadable):
        outcome = aasvc("prepare", corpus, "--conf", tiny_conf, "--jobs", 1)
    assert outcome.code == 0, outcome.err
    assert "left out: 1" in outcome.out
    assert str(unreadable) in outcome.out


@pytest.mark.parametrize("command", ["prepare", "stats", "train"])
def test_what_cannot_be_written_in_the_data_folder_is_named_and_left_alone(
    aasvc: Aasvc, trained: Home, small_corpus: Path, tiny_conf: Path, command: str
):
    line = {
        "prepare": ["prepare", small_corpus, "--conf", tiny_conf, "--jobs", 1, "--name", "other"],
        "stats": ["stats", "--data", "male_female"],
        "train": ["train", "--tag", "other"],
    }[command]
    place = {
        "prepare": trained.prepared,
        "stats": trained.root / "stats" / "male_female" / "self.json",
        "train": trained.exp,
    }[command]
    before = sorted(trained.root.rglob("*"))
    with forbidden(place, READ_ONLY):
        refused(aasvc("--quiet", *line), place)
    assert sorted(trained.root.rglob("*")) == before


def test_a_conversion_with_the_bundled_voice_needs_no_data_folder(aasvc: Aasvc, recording: Path, home: Home):
    home.root.mkdir(parents=True)
    with forbidden(home.root, READ_ONLY):
        outcome = aasvc("--quiet", "convert", recording, "-o", recording.with_name("out.wav"))
    assert outcome.code == 0, outcome.err
    assert not list(home.root.iterdir())


def test_scores_do_not_depend_on_a_cache_that_cannot_be_written(aasvc: Aasvc, home: Home, recording: Path):
    folders = [recording.with_name(name) for name in ("converted", "target")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(recording, folder / "u1.flac")
    line = ["evaluate", "--converted", folders[0], "--target", folders[1], "--jobs", 1, "--json", "-"]
    expected = aasvc("--home", home.root / "writable", *line)
    with forbidden(home.root, READ_ONLY):
        outcome = aasvc("--home", home.root, *line)
    assert (outcome.code, outcome.out) == (0, expected.out)
