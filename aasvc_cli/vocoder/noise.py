"""The standard normal numbers that torch draws on a CPU, without torch, so that a seed means the same in both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GROUP = 16
"""Numbers drawn together: eight radii and eight angles of Box and Muller's method."""
NOISE_BLOCK = 1 << 14
"""Samples of noise drawn from one seed, so that any stretch of it can be drawn without what comes before."""


def standard_normal(count: int, seed: int) -> npt.NDArray[np.float32]:
    """(count,), what ``torch.randn(count, generator=torch.Generator().manual_seed(seed))`` gives, to float rounding."""
    # both are the Mersenne Twister, seeded alike; numpy's newer generators seed it otherwise
    words = np.random.RandomState(seed & 0xFFFFFFFF)
    if count < _GROUP:
        return _few(count, words)
    uniform = _uniform(words, count)
    whole = count // _GROUP * _GROUP
    drawn = uniform.copy()
    drawn[:whole] = _box_muller(uniform[:whole].reshape(-1, _GROUP)).reshape(-1)
    if whole < count:  # torch draws the last group anew, over the end of the one before
        drawn[-_GROUP:] = _box_muller(_uniform(words, _GROUP)[None])[0]
    return drawn


def noise_between(seed: int, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Samples ``start`` to ``stop`` of the endless noise of a seed: (stop - start,)."""
    first, last = start // NOISE_BLOCK, max(start, stop - 1) // NOISE_BLOCK
    blocks = [
        standard_normal(NOISE_BLOCK, (seed * 0x9E3779B97F4A7C15 + block) % (1 << 63))
        for block in range(first, last + 1)
    ]
    return np.concatenate(blocks)[start - first * NOISE_BLOCK : stop - first * NOISE_BLOCK]


def _words(words: np.random.RandomState, count: int) -> npt.NDArray[np.uint64]:
    return words.randint(0, 1 << 32, size=count, dtype=np.uint32).astype(np.uint64)


def _uniform(words: np.random.RandomState, count: int) -> npt.NDArray[np.float32]:
    """Within [0, 1), of 24 bits each."""
    return (_words(words, count) & np.uint64((1 << 24) - 1)).astype(np.float32) * np.float32(2.0**-24)


def _box_muller(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, 16) uniform to (n, 16) normal."""
    half = _GROUP // 2
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - uniform[:, :half]))
    angle = np.float32(2.0 * np.pi) * uniform[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _few(count: int, words: np.random.RandomState) -> npt.NDArray[np.float32]:
    """Fewer than 16 are drawn one by one, in float64, two from a pair of numbers of 53 bits."""
    pairs = (count + 1) // 2
    halves = _words(words, 4 * pairs).reshape(-1, 2)
    # the first word is the upper half
    bits = (halves[:, 0] << np.uint64(32) | halves[:, 1]) & np.uint64((1 << 53) - 1)
    angle, size = (bits.astype(np.float64) * 2.0**-53).reshape(pairs, 2).T
    radius = np.sqrt(-2.0 * np.log1p(-size))
    drawn = np.stack([radius * np.cos(2.0 * np.pi * angle), radius * np.sin(2.0 * np.pi * angle)], axis=1)
    return drawn.reshape(-1)[:count].astype(np.float32)
