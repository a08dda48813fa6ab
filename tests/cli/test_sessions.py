"""What a person sees: the sessions of the README, played on a terminal and compared line by line."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("pty", reason="needs pseudo-terminals")
from tests.screens import run_on_terminal, visible

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXACT = ("download", "prepare", "stats")
"""Commands whose figures are the same everywhere; of the others, only the words are."""


def sessions() -> list[list[tuple[str, list[str]]]]:
    """Commands and what the text says that they show, by block."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        steps = [step.splitlines() for step in re.split(r"^\$ ", block, flags=re.MULTILINE) if step.strip()]
        found.append([(command, [line.rstrip() for line in lines]) for command, *lines in steps])
    return found


def without_figures(lines: list[str]) -> list[str]:
    return [re.sub("[━╸╺]+", "━", re.sub(r"\d+(?:[.:]\d+)*", "#", line)) for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the text names the places of Linux")
def test_the_sessions_in_the_text_show_what_a_terminal_shows(tmp_path: Path):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AASVC_", "XDG_", "NO_COLOR", "COLUMNS", "LINES"))  # the size is the terminal's
    }
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    work = tmp_path / "work"
    work.mkdir()
    (session,) = sessions()
    names = [shlex.split(command)[1] for command, _ in session]
    assert names == ["download", "prepare", "stats", "train", "convert", "trian"]
    for (command, expected), name in zip(session, names, strict=True):
        program, *arguments = shlex.split(command)
        assert program == "aasvc"
        code, lines = run_on_terminal([sys.executable, "-m", "aasvc_cli", *arguments], work, environment)
        assert code == (2 if name == "trian" else 0), lines
        shown = [line.replace(str(tmp_path), "~") for line in lines]
        if name in EXACT:
            assert shown == expected
        else:
            assert without_figures(shown) == without_figures(expected)


def test_what_was_drawn_over_is_not_left():
    assert visible("one\r\nbar 1/2\r\x1b[2Kbar 2/2\r\x1b[2Ktwo\r\n") == ["one", "two", ""]
    assert visible("\x1b[?25l\x1b[32mgreen\x1b[0m\r\nbelow\x1b[1A\rG\x1b[?25h") == ["Green", "below"]
    assert visible("abc\rx\x1b[K") == ["x"]
