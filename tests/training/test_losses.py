"""Losses against enumeration, numerical derivatives and their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

from aasvc_cli.config.settings import LossConfig
from aasvc_cli.model.aasvc import TeacherForced
from aasvc_cli.model.layers import padding_mask
from aasvc_cli.training.losses import (
    BLANK_LOG_SCORE,
    Share,
    beta_binomial_log_prior,
    binarisation_loss,
    content_log_prior,
    duration_loss,
    forward_sum_loss,
    masked_l1,
    pitch_loss,
    tensor_forward_sum,
    total_loss,
    variance_loss,
)
from tests.oracles import beta_binomial, ctc_log_probability


def _alignment(*shape: int, seed: int = 0) -> torch.Tensor:
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.log_softmax(scores, dim=-1)


@pytest.mark.parametrize(("n_frames", "n_tokens"), [(1, 1), (4, 1), (4, 2), (5, 3), (6, 3)])
def test_forward_sum_equals_the_sum_over_all_labellings(n_frames, n_tokens):
    scores = _alignment(1, n_frames, n_tokens)
    loss = forward_sum_loss(scores, torch.tensor([n_frames]), torch.tensor([n_tokens]), prior="none")
    expected = -ctc_log_probability(scores[0].double().numpy(), BLANK_LOG_SCORE) / n_tokens
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_forward_sum_of_a_ragged_batch_is_the_mean_of_its_items():
    frames, tokens = torch.tensor([6, 4, 5]), torch.tensor([3, 2, 1])
    scores = _alignment(3, 6, 3)
    scores = scores.masked_fill(padding_mask(tokens, 3).unsqueeze(1), -torch.inf)
    for prior in ("none", "published", "beta-binomial"):
        whole = forward_sum_loss(scores, frames, tokens, prior=prior)
        items = [
            forward_sum_loss(scores[b : b + 1, :t, :k], torch.tensor([t]), torch.tensor([k]), prior=prior)
            for b, (t, k) in enumerate(zip(frames.tolist(), tokens.tolist(), strict=True))
        ]
        assert float(whole) == pytest.approx(float(sum(items)) / 3, rel=1e-5)


def _gradient(scores: torch.Tensor, gradient: str) -> torch.Tensor:
    leaf = scores.clone().requires_grad_()
    forward_sum_loss(leaf, torch.tensor([5]), torch.tensor([3]), gradient=gradient).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_the_exact_gradient_is_the_derivative_and_the_published_one_is_not():
    scores = _alignment(1, 5, 3)
    numerical = torch.zeros_like(scores)
    step = 1e-2
    for index in torch.cartesian_prod(torch.arange(5), torch.arange(3)).tolist():
        ends = []
        for sign in (1, -1):
            moved = scores.clone()
            moved[0, index[0], index[1]] += sign * step
            ends.append(float(forward_sum_loss(moved, torch.tensor([5]), torch.tensor([3]))))
        numerical[0, index[0], index[1]] = (ends[0] - ends[1]) / (2 * step)
    assert torch.allclose(_gradient(scores, "exact"), numerical, atol=1e-3)
    assert not torch.allclose(_gradient(scores, "published"), numerical, atol=1e-2)


def test_the_published_gradient_has_the_extra_mass_term():
    scores = _alignment(1, 5, 3)
    prior = beta_binomial_log_prior(torch.tensor([5]), torch.tensor([3]), (5, 3), "published")
    difference = _gradient(scores, "published") - _gradient(scores, "exact")
    assert torch.allclose(difference, torch.exp(scores + prior) / 3, atol=1e-6)


def test_an_utterance_with_fewer_frames_than_tokens_has_no_loss_and_no_gradient():
    for gradient in ("published", "exact"):
        leaf = _alignment(1, 2, 4).requires_grad_()
        loss = forward_sum_loss(leaf, torch.tensor([2]), torch.tensor([4]), gradient=gradient)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert leaf.grad is not None and not leaf.grad.any()


@pytest.mark.parametrize("seed", range(4))
def test_the_forward_sum_of_tensor_operations_is_that_of_the_framework(seed: int):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.tensor([40, 31, 7, 12])
    tokens = torch.tensor([10, 1, 7, 13])  # the last has too many
    scores = 3 * torch.randn(4, 40, 13, generator=generator) - 2.0
    leaves = [scores.masked_fill(padding_mask(tokens, 13).unsqueeze(1), -1e4).requires_grad_() for _ in range(2)]
    padded = torch.nn.functional.pad(leaves[0], (1, 0), value=BLANK_LOG_SCORE).transpose(0, 1)
    expected = torch.nn.functional.ctc_loss(
        padded, torch.arange(1, 14).expand(4, -1), frames, tokens, reduction="none", zero_infinity=True
    )
    values = tensor_forward_sum(leaves[1], frames, tokens)
    assert torch.allclose(values, expected, rtol=1e-5)
    weights = torch.randn(4, generator=generator)
    for value in (values, expected):
        (value * weights).sum().backward()
    assert torch.allclose(leaves[1].grad, leaves[0].grad, atol=2e-5)


@pytest.mark.parametrize(("kind", "missing"), [("beta-binomial", 0), ("published", 1)])
def test_the_prior_is_the_beta_binomial_distribution(kind, missing):
    frames, tokens = 7, 4
    prior = beta_binomial_log_prior(torch.tensor([frames]), torch.tensor([tokens]), (frames, tokens), kind)
    for t in range(1, frames + 1):
        for k in range(tokens):
            expected = beta_binomial(k, tokens - 1 + missing, t, frames - t + 1)
            assert math.exp(prior[0, t - 1, k]) == pytest.approx(expected, rel=1e-4)
    mass = torch.exp(prior[0]).sum(-1)
    assert bool((mass < 0.9999).any()) == bool(missing)


def test_padding_frames_do_not_change_masked_l1():
    predicted, target = torch.randn(1, 7, 3), torch.randn(1, 7, 3)
    padded = torch.nn.functional.pad(predicted, (0, 0, 0, 43), value=9.0)
    loss = masked_l1(padded, torch.nn.functional.pad(target, (0, 0, 0, 43)), padding_mask(torch.tensor([7]), 50))
    assert float(loss) == pytest.approx(float((predicted - target).abs().mean()), rel=1e-6)


def _smoothed(target: torch.Tensor, factor: float) -> torch.Tensor:
    mean = target.mean(1, keepdim=True)
    return mean + factor * (target - mean)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
def test_the_variance_loss_is_the_squared_logarithm_of_how_much_less_all_moves(factor):
    target = torch.randn(2, 40, 80, generator=torch.Generator().manual_seed(3))
    loss = variance_loss(_smoothed(target, factor) + 5.0, target, padding_mask(torch.tensor([40, 40]), 40))
    assert float(loss) == pytest.approx(math.log(factor) ** 2, rel=1e-2, abs=1e-9)


def test_the_variance_loss_is_that_of_a_cosine_transform_without_loudness_and_harmonics():
    drawn = torch.Generator().manual_seed(4)
    target, predicted = torch.randn(2, 1, 30, 80, generator=drawn)
    loss = variance_loss(predicted, target, padding_mask(torch.tensor([30]), 30))
    deviations = [scipy.fft.dct(mel[0].double().numpy(), axis=1, norm="ortho").std(0) for mel in (predicted, target)]
    expected = ((np.log(deviations[0]) - np.log(deviations[1])) ** 2)[1:31].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_the_variance_loss_of_a_ragged_batch_is_the_mean_of_its_items():
    drawn = torch.Generator().manual_seed(5)
    target, predicted = torch.randn(2, 2, 20, 16, generator=drawn)
    lengths = torch.tensor([20, 11])
    whole = variance_loss(predicted, target, padding_mask(lengths, 20))
    items = [
        variance_loss(predicted[b : b + 1, :t], target[b : b + 1, :t], padding_mask(torch.tensor([t]), t))
        for b, t in enumerate(lengths.tolist())
    ]
    assert float(whole) == pytest.approx(float(sum(items)) / 2, rel=1e-5)


def test_the_variance_loss_makes_what_is_too_smooth_move_more_and_stays_finite_where_nothing_moves():
    target = torch.randn(1, 30, 16, generator=torch.Generator().manual_seed(6))
    padding = padding_mask(torch.tensor([30]), 30)
    smooth = _smoothed(target, 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(variance_loss(smooth, target, padding), smooth)
    assert float((gradient * (smooth - smooth.mean(1, keepdim=True)).detach()).sum()) < 0
    still = torch.zeros(1, 30, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(variance_loss(still, target, padding), still)
    assert torch.isfinite(gradient).all()


def test_the_variance_counts_in_the_total_only_with_a_weight():
    drawn = torch.Generator().manual_seed(7)
    target, predicted = torch.randn(2, 1, 6, 8, generator=drawn)
    lengths = torch.tensor([6]), torch.tensor([3])
    result = TeacherForced(
        before=predicted, after=predicted, target=target, frame_padding=padding_mask(lengths[0], 6),
        log_alignment=_alignment(1, 6, 3), path=torch.tensor([[0, 0, 1, 1, 2, 2]]), durations=torch.full((1, 3), 2.0),
        target_lengths=lengths[0], token_lengths=lengths[1], log_expected=torch.zeros(1, 3),
        duration_nll=None, log_durations=None,
    )  # fmt: skip
    without, weighted = (total_loss(result, LossConfig(variance_weight=weight), 0) for weight in (0.0, 0.25))
    expected = variance_loss(predicted, target, result.frame_padding)
    assert float(weighted.variance) == pytest.approx(float(expected)) == pytest.approx(float(without.variance))
    assert float(weighted.total - without.total) == pytest.approx(0.25 * float(expected), rel=1e-4)


def _with_pitch(pitch: torch.Tensor | None, predicted: torch.Tensor, lengths: list[int]) -> TeacherForced:
    n_frames = predicted.shape[1]
    mel = torch.zeros(len(lengths), n_frames, 8)
    target_lengths, token_lengths = torch.tensor(lengths), torch.full((len(lengths),), 2)
    return TeacherForced(
        before=mel, after=mel, target=mel, frame_padding=padding_mask(target_lengths, n_frames),
        log_alignment=_alignment(len(lengths), n_frames, 2), path=torch.zeros(len(lengths), n_frames, dtype=torch.long),
        durations=torch.full((len(lengths), 2), 2.0), target_lengths=target_lengths, token_lengths=token_lengths,
        log_expected=torch.zeros(len(lengths), 2), duration_nll=None, log_durations=None, pitch=pitch,
        predicted_pitch=predicted,
    )  # fmt: skip


def test_the_pitch_loss_is_of_f0_where_the_target_is_voiced_and_of_voicing_everywhere():
    pitch = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [9.0, 1.0]]])
    predicted = torch.tensor([[[0.0, 2.0], [5.0, -1.0], [0.0, 0.0]]])
    voicing = math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-1.0))
    loss = pitch_loss(_with_pitch(pitch, predicted, [2]))  # the last frame is padding
    assert float(loss) == pytest.approx((0.5 * 1.0 + voicing) / 2, rel=1e-6)
    assert float(pitch_loss(_with_pitch(None, predicted, [2]))) == 0.0


def test_the_pitch_counts_in_the_total_by_its_weight_and_a_piece_by_its_frames():
    drawn = torch.Generator().manual_seed(8)
    pitch = torch.stack([torch.randn(2, 6, generator=drawn), torch.ones(2, 6)], dim=-1)
    predicted = torch.randn(2, 6, 2, generator=drawn)
    whole = _with_pitch(pitch, predicted, [6, 4])
    without, weighted = (total_loss(whole, LossConfig(pitch_weight=weight), 0) for weight in (0.0, 0.5))
    assert float(weighted.total - without.total) == pytest.approx(0.5 * float(weighted.pitch), rel=1e-4)
    pieces = [
        total_loss(
            _with_pitch(pitch[b : b + 1, :t], predicted[b : b + 1, :t], [t]), LossConfig(), 0, Share(frames=t / 10)
        )
        for b, t in enumerate([6, 4])
    ]
    assert sum(float(piece.pitch) for piece in pieces) == pytest.approx(float(weighted.pitch), rel=1e-5)


def test_binarisation_is_the_mean_log_probability_on_the_path():
    scores = _alignment(2, 4, 3)
    path = torch.tensor([[0, 1, 1, 2], [0, 1, 0, 0]])
    lengths = torch.tensor([4, 2])
    expected = -(sum(scores[0, t, k] for t, k in enumerate([0, 1, 1, 2])) / 4) / 2
    expected = expected - (scores[1, 0, 0] + scores[1, 1, 1]) / 2 / 2
    assert float(binarisation_loss(scores, path, lengths)) == pytest.approx(float(expected), rel=1e-6)


def test_the_poisson_loss_is_least_at_the_mean_duration_and_zero_only_where_all_are_equal():
    def loss(durations: list[float], log_expected: float) -> float:
        found = torch.tensor([durations])
        unused = torch.zeros(1, 1, 1)
        result = TeacherForced(
            before=unused,
            after=unused,
            target=unused,
            frame_padding=unused,
            log_alignment=unused,
            path=unused,
            durations=torch.cat([found, torch.full((1, 2), 50.0)], dim=1),
            token_lengths=torch.tensor([len(durations)]),
            target_lengths=torch.tensor([1]),
            duration_nll=None,
            log_durations=None,
            log_expected=torch.full((1, len(durations) + 2), log_expected),
        )
        return float(duration_loss(result))

    pause = [1.0, 1.0, 0.0, 18.0]
    grid = torch.linspace(-1, 4, 501).tolist()
    best = min(grid, key=lambda value: loss(pause, value))
    assert math.exp(best) == pytest.approx(5.0, rel=0.02)
    assert loss(pause, best) > 1.0
    assert loss([4.0, 4.0], math.log(4.0)) == pytest.approx(0.0, abs=1e-5)


class TestContentPrior:
    """What is known of the content, and how it fades."""

    PLACES = torch.tensor([[0.0, 1.0, 1.0, 2.0, 3.0, 3.0]])
    LENGTHS = torch.tensor([6]), torch.tensor([4])

    def prior(self, step: int, **settings):
        config = LossConfig(prior="content", prior_band=1.0, prior_steps=10, **settings)
        return content_log_prior(self.PLACES, *self.LENGTHS, 4, config, step)

    def test_begins_as_a_band_and_ends_as_the_beta_binomial(self):
        diagonal = beta_binomial_log_prior(*self.LENGTHS, (6, 4), "beta-binomial")
        band = -0.5 * (torch.arange(4.0) - self.PLACES.unsqueeze(2)).square()
        torch.testing.assert_close(self.prior(0), band)
        torch.testing.assert_close(self.prior(5), (band + diagonal) / 2)
        assert self.prior(10) is None

    def test_takes_the_place_of_the_other_prior(self):
        scores, known = _alignment(1, 6, 4), self.prior(0)
        assert known is not None
        expected = forward_sum_loss(scores + known, *self.LENGTHS, prior="none")
        torch.testing.assert_close(forward_sum_loss(scores, *self.LENGTHS, prior=known), expected)

    def test_leaves_padding_without_a_gradient(self):
        lengths = torch.tensor([6, 3]), torch.tensor([4, 2])
        places = self.PLACES.repeat(2, 1)
        known = content_log_prior(places, *lengths, 4, LossConfig(prior="content"), 0)
        assert known is not None
        scores = _alignment(2, 6, 4).masked_fill(padding_mask(lengths[1], 4).unsqueeze(1), -torch.inf)
        leaf = scores.clone().requires_grad_()
        forward_sum_loss(leaf, *lengths, prior=known, gradient="exact").backward()
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
        assert not leaf.grad[1, 3:].any() and leaf.grad[1, :3, :2].any()
