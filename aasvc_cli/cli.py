"""The command line: declare the options, call the pipeline, show the result.

Nothing heavy is imported before a command runs, so that help and errors in the options come at once. This is the only
module that prints and the only one that decides exit codes: 0 done, 1 error, 2 wrong usage, 130 stopped by the user.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from aasvc_cli import __version__
from aasvc_cli.errors import AasvcError, Interrupted
from aasvc_cli.storage.cache import HOME_VARIABLE, Home, find_home

if TYPE_CHECKING:
    from aasvc_cli.pipeline.convert import ConvertedFile, FailedFile
    from aasvc_cli.pipeline.evaluate import EvaluateResult
    from aasvc_cli.pipeline.prepare import PrepareReport
    from aasvc_cli.pipeline.train import StepReport

OnProgress = Callable[[int, int], None]

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
SHOWN_FINDINGS = 10
"""Pairs left out that `prepare` shows; its report has all of them."""
PLAIN_PROGRESS_SECONDS = 10.0
"""Without a terminal, progress is one plain line per this many seconds."""


@dataclass
class _Settings:
    """The options before the command."""

    home: Path | None = None
    debug: bool = False
    quiet: bool = False


_settings = _Settings()


class FeatureKindOption(StrEnum):
    """Feature kinds that the options offer."""

    MEL = "mel"
    MCEP = "mcep"


class DemoCorpusOption(StrEnum):
    """Corpora that can be downloaded."""

    DEMO = "demo"


class SetOption(StrEnum):
    """The sets of a prepared corpus."""

    DEV = "dev"
    EVAL = "eval"
    TRAIN = "train"


class PrecisionOption(StrEnum):
    """Arithmetic of the network."""

    FP32 = "fp32"
    BF16 = "bf16"
    AUTO = "auto"


class ModeOption(StrEnum):
    """Definitions of the scores."""

    PUBLISHED = "published"
    CORRECTED = "corrected"


# Shared options, declared once.
_data_option = partial(typer.Option, rich_help_panel="Data")
_model_option = partial(typer.Option, rich_help_panel="Model")
_training_option = partial(typer.Option, rich_help_panel="Training")
_measure_option = partial(typer.Option, rich_help_panel="Measures")
_output_option = partial(typer.Option, rich_help_panel="Output")
_machine_option = partial(typer.Option, rich_help_panel="Machine")

ConfOption = Annotated[
    str | None,
    _model_option(
        "--conf",
        metavar="NAME_OR_FILE",
        envvar="AASVC_CONF",
        help="A preset (small, hificaptain) or a YAML file, ours or the published recipe's.",
    ),
]
SourceFeatureOption = Annotated[
    FeatureKindOption | None, _model_option("--src-feat", help="What the model hears of the source.")
]
TargetFeatureOption = Annotated[
    FeatureKindOption | None, _model_option("--trg-feat", help="What the model writes; only mel becomes sound.")
]
DurationFeatureOption = Annotated[
    FeatureKindOption | None, _model_option("--dp-feat", help="What the duration predictor hears of the source.")
]
FramesPerTokenOption = Annotated[
    int | None,
    _model_option(
        "--frames-per-token", min=1, help="Reduction factor: source frames in one token. `aasvc prepare` proposes one."
    ),
]
DataOption = Annotated[
    str | None,
    _data_option(
        "--data", metavar="NAME", envvar="AASVC_DATA", help="A prepared set; by default the one prepared last."
    ),
]
RunDataOption = Annotated[
    str | None,
    _data_option(
        "--data", metavar="NAME", help="The prepared set of --set; by default the one the run was trained on."
    ),
]
NormNameOption = Annotated[
    str,
    _data_option(
        "--norm-name",
        metavar="NAME",
        help="Statistics for normalisation: self, or the name of a model whose statistics are taken.",
    ),
]
ModelOption = Annotated[
    str | None,
    _model_option(
        "--model",
        metavar="TAG_OR_FOLDER",
        envvar="AASVC_MODEL",
        help="A tag of your training runs or a model folder, ours or published; by default the bundled voice.",
    ),
]
DeviceOption = Annotated[
    str | None, _machine_option("--device", metavar="NAME", envvar="AASVC_DEVICE", help="auto, cpu, cuda or cuda:1.")
]
JobsOption = Annotated[
    int | None, _machine_option("--jobs", "-j", min=1, envvar="AASVC_JOBS", help="Processes; by default one per core.")
]
JsonOption = Annotated[
    str | None,
    _output_option(
        "--json",
        metavar="FILE|-",
        help="Write the result as JSON to a file, or to standard output in place of the summary.",
    ),
]
OverwriteOption = Annotated[bool, _output_option("--overwrite", help="Begin anew and replace what is there.")]


app = typer.Typer(
    name="aasvc",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command. Typer keeps the line breaks of docstrings; only those between paragraphs are meant."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return app.command(help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))(function)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aasvc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
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
    _settings.home, _settings.debug, _settings.quiet = home, debug, quiet
    if debug:
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
        logging.getLogger("aasvc_cli").setLevel(logging.DEBUG)
    else:
        # What libraries warn their programmers about is no help to a user; worker processes read the variable.
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


@_command
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

    with _progress("download") as on_progress:
        result = download_demo(_home(), overwrite=overwrite, on_progress=on_progress)
    state = "already there" if result.already_there else f"{result.n_files} files"
    _result(result, json_target, [f"{result.folder}  ({state})"])
    _next("aasvc prepare demo")


@_command
def prepare(
    corpus: Annotated[
        str | None,
        typer.Argument(
            metavar="CORPUS",
            help="A downloaded corpus or a folder <speaker>/{wav,text}/<set>; by default the only downloaded one.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        _data_option(
            "--source",
            metavar="SPEAKER_OR_DIR",
            help="Speaker to convert from: a name in the corpus, or a folder of recordings.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        _data_option(
            "--target",
            metavar="SPEAKER_OR_DIR",
            help="Speaker to convert to: a name in the corpus, or a folder of recordings.",
        ),
    ] = None,
    name: Annotated[
        str | None, _data_option("--name", metavar="NAME", help="Name for this prepared set.", show_default=False)
    ] = None,
    dev: Annotated[
        str | None,
        _data_option(
            "--dev",
            metavar="N|FRACTION|FILE",
            help="Pairs kept for measuring during training: a number, a fraction, or a file with one name per line.",
        ),
    ] = None,
    evaluation: Annotated[
        str | None, _data_option("--eval", metavar="N|FRACTION|FILE", help="Pairs kept for the final scores.")
    ] = None,
    seed: Annotated[int, _data_option("--seed", min=0, help="Decides which pairs are kept.")] = 1,
    conf: ConfOption = None,
    src_feat: SourceFeatureOption = None,
    trg_feat: TargetFeatureOption = None,
    dp_feat: DurationFeatureOption = None,
    frames_per_token: FramesPerTokenOption = None,
    jobs: JobsOption = None,
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Pair, check and analyse recordings of two speakers.

    Example: [bold]aasvc prepare --source my/voice --target their/voice[/bold]

    Recordings with the same file name belong together; wav, flac, ogg and mp3 of any rate will do. Pairs that cannot
    be used are left out and listed. Run it again after an interruption: only what is missing is done.
    """
    from aasvc_cli.pipeline.configure import resolve_config
    from aasvc_cli.pipeline.prepare import prepare as run

    overrides = _overrides(
        {
            "features.source": src_feat,
            "features.target": trg_feat,
            "features.duration": dp_feat,
            "model.frames_per_token": frames_per_token,
        }
    )
    config = resolve_config(conf, overrides)
    with _progress("prepare") as on_progress:
        report = run(
            _home(),
            config,
            corpus=corpus,
            source=source,
            target=target,
            name=name,
            dev=dev,
            evaluation=evaluation,
            seed=seed,
            jobs=jobs,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    _result(report, json_target, _preparation(report))
    _next("aasvc stats")


@_command
def stats(data: DataOption = None, norm_name: NormNameOption = "self", json_target: JsonOption = None) -> None:
    """Find the mean and scale of the features of a training set.

    Example: [bold]aasvc stats[/bold]
    """
    from aasvc_cli.pipeline.stats import compute_stats

    with _progress("stats") as on_progress:
        result = compute_stats(_home(), data=data, norm_name=norm_name, on_progress=on_progress)
    _result(result, json_target, result.lines())
    _next("aasvc train --tag NAME" + ("" if norm_name == "self" else f" --norm-name {shlex.quote(norm_name)}"))


@_command
def train(
    data: DataOption = None,
    tag: Annotated[
        str | None,
        _output_option("--tag", metavar="TAG", help="Name of the run: it goes to exp/<source>_<target>_<tag>."),
    ] = None,
    conf: ConfOption = None,
    batch_size: Annotated[int | None, _training_option("--batch-size", min=1, help="Utterances at once.")] = None,
    accum: Annotated[int | None, _training_option("--accum", min=1, help="Batches per step.")] = None,
    max_steps: Annotated[int | None, _training_option("--max-steps", min=1, help="Steps in all.")] = None,
    lr: Annotated[float | None, _training_option("--lr", min=0.0, help="Highest learning rate.")] = None,
    warmup_steps: Annotated[
        int | None, _training_option("--warmup-steps", min=1, help="Steps until the highest learning rate.")
    ] = None,
    eval_every: Annotated[
        int | None, _training_option("--eval-every", min=1, help="Steps between measurements on the dev set.")
    ] = None,
    save_every: Annotated[
        int | None, _training_option("--save-every", min=1, help="Steps between checkpoints.")
    ] = None,
    seed: Annotated[
        int | None, _training_option("--seed", min=0, envvar="AASVC_SEED", help="Start of all random numbers.")
    ] = None,
    device: DeviceOption = None,
    threads: Annotated[
        int | None, _machine_option("--threads", min=1, envvar="AASVC_THREADS", help="CPU threads.")
    ] = None,
    precision: Annotated[
        PrecisionOption | None,
        _machine_option("--precision", help="auto takes bf16 where the processor multiplies it natively."),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        _machine_option(
            "--checkpointing/--no-checkpointing",
            help="Train in far less memory, a third slower; the result is the same.",
        ),
    ] = None,
    src_feat: SourceFeatureOption = None,
    trg_feat: TargetFeatureOption = None,
    dp_feat: DurationFeatureOption = None,
    frames_per_token: FramesPerTokenOption = None,
    norm_name: NormNameOption = "self",
    tensorboard: Annotated[
        bool, _output_option("--tensorboard", help="Also log for TensorBoard, an optional package.")
    ] = False,
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Train a voice on a prepared set.

    Example: [bold]aasvc train --tag first --batch-size 2 --accum 8[/bold]

    Ctrl-C saves and stops; the same command goes on from there. Options left out come from --conf, and without it
    from the configuration that `aasvc prepare` was given.
    """
    from aasvc_cli.corpus import read_manifest
    from aasvc_cli.pipeline.configure import resolve_config

    home = _home()
    overrides = _overrides(
        {
            "features.source": src_feat,
            "features.target": trg_feat,
            "features.duration": dp_feat,
            "model.frames_per_token": frames_per_token,
            "train.batch_size": batch_size,
            "train.accum": accum,
            "train.max_steps": max_steps,
            "train.lr": lr,
            "train.warmup_steps": warmup_steps,
            "train.eval_every": eval_every,
            "train.save_every": save_every,
            "train.seed": seed,
            "train.device": device,
            "train.threads": threads,
            "train.precision": precision,
            "train.checkpointing": checkpointing,
        }
    )
    manifest = read_manifest(home, data)
    config = resolve_config(conf, overrides, manifest.config)
    if not (home.stats / manifest.name / f"{norm_name}.json").is_file():
        from aasvc_cli.pipeline.stats import compute_stats

        with _progress("stats") as on_progress:
            compute_stats(home, data=manifest.name, norm_name=norm_name, on_progress=on_progress)
    from aasvc_cli.pipeline.train import train as run

    with _stop_on_signals() as should_stop, _training_progress() as on_report:
        result = run(
            home,
            config,
            data=manifest.name,
            tag=tag,
            norm_name=norm_name,
            overwrite=overwrite,
            tensorboard=tensorboard,
            on_report=on_report,
            on_message=_say,
            should_stop=should_stop,
        )
    if result.stopped:
        raise Interrupted(
            f"stopped after step {result.step} of {config.train.max_steps}; all is saved in {result.folder} - "
            "the same command goes on from there"
        )
    best = ", ".join(f"{name} {value:.4g}" for name, value in result.best_dev.items())
    _result(
        result,
        json_target,
        [f"{result.folder}  (step {result.step}, best at {result.best_step}" + (f": {best})" if best else ")")],
    )
    _next(f"aasvc convert --set eval --model {shlex.quote(result.folder.name)}")


@_command
def convert(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT...", help="Recordings, or folders of recordings.")
    ] = None,
    output: Annotated[
        Path | None,
        _output_option(
            "--output", "-o", metavar="FILE", help="The converted recording (.wav, .flac, .ogg), for one input."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, _output_option("--out-dir", metavar="DIR", help="Folder for the converted recordings.")
    ] = None,
    set_name: Annotated[
        SetOption | None, _data_option("--set", help="Convert this set of a training run instead.")
    ] = None,
    data: RunDataOption = None,
    model: ModelOption = None,
    source_stats: Annotated[
        Path | None,
        _model_option(
            "--source-stats", metavar="FILE", help="Statistics of the source speaker, for a published model folder."
        ),
    ] = None,
    seed: Annotated[
        int, _model_option("--seed", min=0, envvar="AASVC_SEED", help="Another number gives another rhythm.")
    ] = 1,
    noise_scale: Annotated[
        float | None,
        _model_option(
            "--noise-scale",
            min=0.0,
            help="Freedom of the rhythm; 0 is the most likely one.",
            show_default="the model's",
        ),
    ] = None,
    speed: Annotated[float, _model_option("--speed", min=0.1, max=10.0, help="2 speaks twice as fast.")] = 1.0,
    save_mel: Annotated[
        Path | None,
        _output_option("--save-mel", metavar="FILE.npy", help="Also write the converted log-mel, (frames, bands)."),
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
        _usage("convert", "name a recording, or a set with --set")
    if set_name is None and (output is None) == (out_dir is None):
        _usage("convert", "say where the result goes: -o FILE for one recording, or --out-dir DIR for any number")
    if set_name is None and data is not None:
        _usage("convert", "--data goes with --set")
    if set_name is not None and (inputs or output or out_dir or save_mel):
        _usage("convert", "--set stands alone: its results go to the folder of the run")
    if set_name is not None and model is None:
        _usage("convert", "--set needs --model TAG")
    # Threads that wait by spinning take a busy machine's cores from those they wait for: beside a training, a
    # conversion took 60 s instead of 14 s. It has to be said before torch loads its thread library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from aasvc_cli.pipeline.convert import convert_files, convert_set

    if model is None:
        _say("model: the bundled voice (another one: --model)")
    options: dict[str, Any] = {
        "model": model,
        "device": device or "auto",
        "seed": seed,
        "noise_scale": noise_scale,
        "speed": speed,
        "source_stats": source_stats,
        "on_file": _report_failure,
    }
    with _progress("convert") as on_progress:
        options["on_progress"] = on_progress
        if set_name is not None:
            summary = convert_set(_home(), set_name.value, data=data, **options)
        else:
            summary = convert_files(_home(), inputs or [], output=output, out_dir=out_dir, save_mel=save_mel, **options)
    if not summary.files:
        raise typer.Exit(EXIT_ERROR)
    _result(summary, json_target, summary.lines())
    if summary.failures:
        raise AasvcError(f"{len(summary.failures)} recordings were not converted, {len(summary.files)} were")
    if set_name is not None:
        _next(f"aasvc evaluate --tag {shlex.quote(str(model))} --set {set_name.value}")


@_command
def evaluate(
    tag: Annotated[
        str | None,
        _data_option(
            "--tag",
            "--model",
            metavar="TAG_OR_FOLDER",
            envvar="AASVC_MODEL",
            help="A training run whose held-out set was converted.",
        ),
    ] = None,
    set_name: Annotated[SetOption, _data_option("--set", help="Which set of the run.")] = SetOption.EVAL,
    data: RunDataOption = None,
    converted: Annotated[
        Path | None, _data_option("--converted", metavar="DIR", help="Converted recordings, whoever made them.")
    ] = None,
    target: Annotated[
        Path | None, _data_option("--target", metavar="DIR", help="The target speaker's recordings of the same names.")
    ] = None,
    source: Annotated[
        Path | None, _data_option("--source", metavar="DIR", help="Unconverted recordings, scored for comparison.")
    ] = None,
    baseline: Annotated[
        bool, _data_option("--baseline", help="Score the unconverted source recordings of the run, too.")
    ] = False,
    mode: Annotated[
        ModeOption,
        _measure_option(
            "--mode",
            help="published: as in the literature. corrected: right analysis for every sample rate, exact alignment.",
        ),
    ] = ModeOption.PUBLISHED,
    f0_min: Annotated[
        float | None, _measure_option("--f0-min", min=10.0, help="Lowest F0 in Hz.", show_default="by speaker")
    ] = None,
    f0_max: Annotated[
        float | None, _measure_option("--f0-max", min=20.0, help="Highest F0 in Hz.", show_default="by speaker")
    ] = None,
    jobs: JobsOption = None,
    json_target: JsonOption = None,
) -> None:
    """Score converted recordings against the target speaker's.

    Example: [bold]aasvc evaluate --tag first[/bold]

    Any two folders: [bold]aasvc evaluate --converted converted --target target[/bold]

    MCD, F0RMSE, F0CORR and DDUR per utterance and on average.
    """
    if (converted is None) != (target is None):
        _usage("evaluate", "--converted and --target go together")
    if converted is None and source is not None:
        _usage("evaluate", "--source goes with --converted and --target; for a run there is --baseline")
    if converted is None and tag is None:
        _usage("evaluate", "name a run with --tag, or two folders with --converted and --target")
    from aasvc_cli.pipeline.evaluate import evaluate_folders, evaluate_run

    with _progress("evaluate") as on_progress:
        if converted is not None and target is not None:
            result = evaluate_folders(
                converted, target, source=source, f0_min=f0_min, f0_max=f0_max, mode=mode.value, jobs=jobs,
                on_progress=on_progress,
            )  # fmt: skip
        else:
            result = evaluate_run(
                _home(), model=tag, set_name=set_name.value, data=data, baseline=baseline, f0_min=f0_min,
                f0_max=f0_max, mode=mode.value, jobs=jobs, on_progress=on_progress,
            )  # fmt: skip
    _result(result, json_target, _score_table(result))
    for name in result.without_target:
        _say(f"{name}: no target recording")
    for name in result.without_conversion:
        _say(f"{name}: not converted")
    if result.failures:
        for failure in result.failures:
            _say(f"{failure.utterance_id}: {failure.reason}")
        raise AasvcError(f"{len(result.failures)} utterances could not be scored completely")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: the one place where errors become a line on standard error and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # half-written files are removed, as for Ctrl-C
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    _settings.home, _settings.debug, _settings.quiet = None, "--debug" in arguments, False
    try:
        code = app(args=list(arguments), prog_name="aasvc", standalone_mode=False)
        sys.stdout.flush()
    except AasvcError as error:
        _traceback_if_wanted()
        return _fail(str(error), error.exit_code, "" if isinstance(error, Interrupted) else "error: ")
    except typer.TyperException as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED, "")
    except BrokenPipeError:
        _close_standard_output()
        return EXIT_ERROR
    except MemoryError:
        _traceback_if_wanted()
        return _fail("not enough memory", EXIT_ERROR)
    except Exception as error:
        _traceback_if_wanted()
        advice = "" if _settings.debug else " (run `aasvc --debug ...` to see where)"
        return _fail(f"{type(error).__name__}: {error}{advice}", EXIT_ERROR, "unexpected error: ")
    if code == EXIT_INTERRUPTED:  # Typer's own name for Ctrl-C
        return _fail("interrupted", EXIT_INTERRUPTED, "")
    return int(code or 0)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _traceback_if_wanted() -> None:
    if _settings.debug:
        traceback.print_exc()


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    with contextlib.suppress(OSError):
        typer.echo(f"aasvc: {kind}{' '.join(line.strip() for line in message.splitlines())}", err=True)
    return code


def _wrong_usage(error: typer.TyperException) -> int:
    """Typer's complaint as one line that says where help is; no arguments at all show the help itself."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return int(error.exit_code)
    where = context.command_path if context is not None else "aasvc"
    message = error.format_message().strip().rstrip(".")
    return _fail(f"{message} (help: {where} -h)", int(error.exit_code))


def _usage(command: str, message: str) -> NoReturn:
    raise _Usage(f"{message} (help: aasvc {command} -h)")


class _Usage(AasvcError):
    """Options that do not go together; the exit code of Typer's own complaints."""

    exit_code = 2


def _close_standard_output() -> None:
    """The reader has gone away; keep Python from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())


def _home() -> Home:
    return find_home(_settings.home)


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the path of their configuration key."""
    return {
        key: str(value) if isinstance(value, StrEnum) else value for key, value in options.items() if value is not None
    }


def _say(message: str) -> None:
    """Talk, on standard error."""
    if not _settings.quiet:
        typer.echo(message, err=True)


def _report_failure(file: ConvertedFile | FailedFile) -> None:
    """One bad recording does not keep the others from being converted, but is reported at once."""
    error = getattr(file, "error", None)
    if error is not None:
        _fail(str(error), EXIT_ERROR)


def _next(command: str) -> None:
    _say(f"next: {command}")


def _result(result: Any, json_target: str | None, lines: Sequence[str]) -> None:
    """Show a result on standard output, or write it as JSON where the user wants it."""
    if json_target is not None:
        text = json.dumps(result.to_tree(), ensure_ascii=False, indent=1, default=str)
        if json_target == "-":
            typer.echo(text)
            return
        from aasvc_cli.storage.files import write_text

        write_text(Path(json_target), text + "\n")
    for line in lines:
        typer.echo(line)


def _preparation(report: PrepareReport) -> list[str]:
    """How many pairs there are, and which ones are not among them and why."""
    pairs = ", ".join(f"{count} {name}" for name, count in report.n_pairs.items())
    lines = [
        f"{report.name}: {pairs} pairs; {_duration(report.source_seconds)} of {report.source_speaker}, "
        f"{_duration(report.target_seconds)} of {report.target_speaker}"
    ]
    left_out = [finding for finding in report.findings if finding.excluded]
    if left_out:
        lines.append(f"left out: {report.n_excluded}")
        lines += [f"  {finding.utterance_id}: {finding.message}" for finding in left_out[:SHOWN_FINDINGS]]
        if len(left_out) > SHOWN_FINDINGS:
            lines.append(f"  and {len(left_out) - SHOWN_FINDINGS} more, in {report.report}")
    notes = Counter(finding.code for finding in report.findings if not finding.excluded)
    if notes:
        counts = ", ".join(f"{count} {code}" for code, count in notes.most_common())
        lines.append(f"worth a look: {counts}; see {report.report}")
    if report.n_breaking:
        lines.append(
            f"{report.n_breaking} pairs have more source tokens than target frames at {report.frames_per_token} frames "
            f"per token; --frames-per-token {report.smallest_frames_per_token} keeps them all"
        )
    elif report.smallest_frames_per_token is not None:
        lines.append(
            f"frames per token: {report.frames_per_token} (all pairs allow {report.smallest_frames_per_token} and more)"
        )
    return lines


def _score_table(result: EvaluateResult) -> list[str]:
    """One line per utterance, then the means, in columns."""
    names = [measure.name for measure in result.measures]
    rows = [["utterance", *(result.title(measure) for measure in result.measures)]]
    for utterance in result.utterances:
        tree = utterance.scores.to_tree()
        rows.append([utterance.utterance_id, *(f"{tree[name]:.3f}" for name in names)])
    rows.append(["mean", *(f"{result.corpus[name].mean:.3f}" for name in names)])
    rows.append(
        ["95 % of means", *(f"{result.corpus[name].low:.3f}..{result.corpus[name].high:.3f}" for name in names)]
    )
    if result.baseline is not None:
        rows.append(["mean, unconverted", *(f"{result.baseline[name].mean:.3f}" for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


@contextlib.contextmanager
def _progress(what: str) -> Iterator[OnProgress | None]:
    """A bar with rate and remaining time on a terminal, a plain line now and then elsewhere."""
    if _settings.quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield _plain_progress(what)
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def on_progress(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")

        yield on_progress


def _plain_progress(what: str) -> OnProgress:
    started = shown = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < PLAIN_PROGRESS_SECONDS or not done:
            return
        shown = now
        rate = done / (now - started)
        _say(f"{what}: {done}/{total}, {rate:.1f}/s, {_duration((total - done) / rate)} left")

    return on_progress


@contextlib.contextmanager
def _training_progress() -> Iterator[Callable[[StepReport], None]]:
    """Loss, steps per second and remaining time: one line that is redrawn on a terminal, plain lines elsewhere."""
    if _settings.quiet:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        yield _plain_training_progress()
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, state="")

        def on_report(report: StepReport) -> None:
            bar.update(task, completed=report.step, total=report.max_steps, state=_training_state(report))
            if report.dev:
                bar.console.print(f"step {report.step}: {_dev_losses(report)}", highlight=False)

        yield on_report


def _plain_training_progress() -> Callable[[StepReport], None]:
    shown = time.monotonic() - PLAIN_PROGRESS_SECONDS

    def on_report(report: StepReport) -> None:
        nonlocal shown
        now = time.monotonic()
        if report.dev or report.step == report.max_steps or now - shown >= PLAIN_PROGRESS_SECONDS:
            shown = now
            dev = f", {_dev_losses(report)}" if report.dev else ""
            _say(f"step {report.step}/{report.max_steps}: {_training_state(report)}{dev}")

    return on_report


def _training_state(report: StepReport) -> str:
    left = (report.max_steps - report.step) / report.steps_per_second if report.steps_per_second > 0 else 0.0
    return f"loss {report.loss:.4f}, {report.steps_per_second:.2f} steps/s, {_duration(left)} left"


def _dev_losses(report: StepReport) -> str:
    return "dev " + ", ".join(f"{name} {value:.4f}" for name, value in (report.dev or {}).items())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an orderly stop; a second one aborts at once."""
    asked = False
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: asked
        return

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # Buffered streams are not safe inside a signal handler.
        os.write(2, b"\naasvc: stopping after this step (once more aborts at once)\n")

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
