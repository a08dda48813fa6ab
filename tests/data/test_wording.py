"""Which pairs hold different words: on content that is made up, so that it is known which do."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from aasvc_cli.data.wording import CONFIDENCE, Fit, fit, limits, nearest_in_length, pooled

Array = npt.NDArray[np.float32]


def fits(misfits: list[float], spread: float = 0.1, seed: int = 0) -> list[Fit]:
    """Pairs of given misfits beside others whose costs vary as much as that."""
    rng = np.random.default_rng(seed)
    made = []
    for misfit in misfits:
        others = tuple(0.8 + spread * rng.standard_normal(4))
        made.append(Fit(misfit * float(np.mean(others)), others, 1.0))
    return made


def sentence(seed: int, count: int = 40, width: int = 16) -> Array:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def spoken(words: Array, seed: int, noise: float = 0.6) -> Array:
    """The same words by somebody else, at another speed."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, len(words), size=round(1.2 * len(words))))
    return (words[times] + noise * rng.standard_normal((len(times), words.shape[1]))).astype(np.float32)


def test_pooled_frames_are_means_of_neighbours_and_the_last_may_stand_alone() -> None:
    frames = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(pooled(frames), [[1, 2], [5, 6], [8, 9]])


@pytest.mark.parametrize("count", [1, 3, 9])
def test_others_are_the_nearest_in_length_and_never_oneself(count: int) -> None:
    lengths = [float(value) for value in np.random.default_rng(1).integers(1, 1000, size=12)]
    for index, chosen in enumerate(nearest_in_length(lengths, count)):
        distances = sorted(abs(length - lengths[index]) for other, length in enumerate(lengths) if other != index)
        assert index not in chosen
        assert sorted(abs(lengths[other] - lengths[index]) for other in chosen) == distances[:count]


def test_a_pair_of_the_same_words_fits_better_than_other_sentences_and_one_of_other_words_does_not() -> None:
    targets = [spoken(sentence(index), 100 + index) for index in range(5)]
    others = [partial(np.asarray, target) for target in targets[1:]]
    assert fit(sentence(0), targets[0], others).misfit < 0.6
    assert fit(sentence(0), spoken(sentence(9), 9), others).misfit == pytest.approx(1.0, abs=0.1)


def test_where_all_pairs_fit_none_is_named() -> None:
    usual = [0.2 + 0.1 * np.random.default_rng(index).random() for index in range(100)]
    bounds = limits(fits(usual))
    assert bounds is not None
    assert max(usual) < bounds.near < bounds.wrong


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_other_words_are_named_and_hardly_any_others(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wrong = rng.random(200) < share
    misfits = np.where(wrong, 1.0 + 0.1 * rng.standard_normal(200), 0.4 + 0.12 * rng.standard_normal(200))
    bounds = limits(fits(list(misfits), seed=seed))
    assert bounds is not None
    named = np.array([bounds.verdict(misfit) == "wrong" for misfit in misfits])
    assert (named & wrong).sum() >= 0.9 * wrong.sum()
    assert (named & wrong).sum() >= CONFIDENCE * named.sum()


def test_between_usual_and_wrong_lies_what_is_near_the_limit() -> None:
    bounds = limits(fits([0.2] * 50 + [1.0] * 5))
    assert bounds is not None
    verdicts = [bounds.verdict(misfit) for misfit in (0.2, (bounds.near + bounds.wrong) / 2, 1.0)]
    assert verdicts == ["", "near", "wrong"]


def test_where_the_same_words_cost_as_much_as_others_nothing_is_said() -> None:
    assert limits(fits(list(1.0 + 0.05 * np.random.default_rng(2).standard_normal(50)))) is None


def test_of_few_pairs_nothing_is_said() -> None:
    assert limits(fits([0.2] * 6 + [1.0])) is None
