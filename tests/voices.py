"""Small voices with random weights, as folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aasvc_cli.config.reading import dump_yaml, parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.features.kinds import SIDES, feature_keys, feature_width, with_widths
from aasvc_cli.features.stats import FeatureStats, NormStats
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.storage.checkpoint import save_checkpoint
from aasvc_cli.storage.files import write_json, write_text

TINY = {
    "features": {"mel": {"sample_rate": 16000, "n_fft": 512, "hop_length": 128, "n_mels": 20}},
    "model": {
        "width": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_hidden": 16, "decoder_hidden": 16,
        "encoder_kernel": 3, "decoder_kernel": 3, "postnet_layers": 1, "postnet_channels": 8, "duration_layers": 1,
        "duration_channels": 8, "flow_count": 2, "flow_layers": 1, "frames_per_token": 4, "max_duration": 10,
        "duration_input": "tokens",
    },
}  # fmt: skip


def tiny_config(heard: str = "mel", **model: object) -> Config:
    """A configuration of a very small model for a kind of source feature; ``model`` replaces entries of its section."""
    features = {**TINY["features"], "source": heard, "duration": heard}
    return with_widths(parse_config({"features": features, "model": {**TINY["model"], **model}}, "test"))


def plain_stats(config: Config) -> NormStats:
    """Statistics like those of quiet speech, different on each side."""
    keys = feature_keys(config.features)
    kinds = {side: str(getattr(config.features, side)) for side in SIDES}
    widths = {side: feature_width(kinds[side], config.features) for side in SIDES}
    level = {"source": -2.0, "target": -1.5, "duration": -2.0}
    stats = {
        side: FeatureStats(
            np.linspace(level[side], level[side] - 0.5, widths[side]).astype(np.float32),
            np.full(widths[side], 0.4, np.float32),
            100,
        )
        for side in SIDES
    }
    return NormStats(**stats, kinds=kinds, keys=keys, origin="test")


def write_voice(
    folder: Path, config: Config, weights: str = "best.safetensors", dtype: torch.dtype | None = None
) -> Path:
    """A voice with random weights that are the same each time."""
    torch.manual_seed(0)
    state = AASVC(config.model).state_dict()
    tensors = {
        f"model.{name}": tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    write_text(folder / "config.yaml", dump_yaml(config))
    write_json(folder / "stats.json", plain_stats(config).to_tree())
    save_checkpoint(folder / weights, tensors, {"step": 1})
    return folder
