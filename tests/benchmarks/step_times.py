"""How much longer the slowest step of a training takes than the median one.

    python tests/benchmarks/step_times.py --home HOME --data NAME [--conf small] [--max-frames N] [--steps 30] [--json]

Without ``--steps``, every batch of an epoch is taken once, and loading is part of a step. With it, as many batches from
the shortest to the longest, both included. ``--max-frames 0`` takes the bound away.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from results import show

from aasvc_cli.config.reading import override, read_preset
from aasvc_cli.data.dataset import collate, epoch_batches, varied_pairs
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.features.kinds import feature_key, with_widths
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home
from aasvc_cli.training.optimisation import with_precision
from aasvc_cli.training.voice_trainer import Trainer


def main() -> None:
    """Take the steps and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--conf", default="small")
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    home = Home(arguments.home)
    manifest = read_manifest(home, arguments.data)
    config = with_widths(read_preset(arguments.conf))
    if arguments.max_frames is not None:
        config = override(config, {"train.max_frames": arguments.max_frames or None})
    device = torch.device("cpu")
    config = with_precision(config, device)
    path = home.stats / manifest.name / "self.json"
    stats = NormStats.from_tree(read_json(path, "statistics"), str(path))
    store = FeatureStore(home.features, config.features, feature_key)
    pairs = varied_pairs(manifest.sets["train"], store.load, stats, config)
    lengths = [max(pair.source_frames, pair.target_frames) for pair in pairs.pairs]
    batches = epoch_batches(
        [pair.target_frames for pair in pairs.pairs],
        config.train.batch_size,
        seed=1,
        epoch=0,
        bucket=config.train.bucket,
        source_lengths=[pair.source_frames for pair in pairs.pairs],
        max_frames=config.train.max_frames,
    )
    batches.sort(key=lambda batch: len(batch) * max(lengths[i] for i in batch))
    if arguments.steps is not None and arguments.steps < len(batches):
        last = len(batches) - 1
        batches = [batches[round(step * last / (arguments.steps - 1))] for step in range(arguments.steps)]
    trainer = Trainer(config, device)
    trainer.step = max(config.loss.duration_start_step + 1, config.train.dropout_start_step)
    trainer.update([collate([pairs[i] for i in batches[len(batches) // 2]])])
    seconds = []
    for batch in batches:
        began = time.process_time()
        trainer.update([collate([pairs[i] for i in batch])])
        seconds.append(time.process_time() - began)
    frames = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
    rows = {
        "steps": len(seconds),
        "most frames": max(frames),
        "median frames": round(statistics.median(frames)),
        "median step (processor s)": round(statistics.median(seconds), 3),
        "slowest step (processor s)": round(max(seconds), 3),
        "slowest / median (bar 3)": round(max(seconds) / statistics.median(seconds), 2),
    }
    show(rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
