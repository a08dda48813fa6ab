"""Score converted recordings against the target speaker's recordings: a folder against a folder, or a training run.

Three stages: signal measures, opinions and voices per utterance in worker processes; then what needs all recordings of
a speaker (similarity to the mean voice); then speech recognition, one recording after the other. Everything that
depends on one recording alone is kept in the data folder by the content of the recording.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.quality import bandwidth
from aasvc_cli.audio.world import FloatArray
from aasvc_cli.compiled import has_machine_code
from aasvc_cli.data.corpus import Recordings
from aasvc_cli.data.counterparts import Counterparts, composed, counterparts, recordings_below
from aasvc_cli.data.manifest import UNASSIGNED
from aasvc_cli.data.matching import match
from aasvc_cli.data.texts import read_sentences, sentences_of, unread_note
from aasvc_cli.errors import AasvcError, DataError, StorageError
from aasvc_cli.measures import judges, signal
from aasvc_cli.measures.catalogue import MEASURES, Measure, find_measure
from aasvc_cli.measures.judges import Recogniser
from aasvc_cli.measures.recognition import Listener, listener
from aasvc_cli.measures.results import EvaluateResult, Failure, Skipped, UtteranceScores, counted
from aasvc_cli.measures.scoring import Job, Outcome, Side, score
from aasvc_cli.measures.signal import F0Range, Mode
from aasvc_cli.measures.statistics import ErrorCounts, Summary, summarise_scores
from aasvc_cli.measures.transcripts import Reader, Transcript, transcript
from aasvc_cli.storage.files import as_bytes, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.parts import Parts, Shard
from aasvc_cli.storage.result_cache import ResultCache
from aasvc_cli.workers import Workers, core_count

OnProgress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_TARGETS_ASKED = 50
"""Target recordings, evenly spread, from which F0 range and bandwidth are estimated."""
BOTH = "both"
GROUPS = ("signal", "text", "mos", "speaker")
DEFAULT_GROUPS = frozenset({"signal", "text", "speaker"})
"""Computed by default: all but the opinions, which take seconds per recording."""
JUDGED = {"text": "CER, WER", "mos": "DNSMOS", "squim": "SQUIM", "speaker": "speaker similarity"}
"""What notes call the measures of each judge."""
COMPILED = "aasvc_cli.audio.dtw"
"""The module of the signal measures whose loops are compiled on first use."""


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        mode: definition of the signal measures: ``published``, ``corrected``, or ``both``.
        measures: groups (:data:`GROUPS`), measures by name, or ``all``; None for :data:`DEFAULT_GROUPS`. The result has
            what is asked for, and nothing else.
        required: measures that are refused before any work if they cannot be computed.
        f0_min, f0_max: F0 search range in Hz; by default the recipe's for its own speakers, else estimated.
        f0_range: the whole range as another evaluation had it, in place of these.
        recogniser: recognises speech for the error rates; without one they are left out.
        language: of the sentences; by default what their script or the recordings tell.
        seed: of the intervals.
        jobs: worker processes; None for one per core.
        workers: of a cluster, in place of processes.
        shard: score only this part, so that all can be put together faster; no scores are written.
        on_progress: called with the recordings done, and all.
    """

    mode: str = BOTH
    measures: Sequence[str] | None = None
    required: Sequence[Measure] = ()
    f0_min: float | None = None
    f0_max: float | None = None
    f0_range: F0Range | None = None
    recogniser: Recogniser | None = None
    language: str | None = None
    seed: int = 0
    jobs: int | None = None
    workers: Workers | None = None
    shard: Shard | None = None
    on_progress: OnProgress | None = None


def evaluate_folders(
    converted: Path,
    target: Path,
    *,
    source: Path | None = None,
    text: Path | None = None,
    speaker: str | None = None,
    home: Home | None = None,
    options: Options = Options(),
) -> EvaluateResult:
    """Score a folder of converted recordings against a folder of target recordings, whoever made them.

    Recordings belong together if their paths below the folders are the same but for the suffix, or else if exactly one
    target recording has the same name in any subfolder, or else as ``aasvc prepare`` matches what is left: without the
    prefix or suffix that all names of a folder share (``bdl_a0001`` and ``slt_a0001``), which a note says.

    Args:
        source: folder of the unconverted recordings; scores them against the target, too (the baseline).
        text: what is said; see :func:`aasvc_cli.data.texts.read_sentences`.
        speaker: target speaker; takes the recipe's F0 range if it is one of the recipe's speakers.
        home: where to keep what is known about a recording; without it nothing is kept.

    Raises:
        DataError: a folder without recordings, nothing matches, or nothing could be scored.
    """
    named = _matched(converted, recordings_below(converted, "converted"), target, recordings_below(target, "target"))
    matches = named.matches
    if not matches.pairs and not matches.failures:
        raise DataError(
            f"{converted}: {_none_of(matches.without_target)} has a partner of the same name below "
            f"{target}, with or without a prefix of the speaker"
        )
    sources, failures, named_notes = {}, list(matches.failures), named.notes
    if source is not None:
        made = {name: pair[0] for name, pair in matches.pairs.items()}
        by_source = _matched(converted, made, source, recordings_below(source, "source"))
        both, named_notes = by_source.matches, (*named_notes, *by_source.notes)
        sources = {name: pair[1] for name, pair in both.pairs.items()}
        failures += [Failure(name, "no source recording for the baseline") for name in both.without_target]
        failures += [Failure(failure.utterance_id, f"baseline: {failure.reason}") for failure in both.failures]
    texts, notes = _texts(text, matches, named.others)
    notes = (*named_notes, *notes)
    material = _Material(str(converted), matches, failures, sources, source is not None, texts, speaker, notes)
    return _evaluate(material, home, options)


def evaluate_run(
    home: Home,
    *,
    model: str | Path | None,
    set_name: str = "eval",
    data: str | None = None,
    text: Path | None = None,
    baseline: bool = False,
    options: Options = Options(),
) -> EvaluateResult:
    """Score what ``aasvc convert --set`` wrote for a model; writes ``scores-<set>.json`` beside it.

    Scores that took minutes are not lost where that file cannot be written: the result says why in ``unsaved``.

    Args:
        model: a tag, the name of a run, or a model folder.
        data: prepared set; by default the one that the run was trained on, or else the one prepared last.
        text: what is said, as for :func:`evaluate_folders`; by default the corpus knows.
        baseline: score the unconverted source recordings against the target, too.

    Raises:
        DataError: nothing converted yet, or nothing could be scored.
    """
    from aasvc_cli.conversion.voice import find_voice, prepared_name
    from aasvc_cli.data.manifest import read_manifest

    folder = find_voice(home, model)
    own = prepared_name(folder)
    manifest = read_manifest(home, data or own)
    pairs = {composed(pair.utterance_id): pair for pair in manifest.sets.get(set_name, ())}
    if not pairs:
        known = ", ".join(f"{name} ({len(members)})" for name, members in manifest.sets.items())
        raise DataError(f"prepared set {manifest.name}: no utterances in {set_name!r}; it has {known}")
    results = home.results_of(folder, manifest.name, trained_on=own)
    converted_folder = results / "converted" / set_name
    hint = f"run: aasvc convert --set {set_name} --model {model or folder.name}"
    if data is not None:
        hint += f" --data {data}"
    if not converted_folder.is_dir():
        raise DataError(f"{converted_folder}: nothing converted yet; {hint}")
    converted = recordings_below(converted_folder, "converted", hint)
    matches = counterparts(converted, {name: pair.target for name, pair in pairs.items()})
    if not matches.pairs and not matches.failures:
        raise DataError(f"{converted_folder}: {_none_of(list(converted))} is in {manifest.name}; {hint}")
    by_target = {str(pair.target): pair for pair in pairs.values()}  # of several sources, all have the same targets
    members = {name: pairs.get(name) or by_target[str(target)] for name, (_, target) in matches.pairs.items()}
    sources = {name: pair.source for name, pair in members.items()}
    texts = {name: pair.text for name, pair in members.items() if pair.text}
    given, notes = _texts(text, matches, {})
    speakers = {name: pair.speaker for name, pair in members.items()}
    material = _Material(
        f"{folder.name} {set_name}", matches, matches.failures, sources, baseline, texts | given,
        manifest.target_speaker, notes, speakers, folder,
    )  # fmt: skip
    log = folder / "log.jsonl"
    result = _evaluate(material, home, options)
    result = replace(
        result, path=results / f"scores-{set_name}.json", folder=folder, log=log if log.is_file() else None,
        prepared=manifest.name, set_name=set_name,
        by_source=_by_source(result, speakers, options.seed),
    )  # fmt: skip
    if options.shard is None:
        try:
            write_json(results / f"scores-{set_name}.json", result.to_tree())
        except StorageError as error:
            return replace(result, path=None, unsaved=str(error))
    return result


def chosen_measures(measures: Sequence[str] | None, mode: str = BOTH) -> frozenset[Measure]:
    """What a choice of groups and measures means, as far as a definition of the signal measures has it.

    Raises:
        DataError: a name that is neither a group nor a measure, a measure that the definition does not have, no such
            definition, or nothing is chosen.
    """
    modes: tuple[str, ...] = ("", *_modes(mode))
    chosen: set[Measure] = set()
    for name in sorted(DEFAULT_GROUPS) if measures is None else measures:
        measure, known = find_measure(name), name.strip().lower()
        if known == "all" or known in GROUPS:
            chosen.update(each for each in MEASURES if known in ("all", each.group) and each.mode in modes)
        elif measure is None:
            raise DataError(
                f"no measure {name!r}; there are all, {', '.join([*GROUPS, *(each.name for each in MEASURES)])}"
            )
        elif measure.mode not in modes:
            raise DataError(f"measure {name!r} is one of mode {measure.mode}, not of {mode}")
        else:
            chosen.add(measure)
    if not chosen:
        raise DataError("no measures were asked for")
    return frozenset(chosen)


def options_for(
    measure: Measure, options: Options, *, recognised: bool = True, texts: bool = True, sources: bool = True
) -> list[str]:
    """The options of ``aasvc evaluate`` that a measure takes and that are not given; none if it will be computed.

    Args:
        recognised, texts, sources: whether there are a recogniser, sentences, and source recordings.
    """
    given = [group for group in GROUPS if group in DEFAULT_GROUPS] if options.measures is None else options.measures
    takes = {
        f"--mode {BOTH}": measure.group == "signal" and options.mode not in (BOTH, measure.mode),
        f"--measures {','.join([*given, measure.name])}": measure not in chosen_measures(options.measures),
        "--asr-model base": measure.group == "text" and not recognised,
        "--text FILE": measure.group == "text" and not texts,
        "--language ja": measure.name == "KANA_CER" and options.language not in (None, "ja"),
        "--source DIR": measure.name == "SIM_SOURCE" and not sources,
    }
    return [option for option, lacks in takes.items() if lacks]


@dataclass(frozen=True)
class _Material:
    """What is to be evaluated."""

    name: str
    matches: Counterparts
    failures: Sequence[Failure]
    sources: Mapping[str, Path]
    baseline: bool
    texts: Mapping[str, str]
    speaker: str | None
    notes: tuple[str, ...]
    speakers: Mapping[str, str] = field(default_factory=dict)
    """Of the sources, by utterance, where there are several."""
    model: Path | None = None
    """What is meant to have made the conversions."""


@dataclass(frozen=True)
class _Named:
    """Recordings of two folders, put side by side by their names.

    Attributes:
        others: what else the utterances are called whose recordings have different names.
        notes: how those were matched.
    """

    matches: Counterparts
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _matched(folder: Path, ours: Mapping[str, Path], other_folder: Path, theirs: Mapping[str, Path]) -> _Named:
    """Partners by path or name; what has none then, by the rules of :func:`aasvc_cli.data.matching.match`."""
    found = counterparts(ours, theirs)
    left = {os.path.abspath(ours[name]): name for name in found.without_target}
    left_there = {os.path.abspath(theirs[name]): name for name in found.without_conversion}
    if not left or not left_there:
        return _Named(found)
    # of all of them, as all of them show whether names have a prefix
    sides = [
        Recordings("", root, {UNASSIGNED: tuple(recordings.values())})
        for root, recordings in ((folder, ours), (other_folder, theirs))
    ]
    try:
        pairs = [(str(pair.source), str(pair.target), pair.utterance_id) for _, pair in match(sides[0], sides[1]).pairs]
    except DataError:  # there is none
        return _Named(found)
    more = {left[one]: (left_there[other], name) for one, other, name in pairs if one in left and other in left_there}
    # a single odd name among others is more likely another sentence
    if not more or (len(more) == 1 and max(len(ours), len(theirs)) > 1):
        return _Named(found)
    partners = {name: partner for name, (partner, _) in more.items()}
    matches = Counterparts(
        found.pairs | {name: (ours[name], theirs[partner]) for name, partner in partners.items()},
        found.failures,
        [name for name in found.without_target if name not in partners],
        [name for name in found.without_conversion if name not in partners.values()],
    )
    examples = _named(f"{name} with {partner}" for name, partner in partners.items())
    note = f"{counted(len(more), 'recording')} matched without what the names of each folder share: {examples}"
    return _Named(matches, more, (note,))


def _texts(
    path: Path | None, matches: Counterparts, others: Mapping[str, Sequence[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The sentences of the recordings from a file, and a note on lines that could not be read.

    Args:
        others: what else utterances may be called there.
    """
    if path is None:
        return {}, ()
    sentences = read_sentences(path)
    texts = sentences_of(matches.pairs, sentences.by_id)
    for name, alike in others.items():
        for text in sentences_of(alike, sentences.by_id).values():
            texts.setdefault(name, text)
    if not texts:
        raise DataError(
            f"{path}: none of its sentences belongs to a recording; it has {_named(sentences.by_id)}, the recordings "
            f"are {_named(matches.pairs)}"
        )
    return texts, (unread_note(path, sentences),) if sentences.unread else ()


def _none_of(recordings: Sequence[object]) -> str:
    return f"none of its {len(recordings)} recordings" if len(recordings) > 1 else "none of its recordings"


def _named(names: Iterable[str], count: int = 3) -> str:
    every = list(names)
    more = f" and {len(every) - count} more" if len(every) > count else ""
    return ", ".join(every[:count]) + more


def _evaluate(material: _Material, home: Home | None, options: Options) -> EvaluateResult:
    wanted = chosen_measures(options.measures, options.mode)
    names = frozenset(measure.name for measure in wanted)
    modes = tuple(mode for mode in signal.MODES if any(measure.mode == mode for measure in wanted))
    report = options.on_progress or (lambda _done, _total: None)
    cache = ResultCache(None if home is None else home.cache)
    skipped: list[Skipped] = []
    asked = _judges(wanted, material.sources, skipped)
    recogniser = _recogniser(wanted, options.recogniser, material.texts, skipped)
    if not modes and not asked and recogniser is None:
        raise DataError("; ".join(f"{each.what}: {each.reason}" for each in skipped) or "no measures were asked for")
    _check_required(options.required, wanted, {"", *asked, *(["text"] if recogniser else [])}, skipped)
    spoken = set() if recogniser is None else material.texts.keys() & material.matches.pairs.keys()
    with options.workers or _workers(options.jobs) as workers:
        f0_range = _f0_range(material, options, workers) if modes else None
        narrow = _narrow(_each(_band, _some_targets(material), workers, lambda _path: None)) if modes else None
        jobs = _jobs(material, modes, f0_range, asked, cache, narrow.rate if narrow else None)
        jobs = jobs if options.shard is None else options.shard.of(jobs, "utterances")
        spoken &= {job.utterance_id for job in jobs}
        outcomes: dict[str, Outcome] = {}
        for done, outcome in enumerate(_each(score, jobs, workers, _lost, before=_compile), start=1):
            outcomes[outcome.utterance_id] = outcome
            report(done, len(jobs) + len(spoken))
    failures = [*material.failures, *(failure for outcome in outcomes.values() for failure in outcome.failures)]
    scored = {job: outcomes[job.utterance_id] for job in jobs if outcomes[job.utterance_id].scores is not None}
    if not scored:
        first = f"; first: {failures[0].utterance_id}: {failures[0].reason}" if failures else ""
        n_all = len(material.matches.pairs) + len(material.matches.failures)
        none = f"none of {n_all} utterances could" if n_all > 1 else "the only utterance could not"
        raise DataError(f"{material.name}: {none} be scored{first}")
    if "speaker" in asked:
        _compare_voices(scored, material.speakers)
    from aasvc_cli.conversion.origin import origins_notes

    transcripts = _Transcripts()
    notes = [*origins_notes((job.converted for job in scored), material.model), *material.notes]
    if recogniser is not None:
        targets = (target for _, target in material.matches.pairs.values())
        listening = listener(recogniser, cache, options.language, material.texts.values(), targets)
        transcripts = _Transcripts(listening, _reader(listening.language, names, skipped), names)
        notes += [listening.note] if listening.note else []
        recognisable = [job for job in scored if job.utterance_id in spoken]
        for done, job in enumerate(recognisable, start=len(jobs) + 1):
            failures += transcripts.recognise(job, material.texts[job.utterance_id])
            report(done, len(jobs) + len(spoken))
    part_notes = () if home is None else _note_parts(home, material, options.shard)
    utterances = tuple(_utterance(job, outcome, material.texts, transcripts, names) for job, outcome in scored.items())
    matches, seed = material.matches, options.seed
    return EvaluateResult(
        name=material.name,
        f0_range=f0_range,
        definitions={mode: signal.describe(mode) for mode in modes},
        analysis=_analysis(scored.values(), modes),
        utterances=utterances,
        corpus=_summaries([each.scores for each in utterances], [each.transcript for each in utterances], seed),
        baseline=summarise_scores([each.baseline for each in utterances if each.baseline is not None], seed=seed)
        if material.baseline
        else None,
        ceiling=_summaries(
            [each.ceiling or {} for each in utterances], [each.target_transcript for each in utterances], seed
        )
        or None,
        failures=tuple(sorted(failures, key=lambda failure: (failure.utterance_id, failure.reason))),
        skipped=(*skipped, *_limits(scored.values(), modes)),
        notes=(
            *notes,
            *([narrow.note(modes)] if narrow else []),
            *part_notes,
            *_copies(scored.values()),
            *_remarks(scored.values()),
        ),
        without_target=tuple(sorted(matches.without_target)),
        without_conversion=tuple(sorted(matches.without_conversion)),
        recogniser=transcripts.description,
    )


def _analysis(outcomes: Iterable[Outcome], modes: Sequence[Mode]) -> tuple[signal.AnalysisSettings, ...]:
    """The settings with which any utterance was analysed, by mode and sample rate."""
    settings = {each for outcome in outcomes for each in outcome.analysis}
    return tuple(sorted(settings, key=lambda each: (modes.index(each.mode), each.sample_rate)))


def _note_parts(home: Home, material: _Material, shard: Shard | None) -> tuple[str, ...]:
    """Mark a part as done, or say which parts are missing from the whole."""
    first = next(iter(material.matches.pairs.values()))
    name = hashlib.sha256(as_bytes(f"{material.name}\n{first[0].absolute().parent}")).hexdigest()[:16]
    parts = Parts(home.cache / "evaluate-parts" / name)
    if shard is not None:
        parts.mark(shard)
        return ()
    notes = [parts.note()]
    try:
        parts.clear()
    except StorageError as error:  # the scores count for more than the marks
        notes.append(f"{error}; the next evaluation will speak of these parts again")
    return tuple(note for note in notes if note is not None)


def _jobs(
    material: _Material,
    modes: tuple[Mode, ...],
    f0_range: F0Range | None,
    asked: tuple[str, ...],
    cache: ResultCache,
    most_rate: int | None,
) -> list[Job]:
    low, high = (0.0, 0.0) if f0_range is None else (f0_range.minimum, f0_range.maximum)
    return [
        Job(
            name,
            converted,
            target,
            material.sources.get(name),
            modes,
            low,
            high,
            asked,
            material.baseline,
            cache,
            most_rate,
        )
        for name, (converted, target) in sorted(material.matches.pairs.items())
    ]


def _limits(outcomes: Iterable[Outcome], modes: Sequence[Mode]) -> list[Skipped]:
    """One note for each reason for which one of the two definitions was left out."""
    alike: dict[tuple[Mode, str], list[str]] = defaultdict(list)
    for outcome in outcomes:
        for mode, reason in outcome.limits.items():
            alike[mode, reason].append(outcome.utterance_id)
    order = sorted(alike.items(), key=lambda item: modes.index(item[0][0]))
    return [Skipped(f"{mode} signal measures of {_named(names)}", reason) for (mode, reason), names in order]


def _copies(outcomes: Iterable[Outcome]) -> list[str]:
    """Notes if recordings are copies of others, as after choosing the wrong folder."""
    notes = []
    every = list(outcomes)
    same = [outcome.utterance_id for outcome in every if outcome.same_sides]
    if same:
        share = f"{len(same)} of {counted(len(every), 'pair')}" if len(same) < len(every) else "all pairs"
        what = "recording" if len(same) == 1 else "recordings"
        notes.append(f"source and target are the same {what} in {share}; wrong folder? {_named(same)}")
    sides: tuple[Side, ...] = ("target", "source")
    for side in sides:
        copies = [outcome.utterance_id for outcome in every if side in outcome.same_as]
        if copies:
            share = f"{len(copies)} of {len(every)}" if len(copies) < len(every) else "all"
            what = f"{share} converted recordings are the same as their {side} recordings"
            if len(copies) == 1:
                one = f"{share} converted recordings" if len(every) > 1 else "the converted recording"
                what = f"{one} is the same as its {side} recording"
            notes.append(f"{what}; wrong folder? {_named(copies)}")
    return notes


def _remarks(outcomes: Iterable[Outcome]) -> list[str]:
    """One note for each thing that is to be said of recordings, such as a missing end."""
    alike: dict[str, dict[Path, str]] = defaultdict(dict)
    for outcome in outcomes:
        for path, remark in outcome.remarks:
            alike[remark.code][path] = remark.message
    notes = []
    for messages in alike.values():
        (first, message), *others = messages.items()
        more = f"; {len(others)} more like it: {_named([path.name for path, _ in others])}" if others else ""
        notes.append(f"{first}: {message}{more}")
    return notes


def _modes(mode: str) -> tuple[Mode, ...]:
    chosen = signal.MODES if mode == BOTH else tuple(known for known in signal.MODES if known == mode)
    if not chosen:
        raise DataError(f"mode {mode!r}: expected one of {', '.join(signal.MODES)}, {BOTH}")
    return chosen


def _judge(measure: Measure) -> str:
    """Who has to be asked for a measure; empty for a signal measure, which takes nobody."""
    return "squim" if measure.name.startswith("SQUIM") else "" if measure.group == "signal" else measure.group


def _judges(wanted: Iterable[Measure], sources: Mapping[str, Path], skipped: list[Skipped]) -> tuple[str, ...]:
    """The judges of single recordings that can be asked; notes the others."""
    needed: dict[str, set[str]] = defaultdict(set)
    for measure in wanted:
        needed[_judge(measure)].add(measure.name)
    found = []
    for judge in ("mos", "squim", "speaker"):
        if judge in needed:
            missing = judges.squim_missing() if judge == "squim" else judges.missing_for(judge)
            if missing is None and needed[judge] == {"SIM_SOURCE"} and not sources:
                missing = "no source recordings are known; give them with --source DIR"
            found += [judge] if missing is None else []
            skipped += [Skipped(JUDGED[judge], missing)] if missing is not None else []
    return tuple(found)


def _check_required(
    required: Iterable[Measure], wanted: frozenset[Measure], available: set[str], skipped: Sequence[Skipped]
) -> None:
    """Raise DataError for measures that have to be computed and cannot be."""
    lacking = [each for each in required if each not in wanted or _judge(each) not in available]
    if lacking:
        judged = {JUDGED.get(_judge(each)) for each in lacking}
        reasons = [f"{each.what}: {each.reason}" for each in skipped if each.what in judged]
        titles = ", ".join(each.title for each in lacking)
        raise DataError(f"{titles} cannot be computed: {'; '.join(reasons) or 'not among the measures asked for'}")


def _recogniser(
    wanted: Iterable[Measure], given: Recogniser | None, texts: Mapping[str, str], skipped: list[Skipped]
) -> Recogniser | None:
    """The recogniser, if there is something for it to do; else a note that says what is missing."""
    if not any(measure.group == "text" for measure in wanted):
        return None
    missing = None if given is not None else judges.missing_for("text")
    if missing is None and given is None:
        missing = "name a recogniser: --asr-model base, or the folder of one"
    elif missing is None and not texts:
        missing = "no sentences are known; give them with --text FILE"
    if missing is None:
        return given
    skipped.append(Skipped(JUDGED["text"], missing))
    return None


def _reader(language: str, names: frozenset[str], skipped: list[Skipped]) -> tuple[str, Reader] | None:
    if language != "ja" or "KANA_CER" not in names:
        return None
    reader = judges.japanese_reader()
    if reader is None:
        skipped.append(Skipped("kana CER", "no library reads Japanese; run: pip install 'aasvc[kana]'"))
    return reader


class _Transcripts:
    """The recognised texts of the recordings, with the error rates of some names; none without a listener."""

    def __init__(
        self,
        listening: Listener | None = None,
        reader: tuple[str, Reader] | None = None,
        names: frozenset[str] = frozenset(),
    ) -> None:
        self._listener, self._reader, self._names = listening, reader, names
        self._by_recording: dict[tuple[str, Side], Transcript] = {}

    def recognise(self, job: Job, sentence: str) -> list[Failure]:
        """Recognise the conversion and the target recording of one utterance."""
        assert self._listener is not None
        sides: tuple[tuple[Side, Path], ...] = (("converted", job.converted), ("target", job.target))
        outcome = Outcome(job.utterance_id)
        for side, path in sides:
            try:
                text = self._listener.text(path)
            except Exception as error:
                outcome.fail(error, "recognition: ")
                break
            read = self._reader[1] if self._reader else None
            made = transcript(sentence, text, self._listener.language, read)
            counts = {name: count for name, count in made.counts.items() if name in self._names}
            self._by_recording[job.utterance_id, side] = replace(made, counts=counts)
        return outcome.failures

    def of(self, utterance_id: str, side: Side) -> Transcript | None:
        """The transcript of one recording, if it was recognised."""
        return self._by_recording.get((utterance_id, side))

    @property
    def description(self) -> dict[str, Any] | None:
        """JSON-able: who recognised, in which language; None if nobody did."""
        if self._listener is None:
            return None
        reader = self._reader[0] if self._reader else None
        return {**self._listener.recogniser.description, "language": self._listener.language, "reader": reader}


def _compare_voices(outcomes: Mapping[Job, Outcome], speakers: Mapping[str, str]) -> None:
    """Similarity to the mean voices; the recordings of an utterance itself never count in the means it is held to.

    A recording that several utterances have, as the target's where there are several sources, counts once; each
    conversion is held to its own source speaker.
    """
    targets = {job.target: outcome.voices.get("target") for job, outcome in outcomes.items()}
    sources: dict[str, dict[Path, FloatArray | None]] = defaultdict(dict)
    for job, outcome in outcomes.items():
        if job.source is not None and "source" in outcome.voices:
            sources[speakers.get(job.utterance_id, "")][job.source] = outcome.voices["source"]
    for job, outcome in outcomes.items():
        rows: tuple[tuple[Side, dict[str, float] | None], ...] = (
            ("converted", outcome.scores), ("target", outcome.ceiling), ("source", outcome.baseline),
        )  # fmt: skip
        own_sources = sources.get(speakers.get(job.utterance_id, ""), {})
        for measure, voices, own in (("SIM", targets, job.target), ("SIM_SOURCE", own_sources, job.source)):
            if not voices:
                continue
            mean = judges.mean_voice(voices, without=own)
            for side, row in rows:
                if row is not None:
                    row[measure] = judges.similarity(outcome.voices.get(side), mean)


def _utterance(
    job: Job, outcome: Outcome, texts: Mapping[str, str], transcripts: _Transcripts, names: frozenset[str]
) -> UtteranceScores:
    """What is known of an utterance, as far as it was asked for: analyses and judges give several measures at once."""

    def asked(scores: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in scores.items() if name in names}

    converted, target = transcripts.of(job.utterance_id, "converted"), transcripts.of(job.utterance_id, "target")
    rates = [{name: c.rate for name, c in (each.counts if each else {}).items()} for each in (converted, target)]
    return UtteranceScores(
        utterance_id=job.utterance_id,
        converted=job.converted,
        target=job.target,
        sample_rate=max((settings.sample_rate for settings in outcome.analysis), default=outcome.sample_rate),
        scores=asked(outcome.scores or {}) | rates[0],
        source=job.source,
        baseline=None if outcome.baseline is None else asked(outcome.baseline),
        ceiling=(asked(outcome.ceiling) | rates[1]) or None,
        text=texts.get(job.utterance_id),
        transcript=converted,
        target_transcript=target,
    )


def _summaries(
    scores: Sequence[Mapping[str, float]], transcripts: Sequence[Transcript | None], seed: int
) -> dict[str, Summary]:
    names = {name for each in transcripts if each is not None for name in each.counts}
    counts: dict[str, list[ErrorCounts | None]] = {
        name: [each.counts.get(name) if each else None for each in transcripts] for name in names
    }
    return summarise_scores(scores, counts, seed=seed)


def _by_source(result: EvaluateResult, speakers: Mapping[str, str], seed: int) -> dict[str, dict[str, Summary]]:
    """The means of each source speaker; nothing if there is only one."""
    groups: dict[str, list[UtteranceScores]] = defaultdict(list)
    for each in result.utterances:
        groups[speakers[each.utterance_id]].append(each)
    if len(groups) < 2:
        return {}
    return {
        speaker: _summaries([each.scores for each in group], [each.transcript for each in group], seed)
        for speaker, group in sorted(groups.items())
    }


def _f0_range(material: _Material, options: Options, workers: Workers) -> F0Range:
    """What was given; else the recipe's range for its speakers; else an estimate from the target recordings."""
    if options.f0_range is not None:
        return options.f0_range
    low, high = options.f0_min, options.f0_max
    if low is not None and high is not None:
        chosen = F0Range(low, high, "given")
    else:
        default = signal.recipe_f0_range(material.speaker) if material.speaker else None
        if default is None:
            sample = _some_targets(material)
            contours = _each(_voiced_f0, sample, workers, lambda _path: None)
            origin = f"estimated from {counted(len(sample), 'target recording')}"
            default = signal.estimate_f0_range([f0 for f0 in contours if f0 is not None], origin)
        one_end = low is not None or high is not None
        chosen = F0Range(
            default.minimum if low is None else low,
            default.maximum if high is None else high,
            f"one end given, the other {default.origin}" if one_end else default.origin,
        )
    if not 0 < chosen.minimum < chosen.maximum:
        raise DataError(
            f"F0 range {chosen.minimum:g}-{chosen.maximum:g} Hz ({chosen.origin}): expected 0 < minimum < maximum"
        )
    return chosen


def _some_targets(material: _Material) -> list[Path]:
    """Target recordings that speak for all."""
    targets = sorted({target for _, target in material.matches.pairs.values()})
    return targets[:: max(1, math.ceil(len(targets) / MAX_TARGETS_ASKED))]


@dataclass(frozen=True)
class _Narrow:
    """That the targets were stored at a higher sample rate than they had before.

    Attributes:
        bandwidth: in Hz, of what they hold.
        stored, rate: in Hz, as they are and as they were.
    """

    bandwidth: float
    stored: int
    rate: int

    def note(self, modes: Sequence[Mode]) -> str:
        """What it does to the scores."""
        effects = {
            "published": "the published MCD counts what is above, which is nothing that can be heard",
            "corrected": f"the corrected measures are taken at {self.rate} Hz",
        }
        return (
            f"target recordings have sound up to {self.bandwidth / 1000:.1f} kHz only, though they are stored at "
            f"{self.stored} Hz: {'; '.join(effects[mode] for mode in modes)}"
        )


def _narrow(bands: Iterable[tuple[float, int] | None]) -> _Narrow | None:
    known = [band for band in bands if band is not None]
    band, stored = (max(column) for column in zip(*known, strict=True)) if known else (0.0, 0)
    rate = signal.rate_before(band, int(stored))
    return None if rate is None else _Narrow(band, int(stored), rate)


def _band(path: Path) -> tuple[float, int] | None:
    """Bandwidth and sample rate of a recording in Hz; None if it cannot be used, which scoring will report."""
    try:
        wave, sample_rate = read_audio(path)
    except AasvcError:
        return None
    return bandwidth(wave, sample_rate), sample_rate


def _workers(jobs: int | None) -> Workers:
    """As many as asked for; by default one for each core."""
    if jobs is not None and jobs < 1:
        raise DataError(f"{jobs} worker processes: expected at least 1")
    return Workers(jobs or core_count())


def _compile() -> None:
    """Compile what is not on disk yet, once and not in every process."""
    if not has_machine_code(COMPILED):
        importlib.import_module(COMPILED).warm_up()


def _each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: Workers,
    lost: Callable[[Item], Result],
    before: Callable[[], None] | None = None,
) -> Generator[Result, None, None]:
    """Results in any order, as they come, from worker processes where that pays.

    Args:
        lost: the result of an item whose process died.
        before: what has to be done before other processes start.
    """
    if min(workers.count, len(items)) <= 1:
        yield from map(function, items)
        return
    if before is not None:
        before()
    yield from workers.spread(function, items, killed=lost)


def _lost(job: Job) -> Outcome:
    """A process that dies costs its own utterance only."""
    outcome = Outcome(job.utterance_id)
    outcome.fail(DataError(f"the process that scored {job.converted} ended unexpectedly; try again with --jobs 1"))
    return outcome


def _voiced_f0(path: Path) -> FloatArray | None:
    """F0 values of a recording; None if it cannot be used, which scoring will report."""
    try:
        return signal.voiced_f0(*read_audio(path))
    except AasvcError:
        return None
