"""``aasvc train``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.configuration import configured, show_schema, shown_config, traced_config
from aasvc_cli.cli.interrupt import watch
from aasvc_cli.cli.options import (
    THE_CONFIGURATIONS,
    ConfOption,
    DataOption,
    DeviceOption,
    DurationFeatureOption,
    FramesPerTokenOption,
    JsonOption,
    NormNameOption,
    OverwriteOption,
    PrecisionOption,
    SourceFeatureOption,
    TargetFeatureOption,
    TrainedOption,
    data_option,
    machine_option,
    model_option,
    output_option,
    overrides_of,
    training_option,
)
from aasvc_cli.cli.output import home_folder, is_first_process, say, say_next, settings, show_result, usage
from aasvc_cli.cli.progress import progress, stop_on_signals, training_progress
from aasvc_cli.config.layers import FLAG, INIT, PREPARED, Layer, Origin, config_layer, preset_layer
from aasvc_cli.errors import Interrupted

if TYPE_CHECKING:
    from aasvc_cli.data.manifest import Manifest
    from aasvc_cli.storage.home import Home


FOR_VOICES = {
    "train.accum": "--accum",
    "train.auto_batch": "--batch-size auto",
    "train.max_frames": "--max-frames",
    "train.memory": "--memory",
    "train.warmup_steps": "--warmup-steps",
    "train.checkpointing": "--checkpointing",
    "train.compile": "--compile",
    "train.n_workers": "--workers",
    "train.time_limit": "--time-limit",
    "train.keep": "--keep",
}
"""Settings that the training of a vocoder does not read, and their options."""


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


def train(
    data: DataOption = None,
    model: Annotated[
        TrainedOption,
        model_option(
            "--model",
            help="A voice (aas-vc), a vocoder for the target speaker, to give to `convert --vocoder`, or an encoder of "
            "content.",
        ),
    ] = TrainedOption.VOICE,
    tag: Annotated[
        str | None,
        output_option(
            "--tag",
            metavar="TAG",
            help="Name of the run: it goes to exp/<source>_<target>_<tag>, a vocoder to vocoders/<target>_<tag>.",
            show_default="the configuration's name",
        ),
    ] = None,
    conf: ConfOption = None,
    batch_size: Annotated[
        str | None,
        training_option(
            "--batch-size",
            metavar="N|auto",
            callback=_checked_batch_size,
            help="Utterances at once. auto takes as many as fit into --memory and accumulates to the same effective "
            "batch; with --accum, it fills the memory.",
            show_default=THE_CONFIGURATIONS,
        ),
    ] = None,
    max_frames: Annotated[
        int | None,
        training_option(
            "--max-frames",
            min=1,
            help="Target frames at once, in place of --batch-size: many short utterances or few long ones.",
            show_default="no limit",
        ),
    ] = None,
    accum: Annotated[
        int | None, training_option("--accum", min=1, help="Batches per step.", show_default=THE_CONFIGURATIONS)
    ] = None,
    max_steps: Annotated[
        int | None, training_option("--max-steps", min=1, help="Steps in all.", show_default=THE_CONFIGURATIONS)
    ] = None,
    lr: Annotated[
        float | None, training_option("--lr", min=0.0, help="Highest learning rate.", show_default=THE_CONFIGURATIONS)
    ] = None,
    warmup_steps: Annotated[
        int | None,
        training_option(
            "--warmup-steps", min=1, help="Steps until the highest learning rate.", show_default=THE_CONFIGURATIONS
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        training_option(
            "--eval-every", min=1, help="Steps between measurements on the dev set.", show_default=THE_CONFIGURATIONS
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        training_option("--save-every", min=1, help="Steps between checkpoints.", show_default=THE_CONFIGURATIONS),
    ] = None,
    seed: Annotated[
        int | None,
        training_option("--seed", min=0, help="Start of all random numbers.", show_default=THE_CONFIGURATIONS),
    ] = None,
    keep: Annotated[
        int | None,
        training_option(
            "--keep", min=0, help="How many of the latest checkpoints to keep.", show_default=THE_CONFIGURATIONS
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        machine_option(
            "--time-limit",
            metavar="TIME",
            help="Save and end in good order within this time, e.g. 2h or 1h30m.",
            show_default="none",
        ),
    ] = None,
    device: DeviceOption = None,
    devices: Annotated[
        int | None,
        machine_option(
            "--devices",
            min=1,
            metavar="N",
            help="GPUs, or processes on a CPU, that train together; each has a batch of --batch-size.",
            show_default="1",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        machine_option(
            "--memory",
            metavar="SIZE",
            help="What --batch-size auto may fill, e.g. 8GB.",
            show_default="what the device has free",
        ),
    ] = None,
    threads: Annotated[
        int | None, machine_option("--threads", min=1, help="CPU threads.", show_default=THE_CONFIGURATIONS)
    ] = None,
    precision: Annotated[
        PrecisionOption | None,
        machine_option(
            "--precision",
            help="auto takes bf16 where the processor multiplies it natively, else fp16 on a GPU.",
            show_default=THE_CONFIGURATIONS,
        ),
    ] = None,
    compiled: Annotated[
        bool | None,
        machine_option(
            "--compile/--no-compile",
            help="Compile the network with torch.compile, for long trainings on a GPU.",
            show_default=THE_CONFIGURATIONS,
        ),
    ] = None,
    n_workers: Annotated[
        int | None,
        machine_option("--workers", min=0, help="Processes that load batches ahead.", show_default=THE_CONFIGURATIONS),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        machine_option(
            "--checkpointing/--no-checkpointing",
            help="Train in far less memory, a third slower; the result is the same.",
            show_default=THE_CONFIGURATIONS,
        ),
    ] = None,
    src_feat: SourceFeatureOption = None,
    trg_feat: TargetFeatureOption = None,
    dp_feat: DurationFeatureOption = None,
    frames_per_token: FramesPerTokenOption = None,
    norm_name: NormNameOption = "self",
    init: Annotated[
        str | None,
        model_option(
            "--init",
            metavar="MODEL",
            help="Begin with the weights of this model, ours or published; without --conf its sizes are taken, too. "
            "Statistics stay your speakers' own, which brings them near what the model knows; --norm-name MODEL "
            "keeps the model's, for more recordings of the same speakers. With --model vocoder: the name of a vocoder.",
            show_default="random weights",
            autocompletion=completion.beginnings,
        ),
    ] = None,
    mels_from: Annotated[
        str | None,
        model_option(
            "--mels-from",
            metavar="MODEL",
            help="With --model vocoder: learn from the mels of this voice, too, so that its conversions sound clearer; "
            "best with the --init of a trained vocoder.",
            show_default="recordings alone",
            autocompletion=completion.models,
        ),
    ] = None,
    recordings: Annotated[
        Path | None,
        data_option(
            "--recordings",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="With --model content: DIR/<group>/<speaker>, in a group the same names for the same sentences.",
            show_default="none",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        model_option(
            "--teacher",
            metavar="MODEL",
            help="With --model content: a Whisper model, by name or folder, whose encoder is imitated.",
            show_default="none",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, output_option("--tensorboard", help="Also log for TensorBoard, an optional package.")
    ] = False,
    print_config: Annotated[
        bool,
        output_option("--print-config", help="Only show the configuration, and where each value comes from."),
    ] = False,
    print_schema: Annotated[
        bool, output_option("--print-schema", help="Only show a JSON schema of configuration files, for editors.")
    ] = False,
    overwrite: OverwriteOption = False,
    json_target: JsonOption = None,
) -> None:
    """Train a voice on a prepared set.

    Example: [bold]aasvc train --tag first --batch-size 2 --accum 8[/bold]

    Fine-tune a model on your own pairs: [bold]aasvc train --init MODEL --tag mine[/bold]

    Train a vocoder for the target speaker: [bold]aasvc train --model vocoder --tag mine[/bold]

    See what would be used, and where it comes from: [bold]aasvc train --conf small --print-config[/bold]

    Ctrl-C saves and stops, as do SIGTERM and SIGUSR1; the same command goes on from there. Options left out come from
    --conf, else aasvc.yaml, else your own file, else the configuration that `aasvc prepare` was given.
    """
    from aasvc_cli.data.manifest import read_manifest

    if print_schema:
        show_schema()
        return
    home = home_folder()
    overrides = overrides_of(
        {
            "features.source": src_feat,
            "features.target": trg_feat,
            "features.duration": dp_feat,
            "model.frames_per_token": frames_per_token,
            "train.batch_size": int(batch_size) if batch_size not in (None, "auto") else None,
            "train.auto_batch": _auto_batch(batch_size, accum),
            "train.max_frames": max_frames,
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
            "train.compile": compiled,
            "train.memory": memory,
            "train.n_workers": n_workers,
            "train.time_limit": time_limit,
            "train.keep": keep,
        }
    )
    if print_config:
        prepared = data is not None or (home.prepared / "latest.json").is_file()
        known = read_manifest(home, data) if prepared else None
        begin = Begin(init, mels_from)
        if model is TrainedOption.CONTENT:
            traced = traced_config(conf, overrides, [preset_layer("content")])
        elif model is TrainedOption.VOCODER:
            traced = traced_config(conf, overrides, _vocoder_base(known), above=_vocoder_settings(begin))
        else:
            traced = traced_config(conf, overrides, _voice_base(home, known, conf, init))
        shown = shown_config(traced, overrides, without=("conf", "print_config", "json_target"))
        show_result(shown, json_target, shown.lines())
        return
    if model is TrainedOption.CONTENT:
        if recordings is None or teacher is None:
            usage("train", "--model content: needs --recordings and --teacher")
        _train_content(
            home, conf, overrides, recordings, teacher, tag=tag, overwrite=overwrite, json_target=json_target
        )
        return
    manifest = read_manifest(home, data)
    if model is TrainedOption.VOCODER:
        refused = [flag for key, flag in FOR_VOICES.items() if overrides.get(key, "off") not in ("off", False)]
        others = {"--tensorboard": tensorboard, "--devices": devices}
        refused += [flag for flag, value in others.items() if value]
        if refused:
            usage("train", f"{', '.join(refused)}: only for voices; leave it out with --model vocoder")
        begin = Begin(init, mels_from)
        _train_vocoder(home, manifest, conf, overrides, begin, tag=tag, overwrite=overwrite, json_target=json_target)
        return
    if mels_from is not None:
        usage("train", "--mels-from: only for vocoders; add --model vocoder")
    if recordings is not None or teacher is not None:
        usage("train", "--recordings and --teacher: only for encoders of content; add --model content")
    config = configured(conf, overrides, _voice_base(home, manifest, conf, init))
    if not (home.stats / manifest.name / f"{norm_name}.json").is_file():
        from aasvc_cli.pipeline.stats import compute_stats

        with progress("stats") as on_progress:
            compute_stats(home, data=manifest.name, norm_name=norm_name, on_progress=on_progress)
    from aasvc_cli.training.distributed import is_worker, launch

    if devices is not None and devices > 1 and not is_worker():
        with watch.stopping_in_order():
            launch(devices, settings.arguments)
        return
    from aasvc_cli.pipeline.train import train as run

    with stop_on_signals() as should_stop, training_progress() as on_report:
        result = run(
            home,
            config,
            data=manifest.name,
            tag=tag,
            norm_name=norm_name,
            init=init,
            overwrite=overwrite,
            tensorboard=tensorboard,
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped and not result.out_of_time:
        raise Interrupted(
            f"stopped after step {result.step} of {config.train.max_steps}; all is saved in {result.folder} - "
            "the same command goes on from there"
        )
    if not is_first_process():
        return
    if result.out_of_time:
        say(
            f"out of time after step {result.step} of {config.train.max_steps}; all is saved - the same command goes "
            "on from there"
        )
    best = ", ".join(f"{name} {value:.4g}" for name, value in result.best_dev.items())
    show_result(
        result,
        json_target,
        [f"{result.folder}  (step {result.step}, best at {result.best_step}" + (f": {best})" if best else ")")],
    )
    say_next(f"aasvc convert --set eval --model {shlex.quote(result.folder.name)}")


class Begin(NamedTuple):
    """Where the training of a vocoder begins, and which voice writes mels for it."""

    init: str | None
    mels_from: str | None


def _voice_base(home: Home, manifest: Manifest | None, conf: str | None, init: str | None) -> list[Layer]:
    """What a voice is trained with where nothing is said: the prepared set's, but for the sizes of what it begins with.

    ``--conf`` says both.
    """
    base = [config_layer(Origin(PREPARED, manifest.name), manifest.config) if manifest else preset_layer()]
    if init is not None and conf is None:
        from aasvc_cli.conversion.voice import find_voice, read_voice

        begun = read_voice(find_voice(home, init), home, weights=False).config
        base.append(config_layer(Origin(INIT, init), begun, "model"))
    return base


def _vocoder_base(manifest: Manifest | None) -> list[Layer]:
    """What a vocoder is trained with where nothing is said: features are those of the prepared set."""
    base = [preset_layer("vocoder")]
    if manifest is not None:
        base.append(config_layer(Origin(PREPARED, manifest.name), manifest.config, "features"))
    return base


def _vocoder_settings(begin: Begin) -> list[Layer]:
    """What `--init` and `--mels-from` say about the settings, whatever else is said."""
    from aasvc_cli.pipeline.train_vocoder import settings_of

    layers = [
        Layer(Origin(FLAG, "--mels-from"), settings_of(None, begin.mels_from)),
        Layer(Origin(INIT, str(begin.init)), settings_of(begin.init, None)),
    ]
    return [layer for layer in layers if layer.values]


def _train_content(
    home: Home,
    conf: str | None,
    overrides: Mapping[str, Any],
    recordings: Path,
    teacher: str,
    *,
    tag: str | None,
    overwrite: bool,
    json_target: str | None,
) -> None:
    from aasvc_cli.pipeline.train_content import train_content

    config = configured(conf, overrides, [preset_layer("content")])
    with stop_on_signals() as should_stop, training_progress() as on_report:
        result = train_content(
            home,
            config,
            recordings=recordings,
            teacher=teacher,
            tag=tag,
            overwrite=overwrite,
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped:
        raise Interrupted(
            f"stopped after step {result.step} of {config.train.max_steps}; all is saved in {result.folder} - "
            "the same command goes on from there"
        )
    dev = ", ".join(f"{name} {value:.4g}" for name, value in result.dev.items())
    show_result(result, json_target, [f"{result.folder}  (step {result.step}" + (f": {dev})" if dev else ")")])


def _train_vocoder(
    home: Home,
    manifest: Manifest,
    conf: str | None,
    overrides: Mapping[str, Any],
    begin: Begin,
    *,
    tag: str | None,
    overwrite: bool,
    json_target: str | None,
) -> None:
    from aasvc_cli.pipeline.train_vocoder import train_vocoder

    config = configured(conf, overrides, _vocoder_base(manifest))
    with stop_on_signals() as should_stop, training_progress() as on_report:
        result = train_vocoder(
            home,
            config,
            data=manifest.name,
            tag=tag,
            init=begin.init,
            mels_from=begin.mels_from,
            overwrite=overwrite,
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped:
        raise Interrupted(
            f"stopped after step {result.step} of {config.train.max_steps}; all is saved in {result.folder} - "
            "the same command goes on from there"
        )
    dev = ", ".join(f"{name} {value:.4g}" for name, value in result.dev.items())
    show_result(result, json_target, [f"{result.folder}  (step {result.step}: {dev})"])
    say_next(f"aasvc convert --set eval --vocoder {shlex.quote(result.folder.name)}")
