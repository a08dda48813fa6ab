"""The command line: declare the options, call the pipeline, show the result."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from aasvc_cli.cli.program import app, run

__all__ = ["app", "main", "run"]


def main() -> NoReturn:
    """Run the program and exit.

    After Ctrl-C the process ends at once: an orderly shutdown takes seconds with some libraries, and
    some of them make Python report the interrupt, which is dealt with already, in the place of the exit code. So does a
    process of a training on several: what torch talks to the others with now and then aborts one that is done.
    """
    code = 130
    try:
        from aasvc_cli.cli import program

        program.main()
    except KeyboardInterrupt:  # while the program was being loaded
        sys.stderr.write("aasvc: interrupted\n")
    except SystemExit as stop:
        if not isinstance(stop.code, int) or (stop.code != code and "RANK" not in os.environ):
            raise
        code = stop.code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def __getattr__(name: str) -> Any:
    """The program itself, loaded when it is asked for."""
    if name in ("app", "run"):
        from aasvc_cli.cli import program

        return getattr(program, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
