"""``aasvc convert``."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli.audio.streams import FORMATS, RAW_ENCODINGS, STREAM, RawAudio, read_names, spooled
from aasvc_cli.cli import completion
from aasvc_cli.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    SetOption,
    data_option,
    machine_option,
    model_option,
    output_option,
    raw_option,
)
from aasvc_cli.cli.output import (
    EXIT_ERROR,
    checked_target,
    fail,
    home_folder,
    is_closed,
    say,
    say_next,
    settings,
    show,
    show_result,
    usage,
)
from aasvc_cli.cli.progress import progress
from aasvc_cli.errors import AasvcError, StorageError
from aasvc_cli.storage.files import is_standard_output

if TYPE_CHECKING:
    from aasvc_cli.conversion.plan import Job, Refused
    from aasvc_cli.pipeline.convert import Outcome


def convert(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", help="Recordings, folders of recordings, patterns; - for standard input."),
    ] = None,
    output: Annotated[
        Path | None,
        output_option(
            "--output",
            "-o",
            metavar="FILE",
            help="The converted recording (.wav, .flac, .ogg), for one input; - for standard output.",
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, output_option("--out-dir", metavar="DIR", help="Folder for the converted recordings.")
    ] = None,
    format_name: Annotated[
        str | None,
        output_option(
            "--format",
            metavar="FORMAT",
            help="wav, flac, ogg, or samples without a header: s16le, f32le and so on, as in --raw-format.",
            show_default="that of the name, else wav",
        ),
    ] = None,
    skip_existing: Annotated[
        bool, output_option("--skip-existing", help="Leave out recordings whose results are there already.")
    ] = False,
    dry_run: Annotated[
        bool, output_option("--dry-run", "-n", help="Only show what would become of which recording.")
    ] = False,
    from0: Annotated[
        str | None,
        data_option(
            "--from0",
            metavar="FILE|-",
            help="Take names of recordings, each ended by NUL, from a file or standard input (find -print0); they "
            "keep their folders below --out-dir.",
        ),
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
            help="A downloaded or trained vocoder, bundled, a vocoder folder (ours or published), or griffin-lim.",
            show_default="the one that goes with the model",
            autocompletion=completion.vocoders,
        ),
    ] = None,
    save_mel: Annotated[
        Path | None,
        output_option("--save-mel", metavar="FILE.npy", help="Also write the converted log-mel, (frames, bands)."),
    ] = None,
    list_models: Annotated[
        bool,
        model_option("--list-models", help="Show the voices that are here, with -v also their model cards, and end."),
    ] = False,
    raw_format: Annotated[
        str | None,
        raw_option(
            "--raw-format",
            metavar="FORMAT",
            help=f"The input is samples without a header: {', '.join(RAW_ENCODINGS)}.",
        ),
    ] = None,
    raw_rate: Annotated[int | None, raw_option("--raw-rate", min=1, metavar="HZ", help="Their sample rate.")] = None,
    raw_channels: Annotated[int, raw_option("--raw-channels", min=1, help="Their channels, interleaved.")] = 1,
    device: DeviceOption = None,
    workers: Annotated[
        int, machine_option("--workers", min=1, help="Processes for many recordings; each loads the model.")
    ] = 1,
    json_target: JsonOption = None,
    jsonl: Annotated[
        str | None,
        output_option(
            "--jsonl", metavar="FILE|-", help="Write one line of JSON for each recording as soon as it is finished."
        ),
    ] = None,
) -> None:
    """Convert recordings to the target voice.

    Example: [bold]aasvc convert in.wav -o out.wav[/bold]

    A folder of recordings: [bold]aasvc convert recordings --out-dir converted[/bold]

    In a pipe: [bold]aasvc convert - -o -[/bold]

    The held-out set of a run, for `aasvc evaluate`: [bold]aasvc convert --set eval --model TAG[/bold]
    """
    if list_models:
        from aasvc_cli.pipeline.models import known_models

        known = known_models(home_folder())
        show_result(known, json_target, known.lines(cards=settings.verbose))
        return
    if set_name is None and not inputs and from0 is None:
        usage("convert", "name a recording, or a set with --set")
    if set_name is None and from0 is None and (output is None) == (out_dir is None):
        usage("convert", "say where the result goes: -o FILE for one recording, or --out-dir DIR for any number")
    if set_name is None and data is not None and source_stats is not None:
        usage("convert", "--data and --source-stats both give statistics of the source speaker; use one")
    if set_name is not None and (inputs or output or out_dir or save_mel or from0 or format_name or raw_format):
        usage("convert", "--set stands alone: its results go to the folder of the run")
    if set_name is not None and model is None:
        usage("convert", "--set needs --model TAG")
    if from0 is not None and (inputs or output or save_mel or out_dir is None):
        usage("convert", "--from0 stands in place of inputs, and its results go to --out-dir DIR")
    if format_name is not None and format_name not in FORMATS:
        usage("convert", f"--format {format_name}: use one of {', '.join(FORMATS)}")
    jsonl = checked_target(jsonl, "--jsonl")
    if output is not None and is_standard_output(output):
        output = STREAM
    to_stream = output == STREAM
    if [to_stream, json_target == "-", jsonl == "-"].count(True) > 1:
        usage("convert", "standard output takes one thing: the sound (-o -), --json - or --jsonl -")
    raw = _raw(raw_format, raw_rate, raw_channels)
    home = home_folder()
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(_names(from0)) if from0 is not None else None
        if dry_run:
            _show_plan(
                _planned(home, inputs or [], names, output, out_dir, format_name, set_name, model, data),
                skip_existing,
                json_target,
            )
            return
        standard_input = stack.enter_context(spooled(_standard_input())) if STREAM in (inputs or []) else None
        standard_output = _standard_output() if to_stream else None
        # Threads that wait by spinning take a busy machine's cores from those they wait for: beside a training, a
        # conversion took 60 s instead of 14 s. It has to be said before torch loads its thread library.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Pieces of a long recording have a length each, and oneDNN would keep a program for each of a thousand.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
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
            "skip_existing": skip_existing,
            "workers": workers,
            "on_file": _reporter(),
            "on_line": stack.enter_context(_lines_to(jsonl)) if jsonl is not None else None,
            "on_message": say,
        }
        with progress("convert") as on_progress:
            options["on_progress"] = on_progress
            if set_name is not None:
                summary = convert_set(home, set_name.value, data=data, **options)
            else:
                summary = convert_files(
                    home, inputs or [], names=names, output=output, out_dir=out_dir, format_name=format_name,
                    data=data, raw=raw, spooled=standard_input, stdout=standard_output, save_mel=save_mel, **options,
                )  # fmt: skip
    if not summary.files and summary.failures:
        raise typer.Exit(EXIT_ERROR)
    if to_stream or jsonl == "-":
        _show_aside(summary, json_target, to_stream)
    else:
        show_result(summary, json_target, summary.lines())
    if summary.failures:
        failed = len(summary.failures)
        told = "1 recording was" if failed == 1 else f"{failed} recordings were"
        raise AasvcError(f"{told} not converted; converted: {len(summary.files)}")
    if set_name is not None:
        say_next(f"aasvc evaluate --tag {shlex.quote(str(model))} --set {set_name.value}")


def _raw(encoding: str | None, sample_rate: int | None, channels: int) -> RawAudio | None:
    """What the options say of samples without a header."""
    if encoding is None and sample_rate is None:
        return None
    if encoding is None or sample_rate is None:
        usage("convert", "--raw-format and --raw-rate go together")
    if encoding not in RAW_ENCODINGS:
        usage("convert", f"--raw-format {encoding}: use one of {', '.join(RAW_ENCODINGS)}")
    return RawAudio(encoding, sample_rate, channels)


def _standard_input() -> IO[bytes]:
    """Where a recording or names are piped in; nobody types those."""
    if is_closed("stdin"):
        raise StorageError("cannot read standard input: it is closed")
    if sys.stdin.isatty():
        usage("convert", "- reads standard input, which is a terminal; pipe something in: cat in.wav | aasvc convert -")
    return sys.stdin.buffer


def _standard_output() -> IO[bytes]:
    if is_closed("stdout"):
        raise StorageError("cannot write standard output: it is closed; give -o FILE")
    if sys.stdout.isatty():
        usage("convert", "-o - writes sound to standard output, which is a terminal; redirect it: ... > out.wav")
    return sys.stdout.buffer


@contextlib.contextmanager
def _names(source: str) -> Iterator[Iterator[Path]]:
    """Names that are read as they are needed."""
    if source == "-":
        yield read_names(_standard_input())
        return
    from aasvc_cli.storage.files import storage_error

    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise storage_error("read", Path(source), error) from None
    with stream:
        yield read_names(stream)


@contextlib.contextmanager
def _lines_to(target: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes one line of JSON at a time, each at once."""
    from aasvc_cli.storage.files import json_text, line_writer

    if target == "-":
        yield lambda facts: show(json_text(facts, indent=None))
        return
    with line_writer(Path(target)) as write:
        yield lambda facts: write(json_text(facts, indent=None))


def _planned(
    home: Any,
    inputs: list[Path],
    names: Iterator[Path] | None,
    output: Path | None,
    out_dir: Path | None,
    format_name: str | None,
    set_name: SetOption | None,
    model: str | None,
    data: str | None,
) -> Iterable[Job | Refused]:
    """What would be done, with everything refused that would be."""
    from aasvc_cli.conversion.plan import plan_files, plan_names, plan_set
    from aasvc_cli.conversion.voice import find_voice

    find_voice(home, model)
    if set_name is not None:
        return plan_set(home, set_name.value, model, data)[2]
    if names is not None and out_dir is not None:
        return plan_names(names, out_dir, format_name)
    return plan_files(inputs, output, out_dir, format_name)


def _show_plan(jobs: Iterable[Job | Refused], skip_existing: bool, json_target: str | None) -> None:
    """One line for each recording; with ``--json`` one tree."""
    from aasvc_cli.conversion.plan import Plan

    plan = Plan.of(jobs, skip_existing)
    show_result(plan, json_target, plan.lines())
    say(plan.summary())
    for refused in plan.refused:
        fail(str(refused.error), EXIT_ERROR)
    if plan.refused:
        raise typer.Exit(EXIT_ERROR)


def _show_aside(summary: Any, json_target: str | None, to_stream: bool) -> None:
    """The summary where it doesn't get between data."""
    if json_target is not None:
        show_result(summary, json_target, [])
    if not to_stream:
        for line in summary.lines():
            say(line)


def _reporter() -> Callable[[Outcome], None]:
    """One bad recording does not keep the others from being converted, but is reported at once."""
    from aasvc_cli.conversion.converter import UNLIKE

    said = False

    def report(file: Outcome) -> None:
        nonlocal said
        error = getattr(file, "error", None)
        if error is not None:
            fail(str(error), EXIT_ERROR)
        for warning in getattr(file, "warnings", ()):
            # a folder of another speaker's recordings would be a screen of the same; --jsonl has it for each
            if UNLIKE not in warning or not said:
                say(f"warning: {warning}")
            said = said or UNLIKE in warning

    return report
