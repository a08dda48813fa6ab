"""Ctrl-C, as a terminal sends it: to the program and to every process that it started."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.home import Home

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups"),
]
ROOT = Path(__file__).parents[2]
PATIENCE = 10.0
"""Seconds in which the program must have ended: far above what it takes, for machines that are busy elsewhere."""
PROCESSOR_SECONDS = 1.0
"""What it may compute from the signal to its end, which a busy machine does not change."""


@dataclass(frozen=True)
class Ended:
    """How a program ended that was interrupted."""

    code: int
    err: str
    seconds: float
    processor_seconds: float


def processor_seconds(session: int) -> float:
    """What the processes of a session have computed, with those that they have waited for; infinite if unknown."""
    ticks = 0
    for process in processes_of(session):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else math.inf


def of_children() -> float:
    """The same for all processes that this one has waited for."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processes_of(session: int) -> list[int]:
    """Processes that belong to a session, as long as they run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def interrupt(tmp_path: Path) -> Iterator[Callable[..., Ended]]:
    """Start a command, press Ctrl-C when a condition holds, and tell how it ended.

    Other signals can be sent instead, one after the other, as batch schedulers do: to all processes of a job. A command
    that has told its result, by what it prints last, was only leaving when the signal came, and shows nothing.
    """
    started: list[subprocess.Popen[str]] = []

    def call(
        *arguments: object,
        when: Callable[[int], bool],
        signals: Sequence[signal.Signals] = (signal.SIGINT,),
        last: str | None = None,
    ) -> Ended:
        before = of_children()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "aasvc_cli", *map(str, arguments)], env=environment, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 120
        while process.poll() is None and not when(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.skip(f"it had ended before the signal came: {err}")
        began, used = time.monotonic(), processor_seconds(process.pid)
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(0.02)
        out, err = process.communicate(timeout=60)
        seconds, used = time.monotonic() - began, of_children() - before - used
        if process.returncode == 0 or (last is not None and last in out):
            assert "Traceback" not in err
            pytest.skip("it was ending when the signal came")
        assert out == ""
        deadline = time.monotonic() + 20
        while Path("/proc/self").exists() and processes_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes_of(process.pid), "no process stays behind"
        return Ended(process.returncode, err, seconds, used)

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def half_written(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob(".*.*") if re.search(r"\.[a-z0-9_]{8}$", path.name)]


def assert_ended_well(result: Ended, *folders: Path) -> str:
    assert result.code == 130, result.err
    assert "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("aasvc: ")
    assert not half_written(*folders)
    assert result.seconds < PATIENCE
    assert result.processor_seconds < PROCESSOR_SECONDS
    return result.err


def test_at_once_when_the_program_is_still_loading(interrupt, home: Home):
    began = time.monotonic()
    result = interrupt("stats", when=lambda _: time.monotonic() > began + 0.25)
    if result.code != 130 and "aasvc_cli" not in result.err:
        pytest.skip("Python itself was not up yet")
    assert_ended_well(result)
    assert not home.root.exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_prepare_keeps_what_is_done_and_goes_on_from_there(interrupt, aasvc, home: Home, demo_corpus: Path, jobs: int):
    def features() -> int:
        return len(list(home.features.rglob("*.safetensors")))

    result = interrupt("--quiet", "prepare", demo_corpus, "--jobs", jobs, when=lambda _: features() > 2)
    err = assert_ended_well(result, home.root)
    stopped = re.search(r"stopped after (\d+) of 200 recordings; they are kept", err)
    assert stopped
    assert 0 <= int(stopped[1]) < 200
    assert not list(home.prepared.rglob("manifest.json"))
    assert features() >= int(stopped[1])


def has_workers(session: int) -> bool:
    commands = []
    for process in processes_of(session):
        with contextlib.suppress(OSError):
            commands.append(Path(f"/proc/{process}/cmdline").read_bytes())
    return any(b"multiprocessing.spawn" in command for command in commands)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see what a process does")


@needs_proc
@pytest.mark.parametrize("command", ["prepare", "convert", "evaluate"])
def test_workers_that_are_still_starting_are_not_waited_for(
    interrupt, home: Home, demo_corpus: Path, tmp_path: Path, command: str
):
    male, female = (demo_corpus / speaker / "wav" / "train_parallel" for speaker in ("male", "female"))
    arguments = {
        "prepare": ["prepare", demo_corpus, "--jobs", 2],
        "convert": ["convert", male, "--out-dir", tmp_path / "out", "--jobs", 2],
        "evaluate": ["evaluate", "--converted", male, "--target", female, "--jobs", 2],
    }[command]
    err = assert_ended_well(interrupt("--quiet", *arguments, when=has_workers), home.root, tmp_path)
    assert len(err.splitlines()) == 1


def has_begun_to_load(process: int) -> bool:
    """Whether numpy is there, which only the work itself needs; small statistics are done soon after."""
    with contextlib.suppress(OSError):
        return b"numpy" in Path(f"/proc/{process}/maps").read_bytes()
    return False


@needs_proc
def test_stats_leaves_nothing(interrupt, trained: Home):
    shutil.rmtree(trained.stats)
    result = interrupt("--quiet", "stats", when=has_begun_to_load, last="written to")
    assert_ended_well(result, trained.root)
    assert not [path for path in trained.stats.rglob("*") if path.is_file()]


def test_train_saves_and_says_how_to_go_on(interrupt, trained: Home):
    folder = trained.exp / "male_female_long"
    settings = ["--max-steps", 100000, "--eval-every", 1000, "--save-every", 1000]
    result = interrupt("train", "--tag", "long", *settings, when=lambda _: (folder / "log.jsonl").is_file())
    err = assert_ended_well(result, trained.root)
    assert "stopping after this step" in err
    assert (folder / "last.safetensors").is_file()


def test_train_that_is_asked_twice_ends_at_once(interrupt, trained: Home):
    folder = trained.exp / "male_female_long"
    settings = ["--max-steps", 100000, "--eval-every", 1000, "--save-every", 1000]
    result = interrupt(
        "train",
        "--tag",
        "long",
        *settings,
        when=lambda _: (folder / "log.jsonl").is_file(),
        signals=[signal.SIGINT] * 2,
    )
    assert_ended_well(result, trained.root)


@pytest.mark.parametrize(
    ("names", "workers"), [(["SIGUSR1"], 0), (["SIGTERM", "SIGTERM"], 1), (["SIGUSR1", "SIGTERM"], 1)]
)
def test_a_training_that_a_batch_scheduler_ends_goes_on_exactly(
    interrupt, aasvc, trained: Home, names: list[str], workers: int
):
    ended, whole = trained.exp / "male_female_ended", trained.exp / "male_female_whole"
    settings = ["--eval-every", 1000, "--save-every", 1000, "--loader-workers", workers]

    def begun(_: int) -> bool:
        log = ended / "log.jsonl"
        return log.is_file() and log.read_text().count("\n") > 2

    signals = [getattr(signal, name) for name in names]
    command = ["train", "--tag", "ended", *settings, "--max-steps"]
    err = assert_ended_well(interrupt(*command, 100000, when=begun, signals=signals), trained.root)
    assert err.count("stopping after this step") == 1
    step = load_checkpoint(ended / "last.safetensors")[1]["step"]
    assert step > 2 and f"stopped after step {step} of 100000; all is saved in {ended}" in err
    more = step + 2
    assert aasvc("--quiet", *command, more).code == 0
    assert aasvc("--quiet", "train", "--tag", "whole", *settings, "--max-steps", more).code == 0
    found, expected = (load_checkpoint(folder / "last.safetensors")[0] for folder in (ended, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("workers", [1, 2])
def test_convert_leaves_whole_recordings_only(
    interrupt, trained: Home, demo_corpus: Path, tmp_path: Path, workers: int
):
    import soundfile

    out = tmp_path / "out"
    result = interrupt(
        "--quiet", "convert", demo_corpus / "male" / "wav", "--out-dir", out, "--model", "tiny", "--jobs", workers,
        when=lambda _: len(list(out.rglob("*.wav"))) > 1,
    )  # fmt: skip
    assert_ended_well(result, trained.root, out)
    assert all(soundfile.info(path).frames for path in out.rglob("*.wav"))


def test_a_single_conversion_leaves_nothing(interrupt, trained: Home, data: Path, tmp_path: Path):
    import soundfile

    wave, rate = soundfile.read(data / "male.flac")
    soundfile.write(tmp_path / "long.wav", np.tile(wave, 400), rate)
    (tmp_path / "out").mkdir()
    result = interrupt(
        "--quiet", "convert", "long.wav", "-o", "out/long.flac", "--model", "tiny",
        when=lambda _: any((tmp_path / "out").iterdir()),
    )  # fmt: skip
    assert_ended_well(result, trained.root, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
def test_evaluate_leaves_nothing(interrupt, home: Home, demo_corpus: Path, tmp_path: Path, jobs: int):
    folders = [demo_corpus / speaker / "wav" / "train_parallel" for speaker in ("male", "female")]
    began = time.monotonic()
    result = interrupt(
        "--quiet", "evaluate", "--converted", folders[0], "--target", folders[1], "--jobs", jobs,
        "--json", tmp_path / "scores.json", when=lambda _: time.monotonic() > began + 2.5,
    )  # fmt: skip
    assert_ended_well(result, tmp_path)
    assert not (tmp_path / "scores.json").exists()


PARENT = """
import os, signal, subprocess, sys
from aasvc_cli.workers import children_without_ctrl_c

child = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('lives')"
before = signal.getsignal(signal.SIGINT)
try:
    with children_without_ctrl_c():
        os.kill(os.getpid(), signal.SIGINT)
        print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout.strip())
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) == before)
"""


def test_processes_that_start_meanwhile_do_not_see_it_and_the_parent_gets_it_afterwards():
    # in a process of its own: another thread of this one could take the signal
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["lives", "interrupted True", ""]


STUCK = """
import hashlib, multiprocessing, sys, time
from pathlib import Path
from aasvc_cli.cli.interrupt import watch
from aasvc_cli.storage.files import atomic_path
import signal

def swallows():
    while True:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            print("swallowed", flush=True)

def computes():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # hours, without a step in Python

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)).start()
    with watch.over(signal.SIGINT, alone=True), atomic_path(Path(sys.argv[2])):
        print("ready", flush=True)
        globals()[sys.argv[1]]()
"""


@pytest.mark.parametrize("how", ["swallows", "computes"])
def test_a_program_that_cannot_be_interrupted_is_ended(tmp_path: Path, how: str):
    (tmp_path / "stuck.py").write_text(STUCK, encoding="utf-8")
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [sys.executable, "stuck.py", how, "out/file"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert list((tmp_path / "out").iterdir())
    time.sleep(0.5)  # until it is where it cannot be interrupted
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)  # the pipes stay open as long as a process lives that holds them
    assert time.monotonic() - began < PATIENCE
    assert (process.returncode, err) == (130, "aasvc: interrupted\n")
    assert out == ("swallowed\n" if how == "swallows" else "")
    assert not list((tmp_path / "out").iterdir())
