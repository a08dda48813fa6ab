"""Slow and obvious versions of what the package does fast; they share no code with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


def monotonic_paths(n_frames: int, n_tokens: int) -> Iterator[tuple[int, ...]]:
    """Every path that starts at token 0, ends at the last token and moves by 0 or 1 per frame."""
    for moves in itertools.combinations(range(1, n_frames), n_tokens - 1):
        yield tuple(sum(frame >= move for move in moves) for frame in range(n_frames))


def best_path_score(scores: Array) -> float:
    """Largest sum of scores (T, K) along a monotonic path."""
    n_frames, n_tokens = scores.shape
    return max(sum(scores[t, k] for t, k in enumerate(path)) for path in monotonic_paths(n_frames, n_tokens))


def ctc_log_probability(scores: Array, blank: float) -> float:
    """Log of the summed exp-scores of all frame labellings that collapse to 1, 2, …, K; scores are (T, K)."""
    n_frames, n_tokens = scores.shape
    wanted = tuple(range(1, n_tokens + 1))
    total = -math.inf
    for labels in itertools.product(range(n_tokens + 1), repeat=n_frames):
        merged = tuple(label for label, _ in itertools.groupby(labels) if label)
        if merged == wanted:
            score = sum(blank if label == 0 else float(scores[t, label - 1]) for t, label in enumerate(labels))
            total = np.logaddexp(total, score)
    return total


def beta_binomial(k: int, n: int, alpha: float, beta: float) -> float:
    """Probability of k successes in n trials, by numerical integration over the success rate."""
    from scipy.integrate import quad
    from scipy.special import comb

    def density(p: float) -> float:
        return p ** (alpha - 1) * (1 - p) ** (beta - 1)

    norm = quad(density, 0, 1)[0]
    return float(comb(n, k) * quad(lambda p: density(p) * p**k * (1 - p) ** (n - k), 0, 1)[0] / norm)


def path_cost(x: Array, y: Array, path: npt.NDArray[np.integer]) -> float:
    """Sum of Euclidean distances along an alignment path (P, 2)."""
    return float(np.linalg.norm(x[path[:, 0]] - y[path[:, 1]], axis=1).sum())
