"""What only a CUDA card can show, in one run of under four minutes: results as on the CPU, times, memory.

    python tests/device/check.py

Prints a table, and one JSON object on the last line; ends with 1 if a result is wrong. Without a card everything runs
on the CPU in small sizes, which says that the script works and nothing of a GPU.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from aasvc_cli.config.reading import override, parse_config, read_preset
from aasvc_cli.config.settings import Config, MelConfig
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.data.dataset import Batch
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.model.alignment import euclidean_distance, monotonic_search, tensor_monotonic_search
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.pipeline.train import train
from aasvc_cli.storage.home import Home, bundled
from aasvc_cli.training.batch_size import largest_batch
from aasvc_cli.training.losses import BLANK_LOG_SCORE, Losses, forward_sum_loss, tensor_forward_sum
from aasvc_cli.training.memory import peak, release_memory, reset_peak, usable_memory
from aasvc_cli.training.progress import TrainingReport
from aasvc_cli.training.voice_trainer import Trainer
from aasvc_cli.vocoder.gan_generators import (
    GanVocoder,
    HiFiGan,
    HiFiGanSizes,
    ParallelWaveGan,
    ParallelWaveGanSizes,
)
from tests.published.test_voices import KINDS, Example
from tests.voices import TINY

PUBLISHED_STEPS, PUBLISHED_HOURS, EFFECTIVE_BATCH = 50_000, 40.0, 16
TOLERANCE = 1e-5
"""Of golden parity in float32 without TF32."""
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which the host waits; the profiler itself ends with ``cudaDeviceSynchronize``."""
NO_DROPOUT = {f"{part}_dropout": 0.0 for part in ("encoder", "decoder", "postnet", "duration", "flow")} | {
    f"{part}_{what}_dropout": 0.0 for part in ("encoder", "decoder") for what in ("positional", "attention")
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        memory: bytes of the card for which ``--batch-size auto`` looks for a batch
    """

    config: Config
    frames: int
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    steps: int
    training_steps: int
    seconds: float
    memory: float


def sizes_of(device: torch.device) -> Sizes:
    """The published size on a card, a tiny one on the CPU."""
    if device.type == "cuda":
        published, precisions = with_widths(read_preset("hificaptain")), ("fp32", "tf32", "bf16")
        return Sizes(published, 940, (1, 2, 4, 8, 16), precisions, 5, 200, 60, 24e9)
    return Sizes(with_widths(parse_config(TINY, "tiny")), 48, (1, 2), ("fp32", "bf16"), 1, 6, 1, 64e9)


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
    """Monotonic search and forward sum, with its gradient, on the device and on the CPU."""
    generator = torch.Generator().manual_seed(0)
    n_tokens = frames // 4
    scores = torch.randn(3, frames, n_tokens, generator=generator).log_softmax(-1)
    target, tokens = (
        torch.tensor([frames, frames - 5, frames // 2]),
        torch.tensor([n_tokens, n_tokens - 2, n_tokens // 3]),
    )
    here, there = ([each.to(place) for each in (scores, target, tokens)] for place in ("cpu", device))
    same = torch.equal(tensor_monotonic_search(*there).cpu(), monotonic_search(*here))
    sums, gradients = [], []
    for tensors in (here, there):
        leaf = tensors[0].requires_grad_()
        loss = forward_sum_loss(*tensors)
        sums.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, leaf)[0].cpu())
    difference = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    return {"same path": same, "forward sum": abs(sums[0] - sums[1]) / abs(sums[0]), "its gradient": difference}


def published_operations(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """Seconds of what the published system computes otherwise, and of the framework's CTC, beside ours."""
    config, generator = sizes.config.model, torch.Generator().manual_seed(0)
    n_tokens = config.n_tokens(sizes.frames)
    queries, keys = (
        torch.randn(2, n, config.decoder_width, generator=generator).to(device) for n in (sizes.frames, n_tokens)
    )
    scores = torch.log_softmax(-euclidean_distance(queries, keys), dim=-1)
    target, tokens = (torch.full((2,), n, device=device) for n in (sizes.frames, n_tokens))

    def broadcast() -> Tensor:
        return torch.linalg.vector_norm(queries.unsqueeze(2) - keys.unsqueeze(1), dim=-1)

    def one_by_one() -> Tensor:
        """Each utterance for itself, on the host."""
        paths = [
            monotonic_search(scores[i : i + 1].cpu(), target[i : i + 1].cpu(), tokens[i : i + 1].cpu()) for i in (0, 1)
        ]
        return torch.cat(paths).to(device)

    def framework() -> Tensor:
        padded = torch.nn.functional.pad(scores, (1, 0), value=BLANK_LOG_SCORE).transpose(0, 1)
        labels = torch.arange(1, n_tokens + 1, device=device).expand(2, -1)
        return torch.nn.functional.ctc_loss(padded, labels, target, tokens, reduction="none")

    both: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "distance": (broadcast, lambda: euclidean_distance(queries, keys)),
        "search": (one_by_one, lambda: monotonic_search(scores, target, tokens)),
        "forward sum": (framework, lambda: tensor_forward_sum(scores, target, tokens)),
    }
    return [
        {
            "operation": name,
            "published": seconds_of(published, device),
            "ours": seconds_of(ours, device),
            "difference": float((published() - ours()).abs().max() / published().abs().max()),
        }
        for name, (published, ours) in both.items()
    ]


def seconds_of(action: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Least of some repeats, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        action()
        wait_for(device)
        times.append(time.perf_counter() - began)
    return min(times)


def waits_in_a_step(device: torch.device, sizes: Sizes) -> dict[str, int] | None:
    """By which calls a training step waits for the device, and how often; None on the CPU.

    One wait, for the losses, is meant to be. The batch comes from pinned memory, as a loader gives it.
    """
    if device.type != "cuda":
        return None
    trainer = Trainer(sizes.config, device)
    batch = random_batch(1, sizes.frames, sizes.config.features.mel.n_mels).pin_memory()
    trainer.update([batch])
    wait_for(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        trainer.update([batch])
    return {event.key: event.count for event in recorded.key_averages() if event.key in WAITS}


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
                with arithmetic(precision):
                    rows.append(row | _step_time(trainer, batch, device, sizes.steps))
                if rows[-1]["seconds"] is None:  # nor would a larger one
                    break
            del trainer
            release_memory(device)
    return rows


def _step_time(trainer: Trainer, batch: Batch, device: torch.device, steps: int) -> dict[str, float | None]:
    reset_peak(device)
    checkpointing = trainer.checkpointing
    seconds = seconds_of(lambda: trainer.update([batch]), device, steps)
    if trainer.micro is not None or trainer.checkpointing != checkpointing:  # it took smaller pieces
        return {"seconds": None, "megabytes": None}
    return {"seconds": seconds, "megabytes": peak(device) / 1e6}


def automatic_batch(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """What ``--batch-size auto`` finds for a card of some memory, or for what there is."""
    limit = min(int(sizes.memory), usable_memory(device))
    config = override(sizes.config, {"train.precision": "bf16"})
    n_mels, most = config.features.mel.n_mels, 2 * max(sizes.batches)
    fit = largest_batch(config, device, lambda size: random_batch(size, sizes.frames, n_mels), limit, most)
    release_memory(device)
    return {
        "GB": limit / 1e9,
        "batch": fit.batch_size,
        "takes GB": fit.needed / 1e9,
        "checkpointing": fit.checkpointing,
    }


def hours_of_the_published_training(rows: list[dict[str, Any]]) -> dict[str, float]:
    """50,000 steps of 16 pairs at the best batch, by precision; the publication says 40 hours."""
    best: dict[str, float] = {}
    for row in rows:
        if row["seconds"] is not None:
            hours = row["seconds"] / row["batch"] * EFFECTIVE_BATCH * PUBLISHED_STEPS / 3600
            best[row["precision"]] = min(hours, best.get(row["precision"], hours))
    return best


def recovery_from_lack_of_memory(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """A step for which memory is made too small against one that has enough: relative difference of the gradient."""
    settings = {"model.mask_padding": True} | {f"model.{name}": value for name, value in NO_DROPOUT.items()}
    config = override(sizes.config, settings)
    batch = random_batch(8, sizes.frames // 2, config.features.mel.n_mels)
    norms, limit = [], 0.0
    for enough in (True, False):
        trainer = Trainer(config, device)
        for module in trainer.model.modules():  # the statistics of a piece would be those of a piece
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval().train = lambda mode=True, own=module: own  # type: ignore[method-assign]
        reset_peak(device)
        with contextlib.nullcontext() if enough else short_of_memory(device, trainer, limit):
            norms.append(trainer.update([batch])[1])
        if device.type == "cuda":
            gradients = sum(parameter.numel() * 4 for parameter in trainer.model.parameters())
            lasting = torch.cuda.memory_allocated(device) + gradients
            limit = lasting + (peak(device) - lasting) / 2
        pieces = trainer.micro
        del trainer, module
        release_memory(device)
    return {"pieces of": pieces, "gradient norm": abs(norms[0] - norms[1]) / norms[0]}


@contextlib.contextmanager
def short_of_memory(device: torch.device, trainer: Trainer, limit: float) -> Iterator[None]:
    """On a card, no more memory than that; on the CPU, more than two utterances at once are too many."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    plain = trainer.losses

    def losses(batch: Batch, **options: Any) -> Losses:
        if len(batch.utterance_ids) > 2:
            raise torch.OutOfMemoryError("made up")
        return plain(batch, **options)

    trainer.losses = losses  # type: ignore[method-assign]
    yield


def training_parity(device: torch.device, steps: int) -> dict[str, float]:
    """Relative difference of the losses of ``aasvc train`` on the demo corpus to those on the CPU: first, last, on dev.

    The model is tiny and draws no random numbers, so that arithmetic is all that differs.
    """
    quiet = NO_DROPOUT | {"duration_predictor": "deterministic", "duration_rounding": "nearest"}
    rhythm = {"warmup_steps": 10, "log_every": 1, "eval_every": steps, "save_every": steps, "n_previews": 0}
    losses: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        for place in ("cpu", str(device)):
            train_section = rhythm | {"max_steps": steps, "batch_size": 4, "accum": 1, "device": place}
            config = parse_config({**TINY, "model": {**TINY["model"], **quiet}, "train": train_section}, "tiny")
            if not losses:
                prepare(home, config, PrepareOptions(corpus=bundled("demo"), source="male", target="female", jobs=1))
                compute_stats(home)
            reports: list[TrainingReport] = []
            train(home, config, tag=place.replace(":", "-"), overwrite=True, on_report=reports.append)
            last = reports[-1]
            assert last.dev is not None and last.step == steps
            losses.append([reports[0].loss, last.loss, last.dev["total"]])
    differences = [abs(other - own) / abs(own) for own, other in zip(*losses, strict=True)]
    return dict(zip(("first", "last", "dev"), differences, strict=True))


def conversion(device: torch.device, seconds: float) -> dict[str, float]:
    """Real-time factors of the bundled voice with each vocoder that needs no download, and of published ones alone.

    These have random weights, which take the same time as trained ones, and the sizes of ``benchmarks/vocoders.py``.
    """
    times = np.arange(round(seconds * 24000)) / 24000
    wave = (0.3 * np.sin(2 * np.pi * 150 * times) * np.sin(2 * np.pi * times) ** 2).astype(np.float32)
    found = {}
    for vocoder in ("bundled", "universal", "griffin-lim"):
        converter = Converter.load(device=str(device), vocoder=vocoder)
        converter.convert(wave[:24000], 24000)
        began = time.perf_counter()
        result = converter.convert(wave, 24000)
        found[vocoder] = (time.perf_counter() - began) / (len(result.wave) / result.sample_rate)
    mel = MelConfig(sample_rate=48000, n_fft=2048, hop_length=512)
    networks = {
        "hifi-gan": HiFiGan(HiFiGanSizes(upsample_scales=(8, 8, 4, 2))),
        "parallel-wavegan": ParallelWaveGan(ParallelWaveGanSizes(upsample_scales=(4, 4, 4, 8))),
    }
    log_mel = torch.randn(1, round(seconds * mel.frames_per_second), mel.n_mels).to(device) - 2.0
    for name, network in networks.items():
        gan = GanVocoder(network.to(device), mel)
        gan.synthesise(log_mel[:, :40])
        wait_for(device)
        began = time.perf_counter()
        gan.synthesise(log_mel)
        wait_for(device)
        found[f"{name} alone"] = (time.perf_counter() - began) / seconds
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
        "published operations": published_operations(device, sizes),
        "waits in a step": waits_in_a_step(device, sizes),
        "steps": rows,
        "hours for 50,000 steps of 16 pairs": hours_of_the_published_training(rows),
        "published hours": PUBLISHED_HOURS,
        "lack of memory": recovery_from_lack_of_memory(device, sizes),
        "batch size auto": automatic_batch(device, sizes),
        "training": training_parity(device, sizes.training_steps),
        "real-time factor": conversion(device, sizes.seconds),
    }
    passed = {
        "golden parity": parity["fp32"] <= TOLERANCE,
        "monotonic search": alignment["same path"],
        "forward sum": alignment["forward sum"] <= 1e-5 and alignment["its gradient"] <= 1e-2,
        "published operations": all(each["difference"] <= 1e-2 for each in result["published operations"]),
        "waits in a step": sum((result["waits in a step"] or {}).values()) <= 1,
        "lack of memory": result["lack of memory"]["pieces of"] is not None
        and result["lack of memory"]["gradient norm"] <= 1e-3,
        "batch size auto": result["batch size auto"]["takes GB"] <= result["batch size auto"]["GB"],
        "training": result["training"]["first"] <= 1e-4 and result["training"]["dev"] <= 0.05,
    }
    return result | {"failed": [name for name, good in passed.items() if not good]}


def main() -> None:
    """Check and print."""
    # some of torch's functions want the number of the card
    result = check(
        torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    )
    print(f"{'precision':10} {'checkpointing':13} {'batch':>5} {'seconds':>9} {'MB':>8}")
    for row in result["steps"]:
        time_of_it = "no memory" if row["seconds"] is None else f"{row['seconds']:9.4f}"
        memory = "" if row["megabytes"] is None else f"{row['megabytes']:8.0f}"
        print(f"{row['precision']:10} {row['checkpointing']!s:13} {row['batch']:5} {time_of_it:>9} {memory:>8}")
    print(f"\n{'operation':12} {'published':>11} {'ours':>9} {'difference':>11}")
    for row in result["published operations"]:
        print(f"{row['operation']:12} {row['published']:11.4f} {row['ours']:9.4f} {row['difference']:11.1e}")
    for name in result.keys() - {"steps", "published operations", "failed"}:
        print(f"{name}: {result[name]}")
    print(json.dumps(result))
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
