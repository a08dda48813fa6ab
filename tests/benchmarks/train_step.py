"""Time and memory of one optimiser step at the published size, against the machine's own matrix products.

    python tests/benchmarks/train_step.py --batch-size 2 --frames 940 --steps 3 [--checkpointing] [--profile] [--json]

One micro-batch of random utterances per step, lengths from 0.6 to 1.0 of ``--frames``, faithful mode, dropout on,
float32. Efficiency is three times the floating-point operations of a forward pass per second, over the measured rate
of a large matrix product on the same threads. That rate is measured before and after every step, as a shared machine
is not equally fast all the time. ``--profile`` adds one more step and what it spends its time in, operator by operator.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from results import show
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from aasvc_cli.config.reading import override, read_preset
from aasvc_cli.data.dataset import Batch
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.training.voice_trainer import Trainer


def random_batch(size: int, frames: int, n_mels: int, seed: int = 0) -> Batch:
    """Random utterances; the first has the full length on both sides."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(int(0.6 * frames), frames + 1, (size,), generator=generator) for _ in range(2)]
    for side in lengths:
        side[0] = frames
    source, target = (torch.randn(size, frames, n_mels, generator=generator) for _ in range(2))
    return Batch(tuple(f"random-{i}" for i in range(size)), source, lengths[0], target, lengths[1], source)


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def matmul_gflops(size: int = 2048, repeats: int = 10) -> float:
    """Rate of a float32 matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return 2 * size**3 * repeats / (time.perf_counter() - started) / 1e9


def profiled(trainer: Trainer, batch: Batch, *, rows: int = 12) -> None:
    """Take a step and print the operators that it spends most in; of nested ones each counts its own time alone."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        trainer.update([batch])
    operators = sorted(recorded.key_averages(), key=lambda operator: operator.self_cpu_time_total, reverse=True)
    total = sum(operator.self_cpu_time_total for operator in operators)
    for operator in operators[:rows]:
        share = operator.self_cpu_time_total / total
        print(f"{operator.key:44s} {operator.self_cpu_time_total / 1e6:7.2f} s {share:6.1%} {operator.count:6d} calls")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--frames", type=int, default=940)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", default="hificaptain")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {"train.precision": arguments.precision, "train.checkpointing": arguments.checkpointing}
    config = with_widths(override(read_preset(arguments.preset), settings))
    trainer = Trainer(config, torch.device("cpu"))
    trainer.step = config.loss.duration_start_step + 1  # all losses count
    batch = random_batch(arguments.batch_size, arguments.frames, config.features.mel.n_mels)
    before = resident_mb()
    trainer.update([batch])
    seconds, processor, kernel, faults = [], [], [], []
    rates = [matmul_gflops()]
    for _ in range(arguments.steps):
        before_step = resource.getrusage(resource.RUSAGE_SELF)
        started, began = time.perf_counter(), time.process_time()
        trainer.update([batch])
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - began)
        after_step = resource.getrusage(resource.RUSAGE_SELF)
        kernel.append(after_step.ru_stime - before_step.ru_stime)
        faults.append(after_step.ru_minflt - before_step.ru_minflt)
        rates.append(matmul_gflops())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    if arguments.profile:
        profiled(trainer, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trainer.losses(batch)
    flop = 3 * counter.get_total_flops()
    rate = statistics.median(rates)
    trained = sum(p.numel() for p in trainer.model.parameters() if p in trainer.optimizer.state)
    held = 3 * 4 * trained / 1e6  # gradient and two moments in float32
    median = statistics.median(seconds)
    result = {
        "batch_size": arguments.batch_size,
        "frames": arguments.frames,
        "threads": arguments.threads,
        "precision": arguments.precision,
        "checkpointing": arguments.checkpointing,
        "seconds_per_step": round(median, 3),
        "processor_seconds_per_step": round(statistics.median(processor), 3),
        "kernel_seconds_per_step": round(statistics.median(kernel), 3),
        "page_faults_per_step": round(statistics.median(faults)),
        "peak_rss_mb": round(peak),
        "rss_before_mb": round(before),
        "gradient_and_optimizer_mb": round(held),
        "activations_mb": round(peak - before - held),
        "model_gflop_per_step": round(flop / 1e9),
        "matmul_gflops": round(rate),
        "matmul_gflops_range": [round(min(rates)), round(max(rates))],
        "efficiency": round(flop / 1e9 / median / rate, 3),
    }
    show(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
