"""``aasvc stats``."""

from __future__ import annotations

import shlex

from aasvc_cli.cli.options import DataOption, JsonOption, NormNameOption
from aasvc_cli.cli.output import home_folder, say, say_next, show_result
from aasvc_cli.cli.progress import progress


def stats(data: DataOption = None, norm_name: NormNameOption = "self", json_target: JsonOption = None) -> None:
    """Find the mean and scale of the features of a training set.

    Example: [bold]aasvc stats[/bold]
    """
    from aasvc_cli.pipeline.stats import compute_stats

    with progress("stats") as on_progress:
        result = compute_stats(home_folder(), data=data, norm_name=norm_name, on_progress=on_progress, on_message=say)
    show_result(result, json_target, result.lines())
    say_next("aasvc train --tag NAME" + ("" if norm_name == "self" else f" --norm-name {shlex.quote(norm_name)}"))
