"""``aasvc train``: the options, and the training of a voice."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.configuration import configured, show_schema, shown_config, traced_config
from aasvc_cli.cli.interrupt import watch
from aasvc_cli.cli.loading import loading
from aasvc_cli.cli.options import (
    THE_CONFIGURATIONS,
    ConfOption,
    DataOption,
    DeviceOption,
    DurationFeatureOption,
    FramesPerTokenOption,
    JsonOption,
    MelodyOption,
    NormNameOption,
    OverwriteOption,
    PrecisionOption,
    SourceFeatureOption,
    TargetFeatureOption,
    TrainedOption,
    machine_option,
    model_option,
    model_overrides,
    output_option,
    overrides_of,
    training_option,
)
from aasvc_cli.cli.output import clock, home_folder, is_first_process, say, say_next, settings, show_result, usage
from aasvc_cli.cli.progress import interrupted, progress, stop_on_signals, training_progress
from aasvc_cli.cli.train_content import RecordingsOption, TeacherOption, content_config, train_content
from aasvc_cli.cli.train_vocoder import MelsFromOption, train_vocoder, vocoder_config
from aasvc_cli.storage.files import byte_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aasvc_cli.config.settings import Config
    from aasvc_cli.data.manifest import Manifest
    from aasvc_cli.storage.home import Home
    from aasvc_cli.training.rehearsal import Plan
    from aasvc_cli.training.voice_run import TrainResult

TRAIN_SETTINGS = (
    "max_frames", "accum", "max_steps", "patience", "freeze", "lr", "warmup_steps", "eval_every", "save_every", "seed",
    "device", "threads",
    "precision", "checkpointing", "memory", "n_workers", "time_limit", "keep",
)  # fmt: skip
"""Options that are named like their setting below ``train``."""


def _checked_batch_size(text: str | None) -> str | None:
    """A number from 1, or auto."""
    if text is None or text == "auto":
        return text
    if not text.isascii() or not text.isdigit():
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto.")
    if int(text) < 1:
        raise typer.BadParameter(f"{text} is not greater than or equal to 1.")
    return text


def _auto_batch(batch_size: str | None, accum: int | None) -> str | None:
    """What an option ``--batch-size`` says about ``train.auto_batch``."""
    if batch_size is None:
        return None
    if batch_size != "auto":
        return "off"
    return "keep" if accum is None else "fill"


KindOption = Annotated[
    TrainedOption,
    model_option(
        "--kind",
        "--model",
        help="A voice (aas-vc), a vocoder for the target speaker, to give to `convert --vocoder`, or an encoder of "
        "content.",
    ),
]

TagOption = Annotated[
    str | None,
    output_option(
        "--tag",
        metavar="TAG",
        help="Name of the run: it goes to exp/<source>_<target>_<tag>, a vocoder to vocoders/<target>_<tag>, "
        "an encoder to encoders/<tag>.",
        show_default="the configuration's name",
    ),
]

BatchSizeOption = Annotated[
    str | None,
    training_option(
        "--batch-size",
        metavar="N|auto",
        callback=_checked_batch_size,
        help="Utterances per batch, at most. auto takes as many as fit into --memory and accumulates to the same "
        "effective batch; with --accum, it fills the memory.",
        show_default=THE_CONFIGURATIONS,
    ),
]

MaxFramesOption = Annotated[
    int | None,
    training_option(
        "--max-frames",
        min=1,
        help="Frames per batch, at most, padding included: batches of long utterances are smaller.",
        show_default=THE_CONFIGURATIONS,
    ),
]

AccumOption = Annotated[
    int | None, training_option("--accum", min=1, help="Batches per step.", show_default=THE_CONFIGURATIONS)
]

MaxStepsOption = Annotated[
    int | None, training_option("--max-steps", min=1, help="Steps in all.", show_default=THE_CONFIGURATIONS)
]

PatienceOption = Annotated[
    int | None,
    training_option(
        "--patience",
        metavar="N",
        min=1,
        help="Stop after N evaluations of the dev set in a row without improvement; the best weights are kept.",
        show_default="train to the last step",
    ),
]

FreezeOption = Annotated[
    str | None,
    training_option(
        "--freeze",
        metavar="PARTS",
        help="Parts that keep the weights of --init, e.g. encoder,aligner; a wrong name lists what there is.",
        show_default="all learn",
    ),
]

LearningRateOption = Annotated[
    float | None, training_option("--lr", min=0.0, help="Highest learning rate.", show_default=THE_CONFIGURATIONS)
]

WarmupStepsOption = Annotated[
    int | None,
    training_option(
        "--warmup-steps", min=1, help="Steps until the highest learning rate.", show_default=THE_CONFIGURATIONS
    ),
]

EvalEveryOption = Annotated[
    int | None,
    training_option(
        "--eval-every", min=1, help="Steps between evaluations of the dev set.", show_default=THE_CONFIGURATIONS
    ),
]

SaveEveryOption = Annotated[
    int | None,
    training_option("--save-every", min=1, help="Steps between checkpoints.", show_default=THE_CONFIGURATIONS),
]

TrainingSeedOption = Annotated[
    int | None,
    training_option("--seed", min=0, help="Random seed.", show_default=THE_CONFIGURATIONS),
]

KeepOption = Annotated[
    int | None,
    training_option(
        "--keep", min=0, help="How many of the latest checkpoints to keep.", show_default=THE_CONFIGURATIONS
    ),
]

TimeLimitOption = Annotated[
    str | None,
    machine_option(
        "--time-limit",
        metavar="TIME",
        help="Save and end within this time, e.g. 2h or 1h30m.",
        show_default="none",
    ),
]

DevicesOption = Annotated[
    int | None,
    machine_option(
        "--devices",
        min=1,
        metavar="N",
        help="GPUs, or processes on a CPU, that train together; each has a batch of --batch-size.",
        show_default="1",
    ),
]

MemoryOption = Annotated[
    str | None,
    machine_option(
        "--memory",
        metavar="SIZE",
        help="What --batch-size auto may fill, e.g. 8GB.",
        show_default="what the device has free",
    ),
]

TrainingThreadsOption = Annotated[
    int | None, machine_option("--threads", min=1, help="CPU threads.", show_default=THE_CONFIGURATIONS)
]

TrainingPrecisionOption = Annotated[
    PrecisionOption | None,
    machine_option(
        "--precision",
        help="auto takes bf16 where the processor multiplies it natively, else fp16 on a GPU.",
        show_default=THE_CONFIGURATIONS,
    ),
]

LoaderWorkersOption = Annotated[
    int | None,
    machine_option(
        "--loader-workers",
        "--workers",
        min=0,
        help="Processes that load batches ahead.",
        show_default=THE_CONFIGURATIONS,
    ),
]

CheckpointingOption = Annotated[
    bool | None,
    machine_option(
        "--checkpointing/--no-checkpointing",
        help="Gradient checkpointing: far less memory, a third slower, the same result.",
        show_default=THE_CONFIGURATIONS,
    ),
]

InitOption = Annotated[
    str | None,
    model_option(
        "--init",
        metavar="MODEL",
        help="Begin with the weights of this model, aasvc's or published, or with random ones (none); without --conf "
        "its sizes are taken, too. Statistics stay your speakers' own, which brings them near what the model knows; "
        "--norm-name MODEL keeps the model's, for more recordings of the same speakers. With --kind vocoder, name a "
        "vocoder; with --kind content, encoders of the same sizes: bundled, a run that has ended, or a folder.",
        show_default="without --conf, the bundled voice if the features fit (vocoders: universal); else none",
        autocompletion=completion.beginnings,
    ),
]

TensorboardOption = Annotated[
    bool, output_option("--tensorboard", help="Also log for TensorBoard, an optional package.")
]

PrintConfigOption = Annotated[
    bool,
    output_option("--print-config", help="Only show the configuration, and where each value comes from."),
]

PrintSchemaOption = Annotated[
    bool, output_option("--print-schema", help="Only show a JSON schema of configuration files, for editors.")
]


def train(
    data: DataOption = None,
    kind: KindOption = TrainedOption.VOICE,
    tag: TagOption = None,
    conf: ConfOption = None,
    batch_size: BatchSizeOption = None,
    max_frames: MaxFramesOption = None,
    accum: AccumOption = None,
    max_steps: MaxStepsOption = None,
    patience: PatienceOption = None,
    freeze: FreezeOption = None,
    lr: LearningRateOption = None,
    warmup_steps: WarmupStepsOption = None,
    eval_every: EvalEveryOption = None,
    save_every: SaveEveryOption = None,
    seed: TrainingSeedOption = None,
    keep: KeepOption = None,
    time_limit: TimeLimitOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = None,
    memory: MemoryOption = None,
    threads: TrainingThreadsOption = None,
    precision: TrainingPrecisionOption = None,
    n_workers: LoaderWorkersOption = None,
    checkpointing: CheckpointingOption = None,
    src_feat: SourceFeatureOption = None,
    trg_feat: TargetFeatureOption = None,
    dp_feat: DurationFeatureOption = None,
    frames_per_token: FramesPerTokenOption = None,
    melody: MelodyOption = None,
    norm_name: NormNameOption = "self",
    init: InitOption = None,
    mels_from: MelsFromOption = None,
    recordings: RecordingsOption = None,
    teacher: TeacherOption = None,
    tensorboard: TensorboardOption = False,
    print_config: PrintConfigOption = False,
    print_schema: PrintSchemaOption = False,
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Train a voice on a prepared set.

    Example: [bold]aasvc train --tag first --batch-size 2 --accum 8[/bold]

    Fine-tune a model on your own pairs: [bold]aasvc train --init MODEL --tag mine[/bold]

    Train a vocoder for the target speaker: [bold]aasvc train --kind vocoder --tag mine[/bold]

    See what would be used, and where it comes from: [bold]aasvc train --conf small --print-config[/bold]

    Ctrl-C saves and stops, as do SIGTERM and SIGUSR1; the same command goes on from there. Options left out come from
    --conf, else aasvc.yaml, else your own file, else the configuration that `aasvc prepare` was given.
    """
    if print_schema:
        show_schema()
    elif print_config:
        _show_config(home_folder(), locals())
    else:
        _train(locals())


def _train(given: Mapping[str, Any]) -> None:
    _refuse_options_of_others(given)
    trainings = {TrainedOption.VOCODER: train_vocoder, TrainedOption.CONTENT: train_content}
    trainings.get(given["kind"], _train_voice)(home_folder(), given, _overrides(given))


def _refuse_options_of_others(given: Mapping[str, Any]) -> None:
    """Options that mean nothing to what is trained, or that contradict each other."""
    kind = given["kind"]
    if given["batch_size"] == "auto" and given["max_frames"] is not None:
        usage("train", "--batch-size auto looks for a number of utterances; use it or --max-frames")
    if given["mels_from"] is not None and kind is not TrainedOption.VOCODER:
        usage("train", "--mels-from: only for vocoders; add --kind vocoder")
    if given["recordings"] is not None and kind is TrainedOption.VOICE:
        usage("train", "--recordings: not for a voice; add --kind vocoder or content")
    if given["teacher"] is not None and kind is not TrainedOption.CONTENT:
        usage("train", "--teacher: only for encoders of content; add --kind content")
    if given["melody"] is not None and kind is not TrainedOption.VOICE:
        usage("train", "--melody and --no-melody: only for voices; leave --kind out")


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say about the configuration, by key."""
    batch_size = given["batch_size"]
    options = {
        "train.batch_size": int(batch_size) if batch_size not in (None, "auto") else None,
        "train.auto_batch": _auto_batch(batch_size, given["accum"]),
        "model.source_melody": given["melody"],
    }
    return model_overrides(given) | overrides_of(options | {f"train.{name}": given[name] for name in TRAIN_SETTINGS})


def _show_config(home: Home, given: Mapping[str, Any]) -> None:
    """Print the configuration and where each value comes from."""
    from aasvc_cli.data.manifest import read_manifest
    from aasvc_cli.pipeline.train import base_layers

    overrides, conf, data = _overrides(given), given["conf"], given["data"]
    manifest = read_manifest(home, data) if data is not None or (home.prepared / "latest.json").is_file() else None
    if given["kind"] is TrainedOption.CONTENT:
        traced = content_config(given, overrides)
    elif given["kind"] is TrainedOption.VOCODER:
        traced = vocoder_config(home, given, overrides, manifest)
    else:
        init = _beginning(home, manifest, given, overrides)
        traced = traced_config(conf, overrides, base_layers(home, manifest, conf, init))
    shown = shown_config(traced, overrides, without=("conf", "print_config", "json_target"))
    show_result(shown, given["json_target"], shown.lines())


def _beginning(
    home: Home, manifest: Manifest | None, given: Mapping[str, Any], overrides: Mapping[str, Any]
) -> str | None:
    """What a voice begins with: what is asked for; else what fits, unless --conf says all there is to say."""
    from aasvc_cli.pipeline.train import base_layers, beginning

    if given["init"] is not None or given["conf"] is not None or manifest is None:
        init: str | None = given["init"]
        return init
    config = traced_config(None, overrides, base_layers(home, manifest, None, None)).config
    return beginning(home, manifest, config, tag=given["tag"], overwrite=given["overwrite"])


def _train_voice(home: Home, given: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Train, or have several processes train."""
    with loading():
        from aasvc_cli.data.manifest import read_manifest
        from aasvc_cli.pipeline.train import base_layers
        from aasvc_cli.training.distributed import is_worker, launch

    manifest = read_manifest(home, given["data"])
    init = _beginning(home, manifest, given, overrides)
    base = base_layers(home, manifest, given["conf"], init)
    config = configured(given["conf"], overrides, base)
    _compute_missing_stats(home, manifest, given["norm_name"])
    if (given["devices"] or 1) > 1 and not is_worker():
        with watch.stopping_in_order():
            launch(given["devices"], settings.arguments)
        return
    result = _run(home, config, manifest, {**given, "init": init})
    if result.stopped and not result.out_of_time:
        raise interrupted(result.step, config.train.max_steps, result.folder)
    if is_first_process():
        _show(result, config, given["json_target"])


def _compute_missing_stats(home: Home, manifest: Manifest, norm_name: str) -> None:
    from aasvc_cli.pipeline.stats import compute_stats

    if not (home.stats / manifest.name / f"{norm_name}.json").is_file():
        with progress("stats") as on_progress:
            compute_stats(home, data=manifest.name, norm_name=norm_name, on_progress=on_progress, on_message=say)


def _run(home: Home, config: Config, manifest: Manifest, given: Mapping[str, Any]) -> TrainResult:
    from aasvc_cli.pipeline.train import train as run

    with stop_on_signals() as should_stop, training_progress() as on_report:
        return run(
            home,
            config,
            data=manifest.name,
            tag=given["tag"],
            norm_name=given["norm_name"],
            init=given["init"],
            overwrite=given["overwrite"],
            tensorboard=given["tensorboard"],
            on_report=on_report,
            on_message=say,
            on_plan=None if settings.quiet else lambda plan: say(_plan_line(plan, config)),
            should_stop=should_stop,
        )


def _plan_line(plan: Plan, config: Config) -> str:
    """What the training will take."""
    train = config.train
    batch = f"longest batch: {plan.n_utterances} utterances, {plan.n_frames} frames"
    if plan.batch_seconds is None or plan.memory is None:
        taken = "more than the memory there is, so it will be taken in pieces"
    else:
        taken = f"{plan.batch_seconds:.2g} s and {byte_size(plan.memory)} of memory in all"
    line = f"{batch}; it takes {taken}. {plan.steps} steps will take about {clock(plan.seconds)}"
    if plan.usual_utterances < 0.75 * plan.unbounded_utterances:
        line += (
            f" (batches hold {plan.usual_utterances:.1f} of {train.batch_size} utterances on average, as "
            f"train.max_frames is {train.max_frames}; --max-frames allows more)"
        )
    return line


def _show(result: TrainResult, config: Config, json_target: str | None) -> None:
    if result.out_of_time:
        say(
            f"out of time after step {result.step} of {config.train.max_steps}; all is saved - the same command goes "
            "on from there"
        )
    if result.out_of_patience:
        say(
            f"ended after step {result.step} of {config.train.max_steps}, as the dev set no longer gets better; the "
            f"weights of step {result.best_step} are kept"
        )
    best = ", ".join(f"{name} {value:.4g}" for name, value in result.best_dev.items())
    summary = f"{result.folder}  (step {result.step}, best at {result.best_step}" + (f": {best})" if best else ")")
    show_result(result, json_target, [summary])
    say_next(f"aasvc convert --set eval --model {shlex.quote(result.folder.name)}")
