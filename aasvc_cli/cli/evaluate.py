"""``aasvc evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aasvc_cli.cli import completion
from aasvc_cli.cli.options import (
    JobsOption,
    JsonOption,
    ModeOption,
    RunDataOption,
    SetOption,
    data_option,
    measure_option,
)
from aasvc_cli.cli.output import home_folder, say, show_result, usage
from aasvc_cli.cli.progress import progress
from aasvc_cli.errors import AasvcError

if TYPE_CHECKING:
    from aasvc_cli.pipeline.evaluate import EvaluateResult


def evaluate(
    tag: Annotated[
        str | None,
        data_option(
            "--tag",
            "--model",
            metavar="TAG_OR_FOLDER",
            help="A training run whose held-out set was converted.",
            autocompletion=completion.runs,
        ),
    ] = None,
    set_name: Annotated[SetOption, data_option("--set", help="Which set of the run.")] = SetOption.EVAL,
    data: RunDataOption = None,
    converted: Annotated[
        Path | None, data_option("--converted", metavar="DIR", help="Converted recordings, whoever made them.")
    ] = None,
    target: Annotated[
        Path | None, data_option("--target", metavar="DIR", help="The target speaker's recordings of the same names.")
    ] = None,
    source: Annotated[
        Path | None, data_option("--source", metavar="DIR", help="Unconverted recordings, scored for comparison.")
    ] = None,
    baseline: Annotated[
        bool, data_option("--baseline", help="Score the unconverted source recordings of the run, too.")
    ] = False,
    mode: Annotated[
        ModeOption,
        measure_option(
            "--mode",
            help="published: as in the literature. corrected: right analysis for every sample rate, exact alignment.",
        ),
    ] = ModeOption.PUBLISHED,
    f0_min: Annotated[
        float | None, measure_option("--f0-min", min=10.0, help="Lowest F0 in Hz.", show_default="by speaker")
    ] = None,
    f0_max: Annotated[
        float | None, measure_option("--f0-max", min=20.0, help="Highest F0 in Hz.", show_default="by speaker")
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
        usage("evaluate", "--converted and --target go together")
    if converted is None and source is not None:
        usage("evaluate", "--source goes with --converted and --target; for a run there is --baseline")
    if converted is None and tag is None:
        usage("evaluate", "name a run with --tag, or two folders with --converted and --target")
    from aasvc_cli.pipeline.evaluate import evaluate_folders, evaluate_run

    with progress("evaluate") as on_progress:
        if converted is not None and target is not None:
            result = evaluate_folders(
                converted, target, source=source, f0_min=f0_min, f0_max=f0_max, mode=mode.value, jobs=jobs,
                on_progress=on_progress,
            )  # fmt: skip
        else:
            result = evaluate_run(
                home_folder(), model=tag, set_name=set_name.value, data=data, baseline=baseline, f0_min=f0_min,
                f0_max=f0_max, mode=mode.value, jobs=jobs, on_progress=on_progress,
            )  # fmt: skip
    show_result(result, json_target, _score_table(result))
    for name in result.without_target:
        say(f"{name}: no target recording")
    for name in result.without_conversion:
        say(f"{name}: not converted")
    if result.failures:
        for failure in result.failures:
            say(f"{failure.utterance_id}: {failure.reason}")
        raise AasvcError(f"{len(result.failures)} utterances could not be scored completely")


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
