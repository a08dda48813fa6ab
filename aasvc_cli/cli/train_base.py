"""``aasvc train --kind base``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from aasvc_cli.cli.configuration import traced_config
from aasvc_cli.cli.loading import loading
from aasvc_cli.cli.output import say, say_next, show_result, usage
from aasvc_cli.cli.progress import interrupted, progress, stop_on_signals, training_progress
from aasvc_cli.config.layers import preset_layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aasvc_cli.config.layers import Traced
    from aasvc_cli.storage.home import Home


def train_base(home: Home, given: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Train a network of many voices.

    Args:
        given: the options of ``train`` by parameter
        overrides: what they say about the configuration, by key
    """
    with loading():
        from aasvc_cli.pipeline.train_base import train_base as run

    if given["recordings"] is None:
        usage("train", "--kind base: needs --recordings")
    config = base_config(given, overrides).config
    with stop_on_signals() as should_stop, progress("features") as on_progress, training_progress() as on_report:
        result = run(
            home,
            config,
            recordings=given["recordings"],
            tag=given["tag"],
            init=given["init"],
            overwrite=given["overwrite"],
            tensorboard=given["tensorboard"],
            on_progress=on_progress,
            on_report=on_report,
            on_message=say,
            should_stop=should_stop,
        )
    if result.stopped and not result.out_of_time:
        raise interrupted(result.step, config.train.max_steps, result.folder)
    dev = ", ".join(f"{name} {value:.4g}" for name, value in result.best_dev.items())
    summary = f"{result.folder}  (step {result.step}, best at {result.best_step}" + (f": {dev})" if dev else ")")
    show_result(result, given["json_target"], [summary])
    say_next(f"aasvc train --init {shlex.quote(result.folder.name)} --tag mine")


def base_config(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> Traced:
    """The configuration of the training, and where each value comes from."""
    return traced_config(given["conf"], overrides, [preset_layer("base")])
