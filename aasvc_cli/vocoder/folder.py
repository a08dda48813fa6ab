"""What a stored vocoder is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aasvc_cli.config.settings import MelConfig

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "generator.safetensors"
GRIFFIN_LIM = "griffin-lim"
"""Names the vocoder that has no folder."""


@dataclass(frozen=True, eq=False)
class StoredVocoder:
    """What a vocoder folder holds.

    Attributes:
        kind: which network, a key of ``KINDS``
        mel: the settings of the log-mels that it was trained on
        generator: its sizes
        tensors: its weights by our names; ``mean`` and ``scale`` (M,) if its mels are normalised
        origin: where it comes from: JSON-able, kept in the header of the weights
    """

    kind: str
    mel: MelConfig
    generator: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any] = field(default_factory=dict)
