"""Imported by processes that others are forked from: takes one step, so that everything a step needs is loaded."""

from __future__ import annotations

import torch

import aasvc_cli.cli.train
import aasvc_cli.pipeline.train  # noqa: F401
from aasvc_cli.config.reading import override
from aasvc_cli.data.dataset import Batch
from aasvc_cli.training.voice_trainer import Trainer
from tests.voices import tiny_config

torch.set_num_threads(1)
_mel, _lengths = torch.randn(1, 40, 20), torch.tensor([40])
Trainer(override(tiny_config(), {"train.ema_decay": 0.9}), torch.device("cpu")).update(
    [Batch(("warm",), _mel, _lengths, _mel, _lengths, _mel)]
)
