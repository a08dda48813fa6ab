"""``aasvc train --kind vocoder``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

from aasvc_cli.cli import completion
from aasvc_cli.cli.configuration import traced_config
from aasvc_cli.cli.loading import loading
from aasvc_cli.cli.options import model_option
from aasvc_cli.cli.output import say, say_next, settings, show_result, usage
from aasvc_cli.cli.progress import interrupted, stop_on_signals, training_progress
from aasvc_cli.config.layers import FLAG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aasvc_cli.config.layers import Traced
    from aasvc_cli.data.manifest import Manifest
    from aasvc_cli.storage.home import Home

FOR_VOICES = (
    "accum", "max_frames", "memory", "warmup_steps", "checkpointing", "n_workers", "time_limit", "keep", "patience",
    "freeze", "tensorboard", "devices", "src_feat", "trg_feat", "dp_feat", "frames_per_token", "norm_name",
)  # fmt: skip
"""Options that the training of a vocoder does not read."""

MelsFromOption = Annotated[
    str | None,
    model_option(
        "--mels-from",
        metavar="MODEL",
        help="With --kind vocoder: also learn from the mels of this voice, for clearer sound; the voice then uses this "
        "vocoder. none: from recordings alone.",
        show_default="the voice of the same data and tag, if there is one",
        autocompletion=completion.models,
    ),
]


def train_vocoder(home: Home, given: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Train a vocoder for the target speaker of a prepared set, or for everybody on recordings of many.

    Args:
        given: the options of ``train`` by parameter
        overrides: what they say about the configuration, by key
    """
    with loading():
        from aasvc_cli.data.manifest import read_manifest
        from aasvc_cli.pipeline.train_vocoder import train_vocoder as run

    refuse_options_of_voices(given, "vocoder")
    if given["recordings"] is not None and (given["data"] or given["mels_from"]):
        usage("train", "--recordings: takes the place of --data, and has no pairs for --mels-from")
    manifest = None if given["recordings"] is not None else read_manifest(home, given["data"])
    config = vocoder_config(home, given, overrides, manifest).config
    with stop_on_signals() as should_stop, training_progress() as on_report:
        result = run(
            home,
            config,
            data=manifest.name if manifest else None,
            recordings=given["recordings"],
            tag=given["tag"],
            init=given["init"],
            mels_from=given["mels_from"],
            overwrite=given["overwrite"],
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped:
        raise interrupted(result.step, config.train.max_steps, result.folder)
    dev = ", ".join(f"{name} {value:.4g}" for name, value in result.dev.items())
    show_result(result, given["json_target"], [f"{result.folder}  (step {result.step}: {dev})"])
    what = "in.wav -o out.wav" if manifest is None else "--set eval --model TAG"
    say_next(f"aasvc convert {what} --vocoder {shlex.quote(result.folder.name)}")


def vocoder_config(
    home: Home, given: Mapping[str, Any], overrides: Mapping[str, Any], manifest: Manifest | None
) -> Traced:
    """The configuration of the training, and where each value comes from."""
    from aasvc_cli.pipeline.train_vocoder import base_layers, beginning, layers_above, voice_heard

    config = traced_config(given["conf"], overrides, base_layers(manifest)).config
    init, heard = beginning(given["init"], config), None
    if manifest is not None and given["recordings"] is None:
        heard = voice_heard(home, manifest, config, given["tag"], given["mels_from"], overwrite=given["overwrite"])
    above = layers_above(home, init, heard)
    return traced_config(given["conf"], overrides, base_layers(manifest, init), above=above)


def refuse_options_of_voices(given: Mapping[str, Any], kind: str, names: Sequence[str] = FOR_VOICES) -> None:
    """End with wrong usage if the command line has options that the training of this kind does not read.

    What a settings file or a variable says is meant for voices, and is no fault.
    """
    on_command_line = [name for name in (*names, "batch_size") if settings.origins[name].kind == FLAG]
    refused = [f"--{settings.names[name]}" for name in on_command_line if name != "batch_size"]
    if "batch_size" in on_command_line and given["batch_size"] == "auto":
        refused.append("--batch-size auto")
    if refused:
        usage("train", f"{', '.join(refused)}: only for voices; leave it out with --kind {kind}")
