"""Long pairs cut into short ones at pauses that both recordings share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aasvc_cli.audio.quality import KEPT_SECONDS, Quality
from aasvc_cli.data.analysis import Excerpt

_PAUSES = (0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2)
"""Lengths in seconds from which on a silence counts as a pause, tried in turn."""
_RATIO_TOLERANCE = math.log(1.4)
"""How far the duration ratio of one stretch of speech may be from that of all."""
_SHORTEST_SECONDS = 0.3

Span = tuple[float, float]


def cut_pair(source: Quality, target: Quality, max_seconds: float) -> list[tuple[Excerpt, Excerpt]] | None:
    """Pieces of at most ``max_seconds`` on both sides that hold the same speech; None if the pauses don't agree.

    Both must have the same number of pauses, and every stretch between two pauses must have about the same duration
    ratio: then it takes the same words twice. Neighbouring stretches stay together as long as they are short enough.
    """
    for shortest in _PAUSES:
        ours, theirs = _stretches(source, shortest), _stretches(target, shortest)
        if len(ours) != len(theirs) or len(ours) < 2 or not _agree(ours, theirs):
            continue
        pieces = _joined(list(zip(ours, theirs, strict=True)), max_seconds)
        if pieces is not None:
            return [(_excerpt(one, source), _excerpt(other, target)) for one, other in pieces]
    return None


def _stretches(quality: Quality, shortest: float) -> list[Span]:
    """Speech between pauses of at least that length."""
    pauses = [pause for pause in quality.pauses if pause[1] - pause[0] >= shortest]
    starts = [quality.start, *(stop for _, stop in pauses)]
    stops = [*(start for start, _ in pauses), quality.stop]
    return list(zip(starts, stops, strict=True))


def _agree(ours: Sequence[Span], theirs: Sequence[Span]) -> bool:
    one, other = [stop - start for start, stop in ours], [stop - start for start, stop in theirs]
    if min(*one, *other) < _SHORTEST_SECONDS:
        return False
    whole = math.log(sum(other) / sum(one))
    return all(abs(math.log(b / a) - whole) <= _RATIO_TOLERANCE for a, b in zip(one, other, strict=True))


def _joined(stretches: Sequence[tuple[Span, Span]], max_seconds: float) -> list[tuple[Span, Span]] | None:
    """Neighbours together up to the limit; None if a single stretch is longer."""
    limit = max_seconds - 2 * KEPT_SECONDS
    pieces: list[tuple[Span, Span]] = []
    for one, other in stretches:
        if max(one[1] - one[0], other[1] - other[0]) > limit:
            return None
        if pieces:
            first, second = pieces[-1]
            if max(one[1] - first[0], other[1] - second[0]) <= limit:
                pieces[-1] = ((first[0], one[1]), (second[0], other[1]))
                continue
        pieces.append((one, other))
    return pieces


def _excerpt(span: Span, quality: Quality) -> Excerpt:
    return Excerpt(max(0.0, span[0] - KEPT_SECONDS), min(quality.seconds, span[1] + KEPT_SECONDS))
