"""From two speakers' recordings to checked pairs with features.

Recordings are matched, measured, trimmed and turned into features; long pairs are cut; pairs are checked and split.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aasvc_cli.audio.mel import at_sample_rate
from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Analysis, Bench, Job, Spread
from aasvc_cli.data.checks import (
    Candidate,
    Pairs,
    advise,
    check_enough,
    check_pairs,
    refuse_same_speaker,
    smallest_frames_per_token,
)
from aasvc_cli.data.corpus import Recordings, clean_name, locate_all
from aasvc_cli.data.excerpts import Cut, Progress, analyse_all, excerpted, first_jobs
from aasvc_cli.data.manifest import SETS, UNASSIGNED, Finding, Manifest, ParallelPair, read_manifest, write_manifest
from aasvc_cli.data.preparation import MeasuredPair, PartReport, PrepareReport, Ranked
from aasvc_cli.data.ranking import RANKING_FILE, fits_of, to_drop, write_ranking
from aasvc_cli.data.sources import by_speaker, joint_name, match_all, sentences
from aasvc_cli.data.splitting import split
from aasvc_cli.data.spoken_texts import spoken_texts
from aasvc_cli.data.wording import FEWEST_PAIRS, limits
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.features.kinds import storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.measures.judges import Recogniser
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


def prepare(
    home: Home,
    config: Config,
    *,
    corpus: str | Path | None = None,
    source: str | Path | Sequence[str | Path] | None = None,
    target: str | Path | None = None,
    name: str | None = None,
    pairs: str | Path | None = None,
    training: str | None = None,
    dev: str | None = None,
    evaluation: str | None = None,
    drop: str | None = None,
    recogniser: Recogniser | None = None,
    language: str | None = None,
    trim: bool | None = None,
    loudness: bool = False,
    sample_rate: int | None = None,
    max_seconds: float = MAX_SECONDS,
    seed: int = 1,
    jobs: int | None = None,
    workers: Workers | None = None,
    overwrite: bool = False,
    shard: Shard | None = None,
    on_progress: Progress | None = None,
) -> PrepareReport | PartReport:
    """Match, check and split the recordings of two speakers, compute what features are missing, and write a manifest.

    Args:
        corpus, source, target: see :func:`aasvc_cli.data.corpus.locate`; several sources are learnt together
        name: of the prepared set; by default ``<source speaker>_<target speaker>``
        pairs: a table of source, target and perhaps text, in place of matching by name
        training: as ``dev``; what is left is used for nothing then, and the batch follows the published series
        drop: pairs to leave out: so many of the worst, those that a ranking calls wrong, or a list of names
        recogniser: tells what both sides of each pair say, which then decides which pairs hold different words
        language: of the sentences, for the recogniser; None to guess it from the script of their texts
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
        shard: analyse only this part of the pairs, and write no manifest
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
    ours, theirs = locate_all(home, corpus, _listed(source), target)
    name = _check_name(home, name, ours, theirs, overwrite)
    matching = match_all(ours, theirs, Path(pairs).expanduser() if pairs is not None else None)
    requested = {"train": training, "dev": dev, "eval": evaluation}
    bench = Bench(
        store=FeatureStore(home.features, config.features, storage_key),
        cache=ResultCache(home.cache),
        folder=home.prepared / name / "recordings",
        trim=config.features.trim if trim is None else trim,
        max_seconds=_longest(max_seconds, config),
    )
    parts = Parts(home.prepared / name / "parts")
    if not _may_be_cut(matching.pairs, bench.max_seconds):  # an impossible split is reported before the analysis
        _assign_together(matching.pairs, matching.pairs, requested, seed)
    with workers or Workers(jobs or core_count()) as pool:
        spread = partial(each_in_chunks, pool)
        if shard is not None:
            share = shard.of(matching.pairs, "pairs")
            n_computed = _work_on_part(share, config, bench, spread, loudness, on_progress)
            parts.mark(shard)
            return PartReport(name, str(shard), len(share), n_computed, time.perf_counter() - began)
        works = [  # what is usual depends on who speaks
            _work(
                own,
                each.n_files + theirs.n_files,
                config,
                bench,
                spread,
                loudness,
                recogniser,
                language,
                on_progress,
            )
            for each, own in zip(ours, by_speaker(matching.pairs), strict=True)
        ]
    work = works[0] if len(works) == 1 else _joined(works)
    bench.store.remove_leftovers()
    analyses, candidates, good, breaking = work.analyses, work.candidates, work.good, work.breaking
    dropped, named = _judge(work, drop)
    good = [each for each in good if each[1].utterance_id not in dropped]
    findings = [*matching.findings, *work.findings, *named]
    everything = [*matching.pairs, *((each.set, each.pair) for each in candidates)]
    sets = _assign_together(good, everything, requested, seed)
    smallest = smallest_frames_per_token(pair for _, pair in [*good, *breaking])
    check_enough(sets, findings, len(breaking), smallest, config)
    ranking = home.prepared / name / RANKING_FILE
    advice = _advice(works, ours, theirs, config, findings, ranking)
    advice += [note] if (note := parts.note()) else []
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
        source_speaker=joint_name([each.speaker for each in ours]),
        target_speaker=theirs.speaker,
        config=config,
        sets=sets,
        excluded=[(each.utterance_id, each.set, f"{each.code}: {each.message}") for each in findings if each.excluded],
        source_root=ours[0].root.absolute(),
        target_root=theirs.root.absolute(),
        more_source_roots=tuple(each.root.absolute() for each in ours[1:]),
    )
    computed = [analysis for analysis in analyses.values() if analysis.computed]
    kept = [pair for key in SETS for pair in sets[key]]
    report = PrepareReport(
        name=name,
        manifest=home.prepared / name / "manifest.json",
        report=home.prepared / name / "report.json",
        source_speaker=manifest.source_speaker,
        target_speaker=theirs.speaker,
        n_pairs_of=dict(Counter(pair.speaker for pair in kept)) if len(ours) > 1 else {},
        n_pairs={key: len(sets[key]) for key in SETS},
        n_matched=len(matching.pairs),
        matched_by=dict(matching.rules),
        source_seconds=math.fsum(pair.source_seconds for pair in kept),
        target_seconds=math.fsum({pair.target: pair.target_seconds for pair in kept}.values()),
        ranking=ranking if work.ranked else None,
        trimmed_seconds=_trimmed_seconds(candidates) if bench.trim else 0.0,
        cuts=tuple(work.cuts),
        findings=tuple(findings),
        measured=_measured(work),
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
    if work.ranked:
        write_ranking(ranking, [each.row() for each in work.ranked])
    write_json(report.report, report.to_tree())
    write_manifest(home, manifest)
    parts.clear()
    _remove_others(bench.folder, {path for _, pair in [*work.good, *breaking] for path in (pair.source, pair.target)})
    return report


@dataclass(frozen=True)
class _Work:
    """What came of the recordings.

    Attributes:
        good, breaking, findings: as of :func:`aasvc_cli.data.checks.check_pairs`
        ranked: the good pairs, the worst first; empty if their content tells nothing
        usual: misfit of a usual pair, by source speaker
    """

    analyses: Mapping[Job, Analysis]
    candidates: Sequence[Candidate]
    cuts: Sequence[Cut]
    good: Pairs
    breaking: Pairs
    findings: Sequence[Finding]
    ranked: Sequence[Ranked]
    usual: Mapping[str, float]


def _work_on_part(
    pairs: Pairs, config: Config, bench: Bench, spread: Spread, loudness: bool, on_progress: Progress | None
) -> int:
    """Decode the recordings of some pairs and keep what comes of it; how many had to be."""
    analyses = analyse_all(first_jobs(pairs, config, loudness=loudness), bench, spread, on_progress)
    by_recording = {job.recording: analysis for job, analysis in analyses.items()}
    candidates = [Candidate(where, pair, by_recording[pair.source], by_recording[pair.target]) for where, pair in pairs]
    if not loudness:  # what is usual is known only of all recordings
        excerpted(candidates, config, bench, spread, loudness=False)
    return sum(analysis.computed for analysis in analyses.values())


def _work(
    pairs: Pairs,
    n_files: int,
    config: Config,
    bench: Bench,
    spread: Spread,
    loudness: bool,
    recogniser: Recogniser | None,
    language: str | None,
    on_progress: Progress | None,
) -> _Work:
    """Everything that decodes recordings."""
    analyses = analyse_all(first_jobs(pairs, config, loudness=loudness), bench, spread, on_progress)
    by_recording = {job.recording: analysis for job, analysis in analyses.items()}
    candidates = [Candidate(where, pair, by_recording[pair.source], by_recording[pair.target]) for where, pair in pairs]
    refuse_same_speaker(candidates, n_files)
    candidates, long_ones, cuts = excerpted(candidates, config, bench, spread, loudness=loudness)
    good, breaking, noticed = check_pairs(candidates, config)
    fits = fits_of([pair for _, pair in good], bench.cache, spread) if len(good) >= FEWEST_PAIRS else []
    bounds = limits(fits)
    ranked = [
        Ranked(where, pair.utterance_id, each, "" if bounds is None else bounds.verdict(each.misfit))
        for (where, pair), each in zip(good, fits, strict=False)
    ]
    if recogniser is not None:
        texts = spoken_texts([pair for _, pair in good], recogniser, language, bench.cache, on_progress)
        ranked = [
            dataclasses.replace(each, texts=both, verdict=both.verdict)
            for each, both in zip(ranked, texts, strict=False)
        ]
    elif bounds is None:
        ranked = []
    ranked.sort(key=_worst_first)
    usual = {pairs[0][1].speaker: 0.0 if bounds is None else bounds.usual}
    return _Work(analyses, candidates, cuts, good, breaking, [*long_ones, *noticed], ranked, usual)


def _worst_first(ranked: Ranked) -> tuple[float | str, ...]:
    return *(-value for value in ranked.badness), ranked.utterance_id


def _joined(works: Sequence[_Work]) -> _Work:
    """What came of the recordings of several sources; those of the target are analysed with the first."""
    return _Work(
        analyses={job: analysis for work in reversed(works) for job, analysis in work.analyses.items()},
        candidates=[each for work in works for each in work.candidates],
        cuts=[each for work in works for each in work.cuts],
        good=[each for work in works for each in work.good],
        breaking=[each for work in works for each in work.breaking],
        findings=[each for work in works for each in work.findings],
        ranked=sorted((each for work in works for each in work.ranked), key=_worst_first),
        usual={speaker: usual for work in works for speaker, usual in work.usual.items()},
    )


def _advice(
    works: Sequence[_Work],
    ours: Sequence[Recordings],
    theirs: Recordings,
    config: Config,
    findings: Sequence[Finding],
    ranking: Path,
) -> list[str]:
    """What to do about the recordings as a whole, of several sources with the name of each."""
    if len(ours) == 1:
        return advise(works[0].candidates, (ours[0].speaker, theirs.speaker), config, findings, ranking)
    advice = []
    for work, each in zip(works, ours, strict=True):
        own = [finding for finding in findings if finding.utterance_id.startswith(f"{each.speaker}/")]
        about = advise(work.candidates, (each.speaker, theirs.speaker), config, own, ranking)
        advice += [f"{each.speaker}: {sentence}" for sentence in about]
    return advice


def _judge(work: _Work, drop: str | None) -> tuple[set[str], list[Finding]]:
    """Names of the pairs that are to be left out, and findings about those and about what does not fit."""
    dropped: set[str] = set()
    if drop is not None:
        names = [pair.utterance_id for _, pair in work.good]
        others = [each.pair.utterance_id for each in work.candidates]
        dropped = to_drop(drop, [each.utterance_id for each in work.ranked], [*names, *others])
    findings = []
    misfits = {each.utterance_id: each for each in work.ranked}
    for where, pair in work.good:
        each = misfits.get(pair.utterance_id)
        if pair.utterance_id in dropped:
            findings.append(Finding(pair.utterance_id, where, "", "dropped", True, f"left out by --drop {drop}"))
        elif each is not None and each.verdict:
            code = {"wrong": "different_words", "near": "unlike"}[each.verdict]
            findings.append(Finding(pair.utterance_id, where, "", code, False, each.message(work.usual[pair.speaker])))
    return dropped, findings


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


def _measured(work: _Work) -> tuple[MeasuredPair, ...]:
    """What is known of each pair both of whose recordings could be read."""
    misfits = {(each.set, each.utterance_id): each.fit.misfit for each in work.ranked}
    good = {(where, pair.utterance_id) for where, pair in work.good}
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
        for each in work.candidates
        if each.facts is not None
    )


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


def _listed(source: str | Path | Sequence[str | Path] | None) -> list[str | Path]:
    if source is None:
        return []
    return [source] if isinstance(source, (str, Path)) else list(source)


def _check_name(home: Home, name: str | None, ours: Sequence[Recordings], theirs: Recordings, overwrite: bool) -> str:
    """The name of the prepared set, if it is free or of the same folders."""
    if name is None:
        name = f"{joint_name([each.speaker for each in ours])}_{theirs.speaker}"
    elif clean_name(name) != name:
        raise DataError(
            f"--name {name}: expected letters, digits, dots, dashes and underscores, e.g. {clean_name(name)}"
        )
    try:
        old = read_manifest(home, name)
    except AasvcError:
        return name  # missing, or no longer usable
    roots = (*(each.root.absolute() for each in ours), theirs.root.absolute())
    known = (*old.source_roots, old.target_root)
    if not overwrite and known != roots:
        raise DataError(
            f"prepared data named {name} already stands for {' and '.join(map(str, known))}; choose another "
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


def _assign_together(
    good: Pairs, candidates: Pairs, requested: Mapping[str, str | None], seed: int
) -> dict[str, tuple[ParallelPair, ...]]:
    """:func:`_assign_sets`, where what several speakers say is in one set, as the target says it only once.

    Counts, fractions and lists are of sentences then, each with all who say it.
    """
    if not any(pair.speaker for _, pair in candidates):
        return _assign_sets(good, candidates, requested, seed)
    said = sentences(candidates)

    def once(pairs: Pairs) -> Pairs:
        named = {said[pair.utterance_id]: (where, pair) for where, pair in pairs}
        return [(where, dataclasses.replace(pair, utterance_id=name)) for name, (where, pair) in named.items()]

    drawn = _assign_sets(once(good), once(candidates), requested, seed)
    places = {pair.utterance_id: key for key, pairs in drawn.items() for pair in pairs}
    sets: dict[str, list[ParallelPair]] = {key: [] for key in SETS}
    for _, pair in sorted(good, key=lambda each: each[1].utterance_id):
        if (key := places.get(said[pair.utterance_id])) is not None:
            sets[key].append(pair)
    return {key: tuple(pairs) for key, pairs in sets.items()}


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
