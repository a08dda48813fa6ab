"""Pitch prediction: F0 and voicing of each target frame, and what the decoder makes of them.

A mel that leaves the pitch open is learnt as a mean of several pitches, and sounds like it. So the decoder is told the
pitch: that of the target in training, and at conversion what a small network expects, as in FastPitch (Łańcucki, arXiv
2006.06873, section 2.1), but for each frame.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aasvc_cli.model.layers import Dropout, TimeConv

PITCH_CHANNELS = 2
"""F0 and voicing."""
PLACES = 4
"""Numbers that say where in the utterance a frame is: F0 falls from the beginning to the end of what is said."""
NEAR_EDGE = 100.0
"""Frames from either end of the utterance that are told apart, about a second."""
LONG = 300.0
"""Frames of a usual utterance."""
USUAL_MIDDLE, USUAL_SPREAD = 7.6, 0.25
"""Of the F0 of voices, in octaves above 1 Hz, where nothing is known of this one: 194 Hz, and three semitones."""
SMALLEST_SPREAD = 1e-2
"""Octaves; a voice that hardly varies its pitch is not divided by less."""


class PitchPredictor(nn.Module):
    """Dilated convolutions over upsampled tokens."""

    middle: Tensor
    spread: Tensor

    def __init__(self, n_inputs: int, *, layers: int, channels: int, kernel: int, dropout: float):
        super().__init__()
        self.input = nn.Linear(n_inputs + PLACES, channels)
        self.convolutions = nn.ModuleList(
            TimeConv(channels, channels, kernel, dilation=2**layer) for layer in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers))
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(channels, PITCH_CHANNELS)
        self.condition = nn.Linear(PITCH_CHANNELS, n_inputs)
        # a decoder that did without begins with what it knows
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        self.register_buffer("middle", torch.tensor(USUAL_MIDDLE))
        self.register_buffer("spread", torch.tensor(USUAL_SPREAD))

    def normalise(self, f0: Tensor, voiced: Tensor) -> Tensor:
        """Pitch as the network has it: F0 (B, T) in Hz and whether voiced (B, T) to (B, T, 2).

        F0 is in octaves above ``middle``, in units of ``spread``, and 0 where unvoiced.
        """
        octaves = (torch.log2(f0) - self.middle) / self.spread
        return torch.stack([octaves.masked_fill(~voiced, 0.0), voiced.to(octaves)], dim=-1)

    def forward(self, frames: Tensor, padding: Tensor | None) -> Tensor:
        """Expected F0 and logit of voicing, (B, T, 2).

        Args:
            frames: (B, T, n_inputs)
            padding: (B, T)
        """
        x = self.input(torch.cat([self.dropout(frames), _places(frames, padding)], dim=-1))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(F.relu(convolution(self.dropout(x), padding)))
        return cast("Tensor", self.output(x))

    def tell(self, frames: Tensor, predicted: Tensor, pitch: Tensor | None) -> Tensor:
        """What the decoder reads: frames (B, T, n_inputs) that know a pitch.

        Args:
            predicted: (B, T, 2) of :meth:`forward`
            pitch: (B, T, 2) of :meth:`normalise` in place of the predicted one
        """
        if pitch is None:
            voiced = (predicted[..., 1:] > 0.0).to(predicted)
            pitch = torch.cat([predicted[..., :1] * voiced, voiced], dim=-1)
        return cast("Tensor", frames + self.condition(pitch.to(frames)))


def _places(frames: Tensor, padding: Tensor | None) -> Tensor:
    """Where in its utterance each frame is, (B, T, 4): the part before it, the length, how near either end is."""
    real = torch.ones_like(frames[..., 0]) if padding is None else (~padding).to(frames)
    before = torch.cumsum(torch.ones_like(real), dim=1) - 1.0
    length = real.sum(1, keepdim=True)
    after = (length - 1.0 - before).clamp_min(0.0)
    places = [
        2.0 * before / length - 1.0,
        (length / LONG - 1.0).expand_as(before),
        2.0 * before.clamp_max(NEAR_EDGE) / NEAR_EDGE - 1.0,
        2.0 * after.clamp_max(NEAR_EDGE) / NEAR_EDGE - 1.0,
    ]
    return torch.stack(places, dim=-1)


def pitch_range(f0: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and spread of the F0 of voiced frames (V,) in Hz, in octaves; the usual ones if there are none."""
    if not len(f0):
        return torch.tensor(USUAL_MIDDLE), torch.tensor(USUAL_SPREAD)
    octaves = torch.log2(f0.double())
    return octaves.mean().float(), octaves.std(correction=0).clamp_min(SMALLEST_SPREAD).float()
