"""Score converted recordings against the target speaker's recordings: a folder against a folder, or a training run."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from aasvc_cli import metrics
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.metrics import Analysis, F0Range, Measure, Mode, PairScores, Summary, Wave
from aasvc_cli.signals import children_without_ctrl_c
from aasvc_cli.storage.cache import Home
from aasvc_cli.storage.files import list_audio, read_audio, write_json

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

MAX_RECORDINGS_FOR_F0 = 50
"""Target recordings, evenly spread, from which the F0 range is estimated."""


@dataclass(frozen=True)
class Failure:
    """An utterance that could not be scored (or not completely), and why."""

    utterance_id: str
    reason: str

    def to_tree(self) -> dict[str, str]:
        """JSON-able."""
        return {"id": self.utterance_id, "reason": self.reason}


@dataclass(frozen=True)
class UtteranceScores:
    """One scored utterance."""

    utterance_id: str
    converted: Path
    target: Path
    sample_rate: int
    scores: PairScores
    baseline: PairScores | None = None
    """The unconverted source recording against the same target."""

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; null where a measure is not defined."""
        tree = {"id": self.utterance_id, "converted": str(self.converted), "target": str(self.target)}
        scores = _finite(self.scores.to_tree())
        return tree | scores | ({"baseline": _finite(self.baseline.to_tree())} if self.baseline else {})


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of a set.

    Attributes:
        mode: which definition of the measures; :attr:`definition` says it in words.
        corpus: measure name -> mean over utterances with interval.
        baseline: the same for the unconverted source recordings; None if not asked for.
        failures: what could not be scored; never counted in the means.
        without_target: converted recordings without a target recording.
        without_conversion: target recordings that nothing was converted for.
        path: the JSON file, if one was written.
    """

    name: str
    mode: Mode
    f0_range: F0Range
    utterances: tuple[UtteranceScores, ...]
    corpus: dict[str, Summary]
    baseline: dict[str, Summary] | None
    failures: tuple[Failure, ...]
    without_target: tuple[str, ...]
    without_conversion: tuple[str, ...]
    path: Path | None = None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Names, units and meaning of the measures, in the order of a table."""
        return metrics.MEASURES

    @property
    def definition(self) -> str:
        """The mode in one line."""
        return metrics.describe(self.mode)

    def title(self, measure: Measure) -> str:
        """Heading of a column; whatever is not the published measure says so."""
        mode = "" if self.mode == "published" else f" {self.mode}"
        return f"{measure.name}{mode}" + (f" [{measure.unit}]" if measure.unit else "")

    def to_tree(self) -> dict[str, Any]:
        """JSON-able; null where a measure is not defined."""
        rates = sorted({utterance.sample_rate for utterance in self.utterances})
        tree: dict[str, Any] = {
            "name": self.name,
            "mode": self.mode,
            "definition": self.definition,
            "analysis": [metrics.settings_for(self.mode, rate, self.f0_range.minimum).to_tree() for rate in rates],
            "f0_range": self.f0_range.to_tree(),
            "units": {measure.name: measure.unit for measure in self.measures},
            "n_scored": len(self.utterances),
            "n_failed": len(self.failures),
            "corpus": {name: _finite(summary.to_tree()) for name, summary in self.corpus.items()},
        }
        if self.baseline is not None:
            tree["baseline"] = {name: _finite(summary.to_tree()) for name, summary in self.baseline.items()}
        tree["utterances"] = [utterance.to_tree() for utterance in self.utterances]
        tree["failures"] = [failure.to_tree() for failure in self.failures]
        tree["without_target"] = list(self.without_target)
        tree["without_conversion"] = list(self.without_conversion)
        return tree


@dataclass(frozen=True)
class _Job:
    """One utterance for a worker process."""

    utterance_id: str
    converted: Path
    target: Path
    source: Path | None
    f0_min: float
    f0_max: float
    mode: Mode


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
    speaker: str | None = None,
    f0_min: float | None = None,
    f0_max: float | None = None,
    mode: Mode = "published",
    jobs: int | None = None,
    on_progress: OnProgress | None = None,
) -> EvaluateResult:
    """Score a folder of converted recordings against a folder of target recordings, whoever made them.

    Recordings belong together if their paths below the folders are the same but for the suffix, or else if exactly one
    target recording has the same name in any subfolder.

    Args:
        source: folder of the unconverted recordings; scores them against the target, too (the baseline).
        speaker: target speaker; takes the recipe's F0 range if it is one of the recipe's speakers.
        f0_min, f0_max: F0 search range in Hz; by default estimated from the target recordings.
        jobs: worker processes; None for one per core.

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
    return _evaluate(
        str(converted), matches, failures, sources if source is not None else None,
        speaker=speaker, f0_min=f0_min, f0_max=f0_max, mode=mode, jobs=jobs, on_progress=on_progress,
    )  # fmt: skip


def evaluate_run(
    home: Home,
    *,
    model: str | Path | None,
    set_name: str = "eval",
    data: str | None = None,
    baseline: bool = False,
    f0_min: float | None = None,
    f0_max: float | None = None,
    mode: Mode = "published",
    jobs: int | None = None,
    on_progress: OnProgress | None = None,
) -> EvaluateResult:
    """Score what ``aasvc convert --set`` wrote into the folder of a run; writes ``scores-<set>.json`` there.

    Args:
        model: a tag, the name of a run, or a model folder.
        data: prepared set; by default the one that the run was trained on, or else the one prepared last.
        baseline: score the unconverted source recordings against the target, too.
        f0_min, f0_max: F0 search range in Hz; by default the recipe's for its own speakers, else estimated.

    Raises:
        DataError: nothing converted yet, or nothing could be scored.
    """
    from aasvc_cli.corpus import read_manifest
    from aasvc_cli.voice import find_voice, prepared_name

    folder = find_voice(home, model)
    manifest = read_manifest(home, data or prepared_name(folder))
    pairs = {pair.utterance_id: pair for pair in manifest.sets.get(set_name, ())}
    if not pairs:
        known = ", ".join(f"{name} ({len(members)})" for name, members in manifest.sets.items())
        raise DataError(f"prepared set {manifest.name}: no utterances in {set_name!r}; it has {known}")
    converted_folder = folder / "converted" / set_name
    hint = f"run: aasvc convert --set {set_name} --model {model or folder.name}"
    if not converted_folder.is_dir():
        raise DataError(f"{converted_folder}: nothing converted yet; {hint}")
    converted = _recordings(converted_folder, "converted", hint)
    matches = _match(converted, {_composed(name): pair.target for name, pair in pairs.items()})
    if not matches.pairs and not matches.failures:
        raise DataError(f"{converted_folder}: none of its {len(converted)} recordings is in {manifest.name}; {hint}")
    targets = {str(pair.target): pair.source for pair in pairs.values()}
    sources = {name: targets[str(target)] for name, (_, target) in matches.pairs.items()}
    result = _evaluate(
        f"{folder.name} {set_name}", matches, matches.failures, sources if baseline else None,
        speaker=manifest.target_speaker, f0_min=f0_min, f0_max=f0_max, mode=mode, jobs=jobs, on_progress=on_progress,
    )  # fmt: skip
    result = replace(result, path=folder / f"scores-{set_name}.json")
    tree = {"model": folder.name, "prepared": manifest.name, "set": set_name} | result.to_tree()
    write_json(folder / f"scores-{set_name}.json", tree)
    return result


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


def _evaluate(
    name: str,
    matches: _Matches,
    failures: Sequence[Failure],
    sources: Mapping[str, Path] | None,
    *,
    speaker: str | None,
    f0_min: float | None,
    f0_max: float | None,
    mode: Mode,
    jobs: int | None,
    on_progress: OnProgress | None,
) -> EvaluateResult:
    if mode not in metrics.MODES:
        raise DataError(f"mode {mode!r}: expected one of {', '.join(metrics.MODES)}")
    targets = sorted({target for _, target in matches.pairs.values()})
    f0_range = _f0_range(targets, speaker, f0_min, f0_max, jobs)
    work = [
        _Job(utterance, converted, target, (sources or {}).get(utterance), f0_range.minimum, f0_range.maximum, mode)
        for utterance, (converted, target) in sorted(matches.pairs.items())
    ]
    scored: list[UtteranceScores] = []
    found = list(failures)
    for done, (utterance, problems) in enumerate(_each(_score, work, jobs), start=1):
        if utterance is not None:
            scored.append(utterance)
        found += problems
        if on_progress is not None:
            on_progress(done, len(work))
    if not scored:
        first = f"; first: {found[0].utterance_id}: {found[0].reason}" if found else ""
        raise DataError(
            f"{name}: none of {len(matches.pairs) + len(matches.failures)} utterances could be scored{first}"
        )
    scored.sort(key=lambda utterance: utterance.utterance_id)
    baselines = [utterance.baseline for utterance in scored if utterance.baseline is not None]
    return EvaluateResult(
        name=name,
        mode=mode,
        f0_range=f0_range,
        utterances=tuple(scored),
        corpus=metrics.summarise_scores([utterance.scores for utterance in scored]),
        baseline=None if sources is None else metrics.summarise_scores(baselines),
        failures=tuple(sorted(found, key=lambda failure: (failure.utterance_id, failure.reason))),
        without_target=tuple(sorted(matches.without_target)),
        without_conversion=tuple(sorted(matches.without_conversion)),
    )


def _f0_range(
    targets: Sequence[Path], speaker: str | None, f0_min: float | None, f0_max: float | None, jobs: int | None
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
                [f0 for f0 in _each(_voiced_f0, sample, jobs) if f0 is not None],
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


def _each(function: Callable[[Item], Outcome], items: Sequence[Item], jobs: int | None) -> Iterator[Outcome]:
    """Outcomes in any order, as they come, from worker processes where that pays."""
    import joblib

    if jobs is not None and jobs < 1:
        raise DataError(f"{jobs} worker processes: expected at least 1")
    n_jobs = min(jobs or joblib.cpu_count(), len(items))
    if n_jobs <= 1:
        yield from map(function, items)
        return
    if function is _score:
        from aasvc_cli import dtw

        dtw.warm_up()
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        with children_without_ctrl_c():
            outcomes = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
                joblib.delayed(function)(item) for item in items
            )
        yield from outcomes
    except TerminatedWorkerError:
        raise DataError("a worker process was killed (not enough memory?); use fewer of them (--jobs 1)") from None


def _voiced_f0(path: Path) -> metrics.FloatArray | None:
    """F0 values of a recording; None if it cannot be used, which scoring will report."""
    try:
        wave, sample_rate = read_audio(path)
        return metrics.voiced_f0(wave, sample_rate)
    except AasvcError:
        return None


def _score(job: _Job) -> tuple[UtteranceScores | None, list[Failure]]:
    """Score one utterance; whatever goes wrong becomes a failure of this utterance alone."""
    try:
        converted = read_audio(job.converted)
        target = read_audio(job.target)
        analysed: dict[tuple[int, int], Analysis] = {}  # the target is shared by conversion and baseline
        scores, sample_rate = _score_against(target, converted, job, analysed)
    except Exception as error:
        return None, [_failure(job, error)]
    utterance = UtteranceScores(job.utterance_id, job.converted, job.target, sample_rate, scores)
    if job.source is None:
        return utterance, []
    try:
        baseline, _ = _score_against(target, read_audio(job.source), job, analysed)
    except Exception as error:
        return utterance, [_failure(job, error, "baseline: ")]
    return replace(utterance, baseline=baseline), []


def _score_against(
    target: tuple[Wave, int], other: tuple[Wave, int], job: _Job, analysed: dict[tuple[int, int], Analysis]
) -> tuple[PairScores, int]:
    wave, target_wave, sample_rate = metrics.to_common_rate(*other, *target, mode=job.mode)

    def analyse(samples: Wave) -> Analysis:
        return metrics.analyse(samples, sample_rate, f0_min=job.f0_min, f0_max=job.f0_max, mode=job.mode)

    key = (sample_rate, len(target_wave))
    if key not in analysed:
        analysed[key] = analyse(target_wave)
    return metrics.score_analyses(analyse(wave), analysed[key]), sample_rate


def _failure(job: _Job, error: Exception, prefix: str = "") -> Failure:
    """An error as one line; one that is not ours is also logged with its traceback."""
    if isinstance(error, AasvcError):
        return Failure(job.utterance_id, f"{prefix}{error}")
    logger.debug("%s", job.utterance_id, exc_info=error)
    return Failure(job.utterance_id, f"{prefix}{type(error).__name__}: {error}")


def _finite(tree: Mapping[str, float | int]) -> dict[str, Any]:
    """None instead of NaN, which JSON does not have."""
    return {key: value if math.isfinite(value) else None for key, value in tree.items()}
