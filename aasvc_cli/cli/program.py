"""The program: its commands in the order of the work, and the one place where errors become an exit code.

Nothing heavy is imported before a command runs, so that help and errors in the options come at once. The modules of
this package are the only ones that print or decide exit codes: 0 done, 1 error, 2 wrong usage, 130 stopped by the user.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from aasvc_cli import __version__
from aasvc_cli.cli.command import EVERYWHERE, AasvcGroup
from aasvc_cli.cli.interrupt import watch
from aasvc_cli.cli.output import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    close_standard_output,
    colour,
    fail,
    is_first_process,
    open_closed_streams,
    settings,
    show,
    traceback_if_wanted,
    writing_standard_output,
)
from aasvc_cli.errors import AasvcError, Interrupted, ToldElsewhere

COMMANDS = {
    "download": "Fetch published models and corpora into the data folder.",
    "prepare": "Pair, check and analyse recordings of two speakers.",
    "stats": "Find the mean and scale of the features of a training set.",
    "train": "Train a voice on a prepared set.",
    "convert": "Convert recordings to the target voice.",
    "evaluate": "Score converted recordings against the target speaker's.",
    "export": "Write a voice as ONNX graphs, or as a page that converts.",
    "serve": "Convert, record and listen in a browser.",
    "doctor": "Check the installation, and free caches.",
}
"""Commands in the order of the work; each is the function of that name in the module of that name, and the summary is
the first paragraph of its documentation."""
COMPLETION_VARIABLE = "_AASVC_COMPLETE"


class Program(AasvcGroup):
    """The program, with its commands."""

    modules = COMMANDS


app = typer.Typer(
    name="aasvc",
    cls=Program,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"aasvc {__version__}")
        raise typer.Exit


@app.callback()
def program_options(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            metavar="DIR",
            help="Folder of corpora, features, statistics and training runs.",
            show_default="the platform's user data folder",
            rich_help_panel=EVERYWHERE,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only results and errors, no progress.", rich_help_panel=EVERYWHERE)
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Log what is done, and with which settings.", rich_help_panel=EVERYWHERE),
    ] = False,
    no_progress: Annotated[
        bool,
        typer.Option(
            "--no-progress", help="A plain line now and then instead of a progress bar.", rich_help_panel=EVERYWHERE
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and logs.", rich_help_panel=EVERYWHERE)
    ] = False,
    version: Annotated[  # noqa: ARG001 - the callback has done it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Voice conversion from parallel recordings.

    Example: [bold]aasvc convert in.wav -o out.wav[/bold] converts a recording with the bundled voice.

    Train a voice of your own, each step with one command: prepare, stats, train, convert, evaluate.

    Every option has a variable (--batch-size is AASVC_BATCH_SIZE, or AASVC_TRAIN_BATCH_SIZE for one command) and can
    stand in aasvc.yaml in the working directory or in a file of yours. NO_COLOR and FORCE_COLOR are respected.
    """
    settings.home, settings.debug, settings.quiet = home, debug or settings.debug, quiet
    settings.verbose, settings.no_progress = verbose, no_progress


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: the one place where errors become a line on standard error and an exit code."""
    numbers = [signal.SIGINT, signal.SIGTERM]  # for both, half-written files are removed
    with contextlib.suppress(AttributeError):  # Windows sends this one for Ctrl-Break and a closed window
        numbers.append(signal.SIGBREAK)  # type: ignore[attr-defined,unused-ignore]
    open_closed_streams()
    _speak_utf8()
    with watch.over(*numbers, alone="RANK" not in os.environ):
        sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _speak_utf8() -> None:
    """Let names in any language be printed in any locale; a name that is not text is printed byte for byte."""
    codecs.register_error("aasvc", _as_it_is)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="aasvc")  # type: ignore[union-attr]


def _as_it_is(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes of a name that is not text; escapes for other characters that cannot be encoded."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def run(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    try:
        settings.begin(debug="--debug" in arguments)
        settings.arguments = list(arguments)
        if os.environ.get(COMPLETION_VARIABLE):
            # Typer would load it to strip markup from descriptions, which have none; None means "not installed"
            sys.modules["rich"] = None  # type: ignore[assignment]
        code = app(args=list(arguments), prog_name="aasvc", standalone_mode=False, color=colour())
        with writing_standard_output():
            sys.stdout.flush()
    except AasvcError as error:
        traceback_if_wanted()
        if isinstance(error, ToldElsewhere) or (isinstance(error, Interrupted) and not is_first_process()):
            return error.exit_code
        if isinstance(error, Interrupted):
            return _interrupted(str(error))
        return _interrupted() if watch.asked else fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        close_standard_output()
        return EXIT_ERROR
    except MemoryError:
        traceback_if_wanted()
        return fail("not enough memory", EXIT_ERROR)
    except Exception as error:
        traceback_if_wanted()
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # of whatever was asked about it first
            return fail(f"{os.fsdecode(error.filename or 'a path')}: the name is too long", EXIT_ERROR)
        if watch.asked:  # some libraries turn an interrupt into this
            return _interrupted()
        advice = "" if settings.debug else " (run `aasvc --debug ...` to see where)"
        return fail(f"{type(error).__name__}: {error}{advice}", EXIT_ERROR, "unexpected error: ")
    if code == EXIT_INTERRUPTED:  # Typer's own name for Ctrl-C
        return _interrupted()
    return int(code or 0)


def _interrupted(message: str = "interrupted") -> int:
    watch.answered = True
    return fail(message, EXIT_INTERRUPTED, "")


def _wrong_usage(error: typer.TyperException) -> int:
    """Typer's error as one line that points to the help; without any arguments, the help itself."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True, color=colour())
        return int(error.exit_code)
    where = "aasvc"
    if context is not None and context.parent is not None:
        where += f" {context.info_name}"
    message = error.format_message().strip().rstrip(".")
    return fail(f"{message} (help: {where} -h)", int(error.exit_code))
