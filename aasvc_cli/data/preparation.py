"""What ``prepare`` found and made."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aasvc_cli.audio.quality import Quality
from aasvc_cli.data.excerpts import Cut
from aasvc_cli.data.manifest import Finding
from aasvc_cli.data.spoken_texts import SpokenTexts
from aasvc_cli.data.wording import Fit, Verdict


@dataclass(frozen=True)
class Ranked:
    """A pair with how well it fits.

    Attributes:
        set: of the pair, before sets are drawn
        texts: what both sides say, if speech was recognised
    """

    set: str
    utterance_id: str
    fit: Fit
    verdict: Verdict
    texts: SpokenTexts | None = None

    @property
    def badness(self) -> tuple[float, float]:
        """By which pairs are ranked: the difference of the texts, if they are known, and the misfit."""
        return (0.0 if self.texts is None else self.texts.difference), self.fit.misfit

    def row(self) -> dict[str, object]:
        """Its line in the ranking."""
        known: dict[str, object] = {"pair": self.utterance_id, "misfit": self.fit.misfit, "cost": self.fit.cost}
        known["length_ratio"] = self.fit.length_ratio
        if self.texts is not None:
            known |= {"text_difference": self.texts.difference}
            known |= {"source_text": self.texts.source, "target_text": self.texts.target}
        return known | {"verdict": self.verdict}

    def message(self, usual: float) -> str:
        """What to say of it; ``usual`` is the misfit of most pairs."""
        if self.texts is not None:
            return f"the source says “{self.texts.source}”, the target “{self.texts.target}”"
        return (
            f"costs {self.fit.misfit:.2f} times what other sentences of these two speakers cost, usually it is "
            f"{usual:.2f} times; is it the same sentence?"
        )


@dataclass(frozen=True)
class MeasuredPair:
    """A pair of which both recordings could be read.

    Attributes:
        paths: source and target, as far as they are used
        qualities: of the recordings that they were taken from
        seconds: of what is used
        good: passed the checks
        misfit: as of :class:`aasvc_cli.data.wording.Fit`; None if it was not ranked
    """

    utterance_id: str
    set: str
    text: str | None
    paths: tuple[Path, Path]
    qualities: tuple[Quality, Quality]
    seconds: tuple[float, float]
    good: bool
    misfit: float | None


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` found and made.

    Attributes:
        name: of the prepared set; other commands take it as ``--data``
        source_speaker: the joint name of several
        n_pairs: good pairs of each set
        n_matched: pairs before the checks
        matched_by: how many of them by which rule, as in :mod:`aasvc_cli.data.matching`
        trimmed_seconds: silence at the ends that is left out
        cuts: long pairs that were cut into shorter ones, and where
        ranking: of the pairs, by how badly their recordings fit; None if that could not be told
        advice: what to do about the recordings as a whole
        sample_rate: of the features
        batch_size: pairs per optimiser step, as the configuration now says
        source_seconds, target_seconds: recordings of the good pairs
        findings: everything noticed; those with ``excluded`` left a pair out
        measured: all pairs whose recordings could be read; pieces of long pairs in their place
        frames_per_token: the configured reduction factor
        n_breaking: pairs with more source tokens than target frames at that factor, all of them excluded
        smallest_frames_per_token: the smallest factor that no pair breaks (None without a usable pair)
        n_computed, n_fresh: recordings analysed now, and those whose features were there already
        analysed_seconds: length of the recordings analysed now
        elapsed_seconds: wall-clock time
        n_pairs_of: good pairs of each source speaker, if there are several
        n_extra: recordings of the target without a partner that are trained on as well
        extra_seconds: of the target in all pairs with changed copies
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
    cuts: tuple[Cut, ...]
    ranking: Path | None
    findings: tuple[Finding, ...]
    measured: tuple[MeasuredPair, ...]
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
    n_pairs_of: Mapping[str, int] = field(default_factory=dict)
    n_extra: int = 0
    extra_seconds: float = 0.0

    @property
    def n_cut(self) -> int:
        """Long pairs that were cut."""
        return len(self.cuts)

    @property
    def n_excluded(self) -> int:
        """Names that were left out."""
        return len({(finding.set, finding.utterance_id) for finding in self.findings if finding.excluded})

    @property
    def counts(self) -> dict[str, int]:
        """How often each code was found, most often first."""
        return dict(Counter(finding.code for finding in self.findings).most_common())

    def to_tree(self) -> dict[str, Any]:
        """JSON-able, without what was measured of each pair."""
        tree = dataclasses.asdict(dataclasses.replace(self, measured=()))
        del tree["measured"]
        tree |= {"manifest": str(self.manifest), "report": str(self.report)}
        tree["ranking"] = None if self.ranking is None else str(self.ranking)
        return tree | {"n_cut": self.n_cut, "n_excluded": self.n_excluded, "counts": self.counts}


@dataclass(frozen=True)
class PartReport:
    """What one part of several (``--shard``) did.

    Attributes:
        part: which one, such as ``2/8``
        n_pairs: of this part
        n_computed: recordings analysed now
    """

    name: str
    part: str
    n_pairs: int
    n_computed: int
    elapsed_seconds: float

    def lines(self) -> list[str]:
        """The result for people."""
        return [
            f"{self.name}, part {self.part}: {self.n_pairs} pairs, {self.n_computed} recordings analysed; when all "
            "parts are done, the same command without --shard makes the prepared set"
        ]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)
