"""``aasvc train --kind content``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from aasvc_cli.cli.configuration import traced_config
from aasvc_cli.cli.loading import loading
from aasvc_cli.cli.options import data_option, model_option
from aasvc_cli.cli.output import say, show_result, usage
from aasvc_cli.cli.progress import interrupted, stop_on_signals, training_progress
from aasvc_cli.cli.train_vocoder import FOR_VOICES, refuse_options_of_voices
from aasvc_cli.config.layers import preset_layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aasvc_cli.config.layers import Traced
    from aasvc_cli.storage.home import Home

RecordingsOption = Annotated[
    Path | None,
    data_option(
        "--recordings",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="With --kind content: DIR/<group>/<speaker>, in a group the same names for the same sentences. With "
        "--kind vocoder: train on these, to speak for anybody, in place of a prepared set.",
        show_default="none",
    ),
]
TeacherOption = Annotated[
    str | None,
    model_option(
        "--teacher",
        metavar="MODEL",
        help="With --kind content: a Whisper model, by name or folder, whose encoder is imitated.",
        show_default="none",
    ),
]


def train_content(home: Home, given: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Train the encoders of content and melody.

    Args:
        given: the options of ``train`` by parameter
        overrides: what they say about the configuration, by key
    """
    with loading():
        from aasvc_cli.pipeline.train_content import train_content as run

    if given["recordings"] is None or given["teacher"] is None:
        usage("train", "--kind content: needs --recordings and --teacher")
    read = ("warmup_steps",)
    refuse_options_of_voices(given, "content", ["data", *(name for name in FOR_VOICES if name not in read)])
    config = content_config(given, overrides).config
    with stop_on_signals() as should_stop, training_progress() as on_report:
        result = run(
            home,
            config,
            recordings=given["recordings"],
            teacher=given["teacher"],
            init=given["init"],
            tag=given["tag"],
            overwrite=given["overwrite"],
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped:
        raise interrupted(result.step, config.train.max_steps, result.folder)
    dev = ", ".join(f"{name} {value:.4g}" for name, value in result.dev.items())
    summary = f"{result.folder}  (step {result.step}" + (f": {dev})" if dev else ")")
    show_result(result, given["json_target"], [summary])


def content_config(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> Traced:
    """The configuration of the training, and where each value comes from."""
    return traced_config(given["conf"], overrides, [preset_layer("content")])
