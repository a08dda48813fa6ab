"""What stands on a terminal after a program has drawn and redrawn its lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def visible(shown: str) -> list[str]:
    """The lines that are left in the end; bars that were taken away are not among them."""
    lines, row, column = [""], 0, 0
    for numbers, command, step, text in _CONTROL.findall(shown):
        if text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        elif step == "\r":
            column = 0
        elif step == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row = max(0, row - int(numbers or 1))
        elif command == "K":
            lines[row] = "" if numbers == "2" else lines[row][:column]
        # colours, and the cursor that comes and goes, leave no trace
    return [line.rstrip() for line in lines]


def run_on_terminal(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a program on a terminal of 120 columns; its exit code, and what stands there in the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the program is
        while block := os.read(ours, 65536):
            shown += block
    os.close(ours)
    lines = visible(shown.decode())
    while lines and not lines[-1]:
        lines.pop()
    return process.wait(), lines
