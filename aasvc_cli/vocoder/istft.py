"""Log-mel to waveform by ConvNeXt blocks at frame rate and an inverse short-time Fourier transform.

The frame-rate generator is that of Siuzdak (Vocos: Closing the gap between time-domain and Fourier-based neural
vocoders, 2024). It predicts no spectrum, but filters for two sources: a train of pulses at the pitch and white noise
(as Wang, Takaki and Yamagishi, Neural source-filter waveform models, 2019). The pitch is read from the mel by a small
network of its own, trained beforehand. So the phase of harmonics, the hardest thing to learn, runs on by itself from
frame to frame. How loud each band is stands in the mel and need not be learnt either: the mixture of pulses and noise
is brought to the mel asked for. So a generator that has learnt nothing yet is a plain source-filter vocoder.

Everything is a function of the mel alone. Nothing draws random numbers at synthesis: the noise is a table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from aasvc_cli.audio.mel import mel_basis
from aasvc_cli.config.settings import MOST, Count, Flag, Limits, MelConfig, Section

KERNEL = 7
"""Frames that each depthwise convolution sees."""
HEAD_SCALE = 0.1
"""The last layer starts with weights this much smaller than usual, so that training starts from the plain filter."""
LAYER_SCALE = 0.3
"""Initial weight of each block beside its shortcut."""
VOICED_NOISE = 0.1
"""Amplitude of the noise in voiced frames, relative to the pulses, before training."""
BREATHY_HERTZ = 3500.0
"""Above this frequency the pulses fade before training, because voices are mostly noise there. Spectral distances
alone would not find out: they see too little of a difference between noise and harmonics that lie close together."""
CHUNK_FRAMES = 1024
"""Frames that are synthesised at a time, about 11 s at the usual settings."""
PITCH_FRAMES = 4096
"""Frames whose pitch is read at a time. Fixed, because the rounding of sums depends on it, and over minutes the phase
of the pulses would run away by it."""
_NOISE_SAMPLES = 1 << 18
NOISE_STRIDE = 7919
"""Samples of the table of noise by which two seeds are apart."""
_PITCH_REACH = 3
"""Bins on either side of the likeliest whose mean is the pitch."""
_FLOOR = 1e-5
"""Smallest mel magnitude above silence."""
MOST_REFINED = 10.0
"""Largest factor by which a refinement changes a band."""
LIMIT = 5.0
"""Largest change of the log-magnitude of a filter."""


@dataclass(frozen=True, kw_only=True)
class IstftSizes(Section):
    """Sizes of the network."""

    width: Count = 256
    """Channels of the backbone."""
    hidden: Count = 512
    """Channels between the two layers of a block."""
    n_blocks: Annotated[int, Limits(0, 1000)] = 8
    pitch_width: Count = 96
    pitch_blocks: Annotated[int, Limits(0, 1000)] = 4
    pitch_bins: Annotated[int, Limits(8, MOST)] = 128
    f0_floor: Annotated[float, Limits(10.0)] = 71.0
    """Range of the pitch, in Hz."""
    f0_ceil: Annotated[float, Limits(20.0)] = 800.0
    n_fft: Annotated[int, Limits(16, MOST)] | None = None
    """Transform of the head; ``null`` takes that of the mel, but at least four hops."""
    refinements: Annotated[int, Limits(0, 1000)] = 1
    """How often the mel of the waveform itself is brought nearer to the one asked for, as overlapping frames change
    each other."""

    correct_mel: Flag = False
    """Whether the network may ask for another mel than it was given: what a model writes is smoother than speech."""

    def faults(self) -> list[str]:
        """Inconsistent values."""
        faults = []
        if self.n_fft is not None and self.n_fft % 2:
            faults.append(f"n_fft: {self.n_fft} is odd; use an even size")
        if self.f0_floor >= self.f0_ceil:
            faults.append(f"f0_floor: {self.f0_floor:g} Hz is not below f0_ceil, {self.f0_ceil:g} Hz")
        return faults


_ERF = tuple(
    float(np.float32(number))
    for number in (0.3275911 / math.sqrt(2.0), 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
"""In float32, as graphs hold such numbers."""


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then two layers per frame, added to the input (Liu et al., 2022)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        # as an image of height 1, whose channels may lie next to each other in memory, as they do here: no copies
        image = x.transpose(1, 2).unsqueeze(2)  # (B, D, 1, T)
        weight, padding = self.depthwise.weight.unsqueeze(2), (0, KERNEL // 2)
        mixed = functional.conv2d(image, weight, self.depthwise.bias, padding=padding, groups=len(weight))
        mixed = mixed.squeeze(2).transpose(1, 2)
        return x + self.scale * self.contract(functional.gelu(self.expand(self.norm(mixed))))


class Backbone(nn.Module):
    """Convolution, ConvNeXt blocks, and a linear layer, all at frame rate."""

    def __init__(self, n_in: int, n_out: int, *, width: int, hidden: int, n_blocks: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(n_in, width, KERNEL, padding=KERNEL // 2)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, hidden) for _ in range(n_blocks))
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_out)
        self.context = (n_blocks + 1) * (KERNEL // 2)
        """Frames on either side that a frame of the output depends on."""

    def hidden(self, x: Tensor) -> Tensor:
        """(B, T, n_in) -> (B, T, width), what the last layer reads."""
        x = self.norm_in(self.embed(x.transpose(1, 2)).transpose(1, 2))  # (B, D, T) inside
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.norm_out(x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, n_in) -> (B, T, n_out)."""
        result: Tensor = self.head(self.hidden(x))
        return result


class PitchNet(nn.Module):
    """Pitch and voicing of each frame, read from the normalised mel.

    A distribution over bins on a logarithmic scale; the pitch is its mean around the likeliest bin, so that it is finer
    than the bins.
    """

    centres: Tensor

    def __init__(self, n_mels: int, sizes: IstftSizes) -> None:
        super().__init__()
        width = sizes.pitch_width
        self.backbone = Backbone(
            n_mels, sizes.pitch_bins + 1, width=width, hidden=3 * width, n_blocks=sizes.pitch_blocks
        )
        centres = torch.linspace(math.log(sizes.f0_floor), math.log(sizes.f0_ceil), sizes.pitch_bins)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the bins (B, T, n_bins) and of voicing (B, T) for a normalised mel (B, T, M)."""
        out = self.backbone(mel)
        return out[..., :-1], out[..., -1]

    def loss(self, mel: Tensor, f0: Tensor) -> Tensor:
        """Cross entropy of bins, in voiced frames, and of voicing.

        Args:
            mel: (B, T, M), normalised
            f0: (B, T) in Hz, 0 where unvoiced
        """
        logits, voicing = self(mel)
        voiced = (f0 > 0).to(logits)
        # the two neighbouring bins share the probability, in proportion to their nearness
        step = self.centres[1] - self.centres[0]
        position = ((f0.clamp_min(1.0).log() - self.centres[0]) / step).clamp(0, len(self.centres) - 1)
        nearness = 1.0 - (position.unsqueeze(-1) - torch.arange(len(self.centres), device=f0.device)).abs() / 2.0
        wanted = nearness.clamp_min(0.0)
        wanted = wanted / wanted.sum(-1, keepdim=True)
        bins = -(wanted * functional.log_softmax(logits, dim=-1)).sum(-1)  # (B, T)
        return (bins * voiced).sum() / voiced.sum().clamp_min(1.0) + functional.binary_cross_entropy_with_logits(
            voicing, voiced
        )

    def decode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Pitch in Hz (B, T), also where unvoiced, and whether voiced (B, T) for a normalised mel (B, T, M)."""
        return self.read(*self(mel))

    def decode_exactly(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`decode` in float64 throughout, from sums and products alone, which come out alike on any machine.

        The phase of a pulse sums up all pitches before it, and overtones multiply it: what other kernels rounded
        otherwise in float32 (1e-6 of the pitch) came to 0.05 of full scale in single samples after two seconds.
        """
        net, x = self.backbone, mel.double()
        x = _norm(_conv(x, net.embed, torch.matmul), net.norm_in)
        for block in cast("Iterable[ConvNeXtBlock]", net.blocks):
            mixed = _norm(_conv(x, block.depthwise, torch.mul), block.norm)
            x = x + block.scale.double() * _linear(_gelu(_linear(mixed, block.expand)), block.contract)
        out = _linear(_norm(x, net.norm_out), net.head)
        return self.read(out[..., :-1], out[..., -1])

    def read(self, logits: Tensor, voicing: Tensor) -> tuple[Tensor, Tensor]:
        """Pitch in Hz (B, T) and whether voiced (B, T) from what :meth:`forward` gives."""
        best = logits.argmax(-1, keepdim=True)
        reach = torch.arange(-_PITCH_REACH, _PITCH_REACH + 1, device=logits.device)
        near = (best + reach).clamp(0, len(self.centres) - 1)  # (B, T, 2 reach + 1)
        weights = torch.softmax(logits.gather(-1, near), dim=-1)
        f0 = (weights * self.centres[near]).sum(-1).exp()
        return f0, voicing > 0.0


@dataclass(frozen=True)
class Excitation:
    """What the filters act on: spectra (B, T, F) of the pulses and of the noise."""

    pulses: Tensor
    noise: Tensor


class IstftGenerator(nn.Module):
    """The network: normalisation, pitch, filters, inverse transform.

    Args:
        mel: settings of the log-mel that goes in
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor
    spread: Tensor
    window: Tensor
    noise: Tensor
    fade: Tensor

    def __init__(self, mel: MelConfig, sizes: IstftSizes) -> None:
        super().__init__()
        self.mel = mel
        self.n_fft = sizes.n_fft or head_size(mel)
        self.hop_length = mel.hop_length
        self.refinements = sizes.refinements
        n_bins = self.n_fft // 2 + 1
        self.pitch = PitchNet(mel.n_mels, sizes)
        self.backbone = Backbone(
            mel.n_mels, 4 * n_bins, width=sizes.width, hidden=sizes.hidden, n_blocks=sizes.n_blocks
        )
        with torch.no_grad():
            self.backbone.head.weight.mul_(HEAD_SCALE)
            self.backbone.head.bias.zero_()
        self.correction: nn.Linear | None = None
        if sizes.correct_mel:
            self.correction = nn.Linear(sizes.width, mel.n_mels)
            nn.init.zeros_(self.correction.weight)
            nn.init.zeros_(self.correction.bias)
        self.register_buffer("mean", torch.zeros(mel.n_mels))
        self.register_buffer("scale", torch.ones(mel.n_mels))
        basis = torch.from_numpy(mel_basis(dataclasses.replace(mel, n_fft=self.n_fft, win_length=None)))  # (M, F)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("spread", _spread(basis), persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        hertz = torch.linspace(0.0, mel.sample_rate / 2, n_bins)
        self.register_buffer("fade", 1.0 / (1.0 + (hertz / BREATHY_HERTZ) ** 4), persistent=False)
        generator = torch.Generator().manual_seed(_NOISE_SAMPLES)
        self.register_buffer("noise", torch.randn(_NOISE_SAMPLES, generator=generator), persistent=False)

    @property
    def context(self) -> int:
        """Frames on either side that a frame of the waveform depends on, given the pitch."""
        return self.backbone.context + (1 + self.refinements) * 2 * math.ceil(self.n_fft / self.hop_length) + 1

    def normalise(self, log_mel: Tensor) -> Tensor:
        """(..., M) -> (..., M), zero mean and unit variance over the training data.

        What is softer than silence is silence: in bands that a line or a low sample rate left empty, the logarithm
        falls as far as rounding lets it, which would mean nothing to the network.
        """
        base = math.e if self.mel.log_base is None else self.mel.log_base
        return (log_mel.clamp_min(math.log(_FLOOR, base)) - self.mean) / self.scale

    def magnitude(self, log_mel: Tensor) -> Tensor:
        """The linear mel of a log-mel, as the head takes it: (..., M) -> (..., M)."""
        base = math.e if self.mel.log_base is None else self.mel.log_base
        # the head's window may be longer, and then magnitudes are larger
        longer = self.n_fft / (self.mel.win_length or self.mel.n_fft)
        return torch.exp(log_mel * math.log(base)) * longer

    def forward(self, log_mel: Tensor, excitation: Excitation) -> Tensor:
        """Filter an excitation as a log-mel asks for.

        Args:
            log_mel: (B, T, M), not normalised

        Returns:
            (B, T * hop_length)
        """
        hidden = self.backbone.hidden(self.normalise(log_mel))
        filters = self.backbone.head(hidden).float()
        pulse_gain, noise_gain, turn, level = filters.chunk(4, dim=-1)  # (B, T, F) each
        if self.correction is not None:
            log_mel = log_mel + self.scale * self.correction(hidden).float()
        pulses = excitation.pulses * torch.polar(pulse_gain.clamp(-LIMIT, LIMIT).exp(), turn)
        mixed = pulses + _scaled(excitation.noise, noise_gain.clamp(-LIMIT, LIMIT).exp())
        wave = self.inverse(_scaled(mixed, self.band_gain(log_mel, mixed) * level.clamp(-LIMIT, LIMIT).exp()))
        for _ in range(self.refinements):
            reached = self._analyse(wave)
            gain = self.band_gain(log_mel, reached).clamp(1.0 / MOST_REFINED, MOST_REFINED)
            wave = self.inverse(_scaled(reached, gain))
        return wave

    def band_gain(self, log_mel: Tensor, spectrum: Tensor) -> Tensor:
        """The gain per bin (B, T, F) that gives a spectrum (B, T, F) the mel bands (B, T, M) asked for."""
        return self.gain_of_power(log_mel, spectrum.real.square() + spectrum.imag.square())

    def gain_of_power(self, log_mel: Tensor, power: Tensor) -> Tensor:
        """:meth:`band_gain` of a spectrum that is known by its power (B, T, F)."""
        current = (power + _FLOOR**2).sqrt() @ self.basis.T
        wanted = self.magnitude(log_mel)
        # the floor of the logarithm means silence, not that much sound in every bin
        wanted = torch.where(wanted > _FLOOR, wanted, wanted * 1e-2)
        return (wanted / current.clamp_min(1e-4)) @ self.spread

    def inverse(self, spectrum: Tensor) -> Tensor:
        """(B, T, F) complex -> (B, T * hop_length): the signal whose windowed frames come nearest."""
        n_frames, hop = spectrum.shape[1], self.hop_length
        frames = torch.fft.irfft(spectrum, self.n_fft) * self.window  # (B, T, n_fft)
        wave = _overlap_add(frames, hop)
        envelope = _envelope(self.window, n_frames, hop)
        start = self.n_fft // 2
        return wave[:, start : start + n_frames * hop] / envelope[:, start : start + n_frames * hop].clamp_min(1e-3)

    def excite(self, f0: Tensor, voiced: Tensor, phase: Tensor, noise: Tensor) -> Excitation:
        """Pulses at a pitch, and noise, as spectra of T frames; arguments as for :meth:`sources`."""
        pulses, noise = self.sources(f0, voiced, phase, noise)
        return Excitation(_scaled(self._analyse(pulses), self.fade), self._analyse(noise))

    def sources(self, f0: Tensor, voiced: Tensor, phase: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pulses at a pitch, and noise that is weak beside them.

        Args:
            f0: (B, T + 1) in Hz, from :func:`held_pitch`; the last entry ends the last frame. In float64, nothing of
                its precision is lost before it has become a phase
            voiced: (B, T + 1)
            phase: (B,) cycles at the first sample
            noise: (B, T * hop_length), white, of unit variance

        Returns:
            samples (B, T * hop_length) of each
        """
        hop, rate = self.hop_length, self.mel.sample_rate
        level = voiced.float()
        ramp = torch.arange(hop, device=f0.device) / hop  # (hop,)
        # the pitch is linear within a frame, so its integral is known in closed form
        turns = (
            (f0[:, :-1] + f0[:, 1:]).double() * hop / (2 * rate)
        )  # (B, T), cycles; whole numbers stay exact in graphs
        start = phase.double().unsqueeze(1) + torch.cumsum(turns, dim=1) - turns
        slope = (f0[:, 1:] - f0[:, :-1]).unsqueeze(-1)
        within = (f0[:, :-1].unsqueeze(-1) * ramp + slope * (0.5 * ramp.square())) * (hop / rate)
        # around 0, where pulses are, because float32 is finest there
        cycles = (torch.remainder(start.unsqueeze(-1) + within + 0.5, 1.0) - 0.5).float()  # (B, T, hop)
        f0_now = f0[:, :-1].unsqueeze(-1) + slope * ramp
        gate = level[:, :-1].unsqueeze(-1) + (level[:, 1:] - level[:, :-1]).unsqueeze(-1) * ramp
        pulses = gate * pulse_train(cycles, f0_now, rate)
        weight = 1.0 - (1.0 - VOICED_NOISE) * gate
        return pulses.flatten(1), weight.flatten(1) * noise

    def _analyse(self, wave: Tensor) -> Tensor:
        """(B, T * hop_length) -> (B, T, F) complex; silence before and behind."""
        half = self.n_fft // 2
        padded = functional.pad(wave, (half, half - self.hop_length))
        return torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop_length) * self.window)


class IstftVocoder:
    """Synthesise speech with a trained generator, in chunks of bounded memory.

    Attributes:
        sample_rate: of the waveform, in Hz
        hop_length: samples per frame
    """

    def __init__(self, generator: IstftGenerator, *, chunk_frames: int = CHUNK_FRAMES) -> None:
        self.generator = generator.eval()
        self.mel = generator.mel
        self.sample_rate = generator.mel.sample_rate
        self.hop_length = generator.mel.hop_length
        self.chunk_frames = chunk_frames

    def synthesise(self, log_mel: Tensor, *, seed: int = 0) -> Tensor:
        """Waveforms of a batch of equally long log-mels; the same input and seed always give the same output.

        Args:
            log_mel: (B, T, M), not normalised. Values that are not numbers count as silence.
            seed: where the table of noise begins

        Returns:
            (B, T * hop_length) float32 on the device of the input, full scale at 1.0, not clipped
        """
        net = self.generator
        if log_mel.ndim != 3 or log_mel.shape[2] != self.mel.n_mels:
            raise ValueError(f"expected (B, T, {self.mel.n_mels}), got {tuple(log_mel.shape)}")
        n_batch, n_frames, hop = log_mel.shape[0], log_mel.shape[1], self.hop_length
        wave = log_mel.new_zeros(n_batch, n_frames * hop, dtype=torch.float32)
        if not n_batch or not n_frames:
            return wave
        with torch.inference_mode():
            net.to(log_mel.device)
            log_mel = limited(log_mel.float())
            f0, voiced = self._pitch(log_mel)
            # cycles at the start of each frame, from the first one on
            f0 = held_pitch(f0, voiced)
            cycles = torch.cumsum((f0[:, :-1] + f0[:, 1:]).double() * hop / (2 * self.sample_rate), dim=1)
            cycles = torch.remainder(functional.pad(cycles, (1, 0)), 1.0)
            for start in range(0, n_frames, self.chunk_frames):
                end = min(n_frames, start + self.chunk_frames)
                low, high = max(0, start - net.context), min(n_frames, end + net.context)
                excitation = net.excite(
                    f0[:, low : high + 1], voiced[:, low : high + 1], cycles[:, low],
                    self._noise(low * hop, high * hop, seed).expand(n_batch, -1),
                )  # fmt: skip
                part = net(log_mel[:, low:high], excitation)
                wave[:, start * hop : end * hop] = part[:, (start - low) * hop : (end - low) * hop]
        return wave

    def _pitch(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Pitch and voicing at the start of every frame and at the end of the last: (B, T + 1)."""
        net, n_frames = self.generator, log_mel.shape[1]
        margin, pieces = net.pitch.backbone.context, []
        for start in range(0, n_frames, PITCH_FRAMES):
            end = min(n_frames, start + PITCH_FRAMES)
            low = max(0, start - margin)
            f0, voiced = net.pitch.decode_exactly(net.normalise(log_mel[:, low : min(n_frames, end + margin)]))
            pieces.append((f0[:, start - low : end - low], voiced[:, start - low : end - low]))
        f0, voiced = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        return torch.cat([f0, f0[:, -1:]], dim=1), torch.cat([voiced, voiced[:, -1:]], dim=1)

    def _noise(self, start: int, end: int, seed: int) -> Tensor:
        """The noise of a stretch of samples; it begins anew where the table ends."""
        table = self.generator.noise
        first = (start + seed * NOISE_STRIDE) % len(table)
        last = first + end - start
        return table.repeat(-(-last // len(table)))[first:last]


def head_size(mel: MelConfig) -> int:
    """Size of the head's transform: that of the mel, but at least four hops."""
    return max(mel.n_fft, 4 * mel.hop_length)


def limited(log_mel: Tensor) -> Tensor:
    """A log-mel within what can be computed with; values that are not numbers count as silence."""
    return torch.nan_to_num(log_mel, nan=-10.0, posinf=4.0, neginf=-10.0).clamp(-24.0, 10.0)


def _spread(basis: Tensor) -> Tensor:
    """(M, F) -> (M, F): which share of each band's gain a bin gets. Bins outside all bands follow the nearest one."""
    covered = basis.sum(0) > 0
    index = torch.arange(basis.shape[1])
    inside = index[covered]
    nearest = inside[(index.unsqueeze(1) - inside).abs().argmin(1)]
    filled = basis[:, nearest]
    return filled / filled.sum(0)


def _scaled(spectrum: Tensor, gain: Tensor) -> Tensor:
    """A complex spectrum times real gains; torch would make the gains complex, too, for twice the work."""
    return torch.view_as_complex(torch.view_as_real(spectrum) * gain.unsqueeze(-1))


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """(B, T, n_fft) -> (B, (T - 1) * hop_length + n_fft)."""
    n_batch, n_frames, n_fft = frames.shape
    n_parts = -(-n_fft // hop_length)
    if n_fft % hop_length:
        frames = functional.pad(frames, (0, n_parts * hop_length - n_fft))
    parts = frames.view(n_batch, n_frames, n_parts, hop_length)
    # part k of each frame falls on part 0 of the k-th frame after it; few shifted sums are faster than fold
    wave = frames.new_zeros(n_batch, n_frames + n_parts - 1, hop_length)
    for k in range(n_parts):
        wave[:, k : k + n_frames] += parts[:, :, k]
    return wave.flatten(1)[:, : (n_frames - 1) * hop_length + n_fft]


def _envelope(window: Tensor, n_frames: int, hop_length: int) -> Tensor:
    """What the squares of overlapping windows add up to, (1, (T - 1) * hop_length + n_fft).

    Between the ends, where fewer frames overlap, it repeats itself with every hop and is not computed again.
    """
    n_parts = -(-len(window) // hop_length)
    computed = min(n_frames, 2 * n_parts)
    few = _overlap_add(window.square().expand(1, computed, -1), hop_length)
    if computed == n_frames:
        return few
    middle = n_parts * hop_length
    repeated = few[:, middle : middle + hop_length].repeat(1, n_frames - computed)
    return torch.cat([few[:, :middle], repeated, few[:, middle:]], dim=1)


def _conv(x: Tensor, conv: nn.Conv1d, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A convolution that keeps the length, (B, T, D) to (B, T, D'), in float64, one product for each tap."""
    size, length = conv.kernel_size[0], x.shape[1]
    padded, weight = functional.pad(x, (0, 0, size // 2, size // 2)), conv.weight.double()
    result = cast(Tensor, conv.bias).double()
    for tap in range(size):
        result = result + product(padded[:, tap : tap + length], weight[:, :, tap].T)
    return result


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return functional.linear(x, layer.weight.double(), layer.bias.double())


def _norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    size = list(layer.normalized_shape)
    return functional.layer_norm(x, size, layer.weight.double(), layer.bias.double(), layer.eps)


def _gelu(x: Tensor) -> Tensor:
    """In float64, with the error function to 2e-7 (Abramowitz and Stegun, 7.1.26), as graphs have none there."""
    size = x.abs()
    t = 1.0 / (1.0 + _ERF[0] * size)
    series = t * (_ERF[1] + t * (_ERF[2] + t * (_ERF[3] + t * (_ERF[4] + t * _ERF[5]))))
    return 0.5 * (x + size * (1.0 - series * torch.exp(-0.5 * x.square())))


def held_pitch(f0: Tensor, voiced: Tensor) -> Tensor:
    """The pitch (B, T + 1), with unvoiced frames next to voiced ones taking over the pitch of these.

    Pulses fade in and out over one frame; meanwhile their pitch should stand still.
    """
    before, after = functional.pad(f0, (1, 0))[:, :-1], functional.pad(f0, (0, 1))[:, 1:]
    was, will = functional.pad(voiced, (1, 0))[:, :-1], functional.pad(voiced, (0, 1))[:, 1:]
    return torch.where(voiced, f0, torch.where(will, after, torch.where(was, before, f0)))


def pulse_train(cycles: Tensor, f0: Tensor, sample_rate: int) -> Tensor:
    """All harmonics below half the sample rate, equally strong, of unit variance together.

    The sum of cosines 1 … K has a closed form, the kernel of Dirichlet. The uppermost harmonic fades in, so that the
    pulses are a continuous function of the pitch: where one more came all at once, on the peak of a pulse, the last
    bits of the pitch decided over 1 % of its height.

    Args:
        cycles: phase in cycles, within [-0.5, 0.5): just below 1, float32 is so coarse that the peaks of pulses would
            depend on the last bit of the pitch
        f0: in Hz, same shape
    """
    room = 0.5 * sample_rate / f0
    below_limit = torch.floor(room)
    count = (below_limit - 1.0).clamp_min(0.0).to(cycles.dtype)
    share = torch.where(below_limit >= 1.0, room - below_limit, 0.0).to(cycles.dtype)  # of harmonic count + 1
    below = torch.sin(math.pi * cycles)
    turns = (2.0 * count + 1.0) * cycles
    above = torch.sin(math.pi * (turns - 2.0 * torch.round(0.5 * turns)))  # what is small stays as it is
    peak = below.abs() < 1e-5
    kernel = torch.where(peak, 2.0 * count + 1.0, above / torch.where(peak, 1.0, below))
    turns = (count + 1.0) * cycles
    uppermost = share * torch.cos(2.0 * math.pi * (turns - torch.round(turns)))
    return (0.5 * kernel - 0.5 + uppermost) * torch.sqrt(2.0 / (count + share.square()).clamp_min(1.0))
