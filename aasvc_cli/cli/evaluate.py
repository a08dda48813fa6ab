"""``aasvc evaluate``."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.cluster import ClusterOption, ShardOption, shard_of, workers_of
from aasvc_cli.cli.loading import loading
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
from aasvc_cli.errors import AasvcError, DataError, StorageError

if TYPE_CHECKING:
    from aasvc_cli.measures.catalogue import Threshold
    from aasvc_cli.measures.listening import Verdict
    from aasvc_cli.measures.results import Comparison, EvaluateResult
    from aasvc_cli.pipeline.evaluate import Options

NAMED = 5
"""Ids listed in one line."""


SystemsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SYSTEM] [SYSTEM]",
        help="Runs or model folders whose held-out set was converted; with --target: folders of recordings. Two "
        "are compared with each other.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]

EvaluatedModelOption = Annotated[
    str | None,
    data_option(
        "--model",
        "--tag",
        metavar="TAG_OR_FOLDER",
        help="A training run or a model folder whose held-out set was converted.",
        autocompletion=completion.runs,
    ),
]

EvaluatedSetOption = Annotated[SetOption, data_option("--set", help="Which set of the run.")]

ConvertedOption = Annotated[
    Path | None, data_option("--converted", metavar="DIR", help="Converted recordings, whoever made them.")
]

TargetFolderOption = Annotated[
    Path | None,
    data_option(
        "--target",
        metavar="DIR",
        help="The target speaker's recordings of the same names, with or without a prefix for each speaker.",
    ),
]

SourceFolderOption = Annotated[
    Path | None, data_option("--source", metavar="DIR", help="Unconverted recordings, scored for comparison.")
]

TextOption = Annotated[
    Path | None,
    data_option("--text", metavar="FILE", help="Transcripts, one `ID SENTENCE` per line; runs have theirs already."),
]

BaselineOption = Annotated[
    bool, data_option("--baseline", help="Score the unconverted source recordings of the run, too.")
]

MeasuresOption = Annotated[
    str | None,
    measure_option(
        "--measures",
        metavar="LIST",
        help="What to measure, with commas between: the groups signal, text (CER, WER), mos (DNSMOS, SQUIM), speaker "
        "(similarity), all; or single measures (MCD,SIM), which are shown alone. By default what is installed, "
        "without mos, which takes seconds per recording.",
    ),
]

DefinitionOption = Annotated[
    ModeOption,
    measure_option(
        "--mode",
        help="published: signal measures as in the literature. corrected: right analysis for every sample rate, "
        "exact alignment, and further measures. both: side by side, each with its name.",
    ),
]

F0MinOption = Annotated[
    float | None, measure_option("--f0-min", min=10.0, help="Lowest F0 in Hz.", show_default="by speaker")
]

F0MaxOption = Annotated[
    float | None, measure_option("--f0-max", min=20.0, help="Highest F0 in Hz.", show_default="by speaker")
]

AsrModelOption = Annotated[
    str | None,
    measure_option(
        "--asr-model",
        metavar="NAME_OR_FOLDER",
        help="Recognise the speech for CER and WER: a Whisper model's name (base, large-v3, ...; fetched once) or "
        "its folder.",
    ),
]

LanguageOption = Annotated[
    str | None,
    measure_option(
        "--language",
        metavar="CODE",
        help="Language of the sentences, such as ja; by default what their script or their sound tells.",
    ),
]

BootstrapSeedOption = Annotated[int, measure_option("--seed", min=0, help="Random seed of the bootstrap intervals.")]

FailIfOption = Annotated[
    list[str] | None,
    measure_option(
        "--fail-if",
        metavar="CONDITION",
        help='End with exit code 1 if a mean meets this condition: "cer>0.2", "mcd>=7", "sim<0.8". Repeatable; of '
        "two systems, the second is checked.",
    ),
]

CsvOption = Annotated[Path | None, output_option("--csv", metavar="FILE", help="Write the table of utterances as CSV.")]

ReportOption = Annotated[
    Path | None,
    output_option(
        "--report",
        metavar="FILE",
        help="Write one HTML file to hear and see the result: players, spectrograms, F0, alignments, transcripts.",
    ),
]

ReportUtterancesOption = Annotated[
    int,
    output_option(
        "--report-utterances",
        metavar="N",
        min=0,
        help="Utterances to hear in the report: the worst, the best, and some between. Scores are of all.",
    ),
]


ListeningOption = Annotated[
    Path | None,
    output_option("--listening", metavar="FILE", help="Answers of a listening test (aasvc serve), for the report."),
]


def evaluate(
    systems: SystemsArgument = None,
    model: EvaluatedModelOption = None,
    set_name: EvaluatedSetOption = SetOption.EVAL,
    data: RunDataOption = None,
    converted: ConvertedOption = None,
    target: TargetFolderOption = None,
    source: SourceFolderOption = None,
    text: TextOption = None,
    baseline: BaselineOption = False,
    measures: MeasuresOption = None,
    mode: DefinitionOption = ModeOption.BOTH,
    f0_min: F0MinOption = None,
    f0_max: F0MaxOption = None,
    asr_model: AsrModelOption = None,
    language: LanguageOption = None,
    seed: BootstrapSeedOption = 0,
    fail_if: FailIfOption = None,
    csv_file: CsvOption = None,
    report: ReportOption = None,
    report_utterances: ReportUtterancesOption = 30,
    listening: ListeningOption = None,
    jobs: JobsOption = None,
    cluster: ClusterOption = None,
    shard: ShardOption = None,
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
    given = locals()
    chosen = _systems(given)
    thresholds = _thresholds(fail_if or [])
    verdicts = _verdicts(listening)
    if shard is not None and (json_target or csv_file or report or fail_if):
        usage("evaluate", "--shard only scores; the same command without it shows the scores and writes files")
    results = _results(given, chosen, thresholds)
    if shard is not None:
        for result in results:
            scored = f"{result.name}, part {shard}: {_number(result.utterances)} scored"
            say(f"{scored}; when all parts are done, the same command without --shard shows the scores")
        _end(results, [])
        return
    unsaved: list[str] = []
    shown = _show(results, json_target, csv_file, seed, unsaved)
    if report is not None:
        with _going_on(unsaved):
            _report(shown, report, report_utterances, verdicts)
    _end(results, thresholds, unsaved)


def _systems(given: Mapping[str, Any]) -> list[str] | list[Path]:
    """One or two runs by name, or folders of converted recordings; options that do not go together are refused."""
    names, model, converted, target = list(given["systems"] or []), given["model"], given["converted"], given["target"]
    if not names and model is not None and converted is None:
        names = [model]
    elif names and model is not None:
        usage("evaluate", "name runs in one way: with --model, or without")
    if converted is not None and names:
        usage("evaluate", "--converted is one folder; for two name them without: A B --target DIR")
    if len(names) > 2:
        usage("evaluate", f"{len(names)} systems: at most two can be compared")
    if target is None and converted is not None:
        usage("evaluate", "--converted and --target go together")
    if target is None and given["source"] is not None:
        usage("evaluate", "--source goes with --converted and --target; for a run there is --baseline")
    if target is not None and model is not None and names == [model]:
        usage("evaluate", "--target goes with folders of recordings; a run knows its target recordings")
    if target is not None and converted is None and not names:
        usage("evaluate", "--converted and --target go together")
    if converted is None and not names:
        usage("evaluate", "name a run with --model, or two folders with --converted and --target")
    report = given["report"]
    if report is not None and report.is_dir():
        usage("evaluate", f"--report {report}: is a folder, expected a file to write, such as {report / 'report.html'}")
    if given["listening"] is not None and report is None:
        usage("evaluate", "--listening goes with --report")
    low, high = given["f0_min"], given["f0_max"]
    if math.inf in (low, high) or (low is not None and high is not None and low >= high):
        usage("evaluate", f"F0 range {low or '...'}-{high or '...'} Hz: expected --f0-min below --f0-max")
    if target is None:
        return names
    return [converted] if converted is not None else [Path(name) for name in names]


def _results(
    given: Mapping[str, Any], systems: Sequence[str | Path], thresholds: Sequence[Threshold]
) -> list[EvaluateResult]:
    """The scores of each system. The second is analysed in the F0 range of the first."""
    options = _options(given, thresholds)
    results = []
    for system in systems:
        with workers_of(given["cluster"]) as workers, progress("evaluate") as on_progress:
            options = replace(options, workers=workers, on_progress=on_progress)
            results.append(_score(system, given, options))
        options = replace(options, f0_range=results[0].f0_range)
    return results


def _options(given: Mapping[str, Any], thresholds: Sequence[Threshold]) -> Options:
    with loading():
        from aasvc_cli.pipeline.evaluate import Options, chosen_measures

    measures, asr_model, jobs = given["measures"], given["asr_model"], given["jobs"]
    chosen = None if measures is None else [name for name in measures.split(",") if name.strip()]
    with _usage_of("--measures: "):
        wanted = chosen_measures(chosen, given["mode"].value)
    with _usage_of():
        shard = shard_of(given["shard"])
    same = {name: given[name] for name in ("f0_min", "f0_max", "language", "seed", "jobs")}
    options = Options(
        mode=given["mode"].value, measures=chosen, required=[each.measure for each in thresholds],
        shard=shard, **same,
    )  # fmt: skip
    _check_thresholds(thresholds, given, options)
    if asr_model is None or not any(measure.group == "text" for measure in wanted):
        return options
    from aasvc_cli.measures.judges import Whisper

    recogniser, language = Whisper(asr_model, threads=jobs or os.cpu_count() or 1), given["language"]
    if language is not None and language not in recogniser.known_languages:
        known = _listed(recogniser.known_languages)
        usage("evaluate", f"--language {language}: {asr_model} does not know it; expected a code such as {known}")
    return replace(options, recogniser=recogniser)


@contextlib.contextmanager
def _usage_of(beginning: str = "") -> Iterator[None]:
    """What is wrong with the value of an option is wrong usage."""
    try:
        yield
    except DataError as error:
        usage("evaluate", f"{beginning}{error}")


def _check_thresholds(thresholds: Sequence[Threshold], given: Mapping[str, Any], options: Options) -> None:
    """Refuse conditions on what will not be computed, before minutes of work."""
    from aasvc_cli.pipeline.evaluate import options_for

    is_run = given["target"] is None  # which knows its sentences and sources
    have = {"texts": is_run or given["text"] is not None, "sources": is_run or given["source"] is not None}
    for each in thresholds:
        takes = options_for(each.measure, options, recognised=given["asr_model"] is not None, **have)
        if takes:
            title = each.measure.title
            usage("evaluate", f"--fail-if {each.text}: {title} would not be computed; it takes {' '.join(takes)}")


def _score(system: str | Path, given: Mapping[str, Any], options: Options) -> EvaluateResult:
    """Score a folder, or what was converted for a run."""
    from aasvc_cli.pipeline.evaluate import evaluate_folders, evaluate_run

    home, text = home_folder(), given["text"]
    if isinstance(system, Path):
        return evaluate_folders(system, given["target"], source=given["source"], text=text, home=home, options=options)
    return evaluate_run(
        home, model=system, set_name=given["set_name"].value, data=given["data"], text=text,
        baseline=given["baseline"], options=options,
    )  # fmt: skip


@contextlib.contextmanager
def _going_on(unsaved: list[str]) -> Iterator[None]:
    """Note what cannot be written, and go on: scores that took minutes reach every other place they are meant for."""
    try:
        yield
    except StorageError as error:
        unsaved.append(str(error))


def _show(
    results: Sequence[EvaluateResult], json_target: str | None, csv_file: Path | None, seed: int, unsaved: list[str]
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

        with _going_on(unsaved):
            write_text(csv_file, _csv(shown))
    if json_target not in (None, "-"):
        with _going_on(unsaved):
            show_result(shown, json_target, [])
        json_target = None
    with _going_on(unsaved):
        show_result(shown, json_target, lines)
    if comparison is not None:
        alone = (comparison.only_first, comparison.only_second)
        for system, ids in zip(comparison.systems, alone, strict=True):
            if ids:
                say(f"{system.name}: {_number(ids)} that the other does not have: {_listed(ids)}")
    for result in results:
        _remark(result, f"{result.name}: " if len(results) > 1 else "")
    return shown


def _verdicts(listening: Path | None) -> list[Verdict]:
    """What a listening test has found; none without one."""
    if listening is None:
        return []
    from aasvc_cli.pipeline.report import read_verdicts

    return read_verdicts(listening)


def _report(shown: EvaluateResult | Comparison, path: Path, n_utterances: int, verdicts: Sequence[Verdict]) -> None:
    from aasvc_cli.measures.results import counted
    from aasvc_cli.pipeline.report import write_report

    with progress("report") as on_progress:
        written = write_report(shown, path, n_utterances=n_utterances, listening=verdicts, on_progress=on_progress)
    extent = (
        f"{written.n_heard} of {counted(written.n_utterances, 'utterance')} to hear, {written.n_bytes / 1e6:.1f} MB"
    )
    say(f"report: {written.path}  ({extent})")


def _remark(result: EvaluateResult, prefix: str) -> None:
    """Notes on the scores, on standard error."""
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


def _end(results: Sequence[EvaluateResult], thresholds: Sequence[Threshold], unsaved: Sequence[str] = ()) -> None:
    """Exit code 1 if something could not be scored or written, or a threshold is crossed."""
    from aasvc_cli.measures.results import counted, crossed

    reasons = [f"fails {line}" for line in crossed(results[-1], thresholds)]
    reasons += [f"{result.unsaved} (--json FILE keeps the scores elsewhere)" for result in results if result.unsaved]
    reasons += unsaved
    n_failures = sum(result.n_failed for result in results)
    if n_failures:
        reasons.append(f"{counted(n_failures, 'utterance')} could not be scored completely")
    if reasons:
        raise AasvcError("; ".join(reasons))


def _thresholds(conditions: Sequence[str]) -> list[Threshold]:
    from aasvc_cli.measures.catalogue import parse_threshold

    thresholds = []
    for condition in conditions:
        try:
            thresholds.append(parse_threshold(condition))
        except ValueError as error:
            usage("evaluate", f"--fail-if {error}")
    return thresholds


def _csv(shown: EvaluateResult | Comparison) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in shown.rows():
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row])
    return stream.getvalue()


def _number(ids: Sequence[object]) -> str:
    from aasvc_cli.measures.results import counted

    return counted(len(ids), "utterance")


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more
