"""From two speakers' recordings to checked pairs with features.

Recordings are matched, measured, trimmed and turned into features; long pairs are cut; pairs are checked and split.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aasvc_cli.audio.files import list_sounds
from aasvc_cli.audio.mel import at_sample_rate
from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Bench
from aasvc_cli.data.assignment import assign_sets
from aasvc_cli.data.checks import (
    Candidate,
    Pairs,
    advise,
    check_enough,
    smallest_frames_per_token,
)
from aasvc_cli.data.corpus import Recordings, clean_name, locate_all
from aasvc_cli.data.examination import Examined, Examiner, joined
from aasvc_cli.data.excerpts import Progress, usual_loudness
from aasvc_cli.data.manifest import (
    SETS,
    Finding,
    Manifest,
    ParallelPair,
    has_same_training_set,
    prepared_roots,
    write_manifest,
)
from aasvc_cli.data.matching import Matching
from aasvc_cli.data.preparation import MeasuredPair, PartReport, PrepareReport
from aasvc_cli.data.ranking import RANKING_FILE, to_drop, write_ranking
from aasvc_cli.data.reconstruction import Reconstruction, Reconstructor, refuse_speaker_dependent
from aasvc_cli.data.sources import by_speaker, joint_name, match_all
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.features.kinds import check_kinds, from_anywhere, storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.measures.judges import Recogniser
from aasvc_cli.measures.recognition import listener
from aasvc_cli.storage.files import remove_file, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.parts import Parts, Shard
from aasvc_cli.storage.result_cache import ResultCache
from aasvc_cli.workers import Workers, core_count, each_in_chunks

MAX_SECONDS = 12.0
"""Of a pair: attention takes memory that grows with the square, and the longest pair decides for its whole batch."""
FEW_PAIRS = 10
SHORT_BYTES = 96_000
"""A smaller file holds less than 12 s even at 64 kbit/s."""
COLLECTION = (1_000_000, 100, 100)
"""How seldom garbage is collected while a corpus is prepared, see :func:`gc.set_threshold`."""


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare, and how.

    Attributes:
        corpus, source, target: see :func:`aasvc_cli.data.corpus.locate`; several sources are learnt together
        name: of the prepared set; by default ``<source speaker>_<target speaker>``
        extra_target: a folder of recordings of the target, those without a partner among them, that are trained on
            with changed copies of themselves as sources; so are the targets of the training pairs then
        pairs: a table of source, target and perhaps text, in place of matching by name
        training: as ``dev``; what is left is used for nothing then, and the batch follows the published series
        dev, evaluation: a count, a fraction or a file of utterance ids. A corpus that has these sets keeps them unless
            they are given; then their pairs return to the training data and new ones are drawn from all of it.
        drop: pairs to leave out: so many of the worst, those that a ranking calls wrong, or a list of names
        recogniser: tells what both sides of each pair say, which then decides which pairs hold different words
        language: of the sentences, for the recogniser; None for what the script of their texts or the
            recordings tell
        trim: leave the silence at both ends out; None for what the configuration says
        loudness: bring every recording to its speaker's usual level
        sample_rate: of the features, in place of the configuration's, in Hz
        max_seconds: longer pairs are cut at shared pauses, or left out; 0 for no limit but that of a batch
        seed: of the draw
        jobs: processes; None for one per core
        workers: of a cluster, in place of processes
        overwrite: replace a prepared set of the same name that stands for other folders
        shard: analyse only this part of the pairs, and write no manifest
        on_progress: told (done, all) recordings
    """

    corpus: str | Path | None = None
    source: str | Path | Sequence[str | Path] | None = None
    target: str | Path | None = None
    extra_target: str | Path | None = None
    name: str | None = None
    pairs: str | Path | None = None
    training: str | None = None
    dev: str | None = None
    evaluation: str | None = None
    drop: str | None = None
    recogniser: Recogniser | None = None
    language: str | None = None
    trim: bool | None = None
    loudness: bool = False
    sample_rate: int | None = None
    max_seconds: float = MAX_SECONDS
    seed: int = 1
    jobs: int | None = None
    workers: Workers | None = None
    overwrite: bool = False
    shard: Shard | None = None
    on_progress: Progress | None = None

    def draw(self, good: Pairs, candidates: Pairs) -> dict[str, tuple[ParallelPair, ...]]:
        """The sets, as of :func:`aasvc_cli.data.assignment.assign_sets`."""
        requested = {"train": self.training, "dev": self.dev, "eval": self.evaluation}
        return assign_sets(good, candidates, requested, self.seed)


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Millions of objects are made and stay: to look through them all for cycles, time and again, takes long."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTION)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@_seldom_collected()
def prepare(home: Home, config: Config, options: PrepareOptions = PrepareOptions()) -> PrepareReport | PartReport:
    """Match, check and split the recordings of two speakers, compute what features are missing, and write a manifest.

    Raises:
        DataError: nothing to match, too few good pairs, or no such encoder for the features; says why.
        MissingExtraError: a package that the features need is not installed.
        StorageError: features or manifest cannot be written.
        Interrupted: on Ctrl-C; what was computed is kept.
    """
    began = time.perf_counter()
    config = _with_sample_rate(config, options.sample_rate)
    check_kinds(config.features)  # what is not there is no fault of a recording
    config = dataclasses.replace(config, features=from_anywhere(config.features))
    speakers = _Speakers(*locate_all(home, options.corpus, _listed(options.source), options.target))
    alone = _alone(options.extra_target, config)
    name = _check_name(home, options.name, speakers, options.overwrite)
    matching = match_all(speakers.sources, speakers.target, _table(options.pairs))
    bench = _bench(home, name, config, options)
    if not _may_be_cut(matching.pairs, bench.max_seconds):  # an impossible split is reported before the analysis
        options.draw(matching.pairs, matching.pairs)
    parts = Parts(home.prepared / name / "parts")
    with _workers(options) as pool:
        examiner = _examiner(config, bench, pool, options, [pair for _, pair in matching.pairs])
        if options.shard is not None:
            return _decode_part(examiner, matching.pairs, name, options.shard, parts, began)
        by_source = _examine(examiner, matching.pairs, speakers)
        examined = joined(by_source)
        left_out = [finding.utterance_id for finding in (*matching.findings, *examined.findings)]
        good, noticed = _without_dropped(examined, options.drop, left_out)
        sets = options.draw(good, [*matching.pairs, *((each.set, each.pair) for each in examined.candidates)])
        extra = _reconstruct(alone, sets, examined, examiner)
    bench.store.remove_leftovers()
    findings = [*matching.findings, *examined.findings, *noticed, *extra.findings]
    smallest = smallest_frames_per_token(pair for _, pair in [*good, *examined.breaking])
    check_enough(sets, findings, len(examined.breaking), smallest, config)
    advice = _advice(by_source, speakers, config, findings, home.prepared / name / RANKING_FILE)
    advice += [note] if (note := parts.note()) else []
    advice += [examiner.listener.note] if examiner.listener and examiner.listener.note else []
    if options.training is not None:
        config, notes = _with_advised_batch(config, len(sets["train"]))
        advice += notes
    manifest = dataclasses.replace(_manifest(name, speakers, config, sets, findings), extra=extra.pairs)
    report = _report(home, manifest, matching, examined, findings, advice, smallest, trimmed=bench.trim, began=began)
    report = dataclasses.replace(report, n_extra=extra.n_recordings, extra_seconds=extra.seconds)
    _write(home, manifest, report, examined, bench.folder)
    parts.clear()
    return report


@dataclass(frozen=True)
class _Speakers:
    """The recordings of the source speakers and of the target."""

    sources: Sequence[Recordings]
    target: Recordings


def _with_sample_rate(config: Config, sample_rate: int | None) -> Config:
    """The configuration with features of that sample rate, or as it is."""
    if sample_rate is None:
        return config
    mel = at_sample_rate(config.features.mel, sample_rate)
    return dataclasses.replace(config, features=dataclasses.replace(config.features, mel=mel))


def _bench(home: Home, name: str, config: Config, options: PrepareOptions) -> Bench:
    """Where results are kept, and what of each recording is used."""
    return Bench(
        store=FeatureStore(home.features, config.features, storage_key),
        cache=ResultCache(home.cache),
        folder=home.prepared / name / "recordings",
        trim=config.features.trim if options.trim is None else options.trim,
        max_seconds=_longest(options.max_seconds, config),
    )


def _workers(options: PrepareOptions) -> Workers:
    if options.jobs is not None and options.jobs < 1:
        raise DataError(f"--jobs {options.jobs}: expected 1 or more")
    return options.workers or Workers(options.jobs or core_count())


def _examiner(
    config: Config, bench: Bench, pool: Workers, options: PrepareOptions, pairs: Sequence[ParallelPair]
) -> Examiner:
    listening = None
    if options.recogniser is not None and options.shard is None:  # parts are decoded only
        texts = (pair.text or "" for pair in pairs)
        targets = (pair.target for pair in pairs)
        listening = listener(options.recogniser, bench.cache, options.language, texts, targets)
    return Examiner(config, bench, partial(each_in_chunks, pool), options.loudness, listening, options.on_progress)


def _decode_part(examiner: Examiner, pairs: Pairs, name: str, shard: Shard, parts: Parts, began: float) -> PartReport:
    """Decode the recordings of one part, and mark it as done."""
    share = shard.of(pairs, "pairs")
    n_computed = examiner.decode_part(share)
    parts.mark(shard)
    return PartReport(name, str(shard), len(share), n_computed, time.perf_counter() - began)


def _examine(examiner: Examiner, pairs: Pairs, speakers: _Speakers) -> list[Examined]:
    """What came of the recordings of each source, as what is usual depends on who speaks."""
    return [
        examiner.examine(own, source.n_files + speakers.target.n_files)
        for source, own in zip(speakers.sources, by_speaker(pairs), strict=True)
    ]


def _alone(folder: str | Path | None, config: Config) -> tuple[Path, ...]:
    """The recordings in a folder of the target's; raises DataError if there are none, or if they are of no use."""
    if folder is None:
        return ()
    refuse_speaker_dependent(config)
    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        raise DataError(f"{path}: {'is a file' if path.exists() else 'no such folder'} (--extra-target)")
    recordings = list_sounds(Path(os.path.abspath(path))).recordings  # manifests are read from anywhere
    if not recordings:
        raise DataError(f"{path}: holds no recordings (--extra-target)")
    return recordings


def _reconstruct(
    alone: Sequence[Path], sets: Mapping[str, Sequence[ParallelPair]], examined: Examined, examiner: Examiner
) -> Reconstruction:
    """Pairs of changed copies with the targets of the training pairs, and with what else there is of the target.

    Targets of pairs that are not used, as their partner says something else, are among the latter.
    """
    if not alone:
        return Reconstruction()
    known = {each.pair.utterance_id: facts for each in examined.candidates if (facts := each.target.facts) is not None}
    usual = usual_loudness(facts.quality for facts in known.values()) if examiner.loudness else None
    reconstruct = Reconstructor(examiner.config, examiner.bench, examiner.spread, usual, examiner.on_progress)
    trained_on = dict.fromkeys(pair.target for pair in sets["train"])
    used = {pair.utterance_id for pairs in sets.values() for pair in pairs}
    return reconstruct(alone, [*trained_on], taken={known[name].samples for name in used & known.keys()})


def _advice(
    by_source: Sequence[Examined], speakers: _Speakers, config: Config, findings: Sequence[Finding], ranking: Path
) -> list[str]:
    """What to do about the recordings as a whole, of several sources with the name of each."""
    several = len(speakers.sources) > 1
    advice = []
    for examined, source in zip(by_source, speakers.sources, strict=True):
        name = source.speaker
        own = [finding for finding in findings if not several or finding.utterance_id.startswith(f"{name}/")]
        [misfit] = examined.usual.values()
        about = advise(examined.candidates, (name, speakers.target.speaker), config, own, ranking, misfit)
        advice += [f"{name}: {sentence}" if several else sentence for sentence in about]
    return advice


def _without_dropped(examined: Examined, drop: str | None, left_out: Sequence[str]) -> tuple[Pairs, list[Finding]]:
    """The good pairs that stay, and findings about those that do not and about those whose contents differ.

    Args:
        left_out: pairs that are not used for another reason, which ``drop`` may name all the same
    """
    dropped: set[str] = set()
    if drop is not None:
        names = [pair.utterance_id for _, pair in examined.good]
        others = [each.pair.utterance_id for each in examined.candidates]
        dropped = to_drop(drop, [each.utterance_id for each in examined.ranked], [*names, *others, *left_out])
    findings = []
    ranked = {each.utterance_id: each for each in examined.ranked}
    for where, pair in examined.good:
        rank = ranked.get(pair.utterance_id)
        if pair.utterance_id in dropped:
            findings.append(Finding(pair.utterance_id, where, "", "dropped", True, f"left out by --drop {drop}"))
        elif rank is not None and rank.verdict:
            code = {"wrong": "different_words", "near": "unlike"}[rank.verdict]
            message = rank.message(examined.usual[pair.speaker])
            findings.append(Finding(pair.utterance_id, where, "", code, False, message))
    return [each for each in examined.good if each[1].utterance_id not in dropped], findings


def _manifest(
    name: str,
    speakers: _Speakers,
    config: Config,
    sets: Mapping[str, tuple[ParallelPair, ...]],
    findings: Sequence[Finding],
) -> Manifest:
    first, *more = (each.root.absolute() for each in speakers.sources)
    return Manifest(
        name=name,
        source_speaker=joint_name([each.speaker for each in speakers.sources]),
        target_speaker=speakers.target.speaker,
        config=config,
        sets=sets,
        excluded=[(each.utterance_id, each.set, f"{each.code}: {each.message}") for each in findings if each.excluded],
        source_root=first,
        target_root=speakers.target.root.absolute(),
        more_source_roots=tuple(more),
    )


def _report(
    home: Home,
    manifest: Manifest,
    matching: Matching,
    examined: Examined,
    findings: Sequence[Finding],
    advice: Sequence[str],
    smallest_frames_per_token: int | None,
    *,
    trimmed: bool,
    began: float,
) -> PrepareReport:
    folder, config = home.prepared / manifest.name, manifest.config
    computed = [analysis for analysis in examined.analyses.values() if analysis.computed]
    kept = [pair for key in SETS for pair in manifest.sets[key]]
    return PrepareReport(
        name=manifest.name,
        manifest=folder / "manifest.json",
        report=folder / "report.json",
        source_speaker=manifest.source_speaker,
        target_speaker=manifest.target_speaker,
        n_pairs_of=dict(Counter(pair.speaker for pair in kept)) if manifest.more_source_roots else {},
        n_pairs={key: len(manifest.sets[key]) for key in SETS},
        n_matched=len(matching.pairs),
        matched_by=dict(matching.rules),
        source_seconds=math.fsum(pair.source_seconds for pair in kept),
        target_seconds=math.fsum({pair.target: pair.target_seconds for pair in kept}.values()),
        ranking=folder / RANKING_FILE if examined.ranked else None,
        trimmed_seconds=_trimmed_seconds(examined.candidates) if trimmed else 0.0,
        cuts=tuple(examined.cuts),
        findings=tuple(findings),
        measured=_measured(examined),
        advice=tuple(advice),
        sample_rate=config.features.mel.sample_rate,
        batch_size=config.train.batch_size * config.train.accum,
        frames_per_token=config.model.frames_per_token,
        n_breaking=len(examined.breaking),
        smallest_frames_per_token=smallest_frames_per_token,
        n_computed=len(computed),
        n_fresh=len(examined.analyses) - len(computed),
        analysed_seconds=math.fsum(analysis.facts.quality.seconds for analysis in computed if analysis.facts),
        elapsed_seconds=time.perf_counter() - began,
    )


def _write(home: Home, manifest: Manifest, report: PrepareReport, examined: Examined, recordings: Path) -> None:
    """Write everything, the manifest last, and remove what earlier runs have left of this set."""
    _drop_stale_stats(home, manifest)
    if report.ranking is not None:
        write_ranking(report.ranking, [each.row() for each in examined.ranked])
    write_json(report.report, report.to_tree())
    write_manifest(home, manifest)
    pairs = [*(pair for _, pair in (*examined.good, *examined.breaking)), *manifest.extra]
    _remove_others(recordings, {path for pair in pairs for path in (pair.source, pair.target)})


def _longest(max_seconds: float, config: Config) -> float:
    """Seconds of a pair, at most, so that it also fits into a batch; 0 for no limit."""
    if config.train.max_frames is None:
        return max_seconds
    most = (config.train.max_frames - 1) / config.features.mel.frames_per_second
    return min(max_seconds or most, most)


def _may_be_cut(pairs: Pairs, max_seconds: float) -> bool:
    """Whether there may be many more pairs in the end, as these are few and some are long."""
    return (
        max_seconds > 0
        and len(pairs) <= FEW_PAIRS
        and any(
            path.is_file() and path.stat().st_size > SHORT_BYTES
            for _, pair in pairs
            for path in (pair.source, pair.target)
        )
    )


def _measured(examined: Examined) -> tuple[MeasuredPair, ...]:
    """What is known of each pair both of whose recordings could be read."""
    misfits = {(each.set, each.utterance_id): each.fit.misfit for each in examined.ranked}
    good = {(where, pair.utterance_id) for where, pair in examined.good}
    return tuple(
        MeasuredPair(
            utterance_id=each.pair.utterance_id,
            set=each.set,
            text=each.pair.text,
            paths=(each.source.path or each.pair.source, each.target.path or each.pair.target),
            qualities=(each.facts[0].quality, each.facts[1].quality),
            seconds=(each.source.seconds, each.target.seconds),
            good=(each.set, each.pair.utterance_id) in good,
            misfit=misfits.get((each.set, each.pair.utterance_id)),
        )
        for each in examined.candidates
        if each.facts is not None
    )


def _trimmed_seconds(candidates: Sequence[Candidate]) -> float:
    """Silence at the ends of the recordings that was left out."""
    return math.fsum(
        facts.quality.seconds - analysis.seconds
        for each in candidates
        for analysis in (each.source, each.target)
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


def _with_advised_batch(config: Config, n_pairs: int) -> tuple[Config, list[str]]:
    """The effective batch of the published series for that many pairs, if the configuration's is larger; says so."""
    advised = next((batch for most, batch in ADVISED_BATCHES if n_pairs <= most), None)
    train = config.train
    usual = train.batch_size * train.accum
    if advised is None or usual <= advised:
        return config, []
    batch_size = math.gcd(train.batch_size, advised)
    train = dataclasses.replace(train, batch_size=batch_size, accum=advised // batch_size)
    note = (
        f"training takes {advised} pairs per step, as the published series does for {n_pairs} pairs, "
        f"in place of {usual}"
    )
    return dataclasses.replace(config, train=train), [note]


# --- names ------------------------------------------------------------------------------------------------------------


def _listed(source: str | Path | Sequence[str | Path] | None) -> list[str | Path]:
    if source is None:
        return []
    return [source] if isinstance(source, (str, Path)) else list(source)


def _table(pairs: str | Path | None) -> Path | None:
    return None if pairs is None else Path(os.path.expanduser(pairs))


def _check_name(home: Home, name: str | None, speakers: _Speakers, overwrite: bool) -> str:
    """The name of the prepared set, if it is free or of the same folders."""
    if name is None:
        name = f"{joint_name([each.speaker for each in speakers.sources])}_{speakers.target.speaker}"
    elif clean_name(name) != name:
        raise DataError(
            f"--name {name}: expected letters, digits, dots, dashes and underscores, e.g. {clean_name(name)}"
        )
    try:
        known = prepared_roots(home, name)
    except AasvcError:
        return name  # missing, or no longer usable
    roots = (*(each.root.absolute() for each in speakers.sources), speakers.target.root.absolute())
    if not overwrite and known != roots:
        raise DataError(
            f"prepared data named {name} already stands for {' and '.join(map(str, known))}; choose another "
            "--name, or replace it with --overwrite"
        )
    return name


def _drop_stale_stats(home: Home, manifest: Manifest) -> None:
    """Remove statistics of a training set or of features that this manifest replaces."""
    try:
        if has_same_training_set(home, manifest):
            return
    except AasvcError:
        pass  # no manifest, or one of no use: whatever statistics there are cannot be trusted
    for path in (home.stats / manifest.name).glob("*.json"):
        remove_file(path)
