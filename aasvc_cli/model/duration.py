"""Duration prediction: the input branch, and the stochastic and the deterministic predictor."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aasvc_cli.model.flows import DilatedStack, FlowChain
from aasvc_cli.model.layers import NORM_EPS, Dropout, TimeConv

MIN_DURATION_FRAMES = 7
"""Two unpadded strided convolutions need this many frames."""


class DurationBranch(nn.Module):
    """Two strided convolutions over the duration feature, resampled to one vector per token."""

    def __init__(self, n_features: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        self.output = nn.Linear(width * _strided(n_features), width)

    def forward(self, feature: Tensor, lengths: Tensor | None, n_tokens: int, token_lengths: Tensor) -> Tensor:
        """One vector per token.

        Args:
            feature: (B, S, n_features)
            lengths: (B,) frames of each utterance, or None to resample by the padded lengths, as the published code
                does: there an utterance can be delayed by one token, depending on its batch
            n_tokens: K
            token_lengths: (B,)

        Returns:
            (B, K, width)
        """
        x = F.relu(self.conv1(feature.unsqueeze(1)))
        x = F.relu(self.conv2(x))  # (B, width, S', n_features')
        x = self.output(x.transpose(1, 2).flatten(2))  # (B, S', width)
        frames = torch.arange(n_tokens, device=x.device, dtype=torch.float32)
        if lengths is None:
            ratio = torch.tensor(x.shape[1] / n_tokens, dtype=torch.float32).to(x.device, non_blocking=True)
            index = (frames * ratio).floor().long().clamp_max(x.shape[1] - 1).expand(len(x), -1)
        else:
            strided = _strided(lengths)
            ratios = strided.to(torch.float32) / token_lengths.clamp_min(1).to(torch.float32)
            index = (frames * ratios[:, None]).floor().long()
            index = torch.minimum(index, (strided - 1).clamp_min(0)[:, None]).clamp_max(x.shape[1] - 1)
        return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _strided(length: Any) -> Any:
    """What is left of a length after the two strided convolutions."""
    return ((length - 1) // 2 - 1) // 2


class StochasticDurationPredictor(nn.Module):
    """Distribution of durations by variational dequantisation and flows (VITS, arXiv 2106.06103, section 2.2.2)."""

    def __init__(self, *, n_inputs: int, channels: int, kernel: int, layers: int, count: int, dropout: float):
        super().__init__()
        self.condition_input = nn.Linear(n_inputs, channels)
        self.condition_stack = DilatedStack(channels, kernel, layers, dropout)
        self.condition_output = nn.Linear(channels, channels)
        self.duration_input = nn.Linear(1, channels)
        self.duration_stack = DilatedStack(channels, kernel, layers, dropout)
        self.duration_output = nn.Linear(channels, channels)
        self.flows = FlowChain(channels, kernel, layers, count)
        self.posterior = FlowChain(channels, kernel, layers, count)

    def _condition(self, inputs: Tensor, valid: Tensor) -> Tensor:
        condition: Tensor = self.condition_output(self.condition_stack(self.condition_input(inputs), valid))
        return condition * valid

    def nll(self, inputs: Tensor, durations: Tensor, padding: Tensor, noise: Tensor | None = None) -> Tensor:
        """Upper bound of the negative log-likelihood of durations.

        Args:
            inputs: (B, K, n_inputs)
            durations: (B, K) in target frames
            padding: (B, K)
            noise: (B, K, 2) standard normal; drawn if None

        Returns:
            (B,) in nats, summed over tokens
        """
        valid = (~padding).unsqueeze(-1).to(inputs.dtype)
        condition = self._condition(inputs, valid)
        w = durations.unsqueeze(-1).to(inputs.dtype)  # (B, K, 1)
        embedded = self.duration_output(self.duration_stack(self.duration_input(w), valid)) * valid
        if noise is None:
            noise = torch.randn(*durations.shape, 2, device=inputs.device, dtype=inputs.dtype)
        noise = noise * valid
        z, log_det_q = self.posterior(noise, valid, condition + embedded)
        z_u, z_1 = z.split(1, dim=-1)
        z_0 = (w - torch.sigmoid(z_u) * valid) * valid
        log_det_q = log_det_q + (valid * (F.logsigmoid(z_u) + F.logsigmoid(-z_u))).sum((1, 2))
        log_2pi = math.log(2.0 * math.pi)
        log_q = (valid * -0.5 * (log_2pi + noise.square())).sum((1, 2)) - log_det_q

        log_z_0 = torch.log(z_0.clamp_min(1e-5)) * valid
        z, log_det = self.flows(torch.cat([log_z_0, z_1], dim=-1), valid, condition)
        log_det = log_det - log_z_0.sum((1, 2))
        return (valid * 0.5 * (log_2pi + z.square())).sum((1, 2)) - log_det + log_q

    def sample(self, inputs: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Draw real-valued durations.

        Args:
            inputs: (B, K, n_inputs)
            padding: (B, K)
            noise: (B, K, 2), already scaled

        Returns:
            (B, K) in target frames, positive, 0 at padding
        """
        valid = (~padding).unsqueeze(-1).to(inputs.dtype)
        z = self.flows.inverse(noise, valid, self._condition(inputs, valid), skip_first=True)
        return torch.exp(z[..., 0]) * valid.squeeze(-1)


class DeterministicDurationPredictor(nn.Module):
    """Regression of ``log(duration + 1)`` (FastSpeech, arXiv 1905.09263)."""

    def __init__(self, *, n_inputs: int, layers: int, channels: int, kernel: int, dropout: float):
        super().__init__()
        widths = [n_inputs] + [channels] * layers
        self.convs = nn.ModuleList(TimeConv(a, b, kernel) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=NORM_EPS) for _ in range(layers))
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(channels, 1)

    def forward(self, inputs: Tensor, padding: Tensor | None) -> Tensor:
        """``log(duration + 1)``, (B, K, n_inputs) to (B, K)."""
        x = inputs
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.dropout(norm(F.relu(conv(x, padding))))
        log_durations: Tensor = self.output(x).squeeze(-1)
        return log_durations
