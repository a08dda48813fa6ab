"""Normalising flows on two channels over tokens, for the stochastic duration predictor (VITS, arXiv 2106.06103)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aasvc_cli.model.layers import Dropout, TimeConv

N_BINS = 10
TAIL = 5.0
"""Outside of [-TAIL, TAIL] the spline is the identity."""
MIN_BIN = 1e-3
MIN_SLOPE = 1e-3


class DilatedStack(nn.Module):
    """Dilated depth-wise separable convolutions with residuals, on (B, K, D)."""

    def __init__(self, channels: int, kernel: int, layers: int, dropout: float):
        super().__init__()
        self.depthwise = nn.ModuleList(
            TimeConv(channels, channels, kernel, groups=channels, dilation=kernel**i) for i in range(layers)
        )
        self.norms_depthwise = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers))
        self.pointwise = nn.ModuleList(nn.Linear(channels, channels) for _ in range(layers))
        self.norms_pointwise = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, K, D) to (B, K, D); ``valid`` (B, K, 1) is 1 at tokens and 0 at padding."""
        if condition is not None:
            x = x + condition
        layers = zip(self.depthwise, self.norms_depthwise, self.pointwise, self.norms_pointwise, strict=True)
        for depthwise, norm_depthwise, pointwise, norm_pointwise in layers:
            y = F.gelu(norm_depthwise(depthwise(x * valid)))
            y = F.gelu(norm_pointwise(pointwise(y)))
            x = x + self.dropout(y)
        return x * valid


class Affine(nn.Module):
    """Scale and shift of the two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self, z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 2) to (B, K, 2) and log-determinants (B,)."""
        log_det = (self.log_scale * valid).sum((1, 2))
        return (self.shift + torch.exp(self.log_scale) * z) * valid, log_det

    def inverse(self, z: Tensor, valid: Tensor) -> Tensor:
        """The inverse map."""
        return (z - self.shift) * torch.exp(-self.log_scale) * valid


class Coupling(nn.Module):
    """Transform the second channel by a spline whose shape depends on the first channel and the condition."""

    def __init__(self, channels: int, kernel: int, layers: int):
        super().__init__()
        self.channels = channels
        self.input = nn.Linear(1, channels)
        self.stack = DilatedStack(channels, kernel, layers, dropout=0.0)
        self.output = nn.Linear(channels, 3 * N_BINS - 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def _shape(self, first: Tensor, valid: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.output(self.stack(self.input(first), valid, condition)) * valid
        widths, heights, slopes = shape.split([N_BINS, N_BINS, N_BINS - 1], dim=-1)
        scale = 1.0 / math.sqrt(self.channels)
        return widths * scale, heights * scale, slopes

    def forward(self, z: Tensor, valid: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 2) to (B, K, 2) and log-determinants (B,)."""
        first, second = z.split(1, dim=-1)
        widths, heights, slopes = self._shape(first, valid, condition)
        second, log_slope = spline(second.squeeze(-1), widths, heights, slopes)
        log_det = (log_slope * valid.squeeze(-1)).sum(1)
        return torch.cat([first, second.unsqueeze(-1)], dim=-1) * valid, log_det

    def inverse(self, z: Tensor, valid: Tensor, condition: Tensor) -> Tensor:
        """The inverse map."""
        first, second = z.split(1, dim=-1)
        second = spline_inverse(second.squeeze(-1), *self._shape(first, valid, condition))
        return torch.cat([first, second.unsqueeze(-1)], dim=-1) * valid


class FlowChain(nn.Module):
    """An affine step, then couplings, each followed by a swap of the two channels."""

    def __init__(self, channels: int, kernel: int, layers: int, count: int):
        super().__init__()
        self.affine = Affine()
        self.couplings = nn.ModuleList(Coupling(channels, kernel, layers) for _ in range(count))

    def forward(self, z: Tensor, valid: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 2) to (B, K, 2) and log-determinants (B,)."""
        z, log_det = self.affine(z, valid)
        for coupling in self.couplings:
            z, term = coupling(z, valid, condition)
            log_det = log_det + term
            z = z.flip(-1)
        return z, log_det

    def inverse(self, z: Tensor, valid: Tensor, condition: Tensor, *, skip_first: bool = False) -> Tensor:
        """The inverse map.

        With ``skip_first`` the first coupling is left out: it changes only the second channel of the result, which the
        duration predictor throws away.
        """
        for index in range(len(self.couplings) - 1, -1, -1):
            z = z.flip(-1)
            if index > 0 or not skip_first:
                z = self.couplings[index].inverse(z, valid, condition)  # type: ignore[operator]
        return self.affine.inverse(z, valid)


def _knots(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Bin edges (…, N_BINS + 1) on [-TAIL, TAIL] and bin sizes (…, N_BINS) from unnormalised sizes."""
    sizes = MIN_BIN + (1.0 - N_BINS * MIN_BIN) * torch.softmax(raw, dim=-1)
    inner = 2.0 * TAIL * torch.cumsum(sizes, dim=-1)[..., :-1] - TAIL
    ends = torch.full_like(raw[..., :1], TAIL)
    knots = torch.cat([-ends, inner, ends], dim=-1)
    return knots, knots.diff(dim=-1)


def _bin_values(
    values: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, *, inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Left edge, width, bottom edge, height and the two edge slopes of the bin that each value falls into."""
    x_knots, x_sizes = _knots(widths)
    y_knots, y_sizes = _knots(heights)
    inner = MIN_SLOPE + F.softplus(slopes)
    ones = torch.ones_like(inner[..., :1])
    edge_slopes = torch.cat([ones, inner, ones], dim=-1)
    knots = y_knots if inverse else x_knots
    index = (values.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)

    def at(table: Tensor, shift: int = 0) -> Tensor:
        return table.gather(-1, index + shift).squeeze(-1)

    return at(x_knots), at(x_sizes), at(y_knots), at(y_sizes), at(edge_slopes), at(edge_slopes, 1)


def spline(values: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Monotone rational-quadratic spline (Durkan et al., arXiv 1906.04032, eq. 4 and 5), identity outside ±TAIL.

    Args:
        values: (…)
        widths, heights: (…, N_BINS), unnormalised
        slopes: (…, N_BINS - 1), unnormalised

    Returns:
        transformed values (…) and the log of the slope at each (…)
    """
    inside = values.abs() <= TAIL
    clamped = values.clamp(-TAIL, TAIL)
    left, width, bottom, height, slope0, slope1 = _bin_values(clamped, widths, heights, slopes, inverse=False)
    steep = height / width
    t = (clamped - left) / width
    mixed = t * (1.0 - t)
    denominator = steep + (slope0 + slope1 - 2.0 * steep) * mixed
    result = bottom + height * (steep * t.square() + slope0 * mixed) / denominator
    gradient = steep.square() * (slope1 * t.square() + 2.0 * steep * mixed + slope0 * (1.0 - t).square())
    log_slope = torch.log(gradient) - 2.0 * torch.log(denominator)
    return torch.where(inside, result, values), torch.where(inside, log_slope, torch.zeros_like(log_slope))


def spline_inverse(values: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """Inverse of :func:`spline` (eq. 6 to 8); a discriminant that rounding made negative counts as zero."""
    inside = values.abs() <= TAIL
    clamped = values.clamp(-TAIL, TAIL)
    left, width, bottom, height, slope0, slope1 = _bin_values(clamped, widths, heights, slopes, inverse=True)
    steep = height / width
    above = clamped - bottom
    bend = slope0 + slope1 - 2.0 * steep
    a = above * bend + height * (steep - slope0)
    b = height * slope0 - above * bend
    c = -steep * above
    root = torch.sqrt((b.square() - 4.0 * a * c).clamp_min(0.0))
    t = 2.0 * c / (-b - root)
    return torch.where(inside, t * width + left, values)
