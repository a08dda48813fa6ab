"""What a voice that is being trained makes of a few held-out utterances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from aasvc_cli.config.settings import Config
from aasvc_cli.data.dataset import PairDataset
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.features.stats import NormStats
from aasvc_cli.training.voice_trainer import Trainer
from aasvc_cli.vocoder.build import build_vocoder, default_vocoder, speak

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preview:
    """One utterance, converted.

    Attributes:
        log_mels: of the source if the model hears mels, of the conversion and of the target: (T, M) each
        wave: the conversion (n,), at the sample rate of the mels
        weights: of the alignment of the target with the source, (T, S)
        path: the best one through them, the token of each frame: (T,)
    """

    pair: ParallelPair
    log_mels: Sequence[Array]
    wave: Array
    weights: Array
    path: Sequence[int]


def preview(trainer: Trainer, dev_set: PairDataset, stats: NormStats, config: Config) -> list[Preview]:
    """Convert the first ``train.n_previews`` dev pairs with the averaged weights, and align them with their targets."""
    mel = config.features.mel
    vocoder = build_vocoder(default_vocoder(mel), mel)
    trainer.model.eval()
    made = []
    with trainer.average.swapped():
        for index in range(min(config.train.n_previews, len(dev_set))):
            item = dev_set[index]
            source, said, rhythm = item.tensors(trainer.device)
            forced = trainer.model.align(source, said, rhythm)
            generator = torch.Generator().manual_seed(config.train.seed)
            converted = trainer.model.convert(source, rhythm, generator=generator)
            log_mel = stats.target.restore(converted.mel.cpu().numpy())
            log_mels = [log_mel, stats.target.denormalise(item.target)]
            if stats.kinds["source"] == "mel":
                log_mels.insert(0, stats.source.denormalise(item.source))
            weights = forced.log_alignment[0].exp().cpu().numpy()
            wave = speak(vocoder, log_mel, "cpu")
            made.append(Preview(dev_set.pairs[index], log_mels, wave, weights, forced.path[0].tolist()))
    return made
