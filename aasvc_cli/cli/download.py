"""``aasvc download``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.options import JsonOption, OverwriteOption, data_option, machine_option, output_option
from aasvc_cli.cli.output import home_folder, say, say_next, show_result, usage
from aasvc_cli.cli.progress import byte_progress
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import byte_size

if TYPE_CHECKING:
    from aasvc_cli.pipeline.download import DownloadReport, DownloadResult, Survey
    from aasvc_cli.published.catalogue import CatalogueItem


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="What to fetch: see --list. Without a name, the published model and its vocoder.",
        show_default=False,
        autocompletion=completion.catalogue,
    ),
]

ListOption = Annotated[
    bool, output_option("--list", "-l", help="Show what there is: size, licence, and what of it is here.")
]

DryRunOption = Annotated[
    bool,
    output_option("--dry-run", "-n", help="Show what would be fetched, from where and how much; fetch nothing."),
]

YesOption = Annotated[bool, data_option("--yes", "-y", help="Accept the licences of what is fetched.")]

KeepArchivesOption = Annotated[
    bool, data_option("--keep-archives", help="Keep the zips of a corpus after they are unpacked.")
]

MirrorOption = Annotated[
    str | None,
    machine_option(
        "--mirror",
        metavar="URL",
        help="Fetch from this address in place of the original hosts; the paths are the same there.",
    ),
]

OfflineOption = Annotated[
    bool,
    machine_option("--offline", help="Do not use the network; HF_HUB_OFFLINE=1 does it, too."),
]


def download(
    names: NamesArgument = None,
    show_list: ListOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    keep_archives: KeepArchivesOption = False,
    mirror: MirrorOption = None,
    offline: OfflineOption = False,
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Fetch published models and corpora into the data folder.

    Example: [bold]aasvc download demo[/bold]

    Without a name, the published model and its vocoder. Corpora: demo, hificaptain-ja and hificaptain-en; demo ships
    with the program and needs no network. Stop it whenever you like: the same command goes on from there.
    """
    from aasvc_cli.pipeline import download as pipeline
    from aasvc_cli.published.catalogue import CATALOGUE, choose

    try:
        items = choose(names or ())
    except DataError as error:
        usage("download", str(error))
    source = pipeline.Source.from_environment(mirror=mirror, offline=offline)
    if show_list or dry_run:
        shown = items if names or not show_list else list(CATALOGUE.values())
        surveyed = pipeline.survey(
            home_folder(), shown, source, keep_archives=keep_archives, overwrite=overwrite and dry_run
        )
        show_result(surveyed, json_target, _list(surveyed) if show_list else _plan(surveyed))
        return

    with byte_progress() as on_bytes:
        report = pipeline.download(
            home_folder(),
            items,
            source,
            accept_licence=lambda item: _accept(item, yes),
            overwrite=overwrite,
            keep_archives=keep_archives,
            on_bytes=on_bytes,
            on_message=say,
        )
    show_result(report, json_target, [_line(item) for item in report.items])
    _say_what_follows(report)


def _accept(item: CatalogueItem, yes: bool) -> bool:
    """Show the licence; ask, unless it was accepted beforehand or no terminal is attached."""
    lines = (f"{item.name}: {item.description}", f"  licence: {item.licence.terms}", f"  {item.licence.url}")
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        for line in lines:
            say(line)
        return yes
    for line in lines:
        typer.echo(line, err=True)
    return typer.confirm(f"Accept the licence of {item.name}?", err=True)


def _line(item: DownloadResult) -> str:
    state = "already there" if item.already_there else f"{item.n_files} files, {byte_size(item.n_bytes)}"
    return f"{item.folder}  ({state})"


def _list(survey: Survey) -> list[str]:
    """Three lines for each item: name and state, what it is, under which licence."""
    lines = []
    for state in survey.items:
        size = ("about " if state.estimated else "") + byte_size(state.bytes_to_fetch)
        if state.bytes_to_fetch is None:
            size = "unknown size"
        here = {
            "present": f"present, {byte_size(state.bytes_here)} in {state.folder}",
            "partial": f"partial, {byte_size(state.bytes_here)} are here",
            "absent": "absent",
        }[state.state]
        lines += [
            f"{state.item.name}  {state.item.kind}, {size}, {here}",
            f"    {state.item.description}",
            f"    licence {state.item.licence.name}: {state.item.licence.url}",
        ]
    return lines


def _plan(survey: Survey) -> list[str]:
    lines = []
    for state in survey.items:
        if state.state == "present" and not state.disk_bytes:
            lines.append(f"{state.item.name}: already there, {state.folder}")
            continue
        about = "about " if state.estimated else ""
        lines.append(f"{state.item.name}: {about}{byte_size(state.bytes_to_fetch)} to {state.folder}")
        if state.bytes_here:
            lines.append(f"    {byte_size(state.bytes_here)} are here already")
        lines += [f"    {address}" for address in state.addresses]
        lines.append(f"    licence {state.item.licence.name}: {state.item.licence.terms}")
    needed = [state.disk_bytes for state in survey.items]
    total = byte_size(sum(size or 0 for size in needed)) if None not in needed else "an unknown amount"
    lines.append(f"disk: {total} needed, {byte_size(survey.free_bytes)} free")
    return lines


def _say_what_follows(report: DownloadReport) -> None:
    for kind, command in (
        ("model", "aasvc convert in.wav -o out.wav --model {}"),
        ("corpus", "aasvc prepare {}"),
    ):
        name = next((item.name for item in report.items if item.kind == kind), None)
        if name is not None:
            say_next(command.format(name))
            return
