"""Time of an epoch in length-bucketed batches, against one in random batches.

    python tests/benchmarks/bucketing.py CORPUS [--batch-size 16] [--steps 20] [--threads 2] [--json]

Without CORPUS, the bundled demo corpus. One trainer takes the batches of both kinds, one of each in turn, so that what
else the machine has to do falls on both alike; loading is part of a step. Each epoch has every pair once. ``--steps``
takes so many batches of each kind, evenly from the shortest to the longest, and counts each for its neighbours.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from results import show

from aasvc_cli.config.reading import override, read_preset
from aasvc_cli.data.dataset import PairDataset, collate, epoch_batches
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.features.kinds import feature_key, with_widths
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home, bundled
from aasvc_cli.training.optimisation import with_precision
from aasvc_cli.training.voice_trainer import Trainer

KINDS = ("random", "bucketed")


@dataclass
class Epoch:
    """What an epoch of one kind took, or would have taken."""

    processor_seconds: float = 0.0
    seconds: float = 0.0


def padding(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Share of padded frames."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1.0 - sum(lengths) / padded


def chosen(batches: Sequence[list[int]], lengths: Sequence[int], steps: int | None) -> list[tuple[list[int], float]]:
    """Batches to take, and for how many each of them stands."""
    order = sorted(batches, key=lambda batch: len(batch) * max(lengths[i] for i in batch))
    if steps is None or steps >= len(order):
        return [(batch, 1.0) for batch in order]
    weight = len(order) / steps
    return [(order[int((step + 0.5) * weight)], weight) for step in range(steps)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, default=bundled("demo") / "ja-JP")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    config = with_widths(override(read_preset(arguments.preset), {"train.batch_size": arguments.batch_size}))
    config = with_precision(config, device)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        prepare(
            home,
            config,
            PrepareOptions(corpus=arguments.corpus, source="male", target="female", jobs=arguments.threads),
        )
        compute_stats(home)
        manifest = read_manifest(home)
        stats = NormStats.from_tree(read_json(home.stats / manifest.name / "self.json", "statistics"), "statistics")
        store = FeatureStore(home.features, config.features, feature_key)
        dataset = PairDataset(manifest.sets["train"], store.load, stats)
        lengths = [pair.target_frames or 1 for pair in dataset.pairs]
        sources = [pair.source_frames or 1 for pair in dataset.pairs]
        orders = {
            kind: epoch_batches(
                lengths,
                arguments.batch_size,
                seed=1,
                epoch=0,
                bucket=kind == "bucketed",
                source_lengths=sources,
            )
            for kind in KINDS
        }
        trainer = Trainer(config, device)
        trainer.step = config.loss.duration_start_step + 1  # all losses count
        longest = max(range(len(lengths)), key=lambda i: lengths[i])
        trainer.update([collate([dataset[longest]])])  # compiles the search
        taken = {kind: Epoch() for kind in KINDS}
        steps = {kind: chosen(orders[kind], lengths, arguments.steps) for kind in KINDS}
        for both in zip(*steps.values(), strict=True):
            for kind, (batch, weight) in zip(KINDS, both, strict=True):
                began, started = time.process_time(), time.perf_counter()
                trainer.update([collate([dataset[i] for i in batch])])
                taken[kind].processor_seconds += weight * (time.process_time() - began)
                taken[kind].seconds += weight * (time.perf_counter() - started)
    result = {
        "pairs": len(lengths),
        "batch_size": arguments.batch_size,
        "precision": config.train.precision,
        "batches": len(orders["random"]),
        "measured": len(steps["random"]),
        **{f"processor_seconds_{kind}": round(taken[kind].processor_seconds, 1) for kind in KINDS},
        **{f"seconds_{kind}": round(taken[kind].seconds, 1) for kind in KINDS},
        **{f"target_padding_{kind}": round(padding(orders[kind], lengths), 3) for kind in KINDS},
        **{f"source_padding_{kind}": round(padding(orders[kind], sources), 3) for kind in KINDS},
        "ratio": round(taken["bucketed"].processor_seconds / taken["random"].processor_seconds, 3),
    }
    show(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
