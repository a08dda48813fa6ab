"""Nothing is lost: a training that is killed without warning, again and again, ends where an untouched one ends."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.home import Home
from tests import processes

pytestmark = pytest.mark.process

SETTINGS = ["--max-steps", "160", "--eval-every", "30", "--save-every", "3", "--keep", "2"]
KILLS = 20


def _log(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def _step(folder: Path) -> int:
    """How far the last checkpoint has come; it can be read at any moment."""
    path = folder / "last.safetensors"
    return int(load_checkpoint(path)[1]["step"]) if path.exists() else 0


@pytest.mark.slow
@processes.needs_forks
def test_a_training_killed_at_random_moments_ends_with_the_same_bits(trained: Home):
    whole, folder = trained.exp / "male_female_whole", trained.exp / "male_female_killed"
    train = ["--quiet", "train", *SETTINGS, "--tag"]
    untouched = processes.start(processes.command_line, [*train, "whole"])
    chooser = random.Random(1)
    steps = []
    for _ in range(KILLS):
        process = processes.start(processes.command_line, [*train, "killed"])
        begun, deadline = _step(folder), time.monotonic() + 60
        # into the loop first, then any moment of it: between two steps or within a checkpoint
        while process.is_alive() and _step(folder) == begun and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chooser.uniform(0.0, 0.03))
        process.kill()
        process.join()
        steps.append(_step(folder))
    assert steps == sorted(steps)
    assert steps[0] > 0
    assert steps[-1] < 160, "it ended before it was killed for the last time"
    last = processes.start(processes.command_line, [*train, "killed"])
    assert processes.finish([untouched, last]) == [0, 0]
    for name in ("last.safetensors", "best.safetensors", "checkpoints/step-159.safetensors"):
        expected, found = (load_checkpoint(run / name)[0] for run in (whole, folder))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    assert _log(folder) == _log(whole)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-159.safetensors",
        "step-160.safetensors",
    ]
