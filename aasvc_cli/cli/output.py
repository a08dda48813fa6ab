"""Shared by every command: settings, messages, results and errors."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer

from aasvc_cli.config.layers import Origin, SettingsFile, settings_files
from aasvc_cli.errors import AasvcError, ConfigError, DataError, StorageError
from aasvc_cli.storage.home import Home, find_home

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


@dataclass
class Settings:
    """The options of the program itself, and where those of the command come from.

    Attributes:
        files: the settings files that are in force, the strongest first
        faults: why one of them is not
        command: the command that is running
        origins: where each of its parameters comes from
        names: what its options are called, by parameter
        values: their values, by parameter
        arguments: the whole command line
    """

    home: Path | None = None
    debug: bool = False
    verbose: bool = False
    quiet: bool = False
    no_progress: bool = False
    files: Sequence[SettingsFile] = ()
    faults: ConfigError | None = None
    command: str = ""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    arguments: Sequence[str] = ()

    def begin(self, *, debug: bool) -> None:
        """Forget an earlier call, and read the settings files; faults in them are kept for later."""
        self.__dict__.update(Settings(debug=debug).__dict__)
        try:
            self.files = settings_files()
        except ConfigError as error:
            self.faults = error

    def start(self) -> None:
        """Set up logging and warnings of libraries."""
        if self.verbose or self.debug:
            import logging

            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
            logging.getLogger("aasvc_cli").setLevel(logging.DEBUG)
        if not self.debug:
            # Warnings of libraries are meant for programmers; worker processes read the variable.
            warnings.simplefilter("ignore")
            os.environ.setdefault("PYTHONWARNINGS", "ignore")
        if self.verbose:
            for file in self.files:
                say(f"settings: {file.path}")


settings = Settings()


def live(stream: TextIO) -> bool:
    """Whether lines may be drawn again: on a terminal that can, unless the user wants none of it."""
    return not settings.no_progress and stream.isatty() and os.environ.get("TERM") != "dumb"


def colour(stream: TextIO | None = None) -> bool | None:
    """Whether to use colour: as the user asks, else whether the stream is a terminal that shows it."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    if stream is None:
        return False if os.environ.get("TERM") == "dumb" else None
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_first_process() -> bool:
    """Whether this process writes messages: of several that a launcher started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def home_folder() -> Home:
    """The data folder of this call."""
    return find_home(settings.home)


_closed: set[str] = set()


def open_closed_streams() -> None:
    """Open standard streams that the parent process has closed to the null device (``>&-``, service managers, pythonw).

    Otherwise the next file that is opened gets its number, and what is meant for people goes into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        _closed.add(name)
        with contextlib.suppress(OSError):
            try:
                os.fstat(number)
            except OSError:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which gets the lowest free number: this one
        setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the program ends


def is_closed(name: str) -> bool:
    """Whether ``stdin``, ``stdout`` or ``stderr`` was closed when the program began."""
    return name in _closed


def say(message: str) -> None:
    """Write a message to standard error; a closed stream does not stop the work."""
    if not settings.quiet:
        with contextlib.suppress(OSError):
            typer.echo(_harmless(message), err=True)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def _harmless(message: str) -> str:
    """A message whose names and values from files cannot move the cursor or change colours: controls as escapes."""
    return message.translate(_CONTROLS)


def say_next(command: str) -> None:
    """Name the command that usually follows."""
    say(f"next: {command}")


def show(line: str) -> None:
    """Print a line of the result; raises StorageError if standard output cannot be written."""
    with writing_standard_output():
        typer.echo(line)


@contextlib.contextmanager
def writing_standard_output() -> Iterator[None]:
    """Turn errors of standard output into StorageError, except for a closed pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        from aasvc_cli.storage.files import storage_error

        close_standard_output()
        raise storage_error("write", Path("standard output"), error) from None


def show_result(result: Any, json_target: str | None, lines: Sequence[str]) -> None:
    """Show a result on standard output, or write it as JSON where the user wants it."""
    if json_target is not None:
        from aasvc_cli.storage.files import json_text, write_text

        text = json_text(result.to_tree())
        if json_target == "-":
            show(text)
            return
        write_text(Path(json_target), text + "\n")
    for line in lines:
        show(line)


def checked_target(target: str | None, option: str) -> str | None:
    """The target of a result, ``-`` for every name of standard output.

    Raises StorageError, before any work, if it cannot be written.
    """
    if target is None:
        return None
    from aasvc_cli.storage.files import is_standard_output

    path = Path(target)
    if target == "-" or is_standard_output(path):
        if is_closed("stdout"):
            raise StorageError(f"cannot write standard output: it is closed; give {option} FILE")
        return "-"
    above = next((folder for folder in path.parents if folder.exists()), Path())
    if path.is_dir():
        raise StorageError(f"cannot write {path}: a folder stands there; choose another name for {option}")
    if not above.is_dir():
        raise StorageError(f"cannot write {path}: {above} is a file; choose another folder for {option}")
    return target


def check_results(results: Mapping[str, str | Path], inputs: Iterable[str | Path]) -> None:
    """Refuse, before any work, results that would take the place of a recording, of an input or of each other.

    Args:
        results: files of text that are going to be written, by the option that names them
        inputs: whatever else was given that may be the name of a file

    Raises:
        DataError: one that would; the message names both.
    """
    from aasvc_cli.audio.files import AUDIO_SUFFIXES
    from aasvc_cli.storage.files import same_file

    taken = [("", Path(name)) for name in inputs]
    for option, name in results.items():
        path = Path(name)
        if path.suffix.lower() in AUDIO_SUFFIXES:
            raise DataError(f"{option} {path}: is the name of a recording; choose one for text")
        for other, place in taken:
            if same_file(path, place):
                what = f"that {other} writes, too" if other else "that this command reads"
                raise DataError(f"{option} {path}: is a file {what}; choose another name")
        taken.append((option, path))


def check_working_directory() -> None:
    """Raise StorageError if the folder that the program was started in has been removed meanwhile."""
    try:
        os.getcwd()
    except OSError:
        raise StorageError("the working directory does not exist any more; cd somewhere else") from None


def fail(message: str, code: int, kind: str = "error: ") -> int:
    """Print an error in one line; returns the exit code."""
    if kind and colour(sys.stderr):
        kind = typer.style(kind, fg="red", bold=True)
    with contextlib.suppress(OSError):
        line = " ".join(part.strip() for part in message.splitlines() if part.strip())
        typer.echo(f"aasvc: {kind}{_harmless(line)}", err=True, color=colour())
    return code


def traceback_if_wanted() -> None:
    """Print where the error at hand came from, with ``--debug``."""
    if settings.debug:
        import traceback

        traceback.print_exc()


def usage(command: str, message: str) -> NoReturn:
    """Refuse options that do not go together."""
    raise Usage(f"{message} (help: aasvc {command} -h)")


class Usage(AasvcError):
    """Exit code for options that do not go together, the one that Typer uses."""

    exit_code = 2


def close_standard_output() -> None:
    """After a closed pipe, keep Python from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())


def clock(seconds: float) -> str:
    """A length of time as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
