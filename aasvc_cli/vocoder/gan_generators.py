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
from typing import Annotated, Protocol, cast

import torch
from pydantic import Field, StrictBool, StrictInt
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.config.settings import Limits, MelConfig, Section
from aasvc_cli.vocoder.noise import NOISE_BLOCK

CHUNK_FRAMES = 256
"""Frames synthesised at once. Shorter pieces spend their time on the frames around them (a quarter more at 64), longer
ones need more memory and gain nothing (``tests/benchmarks/vocoders.py``)."""
BLOCK_ROWS = 2048
"""Samples that pass through a layer of ParallelWaveGAN at once, so that what they become stays in the cache."""
_FINAL_SLOPE = 0.01
"""HiFi-GAN's last activation has the framework's default slope, not the configured one."""
_UPSAMPLERS = ("ConvInUpsampleNetwork", "UpsampleNetwork")

Sizes = Annotated[tuple[StrictInt, ...], Field(max_length=32)]


@dataclass(frozen=True, kw_only=True)
class HiFiGanSizes(Section):
    """Constructor arguments of the HiFi-GAN generator, by their published names."""

    in_channels: StrictInt = 80
    channels: StrictInt = 512
    kernel_size: StrictInt = 7
    upsample_scales: Sizes = (8, 8, 2, 2)
    resblock_kernel_sizes: Sizes = (3, 7, 11)
    resblock_dilations: Annotated[tuple[Sizes, ...], Field(max_length=32)] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    use_additional_convs: StrictBool = True
    negative_slope: Annotated[float, Limits()] = 0.1
    use_causal_conv: StrictBool = False

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_scales)

    @property
    def n_mels(self) -> int:
        """Bands of the mels."""
        return self.in_channels

    def faults(self) -> list[str]:
        """Inconsistent values."""
        faults = _not_positive(self, ("in_channels", "channels", "kernel_size"))
        faults += _not_positive_lists(self, ("upsample_scales", "resblock_kernel_sizes", *_NESTED))
        if self.channels % (1 << len(self.upsample_scales)):
            faults.append(f"channels: {self.channels} cannot be halved {len(self.upsample_scales)} times")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilations):
            faults.append("resblock_kernel_sizes and resblock_dilations: expected lists of the same length")
        if any(size % 2 == 0 for size in (self.kernel_size, *self.resblock_kernel_sizes)):
            faults.append("kernel_size and resblock_kernel_sizes: expected odd numbers")
        return faults


_NESTED = ("resblock_dilations",)


@dataclass(frozen=True, kw_only=True)
class ParallelWaveGanSizes(Section):
    """Constructor arguments of the ParallelWaveGAN generator, by their published names."""

    aux_channels: StrictInt = 80
    aux_context_window: StrictInt = 2
    kernel_size: StrictInt = 3
    layers: Annotated[StrictInt, Field(le=1000)] = 30
    stacks: Annotated[StrictInt, Field(le=1000)] = 3
    residual_channels: StrictInt = 64
    gate_channels: StrictInt = 128
    skip_channels: StrictInt = 64
    use_causal_conv: StrictBool = False
    upsample_net: str = "ConvInUpsampleNetwork"
    upsample_scales: Sizes = (4, 4, 4, 4)
    freq_axis_kernel_size: StrictInt = 1
    upsample_slope: Annotated[float, Limits()] | None = None
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
        """Inconsistent values."""
        faults = _not_positive(
            self,
            ("aux_channels", "kernel_size", "layers", "stacks", "residual_channels", "gate_channels", "skip_channels",
             "freq_axis_kernel_size"),
        )  # fmt: skip
        faults += _not_positive_lists(self, ("upsample_scales",))
        if self.upsample_net not in _UPSAMPLERS:
            faults.append(f"upsample_net: {self.upsample_net!r} is not supported, only {' and '.join(_UPSAMPLERS)}")
        if self.upsample_net == "UpsampleNetwork" and self.aux_context_window:
            faults.append(f"aux_context_window: {self.aux_context_window}, but UpsampleNetwork takes no context; use 0")
        if self.aux_context_window < 0:
            faults.append(f"aux_context_window: {self.aux_context_window} is below 0")
        if self.stacks > 0 and self.layers % self.stacks:
            faults.append(f"layers: {self.layers} cannot be divided among {self.stacks} stacks")
        if self.gate_channels % 2:
            faults.append(f"gate_channels: {self.gate_channels} is odd; half of them are gates")
        if self.freq_axis_kernel_size % 2 == 0 or (self.kernel_size % 2 == 0 and not self.use_causal_conv):
            faults.append("kernel_size and freq_axis_kernel_size: expected odd numbers")
        return faults


def _not_positive(sizes: object, names: Sequence[str]) -> list[str]:
    values = {name: getattr(sizes, name) for name in names}
    return [f"{name}: {value} is below 1" for name, value in values.items() if value < 1]


def _not_positive_lists(sizes: object, names: Sequence[str]) -> list[str]:
    faults = []
    for name in names:
        values = getattr(sizes, name)
        flat = [number for entry in values for number in (entry if isinstance(entry, tuple) else (entry,))]
        if not flat or min(flat) < 1:
            faults.append(f"{name}: expected numbers above 0, found {values}")
    return faults


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
        return torch.stack([self._generate_one(*item) for item in zip(mel, noise, strict=True)])

    def _generate_one(self, mel: Tensor, noise: Tensor) -> Tensor:
        """(T, M) and (n,) to (n,), n = T * hop_length.

        Samples are rows and channels columns here, so that every convolution is one matrix product per tap, and a few
        thousand rows at a time pass through a layer while they are in the processor's cache. tanh(a) * sigmoid(b) is
        computed as 2 * (sigmoid(2 a) - 0.5) * sigmoid(b), with both factors 2 put into the weights around it.
        """
        sizes, n = self.sizes, len(noise)
        half, kernel = sizes.gate_channels // 2, sizes.kernel_size
        conditions = self._conditions(mel)
        rows = max(1, BLOCK_ROWS // sizes.hop_length) * sizes.hop_length
        # zeros on both sides are what the convolutions are padded with
        edge = (kernel - 1) << (sizes.layers // sizes.stacks - 1)
        x, following = (noise.new_zeros(n + 2 * edge, sizes.residual_channels) for _ in range(2))
        torch.addmm(self._bias(self.input), noise[:, None], self.input.weight[:, :, 0].T, out=x[edge : edge + n])
        gated = noise.new_empty(min(rows, n), half)
        gates = noise.new_empty(min(rows, n), 2 * half)
        double = torch.ones(2 * half, device=noise.device)
        double[:half] = 2.0
        keep, mean = math.sqrt(0.5), math.sqrt(1.0 / sizes.layers)
        skips = noise.new_zeros(n, sizes.skip_channels)
        for index, layer in enumerate(cast("Iterable[_GatedLayer]", self.layers)):
            dilation = 1 << index % (sizes.layers // sizes.stacks)
            first = edge - (kernel - 1) * dilation // (1 if sizes.use_causal_conv else 2)
            taps = (layer.conv.weight * double[:, None, None]).permute(2, 1, 0).contiguous()  # (k, C, G)
            bias = self._bias(layer.conv) * double
            condition = conditions.of_layer(layer.aux.weight[:, :, 0].T * double)
            residual = (layer.residual.weight[:, :, 0].T * (2.0 * keep)).contiguous()
            residual_bias = self._bias(layer.residual) * keep
            skip = (layer.skip.weight[:, :, 0].T * (2.0 * mean)).contiguous()
            skips += self._bias(layer.skip) * mean
            for start in range(0, n, rows):
                stop = min(start + rows, n)
                y, g = gates[: stop - start], gated[: stop - start]
                for tap in range(kernel):
                    window = x[first + tap * dilation + start : first + tap * dilation + stop]
                    if tap:
                        y.addmm_(window, taps[tap])
                    else:
                        torch.addmm(bias, window, taps[tap], out=y)
                condition.add_to(y, start, stop)
                y.sigmoid_()
                torch.mul(y[:, :half].sub_(0.5), y[:, half:], out=g)
                skips[start:stop].addmm_(g, skip)
                passed = following[edge + start : edge + stop]
                torch.addmm(x[edge + start : edge + stop], g, residual, beta=keep, out=passed)
                passed += residual_bias
            x, following = following, x
        hidden = torch.addmm(self._bias(self.hidden), skips.relu_(), self.hidden.weight[:, :, 0].T).relu_()
        return torch.addmm(self._bias(self.output), hidden, self.output.weight[:, :, 0].T)[:, 0]

    @staticmethod
    def _bias(module: nn.Module) -> Tensor:
        return cast(Tensor, module.bias)

    def _conditions(self, mel: Tensor) -> _Conditions:
        """What the layers hear of a mel (T, M).

        Upsampling treats all bands alike, as long as it neither mixes them nor has activations. A layer's own mixture
        of the bands may then be taken once per frame and upsampled afterwards, as sums over a few frames.
        """
        sizes = self.sizes
        features = self.with_context(mel.T[None])
        if sizes.freq_axis_kernel_size == 1 and sizes.upsample_slope is None:
            return _FrameConditions(features[0].T, self._upsampling(len(mel), mel))
        return _SampleConditions(self.upsample(features)[0].T.contiguous())

    def with_context(self, mel: Tensor) -> Tensor:
        """(B, M, T) -> (B, M, T)."""
        if self.context is None:
            return mel
        window = self.sizes.aux_context_window
        sides = (window, 0) if self.sizes.use_causal_conv else (window, window)
        return cast(Tensor, self.context(functional.pad(mel, sides, mode="replicate") if window else mel))

    def upsample(self, features: Tensor) -> Tensor:
        """(B, M, T) -> (B, M, T * hop_length)."""
        sizes = self.sizes
        x = features.unsqueeze(1)  # (B, 1, M, T)
        bands = sizes.freq_axis_kernel_size // 2
        for scale, smooth in zip(sizes.upsample_scales, self.upsamples, strict=True):
            x = x.repeat_interleave(scale, dim=3)
            before, after = (2 * scale, 0) if sizes.use_causal_conv else (scale, scale)
            x = smooth(functional.pad(x, (before, after, bands, bands)))
            if sizes.upsample_slope is not None:
                x = functional.leaky_relu_(x, sizes.upsample_slope)
        return x.squeeze(1)

    def _upsampling(self, n_frames: int, like: Tensor) -> Tensor:
        """How each sample of a frame is summed up from the frames around it: (T, hop_length, 2 * reach + 1).

        The first and the last frames differ from all others, as zeros follow them at every scale. So the network is
        asked what it makes of single frames in a short stretch, whose middle stands for the middle of any longer one.
        """
        sides = 2 if self.sizes.use_causal_conv else 1
        reach = 0
        for scale in reversed(self.sizes.upsample_scales):
            reach = math.ceil((reach + sides * scale) / scale) + 1
        short = min(n_frames, 4 * reach + 2)
        answers = self.upsample(torch.eye(short, device=like.device, dtype=like.dtype)[None])[0]  # (from, samples)
        answers = answers.view(short, short, -1).permute(1, 2, 0)  # (frame, sample in it, from)
        padded = functional.pad(answers, (reach, reach))
        around = torch.stack([padded[frame, :, frame : frame + 2 * reach + 1] for frame in range(short)])
        used = around.abs().amax((0, 1)).nonzero()[:, 0] - reach
        needed = int(used.abs().max()) if len(used) else 0
        around = around[:, :, reach - needed : reach + needed + 1]
        position = torch.arange(n_frames, device=like.device)
        from_end = position - n_frames + short
        place = torch.where(position < short // 2, position, torch.clamp(from_end, min=short // 2))
        return around[place]


class _Conditions(Protocol):
    """What the layers hear of a mel."""

    def of_layer(self, weight: Tensor) -> _Condition:
        """For the layer that mixes the bands by this (M, G)."""
        ...


class _Condition(Protocol):
    """What one layer hears of a mel."""

    def add_to(self, gates: Tensor, start: int, stop: int) -> None:
        """Add to (stop - start, G), the samples from ``start`` to ``stop``; both are starts of frames."""
        ...


@dataclass(frozen=True, eq=False)
class _SampleConditions:
    """Features of each sample, (n, M)."""

    features: Tensor

    def of_layer(self, weight: Tensor) -> _SampleCondition:
        return _SampleCondition(self.features, weight.contiguous())


@dataclass(frozen=True, eq=False)
class _SampleCondition:
    features: Tensor
    weight: Tensor

    def add_to(self, gates: Tensor, start: int, stop: int) -> None:
        gates.addmm_(self.features[start:stop], self.weight)


@dataclass(frozen=True, eq=False)
class _FrameConditions:
    """Features of each frame, (T, M), and how samples are summed up from frames, (T, hop_length, K)."""

    features: Tensor
    upsampling: Tensor

    def of_layer(self, weight: Tensor) -> _FrameCondition:
        window = self.upsampling.shape[2]
        mixed = functional.pad(self.features @ weight, (0, 0, window // 2, window // 2))
        return _FrameCondition(mixed.unfold(0, window, 1).transpose(1, 2).contiguous(), self.upsampling)


@dataclass(frozen=True, eq=False)
class _FrameCondition:
    mixed: Tensor
    """(T, K, G): what each frame and those around it come to."""
    upsampling: Tensor

    def add_to(self, gates: Tensor, start: int, stop: int) -> None:
        hop = self.upsampling.shape[1]
        frames = slice(start // hop, stop // hop)
        gates.view(-1, hop, gates.shape[1]).baddbmm_(self.upsampling[frames], self.mixed[frames])


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
        self.generator = generator.eval().requires_grad_(False)
        self.mean, self.scale = mean, scale

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
        hop, reach, total = self.hop_length, self.generator.reach, log_mel.shape[1]
        step = max(1, self.chunk_frames or total)
        for start in range(0, total, step):
            stop = min(start + step, total)
            first, last = max(0, start - reach), min(total, stop + reach)
            with torch.inference_mode():
                mel = self._normalise(log_mel[:, first:last].float())
                drawn = None
                if self.generator.draws_noise:
                    drawn = noise[:, first * hop : last * hop] if noise is not None else None
                    if drawn is None:
                        drawn = noise_between(seed, first * hop, last * hop).to(mel.device).expand(len(mel), -1)
                wave = self.generator.generate(mel, drawn)
            yield wave[:, (start - first) * hop : (stop - first) * hop].clone()

    def _normalise(self, log_mel: Tensor) -> Tensor:
        if self.mean is None or self.scale is None:
            return log_mel
        return (log_mel - self.mean.to(log_mel.device)) / self.scale.to(log_mel.device)


def noise_between(seed: int, start: int, stop: int) -> Tensor:
    """Samples ``start`` to ``stop`` of the endless standard normal noise that belongs to a seed: (stop - start,)."""
    first, last = start // NOISE_BLOCK, max(start, stop - 1) // NOISE_BLOCK
    blocks = [
        # an odd multiplier spreads the seeds, so that block 1 of seed 0 is not block 0 of seed 1
        torch.randn(
            NOISE_BLOCK, generator=torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + block) % (1 << 63))
        )
        for block in range(first, last + 1)
    ]
    offset = first * NOISE_BLOCK
    return torch.cat(blocks)[start - offset : stop - offset]
