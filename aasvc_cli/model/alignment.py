"""Alignment of target frames with source tokens: scores, monotonic search, upsampling (paper section 3.2)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aasvc_cli.model.layers import TimeConv

if TYPE_CHECKING:
    from collections.abc import Callable

Array = npt.NDArray[Any]

UPSAMPLING_TEMPERATURE = 0.1
"""Inverse temperature of the Gaussian upsampling, as published."""


LEAST_LIKELY = -20.0
"""Log-probability of what a prior all but rules out, so that a path through it can still be found."""


class Aligner(nn.Module):
    """Soft alignment from distances between encoded tokens and encoded target frames (RAD-TTS, One TTS Alignment)."""

    def __init__(self, width: int, n_target: int, *, mask_padding: bool):
        super().__init__()
        self.mask_padding = mask_padding
        self.token_conv1 = TimeConv(width, width, 3)
        self.token_conv2 = nn.Linear(width, width)
        self.frame_conv1 = TimeConv(n_target, width, 3)
        self.frame_conv2 = TimeConv(width, width, 3)
        self.frame_conv3 = nn.Linear(width, width)

    def forward(self, tokens: Tensor, target: Tensor, token_padding: Tensor, frame_padding: Tensor) -> Tensor:
        """Log-probability of each token at each target frame.

        Args:
            tokens: (B, K, D)
            target: (B, T, M), normalised
            token_padding, frame_padding: (B, K), (B, T)

        Returns:
            log_alignment: (B, T, K), float32; padded tokens have probability 0
        """
        token_mask = token_padding if self.mask_padding else None
        frame_mask = frame_padding if self.mask_padding else None
        keys = self.token_conv2(F.relu(self.token_conv1(tokens, token_mask)))
        queries = F.relu(self.frame_conv1(target, frame_mask))
        queries = self.frame_conv3(F.relu(self.frame_conv2(queries, frame_mask)))
        scores = -euclidean_distance(queries.float(), keys.float())
        return torch.log_softmax(scores.masked_fill(token_padding.unsqueeze(1), -torch.inf), dim=-1)


def band_log_prior(positions: Tensor, token_lengths: Tensor, n_tokens: int, width: float) -> Tensor:
    """Log-prior that favours tokens near a given place, up to a constant for each frame.

    Args:
        positions: (B, T), the token at which each target frame is expected; not whole
        token_lengths: (B,)
        n_tokens: K
        width: standard deviation, in tokens

    Returns:
        (B, T, K) float32, -inf for padded tokens; nothing else is less likely than :data:`LEAST_LIKELY`
    """
    tokens = torch.arange(n_tokens, device=positions.device)
    prior = (-0.5 * ((tokens - positions.unsqueeze(2)) / width).square()).clamp_min(LEAST_LIKELY)
    outside = tokens >= token_lengths.view(-1, 1, 1)
    return prior.to(torch.float32).masked_fill(outside, -torch.inf)


def euclidean_distance(queries: Tensor, keys: Tensor) -> Tensor:
    """Distances of all pairs through one matrix product, without a (B, T, K, D) tensor.

    Args:
        queries: (B, T, D)
        keys: (B, K, D)

    Returns:
        (B, T, K); the gradient at distance 0 is 0
    """
    squares = queries.square().sum(-1).unsqueeze(2) + keys.square().sum(-1).unsqueeze(1)
    squared = torch.baddbmm(squares, queries, keys.transpose(1, 2), alpha=-2.0)
    positive = squared > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, squared, 1.0)), 0.0)


def monotonic_search(log_alignment: Tensor, target_lengths: Tensor, token_lengths: Tensor) -> Tensor:
    """The most probable monotonic path through each utterance, every token visited.

    On the CPU a compiled search runs over the batch; on other devices the same recursion runs as tensor operations
    without waiting for the device. Scores add up in float64, except along the first token, where the published search
    adds in float32; among equally good paths the one that leaves tokens latest wins, also as published.

    Args:
        log_alignment: (B, T, K)
        target_lengths, token_lengths: (B,)

    Returns:
        path: (B, T) int64, the token of each frame, 0 in padding. If an utterance has more tokens than frames, its
        first tokens are left out.
    """
    if log_alignment.device.type == "cpu":
        scores = log_alignment.detach().to(torch.float32).contiguous().numpy()
        path = _compiled_search()(scores, target_lengths.numpy(), token_lengths.numpy())
        return torch.from_numpy(path)
    return tensor_monotonic_search(log_alignment, target_lengths, token_lengths)


@cache
def _compiled_search() -> Callable[[Array, Array, Array], Array]:
    """The search in machine code; the compiler is loaded on first use, as conversion never needs it."""
    from aasvc_cli.compiled import compiled

    return compiled(_search)


def _search(scores: Array, target_lengths: Array, token_lengths: Array) -> Array:
    """Paths (B, T) through scores (B, T, K); written for the compiler."""
    batch, n_frames, n_tokens = scores.shape
    path = np.zeros((batch, n_frames), dtype=np.int64)
    best = np.empty((n_frames, n_tokens), dtype=np.float64)
    for b in range(batch):
        frames, tokens = target_lengths[b], token_lengths[b]
        if frames == 0 or tokens == 0:
            continue
        first = np.float32(0.0)
        for j in range(frames):
            # the tokens that can be reached from the first, and from which the last one can
            begin, end = max(1, tokens - frames + j), min(j + 1, tokens)
            if begin < end:
                stay, move = best[j - 1, begin:end], best[j - 1, begin - 1 : end - 1]
                row, best_row = scores[b, j, begin:end], best[j, begin:end]
                for i in range(end - begin):  # of views the compiler takes several elements at once
                    best_row[i] = (move[i] if move[i] >= stay[i] else stay[i]) + row[i]
            if j + 1 < tokens:
                best[j, j + 1] = -np.inf
            first = np.float32(first + scores[b, j, 0])
            best[j, 0] = first
        token = tokens - 1
        path[b, frames - 1] = token
        for j in range(frames - 2, -1, -1):
            if token > j + 1 or (token > 0 and best[j, token - 1] >= best[j, token]):
                token -= 1
            path[b, j] = token
    return path


def tensor_monotonic_search(log_alignment: Tensor, target_lengths: Tensor, token_lengths: Tensor) -> Tensor:
    """:func:`monotonic_search` as tensor operations: any device, no host synchronisation."""
    scores = log_alignment.detach().to(torch.float32)
    batch, n_frames, n_tokens = scores.shape
    best = scores.new_full((batch, n_tokens), -torch.inf, dtype=torch.float64)
    first = scores.new_zeros(batch)
    step_down = torch.zeros(batch, n_frames, n_tokens, dtype=torch.bool, device=scores.device)
    for j in range(n_frames):
        row = scores[:, j]
        moved = torch.maximum(best[:, :-1], best[:, 1:]) + row[:, 1:]
        moved[:, j:] = -torch.inf  # token i is reachable from frame i on
        first = first + row[:, 0]
        best = torch.cat([first.to(torch.float64).unsqueeze(1), moved], dim=1)
        step_down[:, j, 1:] = best[:, :-1] >= best[:, 1:]
    path = torch.zeros(batch, n_frames, dtype=torch.long, device=scores.device)
    last = token_lengths.to(scores.device) - 1
    ends = target_lengths.to(scores.device) - 1
    token = last
    for j in range(n_frames - 1, -1, -1):
        down = step_down[:, j].gather(1, token.clamp_min(0).unsqueeze(1)).squeeze(1)
        token = torch.where(j < ends, token - down.long(), last)
        path[:, j] = torch.where(j <= ends, token, 0)
    return path.clamp_min(0)


def path_durations(path: Tensor, frame_padding: Tensor, n_tokens: int) -> Tensor:
    """Frames per token.

    Args:
        path: (B, T) token of each frame
        frame_padding: (B, T)

    Returns:
        (B, n_tokens) float32
    """
    counts = torch.zeros(path.shape[0], n_tokens, device=path.device)
    return counts.scatter_add_(1, path, (~frame_padding).to(counts.dtype))


def gaussian_upsampling(
    tokens: Tensor, durations: Tensor, token_padding: Tensor | None, frame_padding: Tensor | None, n_frames: int
) -> Tensor:
    """Spread tokens over frames with Gaussian weights around the centre of each token.

    Args:
        tokens: (B, K, D)
        durations: (B, K) in frames; an utterance whose durations are all 0 counts as all 1
        token_padding: (B, K), tokens without weight
        frame_padding: (B, T); padded frames are copies of frame 0, as in the published code
        n_frames: T

    Returns:
        (B, T, D)
    """
    durations = torch.where(durations.sum(1, keepdim=True) > 0, durations, torch.ones_like(durations))
    centres = durations.cumsum(1) - durations / 2
    frames = torch.arange(n_frames, device=tokens.device, dtype=durations.dtype).expand(len(tokens), -1)
    if frame_padding is not None:
        frames = frames.masked_fill(frame_padding, 0.0)
    energy = -UPSAMPLING_TEMPERATURE * (frames.unsqueeze(2) - centres.unsqueeze(1)).square()
    if token_padding is not None:
        energy = energy.masked_fill(token_padding.unsqueeze(1), -torch.inf)
    return torch.bmm(torch.softmax(energy, dim=-1).to(tokens.dtype), tokens)


def round_durations(durations: Tensor, rounding: str, max_duration: int | None) -> Tensor:
    """Whole frames per token from real-valued durations.

    Args:
        durations: (B, K) in frames
        rounding: ``ceil`` rounds every token up: right for the stochastic predictor, which learns durations less a
            fraction of a frame. ``nearest`` rounds every token. ``cumulative`` rounds the running sum: the total keeps
            what rounding each token would lose
        max_duration: longest duration of a token, or None

    Returns:
        (B, K), whole numbers
    """
    if rounding == "ceil":
        whole = torch.ceil(durations)
    elif rounding == "nearest":
        whole = torch.round(durations)
    else:
        whole = torch.diff(
            torch.round(durations.double().cumsum(1)), dim=1, prepend=durations.new_zeros(len(durations), 1)
        )
        whole = whole.to(durations.dtype)
    return whole if max_duration is None else whole.clamp_max(max_duration)
