"""``aasvc train``."""

from __future__ import annotations

import shlex
from typing import Annotated

from aasvc_cli.cli.configuration import configured, show_schema, shown_config, traced_config
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
    machine_option,
    output_option,
    overrides_of,
    training_option,
)
from aasvc_cli.cli.output import home_folder, say, say_next, show_result
from aasvc_cli.cli.progress import progress, stop_on_signals, training_progress
from aasvc_cli.errors import Interrupted


def train(
    data: DataOption = None,
    tag: Annotated[
        str | None,
        output_option(
            "--tag",
            metavar="TAG",
            help="Name of the run: it goes to exp/<source>_<target>_<tag>.",
            show_default="the configuration's name",
        ),
    ] = None,
    conf: ConfOption = None,
    batch_size: Annotated[
        int | None, training_option("--batch-size", min=1, help="Utterances at once.", show_default=THE_CONFIGURATIONS)
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
    device: DeviceOption = None,
    threads: Annotated[
        int | None, machine_option("--threads", min=1, help="CPU threads.", show_default=THE_CONFIGURATIONS)
    ] = None,
    precision: Annotated[
        PrecisionOption | None,
        machine_option(
            "--precision",
            help="auto takes bf16 where the processor multiplies it natively.",
            show_default=THE_CONFIGURATIONS,
        ),
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

    See what would be used, and where it comes from: [bold]aasvc train --conf small --print-config[/bold]

    Ctrl-C saves and stops; the same command goes on from there. Options left out come from --conf, else aasvc.yaml,
    else your own file, else the configuration that `aasvc prepare` was given.
    """
    from aasvc_cli.corpus import read_manifest

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
    if print_config:
        prepared = data is not None or (home.prepared / "latest.json").is_file()
        traced = traced_config(conf, overrides, read_manifest(home, data) if prepared else None)
        shown = shown_config(traced, overrides, without=("conf", "print_config", "json_target"))
        show_result(shown, json_target, shown.lines())
        return
    manifest = read_manifest(home, data)
    config = configured(conf, overrides, manifest)
    if not (home.stats / manifest.name / f"{norm_name}.json").is_file():
        from aasvc_cli.pipeline.stats import compute_stats

        with progress("stats") as on_progress:
            compute_stats(home, data=manifest.name, norm_name=norm_name, on_progress=on_progress)
    from aasvc_cli.pipeline.train import train as run

    with stop_on_signals() as should_stop, training_progress() as on_report:
        result = run(
            home,
            config,
            data=manifest.name,
            tag=tag,
            norm_name=norm_name,
            overwrite=overwrite,
            tensorboard=tensorboard,
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped:
        raise Interrupted(
            f"stopped after step {result.step} of {config.train.max_steps}; all is saved in {result.folder} - "
            "the same command goes on from there"
        )
    best = ", ".join(f"{name} {value:.4g}" for name, value in result.best_dev.items())
    show_result(
        result,
        json_target,
        [f"{result.folder}  (step {result.step}, best at {result.best_step}" + (f": {best})" if best else ")")],
    )
    say_next(f"aasvc convert --set eval --model {shlex.quote(result.folder.name)}")
