"""Nothing is lost: a training that is killed without warning, again and again, ends where an untouched one ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aasvc_cli.storage.cache import Home
from aasvc_cli.storage.checkpoint import load_checkpoint

SETTINGS = ["--max-steps", "240", "--eval-every", "40", "--save-every", "7"]
KILLS = 6


def _log(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def _step(folder: Path) -> int:
    """How far the last checkpoint has come; it can be read at any moment."""
    path = folder / "last.safetensors"
    return int(load_checkpoint(path)[1]["step"]) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
def test_a_training_killed_at_random_moments_ends_with_the_same_bits(aasvc: Callable[..., Any], trained: Home):
    assert aasvc("train", "--tag", "whole", *SETTINGS).code == 0
    command = [sys.executable, "-m", "aasvc_cli", "--quiet", "train", "--tag", "killed", *SETTINGS]
    folder = trained.exp / "male_female_killed"
    chooser = random.Random(1)
    steps = []
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        deadline = time.monotonic() + 60
        begun = _step(folder)
        # into the loop first, then any moment of it: between two steps or within a checkpoint
        while process.poll() is None and _step(folder) == begun and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chooser.uniform(0.0, 0.25))
        process.kill()
        process.wait()
        steps.append(_step(folder))
    assert steps == sorted(steps)
    assert steps[0] > 0
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    whole = trained.exp / "male_female_whole"
    for name in ("last.safetensors", "best.safetensors"):
        expected, found = (load_checkpoint(run / name)[0] for run in (whole, folder))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    assert _log(folder) == _log(whole)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
