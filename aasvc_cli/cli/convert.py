"""``aasvc convert``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    SetOption,
    data_option,
    model_option,
    output_option,
)
from aasvc_cli.cli.output import EXIT_ERROR, fail, home_folder, say, say_next, show_result, usage
from aasvc_cli.cli.progress import progress
from aasvc_cli.errors import AasvcError

if TYPE_CHECKING:
    from aasvc_cli.pipeline.convert import ConvertedFile, FailedFile


def convert(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT...", help="Recordings, or folders of recordings.")
    ] = None,
    output: Annotated[
        Path | None,
        output_option(
            "--output", "-o", metavar="FILE", help="The converted recording (.wav, .flac, .ogg), for one input."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, output_option("--out-dir", metavar="DIR", help="Folder for the converted recordings.")
    ] = None,
    set_name: Annotated[
        SetOption | None, data_option("--set", help="Convert this set of a training run instead.")
    ] = None,
    data: Annotated[
        str | None,
        data_option(
            "--data",
            metavar="NAME",
            help="The prepared set of --set, by default the one the run was trained on. Without --set: the prepared "
            "set of the source speaker, for a published model, which comes without that speaker's statistics.",
        ),
    ] = None,
    model: ModelOption = None,
    source_stats: Annotated[
        Path | None,
        model_option(
            "--source-stats", metavar="FILE", help="Statistics of the source speaker, for a published model folder."
        ),
    ] = None,
    seed: Annotated[int, model_option("--seed", min=0, help="Another number gives another rhythm.")] = 1,
    noise_scale: Annotated[
        float | None,
        model_option(
            "--noise-scale",
            min=0.0,
            help="Freedom of the rhythm; 0 is the most likely one.",
            show_default="the model's",
        ),
    ] = None,
    speed: Annotated[float, model_option("--speed", min=0.1, max=10.0, help="2 speaks twice as fast.")] = 1.0,
    vocoder: Annotated[
        str | None,
        model_option(
            "--vocoder",
            metavar="NAME_OR_FOLDER",
            envvar="AASVC_VOCODER",
            help="A downloaded vocoder, a vocoder folder (ours or published), or griffin-lim.",
            show_default="the one that goes with the model",
        ),
    ] = None,
    save_mel: Annotated[
        Path | None,
        output_option("--save-mel", metavar="FILE.npy", help="Also write the converted log-mel, (frames, bands)."),
    ] = None,
    device: DeviceOption = None,
    json_target: JsonOption = None,
) -> None:
    """Convert recordings to the target voice.

    Example: [bold]aasvc convert in.wav -o out.wav[/bold]

    A folder of recordings: [bold]aasvc convert recordings --out-dir converted[/bold]

    The held-out set of a run, for `aasvc evaluate`: [bold]aasvc convert --set eval --model TAG[/bold]
    """
    if set_name is None and not inputs:
        usage("convert", "name a recording, or a set with --set")
    if set_name is None and (output is None) == (out_dir is None):
        usage("convert", "say where the result goes: -o FILE for one recording, or --out-dir DIR for any number")
    if set_name is None and data is not None and source_stats is not None:
        usage("convert", "--data and --source-stats both give statistics of the source speaker; use one")
    if set_name is not None and (inputs or output or out_dir or save_mel):
        usage("convert", "--set stands alone: its results go to the folder of the run")
    if set_name is not None and model is None:
        usage("convert", "--set needs --model TAG")
    # Threads that wait by spinning take a busy machine's cores from those they wait for: beside a training, a
    # conversion took 60 s instead of 14 s. It has to be said before torch loads its thread library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from aasvc_cli.pipeline.convert import convert_files, convert_set

    if model is None:
        say("model: the bundled voice (another one: --model)")
    options: dict[str, Any] = {
        "model": model,
        "device": device or "auto",
        "seed": seed,
        "noise_scale": noise_scale,
        "speed": speed,
        "vocoder": vocoder,
        "source_stats": source_stats,
        "on_file": _report_failure,
        "on_message": say,
    }
    with progress("convert") as on_progress:
        options["on_progress"] = on_progress
        if set_name is not None:
            summary = convert_set(home_folder(), set_name.value, data=data, **options)
        else:
            summary = convert_files(
                home_folder(), inputs or [], output=output, out_dir=out_dir, data=data, save_mel=save_mel, **options
            )
    if not summary.files:
        raise typer.Exit(EXIT_ERROR)
    show_result(summary, json_target, summary.lines())
    if summary.failures:
        raise AasvcError(f"{len(summary.failures)} recordings were not converted, {len(summary.files)} were")
    if set_name is not None:
        say_next(f"aasvc evaluate --tag {shlex.quote(str(model))} --set {set_name.value}")


def _report_failure(file: ConvertedFile | FailedFile) -> None:
    """One bad recording does not keep the others from being converted, but is reported at once."""
    error = getattr(file, "error", None)
    if error is not None:
        fail(str(error), EXIT_ERROR)
