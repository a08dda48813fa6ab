"""What a voice computes from features or samples, as modules that ``torch.onnx`` can write down.

They call the trained parts of the model itself. Lengths stay open: where a Python number would decide (how many frames
the durations come to), the graph counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.audio.mel import LOG_FLOOR, mel_basis
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.features.content import (
    CONTENT_MEL,
    ENCODED,
    FRAMES_PER_SECOND,
    MELODY_MEL,
    SILENCE,
    TAUGHT,
    load_encoder,
    load_melody_encoder,
    melody_file,
    weights_file,
)
from aasvc_cli.features.stats import FeatureStats
from aasvc_cli.model.aasvc import AASVC, LONGEST_DURATION
from aasvc_cli.model.alignment import gaussian_upsampling, round_durations
from aasvc_cli.model.content import ContentEncoder, ContentF0, MelodyEncoder
from aasvc_cli.model.duration import StochasticDurationPredictor
from aasvc_cli.model.layers import stack_frames


class VoiceGraph(nn.Module):
    """Encoder with durations, upsampling and decoder: :meth:`aasvc_cli.model.aasvc.AASVC.convert`."""

    def __init__(self, model: AASVC) -> None:
        super().__init__()
        self.model = model
        self.stochastic = isinstance(model.duration_predictor, StochasticDurationPredictor)
        self.hears_feature = model.duration_branch is not None

    @property
    def inputs(self) -> list[str]:
        """Names of what :meth:`forward` takes."""
        feature = ["duration_feature"] if self.hears_feature else []
        return ["source", "speed", *feature, *(["noise"] if self.stochastic else [])]

    def forward(
        self, source: Tensor, speed: Tensor, duration_feature: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convert one utterance.

        Args:
            source: (S, source_dim), normalised
            speed: a number
            duration_feature: (S, duration_dim), normalised, if the durations are predicted from it
            noise: (K, 2), normal, of the standard deviation wished, if the durations are drawn

        Returns:
            (T, M), normalised with the target's statistics, and durations (K,) in frames
        """
        config = self.model.config
        tokens = stack_frames(self.model.encoder(source.unsqueeze(0), None), config.frames_per_token)  # (1, K, D)
        exact = self._durations(tokens, source, duration_feature, noise)
        exact = torch.nan_to_num(exact, nan=1.0).clamp(0.0, float(LONGEST_DURATION))
        durations = round_durations(exact / speed, config.duration_rounding, config.max_duration)
        durations = torch.where(durations.sum() > 0, durations, torch.ones_like(durations))
        n_frames: Any = durations.sum().to(torch.int64).item()  # an int would be that of the example
        torch._check(n_frames >= 1)
        frames = gaussian_upsampling(tokens, durations, None, None, n_frames)
        _, mel = self.model.decode(frames, None)
        return mel[0], durations[0].to(torch.int64)

    def _durations(self, tokens: Tensor, source: Tensor, feature: Tensor | None, noise: Tensor | None) -> Tensor:
        """Real-valued durations (1, K)."""
        model, predictor = self.model, self.model.duration_predictor
        inputs = tokens
        if model.duration_branch is not None:
            assert feature is not None
            lengths = torch.full((1,), source.shape[0], dtype=torch.int64)
            token_lengths = lengths // model.config.frames_per_token
            inputs = model.duration_branch(feature.unsqueeze(0), lengths, tokens.shape[1], token_lengths)
        if isinstance(predictor, StochasticDurationPredictor):
            assert noise is not None
            padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            return predictor.sample(inputs, padding, noise.unsqueeze(0))
        if model.config.duration_predictor == "poisson":
            return torch.exp(predictor(inputs, None))
        return (torch.exp(predictor(inputs, None)) - 1.0).clamp_min(0.0)


class LogMelGraph(nn.Module):
    """:func:`aasvc_cli.audio.mel.log_mel`: samples (n,) at the rate of the mel to (1 + n // hop_length, n_mels)."""

    basis: Tensor
    window: Tensor

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.mel = mel
        length = mel.win_length or mel.n_fft
        window = np.zeros(mel.n_fft)
        left = (mel.n_fft - length) // 2
        window[left : left + length] = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)
        self.register_buffer("basis", torch.from_numpy(mel_basis(mel)))
        self.register_buffer("window", torch.from_numpy(window))

    def forward(self, samples: Tensor) -> Tensor:
        """The samples are more than half a window."""
        n_fft, hop = self.mel.n_fft, self.mel.hop_length
        padded = functional.pad(samples[None, None], (n_fft // 2, n_fft // 2), mode="reflect")[0, 0]
        count = samples.shape[0] // hop + 1
        index = torch.arange(count)[:, None] * hop + torch.arange(n_fft)
        # in float64, as bands without energy lie below the rounding noise of float32
        spectrum = torch.view_as_real(torch.fft.rfft(padded[index].double() * self.window))
        magnitude = spectrum.square().sum(-1).sqrt().float()  # (T, F)
        mel = torch.matmul(magnitude, self.basis.T).clamp_min(LOG_FLOOR)
        return torch.log(mel) / math.log(self.mel.log_base or math.e)


class ContentGraph(nn.Module):
    """What is said in a whole recording, and the melody if there is an encoder of it.

    Attributes:
        inputs: what it is given, by name
    """

    def __init__(self, encoder: ContentEncoder, melody: MelodyEncoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder if melody is None else ContentF0(encoder, melody)
        self.inputs = {"levels": CONTENT_MEL} | ({} if melody is None else {"fine_levels": MELODY_MEL})

    def forward(self, levels: Tensor, fine_levels: Tensor | None = None) -> Tensor:
        """Levels (T, M) from 0 for silence to 1 for the loudest place, 100 a second, to (ceil(T / 2), D)."""
        given = [levels] if fine_levels is None else [levels, fine_levels]
        feature: Tensor = self.encoder(*(each.unsqueeze(0) for each in given))[0]
        return feature


class ContentFromSamples(nn.Module):
    """The same at the frames of a mel, from samples at 16 kHz: (n,) to (T, D)."""

    def __init__(self, graph: ContentGraph, mel: MelConfig) -> None:
        super().__init__()
        self.graph = graph
        self.log_mels = nn.ModuleDict({name: LogMelGraph(settings) for name, settings in graph.inputs.items()})
        self.hop_seconds = mel.hop_length / mel.sample_rate

    def forward(self, samples: Tensor) -> Tensor:
        """The samples are more than half a window."""
        feature = self.graph(**{name: _relative(log_mel(samples)) for name, log_mel in self.log_mels.items()})
        count = (samples.shape[0] / (CONTENT_MEL.sample_rate * self.hop_seconds)) // 1 + 1
        places = (torch.arange(count) * (FRAMES_PER_SECOND * self.hop_seconds)).clamp_max(feature.shape[0] - 1.0)
        left = places.to(torch.int64)
        right = (left + 1).clamp_max(feature.shape[0] - 1)
        share = (places - left).float().unsqueeze(1)
        return feature[left] * (1.0 - share) + feature[right] * share


def _relative(levels: Tensor) -> Tensor:
    """From 0 for silence to 1 for the loudest place."""
    return (levels - levels.max() + SILENCE).clamp_min(0.0) / SILENCE


class Normalised(nn.Module):
    """A feature less its mean, in units of its scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, feature: nn.Module, stats: FeatureStats) -> None:
        super().__init__()
        self.feature = feature
        self.register_buffer("mean", torch.from_numpy(stats.mean))
        self.register_buffer("scale", torch.from_numpy(stats.scale))

    def forward(self, samples: Tensor) -> Tensor:
        """(n,) to (T, D)."""
        return (self.feature(samples) - self.mean) / self.scale


def content_graph(kinds: Collection[str]) -> ContentGraph | None:
    """The graph that computes these kinds of feature, as far as an encoder does; None if it has none to compute."""
    if not set(kinds) & {*ENCODED, TAUGHT}:
        return None
    melody = load_melody_encoder(melody_file()) if set(kinds) & {"content_f0", TAUGHT} else None
    return ContentGraph(load_encoder(weights_file()), melody)
