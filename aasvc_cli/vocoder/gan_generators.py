"""The generators of ParallelWaveGAN and HiFi-GAN, and their use on mels of any length.

Yamamoto, Song, Kim, "Parallel WaveGAN" (2020) and Kong, Kim, Bae, "HiFi-GAN" (2020), as the published vocoders have
them. They are here to synthesise with trained weights, so the convolutions are plain: weight normalisation is folded
when weights are read. A generator sees a bounded stretch of frames on each side of a sample, its reach; a mel of any
length is therefore synthesised in pieces of bounded memory that join without a seam.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.config import MelConfig

CHUNK_FRAMES = 64
"""Frames synthesised at once. Activations of longer pieces leave the processor's cache, shorter ones are mostly
context."""
_NOISE_BLOCK = 1 << 14
"""Samples of noise drawn from one seed, so that any stretch of it can be drawn without what comes before."""
_FINAL_SLOPE = 0.01
"""HiFi-GAN's last activation has the framework's default slope, not the configured one."""
_UPSAMPLERS = ("ConvInUpsampleNetwork", "UpsampleNetwork")


@dataclass(frozen=True, kw_only=True)
class HiFiGanSizes:
    """Constructor arguments of the HiFi-GAN generator, by their published names."""

    in_channels: int = 80
    channels: int = 512
    kernel_size: int = 7
    upsample_scales: tuple[int, ...] = (8, 8, 2, 2)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    use_additional_convs: bool = True
    negative_slope: float = 0.1
    use_causal_conv: bool = False

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_scales)

    @property
    def n_mels(self) -> int:
        """Bands of the mels."""
        return self.in_channels

    def faults(self) -> list[str]:
        """What is impossible about these values."""
        found = _not_positive(self, ("in_channels", "channels", "kernel_size"))
        found += _not_positive_lists(self, ("upsample_scales", "resblock_kernel_sizes", *_NESTED))
        if self.channels % (1 << len(self.upsample_scales)):
            found.append(f"channels: {self.channels} cannot be halved {len(self.upsample_scales)} times")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilations):
            found.append("resblock_kernel_sizes and resblock_dilations: expected lists of the same length")
        if any(size % 2 == 0 for size in (self.kernel_size, *self.resblock_kernel_sizes)):
            found.append("kernel_size and resblock_kernel_sizes: expected odd numbers")
        return found


_NESTED = ("resblock_dilations",)


@dataclass(frozen=True, kw_only=True)
class ParallelWaveGanSizes:
    """Constructor arguments of the ParallelWaveGAN generator, by their published names."""

    aux_channels: int = 80
    aux_context_window: int = 2
    kernel_size: int = 3
    layers: int = 30
    stacks: int = 3
    residual_channels: int = 64
    gate_channels: int = 128
    skip_channels: int = 64
    use_causal_conv: bool = False
    upsample_net: str = "ConvInUpsampleNetwork"
    upsample_scales: tuple[int, ...] = (4, 4, 4, 4)
    freq_axis_kernel_size: int = 1
    upsample_slope: float | None = None
    """Slope of a LeakyReLU after each upsampling; None for no activation, as in all published configurations."""

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_scales)

    @property
    def n_mels(self) -> int:
        """Bands of the mels."""
        return self.aux_channels

    def faults(self) -> list[str]:
        """What is impossible about these values."""
        found = _not_positive(
            self,
            ("aux_channels", "kernel_size", "layers", "stacks", "residual_channels", "gate_channels", "skip_channels",
             "freq_axis_kernel_size"),
        )  # fmt: skip
        found += _not_positive_lists(self, ("upsample_scales",))
        if self.upsample_net not in _UPSAMPLERS:
            found.append(f"upsample_net: {self.upsample_net!r} is not supported, only {' and '.join(_UPSAMPLERS)}")
        if self.upsample_net == "UpsampleNetwork" and self.aux_context_window:
            found.append(f"aux_context_window: {self.aux_context_window}, but UpsampleNetwork takes no context; use 0")
        if self.aux_context_window < 0:
            found.append(f"aux_context_window: {self.aux_context_window} is below 0")
        if self.stacks > 0 and self.layers % self.stacks:
            found.append(f"layers: {self.layers} cannot be divided among {self.stacks} stacks")
        if self.gate_channels % 2:
            found.append(f"gate_channels: {self.gate_channels} is odd; half of them are gates")
        if self.freq_axis_kernel_size % 2 == 0 or (self.kernel_size % 2 == 0 and not self.use_causal_conv):
            found.append("kernel_size and freq_axis_kernel_size: expected odd numbers")
        return found


def _not_positive(sizes: object, names: Sequence[str]) -> list[str]:
    values = {name: getattr(sizes, name) for name in names}
    return [f"{name}: {value} is below 1" for name, value in values.items() if value < 1]


def _not_positive_lists(sizes: object, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        values = getattr(sizes, name)
        flat = [number for entry in values for number in (entry if isinstance(entry, tuple) else (entry,))]
        if not flat or min(flat) < 1:
            found.append(f"{name}: expected numbers above 0, found {values}")
    return found


class Generator(Protocol):
    """What the two networks have in common."""

    draws_noise: bool

    @property
    def reach(self) -> int:
        """Frames before and after a frame that its samples depend on."""
        ...

    def generate(self, mel: Tensor, noise: Tensor | None) -> Tensor:
        """(B, T, M) normalised, and noise (B, T * hop_length) if it is drawn, to (B, T * hop_length)."""
        ...


class _Conv(nn.Conv1d):
    """A convolution of stride 1 that keeps the length: zeros on both sides, or all on the left if it is causal."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1, *, causal: bool):
        self._left = (kernel - 1) * dilation if causal else 0
        padding = 0 if causal else (kernel - 1) // 2 * dilation
        super().__init__(in_channels, out_channels, kernel, dilation=dilation, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n) -> (B, C', n)."""
        return super().forward(functional.pad(x, (self._left, 0)) if self._left else x)


class _ResidualBlock(nn.Module):
    """Dilated convolutions, each added to what it was given."""

    def __init__(self, sizes: HiFiGanSizes, channels: int, kernel: int, dilations: Sequence[int]):
        super().__init__()
        self._slope = sizes.negative_slope

        def conv(dilation: int) -> _Conv:
            return _Conv(channels, channels, kernel, dilation, causal=sizes.use_causal_conv)

        self.dilated = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.plain = nn.ModuleList(conv(1) for _ in dilations) if sizes.use_additional_convs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n) -> (B, C, n)."""
        for index, dilated in enumerate(self.dilated):
            y = dilated(functional.leaky_relu(x, self._slope))
            if self.plain is not None:
                y = self.plain[index](functional.leaky_relu_(y, self._slope))
            x = y.add_(x)
        return x


class HiFiGan(nn.Module):
    """Upsample step by step, and after each step average residual blocks of several widths."""

    draws_noise = False

    def __init__(self, sizes: HiFiGanSizes):
        super().__init__()
        self.sizes = sizes
        causal, channels = sizes.use_causal_conv, sizes.channels
        self.input = _Conv(sizes.in_channels, channels, sizes.kernel_size, causal=causal)
        self.upsamples = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for scale in sizes.upsample_scales:
            # the causal one is cropped in forward
            padding, extra = (0, 0) if causal else (scale // 2 + scale % 2, scale % 2)
            self.upsamples.append(
                nn.ConvTranspose1d(channels, channels // 2, 2 * scale, scale, padding=padding, output_padding=extra)
            )
            channels //= 2
            for kernel, dilations in zip(sizes.resblock_kernel_sizes, sizes.resblock_dilations, strict=True):
                self.blocks.append(_ResidualBlock(sizes, channels, kernel, dilations))
        self.output = _Conv(channels, 1, sizes.kernel_size, causal=causal)

    @property
    def reach(self) -> int:
        """Frames before and after a frame that its samples depend on."""
        sizes = self.sizes
        # a causal convolution reaches twice as far back, and not ahead at all
        sides = 2 if sizes.use_causal_conv else 1
        edge = sides * (sizes.kernel_size - 1) // 2
        widest = max(
            sides * (kernel - 1) // 2 * (sum(dilations) + len(dilations) * sizes.use_additional_convs)
            for kernel, dilations in zip(sizes.resblock_kernel_sizes, sizes.resblock_dilations, strict=True)
        )
        samples = edge
        for scale in reversed(sizes.upsample_scales):
            samples = math.ceil((samples + widest) / scale) + 1
        return samples + edge

    def generate(self, mel: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002 - it draws none
        """(B, T, M) -> (B, T * hop_length), within full scale."""
        sizes = self.sizes
        n_blocks = len(sizes.resblock_kernel_sizes)
        x = self.input(mel.transpose(1, 2))  # (B, M, T) -> (B, C, T)
        for stage, (scale, upsample) in enumerate(zip(sizes.upsample_scales, self.upsamples, strict=True)):
            x = functional.leaky_relu_(x, sizes.negative_slope)
            if sizes.use_causal_conv:
                x = upsample(functional.pad(x, (1, 0), mode="replicate"))[..., scale:-scale]
            else:
                x = upsample(x)
            summed = self.blocks[stage * n_blocks](x)
            for index in range(1, n_blocks):
                summed += self.blocks[stage * n_blocks + index](x)
            x = summed.div_(n_blocks)
        return torch.tanh(self.output(functional.leaky_relu_(x, _FINAL_SLOPE))).squeeze(1)


class _GatedLayer(nn.Module):
    """One layer of ParallelWaveGAN: a dilated convolution of the samples, gated, with the mel added before the gate."""

    def __init__(self, sizes: ParallelWaveGanSizes, dilation: int):
        super().__init__()
        residual, gates = sizes.residual_channels, sizes.gate_channels
        self.conv = _Conv(residual, gates, sizes.kernel_size, dilation, causal=sizes.use_causal_conv)
        self.aux = nn.Conv1d(sizes.aux_channels, gates, 1, bias=False)
        self.residual = nn.Conv1d(gates // 2, residual, 1)
        self.skip = nn.Conv1d(gates // 2, sizes.skip_channels, 1)


class ParallelWaveGan(nn.Module):
    """Noise becomes sound, sample by sample in parallel, through gated dilated convolutions that hear the mel."""

    draws_noise = True

    def __init__(self, sizes: ParallelWaveGanSizes):
        super().__init__()
        self.sizes = sizes
        window, mels = sizes.aux_context_window, sizes.aux_channels
        self.context: nn.Conv1d | None = None
        if sizes.upsample_net == "ConvInUpsampleNetwork":
            kernel = window + 1 if sizes.use_causal_conv else 2 * window + 1
            self.context = nn.Conv1d(mels, mels, kernel, bias=False)
        self.upsamples = nn.ModuleList(
            nn.Conv2d(1, 1, (sizes.freq_axis_kernel_size, 2 * scale + 1), bias=False) for scale in sizes.upsample_scales
        )
        self.input = nn.Conv1d(1, sizes.residual_channels, 1)
        per_stack = sizes.layers // sizes.stacks
        self.layers = nn.ModuleList(_GatedLayer(sizes, 1 << index % per_stack) for index in range(sizes.layers))
        self.hidden = nn.Conv1d(sizes.skip_channels, sizes.skip_channels, 1)
        self.output = nn.Conv1d(sizes.skip_channels, 1, 1)

    @property
    def reach(self) -> int:
        """Frames before and after a frame that its samples depend on."""
        sizes = self.sizes
        per_stack = sizes.layers // sizes.stacks
        sides = 2 if sizes.use_causal_conv else 1
        samples = sizes.stacks * ((1 << per_stack) - 1) * (sides * (sizes.kernel_size - 1) // 2)
        for scale in reversed(sizes.upsample_scales):
            samples = math.ceil((samples + sides * scale) / scale) + 1
        return samples + sizes.aux_context_window

    def generate(self, mel: Tensor, noise: Tensor | None) -> Tensor:
        """(B, T, M) and standard normal noise (B, T * hop_length) to (B, T * hop_length)."""
        assert noise is not None and noise.shape[1] == mel.shape[1] * self.sizes.hop_length
        conditions = self._upsample(mel)  # (B, M, n)
        x = self.input(noise.unsqueeze(1))  # (B, C, n)
        skips: Tensor | None = None
        for layer in cast("Iterable[_GatedLayer]", self.layers):
            both = layer.conv(x).add_(layer.aux(conditions))
            values, gates = both.chunk(2, dim=1)
            gated = torch.tanh(values).mul_(torch.sigmoid(gates))
            skip = layer.skip(gated)
            skips = skip if skips is None else skips.add_(skip)
            x = layer.residual(gated).add_(x).mul_(math.sqrt(0.5))
        assert skips is not None
        hidden = functional.relu_(skips.mul_(math.sqrt(1.0 / len(self.layers))))
        return self.output(functional.relu_(self.hidden(hidden))).squeeze(1)

    def _upsample(self, mel: Tensor) -> Tensor:
        """(B, T, M) -> (B, M, T * hop_length)."""
        sizes = self.sizes
        x = mel.transpose(1, 2)  # (B, M, T)
        if self.context is not None:
            window = sizes.aux_context_window
            sides = (window, 0) if sizes.use_causal_conv else (window, window)
            x = self.context(functional.pad(x, sides, mode="replicate") if window else x)
        x = x.unsqueeze(1)  # (B, 1, M, T)
        bands = sizes.freq_axis_kernel_size // 2
        for scale, smooth in zip(sizes.upsample_scales, self.upsamples, strict=True):
            x = x.repeat_interleave(scale, dim=3)
            before, after = (2 * scale, 0) if sizes.use_causal_conv else (scale, scale)
            x = smooth(functional.pad(x, (before, after, bands, bands)))
            if sizes.upsample_slope is not None:
                x = functional.leaky_relu_(x, sizes.upsample_slope)
        return x.squeeze(1)


class GanVocoder:
    """A generator as a vocoder: log-mels of any length in pieces of bounded memory.

    Attributes:
        mel: the settings of the log-mels that it was trained on
    """

    def __init__(
        self,
        generator: HiFiGan | ParallelWaveGan,
        mel: MelConfig,
        *,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        chunk_frames: int | None = CHUNK_FRAMES,
    ) -> None:
        """Wrap a generator.

        Args:
            mean, scale: (M,) what its mels are normalised with; None if they are not
            chunk_frames: frames at once; None for all
        """
        self.mel = mel
        self.chunk_frames = chunk_frames
        self._generator = generator.eval().requires_grad_(False)
        self._mean, self._scale = mean, scale

    @property
    def sample_rate(self) -> int:
        """Of the waveform, in Hz."""
        return self.mel.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.mel.hop_length

    def synthesise(self, log_mel: Tensor, *, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Waveforms of a batch of equally long log-mels.

        Args:
            log_mel: (B, T, M), not normalised
            seed: decides the noise of a generator that draws it; each item gets what it would get alone
            noise: (B, T * hop_length) in place of the drawn one

        Returns:
            (B, T * hop_length) float32, full scale at 1.0
        """
        wave = log_mel.new_empty(log_mel.shape[0], log_mel.shape[1] * self.hop_length, dtype=torch.float32)
        done = 0
        for piece in self.stream(log_mel, seed=seed, noise=noise):
            wave[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
        return wave

    def stream(self, log_mel: Tensor, *, seed: int = 0, noise: Tensor | None = None) -> Iterator[Tensor]:
        """The same piece by piece: (B, n) each, as soon as it is there."""
        if log_mel.ndim != 3 or log_mel.shape[2] != self.mel.n_mels:
            raise ValueError(f"expected (B, T, {self.mel.n_mels}), got {tuple(log_mel.shape)}")
        hop, reach, total = self.hop_length, self._generator.reach, log_mel.shape[1]
        step = max(1, self.chunk_frames or total)
        for start in range(0, total, step):
            stop = min(start + step, total)
            first, last = max(0, start - reach), min(total, stop + reach)
            with torch.inference_mode():
                mel = self._normalise(log_mel[:, first:last].float())
                drawn = None
                if self._generator.draws_noise:
                    drawn = noise[:, first * hop : last * hop] if noise is not None else None
                    if drawn is None:
                        drawn = noise_between(seed, first * hop, last * hop).to(mel.device).expand(len(mel), -1)
                wave = self._generator.generate(mel, drawn)
            yield wave[:, (start - first) * hop : (stop - first) * hop].clone()

    def _normalise(self, log_mel: Tensor) -> Tensor:
        if self._mean is None or self._scale is None:
            return log_mel
        return (log_mel - self._mean.to(log_mel.device)) / self._scale.to(log_mel.device)


def noise_between(seed: int, start: int, stop: int) -> Tensor:
    """Samples ``start`` to ``stop`` of the endless standard normal noise that belongs to a seed: (stop - start,)."""
    first, last = start // _NOISE_BLOCK, max(start, stop - 1) // _NOISE_BLOCK
    blocks = [
        # an odd multiplier spreads the seeds, so that block 1 of seed 0 is not block 0 of seed 1
        torch.randn(
            _NOISE_BLOCK, generator=torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + block) % (1 << 63))
        )
        for block in range(first, last + 1)
    ]
    offset = first * _NOISE_BLOCK
    return torch.cat(blocks)[start - offset : stop - offset]
