"""F0 of log-mels, by the pitch network of the universal vocoder, which will read it from what is converted, too."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ConfigError
from aasvc_cli.features.stats import FeatureStats
from aasvc_cli.storage.home import UNIVERSAL
from aasvc_cli.vocoder.build import build_vocoder, default_vocoder
from aasvc_cli.vocoder.istft import IstftVocoder


def has_pitch(mel: MelConfig) -> bool:
    """Whether the pitch of mels of these settings can be read."""
    return default_vocoder(mel) == UNIVERSAL


class PitchReader:
    """Reads F0 and voicing.

    Args:
        stats: that the mels are normalised with

    Raises:
        ConfigError: mels of other settings than those of the universal vocoder.
    """

    def __init__(self, mel: MelConfig, stats: FeatureStats, device: torch.device) -> None:
        if not has_pitch(mel):
            raise ConfigError(
                "model.pitch_predictor",
                ["the pitch cannot be read from mels of these settings, only from those of preset small; use false"],
            )
        self._net = cast("IstftVocoder", build_vocoder(UNIVERSAL, mel, device=device)).generator
        self._mean, self._scale = (torch.from_numpy(values).to(device) for values in (stats.mean, stats.scale))

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """F0 in Hz (B, T), also where unvoiced, and whether voiced (B, T), of normalised mels (B, T, M)."""
        with torch.autocast(mel.device.type, enabled=False):
            log_mel = mel.float() * self._scale + self._mean
            return self._net.pitch.decode(self._net.normalise(log_mel))
