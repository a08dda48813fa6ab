"""Vocoders as modules that ``torch.onnx`` can write down: log-mel (T, M) to samples (T * hop_length,).

They call the trained parts of the networks in :mod:`aasvc_cli.vocoder`. What those do with complex numbers, views of
memory and blocks that fit a cache is plain real arithmetic here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.errors import ModelError
from aasvc_cli.vocoder.build import Vocoder
from aasvc_cli.vocoder.gan_generators import GanVocoder, HiFiGan, ParallelWaveGan
from aasvc_cli.vocoder.istft import (
    LIMIT,
    MOST_REFINED,
    NOISE_STRIDE,
    IstftGenerator,
    IstftVocoder,
    held_pitch,
    limited,
)

Spectrum = tuple[Tensor, Tensor]
"""Real and imaginary part, (T, F) each."""


def vocoder_graph(vocoder: Vocoder, name: str) -> IstftGraph | GanGraph:
    """The graph of a vocoder; raises ModelError, which names it, if there is none."""
    if isinstance(vocoder, IstftVocoder):
        return IstftGraph(vocoder.generator)
    if isinstance(vocoder, GanVocoder):
        return GanGraph(vocoder)
    raise ModelError(
        f"{name}: this kind of vocoder cannot be exported; choose a neural one with --vocoder, such as bundled"
    )


class IstftGraph(nn.Module):
    """:class:`aasvc_cli.vocoder.istft.IstftVocoder`, a whole utterance at once."""

    inputs = ("log_mel", "seed")
    reach = None
    """All samples depend on all frames before them, by the phase of the pulses."""

    def __init__(self, generator: IstftGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, log_mel: Tensor, seed: Tensor) -> Tensor:
        """(T, M), not normalised, and a whole number, which decides where the noise begins, to (T * hop_length,)."""
        net, hop = self.generator, self.generator.hop_length
        log_mel = limited(log_mel).unsqueeze(0)
        f0, voiced = net.pitch.decode_exactly(net.normalise(log_mel))
        voiced = torch.cat([voiced, voiced[:, -1:]], dim=1)
        f0 = held_pitch(torch.cat([f0, f0[:, -1:]], dim=1), voiced)
        place = torch.arange(log_mel.shape[1] * hop) + seed * NOISE_STRIDE
        noise = net.noise[place % net.noise.shape[0]].unsqueeze(0)
        pulses, noise = net.sources(f0, voiced, torch.zeros(1), noise)
        transform = self._transform()
        real, imaginary = self._analyse(pulses[0], transform)
        pulse_spectrum, noise_spectrum = (real * net.fade, imaginary * net.fade), self._analyse(noise[0], transform)
        hidden = net.backbone.hidden(net.normalise(log_mel))
        if net.correction is not None:
            log_mel = log_mel + net.scale * net.correction(hidden)
        wave = self._inverse(self._filtered(log_mel, hidden, pulse_spectrum, noise_spectrum), transform)
        for _ in range(net.refinements):
            reached = self._analyse(wave, transform)
            gain = self._gain(log_mel, reached).clamp(1.0 / MOST_REFINED, MOST_REFINED)
            wave = self._inverse(_scaled(reached, gain), transform)
        return wave

    def _filtered(self, log_mel: Tensor, hidden: Tensor, pulses: Spectrum, noise: Spectrum) -> Spectrum:
        pulse_gain, noise_gain, turn, level = self.generator.backbone.head(hidden)[0].chunk(4, dim=-1)  # (T, F) each
        size, weight = pulse_gain.clamp(-LIMIT, LIMIT).exp(), noise_gain.clamp(-LIMIT, LIMIT).exp()
        real, imaginary = size * turn.cos(), size * turn.sin()
        mixed = (
            pulses[0] * real - pulses[1] * imaginary + noise[0] * weight,
            pulses[0] * imaginary + pulses[1] * real + noise[1] * weight,
        )
        return _scaled(mixed, self._gain(log_mel, mixed) * level.clamp(-LIMIT, LIMIT).exp())

    def _gain(self, log_mel: Tensor, spectrum: Spectrum) -> Tensor:
        power = spectrum[0].square() + spectrum[1].square()
        return self.generator.gain_of_power(log_mel, power.unsqueeze(0))[0]

    def _transform(self) -> Tensor:
        """(n_fft, 2 F): the Fourier transform of a windowed frame, real parts first; made anew, as it is large."""
        n_fft = self.generator.n_fft
        # whole numbers up to n_fft squared, so that angles are exact
        turns = torch.arange(n_fft)[:, None] * torch.arange(n_fft // 2 + 1)
        angles = (turns % n_fft).float() * (2.0 * math.pi / n_fft)
        return torch.cat([angles.cos(), -angles.sin()], dim=1) * self.generator.window[:, None]

    def _analyse(self, wave: Tensor, transform: Tensor) -> Spectrum:
        """(T * hop_length,) to (T, F)."""
        n_fft, hop = self.generator.n_fft, self.generator.hop_length
        padded = functional.pad(wave, (n_fft // 2, n_fft // 2 - hop))
        index = torch.arange(wave.shape[0] // hop)[:, None] * hop + torch.arange(n_fft)
        real, imaginary = torch.matmul(padded[index], transform).chunk(2, dim=1)
        return real, imaginary

    def _inverse(self, spectrum: Spectrum, transform: Tensor) -> Tensor:
        """(T, F) to (T * hop_length,)."""
        n_fft, hop = self.generator.n_fft, self.generator.hop_length
        weights = torch.full((n_fft // 2 + 1,), 2.0 / n_fft)  # bins stand for their mirror images, too,
        weights[0] = weights[-1] = 1.0 / n_fft  # but for the first and the last
        both = torch.cat([spectrum[0] * weights, spectrum[1] * weights], dim=1)
        frames = torch.matmul(both, transform.T)
        envelope = self._overlap_add(self.generator.window.square().expand(frames.shape[0], -1))
        start, length = n_fft // 2, frames.shape[0] * hop
        return self._overlap_add(frames)[start : start + length] / envelope[start : start + length].clamp_min(1e-3)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(T, n_fft) to at least ((T - 1) * hop_length + n_fft,)."""
        hop, n_parts = self.generator.hop_length, -(-self.generator.n_fft // self.generator.hop_length)
        parts = functional.pad(frames, (0, n_parts * hop - frames.shape[1])).reshape(-1, n_parts, hop)
        # part k of each frame falls on part 0 of the k-th frame after it
        shifted = [functional.pad(parts[:, k], (0, 0, k, n_parts - 1 - k)) for k in range(n_parts)]
        return torch.stack(shifted).sum(0).flatten()


def _scaled(spectrum: Spectrum, gain: Tensor) -> Spectrum:
    return spectrum[0] * gain, spectrum[1] * gain


class GanGraph(nn.Module):
    """:class:`aasvc_cli.vocoder.gan_generators.GanVocoder`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, vocoder: GanVocoder) -> None:
        super().__init__()
        self.generator = vocoder.generator
        self.inputs = ("log_mel", "noise") if self.generator.draws_noise else ("log_mel",)
        self.reach = self.generator.reach
        n_mels = vocoder.mel.n_mels
        self.register_buffer("mean", torch.zeros(n_mels) if vocoder.mean is None else vocoder.mean)
        self.register_buffer("scale", torch.ones(n_mels) if vocoder.scale is None else vocoder.scale)

    def forward(self, log_mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """(T, M), not normalised, and standard normal noise (T * hop_length,) if it is drawn, to (T * hop_length,)."""
        mel = ((log_mel - self.mean) / self.scale).unsqueeze(0)
        if isinstance(self.generator, HiFiGan):
            return self.generator.generate(mel)[0]
        assert noise is not None
        return _parallel_wavegan(self.generator, mel, noise)


def _parallel_wavegan(net: ParallelWaveGan, mel: Tensor, noise: Tensor) -> Tensor:
    """(1, T, M) and (n,) to (n,), with one convolution where :meth:`ParallelWaveGan.generate` has many products."""
    sizes = net.sizes
    condition = net.upsample(net.with_context(mel.transpose(1, 2)))  # (1, M, n)
    x = net.input(noise[None, None])
    skips: Any = 0.0
    for layer in cast("Iterable[Any]", net.layers):
        gates = layer.conv(x) + layer.aux(condition)
        one, other = gates.chunk(2, dim=1)
        gated = torch.tanh(one) * torch.sigmoid(other)
        skips = skips + layer.skip(gated)
        x = (layer.residual(gated) + x) * math.sqrt(0.5)
    hidden = net.hidden(functional.relu(skips * math.sqrt(1.0 / sizes.layers)))
    return net.output(functional.relu(hidden)).flatten()
