"""A whole conversion as one graph, for the page: samples in, samples out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aasvc_cli.conversion.converter import FULL_SCALE, PEAK
from aasvc_cli.conversion.voice import Voice
from aasvc_cli.errors import ModelError
from aasvc_cli.exporting.vocoder_graphs import GanGraph, IstftGraph
from aasvc_cli.exporting.voice_graphs import ContentFromSamples, LogMelGraph, Normalised, VoiceGraph, content_graph
from aasvc_cli.features.content import CONTENT_MEL, ENCODED

_NOISE_NUMBERS = 1 << 14
_NOISE_STRIDE = 997
"""Numbers of the table by which two seeds are apart."""


class PageGraph(nn.Module):
    """Features, voice and vocoder in one; the rhythm is drawn from a table.

    Attributes:
        sample_rate: of the samples that go in, in Hz

    Raises:
        ModelError: the voice hears features that have no graph, or of two kinds; or the vocoder is too slow.
    """

    inputs = ("samples", "speed", "seed")
    low: Tensor
    high: Tensor
    mean: Tensor
    scale: Tensor
    numbers: Tensor

    def __init__(self, voice: Voice, vocoder: IstftGraph | GanGraph, vocoder_name: str) -> None:
        super().__init__()
        features, stats = voice.config.features, voice.stats
        kinds = {str(features.source)}
        if voice.config.model.duration_input == "feature":
            kinds.add(str(features.duration))
        if len(kinds) > 1 or not kinds <= {"mel", *ENCODED}:
            able = ", ".join(["mel", *ENCODED])
            raise ModelError(
                f"{voice.folder}: hears {' and '.join(sorted(kinds))}, which a page cannot compute; it can one of "
                f"{able}, the same for source and durations"
            )
        if isinstance(vocoder, GanGraph) and vocoder.generator.draws_noise:
            raise ModelError(
                f"{vocoder_name}: this vocoder, a ParallelWaveGAN, is too slow for a page; choose another with "
                "--vocoder, or export without --format web"
            )
        content = content_graph(kinds)
        feature = LogMelGraph(features.mel) if content is None else ContentFromSamples(content, features.mel)
        self.sample_rate = features.mel.sample_rate if content is None else CONTENT_MEL.sample_rate
        self.feature, self.voice, self.vocoder = Normalised(feature, stats.source), VoiceGraph(voice.model), vocoder
        target = stats.target
        infinite = torch.full((len(target.mean),), torch.inf)
        self.register_buffer("mean", torch.from_numpy(target.mean))
        self.register_buffer("scale", torch.from_numpy(target.scale))
        self.register_buffer("low", -infinite if target.low is None else torch.from_numpy(target.low))
        self.register_buffer("high", infinite if target.high is None else torch.from_numpy(target.high))
        self.register_buffer("numbers", torch.randn(_NOISE_NUMBERS, generator=torch.Generator().manual_seed(1)))

    def forward(self, samples: Tensor, speed: Tensor, seed: Tensor) -> Tensor:
        """Convert one utterance.

        Args:
            samples: (n,) at ``sample_rate``
            speed: a number; 2 speaks twice as fast
            seed: a whole number; another one gives another rhythm, if the model draws it

        Returns:
            (m,), at most full scale
        """
        source = self.feature(samples)
        config = self.voice.model.config
        noise = None
        if self.voice.stochastic:
            n_tokens = source.shape[0] // config.frames_per_token
            place = (torch.arange(2 * n_tokens) + seed * _NOISE_STRIDE) % _NOISE_NUMBERS
            noise = self.numbers[place].reshape(n_tokens, 2) * config.noise_scale
        mel, _ = self.voice(source, speed, source if self.voice.hears_feature else None, noise)
        log_mel = torch.minimum(torch.maximum(mel * self.scale + self.mean, self.low), self.high)
        wave = self.vocoder(log_mel, seed) if isinstance(self.vocoder, IstftGraph) else self.vocoder(log_mel)
        peak = wave.abs().max()
        return wave * torch.where(peak > FULL_SCALE, PEAK / peak, torch.ones_like(peak))
