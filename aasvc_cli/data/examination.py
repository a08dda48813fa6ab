"""Everything that decodes the recordings of a prepared set: what they are like, which pairs are good, and how good."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Analysis, Bench, Job, Spread
from aasvc_cli.data.checks import Candidate, Pairs, check_pairs, refuse_same_speaker
from aasvc_cli.data.excerpts import Cut, Progress, analyse_all, excerpted, first_jobs
from aasvc_cli.data.manifest import Finding
from aasvc_cli.data.preparation import Ranked
from aasvc_cli.data.ranking import fits_of
from aasvc_cli.data.spoken_texts import spoken_texts
from aasvc_cli.data.wording import FEWEST_PAIRS, limits
from aasvc_cli.measures.recognition import Listener


@dataclass(frozen=True)
class Examined:
    """What came of the recordings.

    Attributes:
        candidates: all pairs, those that were cut as what they were cut into
        good, breaking, findings: as of :func:`aasvc_cli.data.checks.check_pairs`
        ranked: the good pairs, the worst first; empty if their content tells nothing
        usual: misfit of a usual pair, by source speaker; 0 of too few pairs, or where texts tell
    """

    analyses: Mapping[Job, Analysis]
    candidates: Sequence[Candidate]
    cuts: Sequence[Cut]
    good: Pairs
    breaking: Pairs
    findings: Sequence[Finding]
    ranked: Sequence[Ranked]
    usual: Mapping[str, float]


@dataclass(frozen=True)
class Examiner:
    """How recordings are examined.

    Attributes:
        bench: where results are kept, and what of each recording is used
        spread: how the work is done
        loudness: whether every recording is brought to its speaker's usual level
        listener: hears what both sides of each pair say; None for no texts
    """

    config: Config
    bench: Bench
    spread: Spread
    loudness: bool = False
    listener: Listener | None = None
    on_progress: Progress | None = None

    def decode_part(self, pairs: Pairs) -> int:
        """Decode the recordings of some pairs and keep what comes of it; how many had to be."""
        analyses, candidates = self._analyse(pairs)
        if not self.loudness:  # what is usual is known only of all recordings
            excerpted(candidates, self.config, self.bench, self.spread, loudness=False)
        return sum(analysis.computed for analysis in analyses.values())

    def examine(self, pairs: Pairs, n_files: int) -> Examined:
        """Decode, cut, check and rank the pairs of one source speaker with the target.

        Args:
            n_files: recordings of both speakers, matched or not

        Raises:
            DataError: both speakers are the same.
        """
        analyses, candidates = self._analyse(pairs)
        refuse_same_speaker(candidates, n_files)
        candidates, long_ones, cuts = excerpted(
            candidates, self.config, self.bench, self.spread, loudness=self.loudness
        )
        good, breaking, noticed = check_pairs(candidates, self.config)
        contents = {side.path: side.content for each in candidates for side in (each.source, each.target) if side.path}
        ranked, usual_misfit = self._rank(good, contents)
        usual = {pairs[0][1].speaker: usual_misfit}
        return Examined(analyses, candidates, cuts, good, breaking, [*long_ones, *noticed], ranked, usual)

    def _analyse(self, pairs: Pairs) -> tuple[Mapping[Job, Analysis], list[Candidate]]:
        jobs = first_jobs(pairs, self.config, loudness=self.loudness)
        analyses = analyse_all(jobs, self.bench, self.spread, self.on_progress)
        by_recording = {job.recording: analysis for job, analysis in analyses.items()}
        return analyses, [
            Candidate(where, pair, by_recording[pair.source], by_recording[pair.target]) for where, pair in pairs
        ]

    def _rank(self, good: Pairs, contents: Mapping[Path, str]) -> tuple[list[Ranked], float]:
        """The pairs by how badly their contents agree, the worst first, and the misfit of a usual pair."""
        listed = [pair for _, pair in good]
        store, cache = self.bench.store, self.bench.cache
        fewest = FEWEST_PAIRS if self.listener is None else 2  # what is heard needs no others to be held against
        fits = fits_of(listed, contents, store, cache, self.spread) if len(good) >= fewest else []
        bounds = limits(fits)
        ranked = [
            Ranked(where, pair.utterance_id, fit, "" if bounds is None else bounds.verdict(fit.misfit))
            for (where, pair), fit in zip(good, fits, strict=False)
        ]
        if self.listener is not None:
            texts = spoken_texts(listed, self.listener, self.on_progress)
            ranked = [
                dataclasses.replace(each, texts=both, verdict=both.verdict)
                for each, both in zip(ranked, texts, strict=False)
            ]
        elif bounds is None:
            ranked = []
        by_content = fits and self.listener is None
        usual = statistics.median(each.misfit for each in fits) if by_content else 0.0
        return sorted(ranked, key=_worst_first), usual


def joined(parts: Sequence[Examined]) -> Examined:
    """What came of the recordings of several sources; those of the target are analysed with the first."""
    if len(parts) == 1:
        return parts[0]
    return Examined(
        analyses={job: analysis for part in reversed(parts) for job, analysis in part.analyses.items()},
        candidates=[each for part in parts for each in part.candidates],
        cuts=[each for part in parts for each in part.cuts],
        good=[each for part in parts for each in part.good],
        breaking=[each for part in parts for each in part.breaking],
        findings=[each for part in parts for each in part.findings],
        ranked=sorted((each for part in parts for each in part.ranked), key=_worst_first),
        usual={speaker: usual for part in parts for speaker, usual in part.usual.items()},
    )


def _worst_first(ranked: Ranked) -> tuple[float | str, ...]:
    return *(-value for value in ranked.badness), ranked.utterance_id
