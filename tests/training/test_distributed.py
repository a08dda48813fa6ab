"""Several processes that train one model: the same gradients, one writer, and no hang when one of them dies."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from aasvc_cli.data.dataset import Batch
from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.home import Home
from aasvc_cli.training.distributed import ALONE, World, joined
from aasvc_cli.training.voice_trainer import Trainer
from tests import processes
from tests.training.test_memory import batch, config, without_batch_norms

CPU = torch.device("cpu")
SIZES = (8, 5, 1)
"""Utterances of three micro-batches; of the last one, the second process has no part."""
pytestmark = [pytest.mark.process, processes.needs_forks]


def _share(whole: Batch, world: World) -> Batch:
    """Every second utterance of a batch."""
    rows = list(range(len(whole.utterance_ids)))[world.rank :: world.size]
    picked = {
        field.name: getattr(whole, field.name)[rows or [0]]
        for field in dataclasses.fields(Batch)
        if isinstance(getattr(whole, field.name), Tensor)
    }
    return Batch(tuple(whole.utterance_ids[row] for row in rows or [0]), **picked, spare=not rows)


def _step(world: World, *, batch_norms: bool = False) -> tuple[dict[str, Tensor], Trainer]:
    """The gradient that the optimiser sees in one step, and the trainer after it."""
    settings = {"mask_padding": True, "duration_predictor": "poisson", "duration_rounding": "nearest"}
    trainer = Trainer(config(**settings), CPU, world=world)
    if not batch_norms:
        without_batch_norms(trainer)
    trainer.step = 1
    seen: dict[str, Tensor] = {}

    def look(*_: Any) -> None:
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                seen[name] = parameter.grad.clone()

    trainer.optimizer.register_step_pre_hook(look)
    losses, norm, _ = trainer.update([_share(batch(size, seed=size), world) for size in SIZES])
    seen["losses"], seen["norm"] = losses, torch.tensor(norm)
    return seen, trainer


def _step_of_one(folder: Path) -> None:
    with joined() as world:
        seen, trainer = _step(world)
        torch.save((seen, trainer.model.state_dict()), folder / f"{world.rank}.pt")
        seen, trainer = _step(world, batch_norms=True)
        torch.save(trainer.model.state_dict(), folder / f"{world.rank}-norms.pt")


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tmp_path: Path):
    assert processes.finish(processes.start_group(2, _step_of_one, tmp_path)) == [0, 0]
    expected, trainer = _step(ALONE)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for found, state in parts:
        assert found.keys() == expected.keys()
        for name in expected:
            assert (found[name] - expected[name]).abs().max() <= 1e-5, name
        assert all(torch.equal(state[name], tensor) for name, tensor in parts[0][1].items())
        assert all(
            torch.allclose(state[name], tensor, atol=1e-6) for name, tensor in trainer.model.state_dict().items()
        )
    # what batch norms remember is averaged, so that there is one model
    first, second = (torch.load(tmp_path / f"{rank}-norms.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.process
@pytest.mark.parametrize("environment", [{}, {"RANK": "0"}], ids=["alone", "one of several"])
def test_what_a_process_of_several_leaves_cannot_abort_it(environment: dict[str, str]):
    code = (
        "import atexit, os, sys\nfrom aasvc_cli.cli import main\n"
        "atexit.register(os.abort)\nsys.argv = ['aasvc', '--version']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.stdout.startswith("aasvc ")
    assert done.returncode == (0 if environment else -signal.SIGABRT)


TRAIN = ["train", "--max-steps", "40", "--eval-every", "10", "--save-every", "5", "--accum", "2"]


def _log(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def _worker(rank: int, among: int) -> int:
    """The process of a rank, among the children of a launcher."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            environment = (path.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == among and b"RANK=%d" % rank in environment:
            return int(path.parent.name)
    raise AssertionError(f"no process {rank} below {among}")


def _wait_for_checkpoint(folder: Path, launcher: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not (folder / "last.safetensors").exists():
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.01)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


@pytest.mark.slow
@needs_proc
def test_an_elastic_restart_goes_on_from_the_last_checkpoint_and_ends_with_the_same_bits(trained: Home):
    untouched = processes.start_group(2, processes.command_line, [*TRAIN, "--tag", "whole"])
    killed, whole = trained.exp / "male_female_killed", trained.exp / "male_female_whole"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
         "-m", "aasvc_cli", *TRAIN, "--tag", "killed", "--overwrite"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _wait_for_checkpoint(killed, launcher)
    os.kill(_worker(1, launcher.pid), signal.SIGKILL)
    out, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, err
    resumed = re.search(r"resuming \S+ at step (\d+)", err)
    assert resumed and int(resumed[1]) >= 5, "--overwrite means the first start, not the second"
    assert out.count("step 40, best at") == 1, "one process talks"
    assert processes.finish(untouched) == [0, 0]
    expected, found = (load_checkpoint(folder / "last.safetensors") for folder in (whole, killed))
    assert expected[1]["processes"] == found[1]["processes"] == 2
    assert expected[0].keys() == found[0].keys() and "rng.cpu.1" in found[0]
    assert all(torch.equal(expected[0][name], tensor) for name, tensor in found[0].items())
    assert _log(killed) == _log(whole)


@pytest.mark.slow
@needs_proc
def test_a_killed_process_ends_the_job_with_a_message(trained: Home):
    command = [sys.executable, "-m", "aasvc_cli", "train", "--devices", "2", "--tag", "killed", "--max-steps", "100000"]
    launcher = subprocess.Popen(
        [*command, "--eval-every", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for_checkpoint(trained.exp / "male_female_killed", launcher)
    os.kill(_worker(1, launcher.pid), signal.SIGKILL)
    out, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 1
    assert (
        "aasvc: error: process 1 of 2 was killed by SIGKILL, which ended the training; the same command goes on from "
        "the last checkpoint"
    ) in err.splitlines()
    assert not out and "Traceback" not in err


def test_one_process_of_a_launcher_trains_alone(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with joined() as world:
        assert world is ALONE


def _join(patience: float) -> None:
    time.sleep(patience)
    with joined() as world:
        assert world.any(world.is_first) == [True]


def test_processes_that_are_started_again_do_not_look_for_those_that_are_gone():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # the launcher's, which stays
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    common["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    for attempt in range(4):  # who connects to whom is left to chance
        environment = {**common, "TORCHELASTIC_RESTART_COUNT": str(attempt)}
        group = [
            processes.start(_join, 0.5 * rank * attempt, environment={**environment, "RANK": str(rank)})
            for rank in range(2)
        ]
        assert processes.finish(group) == [0, 0], "the second process is later each time"


def _fail_on(rank: int, output: Path) -> None:
    """Somebody else's error in one process of two."""
    from aasvc_cli.errors import DataError

    with joined() as world:

        def work() -> int:
            if world.rank >= rank:
                raise DataError(f"told by {world.rank}")
            return world.rank

        try:
            result: object = world.together(work)
        except Exception as error:
            result = f"{type(error).__name__} {error}".strip()
        (output / f"{rank}-{world.rank}").write_text(str(result))


def test_an_error_that_all_processes_meet_is_reported_by_the_first(tmp_path: Path):
    groups = [processes.start_group(2, _fail_on, rank, tmp_path) for rank in (0, 1)]
    assert [processes.finish(group) for group in groups] == [[0, 0], [0, 0]]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "0-0": "DataError told by 0", "0-1": "ToldElsewhere", "1-0": "0", "1-1": "DataError told by 1",
    }  # fmt: skip


def test_devices_start_the_same_command_once_each(
    aasvc: Callable[..., Any], trained: Home, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(
        "aasvc_cli.training.distributed.launch", lambda devices, arguments: calls.append((devices, arguments))
    )
    assert aasvc("--quiet", "train", "--tag", "x", "--devices", 3).code == 0
    assert calls == [(3, ["--quiet", "train", "--tag", "x", "--devices", "3"])]
