"""From the channels of a recording to one: without channels that are silent or cancel, offset and odd scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.errors import AudioError

Wave = npt.NDArray[np.float32]

SILENT_SHARE = 1e-4
"""A channel with less power than this share of the loudest one's (-40 dB) holds no voice."""
CANCELLED_SHARE = 0.2
"""Power of the mean over that of its channels: 1 for equal ones, a half for independent ones, 0 for inverted ones."""
OFFSET_FLOOR = 2e-3
"""Smallest offset that is taken off (-54 dB): below, recordings stay as they are to the bit."""
OFFSET_DEVIATIONS = 4.0
"""So many standard errors of the mean an offset must have: the mean of a short noise is not zero, either."""
_FRAME = 1024
"""Samples whose means tell how much the mean of a recording may be off zero by chance."""
_WINDOW = np.hanning(_FRAME) / np.hanning(_FRAME).sum()
"""Takes the voice out of these means, which would be in them without a window as parts of periods."""
_ENOUGH_FRAMES = 4
_FEWEST_SAMPLES = 256
"""Shorter recordings are not judged."""
OFFSET_NOTE = 0.01
UNSCALED_PEAK = 100.0
"""Floats beyond (40 dB above full scale) are integers that were not divided."""


@dataclass(frozen=True)
class Remark:
    """Something about a recording that its samples, as they are handed out, no longer show.

    Attributes:
        code: ``truncated``, ``joined``, ``beside``, ``channels``, ``offset`` or ``scaled``
        message: a sentence without the recording's name
    """

    code: str
    message: str


@dataclass(frozen=True)
class Mono:
    """How blocks (n, C) become mono: weights of the channels, then the offset off, then the gain."""

    weights: tuple[float, ...] | None
    """None for the mean of all."""
    offset: float = 0.0
    gain: float = 1.0

    def __call__(self, block: Wave) -> Wave:
        """(n, C) to (n,)."""
        if block.shape[1] == 1:
            wave = block[:, 0]
        elif self.weights is None:
            wave = block.mean(axis=1)
        else:
            wave = block @ np.asarray(self.weights, dtype=np.float32)
        if self.offset:
            wave = wave - np.float32(self.offset)
        return wave if self.gain == 1.0 else wave * np.float32(self.gain)


class Survey:
    """What has to be known of all samples before the first of them can be mixed; fed block by block."""

    def __init__(self, channels: int, subtype: str) -> None:
        """Nothing seen yet; ``subtype`` as soundfile names it."""
        self.n_samples = 0
        self._floats = subtype in ("FLOAT", "DOUBLE")
        self._sums = np.zeros(channels)
        self._products = np.zeros((channels, channels))
        self._n_frames, self._frame_sums, self._frame_products = 0, np.zeros(channels), np.zeros((channels, channels))
        self._lowest, self._highest = np.full(channels, math.inf), np.full(channels, -math.inf)

    def add(self, block: Wave) -> None:
        """The next samples: (n, C)."""
        self.n_samples += len(block)
        precise = block.astype(np.float64)
        self._sums += precise.sum(axis=0)
        self._products += precise.T @ precise
        frames = precise[: len(block) // _FRAME * _FRAME].reshape(-1, _FRAME, block.shape[1])
        means = np.einsum("n,fnc->fc", _WINDOW, frames)
        self._n_frames += len(means)
        self._frame_sums += means.sum(axis=0)
        self._frame_products += means.T @ means
        np.minimum(self._lowest, block.min(axis=0), out=self._lowest)
        np.maximum(self._highest, block.max(axis=0), out=self._highest)

    def mono(self, name: str) -> tuple[Mono, list[Remark]]:
        """How to mix, and what there is to say about it.

        Raises:
            AudioError: samples far beyond full scale.
        """
        if self.n_samples < _FEWEST_SAMPLES:
            return Mono(None), []
        means = self._sums / self.n_samples
        covariance = self._products / self.n_samples - np.outer(means, means)
        weights, remarks = _choose_channels(covariance)
        offset, standard_error = self._offset(weights, means, covariance)
        needed = max(OFFSET_FLOOR, OFFSET_DEVIATIONS * standard_error)
        offset = offset if abs(offset) > needed else 0.0
        if abs(offset) >= OFFSET_NOTE:
            remarks.append(Remark("offset", f"a constant offset of {offset:+.3g} is taken off"))
        gain, peak = 1.0, self._peak(weights > 0, offset)
        if self._floats and peak > 1.0:
            if peak > UNSCALED_PEAK:
                raise AudioError(
                    f"{name}: far louder than full scale (peak {peak:.4g}): its samples are not scaled to 1.0; divide "
                    "them, by 32768 if they were 16-bit integers",
                    "scale",
                )
            gain = 1.0 / peak
            remarks.append(Remark("scaled", f"peak {peak:.3g}, above full scale; scaled down to 1.0"))
        even = bool((weights == weights[0]).all())
        return Mono(None if even else tuple(map(float, weights)), offset, gain), remarks

    def _offset(
        self, weights: npt.NDArray[Any], means: npt.NDArray[Any], covariance: npt.NDArray[Any]
    ) -> tuple[float, float]:
        """Of the mix, and its standard error: from windowed frames, in which a voice leaves next to nothing at 0 Hz."""
        count = self.n_samples
        if self._n_frames >= _ENOUGH_FRAMES:
            count, means = self._n_frames, self._frame_sums / self._n_frames
            covariance = self._frame_products / count - np.outer(means, means)
        return float(weights @ means), math.sqrt(max(0.0, float(weights @ covariance @ weights)) / count)

    def _peak(self, used: npt.NDArray[np.bool_], offset: float) -> float:
        """Of the channels that are used, which bounds the peak of their mean."""
        return float(max(self._highest[used].max() - offset, offset - self._lowest[used].min()))


def _choose_channels(covariance: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], list[Remark]]:
    """Weights (C,) that sum up to 1: the mean of all channels that hold sound, or the loudest if these cancel."""
    powers = np.diag(covariance)
    count, loudest = len(powers), int(np.argmax(powers))
    used = powers > SILENT_SHARE * powers[loudest]
    if count == 1 or powers[loudest] <= 0:
        return np.full(count, 1.0 / count), []
    weights = used / used.sum()
    if weights @ covariance @ weights < CANCELLED_SHARE * powers[used].mean():
        alone = np.zeros(count)
        alone[loudest] = 1.0
        what = "the two channels are inverted" if count == 2 else "the channels cancel"
        return alone, [Remark("channels", f"{what}: their mean is all but silent; channel {loudest + 1} is taken")]
    if used.all():
        return weights, []
    listed = ", ".join(str(index + 1) for index in np.flatnonzero(~used))
    taken = ", ".join(str(index + 1) for index in np.flatnonzero(used))
    verb = "is" if (~used).sum() == 1 else "are"
    return weights, [Remark("channels", f"channel {listed} {verb} silent; channel {taken} taken")]
