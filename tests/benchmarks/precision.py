"""The loss after some hundred steps in half precision, against float32.

    python tests/benchmarks/precision.py --steps 200 [--precision bf16] [--width 48] [--json]

Two trainings on the bundled demo corpus that differ in nothing but the precision; the losses are means over the last
fifth of the steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from aasvc_cli.config.reading import override, read_preset
from aasvc_cli.config.settings import Config
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.pipeline.train import train
from aasvc_cli.storage.home import Home, bundled
from aasvc_cli.training.progress import TrainingReport


def last_losses(home: Home, config: Config, precision: str) -> list[float]:
    """The total loss of each of the last steps."""
    seen: list[float] = []

    def note(report: TrainingReport) -> None:
        if report.step > 0.8 * report.max_steps:
            seen.append(report.loss)

    train(home, override(config, {"train.precision": precision}), tag=precision, on_report=note)
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--precision", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = override(
        read_preset("small"),
        {
            "model.width": arguments.width,
            "model.encoder_hidden": 4 * arguments.width,
            "model.decoder_hidden": 4 * arguments.width,
            "train.max_steps": arguments.steps,
            "train.batch_size": arguments.batch_size,
            "train.warmup_steps": min(200, arguments.steps // 2),
            "train.eval_every": arguments.steps,
            "train.save_every": arguments.steps,
            "train.preview_every": 0,
            "train.log_every": 1,
            "train.threads": arguments.threads,
        },
    )
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        prepare(home, config, PrepareOptions(corpus=bundled("demo") / "ja-JP", source="male", target="female", jobs=1))
        compute_stats(home)
        losses = {name: statistics.mean(last_losses(home, config, name)) for name in ("fp32", arguments.precision)}
    difference = losses[arguments.precision] / losses["fp32"] - 1.0
    for name, loss in losses.items():
        print(f"{name:12s} {loss:.4f}")
    print(f"{'difference':12s} {100 * difference:+.2f} %")
    if arguments.json:
        print(json.dumps({"steps": arguments.steps, **losses, "difference": round(difference, 5)}))


if __name__ == "__main__":
    main()
