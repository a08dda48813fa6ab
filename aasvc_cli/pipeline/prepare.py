"""From two speakers' recordings to checked pairs with features.

Every recording is decoded once, by a worker process that checks it and computes its features. What it finds out is kept
with the features, so that a second run decodes only what is missing or has changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import resample
from aasvc_cli.config.settings import Config
from aasvc_cli.data.corpus import Recordings, clean_name, locate
from aasvc_cli.data.manifest import SETS, UNASSIGNED, Finding, Manifest, ParallelPair, read_manifest, write_manifest
from aasvc_cli.data.matching import match
from aasvc_cli.data.splitting import split
from aasvc_cli.errors import AasvcError, AudioError, DataError, Interrupted
from aasvc_cli.features.kinds import extract, feature_key
from aasvc_cli.features.store import FeatureStore, recording_stamp
from aasvc_cli.storage.files import remove_file, remove_unfinished, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.workers import Workers, core_count

MIN_TRAIN_PAIRS = 2
MIN_SECONDS = 0.1
SILENT_PEAK = 1e-3
"""-60 dB of full scale: nothing but the noise of the converter."""
FULL_SCALE = 0.9995
CLIPPED_NOTE = 1e-3
"""Share of samples at full scale from which on clipping is worth a note: it can be heard."""
CLIPPED_TOO_MUCH = 0.02
"""Share of samples at full scale from which on a recording is distorted throughout."""
RATIO_MIN_PAIRS = 5
RATIO_SPREAD_FLOOR = 0.05
"""Smallest spread of log duration ratios: speech varies that much even if the data at hand does not."""
RATIO_NOTE = (5.0, math.log(1.3))
RATIO_TOO_FAR = (10.0, math.log(2.0))
"""A ratio is far off beyond that many spreads *and* that much in itself, such as a factor of 2."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found and made.

    Attributes:
        name: of the prepared set; other commands take it as ``--data``
        n_pairs: good pairs of each set
        n_matched: pairs before the checks
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
    source_seconds: float
    target_seconds: float
    findings: tuple[Finding, ...]
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
    dev: str | None = None,
    evaluation: str | None = None,
    seed: int = 1,
    jobs: int | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Match, check and split the recordings of two speakers, compute what features are missing, and write a manifest.

    Args:
        corpus, source, target: see :func:`aasvc_cli.data.corpus.locate`
        name: of the prepared set; by default ``<source speaker>_<target speaker>``
        dev, evaluation: a count, a fraction or a file of utterance ids. A corpus that has these sets keeps them unless
            they are given; then their pairs return to the training data and new ones are drawn from all of it.
        seed: of the draw
        jobs: processes; None for one per core
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
    ours, theirs = locate(home, corpus, source, target)
    name = _check_name(home, name, ours, theirs, overwrite)
    matching = match(ours, theirs)
    candidates = matching.pairs
    store = FeatureStore(home.features, config.features, feature_key)
    _assign_sets(candidates, candidates, dev, evaluation, seed)  # an impossible split is told before hours of analysis
    analyses = _analyse_all(candidates, config, store, jobs, on_progress)

    store.remove_leftovers()
    good, breaking, findings = check_pairs(candidates, analyses, config)
    findings = matching.findings + findings
    sets = _assign_sets(good, candidates, dev, evaluation, seed)
    smallest = smallest_frames_per_token([pair for _, pair in [*good, *breaking]], config)
    _check_enough(sets, findings, len(breaking), smallest, config)

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
        n_matched=len(candidates),
        source_seconds=math.fsum(pair.source_seconds for pair in kept),
        target_seconds=math.fsum(pair.target_seconds for pair in kept),
        findings=tuple(findings),
        frames_per_token=config.model.frames_per_token,
        n_breaking=len(breaking),
        smallest_frames_per_token=smallest,
        n_computed=len(computed),
        n_fresh=len(analyses) - len(computed),
        analysed_seconds=math.fsum(analysis.facts.seconds for analysis in computed if analysis.facts),
        elapsed_seconds=time.perf_counter() - began,
    )
    _drop_stale_stats(home, manifest)
    write_json(report.report, report.to_tree())
    write_manifest(home, manifest)
    return report


# --- one recording --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the checks need to know about a recording; kept with its features."""

    seconds: float
    sample_rate: int
    n_frames: int
    peak: float
    full_scale_share: float


@dataclass(frozen=True)
class Analysis:
    """The outcome of one recording.

    Attributes:
        facts: None if it could not be decoded
        code, message: why it cannot be used; empty if it can
        computed: whether it was decoded now
        fatal: an error that stops the run, because the next recording would fail in the same way
    """

    facts: Facts | None
    code: str = ""
    message: str = ""
    computed: bool = True
    fatal: AasvcError | None = None


def analyse(recording: Path, kinds: Sequence[str], store: FeatureStore) -> Analysis:
    """Check one recording and compute those of its features that are missing; never raises for a bad recording."""
    try:
        known = [store.facts(kind, recording) for kind in kinds]
        missing = [kind for kind, facts in zip(kinds, known, strict=True) if not facts]
        if not missing:
            return Analysis(Facts(**known[0]), computed=False)  # type: ignore[arg-type]  # none is None
        stamp = recording_stamp(recording)
        wave, sample_rate = read_audio(recording)
        mel = store.config.mel
        facts, fault = _examine(wave, sample_rate, mel.sample_rate / mel.hop_length)
        if fault:
            return Analysis(facts, *fault)
        wave = resample(wave, sample_rate, mel.sample_rate)
        for kind in missing:
            feature = extract(kind, wave, store.config)
            facts = dataclasses.replace(facts, n_frames=len(feature))
            store.save(kind, recording, feature, facts=dataclasses.asdict(facts), stamp=stamp)
        return Analysis(facts)
    except AudioError as error:
        # the caller names the file, too
        return Analysis(None, error.code, str(error).removeprefix(f"{recording}: "))
    except DataError as error:
        return Analysis(None, "unreadable", str(error).removeprefix(f"{recording}: "))
    except AasvcError as error:
        return Analysis(None, fatal=error)
    except Exception as error:  # a worker must not take the whole run down for one recording
        return Analysis(None, "unreadable", f"analysis failed ({type(error).__name__}: {error})")


def _examine(wave: np.ndarray[Any, Any], sample_rate: int, frame_rate: float) -> tuple[Facts, tuple[str, str] | None]:
    """Facts (with a preliminary number of frames), and the code and message of a fault that rules a recording out."""
    peak = float(max(wave.max(), -wave.min()))
    share = float(np.count_nonzero(np.abs(wave) >= FULL_SCALE)) / len(wave) if peak >= FULL_SCALE else 0.0
    seconds = len(wave) / sample_rate
    facts = Facts(seconds, sample_rate, int(seconds * frame_rate) + 1, peak, share)
    if seconds < MIN_SECONDS:
        return facts, ("too_short", f"lasts {seconds:.3f} s; expected {MIN_SECONDS:g} s or more")
    if peak < SILENT_PEAK:
        level = f"{20 * math.log10(peak):.0f} dB" if peak else "digital silence"
        return facts, (
            "silent",
            f"is silent (peak: {level}); expected a peak above {20 * math.log10(SILENT_PEAK):.0f} dB",
        )
    if share >= CLIPPED_TOO_MUCH:
        return facts, (
            "clipped",
            f"is clipped: {share:.1%} of its samples are at full scale; record it at a lower level",
        )
    return facts, None


# --- all recordings -------------------------------------------------------------------------------------------------

_CHUNK = 8
"""Recordings per task: enough to hide the cost of handing over a task, few enough for a smooth progress bar."""

Job = tuple[Path, tuple[str, ...]]


def _analyse_all(
    candidates: Sequence[tuple[str, ParallelPair]],
    config: Config,
    store: FeatureStore,
    jobs: int | None,
    on_progress: Progress | None,
) -> dict[Path, Analysis]:
    kinds: dict[Path, dict[str, None]] = {}  # ordered sets: a recording may serve in several roles
    features = config.features
    for _, pair in candidates:
        kinds.setdefault(pair.source, {}).update({features.source: None, features.duration: None})
        kinds.setdefault(pair.target, {}).update({features.target: None})
        if config.loss.prior == "content":
            for recording in (pair.source, pair.target):
                kinds[recording]["content"] = None
    work: list[Job] = [(recording, tuple(wanted)) for recording, wanted in kinds.items()]
    analyses: dict[Path, Analysis] = {}
    if on_progress:
        on_progress(0, len(work))
    try:
        with contextlib.closing(_run(work, store, jobs)) as found:
            for recording, analysis in found:
                if analysis.fatal is not None:
                    raise analysis.fatal
                analyses[recording] = analysis
                if on_progress:
                    on_progress(len(analyses), len(work))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after {len(analyses)} of {len(work)} recordings; they are kept, and the same command goes on"
        ) from None
    return analyses


def _run(work: list[Job], store: FeatureStore, jobs: int | None) -> Generator[tuple[Path, Analysis], None, None]:
    """Analyse recordings, in processes if there are enough of both; yields in any order."""
    chunks = [work[start : start + _CHUNK] for start in range(0, len(work), _CHUNK)]
    n_jobs = min(jobs or core_count(), len(chunks))
    if n_jobs == 1:
        for recording, kinds in work:
            yield recording, analyse(recording, kinds, store)
        return
    analyse_chunk, sweep = partial(_analyse_chunk, store=store), partial(_sweep_chunk, store=store)
    with Workers(n_jobs) as workers:
        for analyses in workers.spread(analyse_chunk, chunks, killed=_killed, sweep=sweep):
            yield from analyses


def _analyse_chunk(chunk: Sequence[Job], store: FeatureStore) -> list[tuple[Path, Analysis]]:
    results = []
    for recording, kinds in chunk:
        results.append((recording, analyse(recording, kinds, store)))
        if results[-1][1].fatal is not None:
            break
    return results


def _sweep_chunk(chunk: Sequence[Job], store: FeatureStore) -> None:
    for recording, kinds in chunk:
        for kind in kinds:
            remove_unfinished(store.path(kind, recording))


def _killed(_chunk: Sequence[Job]) -> NoReturn:
    raise DataError(
        "a worker process was ended by the system, most likely for lack of memory; what was finished is kept - go "
        "on with: --jobs 1"
    )


# --- pairs ----------------------------------------------------------------------------------------------------------

Candidates = Sequence[tuple[str, ParallelPair]]


def check_pairs(
    candidates: Candidates, analyses: Mapping[Path, Analysis], config: Config
) -> tuple[list[tuple[str, ParallelPair]], list[tuple[str, ParallelPair]], list[Finding]]:
    """Sort pairs out.

    Returns:
        good pairs with their lengths filled in; pairs that are good but for the model's condition
        ``source_frames // source_frames_per_token <= target_frames``; everything noticed
    """
    findings: list[Finding] = []
    usable: list[tuple[str, ParallelPair]] = []
    for name, pair in candidates:
        sides = {"source": analyses[pair.source], "target": analyses[pair.target]}
        found = [
            note for side, analysis in sides.items() for note in _recording_findings(name, pair, side, analysis, config)
        ]
        source, target = sides["source"].facts, sides["target"].facts
        if source and target and source.sample_rate != target.sample_rate:
            message = f"source has {source.sample_rate} Hz, target {target.sample_rate} Hz; both are resampled"
            found.append(Finding(pair.utterance_id, name, "", "rates_differ", False, message))
        findings += found
        if source and target and not any(finding.excluded for finding in found):
            lengths = dataclasses.replace(
                pair,
                source_frames=source.n_frames,
                target_frames=target.n_frames,
                source_seconds=source.seconds,
                target_seconds=target.seconds,
            )
            usable.append((name, lengths))

    far = _ratio_findings(usable)
    findings += far
    off = {(finding.set, finding.utterance_id) for finding in far if finding.excluded}
    good, breaking = [], []
    for name, pair in usable:
        if (name, pair.utterance_id) in off:
            continue
        message = _condition_broken(pair, config)
        if message:
            findings.append(Finding(pair.utterance_id, name, "", "too_many_tokens", True, message))
            breaking.append((name, pair))
        else:
            good.append((name, pair))
    return good, breaking, findings


def smallest_frames_per_token(pairs: Iterable[ParallelPair], config: Config) -> int | None:
    """The smallest reduction factor at which every pair has at most as many source tokens as target frames."""
    model = config.model
    # floor(S / k) <= T holds from k = floor(S / (T + 1)) + 1 on
    needed = [pair.source_frames // (pair.target_frames // model.target_stack + 1) + 1 for pair in pairs]
    return math.ceil(max(needed) / model.source_stack) if needed else None


def _condition_broken(pair: ParallelPair, config: Config) -> str:
    model = config.model
    tokens, steps = model.tokens_and_steps(pair.source_frames, pair.target_frames)
    if tokens <= steps:
        return ""
    needed = smallest_frames_per_token([pair], config)
    return (
        f"has {tokens} source tokens (frames_per_token {model.frames_per_token}) for {steps} target frames; the model "
        f"needs at least one frame per token, which takes frames_per_token {needed}"
    )


def _recording_findings(
    name: str, pair: ParallelPair, side: str, analysis: Analysis, config: Config
) -> Iterator[Finding]:
    path = pair.source if side == "source" else pair.target

    def finding(code: str, excluded: bool, message: str) -> Finding:
        return Finding(pair.utterance_id, name, side, code, excluded, f"{path} {message}")

    if analysis.code:
        yield finding(analysis.code, True, analysis.message)
        return
    facts = analysis.facts
    if facts is None:
        return
    if facts.full_scale_share >= CLIPPED_NOTE:
        yield finding(
            "clipped", False, f"is clipped a little: {facts.full_scale_share:.2%} of its samples are at full scale"
        )
    rate = config.features.mel.sample_rate
    if facts.sample_rate < rate:
        yield finding(
            "low_rate",
            False,
            f"has {facts.sample_rate} Hz, below the {rate} Hz of the model; its upper bands are empty",
        )
    least = config.model.source_frames_per_token if side == "source" else config.model.target_stack
    if facts.n_frames < least:
        yield finding("too_short", True, f"has {facts.n_frames} frames; the model needs {least} or more")


def _ratio_findings(pairs: Candidates) -> list[Finding]:
    """Pairs whose duration ratio is far from the median of all, measured in median absolute deviations."""
    if len(pairs) < RATIO_MIN_PAIRS:
        return []
    ratios = [math.log(pair.target_seconds / pair.source_seconds) for _, pair in pairs]
    middle = statistics.median(ratios)
    # 1.4826 makes the median absolute deviation the standard deviation of a normal distribution
    spread = max(RATIO_SPREAD_FLOOR, 1.4826 * statistics.median(abs(ratio - middle) for ratio in ratios))
    findings = []
    for (name, pair), ratio in zip(pairs, ratios, strict=True):
        distance = abs(ratio - middle)
        excluded = distance > spread * RATIO_TOO_FAR[0] and distance > RATIO_TOO_FAR[1]
        if excluded or (distance > spread * RATIO_NOTE[0] and distance > RATIO_NOTE[1]):
            message = (
                f"the target lasts {math.exp(ratio):.2f} times as long as the source ({pair.target_seconds:.2f} s, "
                f"{pair.source_seconds:.2f} s), usually it is {math.exp(middle):.2f} times; is it the same sentence?"
            )
            findings.append(Finding(pair.utterance_id, name, "", "duration_ratio", excluded, message))
    return findings


# --- the whole ------------------------------------------------------------------------------------------------------


def _check_name(home: Home, name: str | None, ours: Recordings, theirs: Recordings, overwrite: bool) -> str:
    """The name of the prepared set, if it is free or stands for the same folders."""
    if name is None:
        name = f"{ours.speaker}_{theirs.speaker}"
    elif clean_name(name) != name:
        raise DataError(
            f"--name {name}: expected letters, digits, dots, dashes and underscores, e.g. {clean_name(name)}"
        )
    try:
        old = read_manifest(home, name)
    except AasvcError:
        return name  # there is none, or it is of no use any more
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
    good: Candidates, candidates: Candidates, dev: str | None, evaluation: str | None, seed: int
) -> dict[str, tuple[ParallelPair, ...]]:
    """Keep the corpus' own sets; draw those that are asked for or that it does not have."""
    own = {name for name, _ in candidates}
    draw = {key: wanted for key, wanted in (("dev", dev), ("eval", evaluation)) if wanted is not None or key not in own}
    pool = [pair for name, pair in good if name in (UNASSIGNED, "train") or name in draw]
    sets: dict[str, list[ParallelPair]] = {key: [] for key in SETS}
    for name, pair in good:
        if name in sets and name != "train" and name not in draw:
            sets[name].append(pair)
    known = [pair.utterance_id for _, pair in candidates]
    for key, pair in zip(split([pair.utterance_id for pair in pool], draw, seed=seed, known=known), pool, strict=True):
        sets[key].append(pair)
    return {key: tuple(sorted(sets[key], key=lambda pair: pair.utterance_id)) for key in SETS}


def _check_enough(
    sets: Mapping[str, Sequence[ParallelPair]],
    findings: Sequence[Finding],
    n_breaking: int,
    smallest: int | None,
    config: Config,
) -> None:
    if len(sets["train"]) >= MIN_TRAIN_PAIRS and sets["dev"]:
        return
    excluded = Counter(finding.code for finding in findings if finding.excluded)
    first = next((finding for finding in findings if finding.excluded), None)
    why = f"; left out: {', '.join(f'{count} {code}' for code, count in excluded.most_common())}" if excluded else ""
    if first:
        why += f" (first: {first.utterance_id or 'all'}: {first.message})"
    cure = "add recordings, or ask for a smaller --dev and --eval"
    if n_breaking and smallest is not None and smallest > config.model.frames_per_token:
        cure = f"set model.frames_per_token to {smallest}, which all pairs satisfy"
    raise DataError(
        f"too few good pairs: {len(sets['train'])} to train on and {len(sets['dev'])} for dev, expected at least "
        f"{MIN_TRAIN_PAIRS} and 1{why}; {cure}"
    )
