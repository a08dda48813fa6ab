"""Time of a training step with and without ``--compile``.

    python tests/benchmarks/compiling.py [--preset small] [--batch-size 8] [--frames 400] [--steps 5] [--threads 2]

Two trainers take the same steps in turn, so that what else the machine has to do falls on both alike. What compiling
itself took is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from results import show
from train_step import random_batch

from aasvc_cli.config.reading import override, read_preset
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.training.optimisation import with_precision
from aasvc_cli.training.voice_trainer import Trainer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    config = with_widths(override(read_preset(arguments.preset), {"train.precision": arguments.precision}))
    config = with_precision(config, device)
    messages: list[str] = []
    trainers = {
        "plain": Trainer(config, device),
        "compiled": Trainer(override(config, {"train.compile": True}), device, on_message=messages.append),
    }
    batches = [
        random_batch(arguments.batch_size, frames, config.features.mel.n_mels)
        for frames in (arguments.frames, arguments.frames - 16)  # the second length is compiled for all others
    ]
    compiling = 0.0
    for batch in batches:
        for name, trainer in trainers.items():
            trainer.step = config.loss.duration_start_step + 1  # all losses count
            began = time.perf_counter()
            trainer.update([batch])
            compiling += (time.perf_counter() - began) * (1 if name == "compiled" else -1)
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(arguments.steps):
        for name, trainer in trainers.items():
            began = time.process_time()
            trainer.update([batches[0]])
            taken[name].append(time.process_time() - began)
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    result = {
        "precision": config.train.precision,
        "compiling_seconds": round(compiling, 1),
        **{f"processor_seconds_{name}": round(seconds, 3) for name, seconds in median.items()},
        "ratio": round(median["compiled"] / median["plain"], 3),
        "messages": messages,
    }
    show(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
