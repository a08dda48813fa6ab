"""Pairs checked before anything is trained on them, and notes on a speaker's recordings."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Analysis, Facts
from aasvc_cli.data.manifest import Finding, ParallelPair
from aasvc_cli.data.wording import LEAST_FIT
from aasvc_cli.errors import DataError

CLIPPED_NOTE = 1e-3
"""Share of clipped samples from which clipping is audible and reported."""
RATIO_MIN_PAIRS = 5
RATIO_SPREAD_FLOOR = 0.05
"""Smallest spread of log duration ratios: speech varies that much even if the data at hand does not."""
RATIO_NOTE = (5.0, math.log(1.3))
RATIO_TOO_FAR = (10.0, math.log(2.0))
"""A ratio is far off beyond that many spreads *and* that much in itself, such as a factor of 2."""
LEVEL_NOTE_DB = 10.0
"""Distance from a speaker's usual loudness from which on a recording is named."""
RATES = (8000, 16000, 22050, 24000, 44100, 48000)
"""Sample rates that are proposed."""
_FULL_BAND = 0.85
"""Share of the band of a sample rate that recordings fill which really have it."""
_NARROW = 0.6
"""Share of the usual band below which a recording is named."""
_MARGIN = 0.97
"""A band may reach a little beyond half the rate that is proposed for it: filters are not infinitely steep."""
MIN_TRAIN_PAIRS = 2


@dataclass(frozen=True)
class Candidate:
    """A pair with what is known about its two recordings.

    Attributes:
        set: empty before the sets are drawn
    """

    set: str
    pair: ParallelPair
    source: Analysis
    target: Analysis

    def side(self, name: str) -> Analysis:
        """The analysis of one side."""
        return self.source if name == "source" else self.target

    @property
    def facts(self) -> tuple[Facts, Facts] | None:
        """What is known of both recordings; None if one cannot be used."""
        if self.source.code or self.target.code or not (self.source.facts and self.target.facts):
            return None
        return self.source.facts, self.target.facts

    def finding(self, side: str, code: str, excluded: bool, message: str) -> Finding:
        """Something about this pair, or about one recording of it, which is named."""
        if side:
            message = f"{getattr(self.pair, side)} {message}"
        return Finding(self.pair.utterance_id, self.set, side, code, excluded, message)


Pairs = list[tuple[str, ParallelPair]]
"""(set, pair)."""


def check_pairs(candidates: Sequence[Candidate], config: Config) -> tuple[Pairs, Pairs, list[Finding]]:
    """Sort pairs out.

    Returns:
        good pairs with their files and lengths; pairs that are good but for the model's condition
        ``source_frames // frames_per_token <= target_frames``; everything noticed
    """
    findings: list[Finding] = []
    usable: list[Candidate] = []
    for candidate in candidates:
        noticed = [note for side in ("source", "target") for note in _recording_findings(candidate, side, config)]
        noticed += _pair_findings(candidate)
        findings += noticed
        if not any(finding.excluded for finding in noticed):
            usable.append(candidate)
    findings += _level_findings(usable) + _band_findings(usable)
    pairs = [(candidate.set, _with_lengths(candidate)) for candidate in usable]
    far = _ratio_findings(pairs)
    findings += far
    off = {(finding.set, finding.utterance_id) for finding in far if finding.excluded}
    good, breaking = [], []
    for name, pair in pairs:
        if (name, pair.utterance_id) in off:
            continue
        message = _condition_broken(pair, config)
        if message:
            findings.append(Finding(pair.utterance_id, name, "", "too_many_tokens", True, message))
            breaking.append((name, pair))
        else:
            good.append((name, pair))
    return good, breaking, findings


def refuse_same_speaker(candidates: Sequence[Candidate], n_files: int) -> None:
    """Raises DataError if both sides are the same recordings, with none left over of ``n_files`` on both sides."""
    known = [(each.source.facts, each.target.facts) for each in candidates]
    same = [source is not None and target is not None and source.samples == target.samples for source, target in known]
    if all(same) and 2 * len(same) == n_files:
        pair = candidates[0].pair
        raise DataError(
            f"source and target are the same recordings in all {len(same)} pairs (e.g. {pair.source} and "
            f"{pair.target}); was a folder copied over the other?"
        )


def _with_lengths(candidate: Candidate) -> ParallelPair:
    source, target = candidate.source, candidate.target
    assert source.path is not None and target.path is not None
    return dataclasses.replace(
        candidate.pair,
        source=source.path,
        target=target.path,
        source_frames=source.n_frames,
        target_frames=target.n_frames,
        source_seconds=source.seconds,
        target_seconds=target.seconds,
    )


def smallest_frames_per_token(pairs: Iterable[ParallelPair]) -> int | None:
    """The smallest reduction factor at which every pair has at most as many source tokens as target frames."""
    # floor(S / k) <= T holds from k = floor(S / (T + 1)) + 1 on
    return max((pair.source_frames // (pair.target_frames + 1) + 1 for pair in pairs), default=None)


def _condition_broken(pair: ParallelPair, config: Config) -> str:
    model = config.model
    tokens = model.n_tokens(pair.source_frames)
    if tokens <= pair.target_frames:
        return ""
    needed = smallest_frames_per_token([pair])
    return (
        f"has {tokens} source tokens (frames_per_token {model.frames_per_token}) for {pair.target_frames} target "
        f"frames; the model needs at least one frame per token, which takes frames_per_token {needed}"
    )


def _recording_findings(candidate: Candidate, side: str, config: Config) -> Iterator[Finding]:
    analysis = candidate.side(side)
    if analysis.code:
        yield candidate.finding(side, analysis.code, True, analysis.message)
        return
    if analysis.facts is None:
        return
    for code, message in analysis.facts.remarks:
        yield candidate.finding(side, code, False, f"({message})")
    share = analysis.facts.quality.clipped_share
    if share >= CLIPPED_NOTE:
        message = f"is clipped a little: {share:.2%} of its samples are cut off at the peak"
        yield candidate.finding(side, "clipped", False, message)
    least = config.model.frames_per_token if side == "source" else 1
    if analysis.n_frames < least:
        message = f"has {analysis.n_frames} frames; the model needs {least} or more"
        yield candidate.finding(side, "too_short", True, message)


def _pair_findings(candidate: Candidate) -> Iterator[Finding]:
    if candidate.facts is None:
        return
    source, target = candidate.facts
    if source.samples == target.samples:
        message = f"{candidate.pair.source} and {candidate.pair.target} are the same recording"
        yield candidate.finding("", "same_recording", False, message)


def _level_findings(candidates: Sequence[Candidate]) -> list[Finding]:
    """Recordings that are far louder or far quieter than their speaker usually is."""
    findings = []
    for side in ("source", "target"):
        levels = [(each, each.side(side).facts) for each in candidates]
        known = [
            (each, facts.quality.loudness) for each, facts in levels if facts and facts.quality.loudness is not None
        ]
        if not known:
            continue
        usual = statistics.median(level for _, level in known)
        for candidate, level in known:
            if abs(level - usual) > LEVEL_NOTE_DB:
                how = "louder" if level > usual else "quieter"
                message = f"is {abs(level - usual):.0f} dB {how} than usual ({level:.0f} LUFS, usually {usual:.0f})"
                findings.append(candidate.finding(side, "level", False, message))
    return findings


def _band_findings(candidates: Sequence[Candidate]) -> list[Finding]:
    """Recordings that lack a part of the band that their speaker's others have."""
    findings = []
    for side in ("source", "target"):
        usual = _usual_band(candidates, side)
        for candidate in candidates:
            facts = candidate.side(side).facts
            if facts and facts.quality.bandwidth < _NARROW * usual:
                message = (
                    f"has sound up to {facts.quality.bandwidth / 1000:.1f} kHz only, the others of this speaker up "
                    f"to {usual / 1000:.1f} kHz"
                )
                findings.append(candidate.finding(side, "low_rate", False, message))
    return findings


def _usual_band(candidates: Sequence[Candidate], side: str) -> float:
    bands = [facts.quality.bandwidth for each in candidates if (facts := each.side(side).facts)]
    return statistics.median(bands) if bands else 0.0


def propose_sample_rate(candidates: Sequence[Candidate], sample_rate: int) -> int | None:
    """The sample rate of which both speakers fill the band; None if that is the given one, or a higher one."""
    band = min(_usual_band(candidates, side) for side in ("source", "target"))
    if band >= _FULL_BAND * sample_rate / 2:
        return None
    proposed = _fitting_rate(band)
    return proposed if proposed < sample_rate else None


def _fitting_rate(band: float) -> int:
    """The lowest of the usual sample rates that has a band."""
    return next((rate for rate in RATES if rate / 2 >= _MARGIN * band), RATES[-1])


def advise(
    candidates: Sequence[Candidate],
    speakers: tuple[str, str],
    config: Config,
    findings: Sequence[Finding],
    ranking: Path,
    misfit: float,
) -> list[str]:
    """What to do about the recordings as a whole, a sentence each.

    Args:
        ranking: the file of the pairs' ranking
        misfit: of a usual pair, as of :class:`aasvc_cli.data.wording.Fit`, or 0 if content does not judge it
    """
    advice = []
    if misfit >= LEAST_FIT:
        advice.append(
            f"the pairs fit hardly better than other sentences do (misfit {misfit:.2f} in the median; other words have "
            "about 1, the same words 0.1 to 0.7): do both speakers read the same sentences, under the same names? "
            "Nothing is learnt from words that only one of them says; --asr-model recognises and compares both"
        )
    counts = Counter(finding.code for finding in findings if not finding.excluded)
    rate = config.features.mel.sample_rate
    proposed = propose_sample_rate(candidates, rate)
    if proposed is not None:
        advice.append(_band_advice(candidates, speakers, rate, proposed))
    if counts["different_words"]:
        further = f", and {counts['unlike']} more are worth a look" if counts["unlike"] else ""
        advice.append(
            f"{counts['different_words']} pairs most likely hold different words{further}; listen to the first ones of "
            f"{ranking}, and leave out what it calls wrong with --drop {ranking}"
        )
    if counts["same_recording"]:
        advice.append(
            f"{counts['same_recording']} pairs are the same recording on both sides, of which nothing can be learnt"
        )
    if counts["level"]:
        advice.append(
            f"{counts['level']} of the recordings lie more than {LEVEL_NOTE_DB:g} dB above or below the usual level of "
            "their speaker; --loudness matches all"
        )
    return advice


def _band_advice(candidates: Sequence[Candidate], speakers: tuple[str, str], rate: int, proposed: int) -> str:
    source, target = (_usual_band(candidates, side) for side in ("source", "target"))
    bands = [
        f"{name} has sound up to {band / 1000:.1f} kHz" for name, band in zip(speakers, (source, target), strict=True)
    ]
    if target < _NARROW * source:
        return f"{bands[1]} only, and so will the voice; --sample-rate {proposed} makes a smaller and faster model"
    if source < _NARROW * target:
        wide = min(rate, _fitting_rate(target))
        return (
            f"{bands[0]} only, {bands[1]}; --sample-rate {proposed} makes a small and fast model of what both have, "
            f"one at {wide} Hz has to make up the rest"
        )
    return (
        f"{' and '.join(bands)}, so the upper bands of a model at {rate} Hz stay empty; --sample-rate {proposed} makes "
        "a smaller and faster one"
    )


def _ratio_findings(pairs: Pairs) -> list[Finding]:
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


def check_enough(
    sets: Mapping[str, Sequence[ParallelPair]],
    findings: Sequence[Finding],
    n_breaking: int,
    smallest: int | None,
    config: Config,
) -> None:
    """Raises DataError if there are too few pairs to train on or to watch it with; says why and what to do."""
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
