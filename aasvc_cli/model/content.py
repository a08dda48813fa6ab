"""A small encoder of what is said, independent of the speaker, distilled from the encoder of a recogniser.

Two convolutions over log-mels, of which the second halves the frame rate, and ConvNeXt blocks (Liu et al., A ConvNet
for the 2020s, 2022) along time. Its reach is fixed, about a second to either side, so a recording of any length can be
read in pieces with exactly the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_SCALE = 0.3
"""Initial weight of each block beside its shortcut."""
STEM_KERNEL = 5


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
