"""``aasvc evaluate``."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.cluster import ClusterOption, workers_of
from aasvc_cli.cli.options import (
    JobsOption,
    JsonOption,
    ModeOption,
    RunDataOption,
    SetOption,
    data_option,
    measure_option,
    output_option,
)
from aasvc_cli.cli.output import home_folder, say, show_result, usage
from aasvc_cli.cli.progress import progress
from aasvc_cli.errors import AasvcError

if TYPE_CHECKING:
    from aasvc_cli.measures.catalogue import Threshold
    from aasvc_cli.measures.results import Comparison, EvaluateResult
    from aasvc_cli.pipeline.evaluate import Options

NAMED = 5
"""Ids listed in one line."""


def evaluate(
    systems: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SYSTEM] [SYSTEM]",
            help="Runs or model folders whose held-out set was converted; with --target: folders of recordings. Two "
            "are compared with each other.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ] = None,
    model: Annotated[
        str | None,
        data_option(
            "--model",
            "--tag",
            metavar="TAG_OR_FOLDER",
            help="A training run or a model folder whose held-out set was converted.",
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
    text: Annotated[
        Path | None,
        data_option(
            "--text", metavar="FILE", help="What is said, in lines `ID SENTENCE`; the corpus of a run knows it."
        ),
    ] = None,
    baseline: Annotated[
        bool, data_option("--baseline", help="Score the unconverted source recordings of the run, too.")
    ] = False,
    measures: Annotated[
        str | None,
        measure_option(
            "--measures",
            metavar="LIST",
            help="Groups or measures with commas between them: signal, text (CER, WER), mos (DNSMOS, SQUIM), speaker "
            "(similarity), all. By default what is installed, without mos, which takes seconds per recording.",
        ),
    ] = None,
    mode: Annotated[
        ModeOption,
        measure_option(
            "--mode",
            help="published: signal measures as in the literature. corrected: right analysis for every sample rate, "
            "exact alignment, and further measures. both: side by side, each with its name.",
        ),
    ] = ModeOption.BOTH,
    f0_min: Annotated[
        float | None, measure_option("--f0-min", min=10.0, help="Lowest F0 in Hz.", show_default="by speaker")
    ] = None,
    f0_max: Annotated[
        float | None, measure_option("--f0-max", min=20.0, help="Highest F0 in Hz.", show_default="by speaker")
    ] = None,
    asr_model: Annotated[
        str | None,
        measure_option(
            "--asr-model",
            metavar="NAME_OR_FOLDER",
            help="Recognise the speech for CER and WER: a Whisper model's name (base, large-v3, ...; fetched once) or "
            "its folder.",
        ),
    ] = None,
    language: Annotated[
        str | None,
        measure_option("--language", metavar="CODE", help="Of the sentences, such as ja; by default by their script."),
    ] = None,
    seed: Annotated[int, measure_option("--seed", min=0, help="Of the bootstrap intervals.")] = 0,
    fail_if: Annotated[
        list[str] | None,
        measure_option(
            "--fail-if",
            metavar="CONDITION",
            help='End with exit code 1 if a mean is beyond a bound: "cer>0.2", "mcd>=7", "sim<0.8". Any number of '
            "these; of two systems the second is held to it.",
        ),
    ] = None,
    csv_file: Annotated[
        Path | None, output_option("--csv", metavar="FILE", help="Write the table of utterances as CSV.")
    ] = None,
    report: Annotated[
        Path | None,
        output_option(
            "--report",
            metavar="FILE",
            help="Write one HTML file to hear and see the result: players, spectrograms, F0, alignments, transcripts.",
        ),
    ] = None,
    report_utterances: Annotated[
        int,
        output_option(
            "--report-utterances",
            metavar="N",
            min=0,
            help="Utterances to hear in the report: the worst, the best, and some between. Scores are of all.",
        ),
    ] = 30,
    jobs: JobsOption = None,
    cluster: ClusterOption = None,
    json_target: JsonOption = None,
) -> None:
    """Score converted recordings against the target speaker's.

    Example: [bold]aasvc evaluate --model first[/bold]

    Any two folders: [bold]aasvc evaluate --converted converted --target target[/bold]

    Two runs on the same utterances: [bold]aasvc evaluate first second[/bold]

    To hear and see the result: [bold]aasvc evaluate --model first --report first.html[/bold]

    Signal measures, error rates of speech recognition, predicted opinions and similarity of voices, per utterance and
    on average with 95 % intervals.
    """
    names = list(systems or [])
    if not names and model is not None and converted is None:
        names = [model]
    elif names and model not in (None, os.environ.get("AASVC_MODEL")):
        usage("evaluate", "name runs in one way: with --model, or without")
    if converted is not None and names:
        usage("evaluate", "--converted is one folder; for two name them without: A B --target DIR")
    if len(names) > 2:
        usage("evaluate", f"{len(names)} systems: at most two can be compared")
    if target is None and converted is not None:
        usage("evaluate", "--converted and --target go together")
    if target is None and source is not None:
        usage("evaluate", "--source goes with --converted and --target; for a run there is --baseline")
    if target is not None and model is not None and names == [model]:
        usage("evaluate", "--target goes with folders of recordings; a run knows its target recordings")
    folders = [converted] if converted is not None else [Path(name) for name in names] if target is not None else []
    if not names and not folders:
        wanted = "--converted and --target go together" if target is not None else "name a run with --model, or two "
        usage("evaluate", wanted if target is not None else wanted + "folders with --converted and --target")
    if report is not None and report.is_dir():
        usage("evaluate", f"--report {report}: is a folder, expected a file to write, such as {report / 'report.html'}")
    from aasvc_cli.pipeline.evaluate import Options, chosen_groups

    thresholds = _thresholds(fail_if or [])
    chosen = None if measures is None else [name for name in measures.split(",") if name.strip()]
    groups = chosen_groups(chosen)
    options = Options(
        mode=mode.value, measures=chosen, f0_min=f0_min, f0_max=f0_max, language=language, seed=seed, jobs=jobs
    )
    if asr_model is not None and "text" in groups:
        from aasvc_cli.measures.judges import Whisper

        options = replace(options, recogniser=Whisper(asr_model, threads=jobs or os.cpu_count() or 1))
    results = []
    for position in range(len(folders) or len(names)):
        folder = folders[position] if folders else None
        with workers_of(cluster) as workers, progress("evaluate") as on_progress:
            options = replace(options, workers=workers, on_progress=on_progress)
            if folder is not None and target is not None:
                results.append(_folder(folder, target, source, text, options))
            else:
                results.append(_run(names[position], set_name.value, data, text, baseline, options))
        options = replace(options, f0_range=results[0].f0_range)  # two systems are heard in the same way
    shown = _show(results, json_target, csv_file, seed)
    if report is not None:
        _report(shown, report, report_utterances)
    _end(results, thresholds)


def _folder(converted: Path, target: Path, source: Path | None, text: Path | None, options: Options) -> EvaluateResult:
    from aasvc_cli.pipeline.evaluate import evaluate_folders

    return evaluate_folders(converted, target, source=source, text=text, home=home_folder(), options=options)


def _run(
    name: str, set_name: str, data: str | None, text: Path | None, baseline: bool, options: Options
) -> EvaluateResult:
    from aasvc_cli.pipeline.evaluate import evaluate_run

    return evaluate_run(
        home_folder(), model=name, set_name=set_name, data=data, text=text, baseline=baseline, options=options
    )


def _show(
    results: Sequence[EvaluateResult], json_target: str | None, csv_file: Path | None, seed: int
) -> EvaluateResult | Comparison:
    from aasvc_cli.cli.tables import comparison_lines, score_lines, summary_lines
    from aasvc_cli.measures.results import compare_results

    shown: EvaluateResult | Comparison = results[0]
    comparison = compare_results(results[0], results[1], seed=seed) if len(results) == 2 else None
    if comparison is None:
        lines = score_lines(results[0])
    else:
        shown = comparison
        lines = [*summary_lines(results[0]), "", *summary_lines(results[1]), "", *comparison_lines(comparison)]
    if csv_file is not None:
        from aasvc_cli.storage.files import write_text

        write_text(csv_file, _csv(shown))
    show_result(shown, json_target, lines)
    if comparison is not None:
        alone = (comparison.only_first, comparison.only_second)
        for system, ids in zip(comparison.systems, alone, strict=True):
            if ids:
                say(f"{system.name}: {_number(ids)} that the other does not have: {_listed(ids)}")
    for result in results:
        _remark(result, f"{result.name}: " if len(results) > 1 else "")
    return shown


def _report(shown: EvaluateResult | Comparison, path: Path, n_utterances: int) -> None:
    from aasvc_cli.pipeline.report import write_report

    with progress("report") as on_progress:
        written = write_report(shown, path, n_utterances=n_utterances, on_progress=on_progress)
    heard = f"{written.n_heard} of {written.n_utterances} utterances to hear, {written.n_bytes / 1e6:.1f} MB"
    say(f"report: {written.path}  ({heard})")


def _remark(result: EvaluateResult, prefix: str) -> None:
    """What a reader of the numbers should know, on standard error."""
    from aasvc_cli.measures.catalogue import BY_NAME

    for note in result.notes:
        say(f"{prefix}{note}")
    for skipped in result.skipped:
        say(f"{prefix}left out: {skipped.what}: {skipped.reason}")
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, ids in result.undefined.items():
        alike.setdefault(tuple(ids), []).append(BY_NAME[name].title)
    for those, titles in alike.items():
        say(f"{prefix}not defined for {_number(those)}, left out there: {', '.join(titles)}: {_listed(those)}")
    for name in result.without_target:
        say(f"{prefix}{name}: no target recording")
    for name in result.without_conversion:
        say(f"{prefix}{name}: not converted")
    for failure in result.failures:
        say(f"{prefix}{failure.utterance_id}: {failure.reason}")


def _end(results: Sequence[EvaluateResult], thresholds: Sequence[Threshold]) -> None:
    """Exit code 1 if something could not be scored or a threshold is crossed."""
    from aasvc_cli.measures.results import crossed

    reasons = [f"fails {line}" for line in crossed(results[-1], thresholds)]
    n_failures = sum(len(result.failures) for result in results)
    if n_failures:
        reasons.append(f"{n_failures} utterance{'s' * (n_failures > 1)} could not be scored completely")
    if reasons:
        raise AasvcError("; ".join(reasons))


def _thresholds(conditions: Sequence[str]) -> list[Threshold]:
    from aasvc_cli.measures.catalogue import parse_threshold

    found = []
    for condition in conditions:
        try:
            found.append(parse_threshold(condition))
        except ValueError as error:
            usage("evaluate", f"--fail-if {error}")
    return found


def _csv(shown: EvaluateResult | Comparison) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in shown.rows():
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row])
    return stream.getvalue()


def _number(ids: Sequence[str]) -> str:
    return f"{len(ids)} utterance{'s' * (len(ids) > 1)}"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more
