"""aasvc between other programs: real shells, real sox, real ffmpeg."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.voices import tiny_config, write_voice

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
sox = pytest.mark.skipif(shutil.which("sox") is None, reason="needs sox: apt-get install sox")
ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: apt-get install ffmpeg")

Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voice(tmp_path_factory.mktemp("voices") / "tiny", tiny_config())


@pytest.fixture
def environment(voice: Path, tmp_path: Path) -> dict[str, str]:
    """``aasvc`` on the path, with a small voice as its model."""
    program = tmp_path / "bin" / "aasvc"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aasvc_cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AASVC_MODEL": str(voice),
    }


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path, data: Path) -> Shell:
    """Run a line of bash in a folder with ``in.flac`` and ``in.wav``; every part of a pipe has to succeed."""
    shutil.copy(data / "male.flac", tmp_path / "in.flac")
    samples, rate = soundfile.read(data / "male.flac", dtype="int16")
    soundfile.write(tmp_path / "in.wav", samples, rate)

    def run(line: str, **options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=120, **options,
        )  # fmt: skip

    return run


def sound_of(data: bytes) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(data), dtype="int16")


@bash
class TestPipes:
    @sox
    def test_a_recording_goes_through_and_on_into_sox(self, shell: Shell, tmp_path: Path):
        done = shell("cat in.wav | aasvc convert - -o - | sox -t wav - out.flac")
        assert done.returncode == 0, done.stderr
        assert done.stdout == b""
        shell("aasvc convert in.wav -o expected.wav")
        assert np.array_equal(
            soundfile.read(tmp_path / "out.flac", dtype="int16")[0],
            soundfile.read(tmp_path / "expected.wav", dtype="int16")[0],
        )

    @ffmpeg
    @pytest.mark.parametrize("source", ["-f wav", "-f flac", "-f mp3"], ids=lambda source: source.split()[1])
    def test_what_ffmpeg_streams_is_understood(self, shell: Shell, source: str):
        done = shell(f"ffmpeg -v error -i in.flac {source} - | aasvc --quiet convert - -o -")
        assert (done.returncode, done.stderr) == (0, b"")
        samples, rate = sound_of(done.stdout)
        assert rate == 16000
        assert len(samples) > 0.3 * rate

    @sox
    @ffmpeg
    def test_raw_samples_in_and_out(self, shell: Shell):
        assert shell("sox in.wav -b 16 -r 22050 -c 2 both.wav").returncode == 0
        done = shell(
            "sox both.wav -t raw - | "
            "aasvc --quiet convert - --raw-format s16le --raw-rate 22050 --raw-channels 2 -o - --format f32le | "
            "ffmpeg -v error -f f32le -ar 16000 -i - -f wav -c:a pcm_s16le -"
        )
        assert (done.returncode, done.stderr) == (0, b"")
        heard = sound_of(done.stdout)[0]
        expected = sound_of(shell("aasvc -q convert both.wav -o -").stdout)[0]
        assert len(heard) == len(expected)
        assert np.abs(heard.astype(int) - expected).max() <= 1

    def test_standard_output_holds_sound_and_nothing_else(self, shell: Shell):
        done = shell("aasvc --debug convert - -o - --format flac < in.wav")
        assert done.returncode == 0
        assert done.stdout[:4] == b"fLaC"
        assert len(sound_of(done.stdout)[0])
        assert done.stderr

    def test_a_list_of_names_is_converted_as_it_comes(self, shell: Shell, tmp_path: Path):
        (tmp_path / "rec" / "sub dir").mkdir(parents=True)
        for name in ("rec/a.wav", "rec/sub dir/ü\nb.wav"):
            shutil.copy(tmp_path / "in.wav", tmp_path / name)
        (tmp_path / "rec" / "bad.wav").write_text("no sound")
        done = shell("find rec -print0 | aasvc convert --from0 - --out-dir out --jsonl -")
        assert done.returncode == 1
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert sorted(line["status"] for line in lines) == ["converted", "converted", "failed"]
        out = tmp_path / "out"
        assert {path.relative_to(out).as_posix() for path in out.rglob("*.wav")} == {
            "rec/a.wav", "rec/sub dir/ü\nb.wav"
        }  # fmt: skip
        assert b"1 recording was not converted; converted: 2" in done.stderr

    def test_a_reader_that_goes_away_ends_it_quietly(self, shell: Shell, tmp_path: Path):
        (tmp_path / "rec").mkdir()
        for index in range(4):
            shutil.copy(tmp_path / "in.wav", tmp_path / "rec" / f"{index}.wav")
        done = shell("aasvc --quiet convert rec --out-dir out --jsonl - | head -n 1; echo ${PIPESTATUS[0]}")
        first, code = done.stdout.splitlines()
        assert json.loads(first)["status"] == "converted"
        assert code == b"1"
        assert done.stderr == b""
        assert not list((tmp_path / "out").glob(".*"))
        done = shell("aasvc --quiet convert in.wav -o - --format s16le | true; echo ${PIPESTATUS[0]}")
        assert (done.stdout, done.stderr) == (b"1\n", b"")

    def test_an_empty_pipe_and_one_without_sound(self, shell: Shell, tmp_path: Path):
        before = sorted(path.name for path in tmp_path.iterdir())
        for source, message in (("true", b"standard input: nothing came in"), ("echo hello", b"standard input: not r")):
            done = shell(f"{source} | aasvc --quiet convert - -o out.wav")
            assert done.returncode == 1
            assert done.stdout == b""
            assert message in done.stderr
            assert done.stderr.count(b"\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
class TestInterrupts:
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_ctrl_c_keeps_what_is_finished_and_leaves_nothing_half_written(
        self, environment: dict[str, str], tmp_path: Path, data: Path, workers: str
    ):
        (tmp_path / "rec").mkdir()
        samples, rate = soundfile.read(data / "male.flac")
        soundfile.write(tmp_path / "rec" / "0.wav", samples, rate)
        for index in range(1, 5):
            soundfile.write(tmp_path / "rec" / f"{index}.wav", np.tile(samples, 200), rate)
        process = subprocess.Popen(
            [sys.executable, "-m", "aasvc_cli", "--quiet", "convert", "rec", "--out-dir", "out", "--jobs", workers],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        out = tmp_path / "out"
        until = time.monotonic() + 240  # two processes load the model first
        while not (out.is_dir() and (out / "0.wav").exists() and list(out.glob(".*"))):
            assert time.monotonic() < until, "no second recording was begun"
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        began = time.monotonic()
        stdout, stderr = process.communicate(timeout=30)
        assert time.monotonic() - began < 10  # a second where nothing else runs
        assert (process.returncode, stdout, stderr) == (130, b"", b"aasvc: interrupted\n")
        assert "0.wav" in {path.name for path in out.iterdir()}
        assert not list(out.glob(".*"))


class TestTerminals:
    @pytest.mark.parametrize("arguments", [["-", "-o", "out.wav"], ["--from0", "-", "--out-dir", "out"]])
    def test_standard_input_from_a_terminal_is_refused(
        self, aasvc: Callable[..., object], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
    ):
        monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
        outcome = aasvc("convert", *arguments)
        assert outcome.code == 2  # type: ignore[attr-defined]
        assert "standard input, which is a terminal; pipe something in" in outcome.err  # type: ignore[attr-defined]


@bash
class TestStreams:
    """Whoever starts the program may have closed, redirected or removed what it is started with."""

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
    def test_closed_streams_do_not_keep_it_from_its_work(self, shell: Shell, tmp_path: Path, closed: str):
        done = shell(f"aasvc convert in.wav -o out.wav --json out.json {closed}")
        assert done.returncode == 0, done.stderr
        assert soundfile.info(tmp_path / "out.wav").frames
        assert json.loads((tmp_path / "out.json").read_text())["files"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("aasvc convert in.wav -o - >&-", b"cannot write standard output: it is closed; give -o FILE"),
            ("aasvc convert --list-models --json - >&-", b"cannot write standard output: it is closed; give --json"),
            ("aasvc convert - -o out.wav <&-", b"cannot read standard input: it is closed"),
            ("aasvc convert --list-models >/dev/full", b"cannot write standard output: the disk is full"),
            ("aasvc convert in.wav -o - >/dev/full", b"cannot write standard output: the disk is full"),
            ("mkdir gone; cd gone; rmdir ../gone; aasvc convert /x.wav -o /y.wav", b"cd somewhere else"),
        ],
    )
    def test_what_it_cannot_do_without_is_named_in_one_line(self, shell: Shell, line: str, message: bytes):
        done = shell(line)
        assert done.returncode == 1
        (error,) = [line for line in done.stderr.splitlines() if line.startswith(b"aasvc:")]
        assert message in error
        assert b"unexpected" not in done.stderr

    def test_help_needs_no_working_directory(self, shell: Shell):
        assert shell("mkdir gone; cd gone; rmdir ../gone; aasvc convert --help").returncode == 0

    @pytest.mark.parametrize("redirected", ["> out.json", "| cat > out.json"])
    def test_standard_output_under_another_name_is_standard_output(self, shell: Shell, tmp_path: Path, redirected: str):
        done = shell(f"aasvc convert --list-models --json /dev/stdout {redirected}")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "out.json").read_text())
        done = shell("aasvc convert in.wav -o /dev/stdout | cat > out.wav; aasvc convert in.wav -o expected.wav")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.wav").read_bytes() == (tmp_path / "expected.wav").read_bytes()

    def test_results_go_through_to_pipes_and_along_links(self, shell: Shell, tmp_path: Path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link.wav").symlink_to(Path("real") / "out.wav")
        done = shell(
            "aasvc convert in.wav -o link.wav --json >(cat > out.json) --jsonl >(cat > out.jsonl) -q; sleep 0.5"
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "link.wav").is_symlink()
        assert soundfile.info(tmp_path / "real" / "out.wav").frames
        assert json.loads((tmp_path / "out.json").read_text())["files"]
        assert json.loads((tmp_path / "out.jsonl").read_text())["status"] == "converted"

    @pytest.mark.parametrize(
        "line",
        [
            "aasvc convert <(cat in.wav) -o out.wav",
            "cat in.wav | aasvc convert /dev/stdin -o out.wav",
            "aasvc convert /dev/stdin -o out.wav < in.wav",
            "mkfifo pipe; cat in.wav > pipe & aasvc convert pipe -o out.wav",
            "mkdir o; aasvc convert <(cat in.wav) in.flac --out-dir o --workers 2 && mv o/[0-9]*.wav out.wav",
        ],
    )
    def test_a_recording_that_can_be_read_only_once_is_converted_like_any_other(
        self, shell: Shell, tmp_path: Path, line: str
    ):
        done = shell(f"aasvc convert in.wav -o expected.wav; {line}")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.wav").read_bytes() == (tmp_path / "expected.wav").read_bytes()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("aasvc convert /dev/zero -o out.wav", b"/dev/zero: is a device, expected a recording"),
            ("aasvc convert <(true) -o out.wav", b"nothing came in, expected a recording"),
        ],
    )
    def test_what_has_no_end_or_no_beginning_is_refused(self, shell: Shell, line: str, message: bytes):
        done = shell(line)
        assert done.returncode == 1
        assert message in done.stderr

    def test_names_that_are_no_text_go_from_the_input_to_every_result(self, shell: Shell, tmp_path: Path):
        name = b"\x8e\x84.wav"  # Shift-JIS, as unzip leaves it
        done = shell(
            "mkdir a; mv in.wav a/$'\\x8e\\x84.wav'; aasvc convert a --out-dir b --json o.json --jsonl o.jsonl && "
            "aasvc evaluate --converted b --target a --measures signal --mode corrected -j 1 "
            "--json e.json --csv e.csv --report e.html"
        )
        assert done.returncode == 0, done.stderr
        assert os.path.exists(os.fsencode(tmp_path / "b") + b"/" + name)
        (file,) = json.loads((tmp_path / "o.json").read_text())["files"]
        line = json.loads((tmp_path / "o.jsonl").read_text())
        assert (line["source"], line["output"]) == (file["source"], file["output"])
        assert os.fsencode(file["source"]) == b"a/" + name
        assert name.removesuffix(b".wav") in (tmp_path / "e.csv").read_bytes()
        assert json.loads((tmp_path / "e.json").read_text())
        assert (tmp_path / "e.html").stat().st_size
