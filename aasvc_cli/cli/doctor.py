"""``aasvc doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli import __version__
from aasvc_cli.cli.command import AasvcGroup, unknown_variables
from aasvc_cli.cli.options import JsonOption, clean_option, machine_option
from aasvc_cli.cli.output import home_folder, say, settings, show_result, usage
from aasvc_cli.cli.progress import progress
from aasvc_cli.errors import AasvcError
from aasvc_cli.storage.files import byte_size

if TYPE_CHECKING:
    from aasvc_cli.pipeline.doctor import Check, SelfTest


def doctor(
    ctx: typer.Context,
    self_test: Annotated[
        bool,
        machine_option("--self-test/--no-self-test", help="Convert a test recording with the bundled voice."),
    ] = True,
    clean: Annotated[
        bool,
        clean_option("--clean", help="Delete caches and left-over files instead, after asking."),
    ] = False,
    yes: Annotated[bool, clean_option("--yes", "-y", help="With --clean: delete without asking.")] = False,
    json_target: JsonOption = None,
) -> None:
    """Check the installation, and free caches.

    Example: [bold]aasvc doctor[/bold]

    For a bug report: [bold]aasvc doctor --json -[/bold]

    Free caches: [bold]aasvc doctor --clean[/bold]

    The exit code is 1 if something necessary does not work. Reports do not contain your name: your home folder appears
    as ~.
    """
    if yes and not clean:
        usage("doctor", "--yes goes with --clean")
    if clean:
        _clean(yes, json_target)
        return
    from aasvc_cli.pipeline.doctor import examine

    with progress("doctor") as on_progress:
        report = examine(
            home_folder(),
            __version__,
            load_converter=_bundled_voice if self_test else None,
            configuration=_configuration(ctx.find_root().command),
            on_progress=on_progress,
        )
    show_result(report, json_target, report.lines())
    if report.broken:
        raise AasvcError(f"{', '.join(report.broken)}: not working; see above")


def _bundled_voice() -> SelfTest:
    from aasvc_cli.conversion.converter import Converter

    converter = Converter.load(None, home=home_folder(), device="cpu")

    def convert(wave: Any, sample_rate: int) -> tuple[Any, int]:
        result = converter.convert(wave, sample_rate)
        return result.wave, result.sample_rate

    return convert


def _configuration(group: Any) -> list[Check]:
    """Checks of the settings files and AASVC_ variables in use."""
    from aasvc_cli.cli.command import check_option_names
    from aasvc_cli.config.layers import PROJECT_FILE, user_file_place
    from aasvc_cli.errors import ConfigError
    from aasvc_cli.pipeline.doctor import BROKEN, MISSING, OK, Check

    assert isinstance(group, AasvcGroup)
    files = [str(file.path) for file in settings.files]
    fault = settings.faults
    if fault is None:
        try:
            check_option_names(group)
        except ConfigError as error:
            fault = error
    checks = []
    if fault is not None:
        checks.append(Check("settings", BROKEN, str(fault), {"files": files}))
    elif files:
        checks.append(Check("settings", OK, ", ".join(files), {"files": files}))
    else:
        places = f"{PROJECT_FILE} here, or {user_file_place()}"
        checks.append(Check("settings", MISSING, f"none; looked for {places}", {"files": []}))
    unknown = unknown_variables(group)
    if unknown:
        hints = ", ".join(f"{name} (did you mean {near}?)" if near else name for name, near in unknown.items())
        checks.append(Check("variables", MISSING, f"no such option: {hints}", {"unknown": list(unknown)}))
    return checks


def _clean(yes: bool, json_target: str | None) -> None:
    from aasvc_cli.pipeline.doctor import find_caches, remove_caches

    home = home_folder()
    caches = find_caches(home)
    if not caches.caches:
        show_result(caches, json_target, [f"{home.root}: nothing to free"])
        return
    if not yes:
        if not sys.stdin.isatty():
            usage("doctor", "--clean asks for confirmation, which needs a terminal; add --yes")
        for line in caches.lines():
            say(line)
        if not typer.confirm(f"Free {byte_size(caches.n_bytes)} in {home.root}?", err=True):
            raise AasvcError("nothing was freed")
    remove_caches(home, caches)
    show_result(caches, json_target, [*caches.lines(), f"freed: {byte_size(caches.n_bytes)}"])
