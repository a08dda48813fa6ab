"""Pictures and sounds that show, while a voice is trained, how far it has come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aasvc_cli.audio.files import write_audio
from aasvc_cli.config.settings import Config
from aasvc_cli.data.dataset import PairDataset
from aasvc_cli.features.stats import NormStats
from aasvc_cli.report import drawing
from aasvc_cli.report.collect import preview_name, write_previews
from aasvc_cli.report.content import Alignment
from aasvc_cli.storage.files import write_bytes
from aasvc_cli.training.voice_trainer import Trainer
from aasvc_cli.vocoder.build import build_vocoder, default_vocoder, speak


def preview(
    folder: Path, trainer: Trainer, dev_set: PairDataset, stats: NormStats, config: Config, *, best_step: int | None
) -> None:
    """Convert the first dev pairs; their mels, alignments and sounds go to ``previews``, with a page of all steps.

    Args:
        folder: of the run
        best_step: of the best checkpoint so far; None if there is none

    Raises:
        StorageError: no permission, no space.
    """
    mel_config = config.features.mel
    vocoder = build_vocoder(default_vocoder(mel_config), mel_config)
    trainer.model.eval()
    alignments = {}
    pictures = folder / "previews"
    with trainer.average.swapped():
        for index in range(min(config.train.n_previews, len(dev_set))):
            item = dev_set[index]
            name = preview_name(trainer.step, item.utterance_id)
            source, said, rhythm = item.tensors(trainer.device)
            forced = trainer.model.align(source, said, rhythm)
            generator = torch.Generator().manual_seed(config.train.seed)
            converted = trainer.model.convert(source, rhythm, generator=generator)
            log_mel = stats.target.restore(converted.mel.cpu().numpy())
            wave = speak(vocoder, log_mel, "cpu")
            mels = [log_mel, stats.target.denormalise(item.target)]
            if stats.kinds["source"] == "mel":
                mels.insert(0, stats.source.denormalise(item.source))
            weights = forced.log_alignment[0].exp().cpu().numpy()
            alignment = Alignment(f"step {trainer.step:,}", weights, forced.path[0].tolist())
            alignments[item.utterance_id] = alignment
            write_bytes(pictures / f"{name}-mel.png", drawing.spectrograms(mels))
            write_bytes(pictures / f"{name}-alignment.png", drawing.alignment(alignment))
            write_audio(pictures / f"{name}.wav", np.clip(wave, -1.0, 1.0), mel_config.sample_rate)
    pairs = dev_set.pairs[: config.train.n_previews]
    recordings: dict[str, tuple[Path | None, Path]] = {pair.utterance_id: (pair.source, pair.target) for pair in pairs}
    write_previews(folder, recordings, trainer.step, alignments, best_step=best_step)
