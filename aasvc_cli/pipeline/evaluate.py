"""Score converted recordings against the target speaker's recordings: a folder against a folder, or a training run.

Three stages: signal measures, opinions and voices per utterance in worker processes; then what needs all recordings of
a speaker (similarity to the mean voice); then speech recognition, one recording after the other. Everything that
depends on one recording alone is kept in the data folder by the content of the recording.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypedDict, TypeVar, Unpack

import numpy as np

from aasvc_cli.audio.files import list_audio, read_audio
from aasvc_cli.audio.world import FloatArray, Wave
from aasvc_cli.compiled import has_machine_code
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.measures import judges as listeners
from aasvc_cli.measures import signal as metrics
from aasvc_cli.measures.catalogue import MEASURES, find_measure
from aasvc_cli.measures.judges import Recogniser
from aasvc_cli.measures.results import EvaluateResult, Failure, Skipped, UtteranceScores
from aasvc_cli.measures.signal import Analysis, F0Range, Mode
from aasvc_cli.measures.statistics import ErrorCounts, Summary, summarise_scores
from aasvc_cli.measures.transcripts import Reader, Transcript, guess_language, transcript
from aasvc_cli.storage.files import file_sha256, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache
from aasvc_cli.workers import Workers, core_count

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Side = Literal["converted", "target", "source"]

MAX_RECORDINGS_FOR_F0 = 50
"""Target recordings, evenly spread, from which the F0 range is estimated."""
BOTH = "both"
GROUPS = ("signal", "text", "mos", "speaker")
DEFAULT_GROUPS = frozenset({"signal", "text", "speaker"})
"""What is computed if nobody asks: all but the opinions, which take seconds per recording."""
CEILING_GROUPS = ("text", "mos", "speaker")
"""Groups whose measures need one recording only, so that the target's own recordings can be measured, too."""


COMPILED = "aasvc_cli.audio.dtw"
"""The module of the signal measures whose loops are compiled on first use."""


class Options(TypedDict, total=False):
    """What both ways of evaluating have in common.

    Keys:
        mode: ``published``, ``corrected``, or ``both`` (the default).
        measures: groups (:data:`GROUPS`), measures by name, or ``all``; by default :data:`DEFAULT_GROUPS`.
        f0_min, f0_max: F0 search range in Hz; by default the recipe's for its own speakers, else estimated.
        f0_range: the whole range as another evaluation had it, in place of these.
        recogniser: recognises speech for the error rates; without one they are left out.
        language: of the sentences; by default guessed from their script.
        seed: of the intervals.
        jobs: worker processes; None for one per core.
        on_progress: is told recordings done, and all.
    """

    mode: str
    measures: Sequence[str] | None
    f0_min: float | None
    f0_max: float | None
    f0_range: F0Range | None
    recogniser: Recogniser | None
    language: str | None
    seed: int
    jobs: int | None
    on_progress: OnProgress | None


@dataclass(frozen=True)
class _Job:
    """One utterance for a worker process."""

    utterance_id: str
    converted: Path
    target: Path
    source: Path | None
    modes: tuple[Mode, ...]
    f0_min: float
    f0_max: float
    listeners: tuple[str, ...]
    """Of ``mos``, ``squim`` and ``speaker``."""
    baseline: bool
    cache: ResultCache


@dataclass
class _Heard:
    """What a worker process found out about one utterance."""

    utterance_id: str
    sample_rate: int
    scores: dict[str, float]
    baseline: dict[str, float] | None = None
    ceiling: dict[str, float] = field(default_factory=dict)
    voices: dict[Side, FloatArray | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Matches:
    """Recordings by utterance id, put side by side."""

    pairs: dict[str, tuple[Path, Path]]
    """Utterance id (of the converted side) -> converted, target."""
    failures: list[Failure]
    without_target: list[str]
    without_conversion: list[str]


def evaluate_folders(
    converted: Path,
    target: Path,
    *,
    source: Path | None = None,
    text: Path | None = None,
    speaker: str | None = None,
    home: Home | None = None,
    **options: Unpack[Options],
) -> EvaluateResult:
    """Score a folder of converted recordings against a folder of target recordings, whoever made them.

    Recordings belong together if their paths below the folders are the same but for the suffix, or else if exactly one
    target recording has the same name in any subfolder.

    Args:
        source: folder of the unconverted recordings; scores them against the target, too (the baseline).
        text: what is said, in lines ``<id> <sentence>``.
        speaker: target speaker; takes the recipe's F0 range if it is one of the recipe's speakers.
        home: where to keep what is known about a recording; without it nothing is kept.
        options: :class:`Options`.

    Raises:
        DataError: a folder without recordings, nothing matches, or nothing could be scored.
    """
    matches = _match(_recordings(converted, "converted"), _recordings(target, "target"))
    if not matches.pairs and not matches.failures:
        raise DataError(
            f"{converted}: none of its {len(matches.without_target)} recordings has a partner of the same name below "
            f"{target}"
        )
    sources, failures = {}, list(matches.failures)
    if source is not None:
        both = _match({name: pair[0] for name, pair in matches.pairs.items()}, _recordings(source, "source"))
        sources = {name: pair[1] for name, pair in both.pairs.items()}
        failures += [Failure(name, "no source recording for the baseline") for name in both.without_target]
        failures += [Failure(failure.utterance_id, f"baseline: {failure.reason}") for failure in both.failures]
    texts = {} if text is None else _sentences(read_sentences(text), matches.pairs)
    if text is not None and not texts:
        raise DataError(f"{text}: none of its sentences belongs to a recording; expected lines <id> <sentence>")
    material = _Material(str(converted), matches, failures, sources, source is not None, texts, speaker)
    return _evaluate(material, home, options)


def evaluate_run(
    home: Home,
    *,
    model: str | Path | None,
    set_name: str = "eval",
    data: str | None = None,
    text: Path | None = None,
    baseline: bool = False,
    **options: Unpack[Options],
) -> EvaluateResult:
    """Score what ``aasvc convert --set`` wrote for a model; writes ``scores-<set>.json`` beside it.

    Args:
        model: a tag, the name of a run, or a model folder.
        data: prepared set; by default the one that the run was trained on, or else the one prepared last.
        text: what is said, in lines ``<id> <sentence>``; by default the corpus knows.
        baseline: score the unconverted source recordings against the target, too.
        options: :class:`Options`.

    Raises:
        DataError: nothing converted yet, or nothing could be scored.
    """
    from aasvc_cli.conversion.voice import find_voice, prepared_name
    from aasvc_cli.data.manifest import read_manifest

    folder = find_voice(home, model)
    manifest = read_manifest(home, data or prepared_name(folder))
    pairs = {_composed(pair.utterance_id): pair for pair in manifest.sets.get(set_name, ())}
    if not pairs:
        known = ", ".join(f"{name} ({len(members)})" for name, members in manifest.sets.items())
        raise DataError(f"prepared set {manifest.name}: no utterances in {set_name!r}; it has {known}")
    results = home.results_of(folder, manifest.name)
    converted_folder = results / "converted" / set_name
    hint = f"run: aasvc convert --set {set_name} --model {model or folder.name}"
    if data is not None:
        hint += f" --data {data}"
    if not converted_folder.is_dir():
        raise DataError(f"{converted_folder}: nothing converted yet; {hint}")
    converted = _recordings(converted_folder, "converted", hint)
    matches = _match(converted, {name: pair.target for name, pair in pairs.items()})
    if not matches.pairs and not matches.failures:
        raise DataError(f"{converted_folder}: none of its {len(converted)} recordings is in {manifest.name}; {hint}")
    by_target = {str(pair.target): pair for pair in pairs.values()}
    members = {name: by_target[str(target)] for name, (_, target) in matches.pairs.items()}
    sources = {name: pair.source for name, pair in members.items()}
    texts = {name: pair.text for name, pair in members.items() if pair.text}
    if text is not None:
        texts |= _sentences(read_sentences(text), matches.pairs)
    material = _Material(
        f"{folder.name} {set_name}", matches, matches.failures, sources, baseline, texts, manifest.target_speaker
    )
    log = folder / "log.jsonl"
    result = replace(
        _evaluate(material, home, options), path=results / f"scores-{set_name}.json", folder=folder,
        log=log if log.is_file() else None, prepared=manifest.name, set_name=set_name,
    )  # fmt: skip
    write_json(results / f"scores-{set_name}.json", result.to_tree())
    return result


def read_sentences(path: Path) -> dict[str, str]:
    """Sentences by utterance id from lines ``<id> <sentence>``.

    Raises:
        DataError: no such file, no text, or no line of that form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected lines <id> <sentence>") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; expected lines <id> <sentence>") from None
    found = {}
    for line in lines:
        utterance_id, _, sentence = line.strip().partition(" ")
        if sentence.strip():
            found[_composed(utterance_id)] = sentence.strip()
    if not found:
        raise DataError(f"{path}: no sentences; expected lines <id> <sentence>")
    return found


def chosen_groups(measures: Sequence[str] | None) -> tuple[frozenset[str], bool]:
    """The groups that a choice of measures needs, and whether it was a choice.

    Raises DataError for a name that is neither a group nor a measure.
    """
    if measures is None:
        return DEFAULT_GROUPS, False
    found: set[str] = set()
    for name in measures:
        measure = find_measure(name)
        if name.strip().lower() == "all":
            found.update(GROUPS)
        elif name.strip().lower() in GROUPS:
            found.add(name.strip().lower())
        elif measure is not None:
            found.add(measure.group)
        else:
            known = ", ".join([*GROUPS, *(each.name for each in MEASURES)])
            raise DataError(f"no measure {name!r}; there are all, {known}")
    return frozenset(found), True


@dataclass(frozen=True)
class _Material:
    """What is to be evaluated."""

    name: str
    matches: _Matches
    failures: Sequence[Failure]
    sources: Mapping[str, Path]
    baseline: bool
    texts: Mapping[str, str]
    speaker: str | None


def _sentences(sentences: Mapping[str, str], pairs: Mapping[str, Any]) -> dict[str, str]:
    """Sentences of the recordings, by the whole id or its last part."""
    found = {name: sentences.get(name, sentences.get(name.rsplit("/", 1)[-1], "")) for name in pairs}
    return {name: sentence for name, sentence in found.items() if sentence}


def _recordings(folder: Path, what: str, hint: str = "expected wav, flac, ogg or mp3 files") -> dict[str, Path]:
    """Recordings below a folder by their path in it without suffix; errors name the folder."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder of {what} recordings")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder of {what} recordings")
    found: dict[str, Path] = {}
    for path in list_audio(folder):
        name = _composed(path.relative_to(folder).with_suffix("").as_posix())
        if name in found:
            raise DataError(f"{folder}: {found[name].name} and {path.name} are the same utterance; remove one of them")
        found[name] = path
    if not found:
        raise DataError(f"{folder}: no {what} recordings; {hint}")
    return found


def _composed(name: str) -> str:
    """One spelling for composed and decomposed accents, which some file systems exchange."""
    return unicodedata.normalize("NFC", name)


def _match(converted: Mapping[str, Path], target: Mapping[str, Path]) -> _Matches:
    """Partners by the whole id, else by its last part where only one target has it."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in target:
        by_stem[name.rsplit("/", 1)[-1]].append(name)
    matches, used = _Matches({}, [], [], []), set()
    for name, path in converted.items():
        partners = [name] if name in target else by_stem.get(name.rsplit("/", 1)[-1], [])
        used.update(partners)
        if len(partners) == 1:
            matches.pairs[name] = (path, target[partners[0]])
        elif partners:
            named = ", ".join(str(target[partner]) for partner in partners[:3])
            matches.failures.append(Failure(name, f"{len(partners)} recordings have this name: {named}"))
        else:
            matches.without_target.append(name)
    matches.without_conversion.extend(name for name in target if name not in used)
    return matches


def _evaluate(material: _Material, home: Home | None, options: Options) -> EvaluateResult:
    with _workers(options.get("jobs")) as workers:
        return _evaluate_with(workers, material, home, options)


def _evaluate_with(workers: Workers, material: _Material, home: Home | None, options: Options) -> EvaluateResult:
    matches, seed = material.matches, options.get("seed", 0)
    groups, asked = chosen_groups(options.get("measures"))
    modes = _modes(options.get("mode", BOTH)) if "signal" in groups else ()
    cache = ResultCache(None if home is None else home.cache)
    f0_range = None
    if modes:
        targets = sorted({target for _, target in matches.pairs.values()})
        f0_range = options.get("f0_range") or _f0_range(
            targets, material.speaker, options.get("f0_min"), options.get("f0_max"), workers
        )
    skipped: list[Skipped] = []
    hearing = _hearing(groups, asked, skipped)
    recogniser = _recogniser(groups, asked, options.get("recogniser"), material.texts, skipped)
    if not modes and not hearing and recogniser is None:
        raise DataError("; ".join(f"{each.what}: {each.reason}" for each in skipped) or "no measures were asked for")
    work = [
        _Job(
            name, converted, target, material.sources.get(name), modes,
            0.0 if f0_range is None else f0_range.minimum, 0.0 if f0_range is None else f0_range.maximum, hearing,
            material.baseline, cache,
        )
        for name, (converted, target) in sorted(matches.pairs.items())
    ]  # fmt: skip
    n_texts = 0 if recogniser is None else sum(job.utterance_id in material.texts for job in work)
    on_progress = options.get("on_progress")

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(done, len(work) + n_texts)

    heard: dict[str, _Heard] = {}
    failures = list(material.failures)
    for done, (found, problems) in enumerate(_each(_score, work, workers, before=_compile), start=1):
        if found is not None:
            heard[found.utterance_id] = found
        failures += problems
        report(done)
    workers.close()  # the recogniser needs the memory
    if not heard:
        first = f"; first: {failures[0].utterance_id}: {failures[0].reason}" if failures else ""
        n_all = len(matches.pairs) + len(matches.failures)
        raise DataError(f"{material.name}: none of {n_all} utterances could be scored{first}")
    if "speaker" in hearing:
        _compare_voices(heard)
    scored = [job for job in work if job.utterance_id in heard]
    transcripts: dict[tuple[str, Side], Transcript] = {}
    description = None
    if recogniser is not None:
        language = options.get("language") or guess_language(list(material.texts.values()))
        reader = _reader(language, skipped)
        description = {**recogniser.description, "language": language, "reader": reader[0] if reader else None}
        spoken = [job for job in scored if job.utterance_id in material.texts]
        for done, job in enumerate(spoken, start=1):
            sentence = material.texts[job.utterance_id]
            failures += _recognise(job, sentence, recogniser, language, reader, transcripts)
            report(len(work) + done)
    utterances = tuple(_utterance(job, heard[job.utterance_id], material.texts, transcripts) for job in scored)
    return EvaluateResult(
        name=material.name,
        f0_range=f0_range,
        definitions={mode: metrics.describe(mode) for mode in modes},
        analysis=tuple(
            metrics.settings_for(mode, rate, f0_range.minimum)
            for mode in modes
            for rate in sorted({each.sample_rate for each in utterances})
            if f0_range is not None
        ),
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
        skipped=tuple(skipped),
        without_target=tuple(sorted(matches.without_target)),
        without_conversion=tuple(sorted(matches.without_conversion)),
        recogniser=description,
    )


def _modes(mode: str) -> tuple[Mode, ...]:
    if mode == BOTH:
        return metrics.MODES
    chosen = tuple(known for known in metrics.MODES if known == mode)
    if not chosen:
        raise DataError(f"mode {mode!r}: expected one of {', '.join(metrics.MODES)}, {BOTH}")
    return chosen


def _hearing(groups: frozenset[str], asked: bool, skipped: list[Skipped]) -> tuple[str, ...]:
    """Which listeners can be asked; notes the others."""
    found = []
    if "mos" in groups:
        missing = listeners.missing_for("mos")
        if missing is None:
            found.append("mos")
        else:
            skipped.append(Skipped("DNSMOS", missing, asked))
        missing = listeners.squim_missing()
        if missing is None:
            found.append("squim")
        else:
            skipped.append(Skipped("SQUIM", missing, asked))
    if "speaker" in groups:
        missing = listeners.missing_for("speaker")
        if missing is None:
            found.append("speaker")
        else:
            skipped.append(Skipped("speaker similarity", missing, asked))
    return tuple(found)


def _recogniser(
    groups: frozenset[str], asked: bool, given: Recogniser | None, texts: Mapping[str, str], skipped: list[Skipped]
) -> Recogniser | None:
    """The recogniser, if there is something for it to do; else a note that says what is missing."""
    if "text" not in groups:
        return None
    missing = None if given is not None else listeners.missing_for("text")
    if missing is not None:
        skipped.append(Skipped("CER, WER", missing, asked))
    elif given is None:
        skipped.append(Skipped("CER, WER", "name a recogniser: --asr-model base, or the folder of one", asked))
    elif not texts:
        skipped.append(Skipped("CER, WER", "no sentences are known; give them with --text FILE", asked=True))
    else:
        return given
    return None


def _reader(language: str, skipped: list[Skipped]) -> tuple[str, Reader] | None:
    if language != "ja":
        return None
    found = listeners.japanese_reader()
    if found is None:
        skipped.append(Skipped("kana CER", "no library reads Japanese; run: pip install 'aasvc[kana]'"))
    return found


def _recognise(
    job: _Job,
    sentence: str,
    recogniser: Recogniser,
    language: str,
    reader: tuple[str, Reader] | None,
    transcripts: dict[tuple[str, Side], Transcript],
) -> list[Failure]:
    """Recognise the conversion and the target recording of one utterance."""
    known = {key: value for key, value in recogniser.description.items() if key != "model"}
    sides: tuple[tuple[Side, Path], ...] = (("converted", job.converted), ("target", job.target))
    for side, path in sides:

        def listen(path: Path = path) -> str:
            return recogniser.recognise(*read_audio(path), language)

        try:
            key = {"content": file_sha256(path), "language": language, "recogniser": known}
            text = str(job.cache.tree("transcripts", key, listen))
        except Exception as error:
            return [_failure(job, error, "recognition: ")]
        transcripts[job.utterance_id, side] = transcript(sentence, text, language, reader[1] if reader else None)
    return []


def _compare_voices(heard: Mapping[str, _Heard]) -> None:
    """Similarity to the mean voices; the recordings of an utterance itself never count in the means it is held to."""
    voices: dict[Side, dict[str, FloatArray | None]] = {"converted": {}, "target": {}, "source": {}}
    for name, each in heard.items():
        for side, vector in each.voices.items():
            voices[side][name] = vector
    for name, each in heard.items():
        target = listeners.mean_voice(voices["target"], without=name)
        source = listeners.mean_voice(voices["source"], without=name)
        ours = each.voices.get("converted")
        each.scores["SIM"] = listeners.similarity(ours, target)
        each.ceiling["SIM"] = listeners.similarity(each.voices.get("target"), target)
        if voices["source"]:
            each.scores["SIM_SOURCE"] = listeners.similarity(ours, source)
            each.ceiling["SIM_SOURCE"] = listeners.similarity(each.voices.get("target"), source)
            if each.baseline is not None:
                each.baseline["SIM"] = listeners.similarity(each.voices.get("source"), target)
                each.baseline["SIM_SOURCE"] = listeners.similarity(each.voices.get("source"), source)


def _utterance(
    job: _Job, heard: _Heard, texts: Mapping[str, str], transcripts: Mapping[tuple[str, Side], Transcript]
) -> UtteranceScores:
    ours, theirs = (transcripts.get((job.utterance_id, side)) for side in ("converted", "target"))
    rates = [{name: c.rate for name, c in (each.counts if each else {}).items()} for each in (ours, theirs)]
    return UtteranceScores(
        utterance_id=job.utterance_id,
        converted=job.converted,
        target=job.target,
        sample_rate=heard.sample_rate,
        scores=heard.scores | rates[0],
        source=job.source,
        baseline=heard.baseline,
        ceiling=(heard.ceiling | rates[1]) or None,
        text=texts.get(job.utterance_id),
        transcript=ours,
        target_transcript=theirs,
    )


def _summaries(
    scores: Sequence[Mapping[str, float]], transcripts: Sequence[Transcript | None], seed: int
) -> dict[str, Summary]:
    names = {name for each in transcripts if each is not None for name in each.counts}
    counts: dict[str, list[ErrorCounts | None]] = {
        name: [each.counts.get(name) if each else None for each in transcripts] for name in names
    }
    return summarise_scores(scores, counts, seed=seed)


def _f0_range(
    targets: Sequence[Path], speaker: str | None, f0_min: float | None, f0_max: float | None, workers: Workers
) -> F0Range:
    """What was given; else the recipe's range for its speakers; else an estimate from the target recordings."""
    if f0_min is not None and f0_max is not None:
        chosen = F0Range(f0_min, f0_max, "given")
    else:
        default = metrics.recipe_f0_range(speaker) if speaker else None
        if default is None:
            step = max(1, math.ceil(len(targets) / MAX_RECORDINGS_FOR_F0))
            sample = targets[::step]
            default = metrics.estimate_f0_range(
                [f0 for f0 in _each(_voiced_f0, sample, workers) if f0 is not None],
                f"estimated from {len(sample)} target recordings",
            )
        chosen = F0Range(
            default.minimum if f0_min is None else f0_min,
            default.maximum if f0_max is None else f0_max,
            default.origin if f0_min is None and f0_max is None else f"one end given, the other {default.origin}",
        )
    if not 0 < chosen.minimum < chosen.maximum:
        raise DataError(
            f"F0 range {chosen.minimum:g}-{chosen.maximum:g} Hz ({chosen.origin}): expected 0 < minimum < maximum"
        )
    return chosen


def _workers(jobs: int | None) -> Workers:
    """As many as were asked for; one for each core if nobody did."""
    if jobs is not None and jobs < 1:
        raise DataError(f"{jobs} worker processes: expected at least 1")
    return Workers(jobs or core_count())


def _compile() -> None:
    """Compile what is not on disk yet, once and not in every process."""
    if not has_machine_code(COMPILED):
        importlib.import_module(COMPILED).warm_up()


def _each(
    function: Callable[[Item], Outcome],
    items: Sequence[Item],
    workers: Workers,
    before: Callable[[], None] | None = None,
) -> Generator[Outcome, None, None]:
    """Outcomes in any order, as they come, from worker processes where that pays.

    Args:
        before: what has to be done before other processes start.
    """
    if min(workers.count, len(items)) <= 1:
        yield from map(function, items)
        return
    if before is not None:
        before()
    yield from workers.spread(function, items, killed=_killed)


def _killed(_item: Any) -> NoReturn:
    raise DataError("a worker process was killed (not enough memory?); use fewer of them (--jobs 1)")


def _voiced_f0(path: Path) -> FloatArray | None:
    """F0 values of a recording; None if it cannot be used, which scoring will report."""
    try:
        wave, sample_rate = read_audio(path)
        return metrics.voiced_f0(wave, sample_rate)
    except AasvcError:
        return None


class _Recording:
    """One recording, read once, with what is known about its content."""

    def __init__(self, path: Path, cache: ResultCache) -> None:
        self.wave, self.sample_rate = read_audio(path)
        self.key = file_sha256(path) if cache.folder is not None else ""
        self.cache = cache
        self._contours: dict[str, FloatArray] = {}

    def analysis(self, wave: Wave, sample_rate: int, job: _Job, mode: Mode) -> Analysis:
        """The analysis of the recording, as it is at a common sample rate, kept or made."""
        resampled = {} if sample_rate == self.sample_rate else {"resampled_as": mode}
        key = {
            "content": self.key, "sample_rate": sample_rate, "f0_min": job.f0_min, "f0_max": job.f0_max,
            "version": metrics.ANALYSIS_VERSION, "world": importlib.metadata.version("pyworld"), **resampled,
        }  # fmt: skip
        f0_range = {"f0_min": job.f0_min, "f0_max": job.f0_max}

        def compute() -> dict[str, Any]:
            f0 = self._pitch(key, lambda: metrics.pitch(wave, sample_rate, **f0_range))
            found = metrics.analyse(wave, sample_rate, **f0_range, mode=mode, f0=f0)
            lengths = np.array([found.trimmed_samples, found.silent])
            return {"f0": found.f0, "mcep": found.mcep, "loud": found.loud, "lengths": lengths}

        arrays: dict[str, Any] = self.cache.arrays("analysis", key | {"mode": mode}, compute)
        settings = metrics.settings_for(mode, sample_rate, job.f0_min)
        trimmed, silent = arrays["lengths"]
        return Analysis(settings, arrays["f0"], arrays["mcep"], arrays["loud"], int(trimmed), bool(silent))

    def _pitch(self, key: Mapping[str, Any], compute: Callable[[], FloatArray]) -> FloatArray:
        """The F0 contour that both definitions use, found once."""
        name = repr(key)
        if name not in self._contours:
            arrays: dict[str, Any] = self.cache.arrays("pitch", key, lambda: {"f0": compute()})
            self._contours[name] = arrays["f0"]
        return self._contours[name]

    def voice(self) -> FloatArray | None:
        """The speaker's embedding."""

        def compute() -> list[float] | None:
            vector = listeners.voice_embedding(self.wave, self.sample_rate)
            return None if vector is None else [float(value) for value in vector]

        found = self.cache.tree("voices", {"content": self.key, "by": _installed("resemblyzer")}, compute)
        return None if found is None else np.array(found)

    def opinions(self, which: str) -> dict[str, float]:
        """Scores of one listener: ``mos`` or ``squim``."""
        listen, package = {"mos": (listeners.opinions, "speechmos"), "squim": (listeners.squim, "torchaudio")}[which]
        key = {"content": self.key, "by": _installed(package)}
        return dict(self.cache.tree(which, key, lambda: listen(self.wave, self.sample_rate)))


def _installed(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _score(job: _Job) -> tuple[_Heard | None, list[Failure]]:
    """Score one utterance; whatever goes wrong becomes a failure of this utterance alone."""
    try:
        converted, target = _Recording(job.converted, job.cache), _Recording(job.target, job.cache)
        analysed: dict[tuple[Mode, int, int], Analysis] = {}  # the target is shared by conversion and baseline
        scores, sample_rate = _score_against(target, converted, job, analysed)
    except Exception as error:
        return None, [_failure(job, error)]
    heard = _Heard(job.utterance_id, sample_rate, scores)
    problems: list[Failure] = []
    source = None
    if job.source is not None and (job.baseline or "speaker" in job.listeners):
        try:
            source = _Recording(job.source, job.cache)
            if job.baseline:
                heard.baseline, _ = _score_against(target, source, job, analysed)
        except Exception as error:
            source = None
            if job.baseline:  # else it would only have been listened to for its voice
                problems.append(_failure(job, error, "baseline: "))
    for which in job.listeners:
        try:
            _listen(which, heard, {"converted": converted, "target": target, "source": source})
        except Exception as error:
            problems.append(_failure(job, error, f"{which}: "))
    return heard, problems


def _listen(which: str, heard: _Heard, recordings: Mapping[Side, _Recording | None]) -> None:
    for side, recording in recordings.items():
        if recording is None:
            continue
        if which == "speaker":
            heard.voices[side] = recording.voice()
        elif side != "source":
            (heard.scores if side == "converted" else heard.ceiling).update(recording.opinions(which))
        elif heard.baseline is not None:
            heard.baseline.update(recording.opinions(which))


def _score_against(
    target: _Recording, other: _Recording, job: _Job, analysed: dict[tuple[Mode, int, int], Analysis]
) -> tuple[dict[str, float], int]:
    """Signal measures in all modes, and the highest sample rate at which the recordings were compared."""
    scores: dict[str, float] = {}
    highest = target.sample_rate
    for position, mode in enumerate(job.modes):
        wave, target_wave, sample_rate = metrics.to_common_rate(
            other.wave, other.sample_rate, target.wave, target.sample_rate, mode=mode
        )
        key = (mode, sample_rate, len(target_wave))
        if key not in analysed:
            analysed[key] = target.analysis(target_wave, sample_rate, job, mode)
        found = metrics.score_analyses(other.analysis(wave, sample_rate, job, mode), analysed[key])
        scores |= found.named(mode)
        highest = max(highest, sample_rate) if position else sample_rate
    return scores, highest


def _failure(job: _Job, error: Exception, prefix: str = "") -> Failure:
    """An error as one line; one that is not ours is also logged with its traceback."""
    if isinstance(error, AasvcError):
        return Failure(job.utterance_id, f"{prefix}{error}")
    logger.debug("%s", job.utterance_id, exc_info=error)
    return Failure(job.utterance_id, f"{prefix}{type(error).__name__}: {error}")
