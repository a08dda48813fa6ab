"""What goes wrong in several steps, or in between: one line on standard error, and nothing half-written.

Single mistakes, over all commands, are the rows of test_error_matrix.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.storage.home import Home

DATA = Path(__file__).parent / "assets"
RATE = 16000


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Something with pitch and pauses that analysis takes for speech."""
    t = np.arange(int(seconds * RATE)) / RATE
    rng = np.random.default_rng(seed)
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    return (0.1 * voice + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def tree(*roots: Path) -> dict[str, bytes | None]:
    """Every file and folder below some folders, with contents."""
    found: dict[str, bytes | None] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            found[str(path)] = path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def refused(aasvc: Callable[..., Any]) -> Callable[..., str]:
    """Run a command that must fail, and give the one line it says."""

    def call(*arguments: object, code: int = 1) -> str:
        outcome = aasvc("--quiet", *arguments)
        assert outcome.code == code, outcome
        assert outcome.out == ""
        assert "Traceback" not in outcome.err
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.err.startswith("aasvc: error: ")
        return outcome.err

    return call


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with five good pairs, to be spoilt."""
    folders = tmp_path / "source", tmp_path / "target"
    for number in range(5):
        for side, folder in enumerate(folders):
            folder.mkdir(exist_ok=True)
            soundfile.write(folder / f"u{number}.wav", speech(0.7 + 0.1 * side + 0.02 * number, number), RATE)
    return folders


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """A folder that takes no more than `size` bytes: a tiny file system, or else a limit on the size of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size // 1024}k"
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if mounted:
        try:
            yield "the disk is full"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield "file-size limit"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


class TestPrepare:
    def refuse(self, refused: Callable[..., str], pairs: tuple[Path, Path], home: Home, *more: object) -> str:
        error = refused("prepare", "--source", pairs[0], "--target", pairs[1], "--jobs", 1, *more)
        assert not list(home.prepared.rglob("manifest.json")), "no manifest of a failed preparation"
        assert not [path for path in home.root.rglob(".*") if path.is_file()], "no temporary files"
        return error

    def test_only_one_pair(self, refused: Callable[..., str], pairs, home: Home):
        for folder in pairs:
            for path in sorted(folder.iterdir())[1:]:
                path.unlink()
        assert "too few good pairs" in self.refuse(refused, pairs, home)

    def test_no_two_names_alike(self, refused: Callable[..., str], pairs, home: Home):
        for path, name in zip(list(pairs[1].iterdir()), "pqrstuvwxyz", strict=False):
            path.rename(path.with_stem(name))
        assert "share their file name" in self.refuse(refused, pairs, home)

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda path: path.write_text("this is no sound"), "unreadable"),
            (lambda path: path.write_bytes(b""), "unreadable"),
            (lambda path: soundfile.write(path, np.zeros(0), RATE), "empty"),
            (lambda path: soundfile.write(path, np.zeros(RATE), RATE), "silent"),
            (lambda path: soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT"), "nan"),
            (lambda path: soundfile.write(path, speech(0.02), RATE), "too_short"),
        ],
        ids=["text", "zero bytes", "no samples", "silence", "NaN", "too short"],
    )
    def test_recordings_that_are_all_spoilt_leave_too_few_pairs(
        self, refused: Callable[..., str], pairs, home: Home, spoil: Callable[[Path], object], reason: str
    ):
        for path in sorted(pairs[0].iterdir())[1:]:
            spoil(path)
        error = self.refuse(refused, pairs, home)
        assert "too few good pairs" in error
        assert f"4 {reason}" in error
        assert "u1" in error

    def test_one_spoilt_recording_is_left_out_and_named(self, aasvc: Callable[..., Any], pairs):
        (pairs[1] / "u2.wav").write_text("this is no sound")
        outcome = aasvc("prepare", "--source", pairs[0], "--target", pairs[1], "--jobs", 1)
        assert outcome.code == 0, outcome.err
        assert "left out: 1" in outcome.out
        assert str(pairs[1] / "u2.wav") in outcome.out

    def test_an_unknown_corpus_or_speaker(self, refused: Callable[..., str], small_corpus: Path):
        assert "nothing" in refused("prepare", "nothing")
        assert "mal" in refused("prepare", small_corpus, "--source", "mal", "--target", "female")

    @pytest.mark.process
    def test_a_full_disk(self, refused: Callable[..., str], pairs, home: Home):
        with small_disk(home.root, 16 * 1024) as message:
            error = self.refuse(refused, pairs, home)
        assert message in error

    def test_a_data_folder_that_cannot_be_made(self, refused: Callable[..., str], pairs, home: Home):
        home.root.write_text("a file stands here")
        error = refused("prepare", "--source", pairs[0], "--target", pairs[1], "--jobs", 1)
        assert str(home.root) in error
        assert home.root.read_text() == "a file stands here"

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that takes no files")
    def test_a_data_folder_without_write_permission(self, refused: Callable[..., str], pairs):
        error = refused("--home", "/proc/aasvc", "prepare", "--source", pairs[0], "--target", pairs[1], "--jobs", 1)
        assert "/proc/aasvc" in error


class TestStatsAndTrain:
    @pytest.mark.parametrize("command", ["stats", "train"])
    def test_nothing_prepared_yet(self, refused: Callable[..., str], home: Home, command: str):
        assert "aasvc prepare" in refused(command)
        assert not home.root.exists()

    @pytest.mark.parametrize("command", ["stats", "train"])
    def test_an_unknown_prepared_set_names_the_nearest(self, refused: Callable[..., str], trained: Home, command: str):
        assert "did you mean male_female?" in refused(command, "--data", "male_femal")

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "male_female"}'])
    def test_a_damaged_manifest(self, refused: Callable[..., str], trained: Home, content: str):
        (trained.prepared / "male_female" / "manifest.json").write_text(content)
        before = tree(trained.root)
        assert "manifest" in refused("train", "--tag", "new")
        assert tree(trained.root) == before

    @pytest.mark.parametrize("kept", [0, 100, -1])
    def test_a_truncated_checkpoint_is_named_and_left_alone(
        self, refused: Callable[..., str], trained: Home, kept: int
    ):
        path = trained.exp / "male_female_tiny" / "last.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        before = tree(trained.root)
        assert "last.safetensors" in refused("train", "--tag", "tiny", "--max-steps", 4)
        assert tree(trained.root) == before

    @pytest.mark.process
    def test_a_full_disk(self, refused: Callable[..., str], trained: Home):
        before = tree(trained.root)
        with small_disk(trained.exp / "male_female_full", 24 * 1024) as message:
            error = refused("train", "--tag", "full")
            assert not [path for path in (trained.exp / "male_female_full").iterdir() if path.name.startswith(".")]
        assert message in error
        after = tree(trained.root)
        assert {name: after[name] for name in before} == before


class TestConvert:
    @pytest.mark.parametrize("name", ["config.yaml", "stats.json", "best.safetensors"])
    @pytest.mark.parametrize("damage", ["cut", "missing", "other"])
    def test_a_damaged_model(self, refused: Callable[..., str], trained: Home, tmp_path: Path, name: str, damage: str):
        folder = tmp_path / "voice"
        shutil.copytree(trained.exp / "male_female_tiny", folder)
        (folder / "last.safetensors").unlink()
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        if damage != "missing":
            # of a configuration, the sizes of the network must be cut: what comes after them is not needed to convert
            kept = content.index(b"model:") + 40 if name == "config.yaml" else len(content) // 2
            path.write_bytes(content[:kept] if damage == "cut" else b"\x00 something else")
        error = refused("convert", DATA / "male.flac", "-o", tmp_path / "out.wav", "--model", folder)
        assert str(folder) in error
        assert not (tmp_path / "out.wav").exists()

    def test_an_output_that_cannot_be_written(self, refused: Callable[..., str], trained: Home, tmp_path: Path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder.wav").mkdir()
        for output, named in (("file/out.wav", "file"), ("folder.wav", "folder.wav"), ("out.mp4", "out.mp4")):
            before = tree(tmp_path)
            error = refused("convert", DATA / "male.flac", "-o", tmp_path / output, "--model", "tiny")
            assert str(tmp_path / named) in error
            assert tree(tmp_path) == before

    @pytest.mark.process
    def test_a_full_disk(self, refused: Callable[..., str], trained: Home, tmp_path: Path):
        with small_disk(tmp_path / "disk", 4096) as message:
            error = refused("convert", DATA / "male.flac", "-o", tmp_path / "disk" / "out.wav", "--model", "tiny")
            assert not list((tmp_path / "disk").iterdir())
        assert message in error

    def test_a_set_without_utterances_or_of_a_voice_without_data(self, refused: Callable[..., str], trained: Home):
        manifest = trained.prepared / "male_female" / "manifest.json"
        manifest.unlink()
        assert "male_female" in refused("convert", "--set", "eval", "--model", "tiny")

    def test_one_bad_recording_of_several_is_named_and_the_others_are_converted(
        self, aasvc: Callable[..., Any], trained: Home, tmp_path: Path
    ):
        (tmp_path / "bad.wav").write_text("this is no sound")
        outcome = aasvc(
            "--quiet", "convert", tmp_path / "bad.wav", DATA / "male.flac", "--out-dir", tmp_path / "out",
            "--model", "tiny",
        )  # fmt: skip
        assert outcome.code == 1
        assert "bad.wav" in outcome.err
        assert "Traceback" not in outcome.err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["male.wav"]


class TestEvaluate:
    def test_missing_and_empty_folders(self, refused: Callable[..., str], pairs, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        for converted, target in (
            (tmp_path / "none", pairs[1]),
            (pairs[0], tmp_path / "none"),
            (tmp_path / "empty", pairs[1]),
            (pairs[0], tmp_path / "empty"),
            (pairs[0] / "u0.wav", pairs[1]),
        ):
            before = tree(tmp_path)
            refused("evaluate", "--converted", converted, "--target", target, "--json", tmp_path / "scores.json")
            assert tree(tmp_path) == before

    def test_recordings_that_are_all_spoilt(self, refused: Callable[..., str], pairs):
        for path in pairs[0].iterdir():
            path.write_text("this is no sound")
        error = refused("evaluate", "--converted", pairs[0], "--target", pairs[1], "--jobs", 1)
        assert "u0" in error


@pytest.mark.process
def test_the_program_itself_says_one_line_and_exits_with_one(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "aasvc_cli", "train", "--data", "nothing"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("aasvc: error: ")
    assert done.stderr.count("\n") == 1
