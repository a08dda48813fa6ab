"""Recordings one by one: measured, cut to what is used, and turned into features.

What was measured is kept like the features, with the recording that it belongs to, so that a second run decodes only
what is missing or has changed. A recording of which only a part is used, or at another level,
is written anew below the prepared set, and everything after this stage works with that file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.files import encode_audio, read_audio
from aasvc_cli.audio.mel import n_frames
from aasvc_cli.audio.quality import Quality, measure
from aasvc_cli.audio.resampling import resample
from aasvc_cli.errors import AasvcError, AudioError, DataError
from aasvc_cli.features.folder import find_features, part, read_features
from aasvc_cli.features.kinds import FOLDER, extract_as_is
from aasvc_cli.features.store import FeatureStore, Known, Present, recording_stamp
from aasvc_cli.storage.files import write_bytes
from aasvc_cli.storage.result_cache import ResultCache

Wave = npt.NDArray[np.float32]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Spread(Protocol):
    """How work on many recordings is done, such as :func:`aasvc_cli.workers.each_in_chunks` by some workers."""

    def __call__(
        self,
        function: Callable[[Item], Outcome],
        items: Sequence[Item],
        *,
        killed: Callable[[Sequence[Item]], Any],
        sweep: Callable[[Sequence[Item]], None] | None = None,
        size: int = 8,
    ) -> Generator[tuple[Item, Outcome], None, None]:
        """Items with their outcomes, in any order."""
        ...


MIN_SECONDS = 0.1
SILENT_PEAK = 1e-3
"""-60 dB of full scale: nothing but the noise of the converter."""
CLIPPED_TOO_MUCH = 0.02
"""Share of clipped samples from which on a recording is distorted throughout."""
_MEASURED = "measured-1"
"""What is kept of a recording; counted up when :mod:`aasvc_cli.audio.quality` measures something else."""
_EDGE_SECONDS = 0.02
"""Less silence than this at an end is not worth a new file."""


@dataclass(frozen=True)
class Excerpt:
    """What of a recording is used.

    Attributes:
        start, stop: in seconds
        gain_db: how much louder it becomes
    """

    start: float
    stop: float
    gain_db: float = 0.0


@dataclass(frozen=True)
class Facts:
    """What is known about a recording.

    Attributes:
        remarks: (code, message) of what reading it brought up
        samples: digest of its samples; the same recording in another file has the same
    """

    quality: Quality
    remarks: tuple[tuple[str, str], ...]
    samples: str


@dataclass(frozen=True)
class Analysis:
    """The outcome of one recording.

    Attributes:
        facts: None if it could not be decoded
        path: the file to work with; the recording itself if all of it is used as it is
        seconds, n_frames: of that file; 0 if it has no features yet
        content: SHA-256 of that file; empty if it is not known
        code, message: why it cannot be used; empty if it can
        computed: whether it was decoded now
        fatal: an error that stops the run, because the next recording would fail in the same way
    """

    facts: Facts | None
    path: Path | None = None
    seconds: float = 0.0
    n_frames: int = 0
    content: str = ""
    code: str = ""
    message: str = ""
    computed: bool = True
    fatal: AasvcError | None = None


@dataclass(frozen=True)
class Bench:
    """Where and how recordings are worked on.

    Attributes:
        store: of the features and of what was measured
        cache: of what else was found out, by the content of recordings
        folder: for the files that are written anew
        trim: leave the silence at both ends out
        max_seconds: longer recordings are only measured; 0 for no limit
    """

    store: FeatureStore
    cache: ResultCache
    folder: Path
    trim: bool = False
    max_seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """One recording to analyse.

    Attributes:
        kinds: features to compute; none to measure only
        excerpt: what to use of it; None for all, or for the speech if silence is trimmed
    """

    recording: Path
    kinds: tuple[str, ...]
    excerpt: Excerpt | None = None

    def __hash__(self) -> int:
        """Hardly any recording has two jobs."""
        return hash(self.recording)


def recall_all(jobs: Sequence[Job], bench: Bench) -> dict[Job, Analysis]:
    """What :func:`analyse` would give, for those jobs of which all is known; nothing is decoded.

    What is kept is read file by file, first what was measured and then each kind of feature.
    """
    present = bench.store.present(job.recording for job in jobs)
    measured = {path: _facts_from(known) for path, known in bench.store.recall_all(_MEASURED, present.values())}
    plans = [
        (job, facts, _plan(job, facts, bench)) for job in jobs if (facts := measured.get(job.recording)) is not None
    ]
    planned = [(job, plan) for job, _, plan in plans if isinstance(plan, _Planned)]
    present |= bench.store.present(plan.path for _, plan in planned if not plan.whole)
    stored = _all_stored(planned, present, bench)
    known: dict[Job, Analysis] = {}
    for job, facts, plan in plans:
        if isinstance(plan, Analysis):
            known[job] = plan
            continue
        own = {kind: each for kind in job.kinds if (each := stored[kind].get(plan.path)) is not None}
        if len(own) == len(job.kinds) and all(_is_of(kind, each, job, bench) for kind, each in own.items()):
            known[job] = _done(facts, plan, own, computed=False)
    return known


def _all_stored(
    planned: Sequence[tuple[Job, _Planned]], present: Mapping[Path, Present], bench: Bench
) -> dict[str, dict[Path, Known]]:
    """What is known of the features of all jobs, by kind and file; an error is left for :func:`analyse` to raise."""
    paths: dict[str, list[Present]] = {kind: [] for job, _ in planned for kind in job.kinds}
    for job, plan in planned:
        if (there := present.get(plan.path)) is not None:
            for kind in job.kinds:
                paths[kind].append(there)
    stored: dict[str, dict[Path, Known]] = {}
    for kind, wanted in paths.items():
        stored[kind] = {}
        with contextlib.suppress(AasvcError):
            stored[kind].update(bench.store.all_known(kind, wanted))
    return stored


def analyse(job: Job, bench: Bench) -> Analysis:
    """Measure one recording and compute those of its features that are missing; never raises for a bad recording."""
    recording = job.recording
    try:
        decoded: list[tuple[Wave, int]] = []
        facts = _facts(recording, bench, decoded)
        planned = _plan(job, facts, bench)
        if isinstance(planned, Analysis):
            return dataclasses.replace(planned, computed=bool(decoded))
        stored = {kind: bench.store.known(kind, planned.path) for kind in job.kinds}
        known = {kind: each for kind, each in stored.items() if each is not None and _is_of(kind, each, job, bench)}
        missing = [kind for kind in job.kinds if kind not in known]
        if missing:
            known |= _compute(missing, recording, facts, planned, decoded, bench)
        return _done(facts, planned, known, computed=bool(missing))
    except AudioError as error:
        # the caller names the file, too
        return Analysis(None, code=error.code, message=str(error).removeprefix(f"{recording}: "))
    except DataError as error:
        return Analysis(None, code="unreadable", message=str(error).removeprefix(f"{recording}: "))
    except AasvcError as error:
        return Analysis(None, fatal=error)
    except Exception as error:  # a worker must not take the whole run down for one recording
        return Analysis(None, code="unreadable", message=f"analysis failed ({type(error).__name__}: {error})")


def write_excerpt(recording: Path, facts: Facts, excerpt: Excerpt, bench: Bench, wave: Wave, sample_rate: int) -> None:
    """Write an excerpt of a recording (n,) to the file where :func:`analyse` looks for it."""
    part = _cut(wave, sample_rate, excerpt)
    # 24 bits, as a quiet recording made louder would show the steps of 16
    write_bytes(
        _excerpt_path(recording, facts, excerpt, bench.folder), encode_audio(part, sample_rate, "FLAC", "PCM_24")
    )


def _is_readable(path: Path) -> bool:
    """Whether an excerpt was written before and is whole."""
    try:
        read_audio(path)
    except AudioError:
        return False
    return True


@dataclass(frozen=True)
class _Planned:
    """Which part of a recording is used, and the file that has it."""

    excerpt: Excerpt
    whole: bool
    path: Path


def _plan(job: Job, facts: Facts, bench: Bench) -> _Planned | Analysis:
    """What features are computed of; the analysis itself if none are."""
    quality = facts.quality
    fault = _fault(facts)
    excerpt = job.excerpt or default_excerpt(quality, bench.trim)
    seconds = excerpt.stop - excerpt.start
    if not fault and seconds < MIN_SECONDS:
        fault = "too_short", f"lasts {seconds:.3f} s; expected {MIN_SECONDS:g} s or more"
    if fault:
        return Analysis(facts, seconds=seconds, code=fault[0], message=fault[1], computed=False)
    if not job.kinds or (job.excerpt is None and bench.max_seconds and seconds > bench.max_seconds):
        return Analysis(facts, seconds=seconds, computed=False)
    whole = excerpt.start == 0.0 and excerpt.stop == quality.seconds and excerpt.gain_db == 0.0
    path = job.recording if whole else _excerpt_path(job.recording, facts, excerpt, bench.folder)
    return _Planned(excerpt, whole, path)


def _done(facts: Facts, planned: _Planned, known: Mapping[str, Known], *, computed: bool) -> Analysis:
    stored = next(iter(known.values()))
    seconds = planned.excerpt.stop - planned.excerpt.start
    n_frames = int(stored.facts["n_frames"])
    return Analysis(facts, planned.path, seconds, n_frames, content=stored.content, computed=computed)


def _compute(
    kinds: Sequence[str],
    recording: Path,
    facts: Facts,
    planned: _Planned,
    decoded: list[tuple[Wave, int]],
    bench: Bench,
) -> dict[str, Known]:
    """Compute and keep features; what is known of each of them."""
    config, path = bench.store.config, planned.path
    if not planned.whole and not _is_readable(path):
        sound = decoded.pop() if decoded else read_audio(recording)
        write_excerpt(recording, facts, planned.excerpt, bench, *sound)
    stamp = recording_stamp(path)
    sound = decoded.pop() if planned.whole and decoded else read_audio(path)
    wave = resample(*sound, config.mel.sample_rate)
    known = {}
    for kind in kinds:
        given = _given(recording, planned.excerpt, facts.quality, bench) if kind == FOLDER else None
        feature, rate = extract_as_is(kind, wave, config, given)
        about: dict[str, Any] = {"n_frames": n_frames(len(wave), config.mel.hop_length)}
        if given is not None:
            about["given"] = recording_stamp(find_features(config, recording)[0])
        elif rate is not None:  # what an encoder says is not exact to more digits than that
            feature = feature.astype(np.float16)
        known[kind] = Known(about, bench.store.save(kind, path, feature, frame_rate=rate, facts=about, stamp=stamp))
    return known


def _is_of(kind: str, stored: Known, job: Job, bench: Bench) -> bool:
    """Whether a stored feature is still what it was read from."""
    if kind != FOLDER:
        return True
    try:
        given, _ = find_features(bench.store.config, job.recording)
    except DataError:
        return False
    return recording_stamp(given) == stored.facts.get("given")


def _given(recording: Path, excerpt: Excerpt, quality: Quality, bench: Bench) -> tuple[Wave, float]:
    """Features of an excerpt that another program wrote, and their frames per second."""
    features, rate = read_features(bench.store.config, recording, quality.seconds)
    return part(features, rate, excerpt.start, excerpt.stop), rate


def default_excerpt(quality: Quality, trim: bool) -> Excerpt:
    """All of a recording, or the speech in it."""
    if not trim or quality.start + (quality.seconds - quality.stop) < _EDGE_SECONDS:
        return Excerpt(0.0, quality.seconds)
    return Excerpt(quality.start, quality.stop)


def _facts(recording: Path, bench: Bench, decoded: list[tuple[Wave, int]]) -> Facts:
    """What was measured before, or is now; then the samples are left in ``decoded``."""
    if os.access(recording, os.R_OK) and (known := _known_facts(recording, bench)) is not None:
        return known
    stamp = recording_stamp(recording)
    remarks: list[tuple[str, str]] = []
    wave, sample_rate = read_audio(recording, lambda remark: remarks.append((remark.code, remark.message)))
    decoded.append((wave, sample_rate))
    samples = hashlib.sha256(np.rint(wave * 32767).astype("<i4").tobytes()).hexdigest()
    quality = measure(wave, sample_rate)
    bench.store.remember(
        _MEASURED, recording, dataclasses.asdict(quality) | {"remarks": remarks, "samples": samples}, stamp
    )
    return Facts(quality, tuple(remarks), samples)


def _known_facts(recording: Path, bench: Bench) -> Facts | None:
    """What was measured before on the recording as it is now."""
    known = bench.store.recall(_MEASURED, recording)
    return None if known is None else _facts_from(known)


def _facts_from(known: Known) -> Facts:
    tree = known.facts
    remarks = tuple((str(code), str(message)) for code, message in tree.pop("remarks"))
    samples = str(tree.pop("samples"))
    pauses = tuple((float(start), float(stop)) for start, stop in tree.pop("pauses"))
    return Facts(Quality(**tree, pauses=pauses), remarks, samples)


def _fault(facts: Facts) -> tuple[str, str] | None:
    """Code and message of what rules a recording out."""
    quality = facts.quality
    for code, message in facts.remarks:
        if code == "truncated":
            return code, message
    if quality.seconds < MIN_SECONDS:
        return "too_short", f"lasts {quality.seconds:.3f} s; expected {MIN_SECONDS:g} s or more"
    if quality.peak < SILENT_PEAK:
        level = f"{20 * math.log10(quality.peak):.0f} dB" if quality.peak else "digital silence"
        return (
            "silent",
            f"is silent (peak: {level}); expected a peak above {20 * math.log10(SILENT_PEAK):.0f} dB",
        )
    if quality.clipped_share >= CLIPPED_TOO_MUCH:
        share = f"{quality.clipped_share:.1%} of its samples are cut off at the peak"
        return "clipped", f"is clipped: {share}; record it at a lower level"
    return None


def _excerpt_path(recording: Path, facts: Facts, excerpt: Excerpt, folder: Path) -> Path:
    key = json.dumps([facts.samples, *map(str, dataclasses.astuple(excerpt))])
    return folder / f"{recording.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.flac"


def _cut(wave: Wave, sample_rate: int, excerpt: Excerpt) -> Wave:
    part = wave[round(excerpt.start * sample_rate) : round(excerpt.stop * sample_rate)]
    gain = 10.0 ** (excerpt.gain_db / 20.0)
    return (part * np.float32(gain)).astype(np.float32) if excerpt.gain_db else part
