"""Pictures of the page, small enough to be embedded: PNG for spectrograms, SVG for everything with lines.

Lines take their colours from the style sheet, so that they follow the light and the dark theme. Numbers that are drawn
are also said in words, in the label of each drawing.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from aasvc_cli.measures.statistics import Summary
    from aasvc_cli.report.content import Alignment, Curve, Measure, System, Take

Array = npt.NDArray[np.floating[Any]]
Levels = npt.NDArray[np.uint8]
Span = tuple[float, float]

N_COLOURS = 40
"""Shades of a picture: more than the eye tells apart in a spectrogram, few enough to compress well."""
INK = ((251, 250, 247), (214, 222, 226), (142, 168, 186), (66, 98, 129), (27, 45, 75), (10, 16, 30))
"""From silence (paper) to loud (ink), the darker the louder; in the dark theme the style sheet turns it over."""
MAX_COLUMNS = 900
"""Columns of a picture; longer ones are averaged down."""
MAX_POINTS = 300
"""Points of a line; more cannot be seen."""
DYNAMIC_RANGE = (2.0, 99.8)
"""Percentiles of a spectrogram that become paper and ink."""


# --- pictures -------------------------------------------------------------------------------------------------------


def png(levels: Levels) -> bytes:
    """A PNG with a palette: rows of indices into :data:`N_COLOURS` shades, (height, width), the first row on top."""
    height, width = levels.shape
    stops = np.linspace(0, len(INK) - 1, N_COLOURS)
    palette = np.stack([np.interp(stops, range(len(INK)), channel) for channel in zip(*INK, strict=True)], axis=1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), levels], axis=1)  # filter type 0 before each row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.round().astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )


def mel_range(mels: Sequence[Array]) -> tuple[float, float]:
    """Levels that become paper and ink, common to several spectrograms."""
    if not mels:
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate([mel.ravel() for mel in mels]), DYNAMIC_RANGE)
    return float(low), float(max(high, low + 1e-6))


def spectrogram(mel: Array, low: float, high: float) -> bytes:
    """PNG of a log-mel spectrogram, low bands at the bottom; (T, M), ``low`` becomes paper and ``high`` ink."""
    return png(_levels(_narrow(mel).T[::-1], low, high))


def spectrograms(mels: Sequence[Array]) -> bytes:
    """PNG of log-mel spectrograms below each other, on one time axis and with the same shades; (T, M) each."""
    low, high = mel_range(mels)
    length = max(len(mel) for mel in mels)
    padded = [np.pad(mel, ((0, length - len(mel)), (0, 0)), constant_values=low) for mel in mels]
    return _stacked([_levels(_narrow(mel).T[::-1], low, high) for mel in padded])


def matrix(weights: Array) -> bytes:
    """PNG of a soft alignment, first token at the bottom; (T, K) probabilities."""
    return png(_doubts(weights))


def alignment(alignment: Alignment) -> bytes:
    """PNG of a soft alignment, and of its monotonic path below."""
    path = np.eye(alignment.weights.shape[1])[np.asarray(alignment.path)]
    return _stacked([_doubts(alignment.weights), _doubts(path)])


def _doubts(weights: Array) -> Levels:
    # the square root shows doubts that a linear scale hides
    return _levels(np.sqrt(np.clip(_narrow(weights), 0.0, 1.0)).T[::-1], 0.0, 1.0)


def _stacked(pictures: Sequence[Levels]) -> bytes:
    """PNG of pictures of one width below each other, with a line between them."""
    line = np.full((1, pictures[0].shape[1]), N_COLOURS - 1, np.uint8)
    return png(np.concatenate([part for picture in pictures for part in (line, picture)][1:]))


def _levels(values: Array, low: float, high: float) -> Levels:
    scaled = (np.nan_to_num(values, nan=low) - low) / (high - low)
    return np.round(np.clip(scaled, 0.0, 1.0) * (N_COLOURS - 1)).astype(np.uint8)


def _narrow(values: Array) -> Array:
    """At most MAX_COLUMNS rows (they become columns), each the mean of those it replaces."""
    if len(values) <= MAX_COLUMNS:
        return values
    edges = np.linspace(0, len(values), MAX_COLUMNS + 1).astype(int)[:-1]
    return np.asarray(np.add.reduceat(values, edges, axis=0) / np.diff([*edges, len(values)])[:, None])


# --- lines over pictures --------------------------------------------------------------------------------------------


def f0_path(f0: Array | None, f0_range: tuple[float, float], width: float = 1000.0, height: float = 100.0) -> str:
    """An SVG path of an F0 contour on a logarithmic scale, interrupted where unvoiced; empty if there is no voice."""
    if f0 is None or not len(f0):
        return ""
    step = max(1, math.ceil(len(f0) / (3 * MAX_POINTS)))
    commands, pen_down = [], False
    for index in range(0, len(f0), step):
        if f0[index] <= 0:
            pen_down = False
            continue
        x = width * (index + 0.5) / len(f0)
        y = height * (1.0 - _octaves(float(f0[index]), f0_range))
        commands.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        # a point alone would be invisible without a line to itself
        if not pen_down:
            commands.append(f"L{x:.1f} {y:.1f}")
        pen_down = True
    return "".join(commands)


def alignment_path(alignment: Alignment, width: float = 1000.0, height: float = 100.0) -> str:
    """The monotonic path over the picture of :func:`matrix`."""
    n_frames, n_tokens = alignment.weights.shape
    points = _thin(list(enumerate(alignment.path)), 3 * MAX_POINTS)
    return "".join(
        f"{'L' if index else 'M'}{width * (frame + 0.5) / n_frames:.1f} {height * (1 - (token + 0.5) / n_tokens):.1f}"
        for index, (frame, token) in enumerate(points)
    )


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Percent and label of a handful of round times from 0 on."""
    step = next(s for s in _round_steps() if seconds / s <= 8)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [
        (100.0 * i * step / seconds, f"{i * step:.{digits}f}") for i in range(math.floor(seconds / step + 1e-9) + 1)
    ]


def _round_steps() -> Iterable[float]:
    return (base * 10.0**power for power in range(-3, 6) for base in (1, 2, 5))


def _octaves(f0: float, f0_range: tuple[float, float]) -> float:
    """0 at the bottom and 1 at the top of the range, on a logarithmic scale."""
    low, high = f0_range
    return min(1.0, max(0.0, math.log(f0 / low) / math.log(high / low)))


def f0_ticks(f0_range: tuple[float, float]) -> list[tuple[float, int]]:
    """Height (0 to 1) and Hz of a few round values inside the range."""
    candidates = [50, 75, 100, 150, 200, 300, 400, 600, 800]
    inside = [f0 for f0 in candidates if f0_range[0] * 1.02 < f0 < f0_range[1] / 1.02]
    return [(_octaves(f0, f0_range), f0) for f0 in inside[:: max(1, math.ceil(len(inside) / 5))]]


# --- drawings -------------------------------------------------------------------------------------------------------


def pitch(takes: Sequence[Take], seconds: float, f0_range: tuple[float, float]) -> Markup | None:
    """The F0 contours of all recordings over each other, on one time axis; None without a voiced frame."""
    contours = [take for take in takes if take.f0 is not None and np.any(take.f0 > 0)]
    if not contours:
        return None
    width, height, left, bottom = 440.0, 160.0, 34.0, 20.0
    plot_width, plot_height = width - left - 6, height - bottom - 6
    parts = []
    for place, f0 in f0_ticks(f0_range):
        y = 6 + plot_height * (1 - place)
        parts.append(_line(left, y, width - 6, y, "grid"))
        parts.append(_text(left - 6, y + 3.5, str(f0), "end"))
    for percent, label in time_ticks(seconds):
        parts.append(_text(left + plot_width * percent / 100, height - 5, label, "middle"))
    for take, style in zip(contours, contour_styles(contours), strict=True):
        path = f0_path(take.f0, f0_range, plot_width * take.seconds / seconds, plot_height)
        parts.append(f'<path class="contour {style}" transform="translate({left:g} 6)" d="{path}"/>')
    medians = [
        f"{take.label}: median {np.median(take.f0[take.f0 > 0]):.0f}" for take in contours if take.f0 is not None
    ]
    said = "; ".join(medians)
    return _svg(width, height, f"F0 in hertz over time in seconds, all recordings over each other. {said}.", parts)


def contour_styles(takes: Sequence[Take]) -> list[str]:
    """Line styles; conversions are numbered in their order."""
    conversions = [take for take in takes if take.role == "conversion"]
    return [
        f"conversion system-{conversions.index(take) + 1}" if take.role == "conversion" else take.role for take in takes
    ]


@dataclass(frozen=True)
class Lane:
    """One system in a chart of a measure."""

    name: str
    style: str
    estimate: Summary | None
    values: Sequence[float]


def styles(systems: Sequence[System]) -> dict[str, str]:
    """The style of each system by its key: systems and references are numbered apart."""
    chosen, counts = {}, {"system": 0, "reference": 0}
    for system in systems:
        kind = "reference" if system.reference else "system"
        counts[kind] += 1
        chosen[system.key] = f"{kind}-{counts[kind]}"
    return chosen


def distribution(measure: Measure, lanes: Sequence[Lane]) -> Markup | None:
    """A lane per system: the utterances as strokes, the mean as a mark, its interval as a bar; None without a mean."""
    drawn = [(lane, lane.estimate) for lane in lanes if lane.estimate and math.isfinite(lane.estimate.mean)]
    if not drawn:
        return None
    numbers = [n for lane, e in drawn for n in (*lane.values, e.mean, e.low, e.high) if math.isfinite(n)]
    low, high = min(numbers), max(numbers)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    width, lane_height, pad, axis = 300.0, 17.0, 8.0, 15.0
    height = lane_height * len(drawn) + axis

    def x(value: float) -> float:
        return pad + (width - 2 * pad) * (value - low) / (high - low)

    parts, said = [], []
    for index, (lane, estimate) in enumerate(drawn):
        y = lane_height * (index + 0.5)
        style = lane.style
        parts.append(_line(pad, y, width - pad, y, "grid"))
        strokes = "".join(f"M{x(value):.1f} {y - 4:.1f}v8" for value in _thin(sorted(lane.values), MAX_POINTS))
        if strokes:
            parts.append(f'<path class="strokes {style}" d="{strokes}"/>')
        interval = ""
        if math.isfinite(estimate.low) and math.isfinite(estimate.high):
            bar = x(estimate.high) - x(estimate.low)
            place = f'x="{x(estimate.low):.1f}" y="{y - 3:.1f}" width="{bar:.1f}" height="6"'
            parts.append(f'<rect class="interval {style}" {place}/>')
            interval = f" ({measure.text(estimate.low)} to {measure.text(estimate.high)})"
        parts.append(_mark(x(estimate.mean), y, style))
        said.append(f"{lane.name} {measure.text(estimate.mean)}{interval}")
    for value, anchor in ((low, "start"), (high, "end")):
        parts.append(_text(x(value), height - 3, measure.text(value), anchor))
    label = f"{measure.heading}, mean and 95 % interval: {'; '.join(said)}."
    return _svg(width, height, label, parts)


def _mark(x: float, y: float, style: str) -> str:
    """A disc, a square, a diamond or a triangle: systems differ in shape, not in colour alone."""
    if style == "system-1":
        return f'<circle class="mark {style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    if style == "reference-1":
        return f'<path class="mark {style}" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'
    if style.startswith("reference"):
        return f'<path class="mark {style}" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>'
    return f'<rect class="mark {style}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'


def legend_mark(style: str) -> Markup:
    """The mark of a system, for a legend."""
    return Markup(f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{_mark(6, 6, style)}</svg>')


def legend_line(style: str) -> Markup:
    """The line of a contour, for a legend."""
    line = f'<path class="contour {style}" d="M1 6H29"/>'
    return Markup(f'<svg class="key line" viewBox="0 0 30 12" aria-hidden="true">{line}</svg>')


@dataclass(frozen=True)
class CurveView:
    """A curve as the template needs it."""

    name: str
    svg: Markup
    caption: str


def curve(curve: Curve, best_step: int | None) -> CurveView:
    """A number over the steps of a training: training set thin, dev set thick, the best step marked."""
    train, dev = _finite(curve.train), _finite(curve.dev)
    points = [*train, *dev]
    width, height, left, bottom, top, right = 300.0, 170.0, 44.0, 20.0, 10.0, 10.0
    if not points:
        return CurveView(curve.name, _svg(width, height, f"{curve.name}: no values", []), "no values")
    steps = max(max(step for step, _ in points), 1)
    values = np.array([value for _, value in points])
    # the first steps of a training would press everything else against the axis
    low, high = float(values.min()), float(np.percentile(values, 97))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def place(step: int, value: float) -> str:
        x = left + (width - left - right) * step / steps
        y = top + (height - top - bottom) * (1 - (min(value, high) - low) / (high - low))
        return f"{x:.1f} {y:.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = top + (height - top - bottom) * (1 - share)
        parts.append(_line(left, y, width - right, y, "grid"))
        parts.append(_text(left - 6, y + 3.5, f"{low + share * (high - low):.3g}", "end"))
    parts.append(_text(left, height - 4, "0", "start"))
    parts.append(_text(width - right, height - 4, f"{steps:,} steps", "end"))
    for name, line in (("train", train), ("dev", dev)):
        thinned = _thin(line, MAX_POINTS)
        if thinned:
            parts.append(f'<path class="curve {name}" d="M{"L".join(place(*point) for point in thinned)}"/>')
    caption = []
    if train:
        caption.append(f"training {train[-1][1]:.3g}")
    if dev:
        caption.append(f"dev {dev[-1][1]:.3g}")
    best = next((point for point in dev if point[0] == best_step), None)
    if best is not None:
        across, down = place(*best).split()
        parts.append(f'<circle class="best" cx="{across}" cy="{down}" r="4"/>')
        caption.append(f"best step {best[0]:,}: {best[1]:.3g}")
    said = ", ".join(caption)
    label = f"{curve.name} over {steps} steps of training. Last values: {said}."
    return CurveView(curve.name, _svg(width, height, label, parts), said)


N_BARS = 24


def histogram(name: str, unit: str, lanes: Mapping[str, Sequence[float]]) -> CurveView:
    """How often values occur: source and target, or both together, as bars in front of each other.

    Args:
        lanes: values by style, which is also what they are called
    """
    finite = {lane: [value for value in values if math.isfinite(value)] for lane, values in lanes.items()}
    known = {lane: values for lane, values in finite.items() if values}
    width, height, left, bottom, top = 300.0, 130.0, 30.0, 18.0, 8.0
    if not known:
        return CurveView(name, _svg(width, height, f"{name}: no values", []), "no values")
    everything = np.concatenate(list(known.values()))
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high - low > 1e-9 else low + 1.0, N_BARS + 1)
    counts = {lane: np.histogram(values, edges)[0] for lane, values in known.items()}
    most = max(int(count.max()) for count in counts.values())
    step = (width - left) / N_BARS
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = top + (height - top - bottom) * (1 - share)
        parts.append(_line(left, y, width, y, "grid"))
        parts.append(_text(left - 5, y + 3.5, f"{share * most:.0f}", "end"))
    floor, tallest = height - bottom, height - top - bottom
    for lane, lane_counts in counts.items():
        bars = "".join(
            f"M{left + index * step:.1f} {floor:g}v{-tallest * count / most:.1f}h{step:.1f}V{floor:g}z"
            for index, count in enumerate(lane_counts)
            if count
        )
        parts.append(f'<path class="bars {lane}" d="{bars}"/>')
    for value, anchor in ((edges[0], "start"), (edges[-1], "end")):
        parts.append(_text(left if anchor == "start" else width, height - 4, f"{value:.3g} {unit}".strip(), anchor))
    said = "; ".join(f"{lane if len(known) > 1 else 'median'} {_range(values)}" for lane, values in known.items())
    label = f"{name}{f' in {unit}' if unit else ''}, median and range of nine in ten: {said}."
    return CurveView(name, _svg(width, height, label, parts), said)


def _range(values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def cut_timeline(seconds: tuple[float, float], pieces: Sequence[tuple[Span, Span, bool]]) -> Markup:
    """Two recordings above each other on one axis, with the pieces that were cut out of both.

    Args:
        seconds: of source and target
        pieces: start and end in both, and whether the piece is used
    """
    width, height, row = 900.0, 84.0, 20.0
    scale = width / max(*seconds, 1e-9)
    upper, lower = 4.0, height - row - 18.0
    parts = []
    for y, length in ((upper, seconds[0]), (lower, seconds[1])):
        parts.append(f'<rect class="whole" x="0" y="{y:g}" width="{length * scale:.1f}" height="{row:g}"/>')
    for (start, stop), (other_start, other_stop), used in pieces:
        a, b, c, d = (value * scale for value in (start, stop, other_start, other_stop))
        band = f"M{a:.1f} {upper:g}H{b:.1f}v{row:g}L{d:.1f} {lower:g}v{row:g}H{c:.1f}v{-row:g}L{a:.1f} {upper + row:g}z"
        parts.append(f'<path class="piece{"" if used else " left-out"}" d="{band}"/>')
    for percent, label in time_ticks(max(seconds)):
        parts.append(_text(width * percent / 100, height - 2, label, "start" if percent < 1 else "middle"))
    n_used = sum(used for *_, used in pieces)
    n_left = len(pieces) - n_used
    label = (
        f"Source ({seconds[0]:.0f} seconds, above) and target ({seconds[1]:.0f} seconds, below): {n_used} "
        f"{'piece is' if n_used == 1 else 'pieces are'} used, {n_left} {'is' if n_left == 1 else 'are'} left out."
    )
    return _svg(width, height, label, parts)


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _thin(points: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of them, evenly spread, first and last among them."""
    if len(points) <= limit:
        return list(points)
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    # user text is in the label and nowhere else
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<path class="{style}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
