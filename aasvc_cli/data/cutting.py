"""Long pairs cut into short ones where both recordings pause at the same place of the text.

1. The path between what the two say is found on the frames that hold speech; pauses differ too much from one reading to
   the next.
2. A pause of one recording and a pause of the other are shared if the path passes by both at once.
3. Of the shared pauses, those are chosen that leave pieces of a length to train on, with the long pauses outside.
4. Each piece is checked: by the ratio of its durations and, where there are enough, by what the others cost. So what
   only one of the two says is left out, and no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.quality import KEPT_SECONDS, Quality
from aasvc_cli.data.analysis import Excerpt
from aasvc_cli.data.content_path import content_path
from aasvc_cli.data.wording import POOLED_FRAMES, fit, limits, nearest_in_length, pooled

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Span = tuple[float, float]

FRAMES_PER_SECOND = 50 / POOLED_FRAMES
_TOLERANCE = round(0.24 * FRAMES_PER_SECOND)
"""Frames by which a pause may lie beside the path."""
_RATIO_TOLERANCE = math.log(1.6)
"""How far the duration ratio of a piece may be from that of all."""
_SHORTEST_SECONDS = 0.3
_WANTED_SECONDS = 1.5
"""Shorter pieces are avoided."""
_SHORT_PAUSE = 0.25
"""A pause up to this length is as well inside a piece."""
_PER_PIECE = 0.2
"""What a further piece costs, in seconds of pause inside pieces that it must save."""
_TOO_LONG = 1000.0


@dataclass(frozen=True)
class Piece:
    """The same stretch of text in both recordings.

    Attributes:
        fault: why it is left out; empty if it is used
    """

    source: Excerpt
    target: Excerpt
    fault: str = ""


@dataclass(frozen=True, eq=False)
class Take:
    """A long recording: what was measured on it, and its content (T, D) at 50 frames a second."""

    quality: Quality
    content: Array


@dataclass(frozen=True, eq=False)
class _Speech:
    """The frames of a take between its pauses.

    Attributes:
        frames: (F, D), pooled, without the mean of the speaker
        gaps: the silence before the speech, each pause and the silence after it, as spans in seconds
        edges: (G,) speech frames before each gap
    """

    frames: Array
    gaps: list[Span]
    edges: Indices


@dataclass(frozen=True)
class _Cut:
    """A shared pause, by its number in both recordings; ``weight`` is how much of it would be inside a piece."""

    source: int
    target: int
    weight: float


def cut_pair(source: Take, target: Take, max_seconds: float) -> list[Piece]:
    """All pieces in order of time, of at most ``max_seconds`` on both sides if they are without fault.

    None has a fault only if everything that the two recordings hold is in both.
    """
    speech = _speech(source), _speech(target)
    if not all(len(each.frames) for each in speech):
        return []
    path = content_path(speech[0].frames, speech[1].frames).frames
    cuts = _choose(_shared(*speech, path), *speech, max_seconds - 2 * KEPT_SECONDS)
    ends = list(itertools.pairwise(cuts))
    spans = [_spans(*speech, *each) for each in ends]
    faults = _faults(spans, [_parts(*speech, *each) for each in ends], max_seconds)
    return [
        Piece(_excerpt(one, source.quality), _excerpt(other, target.quality), fault)
        for (one, other), fault in zip(spans, faults, strict=True)
    ]


def _speech(take: Take) -> _Speech:
    quality = take.quality
    gaps = [(0.0, quality.start + KEPT_SECONDS), *quality.pauses, (quality.stop - KEPT_SECONDS, quality.seconds)]
    frames = pooled(take.content)
    moments = (np.arange(len(frames)) + 0.5) / FRAMES_PER_SECOND
    silent = np.zeros(len(frames), dtype=bool)
    for start, stop in gaps:
        silent[np.searchsorted(moments, start) : np.searchsorted(moments, stop)] = True
    before = np.concatenate([[0], np.cumsum(~silent)])
    edges = before[np.searchsorted(moments, [start for start, _ in gaps])]
    spoken = frames[~silent]
    return _Speech(spoken - spoken.mean(axis=0) if len(spoken) else spoken, gaps, edges.astype(np.int64))


def _shared(source: _Speech, target: _Speech, path: Indices) -> list[_Cut]:
    """Pauses that the path passes at once; one may be shared with several, if the other recording says more."""
    pairs = {(0, 0), (len(source.gaps) - 1, len(target.gaps) - 1)}
    pairs |= {(one, other) for one, other in _nearest(source.edges, target.edges, path)}
    pairs |= {(one, other) for other, one in _nearest(target.edges, source.edges, path[:, ::-1])}
    cuts: list[_Cut] = []
    for one, other in sorted(pairs):
        if cuts and other < cuts[-1].target:  # the nearest pause of either need not be that of the other
            continue
        lengths = [stop - start for start, stop in (source.gaps[one], target.gaps[other])]
        cuts.append(_Cut(one, other, max(0.0, max(lengths) - _SHORT_PAUSE)))
    return cuts


def _nearest(edges: Indices, others: Indices, path: Indices) -> list[tuple[int, int]]:
    """For each pause of one recording, the pause of the other that is nearest to the path there, if it is near."""
    nearest = []
    for number, edge in enumerate(edges):
        # what belongs to the last frame before the pause and to the first one after it
        low = path[max(0, np.searchsorted(path[:, 0], edge, side="left") - 1), 1]
        high = path[min(len(path) - 1, np.searchsorted(path[:, 0], edge, side="left")), 1] + 1
        distances = np.maximum(0, np.maximum(low - others, others - high))
        other = int(np.argmin(distances))
        if distances[other] <= _TOLERANCE:
            nearest.append((number, other))
    return nearest


def _choose(cuts: Sequence[_Cut], source: _Speech, target: _Speech, longest: float) -> list[_Cut]:
    """The cuts with the least pause inside pieces, among those that leave no piece too long where that can be."""
    inside = np.concatenate([[0.0], np.cumsum([cut.weight for cut in cuts])])
    costs, origins = np.full(len(cuts), np.inf), np.zeros(len(cuts), dtype=np.int64)
    costs[0] = 0.0
    for end in range(1, len(cuts)):
        for start in range(end - 1, -1, -1):
            lengths = [stop - begin for begin, stop in _spans(source, target, cuts[start], cuts[end])]
            too_long = max(lengths) > longest
            if too_long and start < end - 1:
                break
            cost = costs[start] + _PER_PIECE + (inside[end] - inside[start + 1])
            cost += _TOO_LONG * too_long + max(0.0, _WANTED_SECONDS - min(lengths))
            if cost < costs[end]:
                costs[end], origins[end] = cost, start
    chosen = [len(cuts) - 1]
    while chosen[-1]:
        chosen.append(int(origins[chosen[-1]]))
    return [cuts[index] for index in reversed(chosen)]


def _spans(source: _Speech, target: _Speech, start: _Cut, end: _Cut) -> tuple[Span, Span]:
    """What lies between two cuts in both recordings."""
    return _between(source, start.source, end.source), _between(target, start.target, end.target)


def _between(speech: _Speech, first: int, last: int) -> Span:
    """From the end of one pause to the start of another, in seconds; nothing if they are the same."""
    start = speech.gaps[first][1]
    return start, max(start, speech.gaps[last][0])


def _parts(source: _Speech, target: _Speech, start: _Cut, end: _Cut) -> tuple[Array, Array]:
    """The speech of both between two cuts."""
    return (
        source.frames[source.edges[start.source] : source.edges[end.source]],
        target.frames[target.edges[start.target] : target.edges[end.target]],
    )


def _faults(spans: Sequence[tuple[Span, Span]], parts: Sequence[tuple[Array, Array]], max_seconds: float) -> list[str]:
    """Why each piece is left out; empty if it is used."""
    lengths = [(one[1] - one[0], other[1] - other[0]) for one, other in spans]
    spoken = [(len(one), len(other)) for one, other in parts]
    usual = float(np.median([math.log(other / one) for one, other in spoken if one and other] or [0.0]))
    faults = []
    for seconds, counts in zip(lengths, spoken, strict=True):
        if min(seconds) < _SHORTEST_SECONDS or not all(counts):
            faults.append("is only in one of the two recordings")
        elif max(seconds) > max_seconds - 2 * KEPT_SECONDS:
            faults.append(f"has no pause that both share for {max(seconds):.1f} s")
        elif abs(math.log(counts[1] / counts[0]) - usual) > _RATIO_TOLERANCE:
            faults.append(f"lasts {seconds[0]:.1f} s and {seconds[1]:.1f} s")
        else:
            faults.append("")
    good = [index for index, fault in enumerate(faults) if not fault]
    others = nearest_in_length([spoken[index][1] for index in good])
    fits = [
        fit(*parts[index], [partial(_same, parts[good[other]][1]) for other in others[place]])
        for place, index in enumerate(good)
    ]
    bounds = limits(fits)
    for index, each in zip(good, fits, strict=True):
        if bounds is not None and bounds.verdict(each.misfit) == "wrong":
            faults[index] = "holds different words"
    return faults


def _same(frames: Array) -> Array:
    return frames


def _excerpt(span: Span, quality: Quality) -> Excerpt:
    return Excerpt(max(0.0, span[0] - KEPT_SECONDS), min(quality.seconds, span[1] + KEPT_SECONDS))
