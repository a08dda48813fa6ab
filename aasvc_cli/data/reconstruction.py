"""Recordings of the target that have no partner, as pairs with changed copies of themselves.

Features that say what is said, and little of who says it, make a recording with another vocal tract, room, channel or
pace look like somebody else's; the recording itself is how the target says it. So all recordings of the target teach
the decoder, besides the true pairs, which alone have the source speaker's rhythm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aasvc_cli.audio.files import encode_audio, read_audio
from aasvc_cli.audio.quality import Quality, clipped_share
from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Analysis, Bench, Excerpt, Facts, Job, Spread, default_excerpt
from aasvc_cli.data.checks import CLIPPED_NOTE, Candidate, check_pairs
from aasvc_cli.data.excerpts import Progress, analyse_all, gain_to, kinds_of, worker_killed
from aasvc_cli.data.manifest import Finding, ParallelPair
from aasvc_cli.data.waveforms import LOUDEST, varied
from aasvc_cli.errors import AudioError, DataError
from aasvc_cli.features.kinds import KINDS
from aasvc_cli.storage.files import write_bytes

EXTRA = "(extra)"
"""The speaker of these pairs, whom no folder can be named after. Batches are balanced over speakers, so true pairs keep
their part whatever is added."""
SHORTEST_PIECE = 1.0
"""Seconds; less teaches little."""
_VERSION = 1
"""Counted up when :func:`aasvc_cli.data.waveforms.varied` or the pieces become different."""
_DRAWS = 20
"""Changes that are tried until a copy is neither too long nor distorted; half of them leave the pace alone."""


@dataclass(frozen=True)
class Reconstruction:
    """Pairs of changed copies with what they are copies of.

    Attributes:
        findings: why recordings are not among them
        n_recordings: without a partner that the pairs come from
    """

    pairs: tuple[ParallelPair, ...] = ()
    findings: tuple[Finding, ...] = ()
    n_recordings: int = 0

    @property
    def seconds(self) -> float:
        """Of the target."""
        return math.fsum(pair.target_seconds for pair in self.pairs)


@dataclass(frozen=True)
class Reconstructor:
    """Makes such pairs.

    Attributes:
        bench: where results are kept, and what of each recording is used
        spread: how the work is done
        usual: loudness to bring every recording to, in LUFS; None to leave it
    """

    config: Config
    bench: Bench
    spread: Spread
    usual: float | None = None
    on_progress: Progress | None = None

    def __call__(
        self, alone: Sequence[Path], paired: Sequence[Path] = (), *, taken: Collection[str] = ()
    ) -> Reconstruction:
        """Pairs of these recordings, long ones in pieces between pauses.

        Args:
            alone: recordings of the target
            paired: files of the target that are trained on with a true partner
            taken: digests of the samples of recordings that are in a pair; they are not taken from ``alone``

        Raises:
            StorageError: copies or features cannot be written.
            Interrupted: on Ctrl-C; what was computed is kept.
        """
        jobs = [Job(path, ()) for path in dict.fromkeys((*paired, *alone))]
        measured = analyse_all(jobs, self.bench, self.spread, self.on_progress)
        findings = [
            Finding(_name(job.recording), "train", "target", each.code, True, f"{job.recording} {each.message}")
            for job, each in measured.items()
            if each.code
        ]
        excerpts: list[tuple[Path, Facts, Excerpt]] = []
        seen, own = set(taken), set(paired)
        for job in jobs:
            each = measured[job]
            if each.code or each.facts is None or (job.recording not in own and each.facts.samples in seen):
                continue
            seen.add(each.facts.samples)
            pieces = self._pieces(each.facts.quality)
            if not pieces:
                findings.append(_too_long(job.recording, each.facts.quality, self.bench.max_seconds))
            excerpts += [(job.recording, each.facts, piece) for piece in pieces]
        good, noticed = self._paired(excerpts)
        findings += [each for each in noticed if each.excluded and each.side != "source"]  # a bad copy is just not used
        names = {pair.utterance_id for pair in good}
        used = {path for name, (path, *_) in zip(_names(excerpts), excerpts, strict=True) if name in names}
        return Reconstruction(tuple(good), tuple(findings), len(used - own))

    def _pieces(self, quality: Quality) -> list[Excerpt]:
        """What is used of a recording; nothing if it is too long and has no pauses to cut it at."""
        whole, longest = default_excerpt(quality, self.bench.trim), self.bench.max_seconds or math.inf
        spans = [(whole.start, whole.stop)]
        if whole.stop - whole.start > longest:
            spans = list(_spans(quality.start, quality.stop, quality.pauses, longest))
        gain = gain_to(self.usual, quality)
        return [dataclasses.replace(whole, start=start, stop=stop, gain_db=gain) for start, stop in spans]

    def _paired(self, excerpts: Sequence[tuple[Path, Facts, Excerpt]]) -> tuple[list[ParallelPair], list[Finding]]:
        source_kinds, target_kinds = kinds_of(self.config)
        jobs = [Job(path, target_kinds, excerpt) for path, _, excerpt in excerpts]
        targets = analyse_all(jobs, self.bench, self.spread, self.on_progress)
        copies = self._copies([targets[job] for job in jobs])
        heard = {
            path: Job(copy, source_kinds, Excerpt(0.0, seconds)) for path, (copy, seconds) in copies.items() if seconds
        }
        sources = analyse_all(list(heard.values()), self.bench, self.spread, self.on_progress)
        candidates = []
        for name, job in zip(_names(excerpts), jobs, strict=True):
            path = targets[job].path
            if path in heard:
                copy = heard[path]
                pair = ParallelPair(name, copy.recording, job.recording, speaker=EXTRA)
                candidates.append(Candidate("train", pair, sources[copy], targets[job]))
        good, _, findings = check_pairs(candidates, self.config)
        return [pair for _, pair in good], findings

    def _copies(self, targets: Sequence[Analysis]) -> dict[Path, tuple[Path, float]]:
        """A changed copy of each file, and its seconds; 0 if no draw was of use."""
        work = partial(_write_copy, folder=self.bench.folder, longest=self.bench.max_seconds or math.inf)
        files = list(dict.fromkeys((each.path, each.content) for each in targets if each.path is not None))
        return {path: copy for (path, _), copy in self.spread(work, files, killed=worker_killed)}


def refuse_speaker_dependent(config: Config) -> None:
    """Raise DataError unless the model hears features that leave the speaker aside."""
    features = config.features
    for side in ("source", "duration"):
        if not KINDS[str(getattr(features, side))].speaker_independent:
            raise DataError(
                f"--extra-target needs features that say what is said and little of who says it, and features.{side} "
                f"is {getattr(features, side)}; add: --src-feat content_f0 --dp-feat content_f0"
            )


def _write_copy(file: tuple[Path, str], folder: Path, longest: float) -> tuple[Path, float]:
    """Write a changed copy of a recording with that content, unless it is there: where, and how many seconds."""
    path, content = file
    digest = hashlib.sha256(json.dumps([content, longest, _VERSION]).encode()).hexdigest()
    copy = folder / f"{path.stem}-extra-{digest[:12]}.flac"
    if copy.exists():
        with contextlib.suppress(AudioError):  # a damaged one is made anew
            known, rate = read_audio(copy)
            return copy, len(known) / rate
    wave, sample_rate = read_audio(path)
    for draw in range(_DRAWS):
        changed = varied(wave, sample_rate, np.random.default_rng([int(digest[:16], 16), draw]))
        if len(changed) <= longest * sample_rate and clipped_share(changed, sample_rate) < CLIPPED_NOTE:
            loudest = max(1e-3, float(np.abs(changed).max()))
            changed = changed * np.float32(min(1.0, LOUDEST / loudest))
            write_bytes(copy, encode_audio(changed.astype(np.float32), sample_rate, "FLAC"))
            return copy, len(changed) / sample_rate
    return copy, 0.0


def _spans(
    start: float, stop: float, pauses: Sequence[tuple[float, float]], longest: float
) -> Iterable[tuple[float, float]]:
    """Pieces of start to stop, in seconds, none longer than ``longest``, cut at the longest pauses."""
    if stop - start <= longest:
        if stop - start >= SHORTEST_PIECE:
            yield start, stop
        return
    inside = [pause for pause in pauses if pause[0] > start and pause[1] < stop]
    if inside:
        begin, end = max(inside, key=lambda pause: pause[1] - pause[0])
        yield from _spans(start, begin, pauses, longest)
        yield from _spans(end, stop, pauses, longest)


def _too_long(recording: Path, quality: Quality, longest: float) -> Finding:
    message = f"{recording} lasts {quality.seconds:.1f} s, more than --max-seconds {longest:.3g}, and has no pauses"
    return Finding(_name(recording), "train", "target", "too_long", True, message)


def _name(recording: Path) -> str:
    return f"extra/{recording.stem}"


def _names(excerpts: Sequence[tuple[Path, Facts, Excerpt]]) -> list[str]:
    """A name for each, all of them different."""
    count: dict[str, int] = {}
    names = []
    for path, *_ in excerpts:
        name = _name(path)
        count[name] = count.get(name, 0) + 1
        names.append(name if count[name] == 1 else f"{name}-{count[name]}")
    return names
