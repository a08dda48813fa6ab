"""Small discriminators: what tells synthesis from recordings, and by that teaches the generator.

Spectra at several resolutions (Jang et al., UnivNet, 2021) see noise and phase; the waveform folded at several periods
(Kong, Kim and Bae, HiFi-GAN, 2020) sees pulses. Both are much smaller than published ones, so that a processor without
GPU trains them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

WINDOWS = (512, 1024, 2048)
"""Window lengths of the spectra in samples; frames are a quarter of that apart."""
PERIODS = (2, 3, 5, 7, 11)
"""Prime numbers of samples, so that no two discriminators see the same patterns."""
SLOPE = 0.1
Judged = tuple[Tensor, list[Tensor]]
"""Scores, about 1 for recordings and 0 for synthesis, and the features that led to them."""


class SpectrumDiscriminator(nn.Module):
    """Judges the compressed magnitude of a short-time spectrum."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        sizes = [(1, channels, (3, 9), (1, 2)), (channels, channels, (3, 7), (2, 2))]
        sizes += [(channels, 2 * channels, (3, 5), (2, 2)), (2 * channels, 2 * channels, (3, 3), (1, 2))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))
            for a, b, kernel, stride in sizes
        )
        self.last = weight_norm(nn.Conv2d(2 * channels, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> Judged:
        """(B, n) -> scores (B, ...) and features."""
        half = self.n_fft // 2
        padded = functional.pad(wave.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
        spectrum = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.n_fft // 4) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        x = torch.log(power + 1e-6).unsqueeze(1) * 0.2  # (B, 1, T, F)
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.last(x).flatten(1), features


class PeriodDiscriminator(nn.Module):
    """Judges the waveform cut into rows of one period."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        sizes = [(1, channels), (channels, 2 * channels), (2 * channels, 4 * channels), (4 * channels, 4 * channels)]
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0))) for a, b in sizes)
        self.last = weight_norm(nn.Conv2d(4 * channels, 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> Judged:
        """(B, n) -> scores (B, ...) and features."""
        padded = functional.pad(wave, (0, -wave.shape[1] % self.period))
        x = padded.unflatten(1, (-1, self.period)).unsqueeze(1)  # (B, 1, n / period, period)
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.last(x).flatten(1), features


class Discriminators(nn.Module):
    """All of them."""

    def __init__(
        self, *, channels: int = 16, windows: Sequence[int] = WINDOWS, periods: Sequence[int] = PERIODS
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [SpectrumDiscriminator(n_fft, channels) for n_fft in windows]
            + [PeriodDiscriminator(period, channels) for period in periods]
        )

    def forward(self, wave: Tensor) -> list[Judged]:
        """(B, n) -> what each of them says."""
        return [part(wave) for part in self.parts]


def discriminator_loss(real: Sequence[Judged], fake: Sequence[Judged]) -> Tensor:
    """Least squares (Mao et al., 2017): recordings should score 1, synthesis 0. Mean over discriminators."""
    terms = [
        (1.0 - wanted.float()).square().mean() + unwanted.float().square().mean()
        for (wanted, _), (unwanted, _) in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def adversarial_loss(fake: Sequence[Judged]) -> Tensor:
    """Synthesis should score 1. Mean over discriminators."""
    return torch.stack([(1.0 - scores.float()).square().mean() for scores, _ in fake]).mean()


def feature_loss(real: Sequence[Judged], fake: Sequence[Judged]) -> Tensor:
    """Mean absolute difference of features, relative to their size, over all layers of all discriminators."""
    terms = [
        functional.l1_loss(fake.float(), real.detach().float()) / real.detach().float().abs().mean().clamp_min(1e-3)
        for (_, real_features), (_, fake_features) in zip(real, fake, strict=True)
        for real, fake in zip(real_features, fake_features, strict=True)
    ]
    return torch.stack(terms).mean()
