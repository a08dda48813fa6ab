"""Ctrl-C, as a terminal sends it: to the program and to every process that it started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from aasvc_cli.storage.cache import Home
from aasvc_cli.storage.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
ROOT = Path(__file__).parent.parent
PATIENCE = 10.0
"""Seconds in which the program must have ended: far above what it takes, for machines that are busy elsewhere."""


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
def interrupt(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str, float]]]:
    """Start a command, press Ctrl-C when a condition holds, and give its exit code, its words and its seconds.

    Other signals can be sent instead, one after the other, as batch schedulers do: to all processes of a job.
    """
    started: list[subprocess.Popen[str]] = []

    def call(
        *arguments: object, when: Callable[[int], bool], signals: Sequence[signal.Signals] = (signal.SIGINT,)
    ) -> tuple[int, str, float]:
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
        began = time.monotonic()
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(0.02)
        out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - began
        assert out == ""
        deadline = time.monotonic() + 20
        while Path("/proc/self").exists() and processes_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes_of(process.pid), "no process stays behind"
        return process.returncode, err, seconds

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def half_written(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob(".*.*") if re.search(r"\.[a-z0-9_]{8}$", path.name)]


def assert_ended_well(result: tuple[int, str, float], *folders: Path) -> str:
    code, err, seconds = result
    assert code == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("aasvc: ")
    assert not half_written(*folders)
    assert seconds < PATIENCE
    return err


def test_at_once_when_the_program_is_still_loading(interrupt, home: Home):
    began = time.monotonic()
    result = interrupt("stats", when=lambda _: time.monotonic() > began + 0.25)
    if result[0] != 130 and "aasvc_cli" not in result[1]:
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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see the workers start")
def test_prepare_that_is_stopped_while_its_workers_start_says_one_line(interrupt, home: Home, demo_corpus: Path):
    def workers(session: int) -> bool:
        commands = []
        for process in processes_of(session):
            with contextlib.suppress(OSError):
                commands.append(Path(f"/proc/{process}/cmdline").read_bytes())
        return any(b"popen_loky" in command for command in commands)

    result = interrupt("--quiet", "prepare", demo_corpus, "--jobs", 2, when=workers)
    err = assert_ended_well(result, home.root)
    assert len(err.splitlines()) == 1


def test_stats_leaves_nothing(interrupt, trained: Home):
    shutil.rmtree(trained.stats)
    began = time.monotonic()
    result = interrupt("--quiet", "stats", when=lambda _: time.monotonic() > began + 0.4)
    assert_ended_well(result, trained.root)
    assert not [path for path in trained.stats.rglob("*") if path.is_file()]


def test_train_saves_and_says_how_to_go_on(interrupt, trained: Home):
    folder = trained.exp / "male_female_long"
    settings = ["--max-steps", 100000, "--eval-every", 1000, "--save-every", 1000]
    result = interrupt("train", "--tag", "long", *settings, when=lambda _: (folder / "log.jsonl").is_file())
    err = assert_ended_well(result, trained.root)
    assert "stopping after this step" in err
    assert (folder / "last.safetensors").is_file()


@pytest.mark.parametrize(
    ("names", "workers"), [(["SIGUSR1"], 0), (["SIGTERM", "SIGTERM"], 1), (["SIGUSR1", "SIGTERM"], 1)]
)
def test_a_training_that_a_batch_scheduler_ends_goes_on_exactly(
    interrupt, aasvc, trained: Home, names: list[str], workers: int
):
    ended, whole = trained.exp / "male_female_ended", trained.exp / "male_female_whole"
    settings = ["--eval-every", 1000, "--save-every", 1000, "--workers", workers]

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


def test_convert_leaves_whole_recordings_only(interrupt, trained: Home, demo_corpus: Path, tmp_path: Path):
    import soundfile

    out = tmp_path / "out"
    result = interrupt(
        "--quiet", "convert", demo_corpus / "male" / "wav", "--out-dir", out, "--model", "tiny",
        when=lambda _: len(list(out.rglob("*.wav"))) > 1,
    )  # fmt: skip
    assert_ended_well(result, trained.root, out)
    assert all(soundfile.info(path).frames for path in out.rglob("*.wav"))


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
from aasvc_cli.signals import children_without_ctrl_c

child = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
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
    assert done.stdout.split("\n") == ["True", "interrupted True", ""]
