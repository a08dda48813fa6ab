"""From evaluations, recordings and logs to the data of the page.

Reads the recordings that scores speak of, encodes them for a browser and draws them. Everything that may be missing (a
log, a source recording) is left out and not an error.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.f0 import dio
from aasvc_cli.audio.files import encode_audio, read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.measures.results import Comparison, EvaluateResult, UtteranceScores, counted
from aasvc_cli.measures.transcripts import Transcript
from aasvc_cli.report.content import (
    Alignment,
    Curve,
    Measure,
    Page,
    Role,
    Sound,
    System,
    Take,
    Training,
    Utterance,
)
from aasvc_cli.report.page import rank
from aasvc_cli.storage.files import write_text
from aasvc_cli.training.run_folder import log_entries

if TYPE_CHECKING:
    from aasvc_cli.measures import catalogue

Wave = npt.NDArray[np.float32]
Array = npt.NDArray[np.floating[Any]]
OnProgress = Callable[[int, int], None]
Aligner = Callable[[Path, Path], tuple[Array, Sequence[int]]]
"""Source and target recording -> soft alignment (T, K), and the token of each of the T frames."""
Aligners = Mapping[Path | None, Aligner]
"""By the model folder of a run."""

DEFAULT_UTTERANCES = 30
"""Utterances with recordings on a page."""
MAX_SOUND_BYTES = 24_000_000
"""All recordings of a page together, as they stand in it; about half an hour."""
PICTURE_RATE = 24_000
"""Sample rate of the spectrograms, in Hz: a voice shows little above 12 kHz."""
SOUND_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates that MP3 knows."""
WIDE_F0_RANGE = (50.0, 600.0)
"""Search range in Hz for a speaker of whom nothing is known."""
RANKED = ("MCD", "F0RMSE", "F0CORR", "DDUR", "CER", "WER", "DNSMOS", "SIM")
"""Measures that rank utterances: one of each aspect, so that none counts twice."""
DIGITS = {
    **dict.fromkeys(("F0RMSE", "F0RMSE_corrected"), 1),
    **dict.fromkeys(("DDUR", "DDUR_corrected", "VUV", "CER", "KANA_CER", "WER", "SIM", "SIM_SOURCE"), 3),
}
"""Digits after the point, where they are not two."""
BASELINE, CEILING = "source", "target"
"""Keys of the references: the unconverted source recordings and the target's own."""
PREVIEW_STEPS = 4
"""Steps whose previews the page compares."""
PREVIEW_NAME = re.compile(r"step-(\d+)-")
NO_CURVES = frozenset({"kind", "step", "seconds", "epoch"})
"""Entries of a log that are not worth a curve."""
_LARGEST = 1e300
"""What a curve may show; beyond it, sums overflow."""


def evaluation_page(
    outcome: EvaluateResult | Comparison,
    *,
    n_utterances: int = DEFAULT_UTTERANCES,
    aligners: Aligners | None = None,
    on_progress: OnProgress | None = None,
) -> Page:
    """The page of one system, or of two side by side.

    All utterances are in its table. Recordings are there of the worst, the best, and of evenly spread ones in between,
    until ``n_utterances`` or the size that a page may have are reached; a note on the page says so.

    Args:
        aligners: show which part of the source each system hears, for systems that are runs
        on_progress: told of every utterance whose recordings are put in
    """
    results = outcome.systems if isinstance(outcome, Comparison) else (outcome,)
    page = _scores_page(outcome, results)
    ranks = rank(page)
    order = sorted(page.utterances, key=lambda u: (ranks.get(u.utterance_id, len(page.utterances)), u.utterance_id))
    wanted = representative([u.utterance_id for u in order], n_utterances)
    scored = [{each.utterance_id: each for each in result.utterances} for result in results]
    playable: dict[str, Utterance] = {}
    notes: list[str] = []
    spent = 0
    by_id = {u.utterance_id: u for u in page.utterances}
    for done, utterance_id in enumerate(wanted, start=1):
        rows = [by_name.get(utterance_id) for by_name in scored]
        utterance, problems = _with_recordings(by_id[utterance_id], rows, results, page.systems, aligners or {})
        notes += problems
        spent += sum(len(take.sound.data) * 4 // 3 for take in utterance.takes)
        if spent > MAX_SOUND_BYTES and playable:
            break
        playable[utterance_id] = utterance
        if on_progress is not None:
            on_progress(done, len(wanted))
    if len(playable) < len(page.utterances):
        notes.insert(0, _selection(len(playable), len(page.utterances), len(playable) < len(wanted)))
    utterances = tuple(playable.get(u.utterance_id, u) for u in page.utterances)
    return replace(
        page,
        utterances=utterances,
        notes=(*page.notes, *dict.fromkeys(notes)),
        f0_range=drawn_range([take.f0 for u in utterances for take in u.takes if take.f0 is not None]),
    )


def representative(best_to_worst: Sequence[str], count: int) -> list[str]:
    """So many names, the most telling ones first: worst and best in turn, a third of the places each, then evenly.

    Args:
        count: at least 0; all names if there are no more
    """
    names = list(best_to_worst)
    if count >= len(names):
        return names[::-1]
    third = -(-count // 3)
    ends = [name for pair in zip(names[::-1][:third], names[:third], strict=True) for name in pair][:count]
    middle = names[third : len(names) - third]
    left = count - len(ends)
    spread = [middle[(2 * i + 1) * len(middle) // (2 * left)] for i in range(left)]
    return list(dict.fromkeys([*ends, *spread]))


def take(
    role: Role,
    label: str,
    path: Path,
    *,
    system: str = "",
    f0_range: tuple[float, float] = WIDE_F0_RANGE,
    transcript: Transcript | None = None,
) -> Take:
    """A recording with its sound, its spectrogram and its F0 contour.

    Raises:
        AudioError: it cannot be read.
    """
    wave, sample_rate = read_audio(path)
    rate = min(sample_rate, PICTURE_RATE)
    samples = resample(wave, sample_rate, rate)
    return Take(
        role=role,
        label=label,
        system=system,
        seconds=len(wave) / sample_rate,
        sound=sound(wave, sample_rate),
        mel=log_mel(samples, _picture_mel(rate)),
        f0=f0_contour(samples, rate, f0_range),
        transcript=transcript,
    )


def sound(wave: Wave, sample_rate: int) -> Sound:
    """A recording for a browser: MP3, which every browser plays, or FLAC where libsndfile is too old for MP3.

    Constant bit rate (about 80 kbit/s at 24 kHz), so that a jump to a position is exact.
    """
    import soundfile

    if "MP3" not in soundfile.available_formats():
        return Sound(encode_audio(wave, sample_rate, "FLAC"), "audio/flac")
    if sample_rate not in SOUND_RATES:
        rate = min((r for r in SOUND_RATES if r >= sample_rate), default=SOUND_RATES[-1])
        wave, sample_rate = resample(wave, sample_rate, rate), rate
    return Sound(encode_audio(wave, sample_rate, "MP3"), "audio/mpeg")


def f0_contour(wave: Wave, sample_rate: int, f0_range: tuple[float, float]) -> Array:
    """F0 every 5 ms by the quick estimator, good enough to look at: (F,), 0 where unvoiced."""
    try:
        return dio(wave, sample_rate, f0_min=f0_range[0], f0_max=min(f0_range[1], sample_rate / 2.5))
    except DataError:  # a sample rate too low for it
        return np.zeros(0)


def drawn_range(contours: Sequence[Array]) -> tuple[float, float]:
    """The F0 range in Hz that shows nearly all of some contours, with some room above and below."""
    voiced = np.concatenate([np.zeros(0), *[contour[contour > 0] for contour in contours]])
    if not len(voiced):
        return WIDE_F0_RANGE
    low, high = np.percentile(voiced, [1, 99])
    return 10.0 * math.floor(low * 0.85 / 10), 10.0 * math.ceil(high * 1.15 / 10)


def training_of(log: Path, name: str, best_step: int | None = None) -> Training | None:
    """The curves of a training log; None if there is nothing in it. Lines that are not whole are left out."""
    if not log.is_file():
        return None
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for entry in log_entries(log):
        kind, step = str(entry.get("kind")), entry["step"]
        for key, value in entry.items():
            if key not in NO_CURVES and type(value) in (int, float) and abs(value) < _LARGEST:
                points.setdefault(key, {}).setdefault(kind, []).append((step, float(value)))
    # What is measured on held-out pairs as well tells enough; a vocoder has other measures there than losses.
    held_out = [key for key in points if "dev" in points[key]]
    names = held_out if any("train" in points[key] for key in held_out) else list(points)
    curves = tuple(
        Curve(key.replace("_", " "), points[key].get("train", ()), points[key].get("dev", ())) for key in names
    )
    return Training(name, curves, best_step) if curves else None


def preview_name(step: int, utterance_id: str) -> str:
    """What the files of a preview are called, in one folder whatever the utterance's own is."""
    return f"step-{step:06d}-{utterance_id.replace('/', '-')}"


def latest_previews(folder: Path, utterance_ids: Iterable[str], step: int) -> dict[str, dict[int, Path]]:
    """Sounds of the last few previews up to a step: utterance -> step -> ``step-<step>-<utterance>.wav``."""
    steps = {int(match[1]) for path in folder.glob("step-*.wav") if (match := PREVIEW_NAME.match(path.name))}
    latest = sorted(before for before in steps if before <= step)[-PREVIEW_STEPS:]
    return {
        utterance_id: {
            before: path
            for before in latest
            if (path := folder / f"{preview_name(before, utterance_id)}.wav").is_file()
        }
        for utterance_id in utterance_ids
    }


def write_previews(
    run: Path,
    recordings: Mapping[str, tuple[Path | None, Path]],
    step: int,
    alignments: Mapping[str, Alignment] | None = None,
    *,
    best_step: int | None = None,
    done: str = "converted",
) -> None:
    """Write ``previews/index.html`` of a run, to listen to in a browser; arguments as for :func:`preview_page`."""
    from aasvc_cli.report.page import render

    folder = run / "previews"
    page = preview_page(
        run.name,
        recordings,
        latest_previews(folder, recordings, step),
        alignments or {},
        log=run / "log.jsonl",
        best_step=best_step,
        done=done,
    )
    write_text(folder / "index.html", render(page))


def preview_page(
    name: str,
    recordings: Mapping[str, tuple[Path | None, Path]],
    conversions: Mapping[str, Mapping[int, Path]],
    alignments: Mapping[str, Alignment],
    *,
    log: Path,
    best_step: int | None = None,
    done: str = "converted",
) -> Page:
    """The page of a training under way: what it made of a few held-out utterances, step by step.

    Args:
        name: of the run
        recordings: utterance -> source and target recording; a vocoder has no source
        conversions: utterance -> step -> recording
        alignments: utterance -> alignment of the last step
        done: what is done with utterances, in a word
    """
    steps = sorted({step for by_step in conversions.values() for step in by_step})
    training = training_of(log, name, best_step)
    notes: list[str] = []
    utterances = []
    for utterance_id, (source, target) in recordings.items():
        made = conversions.get(utterance_id, {})
        wanted: list[tuple[Role, str, str, Path]] = [] if source is None else [("source", "source", "", source)]
        wanted += [("conversion", f"step {step:,}", f"step-{step}", made[step]) for step in steps if step in made]
        wanted.append(("target", "target", "", target))
        takes = []
        for role, label, key, path in wanted:
            try:
                takes.append(take(role, label, path, system=key))
            except AasvcError as error:
                notes.append(str(error))
        alignment = [alignments[utterance_id]] if utterance_id in alignments else []
        utterances.append(Utterance(utterance_id, takes=tuple(takes), alignments=alignment))
    return Page(
        title=f"{name}, step {steps[-1]:,}" if steps else name,
        lead=f"A training under way: held-out sentences as they are {done} now and were {done} before.",
        systems=tuple(System(f"step-{step}", f"step {step:,}") for step in steps),
        utterances=tuple(utterances),
        trainings=() if training is None else (training,),
        f0_range=drawn_range([take.f0 for u in utterances for take in u.takes if take.f0 is not None]),
        notes=tuple(notes),
    )


# --- scores ---------------------------------------------------------------------------------------------------------


def _scores_page(outcome: EvaluateResult | Comparison, results: Sequence[EvaluateResult]) -> Page:
    """The page without recordings."""
    names = _names(results)
    keys = [f"system-{number}" for number in range(1, len(results) + 1)]
    systems = [System(key, name, means=result.corpus) for key, name, result in zip(keys, names, results, strict=True)]
    for key, name, note, field in (
        (BASELINE, "source", "unconverted", "baseline"),
        (CEILING, "target", "the target speaker's own recordings", "ceiling"),
    ):
        means = next((summaries for result in results if (summaries := getattr(result, field))), None)
        if means:
            systems.append(System(key, name, note, means, reference=True))
    measures = list({m.name: m for result in results for m in result.measures}.values())
    return Page(
        title=" and ".join(names) if len(names) > 1 else names[0],
        lead=_lead(results),
        facts=_facts(results),
        measures=_measures(measures),
        systems=tuple(systems),
        differences=outcome.differences if isinstance(outcome, Comparison) else (),
        test=str(outcome.to_tree()["test"]) if isinstance(outcome, Comparison) else "",
        utterances=_utterances(results, keys),
        trainings=_trainings(results, names),
        by_source={name: result.by_source for name, result in zip(names, results, strict=True) if result.by_source},
        notes=_notes(outcome, results, names),
    )


def _names(results: Sequence[EvaluateResult]) -> list[str]:
    """What the systems are called: as briefly as tells them apart."""
    full = [result.name for result in results]
    brief = [Path(result.name).name if result.folder is None else result.folder.name for result in results]
    if len(results) > 1 and all(result.folder is not None for result in results):
        # runs begin with the names of the speakers, which are mostly the same
        parts = [name.split("_") for name in brief]
        n_shared = len(list(itertools.takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False))))
        brief = ["_".join(each[min(n_shared, len(each) - 1) :]) for each in parts]
    for names in (brief, full):
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(brief, start=1)]


def _lead(results: Sequence[EvaluateResult]) -> str:
    counts = {len(result.utterances) for result in results}
    many = counted(counts.pop(), "utterance") if len(counts) == 1 else "utterances"
    come = "comes" if many == "1 utterance" else "come"
    return f"How near {many} {come} to the target speaker's own recordings: scores to read and recordings to hear."


def _facts(results: Sequence[EvaluateResult]) -> tuple[tuple[str, str], ...]:
    first = results[0]
    facts = []
    if first.prepared:
        facts.append(("Data", f"{first.prepared}, set {first.set_name}" if first.set_name else first.prepared))
    if first.f0_range is not None:
        low, high = first.f0_range.minimum, first.f0_range.maximum
        facts.append(("F0 range", f"{low:g}–{high:g} Hz, {first.f0_range.origin}"))
    if first.recogniser:
        facts.append(("Speech recognition", _recogniser(first.recogniser)))
    for mode, words in first.definitions.items():
        facts.append((f"Measures, {mode}", words.removeprefix(f"{mode} definition: ")))
    return tuple(facts)


def _recogniser(description: Mapping[str, Any]) -> str:
    """What recognised the speech, in short: names of folders without where they are, no fingerprints."""
    known = {**description, "model": Path(str(description.get("model", ""))).name}
    names = ("engine", "model", "compute_type", "language", "reader")
    return ", ".join(str(known[name]) for name in names if known.get(name))


def _measures(measures: Sequence[catalogue.Measure]) -> tuple[Measure, ...]:
    names = {measure.name for measure in measures}
    ranked = {name if name in names else f"{name}_corrected" for name in RANKED} & names
    return tuple(
        Measure(
            **asdict(measure),
            digits=DIGITS.get(measure.name, 2),
            ranked=measure.name in ranked,
            shown=measure.name in ranked,
        )
        for measure in measures
    )


def _utterances(results: Sequence[EvaluateResult], keys: Sequence[str]) -> tuple[Utterance, ...]:
    utterances: dict[str, Utterance] = {}
    for key, result in zip(keys, results, strict=True):
        for each in result.utterances:
            before = utterances.get(each.utterance_id, Utterance(each.utterance_id))
            rows = {**before.scores, key: each.scores}
            for reference, values in ((BASELINE, each.baseline), (CEILING, each.ceiling)):
                if values and reference not in rows:
                    rows[reference] = values
            utterances[each.utterance_id] = replace(before, text=before.text or each.text or "", scores=rows)
    return tuple(utterances[name] for name in sorted(utterances))


def _trainings(results: Sequence[EvaluateResult], names: Sequence[str]) -> tuple[Training, ...]:
    trainings = [
        training_of(result.log, name, best_step_of(result.folder))
        for result, name in zip(results, names, strict=True)
        if result.log is not None
    ]
    return tuple(training for training in trainings if training is not None)


def best_step_of(folder: Path | None) -> int | None:
    """The step whose weights a run converts with; None if it does not say."""
    if folder is None:
        return None
    try:
        step = json.loads((folder / "checkpoints.json").read_text(encoding="utf-8"))["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) and step > 0 else None


def _notes(
    outcome: EvaluateResult | Comparison, results: Sequence[EvaluateResult], names: Sequence[str]
) -> tuple[str, ...]:
    notes = []
    for result, name in zip(results, names, strict=True):
        of = f"{name}: " if len(results) > 1 else ""
        notes += [f"{of}{note}" for note in result.notes]
        if result.failures:
            reasons = [f"{failure.utterance_id} ({failure.reason})" for failure in result.failures]
            notes.append(f"{of}{len(reasons)} could not be scored completely: {_some(reasons)}.")
        if result.without_conversion:
            notes.append(f"{of}Not converted, so not scored: {_some(result.without_conversion)}.")
        if result.without_target:
            notes.append(f"{of}Without a target recording, so not scored: {_some(result.without_target)}.")
        notes += [f"{of}Without {skipped.what}: {skipped.reason}" for skipped in result.skipped]
    if isinstance(outcome, Comparison):
        for name, only in zip(names, (outcome.only_first, outcome.only_second), strict=True):
            if only:
                notes.append(f"Only {name} has {_some(only)}; no difference counts them.")
    return tuple(dict.fromkeys(notes))


def _some(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _selection(n_heard: int, n_all: int, full: bool) -> str:
    why = f"more would not fit into {MAX_SOUND_BYTES // 1_000_000} MB" if full else "to keep it small"
    return (
        f"This page has the recordings of {n_heard} of {n_all} utterances ({why}): the worst, the best, and some "
        "evenly spread between them. The scores are of all."
    )


# --- recordings -----------------------------------------------------------------------------------------------------


def _with_recordings(
    utterance: Utterance,
    rows: Sequence[UtteranceScores | None],
    results: Sequence[EvaluateResult],
    systems: Sequence[System],
    aligners: Aligners,
) -> tuple[Utterance, list[str]]:
    """An utterance with its players and pictures."""
    known = [row for row in rows if row is not None]
    source = next((row.source for row in known if row.source is not None), None)
    target_row = known[0]
    searched = results[0].f0_range
    f0_range = WIDE_F0_RANGE if searched is None else (searched.minimum, searched.maximum)
    wanted: list[tuple[Role, str, str, Path, tuple[float, float], Transcript | None]] = []
    if source is not None:
        wanted.append(("source", "source", "", source, WIDE_F0_RANGE, None))
    for row, system in zip(rows, systems, strict=False):
        if row is not None:
            label = system.name if len(rows) > 1 else "conversion"
            wanted.append(("conversion", label, system.key, row.converted, f0_range, row.transcript))
    transcript = next((row.target_transcript for row in known if row.target_transcript is not None), None)
    wanted.append(("target", "target", "", target_row.target, f0_range, transcript))
    takes, problems = [], []
    for role, label, key, path, search, transcript in wanted:
        try:
            takes.append(take(role, label, path, system=key, f0_range=search, transcript=transcript))
        except AasvcError as error:
            problems.append(str(error))
    alignments = [] if source is None else list(_alignments(results, systems, aligners, source, target_row.target))
    return replace(utterance, takes=tuple(takes), alignments=tuple(alignments)), problems


def _alignments(
    results: Sequence[EvaluateResult], systems: Sequence[System], aligners: Aligners, source: Path, target: Path
) -> Iterator[Alignment]:
    for result, system in zip(results, systems, strict=False):
        if result.folder not in aligners:
            continue
        try:
            weights, path = aligners[result.folder](source, target)
        except AasvcError:
            continue  # a recording that cannot be read has a note of its own
        yield Alignment(system.name if len(aligners) > 1 else "", weights, path)


def _picture_mel(sample_rate: int) -> MelConfig:
    """Settings of a spectrogram to look at: 80 bands, 100 frames per second."""
    n_fft = 1 << math.ceil(math.log2(sample_rate * 0.04))
    return MelConfig(sample_rate=sample_rate, n_fft=n_fft, hop_length=max(1, sample_rate // 100), n_mels=80)
