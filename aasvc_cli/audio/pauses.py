"""Recordings as pieces: where to cut so that no speech is cut, and how the converted pieces are joined.

1. The level of the recording is measured in frames of 10 ms (:class:`LevelMeter`), as it is read.
2. A frame is silent below a threshold that follows the recording: 6 dB above its noise, but between 40 and 12 dB below
   its speech, both taken from the minute around it (:func:`silent_frames`).
3. Silence of 0.2 s or more is a pause. A pause of a second or more, at an end, too, separates pieces and is kept as it
   is, but for a tenth of a second on either side that belongs to the piece. The model renders shorter pauses itself, in
   the rhythm of its target. A recording of up to 20 s without a long pause is one piece; in all others, what is longer
   than a piece may be is cut in the middle of its longest pause, and only where there is none, at its quietest point
   (:func:`find_pieces`). A recording without any speech has no piece.
4. Each piece starts and ends in a fade of 5 ms where it meets another (:func:`fade`).

Everything here takes and returns arrays and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

WHOLE_SECONDS = 20.0
"""Recordings up to this length, without a long pause, are converted as they are."""
LONGEST_PIECE_SECONDS = 12.0
"""Of the others, no piece is longer than this: models are trained on sentences, and attention takes memory that grows
with the square."""
SHORTEST_PIECE_SECONDS = 2.0
"""A piece is not cut into shorter ones than this."""
PAUSE_SECONDS = 0.2
"""Silence from this length on is a pause."""
KEPT_PAUSE_SECONDS = 1.0
"""Pauses from this length on are kept as they are."""
EDGE_SECONDS = 0.1
"""So much of a kept pause stays with the piece before it, and as much with the one after it."""
FADE_SECONDS = 0.005

FRAME_SECONDS = 0.01
LOWEST_LEVEL = -120.0
"""In dB of full scale; digital silence counts as this."""
SILENCE_LEVEL = -90.0
"""The last bit of 16; whatever the rest of the recording is like, nothing below it is audible."""
FAINT_LEVEL = -50.0
"""What stays below this and hardly changes is the noise of an empty room; speech rises and falls."""
_ABOVE_NOISE, _FARTHEST_BELOW_SPEECH, _NEAREST_BELOW_SPEECH = 6.0, 40.0, 12.0
_NOISE_PERCENTILE, _SPEECH_PERCENTILE = 2.0, 95.0
_STEP_SECONDS, _WINDOW_SECONDS = 10.0, 60.0


class LevelMeter:
    """Levels of a recording that arrives in blocks, without keeping it."""

    def __init__(self, sample_rate: int) -> None:
        """No levels yet."""
        self.n_samples = 0
        self._frame = frame_length(sample_rate)
        self._rest = np.zeros(0, dtype=np.float32)
        self._levels: list[npt.NDArray[np.float32]] = []

    def add(self, block: Wave) -> None:
        """Hear the next samples: (n,)."""
        self.n_samples += len(block)
        waiting = np.concatenate([self._rest, block])
        count = len(waiting) // self._frame
        self._levels.append(_levels(waiting[: count * self._frame].reshape(count, self._frame)))
        self._rest = waiting[count * self._frame :]

    def levels(self) -> Array:
        """(F,) in dB of full scale, one for each 10 ms; the last frame may be shorter."""
        rest = [_levels(self._rest[None])] if len(self._rest) else []
        return np.concatenate([np.zeros(0, dtype=np.float32), *self._levels, *rest]).astype(np.float64)


def frame_length(sample_rate: int) -> int:
    """Samples in a frame of 10 ms, at least 1."""
    return max(1, round(FRAME_SECONDS * sample_rate))


def _levels(frames: Wave) -> npt.NDArray[np.float32]:
    # the variance, as an offset of the whole signal is no sound
    variance = frames.astype(np.float64).var(axis=1)
    return (10.0 * np.log10(np.maximum(variance, 10.0 ** (LOWEST_LEVEL / 10.0)))).astype(np.float32)


def silent_frames(levels: Array) -> npt.NDArray[np.bool_]:
    """Which frames hold no speech: (F,) levels in dB to (F,)."""
    if not len(levels):
        return np.zeros(0, dtype=bool)
    noise, speech = _noise_and_speech(levels)
    if speech < FAINT_LEVEL and speech - noise < _NEAREST_BELOW_SPEECH:
        return np.ones(len(levels), dtype=bool)
    # a minute without any speech has no level of speech to go by: the noise of the whole recording tells it
    lowest = min(noise + _ABOVE_NOISE, speech - _NEAREST_BELOW_SPEECH)
    step, reach = round(_STEP_SECONDS / FRAME_SECONDS), round(_WINDOW_SECONDS / FRAME_SECONDS) // 2
    silent = np.empty(len(levels), dtype=bool)
    for start in range(0, len(levels), step):
        middle = start + step // 2
        noise, speech = _noise_and_speech(levels[max(0, middle - reach) : middle + reach])
        threshold = min(max(noise + _ABOVE_NOISE, speech - _FARTHEST_BELOW_SPEECH), speech - _NEAREST_BELOW_SPEECH)
        silent[start : start + step] = levels[start : start + step] <= max(threshold, lowest, SILENCE_LEVEL)
    return silent


def _noise_and_speech(levels: Array) -> tuple[float, float]:
    """The levels of the noise and of the speech in (F,) levels, in dB."""
    noise, speech = np.percentile(levels, [_NOISE_PERCENTILE, _SPEECH_PERCENTILE])
    # a word in half a minute of silence is less than one frame in twenty
    return float(noise), float(speech if speech - noise >= _NEAREST_BELOW_SPEECH else levels.max())


@dataclass(frozen=True)
class Piece:
    """Samples ``start`` to ``stop`` of a recording, to be converted as one utterance.

    Attributes:
        cuts_speech: it ends where there was no pause to end in
    """

    start: int
    stop: int
    cuts_speech: bool = False


def find_pieces(levels: Array, n_samples: int, sample_rate: int) -> list[Piece]:
    """Cut a recording into pieces: itself, if it is short and has no long pause, else of at most 12 s.

    Args:
        levels: (F,) of :class:`LevelMeter`
        n_samples: of the recording

    Returns:
        pieces in order, none overlapping another. What lies between two of them, before the first and after the last
        is silence that is kept as it is. None if there is nothing but silence.
    """
    silent = silent_frames(levels)
    if silent.all():
        return []
    frame = frame_length(sample_rate)
    edge, kept, shortest = (round(s / FRAME_SECONDS) for s in (EDGE_SECONDS, KEPT_PAUSE_SECONDS, PAUSE_SECONDS))
    pauses = [(start, stop) for start, stop in _runs(silent) if stop - start >= shortest]
    if n_samples <= WHOLE_SECONDS * sample_rate and all(stop - start < kept for start, stop in pauses):
        return [Piece(0, n_samples)]
    longest = round(LONGEST_PIECE_SECONDS / FRAME_SECONDS)
    pieces: list[Piece] = []
    for start, stop in _between([pause for pause in pauses if pause[1] - pause[0] >= kept], edge, len(levels)):
        for first, last, cuts_speech in _cut(start, stop, pauses, levels, longest):
            pieces.append(Piece(first * frame, min(last * frame, n_samples), cuts_speech))
    return pieces


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Spans in which a mask is true."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(changes[::2], changes[1::2], strict=True)]


def _between(pauses: list[tuple[int, int]], edge: int, n_frames: int) -> Iterator[tuple[int, int]]:
    """Spans between pauses, each with the edges of the pauses around it."""
    start = 0
    for pause_start, pause_stop in pauses:
        if pause_start > 0:
            yield start, min(pause_start + edge, n_frames)
        start = max(pause_stop - edge, 0)
    if start < n_frames and not (pauses and pauses[-1][1] == n_frames):
        yield start, n_frames


def _cut(
    start: int, stop: int, pauses: list[tuple[int, int]], levels: Array, longest: int
) -> Iterator[tuple[int, int, bool]]:
    """Spans of at most ``longest`` frames, and whether each ends within speech."""
    shortest = min(round(SHORTEST_PIECE_SECONDS / FRAME_SECONDS), longest // 4)
    while stop - start > longest:
        # what is left over must not become too short, either
        earliest, latest = start + shortest, min(start + longest, stop - shortest)
        # in the middle of a pause; failing that, anywhere in one of which only a part is within reach
        within = [(b - a, min(max((a + b) // 2, earliest), latest), a, b) for a, b in pauses]
        middles = [each[:2] for each in within if each[1] == (each[2] + each[3]) // 2]
        middles = middles or [(length, cut) for length, cut, a, b in within if a < cut < b]
        if middles:
            cut = max(middles)[1]
        else:
            earliest = max(earliest, min(start + longest // 2, latest))
            # five frames, as one may happen to lie between two periods of the voice
            padded = np.pad(levels[earliest : latest + 1], 2, mode="edge")
            cut = earliest + int(np.argmin(np.convolve(padded, np.ones(5), mode="valid")))
        yield start, cut, not middles
        start = cut
    yield start, stop, False


def fade(wave: Wave, sample_rate: int, *, start: bool, end: bool) -> Wave:
    """A wave whose start or end, or both, comes from or goes to zero within 5 ms (half a period of a cosine)."""
    length = min(round(FADE_SECONDS * sample_rate), len(wave) // 2)
    if not length or not (start or end):
        return wave
    rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(length) / length)).astype(np.float32)
    faded = wave.copy()
    if start:
        faded[:length] *= rise
    if end:
        faded[-length:] *= rise[::-1]
    return faded
