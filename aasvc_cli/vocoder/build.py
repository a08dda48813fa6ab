"""One vocoder by name, checked against the mel settings of the model it serves."""

from __future__ import annotations

import difflib
from typing import Protocol

from torch import Tensor

from aasvc_cli.config import MelConfig
from aasvc_cli.errors import ModelError
from aasvc_cli.vocoder.griffin_lim import GriffinLim

GRIFFIN_LIM = "griffin-lim"
VOCODERS = (GRIFFIN_LIM,)
"""Names of the vocoders that need no files."""


class Vocoder(Protocol):
    """Turns log-mels into sound."""

    @property
    def sample_rate(self) -> int:
        """Of the waveform, in Hz."""
        ...

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        ...

    def synthesise(self, log_mel: Tensor) -> Tensor:
        """(B, T, M), not normalised, to (B, T * hop_length)."""
        ...


def build_vocoder(name: str, mel: MelConfig) -> Vocoder:
    """The vocoder of that name for log-mels of these settings.

    Raises:
        ModelError: no such vocoder, or one for other mel settings.
    """
    if name != GRIFFIN_LIM:
        near = difflib.get_close_matches(name, VOCODERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is: {', '.join(VOCODERS)}"
        raise ModelError(f"{name}: no such vocoder; {hint}")
    vocoder = GriffinLim(mel)
    refuse_mismatch(name, vocoder, mel)
    return vocoder


def refuse_mismatch(name: str, vocoder: Vocoder, mel: MelConfig) -> None:
    """Raise ModelError, with both values, if a vocoder doesn't fit the mel settings of a model."""
    differences = [
        f"{what} {getattr(vocoder, what)}, the model has {getattr(mel, what)}"
        for what in ("sample_rate", "hop_length")
        if getattr(vocoder, what) != getattr(mel, what)
    ]
    if differences:
        raise ModelError(f"vocoder {name} does not fit the model: {'; '.join(differences)}; choose another vocoder")
