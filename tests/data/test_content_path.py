"""Paths between what two recordings say, against searching all paths and against paths that are known."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from aasvc_cli.data import content_path as module
from aasvc_cli.data.content_path import content_path

Array = npt.NDArray[np.float32]


def frames(count: int, width: int = 12, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def angles(source: Array, target: Array) -> npt.NDArray[np.float64]:
    x, y = (side.astype(np.float64) for side in (source, target))
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    return 1.0 - (x @ y.T) / lengths


def test_a_recording_and_itself_say_the_same_at_the_same_time() -> None:
    recording = frames(30)
    path = content_path(recording, recording)
    assert path.frames.tolist() == [[i, i] for i in range(30)]
    assert path.cost == pytest.approx(0.0, abs=1e-9)


def test_no_other_path_has_less_distance() -> None:
    source, target = frames(6, seed=1), frames(5, seed=2)
    distances = np.sqrt(2.0 * angles(source, target))

    @cache
    def least(i: int, j: int) -> float:
        before = [least(a, b) for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
        return float(distances[i, j]) + min(before, default=0.0)

    path = content_path(source, target)
    assert distances[tuple(path.frames.T)].sum() == pytest.approx(least(5, 4))


def test_costs_are_angles_along_the_path_and_do_not_depend_on_level() -> None:
    source, target = frames(20, seed=3), frames(25, seed=4)
    path = content_path(source, target)
    np.testing.assert_allclose(path.costs, angles(source, target)[tuple(path.frames.T)], atol=1e-9)
    louder = content_path(source * np.float32(7.0), target)
    assert louder.frames.tolist() == path.frames.tolist()
    assert louder.cost == pytest.approx(path.cost)


def test_a_slower_speaker_is_followed() -> None:
    source = frames(40, seed=5)
    slow = np.repeat(source, 3, axis=0)
    positions = content_path(source, slow).source_positions()
    np.testing.assert_allclose(positions, np.repeat(np.arange(40), 3))


def test_a_faster_speaker_is_given_the_middle_of_what_he_says() -> None:
    target = frames(40, seed=6)
    positions = content_path(np.repeat(target, 3, axis=0), target).source_positions()
    np.testing.assert_allclose(positions, 3.0 * np.arange(40) + 1.0)


def test_the_same_words_cost_less_than_other_words() -> None:
    source = frames(60, seed=7)
    same = np.repeat(source, 2, axis=0) + 0.5 * frames(120, seed=8)
    assert content_path(source, same).cost < 0.3 < content_path(source, frames(120, seed=9)).cost


def test_long_recordings_are_searched_coarse_to_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.cumsum(frames(400, seed=10), axis=0)
    target = np.repeat(source, 2, axis=0)
    exact = content_path(source, target)
    monkeypatch.setattr(module, "EXACT_CELLS", 1000)
    monkeypatch.setattr(module, "FAST_RADIUS", 20)
    assert content_path(source, target).frames.tolist() == exact.frames.tolist()


def test_silence_has_no_direction_and_is_no_fault() -> None:
    path = content_path(np.zeros((5, 12), dtype=np.float32), frames(7))
    assert path.cost == pytest.approx(1.0)


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0)])
def test_nothing_has_no_path(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no path"):
        content_path(frames(lengths[0]), frames(lengths[1]))
