"""``aasvc download``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from aasvc_cli.cli.options import JsonOption, OverwriteOption
from aasvc_cli.cli.output import home_folder, say_next, show_result
from aasvc_cli.cli.progress import progress


class DemoCorpusOption(StrEnum):
    """Corpora that can be downloaded."""

    DEMO = "demo"


def download(
    corpus: Annotated[DemoCorpusOption, typer.Argument(help="Which corpus.")] = DemoCorpusOption.DEMO,  # noqa: ARG001
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Lay a corpus out in the data folder.

    Example: [bold]aasvc download demo[/bold]

    The demo corpus is a hundred sentences by two synthetic Japanese voices. It ships with the program: no network.
    """
    from aasvc_cli.pipeline.download import download_demo

    with progress("download") as on_progress:
        result = download_demo(home_folder(), overwrite=overwrite, on_progress=on_progress)
    state = "already there" if result.already_there else f"{result.n_files} files"
    show_result(result, json_target, [f"{result.folder}  ({state})"])
    say_next("aasvc prepare demo")
