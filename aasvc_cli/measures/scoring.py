"""All measures of one utterance that need no other utterance: what a worker process does.

Whatever depends on one recording alone is kept by the content of the recording.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mono import Remark
from aasvc_cli.audio.world import FloatArray, Wave
from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.measures import judges, signal
from aasvc_cli.measures.results import Failure
from aasvc_cli.measures.signal import Analysis, AnalysisSettings, Mode
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.result_cache import ResultCache

logger = logging.getLogger(__name__)

Side = Literal["converted", "target", "source"]

MIN_SECONDS = 0.1
"""A shorter recording is not scored."""
SILENT_PEAK = 1e-3
"""A recording that stays within this distance of its mean level is silent: -60 dB of full scale."""


@dataclass(frozen=True)
class Job:
    """One utterance to score.

    Attributes:
        modes: definitions of the signal measures; empty for none.
        judges: of ``mos``, ``squim`` and ``speaker``.
        baseline: score the source against the target, too.
        most_rate: as for :func:`aasvc_cli.measures.signal.to_common_rate`.
    """

    utterance_id: str
    converted: Path
    target: Path
    source: Path | None
    modes: tuple[Mode, ...]
    f0_min: float
    f0_max: float
    judges: tuple[str, ...]
    baseline: bool
    cache: ResultCache
    most_rate: int | None = None


@dataclass
class Outcome:
    """What is known about one utterance.

    Attributes:
        scores: of the conversion, by measure; None if it could not be scored at all.
        baseline: the same of the source.
        ceiling: measures of one recording alone, of the target's.
        voices: embeddings of the speakers.
        sample_rate: the highest at which the recordings were compared.
        analysis: settings of the signal measures that were computed.
        limits: definitions of the signal measures that cannot be computed, and why.
        same_as: what the conversion is a copy of.
        same_sides: source and target are the same recording.
        remarks: what the samples of its recordings don't show, such as a missing end.
        failures: everything else that went wrong.
    """

    utterance_id: str
    scores: dict[str, float] | None = None
    baseline: dict[str, float] | None = None
    ceiling: dict[str, float] = field(default_factory=dict)
    voices: dict[Side, FloatArray | None] = field(default_factory=dict)
    sample_rate: int = 0
    analysis: set[AnalysisSettings] = field(default_factory=set)
    limits: dict[Mode, str] = field(default_factory=dict)
    same_as: tuple[Side, ...] = ()
    same_sides: bool = False
    remarks: list[tuple[Path, Remark]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, error: Exception, prefix: str = "") -> None:
        """Note an error in one line; one that is not the project's own is also logged with its traceback."""
        reason = str(error)
        if not isinstance(error, AasvcError):
            logger.debug("%s", self.utterance_id, exc_info=error)
            reason = f"{type(error).__name__}: {error}"
        self.failures.append(Failure(self.utterance_id, prefix + reason))


def score(job: Job) -> Outcome:
    """Score one utterance; whatever goes wrong becomes a failure of this utterance alone."""
    outcome = Outcome(job.utterance_id)
    try:
        recordings: dict[Side, Recording] = {
            "converted": Recording(job.converted, job.cache, outcome.remarks),
            "target": Recording(job.target, job.cache, outcome.remarks),
        }  # fmt: skip
        scorer = _SignalScorer(job, recordings["target"], outcome)
        outcome.sample_rate = recordings["target"].sample_rate
        outcome.scores = scorer.against(recordings["converted"])
    except Exception as error:
        outcome.fail(error)
        return outcome
    if job.source is not None and (job.baseline or "speaker" in job.judges):
        try:
            recordings["source"] = Recording(job.source, job.cache, outcome.remarks)
            if job.baseline:
                outcome.baseline = scorer.against(recordings["source"])
        except Exception as error:
            recordings.pop("source", None)
            if job.baseline:  # else it would only have served for its voice
                outcome.fail(error, "baseline: ")
    converted = recordings["converted"]
    others: tuple[Side, ...] = ("target", "source")
    outcome.same_as = tuple(side for side in others if side in recordings and recordings[side].sounds_like(converted))
    outcome.same_sides = "source" in recordings and recordings["source"].sounds_like(recordings["target"])
    for judge in job.judges:
        try:
            _ask(judge, outcome, recordings)
        except Exception as error:
            outcome.fail(error, f"{judge}: ")
    return outcome


class Recording:
    """One recording, read once, with what is known about its content.

    Args:
        remarks: gets what there is to say of it

    Raises:
        AudioError: it cannot be read.
        DataError: it is silent or too short, so that its scores would say nothing.
    """

    def __init__(self, path: Path, cache: ResultCache, remarks: list[tuple[Path, Remark]]) -> None:
        self.wave, self.sample_rate = read_audio(path, lambda remark: remarks.append((path, remark)))
        seconds = len(self.wave) / self.sample_rate
        if seconds < MIN_SECONDS:
            raise DataError(f"{path}: lasts {seconds:.4f} s; expected {MIN_SECONDS:g} s or more")
        if np.ptp(self.wave) < 2 * SILENT_PEAK:
            raise DataError(f"{path}: is silent; expected sound above {20 * math.log10(SILENT_PEAK):.0f} dB")
        self.key = file_sha256(path) if cache.folder is not None else ""
        self.cache = cache
        self._contours: dict[str, FloatArray] = {}

    def sounds_like(self, other: Recording) -> bool:
        """Whether both are the same samples."""
        return self.sample_rate == other.sample_rate and np.array_equal(self.wave, other.wave)

    def analysis(self, wave: Wave, sample_rate: int, job: Job, mode: Mode) -> Analysis:
        """The analysis of the recording, as it is at a common sample rate, kept or made."""
        settings = signal.settings_for(mode, sample_rate, job.f0_min)
        f0_range = {"f0_min": job.f0_min, "f0_max": job.f0_max}
        key = {
            "content": self.key, "sample_rate": sample_rate, **f0_range, "version": signal.ANALYSIS_VERSION,
            "resampled": None if sample_rate == self.sample_rate else mode, "world": _installed("pyworld"),
        }  # fmt: skip

        def compute() -> dict[str, Any]:
            f0 = self._pitch(key, lambda: signal.pitch(wave, sample_rate, **f0_range))
            made = signal.analyse(wave, sample_rate, **f0_range, mode=mode, f0=f0)
            lengths = np.array([made.trimmed_samples, made.silent])
            return {"f0": made.f0, "mcep": made.mcep, "loud": made.loud, "lengths": lengths}

        arrays: dict[str, Any] = self.cache.arrays("analysis", key | {"mode": mode}, compute)
        trimmed, silent = arrays["lengths"]
        return Analysis(settings, arrays["f0"], arrays["mcep"], arrays["loud"], int(trimmed), bool(silent))

    def voice(self) -> FloatArray | None:
        """The speaker's embedding."""

        def compute() -> list[float] | None:
            vector = judges.voice_embedding(self.wave, self.sample_rate)
            return None if vector is None else [float(value) for value in vector]

        kept = self.cache.tree("voices", {"content": self.key, "by": _installed("resemblyzer")}, compute)
        return None if kept is None else np.array(kept)

    def opinions(self, judge: str) -> dict[str, float]:
        """Scores of one judge: ``mos`` or ``squim``."""
        ask, package = {"mos": (judges.opinions, "speechmos"), "squim": (judges.squim, "torchaudio")}[judge]
        key = {"content": self.key, "by": _installed(package)}
        return dict(self.cache.tree(judge, key, lambda: ask(self.wave, self.sample_rate)))

    def _pitch(self, key: Mapping[str, Any], compute: Callable[[], FloatArray]) -> FloatArray:
        """The F0 contour that both definitions use, found once."""
        name = repr(key)
        if name not in self._contours:
            arrays: dict[str, Any] = self.cache.arrays("pitch", key, lambda: {"f0": compute()})
            self._contours[name] = arrays["f0"]
        return self._contours[name]


class _SignalScorer:
    """Signal measures against one target recording, whose analyses serve for the conversion and for the baseline."""

    def __init__(self, job: Job, target: Recording, outcome: Outcome) -> None:
        self.job, self.target, self.outcome = job, target, outcome
        self._analyses: dict[tuple[Mode, int], Analysis] = {}

    def against(self, other: Recording) -> dict[str, float]:
        """The measures of all definitions that can be computed.

        Raises whatever keeps all definitions from being computed; what keeps only some is noted.
        """
        scores: dict[str, float] = {}
        errors: dict[Mode, Exception] = {}
        for mode in self.job.modes:
            try:
                scores |= self._in_mode(mode, other)
            except Exception as error:
                errors[mode] = error
        if len(errors) == len(self.job.modes) and errors:
            raise next(iter(errors.values()))
        for mode, reason in errors.items():
            if isinstance(reason, AasvcError):
                self.outcome.limits[mode] = str(reason)
            else:
                self.outcome.fail(reason, f"{mode} measures: ")
        return scores

    def _in_mode(self, mode: Mode, other: Recording) -> dict[str, float]:
        wave, target_wave, sample_rate = signal.to_common_rate(
            other.wave, other.sample_rate, self.target.wave, self.target.sample_rate, mode=mode,
            most_rate=self.job.most_rate,
        )  # fmt: skip
        made = other.analysis(wave, sample_rate, self.job, mode)
        if (mode, sample_rate) not in self._analyses:
            self._analyses[mode, sample_rate] = self.target.analysis(target_wave, sample_rate, self.job, mode)
        scores = signal.score_analyses(made, self._analyses[mode, sample_rate]).named(mode)
        self.outcome.analysis.add(made.settings)
        return scores


def _ask(judge: str, outcome: Outcome, recordings: Mapping[Side, Recording]) -> None:
    for side, recording in recordings.items():
        if judge == "speaker":
            outcome.voices[side] = recording.voice()
            continue
        scores = {"converted": outcome.scores, "target": outcome.ceiling, "source": outcome.baseline}[side]
        if scores is not None:
            scores.update(recording.opinions(judge))


def _installed(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
