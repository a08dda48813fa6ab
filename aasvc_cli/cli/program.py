"""The program: its commands in the order of the work, and the one place where errors become an exit code.

Nothing heavy is imported before a command runs, so that help and errors in the options come at once. The modules of
this package are the only ones that print or decide exit codes: 0 done, 1 error, 2 wrong usage, 130 stopped by the user.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from aasvc_cli import __version__
from aasvc_cli.cli.convert import convert
from aasvc_cli.cli.download import download
from aasvc_cli.cli.evaluate import evaluate
from aasvc_cli.cli.output import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    close_standard_output,
    fail,
    settings,
    traceback_if_wanted,
)
from aasvc_cli.cli.prepare import prepare
from aasvc_cli.cli.stats import stats
from aasvc_cli.cli.train import train
from aasvc_cli.errors import AasvcError, Interrupted
from aasvc_cli.storage.cache import HOME_VARIABLE

app = typer.Typer(
    name="aasvc",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _register(command: Callable[..., None]) -> None:
    """Typer keeps the line breaks of docstrings; only those between paragraphs are meant."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))(command)


for _command in (download, prepare, stats, train, convert, evaluate):
    _register(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aasvc {__version__}")
        raise typer.Exit


@app.callback()
def program_options(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            metavar="DIR",
            envvar=HOME_VARIABLE,
            help="Folder of corpora, features, statistics and training runs.",
            show_default="the platform's user data folder",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", envvar="AASVC_DEBUG", help="Show tracebacks and logs.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", envvar="AASVC_QUIET", help="Only results and errors, no progress.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - the callback has done it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Voice conversion from parallel recordings.

    [bold]aasvc convert in.wav -o out.wav[/bold]  converts a recording with the bundled voice.

    Train a voice of your own, each step with one command: prepare, stats, train, convert, evaluate.
    """
    settings.home, settings.debug, settings.quiet = home, debug, quiet
    if debug:
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
        logging.getLogger("aasvc_cli").setLevel(logging.DEBUG)
    else:
        # What libraries warn their programmers about is no help to a user; worker processes read the variable.
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: the one place where errors become a line on standard error and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # half-written files are removed, as for Ctrl-C
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    settings.home, settings.debug, settings.quiet = None, "--debug" in arguments, False
    try:
        code = app(args=list(arguments), prog_name="aasvc", standalone_mode=False)
        sys.stdout.flush()
    except AasvcError as error:
        traceback_if_wanted()
        return fail(str(error), error.exit_code, "" if isinstance(error, Interrupted) else "error: ")
    except typer.TyperException as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", EXIT_INTERRUPTED, "")
    except BrokenPipeError:
        close_standard_output()
        return EXIT_ERROR
    except MemoryError:
        traceback_if_wanted()
        return fail("not enough memory", EXIT_ERROR)
    except Exception as error:
        traceback_if_wanted()
        advice = "" if settings.debug else " (run `aasvc --debug ...` to see where)"
        return fail(f"{type(error).__name__}: {error}{advice}", EXIT_ERROR, "unexpected error: ")
    if code == EXIT_INTERRUPTED:  # Typer's own name for Ctrl-C
        return fail("interrupted", EXIT_INTERRUPTED, "")
    return int(code or 0)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _wrong_usage(error: typer.TyperException) -> int:
    """Typer's complaint as one line that says where help is; no arguments at all show the help itself."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return int(error.exit_code)
    where = context.command_path if context is not None else "aasvc"
    message = error.format_message().strip().rstrip(".")
    return fail(f"{message} (help: {where} -h)", int(error.exit_code))
