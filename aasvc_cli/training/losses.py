"""Training losses: masked L1, forward-sum, binarisation, duration, pitch, global variance, and their weighted total."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aasvc_cli.config.settings import LossConfig
from aasvc_cli.model.aasvc import TeacherForced
from aasvc_cli.model.alignment import band_log_prior
from aasvc_cli.model.layers import padding_mask

BLANK_LOG_SCORE = -1.0
"""Score of the extra "no token" state of the forward-sum loss, as published."""
VARIANCE_FLOOR = 1e-4
"""Added to variances, so that the logarithm of none is finite."""
PADDING_LOG_SCORE = -1.0e4
"""In place of log 0: its exponential is 0 in float32."""


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch, unweighted except for ``total``."""

    l1: Tensor
    forward_sum: Tensor
    binarisation: Tensor
    duration: Tensor
    pitch: Tensor
    variance: Tensor
    total: Tensor

    def named(self) -> dict[str, Tensor]:
        """The scalars by name."""
        return {
            "l1": self.l1,
            "forward_sum": self.forward_sum,
            "binarisation": self.binarisation,
            "duration": self.duration,
            "pitch": self.pitch,
            "variance": self.variance,
            "total": self.total,
        }


@dataclass(frozen=True)
class Share:
    """What part of a batch a piece of it is, by the three measures that the losses are means over.

    Losses of a piece times its share add up to those of the batch: memory and processes then decide in which pieces
    a batch is computed, and not what is learnt from it.
    """

    utterances: float = 1.0
    """of forward sum, binarisation and variance"""
    frames: float = 1.0
    """of L1 and pitch"""
    tokens: float = 1.0
    """of the durations"""

    def __mul__(self, part: Share) -> Share:
        """The share of a part of this share."""
        return Share(self.utterances * part.utterances, self.frames * part.frames, self.tokens * part.tokens)


WHOLE = Share()


def masked_l1(predicted: Tensor, target: Tensor, padding: Tensor) -> Tensor:
    """Mean absolute error over real frames only.

    Args:
        predicted, target: (B, T, M)
        padding: (B, T)

    Returns:
        scalar; one mean over all real frames of the batch
    """
    real = (~padding).unsqueeze(-1)
    difference = (predicted.float() - target.float()).abs()
    return (difference * real).sum() / (real.sum() * target.shape[-1])


@lru_cache(maxsize=8)
def _cosines(n_mels: int, count: int, device: torch.device) -> Tensor:
    """(M, K): the orthonormal discrete cosine transform without its first coefficient, the loudness."""
    bands = (torch.arange(n_mels, device=device).unsqueeze(1) + 0.5) * math.pi / n_mels
    return math.sqrt(2.0 / n_mels) * torch.cos(bands * torch.arange(1, count + 1, device=device))


def variance_loss(predicted: Tensor, target: Tensor, padding: Tensor) -> Tensor:
    """How far the global variance of the spectral envelope is from the target's, in squared nepers.

    Global variance after Toda and Tokuda (2007), of the coefficients that a cosine transform over the bands gives, as a
    training criterion. What an absolute error cannot decide, it averages, and so the envelope moves too little.
    Coefficients from three eighths of the bands on are left out: those are harmonics, which a vocoder reads the pitch
    from.

    Args:
        predicted, target: (B, T, M)
        padding: (B, T)

    Returns:
        scalar; a mean over utterances
    """
    n_mels = target.shape[-1]
    cosines = _cosines(n_mels, max(1, 3 * n_mels // 8), target.device)
    real = (~padding).unsqueeze(-1).float()
    count = real.sum(1)

    def log_deviation(mel: Tensor) -> Tensor:
        cepstra = mel.float() @ cosines  # (B, T, K)
        centred = (cepstra - (cepstra * real).sum(1, keepdim=True) / count.unsqueeze(1)) * real
        return 0.5 * (centred.square().sum(1) / count + VARIANCE_FLOOR).log()

    return (log_deviation(predicted) - log_deviation(target)).square().mean()


def beta_binomial_log_prior(target_lengths: Tensor, token_lengths: Tensor, shape: tuple[int, int], kind: str) -> Tensor:
    """Log-prior that favours the diagonal: token k at frame t is beta-binomial with alpha = t, beta = T - t + 1.

    Args:
        target_lengths, token_lengths: (B,)
        shape: padded (T, K)
        kind: ``beta-binomial`` has one trial less than tokens, so each row sums to 1 (Badlani et al.,
            arXiv 2108.10447); ``published`` has as many trials as tokens, so each row lacks the last outcome

    Returns:
        (B, T, K) float32, -inf in padding
    """
    n_frames, n_tokens = shape
    device = target_lengths.device
    # Every argument is a whole number: one table of log-factorials serves all of them.
    table = torch.lgamma(torch.arange(1, n_frames + n_tokens + 3, dtype=torch.float64, device=device))
    trials = (token_lengths if kind == "published" else (token_lengths - 1).clamp_min(0)).view(-1, 1, 1)
    k = torch.arange(n_tokens, device=device).view(1, 1, -1)
    t = torch.arange(1, n_frames + 1, device=device).view(1, -1, 1)
    total = target_lengths.view(-1, 1, 1)
    rest = (trials - k).clamp_min(0)
    back = (total - t + 1).clamp_min(1)  # beta

    def log_factorial(n: Tensor) -> Tensor:
        return table[n]

    log_choose = log_factorial(trials) - log_factorial(k) - log_factorial(rest)
    log_beta_top = log_factorial(k + t - 1) + log_factorial(rest + back - 1) - log_factorial(trials + total)
    log_beta_bottom = log_factorial(t - 1) + log_factorial(back - 1) - log_factorial(total)
    prior = (log_choose + log_beta_top - log_beta_bottom).to(torch.float32)
    outside = padding_mask(target_lengths, n_frames).unsqueeze(2) | padding_mask(token_lengths, n_tokens).unsqueeze(1)
    return prior.masked_fill(outside, -torch.inf)


def alone(prior: str) -> str:
    """The prior where nothing is known of the content."""
    return "beta-binomial" if prior == "content" else prior


def content_log_prior(
    positions: Tensor, target_lengths: Tensor, token_lengths: Tensor, n_tokens: int, config: LossConfig, step: int
) -> Tensor | None:
    """The prior of ``loss.prior: content``: a band around known places that turns into the beta-binomial.

    Args:
        positions: (B, T), the token at which each target frame is expected
        target_lengths, token_lengths: (B,)
        step: optimiser steps taken so far

    Returns:
        (B, T, K), or None once nothing of the band is left
    """
    weight = 1.0 - step / config.prior_steps if config.prior_steps else 1.0
    if weight <= 0.0:
        return None
    band = band_log_prior(positions, token_lengths, n_tokens, config.prior_band)
    shape = (positions.shape[1], n_tokens)
    diagonal = beta_binomial_log_prior(target_lengths, token_lengths, shape, alone(config.prior))
    return weight * band + (1.0 - weight) * diagonal.clamp_min(PADDING_LOG_SCORE)


def forward_sum_loss(
    log_alignment: Tensor,
    target_lengths: Tensor,
    token_lengths: Tensor,
    *,
    prior: str | Tensor = "published",
    gradient: str = "published",
) -> Tensor:
    """Negative log of the summed probability of all monotonic alignments (One TTS Alignment, arXiv 2108.10447).

    Computed as CTC with the labels 1, 2, …, K and a blank of constant score. The scores are not normalised over labels;
    the framework's CTC backward assumes they are and adds the gradient of ``sum(exp(scores))``.
    ``gradient="published"`` keeps that term, as the published training has it; ``"exact"`` takes it out, so that the
    gradient is the derivative of the value. On other devices than the CPU, the framework's CTC would ask for the
    lengths and make the host wait: there :func:`tensor_forward_sum` takes its place.

    Args:
        log_alignment: (B, T, K)
        target_lengths, token_lengths: (B,)
        prior: a kind of :func:`beta_binomial_log_prior`, ``none``, or a log-prior itself, (B, T, K)

    Returns:
        scalar: mean over utterances of the loss per token; an utterance with fewer frames than tokens counts as 0
    """
    scores = log_alignment.float()
    shape = (scores.shape[1], scores.shape[2])
    if isinstance(prior, Tensor):
        scores = scores + prior
    elif prior != "none":
        scores = scores + beta_binomial_log_prior(target_lengths, token_lengths, shape, prior)
    # The framework's CTC backward turns scores of -inf into NaN as soon as lengths differ within a batch.
    scores = scores.masked_fill(torch.isneginf(scores), PADDING_LOG_SCORE)
    if scores.device.type == "cpu":
        padded = F.pad(scores, (1, 0), value=BLANK_LOG_SCORE)  # (B, T, K + 1)
        labels = torch.arange(1, shape[1] + 1).expand(len(scores), -1)
        nll = F.ctc_loss(
            padded.transpose(0, 1), labels, target_lengths, token_lengths, blank=0, reduction="none", zero_infinity=True
        )
    else:
        nll = tensor_forward_sum(scores, target_lengths, token_lengths)
    if gradient == "exact":
        real = ~padding_mask(target_lengths, shape[0])
        mass = (torch.exp(scores).sum(-1) * real).sum(1)
        mass = torch.where(target_lengths >= token_lengths, mass, torch.zeros_like(mass))
        nll = nll - (mass - mass.detach())
    return (nll / token_lengths.clamp_min(1)).mean()


def tensor_forward_sum(scores: Tensor, target_lengths: Tensor, token_lengths: Tensor) -> Tensor:
    """The framework's CTC loss with the labels 1, 2, …, K, as tensor operations: any device, no host synchronisation.

    Args:
        scores: (B, T, K) of the labels, finite; the blank has :data:`BLANK_LOG_SCORE`
        target_lengths, token_lengths: (B,)

    Returns:
        (B,), 0 without gradient for an utterance with fewer frames than tokens
    """
    result: Tensor = _ForwardSum.apply(scores, target_lengths, token_lengths)
    return result


class _ForwardSum(torch.autograd.Function):
    """Labellings are summed up from both ends in one pass, so the gradient is known when the value is."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target_lengths: Tensor, token_lengths: Tensor) -> Tensor:
        batch, n_frames, n_tokens = scores.shape
        frames = _turned(target_lengths, n_frames).unsqueeze(2).expand(-1, -1, n_tokens)
        tokens = _turned(token_lengths, n_tokens).unsqueeze(1).expand(-1, n_frames, -1)

        def turned(values: Tensor) -> Tensor:
            return values.gather(1, frames).gather(2, tokens)

        on_label, so_far = _summed_up(torch.cat([scores, turned(scores)]))
        last = (target_lengths - 1).view(-1, 1, 1).expand(-1, 1, n_tokens + 1)
        value = -so_far[:batch].gather(1, last).squeeze(1).gather(1, token_lengths.unsqueeze(1)).squeeze(1)
        both = on_label[:batch] + turned(on_label[batch:]) - scores  # the score of the frame itself is in both
        real = ~padding_mask(target_lengths, n_frames) & torch.isfinite(value).unsqueeze(1)  # (B, T)
        through = (both + value.view(-1, 1, 1)).masked_fill(
            padding_mask(token_lengths, n_tokens).unsqueeze(1), -torch.inf
        )
        gradient = torch.exp(scores) - torch.exp(through)
        ctx.save_for_backward(gradient.masked_fill(~real.unsqueeze(2), 0.0))
        return value.masked_fill(~torch.isfinite(value), 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].view(-1, 1, 1) * ctx.saved_tensors[0], None, None


def _turned(lengths: Tensor, longest: int) -> Tensor:
    """(B, longest): for each place, the one that is as far from the other end; 0 behind the end."""
    return (lengths.unsqueeze(1) - 1 - torch.arange(longest, device=lengths.device)).clamp_min(0)


def _summed_up(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sums of all beginnings of labellings.

    Args:
        scores: (B, T, K)

    Returns:
        (B, T, K), those whose frame t has label k + 1; (B, T, K + 1), those that have come to label k, 0 for none yet,
        and are there still or at the blank behind it
    """
    batch, _, n_tokens = scores.shape
    label = scores.new_full((batch, n_tokens), -torch.inf)
    reached = scores.new_full((batch, n_tokens + 1), -torch.inf)
    reached[:, 0] = 0.0
    labels, all_reached = [], []
    for row in scores.unbind(1):
        label = torch.logaddexp(label, reached[:, :-1]) + row
        waited = reached + BLANK_LOG_SCORE
        reached = torch.cat([waited[:, :1], torch.logaddexp(waited[:, 1:], label)], dim=1)
        labels.append(label)
        all_reached.append(reached)
    return torch.stack(labels, dim=1), torch.stack(all_reached, dim=1)


def binarisation_loss(log_alignment: Tensor, path: Tensor, target_lengths: Tensor) -> Tensor:
    """Pull the soft alignment towards the monotonic path found through it.

    Args:
        log_alignment: (B, T, K)
        path: (B, T)
        target_lengths: (B,)

    Returns:
        scalar: mean over utterances of the mean over their frames
    """
    on_path = log_alignment.gather(2, path.unsqueeze(2)).squeeze(2)  # (B, T)
    on_path = on_path.masked_fill(padding_mask(target_lengths, path.shape[1]), 0.0)
    return -(on_path.sum(1) / target_lengths.clamp_min(1)).mean()


def duration_loss(result: TeacherForced) -> Tensor:
    """Mean over tokens of the loss that belongs to the duration predictor.

    Stochastic: nats. Deterministic: squared error of ``log(duration + 1)``. Poisson: half the deviance from the
    durations found, whose minimum is the expected duration.
    """
    if result.duration_nll is not None:
        return result.duration_nll.float().sum()
    real = ~padding_mask(result.token_lengths, result.durations.shape[1])
    if result.log_expected is not None:
        aligned, log_expected = result.durations, result.log_expected.float()
        excess = torch.exp(log_expected) - aligned + torch.xlogy(aligned, aligned) - aligned * log_expected
        return (excess * real).sum() / real.sum()
    assert result.log_durations is not None
    error = (result.log_durations.float() - torch.log(result.durations + 1.0)).square()
    return (error * real).sum() / real.sum()


def pitch_loss(result: TeacherForced) -> Tensor:
    """Mean over real frames: half the squared error of F0 where the target is voiced, and cross entropy of voicing.

    0 where no pitch is predicted, or that of the target is not known.
    """
    if result.predicted_pitch is None or result.pitch is None:
        return torch.zeros((), device=result.target.device)
    f0, voiced = result.pitch.float().unbind(-1)
    predicted, logit = result.predicted_pitch.float().unbind(-1)
    each = 0.5 * voiced * (predicted - f0).square()
    each = each + F.binary_cross_entropy_with_logits(logit, voiced, reduction="none")
    real = ~result.frame_padding
    return (each * real).sum() / real.sum()


def alignment_loss(
    log_alignment: Tensor, target_lengths: Tensor, token_lengths: Tensor, log_prior: Tensor | None, config: LossConfig
) -> Tensor:
    """The :func:`forward_sum_loss` of these settings; ``log_prior`` (B, T, K) is what is known of the pairs."""
    return forward_sum_loss(
        log_alignment,
        target_lengths,
        token_lengths,
        prior=log_prior if log_prior is not None else alone(config.prior),
        gradient=config.forward_sum_gradient,
    )


def total_loss(result: TeacherForced, config: LossConfig, step: int, share: Share = WHOLE) -> Losses:
    """All losses of a batch, or of a share of it; ``step`` is the number of optimiser steps taken so far."""
    l1 = masked_l1(result.before, result.target, result.frame_padding)
    l1 = l1 + masked_l1(result.after, result.target, result.frame_padding)
    forward_sum = alignment_loss(
        result.log_alignment, result.target_lengths, result.token_lengths, result.log_prior, config
    )
    binarisation = binarisation_loss(result.log_alignment, result.path, result.target_lengths)
    duration = duration_loss(result)
    pitch = pitch_loss(result)
    variance = variance_loss(result.after, result.target, result.frame_padding)
    if share != WHOLE:
        l1, pitch, duration = l1 * share.frames, pitch * share.frames, duration * share.tokens
        forward_sum, binarisation = forward_sum * share.utterances, binarisation * share.utterances
        variance = variance * share.utterances
    total = l1 + config.align_weight * (forward_sum + binarisation)
    if step > config.duration_start_step:
        total = total + config.duration_weight * duration
    total = total + config.pitch_weight * pitch
    if config.variance_weight:
        total = total + config.variance_weight * variance
    return Losses(l1, forward_sum, binarisation, duration, pitch, variance, total)
