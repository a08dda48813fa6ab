"""F0 by the Harvest algorithm, several times as fast as WORLD's own code and equal to it up to rounding.

The algorithm and all its constants are Morise's ("Harvest: A high-performance fundamental frequency estimator from
speech signals", Interspeech 2017), as released in WORLD (modified BSD licence). Four things make it fast:

- A candidate is refined from the spectrum at six harmonics at most. They are computed as dot products with stored
  sinusoids, where WORLD takes two whole Fourier transforms per candidate. Samples at equal distances from the middle
  of the window are added and subtracted first, as a cosine is even and a sine is odd: half of the products.
- The windows of the refinement come from stored tables by the addition theorem; no cosine is computed in the loop.
- The band-pass filters are even, so that their spectra are real, and are applied in batches by scipy's FFT. They are
  kept for the next signal of about the same length.
- One pass over a band finds its zero crossings and its extrema.

The tests hold the outcome against WORLD's: the same frames are voiced, and F0 agrees to better than a millionth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from aasvc_cli.compiled import compiled, compiled_loosely

FloatArray = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Complex = npt.NDArray[np.complex128]

TARGET_RATE = 8000
CHANNELS_PER_OCTAVE = 40
MAX_DECIMATION = 12
MIN_CHANNELS = 10
"""A candidate is a run of at least this many neighbouring channels that agree."""
SPREAD = 3
"""Candidates also stand for this many frames on either side."""
MAX_HARMONICS = 6
MIN_SCORE = 2.5
MAX_STEP = 0.05
"""Relative distance to the nearest candidate of the neighbouring frames, above which a candidate is dropped."""
MAX_JUMP = 0.008
"""Relative distance from the extrapolated contour."""
MIN_SECTION = 6
"""Frames of the shortest voiced section."""
EXTENSION = 100
"""Frames by which a section is extended at most."""
EXTENSION_RANGE = 0.18
EXTENSION_GIVES_UP = 4
EXTENSION_CYCLES = 2200.0
"""A section is kept if it is longer than this many milli-periods of its F0."""
SHORT_GAP = 9
"""Frames of the shortest gap that stays unvoiced."""
SMOOTHING_LAG = 300
SMOOTHING_FILTER = (
    np.array([0.0078202080334971724, 0.015640416066994345, 0.0078202080334971724]),
    np.array([1.0, -1.7347257688092754, 0.76600660094326412]),
)
TINY = 1e-12
HARMONIC_ROWS = 96
"""Most bins that six harmonics can reach, whatever F0 (72 for long windows, a few more by rounding for short ones)."""
BATCH = 8
"""Channels filtered at once; bounds the memory."""
MAX_KEPT_BYTES = 1 << 26
"""Filters larger than this are made anew for each signal: those for recordings of half a minute and more."""


def harvest(
    wave: FloatArray, sample_rate: int, *, f0_min: float, f0_max: float, frame_period: float = 5.0
) -> tuple[FloatArray, FloatArray]:
    """F0 contour of a signal.

    Args:
        wave: (n,), at any scale.
        f0_min, f0_max: search range in Hz.
        frame_period: milliseconds.

    Returns:
        f0: (T,) Hz, 0 where unvoiced, with T = 1000 n / sample_rate / frame_period + 1, rounded down.
        times: (T,) in seconds.
    """
    signal, rate = _decimated(np.ascontiguousarray(wave, dtype=np.float64), sample_rate)
    n_frames = int(1000.0 * len(wave) / sample_rate) + 1
    positions = np.arange(n_frames, dtype=np.float64) / 1000.0
    raw = _channel_candidates(signal, rate, positions, f0_min, f0_max)
    most = max(1, int(len(raw) / 10.0 + 0.5))
    candidates, count = _agreeing_channels(raw, most)
    candidates = _spread(candidates[:, :count])
    scores = _refine(signal, rate, positions, candidates, f0_min, f0_max)
    contour = np.zeros(n_frames)
    if count:
        _drop_unreliable(candidates, scores)
        contour = _smoothed(_best_contour(candidates, scores))
    n_kept = int(1000.0 * len(wave) / sample_rate / frame_period) + 1
    times: FloatArray = np.arange(n_kept, dtype=np.float64) * frame_period / 1000.0
    return contour[np.minimum(n_frames - 1, (times * 1000.0 + 0.5).astype(np.int64))], times


def warm_up() -> None:
    """Compile everything (some seconds after an installation), so that worker processes find it on disk."""
    time = np.arange(4000) / TARGET_RATE
    harvest(np.cos(2 * np.pi * 150 * time) + np.cos(2 * np.pi * 300 * time), TARGET_RATE, f0_min=80.0, f0_max=400.0)


def _decimated(wave: FloatArray, sample_rate: int) -> tuple[FloatArray, float]:
    """The signal at about 8 kHz, without its mean."""
    ratio = max(1, min(MAX_DECIMATION, int(sample_rate / TARGET_RATE + 0.5)))
    if ratio > 1:
        # Chebyshev filter forth and back, over a signal continued by its first and last value
        lag = math.ceil(140.0 / ratio) * ratio
        n_kept = math.ceil(len(wave) / ratio)
        padded = np.concatenate([np.full(lag, wave[0]), wave, np.full(lag, wave[-1])])
        numerator, denominator = _low_pass(ratio)
        odd = np.concatenate([2 * padded[0] - padded[9:0:-1], padded, 2 * padded[-1] - padded[-2:-11:-1]])
        both = _forth_and_back(odd, numerator, denominator)
        first = ratio - ratio * ((len(padded) - 1) // ratio + 1) + len(padded)
        wave = both[first + 8 :: ratio][lag // ratio :][:n_kept]
    return np.ascontiguousarray(wave - wave.mean()), sample_rate / ratio


@lru_cache(maxsize=MAX_DECIMATION)
def _low_pass(ratio: int) -> tuple[FloatArray, FloatArray]:
    """Chebyshev filter of order 3 with a ripple of 0.05 dB, before every so-manieth sample is kept: b and a.

    Written out because scipy.signal takes a second to load.
    """
    mu = math.asinh(1.0 / math.sqrt(10.0**0.005 - 1.0)) / 3.0
    poles = -np.sinh(mu + 1j * np.pi * np.array([-1.0, 0.0, 1.0]) / 3.0)  # of the analogue filter at 1 rad/s
    poles *= 4.0 * math.tan(math.pi * 0.8 / ratio / 2.0)
    gain = (np.prod(-poles) / np.prod(4.0 - poles)).real  # bilinear transform
    denominator = np.poly((4.0 + poles) / (4.0 - poles)).real
    return gain * np.array([1.0, 3.0, 3.0, 1.0]), np.ascontiguousarray(denominator)


@compiled
def _forth_and_back(values: FloatArray, numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """A recursive filter, then the same from the end to the start, so that nothing is delayed."""
    n, order = len(values), len(numerator) - 1
    result = values.copy()
    state = np.empty(order + 1)
    for way in range(2):
        state[:] = 0.0
        for step in range(n):
            i = step if way == 0 else n - 1 - step
            x = result[i]
            y = state[0] + numerator[0] * x
            for k in range(order):  # the last element of the state stays zero
                state[k] = state[k + 1] + numerator[k + 1] * x - denominator[k + 1] * y
            result[i] = y
    return result


def _channel_candidates(
    signal: FloatArray, rate: float, positions: FloatArray, f0_min: float, f0_max: float
) -> FloatArray:
    """F0 per channel and frame from the zero crossings and extrema of band-passed signals: (channels, frames)."""
    boundaries = _boundaries(f0_min, f0_max)
    size = 2 ** (int(math.log(len(signal) + 5 + 2 * int(2.0 * rate / boundaries[0])) / math.log(2.0)) + 1)
    spectrum = scipy.fft.rfft(signal, size)
    found = np.empty((len(boundaries), len(positions)))
    small = len(boundaries) * (size // 2 + 1) * spectrum.real.itemsize <= MAX_KEPT_BYTES
    batches = _kept_responses if small else _responses
    channel = 0
    for responses, delays, signs in batches(rate, size, f0_min, f0_max):
        product = spectrum * responses
        # WORLD's convolution multiplies the highest bin by the product of the one below it and stores the outcome in
        # both, which shows where the signal is faint. Its filters are delayed by half their length, hence the phase,
        # and it looks one sample ahead of their centre.
        product[:, -2] *= spectrum[-1]
        product[:, -1] = (product[:, -2] * delays).real * signs
        filtered = scipy.fft.irfft(product, size, overwrite_x=True)[:, 1 : len(signal) + 1]
        for row in filtered:
            _crossings_to_f0(row, rate, boundaries[channel], positions, f0_min, f0_max, found[channel])
            channel += 1
    return found


def _boundaries(f0_min: float, f0_max: float) -> FloatArray:
    """Centre of each channel in Hz."""
    low, high = f0_min * 0.9, f0_max * 1.1
    n_channels = 1 + int(math.log(high / low) / math.log(2.0) * CHANNELS_PER_OCTAVE)
    return np.asarray(low * np.exp2(np.arange(1, n_channels + 1, dtype=np.float64) / CHANNELS_PER_OCTAVE))


def _responses(
    rate: float, size: int, f0_min: float, f0_max: float
) -> Iterator[tuple[FloatArray, Complex, FloatArray]]:
    """Spectra of the band-pass filters in batches, and WORLD's delay of each: at the last bin but one, and its sign."""
    boundaries = _boundaries(f0_min, f0_max)
    halves = (rate / boundaries * 2.0 + 0.5).astype(np.int64)
    for start in range(0, len(boundaries), BATCH):
        part = slice(start, start + BATCH)
        filters = np.zeros((len(boundaries[part]), size))
        for row, (boundary, half) in enumerate(zip(boundaries[part], halves[part], strict=True)):
            offsets = np.arange(-half, half + 1)
            phase = 2.0 * np.pi * (offsets + half) / (2.0 * half)
            window = 0.355768 - 0.487396 * np.cos(phase) + 0.144232 * np.cos(2 * phase) - 0.012604 * np.cos(3 * phase)
            filters[row, offsets] = window * np.cos(2.0 * np.pi * boundary * offsets / rate)
        delays: Complex = np.exp(-2j * np.pi * halves[part] * (size // 2 - 1) / size)
        responses: FloatArray = np.ascontiguousarray(scipy.fft.rfft(filters, overwrite_x=True).real)
        signs: FloatArray = np.asarray(1.0 - 2.0 * (halves[part] % 2), dtype=np.float64)
        yield responses, delays, signs


@lru_cache(maxsize=3)
def _kept_responses(
    rate: float, size: int, f0_min: float, f0_max: float
) -> tuple[tuple[FloatArray, Complex, FloatArray], ...]:
    return tuple(_responses(rate, size, f0_min, f0_max))


@compiled
def _all_crossings(values: FloatArray, edges: FloatArray, counts: Indices) -> None:
    """Where a signal falls and rises through zero, and where its slope does: (4, n), positions counted from 1."""
    counts[:] = 0
    for i in range(len(values) - 1):
        here, there = values[i], values[i + 1]
        if here * there <= 0.0:  # rarely; then exactly
            if here > 0.0 and there <= 0.0:
                edges[0, counts[0]] = (i + 1) - here / (there - here)
                counts[0] += 1
            elif here < 0.0 and there >= 0.0:
                edges[1, counts[1]] = (i + 1) - here / (there - here)
                counts[1] += 1
        if i == len(values) - 2:
            break
        slope, next_slope = there - here, values[i + 2] - there
        if slope * next_slope <= 0.0:
            if slope > 0.0 and next_slope <= 0.0:
                edges[2, counts[2]] = (i + 1) - slope / (next_slope - slope)
                counts[2] += 1
            elif slope < 0.0 and next_slope >= 0.0:
                edges[3, counts[3]] = (i + 1) - slope / (next_slope - slope)
                counts[3] += 1


@compiled
def _add_interpolated(edges: FloatArray, count: int, rate: float, positions: FloatArray, total: FloatArray) -> None:
    """Add the frequency of a train of events, interpolated at the positions and continued beyond the ends."""
    last = count - 3  # first of the last two intervals
    i = 0
    x0, y0 = (edges[0] + edges[1]) / 2.0 / rate, rate / (edges[1] - edges[0])
    for k in range(last + 1):
        x1, y1 = (edges[k + 1] + edges[k + 2]) / 2.0 / rate, rate / (edges[k + 2] - edges[k + 1])
        slope = (y1 - y0) / (x1 - x0)
        while i < len(positions) and (k == last or positions[i] < x1):
            total[i] += y0 + (positions[i] - x0) * slope
            i += 1
        x0, y0 = x1, y1


@compiled
def _crossings_to_f0(
    filtered: FloatArray, rate: float, boundary: float, positions: FloatArray, f0_min: float, f0_max: float,
    found: FloatArray,
) -> None:  # fmt: skip
    edges = np.empty((4, len(filtered)))
    counts = np.zeros(4, dtype=np.int64)
    _all_crossings(filtered, edges, counts)
    found[:] = 0.0
    if counts.min() < 4:  # three intervals at least
        return
    for which in range(4):
        _add_interpolated(edges[which], counts[which], rate, positions, found)
    for i in range(len(positions)):
        f0 = found[i] / 4.0
        inside = boundary * 0.9 <= f0 <= boundary * 1.1 and f0_min <= f0 <= f0_max
        found[i] = f0 if inside else 0.0


@compiled
def _agreeing_channels(raw: FloatArray, most: int) -> tuple[FloatArray, int]:
    """Means over runs of channels with a candidate: (frames, most), and how many the richest frame has."""
    n_channels, n_frames = raw.shape
    candidates = np.zeros((n_frames, most))
    counts = np.zeros(n_frames, dtype=np.int64)
    starts = np.zeros(n_frames, dtype=np.int64)  # 0: no run; the first and the last channel take no part
    totals = np.zeros(n_frames)
    for c in range(1, n_channels):
        for t in range(n_frames):
            if c < n_channels - 1 and raw[c, t] > 0.0:
                if starts[t] == 0:
                    starts[t], totals[t] = c, 0.0
                totals[t] += raw[c, t]
            elif starts[t] > 0:
                if c - starts[t] >= MIN_CHANNELS:
                    candidates[t, counts[t]] = totals[t] / (c - starts[t])
                    counts[t] += 1
                starts[t] = 0
    return candidates, counts.max()


def _spread(candidates: FloatArray) -> FloatArray:
    """Candidates of a frame, then those of the frames before it, then of those after it."""
    n_frames, count = candidates.shape
    spread = np.zeros((n_frames, count * (2 * SPREAD + 1)))
    spread[:, :count] = candidates
    for i in range(1, SPREAD + 1):
        spread[i:, count * i : count * (i + 1)] = candidates[:-i] if i < n_frames else 0.0
        after = slice(count * (i + SPREAD), count * (i + SPREAD + 1))
        spread[: max(0, n_frames - i), after] = candidates[i:]
    return spread


def _refine(
    signal: FloatArray, rate: float, positions: FloatArray, candidates: FloatArray, f0_min: float, f0_max: float
) -> FloatArray:
    """Move candidates to their instantaneous frequency, in place; returns how harmonic each one is."""
    cosines, sines, first_exponent, bin_cosines, bin_sines = _refinement_tables(rate, f0_min, f0_max)
    scores = np.zeros_like(candidates)
    padding = 2 * len(cosines)
    padded = np.pad(signal, padding, mode="edge")
    _refine_all(
        padded, padded[::-1].copy(), padding, rate, positions, candidates, scores, f0_min, f0_max,
        cosines, sines, first_exponent, bin_cosines, bin_sines,
    )  # fmt: skip
    return scores


@lru_cache(maxsize=4)
def _refinement_tables(
    rate: float, f0_min: float, f0_max: float
) -> tuple[FloatArray, FloatArray, int, FloatArray, FloatArray]:
    """Cosines and sines of the windows, by half length, and of the bins that harmonics reach.

    Both count samples from the middle of the window. The latter have a row per length of transform, beginning with the
    returned exponent.
    """
    shortest, longest = int(1.5 * rate / f0_max + 1.0), int(1.5 * rate / f0_min + 1.0)
    phases = 2.0 * np.pi * np.arange(longest + 1) / (2.0 * np.arange(longest + 1)[:, None] + 1.0)
    exponents = [int(math.log(2.0 * h + 1.0) / math.log(2.0)) for h in (shortest, longest)]
    angles = np.zeros((exponents[1] - exponents[0] + 1, HARMONIC_ROWS + 1, longest + 1))
    for row, exponent in enumerate(range(exponents[0], exponents[1] + 1)):
        size = 4 * 2**exponent
        angles[row] = 2.0 * np.pi / size * (np.arange(HARMONIC_ROWS + 1)[:, None] * np.arange(longest + 1) % size)
    return np.cos(phases), np.sin(phases), exponents[0], np.cos(angles), np.sin(angles)


@compiled_loosely
def _refine_all(
    padded: FloatArray, backwards: FloatArray, padding: int, rate: float, positions: FloatArray,
    candidates: FloatArray, scores: FloatArray, f0_min: float, f0_max: float,
    cosines: FloatArray, sines: FloatArray, first_exponent: int, bin_cosines: FloatArray, bin_sines: FloatArray,
) -> None:  # fmt: skip
    longest = len(cosines) - 1
    # Both halves of the window outwards from its middle, which has the second place; then one zero.
    before, after = np.zeros(longest + 3), np.zeros(longest + 3)
    even, odd, even_slope, odd_slope = (
        np.empty(longest + 1), np.empty(longest + 1), np.empty(longest + 1), np.empty(longest + 1),
    )  # fmt: skip
    amplitudes, frequencies = np.empty(MAX_HARMONICS), np.empty(MAX_HARMONICS)
    for t in range(len(positions)):
        position = positions[t]
        for j in range(candidates.shape[1]):
            f0 = candidates[t, j]
            if f0 <= 0.0:
                continue
            half = int(1.5 * rate / f0 + 1.0)
            length = 2 * half + 1
            exponent = int(math.log(2.0 * half + 1.0) / math.log(2.0))
            size = 4 * 2**exponent
            origin = (position - half / rate) * rate + 0.001
            base = int(origin + 0.5) if origin > 0 else int(origin - 0.5)
            # a Blackman window, from the angle of its middle and stored steps
            phase = 2.0 * math.pi * (base - 1.0 + half - position * rate) / length
            cosine, sine = math.cos(phase), math.sin(phase)
            for i in range(half + 1):
                c, s = cosine * cosines[half, i], sine * sines[half, i]
                left, right = c + s, c - s
                before[i + 1] = 0.34 + 0.5 * left + 0.16 * left * left
                after[i + 1] = 0.34 + 0.5 * right + 0.16 * right * right
            before[0], after[0] = after[2], before[2]
            before[half + 2] = after[half + 2] = 0.0
            # the signal under the window and under its slope, folded at the middle
            middle = padding + base - 1 + half
            opposite = len(padded) - 1 - middle
            for i in range(half + 1):
                x, y = backwards[opposite + i], padded[middle + i]
                left, right = x * before[i + 1], y * after[i + 1]
                even[i] = left + right
                odd[i] = right - left
                left, right = x * (before[i + 2] - before[i]), y * (after[i] - after[i + 2])
                even_slope[i] = (left + right) / 2.0
                odd_slope[i] = (right - left) / 2.0
            even[0] /= 2.0  # the middle itself came from both sides
            even_slope[0] /= 2.0
            n_harmonics = min(int(rate / 2.0 / f0), MAX_HARMONICS)
            row = exponent - first_exponent
            for h in range(n_harmonics):
                k = int(f0 * size / rate * (h + 1) + 0.5)
                real, imaginary, slope_real, slope_imaginary = 0.0, 0.0, 0.0, 0.0
                for i in range(half + 1):
                    c, s = bin_cosines[row, k, i], bin_sines[row, k, i]
                    real += even[i] * c
                    imaginary -= odd[i] * s
                    slope_real += even_slope[i] * c
                    slope_imaginary -= odd_slope[i] * s
                power = real * real + imaginary * imaginary
                turn = real * slope_imaginary - imaginary * slope_real
                frequencies[h] = 0.0
                if power != 0.0:
                    frequencies[h] = k * rate / size + turn / power * rate / 2.0 / math.pi
                amplitudes[h] = math.sqrt(power)
            numerator, denominator, deviation = 0.0, 0.0, 0.0
            for h in range(n_harmonics):
                numerator += amplitudes[h] * frequencies[h]
                denominator += amplitudes[h] * (h + 1.0)
                deviation += abs((frequencies[h] / (h + 1.0) - f0) / f0)
            refined = numerator / (denominator + TINY)
            score = 1.0 / (deviation / n_harmonics + TINY)
            if refined < f0_min or refined > f0_max or score < MIN_SCORE:
                refined, score = 0.0, 0.0
            candidates[t, j] = refined
            scores[t, j] = score


@compiled
def _nearest(reference: float, candidates: FloatArray, allowed: float) -> tuple[float, float]:
    """The candidate nearest to a reference, and its relative distance; (0, allowed) if none is near enough."""
    best, distance = 0.0, allowed
    for candidate in candidates:
        other = abs(reference - candidate) / reference
        if other <= distance:
            best, distance = candidate, other
    return best, distance


@compiled
def _has_near(reference: float, candidates: FloatArray) -> bool:
    """Whether any candidate is no more than a step away."""
    for candidate in candidates:  # noqa: SIM110 (numba compiles no generators)
        if abs(reference - candidate) / reference <= MAX_STEP:
            return True
    return False


@compiled
def _drop_unreliable(candidates: FloatArray, scores: FloatArray) -> None:
    """Remove candidates without a near one in the frame before or after."""
    before = candidates.copy()
    for t in range(1, len(candidates) - 1):
        for j in range(candidates.shape[1]):
            reference = before[t, j]
            if reference == 0.0:
                continue
            if not _has_near(reference, before[t + 1]) and not _has_near(reference, before[t - 1]):
                candidates[t, j] = 0.0
                scores[t, j] = 0.0


def _best_contour(candidates: FloatArray, scores: FloatArray) -> FloatArray:
    """The likeliest contour: (frames,)."""
    best = scores.argmax(axis=1)  # the first of equals
    frames = np.arange(len(scores))
    contour = np.where(scores[frames, best] > 0.0, candidates[frames, best], 0.0)
    contour = _without_jumps(contour)
    _drop_short(contour)
    contour = _extended(contour, candidates, scores)
    _bridge_short_gaps(contour)
    return contour


def _without_jumps(contour: FloatArray) -> FloatArray:
    """Zero where F0 neither follows the line through the last two frames nor stays near the last one."""
    kept = np.zeros_like(contour)
    line = 2 * contour[1:-1] - contour[:-2]
    here, last = contour[2:], contour[1:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        jumps = (np.abs((here - line) / line) > MAX_JUMP) & (np.abs(here - last) / last > MAX_JUMP)
    kept[2:] = np.where((here == 0.0) | jumps, 0.0, here)
    return kept


def _sections(contour: FloatArray) -> Indices:
    """First and last frame of each voiced section: (sections, 2). The first and the last frame are never voiced."""
    voiced = contour > 0
    voiced[0] = voiced[-1] = False
    change = np.flatnonzero(np.diff(voiced))
    return np.stack([change[0::2] + 1, change[1::2]], axis=1)


def _drop_short(contour: FloatArray) -> None:
    for first, last in _sections(contour):
        if last - first < MIN_SECTION:
            contour[first : last + 1] = 0.0


def _extended(contour: FloatArray, candidates: FloatArray, scores: FloatArray) -> FloatArray:
    """Sections extended along near candidates, where they overlap merged by score."""
    bounds = _sections(contour)
    channels = [np.zeros_like(contour) for _ in bounds]
    for channel, (first, last) in zip(channels, bounds, strict=True):
        channel[first : last + 1] = contour[first : last + 1]
    count, mean = 0, 0.0
    for i, channel in enumerate(channels):
        first, last = bounds[i]
        bounds[i, 1] = _extend(channel, candidates, last, min(len(contour) - 2, last + EXTENSION), 1)
        bounds[i, 0] = _extend(channel, candidates, first, max(1, first - EXTENSION), -1)
    for i in range(len(channels)):
        first, last = bounds[i]
        # As in WORLD, the mean of a section starts from that of the one before it.
        mean = (mean + channels[i][first:last].sum()) / (last - first)
        if EXTENSION_CYCLES / mean < last - first:
            channels[count], channels[i] = channels[i], channels[count]
            bounds[[count, i]] = bounds[[i, count]]
            count += 1
    if not count:
        return contour
    return _merged(channels[:count], bounds[:count], candidates, scores)


@compiled
def _extend(channel: FloatArray, candidates: FloatArray, origin: int, end: int, step: int) -> int:
    """Continue a section in one direction; returns its new end."""
    f0, reached, missing = channel[origin], origin, 0
    for i in range(abs(end - origin) + 1):
        frame = origin + step * (i + 1)
        channel[frame] = _nearest(f0, candidates[frame], EXTENSION_RANGE)[0]
        if channel[frame] == 0.0:
            missing += 1
        else:
            f0, reached, missing = channel[frame], frame, 0
        if missing == EXTENSION_GIVES_UP:
            break
    return reached


def _merged(channels: list[FloatArray], bounds: Indices, candidates: FloatArray, scores: FloatArray) -> FloatArray:
    """Sections in order of time; of two that overlap, the part with the lower score gives way."""
    merged = channels[0].copy()
    start, end = (int(bound) for bound in bounds[0])
    for i in _insertion_order(bounds[:, 0])[1:]:
        if i == 0:  # the one that the merging started from
            continue
        first, last = (int(bound) for bound in bounds[i])
        if first > end:
            merged[first : last + 1] = channels[i][first : last + 1]
            start, end = first, last
            continue
        if start <= first and end >= last:
            continue
        old = _total_score(merged, candidates, scores, first, end)
        new = _total_score(channels[i], candidates, scores, first, end)
        begin = end if old > new else first
        merged[begin : last + 1] = channels[i][begin : last + 1]
        end = last
    return merged


def _insertion_order(starts: Indices) -> list[int]:
    """WORLD's insertion sort, which leaves some lists partly unsorted: it compares with an element that has moved."""
    order = list(range(len(starts)))
    for i in range(1, len(order)):
        for j in range(i - 1, -1, -1):
            if starts[order[j]] <= starts[order[i]]:
                break
            order[i], order[j] = order[j], order[i]
    return order


@compiled
def _total_score(contour: FloatArray, candidates: FloatArray, scores: FloatArray, first: int, last: int) -> float:
    """Sum over frames of the best score that a candidate equal to the contour has; 0 where there is none."""
    total = 0.0
    for t in range(first, last + 1):
        best = 0.0
        for j in range(candidates.shape[1]):
            if candidates[t, j] == contour[t] and scores[t, j] > best:
                best = scores[t, j]
        total += best
    return total


def _bridge_short_gaps(contour: FloatArray) -> None:
    """Fill short gaps with a line (WORLD's, which starts 1 Hz above and ends 1 Hz below the sections)."""
    bounds = _sections(contour)
    filled = contour.copy()
    for (_, last), (first, _) in itertools.pairwise(bounds):
        gap = first - last - 1
        if gap < SHORT_GAP:
            start, end = contour[last] + 1.0, contour[first] - 1.0
            filled[last + 1 : first] = start + (end - start) / (gap + 1.0) * np.arange(1, gap + 1)
    contour[:] = filled


def _smoothed(contour: FloatArray) -> FloatArray:
    """Each section under a Butterworth filter forth and back, continued by its first and last value."""
    padded = np.pad(contour, SMOOTHING_LAG)
    smoothed = np.zeros_like(padded)
    for first, last in _sections(padded):
        held = padded.copy()
        held[:first], held[last + 1 :] = padded[first], padded[last]
        smoothed[first : last + 1] = _forth_and_back(held, *SMOOTHING_FILTER)[first : last + 1]
    return smoothed[SMOOTHING_LAG:-SMOOTHING_LAG]
