"""``aasvc export``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.convert import SourceStatsOption, VocoderOption
from aasvc_cli.cli.options import JsonOption, OverwriteOption, data_option, output_option
from aasvc_cli.cli.output import home_folder, say, say_next, show_result


class ExportFormat(StrEnum):
    """What an export is."""

    ONNX = "onnx"
    WEB = "web"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A tag of your training runs, a model folder, aasvc's or published, or bundled.",
        autocompletion=completion.models,
    ),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the export goes.")]
FormatOption = Annotated[
    ExportFormat,
    output_option(
        "--format",
        help="onnx: graphs for aasvc convert --model FOLDER. web: a page that converts by itself; npm fetches "
        "its runtime once.",
    ),
]
SpeakerDataOption = Annotated[
    str | None,
    data_option(
        "--data",
        metavar="NAME",
        help="The prepared set of the source speaker, for a published model, which comes without that speaker's "
        "statistics.",
        autocompletion=completion.prepared,
    ),
]


def export(
    model: ModelArgument,
    folder: FolderArgument,
    format_name: FormatOption = ExportFormat.ONNX,
    vocoder: VocoderOption = None,
    source_stats: SourceStatsOption = None,
    data: SpeakerDataOption = None,
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Write a voice as ONNX graphs, or as a page that converts.

    Example: [bold]aasvc export bundled exported[/bold]

    A page that records and converts without a server: [bold]aasvc export bundled page --format web[/bold]
    """
    from aasvc_cli.pipeline.export import export_model

    summary = export_model(
        home_folder(), model, folder, format_name=format_name, vocoder=vocoder, source_stats=source_stats, data=data,
        overwrite=overwrite, on_message=say,
    )  # fmt: skip
    show_result(summary, json_target, summary.lines())
    if format_name == ExportFormat.ONNX:
        say_next(f"aasvc convert in.wav -o out.wav --model {shlex.quote(str(folder))}")
    else:
        say_next(f"python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(folder))}")
