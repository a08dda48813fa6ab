"""Building blocks of all parts: masks, norms, convolutions along time, relative positions, dropout, postnet."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aasvc_cli.model import lean

NORM_EPS = 1e-12
"""Epsilon of the layer norms inside conformer blocks, as published."""


class Dropout(nn.Module):
    """Dropout; on a CPU the probability is rounded to a multiple of 1/256, which makes it three times as fast."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of ``x`` in training mode."""
        if not self.training or not round(self.p * 256):
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        return lean.dropout(x, self.p)


def padding_mask(lengths: Tensor, max_length: int) -> Tensor:
    """True where there is no data.

    Args:
        lengths: (B,) integers.

    Returns:
        (B, max_length) boolean.
    """
    return torch.arange(max_length, device=lengths.device) >= lengths[:, None]


def stack_frames(x: Tensor, factor: int) -> Tensor:
    """Concatenate each group of ``factor`` neighbouring frames; frames left over at the end are dropped.

    Args:
        x: (B, T, D)

    Returns:
        (B, T // factor, factor * D)
    """
    if factor == 1:
        return x
    batch, length, width = x.shape
    return x[:, : length - length % factor].reshape(batch, length // factor, width * factor)


class TimeConv(nn.Conv1d):
    """A centred convolution along time on (B, T, D) that keeps the length."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, groups: int = 1, dilation: int = 1, bias: bool = True):
        super().__init__(
            n_in, n_out, kernel, padding=(kernel - 1) // 2 * dilation, dilation=dilation, groups=groups, bias=bias
        )

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Convolve (B, T, n_in) to (B, T, n_out); with a mask, padded frames count as zeros."""
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        return super().forward(x.transpose(1, 2)).transpose(1, 2)  # convolutions want (B, D, T)


class Recomputation:
    """Entered while a part of the network is computed a second time, for its gradient."""

    active = False

    def __enter__(self) -> None:
        Recomputation.active = True

    def __exit__(self, *_: object) -> None:
        Recomputation.active = False


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch norm over all frames of a batch, on (B, T, D); with a mask, padded frames do not enter the statistics.

    The running statistics take in each batch once, also if it is computed twice.
    """

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Normalise (B, T, D) per channel."""
        if self.training and Recomputation.active and padding is None:
            assert self.running_mean is not None and self.running_var is not None
            scratch = self.running_mean.clone(), self.running_var.clone()  # the running statistics stay as they are
            flat = F.batch_norm(x.reshape(-1, x.shape[-1]), *scratch, self.weight, self.bias, True, 0.0, self.eps)
            return flat.view(x.shape)
        if padding is None or not self.training:
            return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
        x = x.float()  # sums over thousands of frames need more than bfloat16
        real = (~padding).unsqueeze(-1).to(x.dtype)  # (B, T, 1)
        count = real.sum()
        mean = (x * real).sum((0, 1)) / count
        centred = x - mean
        variance = (centred.square() * real).sum((0, 1)) / count
        if not Recomputation.active:
            self._remember(mean.detach(), variance.detach(), count)
        return centred * (self.weight * torch.rsqrt(variance + self.eps)) + self.bias

    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics towards those of a batch of ``count`` frames."""
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)


def relative_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoids of the offsets ``length - 1`` down to ``-(length - 1)``.

    Angles are formed in float32, as the published code does: a float64 table differs from it by up to 4e-5 within 600
    frames.

    Returns:
        (2 * length - 1, width), float32
    """
    offsets = torch.arange(length - 1, -length, -1.0, device=device, dtype=torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * -(math.log(10000.0) / width))
    angles = offsets[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(2 * length - 1, width)


class ScaledRelativePositions(nn.Module):
    """Scale the input of a conformer stack and make its table of relative positions, each with a dropout of its own."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.width = width
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From (B, T, D) to the scaled (B, T, D) and the positions (2T - 1, D)."""
        positions = relative_positions(x.shape[1], self.width, x.device).to(x.dtype)
        return self.dropout(x * math.sqrt(self.width)), self.dropout(positions)


class Postnet(nn.Module):
    """Convolutions that predict a correction of the decoder's mel."""

    def __init__(self, *, n_mels: int, layers: int, channels: int, kernel: int, dropout: float):
        super().__init__()
        widths = [n_mels] + [channels] * (layers - 1) + [n_mels]
        self.convs = nn.ModuleList(TimeConv(n_in, n_out, kernel, bias=False) for n_in, n_out in pairwise(widths))
        self.norms = nn.ModuleList(FrameBatchNorm(n_out) for n_out in widths[1:])
        self.dropout = Dropout(dropout)

    def forward(self, mel: Tensor, padding: Tensor | None = None) -> Tensor:
        """The correction, (B, T, M) to (B, T, M)."""
        x = mel
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x, padding), padding)
            if index < len(self.convs) - 1:
                x = torch.tanh(x)
            x = self.dropout(x)
        return x
