"""Alignment: search against enumeration, upsampling and rounding against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.model.alignment import (
    LEAST_LIKELY,
    band_log_prior,
    euclidean_distance,
    gaussian_upsampling,
    monotonic_search,
    path_durations,
    round_durations,
    tensor_monotonic_search,
)
from aasvc_cli.model.layers import padding_mask
from tests.examples import examples
from tests.oracles import best_path_score, monotonic_paths

SEARCHES = [monotonic_search, tensor_monotonic_search]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("n_frames", "n_tokens"), [(1, 1), (4, 1), (4, 4), (6, 3), (8, 5), (9, 2)])
def test_search_finds_a_best_path_among_all_enumerated(search, n_frames, n_tokens):
    scores = torch.randn(5, n_frames, n_tokens, generator=torch.Generator().manual_seed(n_frames * 10 + n_tokens))
    lengths = torch.full((5,), n_frames), torch.full((5,), n_tokens)
    found = search(scores, *lengths)
    for row, path in zip(scores.double().numpy(), found.tolist(), strict=True):
        assert tuple(path) in set(monotonic_paths(n_frames, n_tokens))
        assert sum(row[t, k] for t, k in enumerate(path)) == pytest.approx(best_path_score(row), abs=1e-5)


@pytest.mark.parametrize("search", SEARCHES)
def test_search_follows_a_planted_path(search):
    planted = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5])
    scores = torch.zeros(1, 12, 6)
    scores[0, torch.arange(12), planted] = 1.0
    assert search(scores, torch.tensor([12]), torch.tensor([6]))[0].tolist() == planted.tolist()


@pytest.mark.parametrize("search", SEARCHES)
def test_equal_scores_stay_on_the_first_token_as_long_as_possible(search):
    path = search(torch.zeros(1, 9, 4), torch.tensor([9]), torch.tensor([4]))
    durations = path_durations(path, torch.zeros(1, 9, dtype=torch.bool), 4)
    assert durations.tolist() == [[6, 1, 1, 1]]


@pytest.mark.parametrize("search", SEARCHES)
def test_more_tokens_than_frames_leave_out_the_first_tokens(search):
    path = search(torch.randn(1, 3, 5), torch.tensor([3]), torch.tensor([5]))
    assert path.tolist() == [[2, 3, 4]]


@given(data=st.data())
@examples(40)
def test_both_searches_agree_on_ragged_batches(data):
    batch = data.draw(st.integers(1, 4))
    target = torch.tensor(data.draw(st.lists(st.integers(1, 30), min_size=batch, max_size=batch)))
    tokens = torch.tensor(data.draw(st.lists(st.integers(1, 12), min_size=batch, max_size=batch)))
    seed = data.draw(st.integers(0, 10**6))
    scores = torch.randn(batch, int(target.max()), int(tokens.max()), generator=torch.Generator().manual_seed(seed))
    compiled, tensors = (search(scores, target, tokens) for search in SEARCHES)
    assert torch.equal(compiled, tensors)


def test_padding_does_not_change_a_path():
    scores = torch.randn(1, 20, 7, generator=torch.Generator().manual_seed(3))
    alone = monotonic_search(scores, torch.tensor([20]), torch.tensor([7]))
    padded = torch.nn.functional.pad(scores, (0, 5, 0, 9), value=3.0)
    within = monotonic_search(padded, torch.tensor([20]), torch.tensor([7]))
    assert within[0, :20].tolist() == alone[0].tolist()
    assert within[0, 20:].tolist() == [0] * 9


def test_durations_count_the_frames_of_each_token():
    path = torch.tensor([[0, 0, 1, 2, 2, 2, 0, 0]])
    padding = padding_mask(torch.tensor([6]), 8)
    assert path_durations(path, padding, 4).tolist() == [[2, 1, 3, 0]]


def test_distance_equals_the_broadcast_definition_and_is_flat_at_zero():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    expected = (queries.unsqueeze(2) - keys.unsqueeze(1)).norm(dim=-1)
    assert torch.allclose(euclidean_distance(queries, keys), expected, atol=1e-12)
    same = torch.zeros(1, 1, 3, requires_grad=True)
    euclidean_distance(same, torch.zeros(1, 1, 3)).sum().backward()
    assert same.grad is not None and same.grad.tolist() == [[[0, 0, 0]]]


def test_upsampling_weights_follow_the_gaussian_formula():
    tokens = torch.eye(3, dtype=torch.float64).unsqueeze(0)  # the output then is the weight of each token
    durations = torch.tensor([[2.0, 0.0, 4.0]], dtype=torch.float64)
    found = gaussian_upsampling(tokens, durations, None, None, 6)[0].numpy()
    centres = np.array([1.0, 2.0, 4.0])
    raw = np.exp(-0.1 * (np.arange(6)[:, None] - centres) ** 2)
    np.testing.assert_allclose(found, raw / raw.sum(1, keepdims=True), atol=1e-12)


def test_padded_tokens_get_no_weight_and_padded_frames_copy_frame_zero():
    tokens = torch.randn(1, 4, 2)
    padding = padding_mask(torch.tensor([3]), 4)
    frames = padding_mask(torch.tensor([5]), 8)
    whole = gaussian_upsampling(tokens, torch.tensor([[2.0, 1.0, 2.0, 0.0]]), padding, frames, 8)
    alone = gaussian_upsampling(tokens[:, :3], torch.tensor([[2.0, 1.0, 2.0]]), None, None, 5)
    assert torch.allclose(whole[:, :5], alone, atol=1e-6)
    assert torch.allclose(whole[:, 5:], alone[:, :1].expand(-1, 3, -1), atol=1e-6)


def test_durations_that_are_all_zero_count_as_one_each():
    tokens = torch.randn(1, 3, 2)
    zero = gaussian_upsampling(tokens, torch.zeros(1, 3), None, None, 3)
    one = gaussian_upsampling(tokens, torch.ones(1, 3), None, None, 3)
    assert torch.equal(zero, one)


@given(st.lists(st.floats(0.125, 20.0, width=32), min_size=1, max_size=60))
def test_cumulative_rounding_keeps_the_running_sum_within_half_a_frame(values):
    exact = torch.tensor([values], dtype=torch.float32)
    whole = round_durations(exact, "cumulative", None)
    assert (whole >= 0).all() and torch.equal(whole, whole.round())
    assert (whole.cumsum(1) - exact.double().cumsum(1)).abs().max() <= 0.5 + 1e-3


def test_ceil_never_shortens_and_the_limit_cuts():
    exact = torch.tensor([[0.1, 2.0, 2.1, 30.0]])
    assert round_durations(exact, "ceil", None).tolist() == [[1, 2, 3, 30]]
    assert round_durations(exact, "ceil", 10).tolist() == [[1, 2, 3, 10]]
    assert round_durations(exact, "nearest", None).tolist() == [[0, 2, 2, 30]]


def test_a_band_is_a_normal_density_around_the_places_asked_for():
    places = torch.tensor([[0.0, 1.5, 3.25]])
    prior = band_log_prior(places, torch.tensor([4]), 5, 1.5)
    expected = torch.distributions.Normal(places.unsqueeze(2), 1.5)
    density = expected.log_prob(torch.arange(4.0)) - expected.log_prob(places.unsqueeze(2))
    torch.testing.assert_close(prior[..., :4], density)
    assert torch.isneginf(prior[..., 4]).all()


def test_nothing_is_ruled_out_by_a_band():
    prior = band_log_prior(torch.zeros(1, 1), torch.tensor([200]), 200, 1.0)
    assert float(prior.min()) == LEAST_LIKELY
