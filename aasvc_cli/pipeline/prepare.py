"""From two speakers' recordings to checked pairs with features.

Recordings are matched, measured, trimmed and turned into features; long pairs are cut; pairs are checked and split.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from aasvc_cli.audio.mel import at_sample_rate
from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Analysis, Bench, Excerpt, Job, analyse, default_excerpt
from aasvc_cli.data.checks import (
    Candidate,
    Pairs,
    advise,
    check_enough,
    check_pairs,
    refuse_same_speaker,
    smallest_frames_per_token,
)
from aasvc_cli.data.corpus import Recordings, clean_name, locate
from aasvc_cli.data.cutting import cut_pair
from aasvc_cli.data.manifest import SETS, UNASSIGNED, Finding, Manifest, ParallelPair, read_manifest, write_manifest
from aasvc_cli.data.matching import match
from aasvc_cli.data.splitting import split
from aasvc_cli.errors import AasvcError, DataError, Interrupted
from aasvc_cli.features.kinds import feature_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.files import remove_file, remove_unfinished, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache
from aasvc_cli.workers import Workers, core_count

Progress = Callable[[int, int], None]

MAX_SECONDS = 12.0
"""Of a pair: attention takes memory that grows with the square, and the longest pair decides for its whole batch."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found and made.

    Attributes:
        name: of the prepared set; other commands take it as ``--data``
        n_pairs: good pairs of each set
        n_matched: pairs before the checks
        matched_by: how many of them by which rule, as in :mod:`aasvc_cli.data.matching`
        trimmed_seconds: silence at the ends that is left out
        n_cut: long pairs that were cut into shorter ones
        advice: what to do about the recordings as a whole
        sample_rate: of the features
        batch_size: pairs per optimiser step, as the configuration now says
        source_seconds, target_seconds: recordings of the good pairs
        findings: everything noticed; those with ``excluded`` left a pair out
        frames_per_token: the configured reduction factor
        n_breaking: pairs with more source tokens than target frames at that factor, all of them excluded
        smallest_frames_per_token: the smallest factor that no pair breaks (None without a usable pair)
        n_computed, n_fresh: recordings analysed now, and those whose features were there already
        analysed_seconds: length of the recordings analysed now
        elapsed_seconds: wall-clock time
    """

    name: str
    manifest: Path
    report: Path
    source_speaker: str
    target_speaker: str
    n_pairs: Mapping[str, int]
    n_matched: int
    matched_by: Mapping[str, int]
    source_seconds: float
    target_seconds: float
    trimmed_seconds: float
    n_cut: int
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]
    sample_rate: int
    batch_size: int
    frames_per_token: int
    n_breaking: int
    smallest_frames_per_token: int | None
    n_computed: int
    n_fresh: int
    analysed_seconds: float
    elapsed_seconds: float

    @property
    def n_excluded(self) -> int:
        """Names that were left out."""
        return len({(finding.set, finding.utterance_id) for finding in self.findings if finding.excluded})

    @property
    def counts(self) -> dict[str, int]:
        """How often each code was found, most often first."""
        return dict(Counter(finding.code for finding in self.findings).most_common())

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        tree = dataclasses.asdict(self) | {"manifest": str(self.manifest), "report": str(self.report)}
        return tree | {"n_excluded": self.n_excluded, "counts": self.counts}


def prepare(
    home: Home,
    config: Config,
    *,
    corpus: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    name: str | None = None,
    pairs: str | Path | None = None,
    training: str | None = None,
    dev: str | None = None,
    evaluation: str | None = None,
    trim: bool | None = None,
    loudness: bool = False,
    sample_rate: int | None = None,
    max_seconds: float = MAX_SECONDS,
    seed: int = 1,
    jobs: int | None = None,
    workers: Workers | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Match, check and split the recordings of two speakers, compute what features are missing, and write a manifest.

    Args:
        corpus, source, target: see :func:`aasvc_cli.data.corpus.locate`
        name: of the prepared set; by default ``<source speaker>_<target speaker>``
        pairs: a table of source, target and perhaps text, in place of matching by name
        training: as ``dev``; what is left is used for nothing then, and the batch follows the published series
        trim: leave the silence at both ends out; None for what the configuration says
        loudness: bring every recording to its speaker's usual level
        sample_rate: of the features, in place of the configuration's, in Hz
        max_seconds: longer pairs are cut at shared pauses, or left out; 0 for no limit but that of a batch
        dev, evaluation: a count, a fraction or a file of utterance ids. A corpus that has these sets keeps them unless
            they are given; then their pairs return to the training data and new ones are drawn from all of it.
        seed: of the draw
        jobs: processes; None for one per core
        workers: of a cluster, in place of processes
        overwrite: replace a prepared set of the same name that stands for other folders
        on_progress: told (done, all) recordings

    Raises:
        DataError: nothing to match, or too few good pairs; says why.
        StorageError: features or manifest cannot be written.
        Interrupted: on Ctrl-C; what was computed is kept.
    """
    began = time.perf_counter()
    if jobs is not None and jobs < 1:
        raise DataError(f"--jobs {jobs}: expected 1 or more")
    if sample_rate is not None:
        mel = at_sample_rate(config.features.mel, sample_rate)
        config = dataclasses.replace(config, features=dataclasses.replace(config.features, mel=mel))
    ours, theirs = locate(home, corpus, source, target)
    name = _check_name(home, name, ours, theirs, overwrite)
    matching = match(ours, theirs, Path(pairs).expanduser() if pairs is not None else None)
    requested = {"train": training, "dev": dev, "eval": evaluation}
    _assign_sets(matching.pairs, matching.pairs, requested, seed)  # an impossible split is reported before the analysis
    folder = home.prepared / name / "recordings"
    bench = Bench(
        store=FeatureStore(home.features, config.features, feature_key),
        cache=ResultCache(home.cache),
        folder=folder,
        trim=config.features.trim if trim is None else trim,
        max_seconds=_longest(max_seconds, config),
    )
    analyses = _analyse_all(_first_jobs(matching.pairs, config, loudness), bench, workers or jobs, on_progress)
    measured = _by_recording(analyses)
    candidates = [
        Candidate(where, pair, measured[pair.source], measured[pair.target]) for where, pair in matching.pairs
    ]
    refuse_same_speaker(candidates, ours.n_files + theirs.n_files)
    candidates, long_ones = _excerpts(candidates, config, bench, workers or jobs, loudness)

    bench.store.remove_leftovers()
    good, breaking, noticed = check_pairs(candidates, config)
    findings = [*matching.findings, *long_ones, *noticed]
    everything = [*matching.pairs, *((each.set, each.pair) for each in candidates)]
    sets = _assign_sets(good, everything, requested, seed)
    smallest = smallest_frames_per_token(pair for _, pair in [*good, *breaking])
    check_enough(sets, findings, len(breaking), smallest, config)
    advice = advise(candidates, (ours.speaker, theirs.speaker), config, findings)
    if training is not None:
        before, config = config, _with_advised_batch(config, len(sets["train"]))
        if config != before:
            after, usual = (each.train.batch_size * each.train.accum for each in (config, before))
            advice.append(
                f"training takes {after} pairs per step, as the published series does for {len(sets['train'])} pairs, "
                f"in place of {usual}"
            )

    manifest = Manifest(
        name=name,
        source_speaker=ours.speaker,
        target_speaker=theirs.speaker,
        config=config,
        sets=sets,
        excluded=[(each.utterance_id, each.set, f"{each.code}: {each.message}") for each in findings if each.excluded],
        source_root=ours.root.absolute(),
        target_root=theirs.root.absolute(),
    )
    computed = [analysis for analysis in analyses.values() if analysis.computed]
    kept = [pair for key in SETS for pair in sets[key]]
    report = PrepareReport(
        name=name,
        manifest=home.prepared / name / "manifest.json",
        report=home.prepared / name / "report.json",
        source_speaker=ours.speaker,
        target_speaker=theirs.speaker,
        n_pairs={key: len(sets[key]) for key in SETS},
        n_matched=len(matching.pairs),
        matched_by=dict(matching.rules),
        source_seconds=math.fsum(pair.source_seconds for pair in kept),
        target_seconds=math.fsum(pair.target_seconds for pair in kept),
        trimmed_seconds=_trimmed_seconds(candidates) if bench.trim else 0.0,
        n_cut=len({each.utterance_id for each in long_ones if each.code == "cut"}),
        findings=tuple(findings),
        advice=tuple(advice),
        sample_rate=config.features.mel.sample_rate,
        batch_size=config.train.batch_size * config.train.accum,
        frames_per_token=config.model.frames_per_token,
        n_breaking=len(breaking),
        smallest_frames_per_token=smallest,
        n_computed=len(computed),
        n_fresh=len(analyses) - len(computed),
        analysed_seconds=math.fsum(analysis.facts.quality.seconds for analysis in computed if analysis.facts),
        elapsed_seconds=time.perf_counter() - began,
    )
    _drop_stale_stats(home, manifest)
    write_json(report.report, report.to_tree())
    write_manifest(home, manifest)
    _remove_others(folder, {path for pair in kept for path in (pair.source, pair.target)})
    return report


# --- what is done with the recordings ---------------------------------------------------------------------------------


def _first_jobs(pairs: Pairs, config: Config, loudness: bool) -> list[Job]:
    """Every recording once, for all features that it needs; with ``loudness``, all are measured first."""
    kinds: dict[Path, dict[str, None]] = {}  # ordered sets: a recording may serve in several roles
    for _, pair in pairs:
        for recording, wanted in zip((pair.source, pair.target), _kinds(config), strict=True):
            kinds.setdefault(recording, {}).update(dict.fromkeys(wanted))
    return [Job(recording, () if loudness else tuple(wanted)) for recording, wanted in kinds.items()]


def _kinds(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features of a source and of a target recording."""
    features = config.features
    both = ("content",) if config.loss.prior == "content" else ()
    return tuple(dict.fromkeys((features.source, features.duration, *both))), (features.target, *both)


def _excerpts(
    candidates: Sequence[Candidate], config: Config, bench: Bench, processes: Workers | int | None, loudness: bool
) -> tuple[list[Candidate], list[Finding]]:
    """Long pairs as pieces, and all at their speaker's usual level if that is asked for."""
    findings: list[Finding] = []
    planned: list[tuple[Candidate, Excerpt, Excerpt]] = []
    result: list[Candidate] = []
    gains = {side: _gains(candidates, side) if loudness else {} for side in ("source", "target")}
    for candidate in candidates:
        if candidate.facts is None:
            result.append(candidate)
            continue
        one, other = (facts.quality for facts in candidate.facts)
        longest = max(candidate.source.seconds, candidate.target.seconds)
        if bench.max_seconds and longest > bench.max_seconds:
            pieces = cut_pair(one, other, bench.max_seconds)
            findings.append(_long_finding(candidate, bench.max_seconds, pieces))
            names = _piece_names(candidate.pair.utterance_id, len(pieces or ()))
            parts = [
                (dataclasses.replace(candidate, pair=_piece_of(candidate.pair, name)), *piece)
                for name, piece in zip(names, pieces or (), strict=True)
            ]
        elif loudness:
            parts = [(candidate, default_excerpt(one, bench.trim), default_excerpt(other, bench.trim))]
        else:
            result.append(candidate)
            continue
        for part, ours, theirs in parts:
            ours = dataclasses.replace(ours, gain_db=gains["source"].get(part.pair.source, 0.0))
            theirs = dataclasses.replace(theirs, gain_db=gains["target"].get(part.pair.target, 0.0))
            planned.append((part, ours, theirs))
    jobs = [
        tuple(
            Job(recording, kinds, excerpt)
            for recording, kinds, excerpt in zip(
                (part.pair.source, part.pair.target), _kinds(config), excerpts, strict=True
            )
        )
        for part, *excerpts in planned
    ]
    analyses = _analyse_all([job for both in jobs for job in both], bench, processes)
    for (part, *_), (ours_job, theirs_job) in zip(planned, jobs, strict=True):
        result.append(dataclasses.replace(part, source=analyses[ours_job], target=analyses[theirs_job]))
    return result, findings


def _longest(max_seconds: float, config: Config) -> float:
    """Seconds of a pair, at most, so that it also fits into a batch; 0 for no limit."""
    if config.train.max_frames is None:
        return max_seconds
    most = (config.train.max_frames - 1) / config.features.mel.frames_per_second
    return min(max_seconds or most, most)


def _gains(candidates: Sequence[Candidate], side: str) -> dict[Path, float]:
    """By how many dB each recording of a speaker has to become louder to be at the usual level, without clipping."""
    qualities = {
        getattr(each.pair, side): facts.quality for each in candidates if (facts := each.sides[side].facts) is not None
    }
    known = {path: each for path, each in qualities.items() if each.loudness is not None}
    if not known:
        return {}
    usual = statistics.median(each.loudness for each in known.values() if each.loudness is not None)
    return {
        path: round(min(usual - (each.loudness or usual), -20.0 * math.log10(max(each.peak, 1e-5))), 1)
        for path, each in known.items()
    }


def _piece_of(pair: ParallelPair, name: str) -> ParallelPair:
    """Which words of the text are in it is unknown."""
    return dataclasses.replace(pair, utterance_id=name, text=None)


def _piece_names(utterance_id: str, count: int) -> list[str]:
    return [f"{utterance_id}-{number + 1:0{len(str(count))}}" for number in range(count)]


def _long_finding(candidate: Candidate, max_seconds: float, pieces: Sequence[Any] | None) -> Finding:
    lasts = f"lasts {candidate.source.seconds:.1f} s (source) and {candidate.target.seconds:.1f} s (target)"
    if pieces:
        message = f"{lasts}; cut into {len(pieces)} pairs at pauses that both share"
        return candidate.finding("", "cut", False, message)
    message = (
        f"{lasts}, more than --max-seconds {max_seconds:.3g}, and the pauses of the two do not agree; cut both between "
        "the same sentences, or allow longer pairs"
    )
    return candidate.finding("", "too_long", True, message)


def _trimmed_seconds(candidates: Sequence[Candidate]) -> float:
    """Silence at the ends of the recordings that was left out."""
    return math.fsum(
        facts.quality.seconds - analysis.seconds
        for each in candidates
        for analysis in each.sides.values()
        if (facts := analysis.facts) is not None and analysis.path is not None
        if analysis.seconds == facts.quality.stop - facts.quality.start
    )


def _remove_others(folder: Path, used: set[Path]) -> None:
    """Remove what earlier runs have left of this set."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path not in used:
            remove_file(path)


ADVISED_BATCHES = ((20, 4), (40, 8), (80, 8), (250, 16))
"""Training pairs up to which the published series of smaller data (932 pairs and less) took that effective batch."""


def _with_advised_batch(config: Config, n_pairs: int) -> Config:
    """The effective batch of the published series for that many pairs, if the configuration's is larger."""
    advised = next((batch for most, batch in ADVISED_BATCHES if n_pairs <= most), None)
    train = config.train
    if advised is None or train.batch_size * train.accum <= advised:
        return config
    batch_size = math.gcd(train.batch_size, advised)
    train = dataclasses.replace(train, batch_size=batch_size, accum=advised // batch_size)
    return dataclasses.replace(config, train=train)


# --- names and sets ---------------------------------------------------------------------------------------------------


def _check_name(home: Home, name: str | None, ours: Recordings, theirs: Recordings, overwrite: bool) -> str:
    """The name of the prepared set, if it is free or of the same folders."""
    if name is None:
        name = f"{ours.speaker}_{theirs.speaker}"
    elif clean_name(name) != name:
        raise DataError(
            f"--name {name}: expected letters, digits, dots, dashes and underscores, e.g. {clean_name(name)}"
        )
    try:
        old = read_manifest(home, name)
    except AasvcError:
        return name  # missing, or no longer usable
    roots = (ours.root.absolute(), theirs.root.absolute())
    if not overwrite and (old.source_root, old.target_root) != roots:
        raise DataError(
            f"prepared data named {name} already stands for {old.source_root} and {old.target_root}; choose another "
            "--name, or replace it with --overwrite"
        )
    return name


def _drop_stale_stats(home: Home, manifest: Manifest) -> None:
    """Remove statistics of a training set or of features that this manifest replaces."""
    try:
        old = read_manifest(home, manifest.name)
        if old.sets["train"] == manifest.sets["train"] and old.config.features == manifest.config.features:
            return
    except AasvcError:
        pass  # no manifest, or one of no use: whatever statistics there are cannot be trusted
    for path in (home.stats / manifest.name).glob("*.json"):
        remove_file(path)


def _assign_sets(
    good: Sequence[tuple[str, ParallelPair]],
    candidates: Sequence[tuple[str, ParallelPair]],
    requested: Mapping[str, str | None],
    seed: int,
) -> dict[str, tuple[ParallelPair, ...]]:
    """Keep the corpus' own sets; draw those that are asked for or that it does not have."""
    own = {name for name, _ in candidates}
    draw = {
        key: wanted for key, wanted in requested.items() if wanted is not None or (key != "train" and key not in own)
    }
    pool = [pair for name, pair in good if name in (UNASSIGNED, "train") or name in draw]
    sets: dict[str, list[ParallelPair]] = {key: [] for key in SETS}
    for name, pair in good:
        if name in sets and name != "train" and name not in draw:
            sets[name].append(pair)
    known = [pair.utterance_id for _, pair in candidates]
    drawn = split([pair.utterance_id for pair in pool], draw, seed=seed, known=known)
    for key, pair in zip(drawn, pool, strict=True):
        if key is not None:
            sets[key].append(pair)
    return {key: tuple(sorted(sets[key], key=lambda pair: pair.utterance_id)) for key in SETS}


# --- all recordings --------------------------------------------------------------------------------------------------

_CHUNK = 8
"""Recordings per task: enough to hide the cost of handing over a task, few enough for a smooth progress bar."""


def _analyse_all(
    jobs: Sequence[Job], bench: Bench, processes: Workers | int | None, on_progress: Progress | None = None
) -> dict[Job, Analysis]:
    """Analyse recordings, in processes if there are enough of both.

    Raises:
        StorageError: features cannot be written.
        Interrupted: on Ctrl-C; what was computed is kept.
    """
    analyses: dict[Job, Analysis] = {}
    if on_progress:
        on_progress(0, len(jobs))
    try:
        with contextlib.closing(_run(jobs, bench, processes)) as outcomes:
            for job, analysis in outcomes:
                if analysis.fatal is not None:
                    raise analysis.fatal
                analyses[job] = analysis
                if on_progress:
                    on_progress(len(analyses), len(jobs))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after {len(analyses)} of {len(jobs)} recordings; they are kept, and the same command goes on"
        ) from None
    return analyses


def _run(
    jobs: Sequence[Job], bench: Bench, processes: Workers | int | None
) -> Generator[tuple[Job, Analysis], None, None]:
    """Analyse recordings; yields in any order."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    if isinstance(processes, Workers):
        pool = processes
    else:
        count = min(processes or core_count(), len(chunks))
        if count <= 1:
            for job in jobs:
                yield job, analyse(job, bench)
            return
        pool = Workers(count)
    work, sweep = partial(_analyse_chunk, bench=bench), partial(_sweep_chunk, bench=bench)
    with pool:
        for analyses in pool.spread(work, chunks, killed=_killed, sweep=sweep):
            yield from analyses


def _analyse_chunk(chunk: Sequence[Job], bench: Bench) -> list[tuple[Job, Analysis]]:
    results = []
    for job in chunk:
        results.append((job, analyse(job, bench)))
        if results[-1][1].fatal is not None:
            break
    return results


def _sweep_chunk(chunk: Sequence[Job], bench: Bench) -> None:
    for job in chunk:
        for kind in job.kinds:
            remove_unfinished(bench.store.path(kind, job.recording))


def _killed(_chunk: Sequence[Job]) -> NoReturn:
    raise DataError(
        "a worker process was ended by the system, most likely for lack of memory; what was finished is kept - go "
        "on with: --jobs 1"
    )


def _by_recording(analyses: Mapping[Job, Analysis]) -> dict[Path, Analysis]:
    """The same by the recording, where each has one job."""
    return {job.recording: analysis for job, analysis in analyses.items()}
