"""What every command shares: its settings, and the one way to talk, to show results and to fail."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import typer

from aasvc_cli.errors import AasvcError
from aasvc_cli.storage.cache import Home, find_home

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


@dataclass
class Settings:
    """The options before the command."""

    home: Path | None = None
    debug: bool = False
    quiet: bool = False


settings = Settings()


def home_folder() -> Home:
    """The data folder of this call."""
    return find_home(settings.home)


def say(message: str) -> None:
    """Talk, on standard error."""
    if not settings.quiet:
        typer.echo(message, err=True)


def say_next(command: str) -> None:
    """Name the command that usually follows."""
    say(f"next: {command}")


def show_result(result: Any, json_target: str | None, lines: Sequence[str]) -> None:
    """Show a result on standard output, or write it as JSON where the user wants it."""
    if json_target is not None:
        text = json.dumps(result.to_tree(), ensure_ascii=False, indent=1, default=str)
        if json_target == "-":
            typer.echo(text)
            return
        from aasvc_cli.storage.files import write_text

        write_text(Path(json_target), text + "\n")
    for line in lines:
        typer.echo(line)


def fail(message: str, code: int, kind: str = "error: ") -> int:
    """Say in one line what went wrong; returns the exit code."""
    with contextlib.suppress(OSError):
        typer.echo(f"aasvc: {kind}{' '.join(line.strip() for line in message.splitlines())}", err=True)
    return code


def traceback_if_wanted() -> None:
    """Print where the error at hand came from, with ``--debug``."""
    if settings.debug:
        traceback.print_exc()


def usage(command: str, message: str) -> NoReturn:
    """End with a complaint about options that do not go together."""
    raise Usage(f"{message} (help: aasvc {command} -h)")


class Usage(AasvcError):
    """Options that do not go together; the exit code of Typer's own complaints."""

    exit_code = 2


def close_standard_output() -> None:
    """The reader has gone away; keep Python from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())


def clock(seconds: float) -> str:
    """A length of time as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
