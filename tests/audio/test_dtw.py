"""Alignments against enumeration, against librosa and against the package whose approximation is copied."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio import dtw
from aasvc_cli.errors import DataError
from tests.examples import examples
from tests.oracles import path_cost

Path = tuple[tuple[int, int], ...]


def monotone_paths(n_x: int, n_y: int) -> Iterator[Path]:
    """Every path from (0, 0) to the far corner in steps (1, 0), (0, 1), (1, 1)."""

    def grow(path: Path) -> Iterator[Path]:
        i, j = path[-1]
        if (i, j) == (n_x - 1, n_y - 1):
            yield path
        for a, b in ((i + 1, j), (i, j + 1), (i + 1, j + 1)):
            if a < n_x and b < n_y:
                yield from grow((*path, (a, b)))

    return grow(((0, 0),))


@st.composite
def sequences(draw: st.DrawFn, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sequences; small whole numbers make many paths equally good, so that ties are decided."""
    width = draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    if draw(st.booleans()):
        x, y = (generator.integers(0, 3, (n, width)).astype(float) for n in lengths)
    else:
        x, y = (generator.standard_normal((n, width)) for n in lengths)
    return x, y


def is_path(path: np.ndarray, n_x: int, n_y: int) -> bool:
    steps = {tuple(step) for step in np.diff(path, axis=0)}
    ends = (path[0] == 0).all() and tuple(path[-1]) == (n_x - 1, n_y - 1)
    return bool(ends) and steps <= {(1, 0), (0, 1), (1, 1)}


@given(sequences(longest=5))
@examples(60)
def test_no_path_is_better_than_the_exact_one(pair):
    x, y = pair
    best = min(path_cost(x, y, np.array(path)) for path in monotone_paths(len(x), len(y)))
    path = dtw.exact_path(x, y)
    assert is_path(path, len(x), len(y))
    assert path_cost(x, y, path) == pytest.approx(best, abs=1e-12)


@given(sequences(longest=40))
@examples(30)
def test_the_exact_path_costs_what_librosa_finds(pair):
    from librosa.sequence import dtw as oracle

    x, y = pair
    cost, _ = oracle(x.T, y.T)
    assert path_cost(x, y, dtw.exact_path(x, y)) == pytest.approx(cost[-1, -1], abs=1e-9)


@given(sequences(longest=70), st.integers(1, 3))
@examples(150)
def test_the_fast_path_is_that_of_the_fastdtw_package_ties_included(pair, radius):
    oracle = pytest.importorskip("fastdtw")
    from scipy.spatial.distance import euclidean

    x, y = pair
    _, expected = oracle.fastdtw(x, y, radius=radius, dist=euclidean)
    assert dtw.fast_path(x, y, radius).tolist() == [list(step) for step in expected]


@given(sequences(longest=40))
@examples(50)
def test_the_fast_path_is_a_path_and_never_better_than_the_exact_one(pair):
    x, y = pair
    fast, exact = dtw.fast_path(x, y), dtw.exact_path(x, y)
    assert is_path(fast, len(x), len(y))
    assert path_cost(x, y, fast) >= path_cost(x, y, exact) - 1e-9
    wide = dtw.fast_path(x, y, radius=40)
    assert path_cost(x, y, wide) == pytest.approx(path_cost(x, y, exact), abs=1e-9)


def test_a_planted_time_warp_is_found():
    x = np.random.default_rng(3).standard_normal((30, 8))
    repeats = np.random.default_rng(4).integers(1, 4, 30)
    planted = np.stack([np.repeat(np.arange(30), repeats), np.arange(repeats.sum())], axis=1)
    assert dtw.exact_path(x, x[planted[:, 0]]).tolist() == planted.tolist()


@pytest.mark.parametrize("search", [dtw.exact_path, dtw.fast_path])
def test_an_empty_side_gives_an_empty_path(search):
    assert search(np.zeros((0, 4)), np.zeros((7, 4))).shape == (0, 2)
    assert search(np.zeros((7, 4)), np.zeros((0, 4))).shape == (0, 2)


def test_recordings_too_long_for_the_exact_search_are_refused_before_memory_is_taken():
    frames = np.zeros((30_000, 1))
    with pytest.raises(DataError, match="too many for an exact alignment"):
        dtw.exact_path(frames, frames)


def test_programming_errors_are_told_apart():
    with pytest.raises(ValueError, match="equal width"):
        dtw.exact_path(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="radius"):
        dtw.fast_path(np.zeros((3, 2)), np.zeros((3, 2)), radius=0)
