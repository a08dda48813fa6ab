"""What only a CUDA card can show, in one run of under four minutes: results as on the CPU, times, memory.

    python tests/device/check.py

Prints a table, and one JSON object on the last line; ends with 1 if a result is wrong. Without a card everything runs
on the CPU in small sizes, which says that the script works and nothing of a GPU.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from aasvc_cli.config.reading import override, parse_config, read_preset
from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.data.dataset import Batch
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.model.alignment import monotonic_search, tensor_monotonic_search
from aasvc_cli.training.losses import forward_sum_loss
from aasvc_cli.training.memory import is_out_of_memory, peak, release_memory, reset_peak
from aasvc_cli.training.voice_trainer import Trainer
from tests.published.test_voices import KINDS, Example
from tests.voices import TINY

PUBLISHED_STEPS, PUBLISHED_HOURS, EFFECTIVE_BATCH = 50_000, 40.0, 16
TOLERANCE = 1e-5
"""Of golden parity in float32 without TF32."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
NO_DROPOUT = {f"{part}_dropout": 0.0 for part in ("encoder", "decoder", "postnet", "duration", "flow")} | {
    f"{part}_{what}_dropout": 0.0 for part in ("encoder", "decoder") for what in ("positional", "attention")
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    config: Config
    frames: int
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    steps: int
    training_steps: int
    seconds: float


def sizes_of(device: torch.device) -> Sizes:
    """The published size on a card, a tiny one on the CPU."""
    if device.type == "cuda":
        return Sizes(
            with_widths(read_preset("hificaptain")), 940, (1, 2, 4, 8, 16), ("fp32", "tf32", "bf16"), 5, 200, 60
        )
    return Sizes(with_widths(parse_config(TINY, "tiny")), 48, (1, 2), ("fp32", "bf16"), 1, 6, 1)


def random_batch(size: int, frames: int, n_mels: int, seed: int = 0) -> Batch:
    """Random utterances of unequal length; the first has the full one on both sides."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(int(0.8 * frames), frames + 1, (size,), generator=generator) for _ in range(2)]
    for side in lengths:
        side[0] = frames
    source, target = (torch.randn(size, frames, n_mels, generator=generator) for _ in range(2))
    return Batch(tuple(f"random-{i}" for i in range(size)), source, lengths[0], target, lengths[1], source)


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Allow TF32, or not, whatever the default is."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def wait_for(device: torch.device) -> None:
    """Until all that was begun is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def golden_parity(device: torch.device, precisions: tuple[str, ...]) -> dict[str, float]:
    """Largest difference of the outputs to the published system's; bf16 by autocast."""
    found = {}
    for precision in precisions:
        differences = []
        for kind in KINDS:
            example = Example(kind)
            example.model.eval().to(device)
            inputs = [example.tensor(name).to(device) for name in ("xs", "ilens", "ys", "olens", "dp_inputs")]
            noise = None
            if "eval_noise" in example.arrays:
                noise = example.tensor("eval_noise").transpose(1, 2).to(device)
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
            with torch.no_grad(), arithmetic(precision), autocast:
                after = example.model(*inputs, noise=noise).after.float().cpu().numpy()
            differences.append(float(np.abs(after - example.arrays["eval_after_outs"]).max()))
        found[precision] = max(differences)
    return found


def alignment_parity(device: torch.device, frames: int) -> dict[str, Any]:
    """Monotonic search and forward sum on the device and on the CPU."""
    generator = torch.Generator().manual_seed(0)
    n_tokens = frames // 4
    scores = torch.randn(3, frames, n_tokens, generator=generator).log_softmax(-1)
    target, tokens = (
        torch.tensor([frames, frames - 5, frames // 2]),
        torch.tensor([n_tokens, n_tokens - 2, n_tokens // 3]),
    )
    there = [tensor.to(device) for tensor in (scores, target, tokens)]
    same = torch.equal(tensor_monotonic_search(*there).cpu(), monotonic_search(scores, target, tokens))
    sums = [float(forward_sum_loss(*tensors)) for tensors in (there, (scores, target, tokens))]
    return {"same path": same, "forward sum": abs(sums[0] - sums[1]) / abs(sums[1])}


def waits_in_a_step(device: torch.device, sizes: Sizes) -> int | None:
    """How often a training step waits for the device; None on the CPU. One wait, for the losses, is meant to be."""
    if device.type != "cuda":
        return None
    trainer = Trainer(sizes.config, device)
    batch = random_batch(1, sizes.frames, sizes.config.features.mel.n_mels).to(device)
    trainer.update([batch])
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        trainer.update([batch])
    return sum(event.count for event in recorded.key_averages() if event.key in WAITS)


def step_times(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """Seconds and peak memory of a step, by precision, checkpointing and batch."""
    rows = []
    for precision in sizes.precisions:
        for checkpointing in (False, True):
            settings = {"train.precision": "bf16" if precision == "bf16" else "fp32"}
            config = override(sizes.config, settings | {"train.checkpointing": checkpointing})
            trainer = Trainer(config, device)
            for size in sizes.batches:
                batch = random_batch(size, sizes.frames, config.features.mel.n_mels).to(device)
                row: dict[str, Any] = {"precision": precision, "checkpointing": checkpointing, "batch": size}
                try:
                    with arithmetic(precision):
                        rows.append(row | _step_time(trainer, batch, device, sizes.steps))
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    rows.append(row | {"seconds": None, "megabytes": None})
            del trainer
            release_memory(device)
    return rows


def _step_time(trainer: Trainer, batch: Batch, device: torch.device, steps: int) -> dict[str, float]:
    reset_peak(device)
    trainer.update([batch])
    times = []
    for _ in range(steps):
        wait_for(device)
        began = time.perf_counter()
        trainer.update([batch])
        wait_for(device)
        times.append(time.perf_counter() - began)
    return {"seconds": min(times), "megabytes": peak(device) / 1e6}


def hours_of_the_published_training(rows: list[dict[str, Any]]) -> dict[str, float]:
    """50,000 steps of 16 pairs at the best batch, by precision; the publication says 40 hours."""
    best: dict[str, float] = {}
    for row in rows:
        if row["seconds"] is not None:
            hours = row["seconds"] / row["batch"] * EFFECTIVE_BATCH * PUBLISHED_STEPS / 3600
            best[row["precision"]] = min(hours, best.get(row["precision"], hours))
    return best


def recovery_from_lack_of_memory(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """A step for which memory is made too small against one that has enough: the largest difference of gradients."""
    if device.type != "cuda":
        return {"skipped": "a card runs out of memory of itself; tests/training/test_memory.py does it by force"}
    settings = {"model.mask_padding": True} | {f"model.{name}": value for name, value in NO_DROPOUT.items()}
    config, batch = override(sizes.config, settings), random_batch(8, sizes.frames // 2, 80).to(device)
    norms = []
    total = torch.cuda.get_device_properties(device).total_memory
    for enough in (True, False):
        trainer = Trainer(config, device)
        for module in trainer.model.modules():  # the statistics of a piece are those of a piece
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        if not enough:
            used = torch.cuda.memory_allocated(device)
            torch.cuda.set_per_process_memory_fraction(min(1.0, (used + 3e9) / total), device)
        norms.append(trainer.update([batch])[1])
        pieces = trainer.micro
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        del trainer
        release_memory(device)
    return {"pieces of": pieces, "gradient norm": abs(norms[0] - norms[1]) / norms[0]}


def training_parity(device: torch.device, steps: int) -> dict[str, float]:
    """Relative difference of a tiny model's loss to that on the CPU, at the first and the last step."""
    quiet = NO_DROPOUT | {"duration_predictor": "deterministic", "duration_rounding": "nearest"}
    config = with_widths(
        parse_config({**TINY, "model": {**TINY["model"], **quiet}, "train": {"warmup_steps": 10}}, "tiny")
    )
    losses: dict[str, list[float]] = {}
    for place in (torch.device("cpu"), device):
        trainer, losses[str(place)] = Trainer(config, place), []
        trainer.model.eval()
        for step in range(steps):
            batch = random_batch(2, 48, config.features.mel.n_mels, seed=step % 4).to(place)
            losses[str(place)].append(float(trainer.update([batch])[0][-1]))
    ours, theirs = losses["cpu"], losses[str(device)]
    return {"first": abs(ours[0] - theirs[0]) / abs(ours[0]), "last": abs(ours[-1] - theirs[-1]) / abs(ours[-1])}


def conversion(device: torch.device, seconds: float) -> dict[str, float]:
    """Real-time factors of the bundled voice with its vocoder, and with Griffin-Lim."""
    times = np.arange(round(seconds * 24000)) / 24000
    wave = (0.3 * np.sin(2 * np.pi * 150 * times) * np.sin(2 * np.pi * times) ** 2).astype(np.float32)
    found = {}
    for vocoder in ("bundled", "griffin-lim"):
        converter = Converter.load(device=str(device), vocoder=vocoder)
        converter.convert(wave[:24000], 24000)
        began = time.perf_counter()
        result = converter.convert(wave, 24000)
        found[vocoder] = (time.perf_counter() - began) / (len(result.wave) / result.sample_rate)
    return found


def check(device: torch.device) -> dict[str, Any]:
    """Everything, JSON-able; ``failed`` names what is wrong."""
    sizes = sizes_of(device)
    parity, alignment = golden_parity(device, sizes.precisions), alignment_parity(device, 4 * sizes.frames)
    rows = step_times(device, sizes)
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, small sizes",
        "golden parity": parity,
        "alignment": alignment,
        "waits in a step": waits_in_a_step(device, sizes),
        "steps": rows,
        "hours for 50,000 steps of 16 pairs": hours_of_the_published_training(rows),
        "published hours": PUBLISHED_HOURS,
        "lack of memory": recovery_from_lack_of_memory(device, sizes),
        "training": training_parity(device, sizes.training_steps),
        "real-time factor": conversion(device, sizes.seconds),
    }
    passed = {
        "golden parity": parity["fp32"] <= TOLERANCE,
        "monotonic search": alignment["same path"],
        "forward sum": alignment["forward sum"] <= 1e-5,
        "waits in a step": (result["waits in a step"] or 0) <= 1,
        "lack of memory": result["lack of memory"].get("gradient norm", 0.0) <= 1e-3,
        "training": result["training"]["first"] <= 1e-4,
    }
    return result | {"failed": [name for name, good in passed.items() if not good]}


def main() -> None:
    """Check and print."""
    result = check(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"{'precision':10} {'checkpointing':13} {'batch':>5} {'seconds':>9} {'MB':>8}")
    for row in result["steps"]:
        time_of_it = "no memory" if row["seconds"] is None else f"{row['seconds']:9.4f}"
        memory = "" if row["megabytes"] is None else f"{row['megabytes']:8.0f}"
        print(f"{row['precision']:10} {row['checkpointing']!s:13} {row['batch']:5} {time_of_it:>9} {memory:>8}")
    for name in result.keys() - {"steps", "failed"}:
        print(f"{name}: {result[name]}")
    print(json.dumps(result))
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
