"""Small encoders of what is said and of its melody, both independent of the speaker.

:class:`ContentEncoder` is distilled from the encoder of a recogniser, which leaves the melody out;
:class:`MelodyEncoder` reads that, and :class:`ContentF0` is both.

Two convolutions over log-mels, of which the second halves the frame rate, and ConvNeXt blocks (Liu et al., A ConvNet
for the 2020s, 2022) along time. Its reach is fixed, about a second to either side, so a recording of any length can be
read in pieces with exactly the same result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_SCALE = 0.3
"""Initial weight of each block beside its shortcut."""
STEM_KERNEL = 5
F0_FLOOR, F0_CEIL = 50.0, 800.0
"""Range of the melody in Hz."""
F0_BINS = 97
"""Places of the melody, half a semitone apart."""


@dataclass(frozen=True, kw_only=True)
class ContentSizes:
    """Sizes of the network."""

    n_mels: int = 80
    stem: int = 160
    """Channels at the frame rate of the mel."""
    width: int = 256
    hidden: int = 768
    """Channels between the two layers of a block."""
    n_blocks: int = 8
    kernel: int = 15
    """Frames that each block sees, at half the frame rate of the mel; odd."""
    n_out: int = 96


class ContentEncoder(nn.Module):
    """Log-mels between 0 (quiet) and 1 (loudest), (B, T, n_mels), to (B, ceil(T / 2), n_out)."""

    def __init__(self, sizes: ContentSizes):
        super().__init__()
        self.sizes = sizes
        # silence is 0, so the padding at both ends is silence
        self.stem = nn.Conv1d(sizes.n_mels, sizes.stem, STEM_KERNEL, padding=STEM_KERNEL // 2)
        self.halve = nn.Conv1d(sizes.stem, sizes.width, STEM_KERNEL, stride=2, padding=STEM_KERNEL // 2)
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.n_blocks))
        self.norm = nn.LayerNorm(sizes.width)
        self.output = nn.Linear(sizes.width, sizes.n_out)

    @property
    def reach(self) -> int:
        """Frames of the result on either side that an input frame can change."""
        return self.sizes.n_blocks * (self.sizes.kernel // 2) + STEM_KERNEL // 2

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, T, n_mels) -> (B, ceil(T / 2), n_out)."""
        hidden: Tensor = self.halve(functional.gelu(self.stem(log_mel.transpose(1, 2)))).transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden)
        result: Tensor = self.output(self.norm(hidden))
        return result


class MelodyEncoder(nn.Module):
    """Log-mels as above, in finer bands, to F0 in octaves above :data:`F0_FLOOR` and the probability of voicing.

    F0 is the mean of a distribution over places, so it is a continuous function of what goes in.
    """

    octaves: Tensor

    def __init__(self, sizes: ContentSizes):
        super().__init__()
        self.sizes = sizes
        self.net = ContentEncoder(sizes)
        octaves = torch.linspace(0.0, math.log2(F0_CEIL / F0_FLOOR), F0_BINS)
        self.register_buffer("octaves", octaves, persistent=False)

    @property
    def reach(self) -> int:
        """Frames of the result on either side that an input frame can change."""
        return self.net.reach

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, T, n_mels) -> (B, ceil(T / 2), 2)."""
        written = self.net(log_mel)
        places = (torch.softmax(written[..., :-1], dim=-1) * self.octaves).sum(-1)
        return torch.stack([places, torch.sigmoid(written[..., -1])], dim=-1)

    def loss(self, log_mel: Tensor, f0: Tensor, real: Tensor) -> Tensor:
        """Cross entropy of voicing, and of the two nearest places where voiced.

        Args:
            log_mel: (B, T, n_mels)
            f0: (B, ceil(T / 2)) in Hz, 0 where unvoiced
            real: (B, ceil(T / 2)), 0 where there is no recording
        """
        written = self.net(log_mel).float()
        voiced = (f0 > 0).to(written)
        step = self.octaves[1] - self.octaves[0]
        place = ((f0.clamp_min(F0_FLOOR) / F0_FLOOR).log2() / step).clamp(0, F0_BINS - 1)
        wanted = (1.0 - (place.unsqueeze(-1) - torch.arange(F0_BINS, device=f0.device)).abs()).clamp_min(0.0)
        places = -(wanted * functional.log_softmax(written[..., :-1], dim=-1)).sum(-1)
        voicing = functional.binary_cross_entropy_with_logits(written[..., -1], voiced, reduction="none")
        heard = voiced * real
        return (places * heard).sum() / heard.sum().clamp_min(1.0) + (voicing * real).sum() / real.sum()


class ContentF0(nn.Module):
    """What is said, and its melody relative to the middle of the recording.

    The two last channels are log-F0 in octaves and voicing. Only for whole recordings, as the middle is that of all
    frames.
    """

    def __init__(self, content: ContentEncoder, melody: MelodyEncoder):
        super().__init__()
        self.content = content
        self.melody = melody

    def forward(self, log_mel: Tensor, fine_log_mel: Tensor) -> Tensor:
        """(B, T, n_mels) and (B, T, M) -> (B, ceil(T / 2), D + 2)."""
        return torch.cat([self.content(log_mel), around_middle(self.melody(fine_log_mel))], dim=-1)


def around_middle(melody: Tensor) -> Tensor:
    """F0 relative to its mean over voiced frames, 0 where unvoiced, so that it says little of who speaks.

    Args:
        melody: (B, T, 2) as of :class:`MelodyEncoder`
    """
    octaves, voicing = melody[..., 0], melody[..., 1]
    middle = (octaves * voicing).sum(-1, keepdim=True) / voicing.sum(-1, keepdim=True).clamp_min(1.0)
    return torch.stack([(octaves - middle) * voicing, voicing], dim=-1)


class _Block(nn.Module):
    """Depthwise convolution over time, then two layers for each frame."""

    def __init__(self, sizes: ContentSizes):
        super().__init__()
        width = sizes.width
        self.depthwise = nn.Conv1d(width, width, sizes.kernel, padding=sizes.kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, sizes.hidden)
        self.narrow = nn.Linear(sizes.hidden, width)
        self.scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        mixed = self.norm(self.depthwise(frames.transpose(1, 2)).transpose(1, 2))
        return frames + self.scale * self.narrow(functional.gelu(self.widen(mixed)))
