"""``aasvc prepare``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.cluster import ClusterOption, ShardOption, shard_of, workers_of
from aasvc_cli.cli.configuration import configured
from aasvc_cli.cli.loading import loading
from aasvc_cli.cli.options import (
    THE_CONFIGURATIONS,
    ConfOption,
    DurationFeatureOption,
    FramesPerTokenOption,
    JobsOption,
    JsonOption,
    OverwriteOption,
    SourceFeatureOption,
    TargetFeatureOption,
    data_option,
    model_option,
    model_overrides,
    output_option,
)
from aasvc_cli.cli.output import clock, home_folder, say, say_next, show_result, usage
from aasvc_cli.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aasvc_cli.data.preparation import PartReport, PrepareReport


SHOWN_FINDINGS = 10
"""Pairs left out that `prepare` shows; its report has all of them."""

CHOICES = (
    "corpus", "source", "target", "extra_target", "name", "pairs", "training", "dev", "evaluation", "drop", "language",
    "trim", "loudness", "max_seconds", "seed", "sample_rate", "jobs", "overwrite",
)  # fmt: skip
"""Options that the stage takes by the same name."""


CorpusArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CORPUS",
        help="A downloaded corpus or a folder <speaker>/{wav,text}/<set>.",
        show_default="the only downloaded one",
        autocompletion=completion.corpora,
    ),
]

SourceOption = Annotated[
    list[Path] | None,  # so that a variable may hold several, with colons between them as in PATH
    data_option(
        "--source",
        metavar="SPEAKER_OR_DIR",
        help="Speaker to convert from: a name in the corpus, or a folder of recordings. Several times for several "
        "speakers, who are learnt together.",
        show_default="male in a corpus of male and female, else the only one left",
        autocompletion=completion.speakers,
    ),
]

TargetOption = Annotated[
    str | None,
    data_option(
        "--target",
        metavar="SPEAKER_OR_DIR",
        help="Speaker to convert to: a name in the corpus, or a folder of recordings.",
        show_default="female in a corpus of male and female, else the only one left",
        autocompletion=completion.speakers,
    ),
]

ExtraTargetOption = Annotated[
    Path | None,
    data_option(
        "--extra-target",
        metavar="DIR",
        help="Recordings of the target that need no partner: changed copies of them, and of the targets of the pairs, "
        "are learnt from, too. Not with mels, which say who speaks.",
        show_default="none",
    ),
]

NameOption = Annotated[
    str | None,
    data_option("--name", metavar="NAME", help="Name for this prepared set.", show_default="<source>_<target>"),
]

PairsOption = Annotated[
    str | None,
    data_option(
        "--pairs",
        metavar="FILE",
        help="A table of source, target and perhaps text (TSV or CSV).",
        show_default="recordings are matched by path and name",
    ),
]

TrainingOption = Annotated[
    str | None,
    data_option(
        "--train",
        metavar="N|FRACTION|FILE",
        help="Pairs to train on, in the same way as --dev; the others are left aside.",
        show_default="all that are left",
    ),
]

DevOption = Annotated[
    str | None,
    data_option(
        "--dev",
        metavar="N|FRACTION|FILE",
        help="Pairs kept for measuring during training: a number, a fraction, or a file with one name per line.",
        show_default="the corpus's own, else a tenth and at most 20",
    ),
]

EvaluationOption = Annotated[
    str | None,
    data_option(
        "--eval",
        metavar="N|FRACTION|FILE",
        help="Pairs kept for the final scores, in the same way.",
        show_default="the corpus's own, else a tenth and at most 20",
    ),
]


DropOption = Annotated[
    str | None,
    data_option(
        "--drop",
        metavar="N|FILE",
        help="Leave pairs out: the N that fit worst, those that a ranking calls wrong, or a list of names.",
        show_default="none",
    ),
]


AsrModelOption = Annotated[
    str | None,
    data_option(
        "--asr-model",
        metavar="NAME_OR_FOLDER",
        help="Recognise what both sides of each pair say (a Whisper model's name or its folder), and compare it.",
        show_default="what they say is compared without text",
    ),
]

LanguageOption = Annotated[
    str | None,
    data_option(
        "--language",
        metavar="CODE",
        help="Language of the sentences, for --asr-model.",
        show_default="what the script of their texts or their sound tells",
    ),
]

TrimOption = Annotated[
    bool | None,
    data_option(
        "--trim/--no-trim",
        help="Trim the silence at both ends to 50 ms.",
        show_default="the configuration's; published ones don't",
    ),
]

LoudnessOption = Annotated[
    bool, data_option("--loudness", help="Bring every recording to its speaker's usual loudness.")
]

MaxSecondsOption = Annotated[
    float,
    data_option(
        "--max-seconds",
        min=0.0,
        help="Longer pairs are cut at pauses that both share, or left out; 0 for no limit.",
    ),
]


ReportOption = Annotated[
    Path | None,
    output_option(
        "--report",
        metavar="FILE",
        help="Write one HTML file to see and hear the recordings: charts, the worst pairs, what was cut where.",
    ),
]


SeedOption = Annotated[int, data_option("--seed", min=0, help="Random seed of the split.")]

SampleRateOption = Annotated[
    int | None,
    model_option(
        "--sample-rate",
        metavar="HZ",
        min=4000,
        max=192000,
        help="Sample rate of the model; windows and bands follow. small takes 8000 to 48000, hificaptain 48000.",
        show_default=THE_CONFIGURATIONS,
    ),
]


def prepare(
    corpus: CorpusArgument = None,
    source: SourceOption = None,
    target: TargetOption = None,
    extra_target: ExtraTargetOption = None,
    name: NameOption = None,
    pairs: PairsOption = None,
    training: TrainingOption = None,
    dev: DevOption = None,
    evaluation: EvaluationOption = None,
    drop: DropOption = None,
    asr_model: AsrModelOption = None,
    language: LanguageOption = None,
    trim: TrimOption = None,
    loudness: LoudnessOption = False,
    max_seconds: MaxSecondsOption = 12.0,
    seed: SeedOption = 1,
    conf: ConfOption = None,
    src_feat: SourceFeatureOption = None,
    trg_feat: TargetFeatureOption = None,
    dp_feat: DurationFeatureOption = None,
    frames_per_token: FramesPerTokenOption = None,
    sample_rate: SampleRateOption = None,
    jobs: JobsOption = None,
    cluster: ClusterOption = None,
    shard: ShardOption = None,
    overwrite: OverwriteOption = False,
    report: ReportOption = None,
    json_target: JsonOption = None,
) -> None:
    """Pair, check and analyse recordings of two speakers.

    Example: [bold]aasvc prepare --source my/voice --target their/voice[/bold]

    Several speakers, one target: [bold]aasvc prepare --source A --source B --target C[/bold]

    Recordings with the same path or name belong together, with or without a prefix for each speaker; wav, flac, ogg
    and mp3 of any rate will do. Pairs that cannot be used are left out and listed. Run it again after an
    interruption: only what is missing is done.
    """
    if report is not None and report.is_dir():
        usage("prepare", f"--report {report}: is a folder, expected a file to write, such as {report / 'report.html'}")
    if report is not None and shard is not None:
        usage("prepare", "--report and --shard: the page is about all pairs; give it to the command without --shard")
    if language is not None and asr_model is None:
        usage("prepare", "--language goes with --asr-model")
    outcome = _run(locals())
    from aasvc_cli.data.preparation import PartReport

    if isinstance(outcome, PartReport):
        show_result(outcome, json_target, outcome.lines())
        return
    show_result(outcome, json_target, _preparation(outcome))
    if report is not None:
        _report(outcome, report)
    say_next("aasvc stats")


def _run(given: Mapping[str, Any]) -> PrepareReport | PartReport:
    with loading():
        from aasvc_cli.pipeline.prepare import PrepareOptions
        from aasvc_cli.pipeline.prepare import prepare as run

    config = configured(given["conf"], model_overrides(given))
    choices = {name: given[name] for name in CHOICES} | {"shard": shard_of(given["shard"])}
    recogniser = None
    if given["asr_model"] is not None:
        from aasvc_cli.measures.judges import Whisper

        recogniser = Whisper(given["asr_model"], threads=given["jobs"] or os.cpu_count() or 1)
    with workers_of(given["cluster"]) as workers, progress("prepare") as on_progress:
        options = PrepareOptions(**choices, recogniser=recogniser, workers=workers, on_progress=on_progress)
        return run(home_folder(), config, options)


def _report(outcome: PrepareReport, path: Path) -> None:
    from aasvc_cli.pipeline.report import write_preparation_report

    with progress("report") as on_progress:
        written = write_preparation_report(outcome, path, on_progress=on_progress)
    say(f"report: {written.path}  ({written.n_heard} pairs to hear, {written.n_bytes / 1e6:.1f} MB)")


def _preparation(report: PrepareReport) -> list[str]:
    """How many pairs there are, and which ones are not among them and why."""
    pairs = ", ".join(f"{count} {name}" for name, count in report.n_pairs.items())
    lines = [
        f"{report.name}: {pairs} pairs; {clock(report.source_seconds)} of {report.source_speaker}, "
        f"{clock(report.target_seconds)} of {report.target_speaker}"
    ]
    if report.n_pairs_of:
        lines.append(f"pairs: {', '.join(f'{count} of {speaker}' for speaker, count in report.n_pairs_of.items())}")
    if report.extra_seconds:
        lines.append(
            f"extra: {report.n_extra} recordings of {report.target_speaker} without a partner; with changed copies of "
            f"the others, {clock(report.extra_seconds)} to learn from beside the pairs"
        )
    if set(report.matched_by) - {"path"}:
        lines.append(f"matched: {', '.join(f'{count} by {rule}' for rule, count in report.matched_by.items())}")
    if report.trimmed_seconds:
        lines.append(f"trimmed: {clock(report.trimmed_seconds)} of silence before and after the speech")
    if report.n_cut:
        lines.append(f"cut: {report.n_cut} long pairs, at pauses that both recordings share")
    left_out = sorted(
        (finding for finding in report.findings if finding.excluded), key=lambda each: each.code == "no_partner"
    )
    if left_out:
        codes = Counter(finding.code for finding in left_out)
        why = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        lines.append(f"left out: {report.n_excluded} ({why})")
        lines += [f"  {finding.utterance_id}: {finding.message}" for finding in left_out[:SHOWN_FINDINGS]]
        if len(left_out) > SHOWN_FINDINGS:
            lines.append(f"  and {len(left_out) - SHOWN_FINDINGS} more, in {report.report}")
    lines += [f"note: {finding.message}" for finding in report.findings if not finding.utterance_id]
    notes = Counter(finding.code for finding in report.findings if finding.utterance_id and not finding.excluded)
    if notes:
        counts = ", ".join(f"{count} {code}" for code, count in notes.most_common())
        lines.append(f"worth a look: {counts}; see {report.report}")
    lines += [f"advice: {advice}" for advice in report.advice]
    if report.n_breaking:
        lines.append(
            f"{report.n_breaking} pairs have more source tokens than target frames at {report.frames_per_token} frames "
            f"per token; --frames-per-token {report.smallest_frames_per_token} keeps them all"
        )
    elif report.smallest_frames_per_token is not None:
        lines.append(
            f"frames per token: {report.frames_per_token} (all pairs allow {report.smallest_frames_per_token} and more)"
        )
    return lines
