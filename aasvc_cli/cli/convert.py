"""``aasvc convert``."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli.audio.files import AUDIO_SUFFIXES
from aasvc_cli.audio.streams import FORMATS, RAW_ENCODINGS, STREAM, RawAudio, read_names
from aasvc_cli.cli import completion
from aasvc_cli.cli.cluster import ClusterOption, ShardOption, shard_of, workers_of
from aasvc_cli.cli.loading import loading
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
from aasvc_cli.config.layers import FLAG
from aasvc_cli.errors import AasvcError, StorageError
from aasvc_cli.storage.files import is_standard_output, json_text, line_writer, open_binary
from aasvc_cli.storage.home import Home

if TYPE_CHECKING:
    from aasvc_cli.conversion.origin import Origin
    from aasvc_cli.conversion.plan import Job, Refused
    from aasvc_cli.pipeline.convert import ConvertSummary, Outcome

LOADING = ("model", "vocoder", "source_stats", "data", "features", "runtime")
"""Options of the same name that decide what is loaded, beside the device."""
CONVERSION = ("seed", "noise_scale", "speed")
"""Options of the same name that decide how it sounds."""


Inputs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="INPUT...", help="Recordings, folders of recordings, patterns; - for standard input."),
]
OutputOption = Annotated[
    Path | None,
    output_option(
        "--output",
        "-o",
        metavar="FILE",
        help="The converted recording (.wav, .flac, .ogg), for one input; - for standard output.",
    ),
]
OutDirOption = Annotated[
    Path | None, output_option("--out-dir", metavar="DIR", help="Folder for the converted recordings.")
]
FormatOption = Annotated[
    str | None,
    output_option(
        "--format",
        metavar="FORMAT",
        help="wav, flac, ogg, or samples without a header: s16le, f32le and so on, as in --raw-format.",
        show_default="that of the name, else wav",
    ),
]
SkipExistingOption = Annotated[
    bool,
    output_option("--skip-existing", help="Leave out recordings whose results are there, of this model and options."),
]
DryRunOption = Annotated[bool, output_option("--dry-run", "-n", help="Only show where each result would go.")]
From0Option = Annotated[
    str | None,
    data_option(
        "--from0",
        metavar="FILE|-",
        help="Take names of recordings, each ended by NUL, from a file or standard input (find -print0); they "
        "keep their folders below --out-dir.",
    ),
]
SetNameOption = Annotated[SetOption | None, data_option("--set", help="Convert this set of a training run instead.")]
SourceDataOption = Annotated[
    str | None,
    data_option(
        "--data",
        metavar="NAME",
        help="The prepared set of --set, by default the one the run was trained on. Without --set: the prepared "
        "set of the source speaker, for a published model, which comes without that speaker's statistics.",
    ),
]
SourceStatsOption = Annotated[
    Path | None,
    model_option(
        "--source-stats", metavar="FILE", help="Statistics of the source speaker, for a published model folder."
    ),
]
GivenFeaturesOption = Annotated[
    Path | None,
    data_option(
        "--features",
        metavar="DIR|FILE.npy",
        help="Features of the recordings, for a voice that was trained on those of another program.",
        show_default="a .npy beside each recording",
    ),
]
SeedOption = Annotated[
    int,
    model_option(
        "--seed", min=0, help="Random seed: of the rhythm where the model draws it, and of the vocoder's noise."
    ),
]
NoiseScaleOption = Annotated[
    float | None,
    model_option(
        "--noise-scale",
        min=0.0,
        help="Freedom of the rhythm where the model draws it (not the bundled voice); 0 is the most likely one.",
        show_default="the model's",
    ),
]
SpeedOption = Annotated[float, model_option("--speed", min=0.1, max=10.0, help="2 speaks twice as fast.")]
VocoderOption = Annotated[
    str | None,
    model_option(
        "--vocoder",
        metavar="NAME_OR_FOLDER",
        help="The name of a vocoder (downloaded, trained, universal or bundled), a folder (aasvc's or published), or "
        "griffin-lim.",
        show_default="the one that goes with the model, else universal, or griffin-lim where its mel settings differ",
        autocompletion=completion.vocoders,
    ),
]


class Runtime(StrEnum):
    """What runs the networks."""

    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"


RuntimeOption = Annotated[
    Runtime,
    model_option(
        "--runtime",
        help="onnx starts in a third of the time, with an export that is made once and kept. auto: onnx for exported "
        "folders, else torch.",
    ),
]
SaveMelOption = Annotated[
    Path | None,
    output_option("--save-mel", metavar="FILE.npy", help="Also write the converted log-mel, (frames, bands)."),
]
ListModelsOption = Annotated[
    bool,
    model_option("--list-models", help="Show the voices that are here, with -v also their model cards, and exit."),
]
RawFormatOption = Annotated[
    str | None,
    raw_option(
        "--raw-format",
        metavar="FORMAT",
        help=f"The input is samples without a header: {', '.join(RAW_ENCODINGS)}.",
    ),
]
RawRateOption = Annotated[int | None, raw_option("--raw-rate", min=1, metavar="HZ", help="Their sample rate.")]
RawChannelsOption = Annotated[int, raw_option("--raw-channels", min=1, help="Their channels, interleaved.")]
WorkersOption = Annotated[
    int,
    machine_option("--jobs", "-j", "--workers", min=1, help="Processes for many recordings; each loads the model."),
]
JsonlOption = Annotated[
    str | None,
    output_option(
        "--jsonl", metavar="FILE|-", help="Write one line of JSON for each recording as soon as it is finished."
    ),
]


def convert(
    inputs: Inputs = None,
    output: OutputOption = None,
    out_dir: OutDirOption = None,
    format_name: FormatOption = None,
    skip_existing: SkipExistingOption = False,
    dry_run: DryRunOption = False,
    from0: From0Option = None,
    set_name: SetNameOption = None,
    data: SourceDataOption = None,
    model: ModelOption = None,
    source_stats: SourceStatsOption = None,
    features: GivenFeaturesOption = None,
    seed: SeedOption = 1,
    noise_scale: NoiseScaleOption = None,
    speed: SpeedOption = 1.0,
    vocoder: VocoderOption = None,
    runtime: RuntimeOption = Runtime.AUTO,
    save_mel: SaveMelOption = None,
    list_models: ListModelsOption = False,
    raw_format: RawFormatOption = None,
    raw_rate: RawRateOption = None,
    raw_channels: RawChannelsOption = 1,
    device: DeviceOption = None,
    workers: WorkersOption = 1,
    cluster: ClusterOption = None,
    shard: ShardOption = None,
    json_target: JsonOption = None,
    jsonl: JsonlOption = None,
) -> None:
    """Convert recordings to the target voice.

    Example: [bold]aasvc convert in.wav -o out.wav[/bold]

    A folder of recordings: [bold]aasvc convert recordings --out-dir converted[/bold]

    In a pipe: [bold]aasvc convert - -o -[/bold]

    The held-out set of a run, for `aasvc evaluate`: [bold]aasvc convert --set eval --model TAG[/bold]
    """
    given = locals()
    if list_models:
        _list_models(json_target)
    elif dry_run:
        _show_plan(_work(given), given)
    else:
        _convert(_work(given), given)


def _list_models(json_target: str | None) -> None:
    from aasvc_cli.pipeline.models import known_models

    known = known_models(home_folder())
    show_result(known, json_target, known.lines(cards=settings.verbose))


@dataclass(frozen=True)
class _Work:
    """What is to be converted, and where to."""

    inputs: Sequence[Path]
    from0: str | None
    set_name: SetOption | None
    output: Path | None
    out_dir: Path | None
    format_name: str | None
    raw: RawAudio | None
    save_mel: Path | None
    jsonl: str | None

    def check(self, model: str | None, data: str | None, source_stats: Path | None) -> None:
        """Refuse options that do not go together."""
        single = self.inputs or self.output or self.save_mel
        if self.set_name is not None:
            if single or self.out_dir or self.from0 or self.format_name or self.raw:
                usage("convert", "--set stands alone: its results go to the folder of the run")
            if model is None:
                usage("convert", "--set needs --model TAG")
        elif self.from0 is not None:
            if single or self.out_dir is None:
                usage("convert", "--from0 stands in place of inputs, and its results go to --out-dir DIR")
        elif not self.inputs:
            usage("convert", "name a recording, or a set with --set")
        elif self.output is not None and self.out_dir is not None:
            usage("convert", "-o and --out-dir both say where results go; use one of them")
        elif self.output is None and self.out_dir is None:
            usage("convert", "say where the result goes: -o FILE for one recording, or --out-dir DIR for any number")
        if self.set_name is None and data is not None and source_stats is not None:
            usage("convert", "--data and --source-stats both give statistics of the source speaker; use one")
        if self.format_name is not None and self.format_name not in FORMATS:
            usage("convert", f"--format {self.format_name}: use one of {', '.join(FORMATS)}")

    def check_targets(self, json_target: str | None) -> None:
        """Refuse several things on standard output."""
        if [self.output == STREAM, json_target == "-", self.jsonl == "-"].count(True) > 1:
            usage("convert", "standard output takes one thing: the sound (-o -), --json - or --jsonl -")

    def check_machines(self, cluster: str | None, shard: str | None, dry_run: bool) -> None:
        """Refuse what does not go with other machines."""
        if cluster is not None and (self.save_mel is not None or STREAM in (self.output, *self.inputs)):
            usage("convert", "--cluster converts files to files, without --save-mel")
        if shard is not None and (self.output is not None or dry_run):
            usage("convert", "--shard goes with --out-dir or --set, and not with --dry-run")

    def plan(self, home: Home, model: str | None, data: str | None) -> Iterator[Job | Refused]:
        """The planned jobs, and what would be refused."""
        from aasvc_cli.conversion.plan import plan_files, plan_names, plan_set
        from aasvc_cli.conversion.voice import find_voice

        find_voice(home, model)
        if self.set_name is not None:
            yield from plan_set(home, self.set_name.value, model, data)[2]
        elif self.from0 is not None and self.out_dir is not None:
            with _names(self.from0) as names:
                yield from plan_names(names, self.out_dir, self.format_name)
        else:
            yield from plan_files(self.inputs, self.output, self.out_dir, self.format_name, say)

    def convert(self, load: dict[str, Any], options: dict[str, Any], **run: Any) -> ConvertSummary:
        """Convert; the keywords are those of ``LoadOptions``, ``ConvertOptions`` and ``RunOptions``."""
        if STREAM in self.inputs:
            run["stdin"] = _standard_input()
        if self.output == STREAM:
            run["stdout"] = _standard_output()
        # Threads that wait by spinning take a busy machine's cores from those they wait for: beside a training, a
        # conversion took 60 s instead of 14 s. The variable must be set before torch loads its thread library.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Pieces of a long recording have a length each, and oneDNN would keep a program for each of a thousand.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
        with loading():
            from aasvc_cli.conversion.converter import ConvertOptions
            from aasvc_cli.pipeline.convert import LoadOptions, RunOptions, convert_files, convert_set

        if load["model"] is None:
            say("model: the bundled voice (another one: --model)")
        which, how = LoadOptions(home_folder(), **load), ConvertOptions(**options)
        with progress("convert") as on_progress, _names(self.from0) as names:
            going = RunOptions(on_progress=on_progress, on_file=_reporter(), on_message=say, **run)
            if self.set_name is not None:
                return convert_set(which, self.set_name.value, options=how, run=going)
            return convert_files(
                which, self.inputs, names=names if self.from0 is not None else None, output=self.output,
                out_dir=self.out_dir, format_name=self.format_name, raw=self.raw, save_mel=self.save_mel, options=how,
                run=going,
            )  # fmt: skip

    def next_command(self, model: str | None, data: str | None) -> str:
        """What usually follows the conversion of a set."""
        words = ["aasvc", "evaluate", "--model", str(model), "--set", self.set_name.value if self.set_name else ""]
        return shlex.join([*words, "--data", data] if data is not None else words)


def _work(given: Mapping[str, Any]) -> _Work:
    """What is to be converted, and where to; options that do not go together are refused."""
    output, format_name = given["output"], given["format_name"]
    if output is not None and output.suffix.lower() in AUDIO_SUFFIXES and settings.origins["format_name"].kind != FLAG:
        format_name = None  # what is usual, as settings files and variables say, yields to a name that says otherwise
    work = _Work(
        inputs=given["inputs"] or [],
        from0=given["from0"],
        set_name=given["set_name"],
        output=STREAM if output is not None and is_standard_output(output) else output,
        out_dir=given["out_dir"],
        format_name=format_name,
        raw=_raw(given["raw_format"], given["raw_rate"], given["raw_channels"]),
        save_mel=given["save_mel"],
        jsonl=checked_target(given["jsonl"], "--jsonl"),
    )
    work.check(given["model"], given["data"], given["source_stats"])
    work.check_targets(given["json_target"])
    work.check_machines(given["cluster"], given["shard"], given["dry_run"])
    return work


def _convert(work: _Work, given: Mapping[str, Any]) -> None:
    load = {name: given[name] for name in LOADING} | {"device": given["device"] or "auto"}
    options = {name: given[name] for name in CONVERSION}
    run = {"skip_existing": given["skip_existing"], "workers": given["workers"], "shard": shard_of(given["shard"])}
    with _lines_to(work.jsonl) as on_line, workers_of(given["cluster"]) as pool:
        summary = work.convert(load, options, cluster=pool, on_line=on_line, **run)
    to_stream = work.output == STREAM
    _show(summary, given["json_target"], aside=to_stream or work.jsonl == "-", silent=to_stream)
    if work.set_name is not None:
        say_next(work.next_command(given["model"], given["data"]))


def _show(summary: ConvertSummary, json_target: str | None, *, aside: bool, silent: bool) -> None:
    """The summary, and an error if something was not converted.

    Args:
        aside: standard output has something else to take
        silent: a program reads it, and needs no summary
    """
    if summary.failures and not summary.files and not summary.n_skipped:
        if json_target is not None:
            show_result(summary, json_target, [])
        raise typer.Exit(EXIT_ERROR)
    if not aside:
        show_result(summary, json_target, summary.lines())
    else:
        if json_target is not None:
            show_result(summary, json_target, [])
        if not silent:
            for line in summary.lines():
                say(line)
    if summary.failures:
        failed = len(summary.failures)
        what = "1 recording was" if failed == 1 else f"{failed} recordings were"
        raise AasvcError(f"{what} not converted; converted: {len(summary.files)}")


def _raw(encoding: str | None, sample_rate: int | None, channels: int) -> RawAudio | None:
    """The format of samples without a header, from the options."""
    if encoding is None and sample_rate is None:
        return None
    if encoding is None or sample_rate is None:
        usage("convert", "--raw-format and --raw-rate go together")
    if encoding not in RAW_ENCODINGS:
        usage("convert", f"--raw-format {encoding}: use one of {', '.join(RAW_ENCODINGS)}")
    return RawAudio(encoding, sample_rate, channels)


def _standard_input() -> IO[bytes]:
    """The pipe with a recording or names; a terminal is refused."""
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
def _names(source: str | None) -> Iterator[Iterator[Path]]:
    """Names that are read as they are needed; none without a source."""
    if source is None:
        yield iter(())
        return
    if source == "-":
        yield read_names(_standard_input())
        return
    with open_binary(Path(source)) as stream:
        yield read_names(stream)


@contextlib.contextmanager
def _lines_to(target: str | None) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """What writes one line of JSON at a time, each at once; None without a target."""
    if target is None:
        yield None
    elif target == "-":
        yield lambda facts: show(json_text(facts, indent=None))
    else:
        with line_writer(Path(target)) as write:
            yield lambda facts: write(json_text(facts, indent=None))


def _show_plan(work: _Work, given: Mapping[str, Any]) -> None:
    """One line for each recording; with ``--json`` one tree."""
    from aasvc_cli.conversion.plan import Plan

    planned = work.plan(home_folder(), given["model"], given["data"])
    plan = Plan.of(planned, _origin(given) if given["skip_existing"] else None)
    show_result(plan, given["json_target"], plan.lines())
    say(plan.summary())
    for refused in plan.refused:
        fail(str(refused.error), EXIT_ERROR)
    if plan.refused:
        raise typer.Exit(EXIT_ERROR)


def _origin(given: Mapping[str, Any]) -> Origin:
    """What the results would say of where they come from."""
    from aasvc_cli.conversion.converter import ConvertOptions
    from aasvc_cli.pipeline.convert import LoadOptions

    load = LoadOptions(home_folder(), **{name: given[name] for name in LOADING})
    return load.origin(ConvertOptions(**{name: given[name] for name in CONVERSION}))


def _reporter() -> Callable[[Outcome], None]:
    """Report a bad recording at once; the others are converted all the same."""
    from aasvc_cli.conversion.converter import UNLIKE

    said = False

    def report(file: Outcome) -> None:
        nonlocal said
        error = getattr(file, "error", None)
        if error is not None:
            fail(str(error), EXIT_ERROR)
        for warning in getattr(file, "warnings", ()):
            # once per run instead of for each recording of a folder; --jsonl has it for each
            if UNLIKE not in warning or not said:
                say(f"warning: {warning}")
            said = said or UNLIKE in warning

    return report
