"""What a person at a terminal sees: a real one, as far as the program can tell."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aasvc_cli.storage.home import Home

pytestmark = pytest.mark.process

pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
ROOT = Path(__file__).parents[2]
BAR = "━"


@pytest.fixture
def terminal(tmp_path: Path) -> Callable[..., str]:
    """Run the program with its standard error on a terminal; gives everything that appeared there."""

    def call(*arguments: object, **variables: str) -> str:
        ours, theirs = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "aasvc_cli", *map(str, arguments)], cwd=tmp_path, env=environment | variables,
            stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + 120
        with contextlib.suppress(OSError):  # the terminal is gone when the program is
            while time.monotonic() < deadline:
                block = os.read(ours, 65536)
                if not block:
                    break
                shown += block
        os.close(ours)
        assert process.wait(timeout=60) == 0, shown.decode()
        return shown.decode()

    return call


WORK = ["doctor", "--no-self-test"]
"""A command that takes a moment, and counts what it looks at."""


def test_a_bar_with_rate_and_remaining_time_is_drawn_and_taken_away(terminal: Callable[..., str]):
    shown = terminal(*WORK)
    assert BAR in shown
    assert re.search(r"\d+/9", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    assert "\x1b[2K" in shown


@pytest.mark.parametrize(
    ("before", "variables"),
    [(["--no-progress"], {}), (["--quiet"], {}), ([], {"TERM": "dumb"}), ([], {"AASVC_NO_PROGRESS": "1"})],
    ids=["--no-progress", "--quiet", "TERM=dumb", "AASVC_NO_PROGRESS"],
)
def test_nothing_is_redrawn_for_who_wants_no_bar(
    terminal: Callable[..., str], before: list[str], variables: dict[str, str]
):
    shown = terminal(*before, *WORK, **variables)
    assert "\x1b" not in shown
    assert BAR not in shown
    if before == ["--quiet"]:
        assert shown == ""


def test_no_color_leaves_a_bar_without_colours(terminal: Callable[..., str]):
    colours = r"\x1b\[[\d;]*3[0-9]m|\x1b\[38;"
    assert re.search(colours, terminal(*WORK))
    shown = terminal(*WORK, NO_COLOR="1")
    assert BAR in shown
    assert not re.search(colours, shown)


def test_training_shows_loss_speed_and_remaining_time_in_one_line(terminal: Callable[..., str], trained: Home):
    shown = terminal("train", "--tag", "seen", "--max-steps", 3)
    assert re.search(r"loss \d+\.\d{4}, [\d.]+ steps/s, \d:\d\d:\d\d left", shown)
    assert "\x1b[2K" in shown or "\r" in shown
