"""What of all recordings is used: all of it or the speech in it, pieces of long pairs, and at which level."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.quality import Quality
from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import (
    Analysis,
    Bench,
    Excerpt,
    Facts,
    Job,
    Spread,
    analyse,
    default_excerpt,
    recall_all,
    write_excerpt,
)
from aasvc_cli.data.checks import Candidate, Pairs
from aasvc_cli.data.cutting import Piece, Take, cut_pair
from aasvc_cli.data.manifest import Finding, ParallelPair
from aasvc_cli.errors import DataError, Interrupted
from aasvc_cli.features.content import content, weights_identity
from aasvc_cli.features.shelf import PACK_FROM
from aasvc_cli.storage.files import remove_unfinished

Progress = Callable[[int, int], None]

_VERSION = 1
"""Counted up when :mod:`aasvc_cli.data.cutting` cuts elsewhere."""


@dataclass(frozen=True)
class Cut:
    """A long pair and what became of it.

    Attributes:
        seconds: of source and target
        pieces: names and places of its pieces, in order of time
    """

    utterance_id: str
    set: str
    seconds: tuple[float, float]
    pieces: Mapping[str, Piece]


# --- analysing --------------------------------------------------------------------------------------------------------


def first_jobs(pairs: Pairs, config: Config, *, loudness: bool) -> list[Job]:
    """Every recording once, for all features that it needs; with ``loudness``, all are measured first."""
    kinds: dict[Path, tuple[str, ...]] = {}
    of_source, of_target = kinds_of(config)
    for _, pair in pairs:
        for recording, wanted in ((pair.source, of_source), (pair.target, of_target)):
            known = kinds.setdefault(recording, wanted)
            if known is not wanted:  # it serves in several roles
                kinds[recording] = tuple(dict.fromkeys((*known, *wanted)))
    return [Job(recording, () if loudness else wanted) for recording, wanted in kinds.items()]


def kinds_of(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features of a source and of a target recording."""
    features = config.features
    both = ("content",) if config.loss.prior == "content" else ()
    return tuple(dict.fromkeys((features.source, features.duration, *both))), (features.target, *both)


def analyse_all(
    jobs: Sequence[Job], bench: Bench, spread: Spread, on_progress: Progress | None = None
) -> dict[Job, Analysis]:
    """Analyse recordings, in processes if there are enough of both.

    Raises:
        StorageError: features cannot be written.
        Interrupted: on Ctrl-C; what was computed is kept.
    """
    analyses: dict[Job, Analysis] = {}
    if on_progress:
        on_progress(0, len(jobs))
    work, sweep = partial(analyse, bench=bench), partial(_sweep, bench=bench)
    try:
        known = recall_all(jobs, bench)
        analyses |= known
        waiting = [job for job in jobs if job not in known]
        for job, analysis in spread(work, waiting, killed=worker_killed, sweep=sweep):
            if analysis.fatal is not None:
                raise analysis.fatal
            analyses[job] = analysis
            if on_progress:
                on_progress(len(analyses), len(jobs))
            if (len(analyses) - len(known)) % PACK_FROM == 0:
                bench.store.pack()
        bench.store.pack()
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after {len(analyses)} of {len(jobs)} recordings; they are kept, and the same command goes on"
        ) from None
    return analyses


def _sweep(jobs: Sequence[Job], bench: Bench) -> None:
    for job in jobs:
        for kind in job.kinds:
            remove_unfinished(bench.store.path(kind, job.recording))


def worker_killed(_: object) -> NoReturn:
    """What is done when a worker process dies; raises DataError."""
    raise DataError(
        "a worker process was ended by the system, most likely for lack of memory; what was finished is kept - go "
        "on with: --jobs 1"
    )


# --- excerpts ---------------------------------------------------------------------------------------------------------


def excerpted(
    candidates: Sequence[Candidate], config: Config, bench: Bench, spread: Spread, *, loudness: bool
) -> tuple[list[Candidate], list[Finding], list[Cut]]:
    """Long pairs as pieces, and all at their speaker's usual level if that is asked for.

    Raises:
        AasvcError: a recording vanished, or a piece cannot be written.
    """
    gains: dict[Path, float] = {}
    if loudness:
        gains = _gains(candidates, "source") | _gains(candidates, "target")
    long_ones = [each for each in candidates if _is_long(each, bench)]
    cuts = _cut_all(long_ones, bench, spread, gains)
    planned: list[tuple[Candidate, Excerpt, Excerpt]] = []
    result: list[Candidate] = []
    for candidate in candidates:
        cut = cuts.get((candidate.set, candidate.pair.utterance_id))
        if cut is not None:
            planned += [
                (dataclasses.replace(candidate, pair=_piece_of(candidate.pair, name)), piece.source, piece.target)
                for name, piece in cut.pieces.items()
                if not piece.fault
            ]
        elif loudness and candidate.facts is not None:
            one, other = (default_excerpt(facts.quality, bench.trim) for facts in candidate.facts)
            planned.append(
                (candidate, _louder(one, candidate.pair.source, gains), _louder(other, candidate.pair.target, gains))
            )
        else:
            result.append(candidate)
    result += _analysed(planned, config, bench, spread)
    findings = [finding for each in long_ones for finding in _long_findings(each, cuts, bench.max_seconds)]
    return result, findings, [cut for cut in cuts.values() if cut.pieces]


def _is_long(candidate: Candidate, bench: Bench) -> bool:
    longest = max(candidate.source.seconds, candidate.target.seconds)
    return candidate.facts is not None and 0 < bench.max_seconds < longest


def _analysed(
    planned: Sequence[tuple[Candidate, Excerpt, Excerpt]], config: Config, bench: Bench, spread: Spread
) -> list[Candidate]:
    """Candidates with the analysis of the excerpts that are planned for them."""
    kinds = kinds_of(config)
    sources = [Job(each.pair.source, kinds[0], excerpt) for each, excerpt, _ in planned]
    targets = [Job(each.pair.target, kinds[1], excerpt) for each, _, excerpt in planned]
    analyses = analyse_all([*sources, *targets], bench, spread)
    return [
        dataclasses.replace(each, source=analyses[one], target=analyses[other])
        for (each, *_), one, other in zip(planned, sources, targets, strict=True)
    ]


def _gains(candidates: Sequence[Candidate], side: str) -> dict[Path, float]:
    """By how many dB each recording of a speaker has to become louder to be at the usual level, without clipping."""
    qualities = {
        getattr(each.pair, side): facts.quality for each in candidates if (facts := each.side(side).facts) is not None
    }
    usual = usual_loudness(qualities.values())
    return {path: gain_to(usual, each) for path, each in qualities.items()}


def usual_loudness(qualities: Iterable[Quality]) -> float | None:
    """The median of those that are known, in LUFS."""
    known = [each.loudness for each in qualities if each.loudness is not None]
    return statistics.median(known) if known else None


def gain_to(usual: float | None, quality: Quality) -> float:
    """By how many dB a recording has to become louder to be at a loudness in LUFS, without clipping; 0 if unknown."""
    if usual is None or quality.loudness is None:
        return 0.0
    room = -20.0 * math.log10(max(quality.peak, 1e-5))
    return min(round(usual - quality.loudness, 1), math.floor(room * 10.0) / 10.0)


def _louder(excerpt: Excerpt, recording: Path, gains: Mapping[Path, float]) -> Excerpt:
    return dataclasses.replace(excerpt, gain_db=gains.get(recording, 0.0))


# --- long pairs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LongPair:
    """A pair to cut, with what each recording is to be made louder."""

    key: tuple[str, str]
    recordings: tuple[Path, Path]
    facts: tuple[Facts, Facts]
    gains: tuple[float, float]


def _cut_all(
    candidates: Sequence[Candidate], bench: Bench, spread: Spread, gains: Mapping[Path, float]
) -> dict[tuple[str, str], Cut]:
    """What becomes of each long pair, by set and name."""
    jobs = []
    for candidate in candidates:
        assert candidate.facts is not None
        recordings = candidate.pair.source, candidate.pair.target
        key = candidate.set, candidate.pair.utterance_id
        jobs.append(
            _LongPair(key, recordings, candidate.facts, (gains.get(recordings[0], 0.0), gains.get(recordings[1], 0.0)))
        )
    outcomes = spread(partial(_cut_recordings, bench=bench), jobs, killed=worker_killed, size=1)
    cuts = {}
    for job, pieces in outcomes:
        where, utterance_id = job.key
        names = [f"{utterance_id}-{number:0{len(str(len(pieces)))}}" for number in range(1, len(pieces) + 1)]
        seconds = job.facts[0].quality.seconds, job.facts[1].quality.seconds
        cuts[job.key] = Cut(utterance_id, where, seconds, dict(zip(names, pieces, strict=True)))
    return cuts


def _cut_recordings(job: _LongPair, bench: Bench) -> list[Piece]:
    """Where to cut a pair, kept or computed; then the pieces are written, too, as the samples are at hand."""

    def compute() -> list[Any]:
        waves = [read_audio(recording) for recording in job.recordings]
        one, other = (Take(facts.quality, content(*wave)) for facts, wave in zip(job.facts, waves, strict=True))
        pieces = cut_pair(one, other, bench.max_seconds)
        for piece in pieces:
            if not piece.fault:
                for side, excerpt in enumerate(_at_levels(piece, job.gains)):
                    write_excerpt(job.recordings[side], job.facts[side], excerpt, bench, *waves[side])
        return [dataclasses.asdict(piece) for piece in pieces]

    samples = [facts.samples for facts in job.facts]
    key = {"samples": samples, "longest": bench.max_seconds, "weights": weights_identity(), "version": _VERSION}
    kept = bench.cache.tree("cuts", key, compute)
    pieces = [Piece(Excerpt(**each["source"]), Excerpt(**each["target"]), each["fault"]) for each in kept]
    if all(piece.fault for piece in pieces):
        return []
    return [Piece(*_at_levels(piece, job.gains), piece.fault) for piece in pieces]


def _at_levels(piece: Piece, gains: tuple[float, float]) -> tuple[Excerpt, Excerpt]:
    return dataclasses.replace(piece.source, gain_db=gains[0]), dataclasses.replace(piece.target, gain_db=gains[1])


def _piece_of(pair: ParallelPair, name: str) -> ParallelPair:
    """Nobody knows which words of the text are in it."""
    return dataclasses.replace(pair, utterance_id=name, text=None)


def _long_findings(candidate: Candidate, cuts: Mapping[tuple[str, str], Cut], max_seconds: float) -> list[Finding]:
    pieces = cuts[candidate.set, candidate.pair.utterance_id].pieces
    lasts = f"lasts {candidate.source.seconds:.1f} s (source) and {candidate.target.seconds:.1f} s (target)"
    if not pieces:
        message = (
            f"{lasts}, more than --max-seconds {max_seconds:.3g}, and has no pauses at which both say the same before "
            "and after; cut both between the same sentences, or allow longer pairs"
        )
        return [candidate.finding("", "too_long", True, message)]
    bad = {name: piece for name, piece in pieces.items() if piece.fault}
    message = f"{lasts}; cut into {len(pieces) - len(bad)} pairs at pauses that both share"
    return [
        candidate.finding("", "cut", False, message),
        *(
            Finding(name, candidate.set, "", "piece", True, f"{_place(piece)} {piece.fault}")
            for name, piece in bad.items()
        ),
    ]


def _place(piece: Piece) -> str:
    one, other = piece.source, piece.target
    return f"({one.start:.1f} to {one.stop:.1f} s of the source, {other.start:.1f} to {other.stop:.1f} s of the target)"
