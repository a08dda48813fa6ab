"""The largest batch that fits into memory, found by taking steps with the longest pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from aasvc_cli.config.settings import Config, parse_memory
from aasvc_cli.data.dataset import Batch, PairDataset, collate
from aasvc_cli.errors import TrainingError
from aasvc_cli.training.memory import largest_that_fits, peak, release_memory, reset_peak, usable_memory
from aasvc_cli.training.voice_trainer import Trainer


@dataclass(frozen=True)
class Fit:
    """What fits, and how.

    Attributes:
        needed: bytes that this process used at most during such a step
        checkpointing: whether it takes activation checkpointing
    """

    batch_size: int
    needed: int
    checkpointing: bool


def largest_batch(config: Config, device: torch.device, longest: Callable[[int], Batch], limit: int, most: int) -> Fit:
    """Take steps that change nothing with more and more utterances, as long as they fit.

    Args:
        longest: gives a batch of the so many longest utterances
        limit: bytes that this process may use in all
        most: utterances beyond which nothing is tried

    Raises:
        TrainingError: not even one utterance fits.
    """
    still = replace(config.train, lr=0.0, ema_decay=config.train.ema_decay)
    trainer = Trainer(replace(config, train=still), device)
    # all losses count, and dropouts keep their masks
    trainer.step = max(config.loss.duration_start_step + 1, config.train.dropout_start_step)
    needed: dict[int, float] = {}

    def measure(size: int) -> float:
        before = trainer.checkpointing
        batch = longest(size)
        release_memory(device)
        reset_peak(device)
        trainer.update([batch])
        failed = trainer.micro is not None or trainer.checkpointing != before
        trainer.micro, trainer.checkpointing = None, before
        needed[size] = math.inf if failed else float(peak(device))
        return needed[size]

    for checkpointing in sorted({config.train.checkpointing, True}):
        trainer.checkpointing = checkpointing
        measure(1)  # the optimiser's memory comes with the first step
        size = largest_that_fits(measure, limit, most)
        if size:
            return Fit(size, int(needed[size]), checkpointing)
    name = longest(1).utterance_ids[0]
    raise TrainingError(
        f"utterance {name}, the longest, needs {needed[1] / 1e9:.1f} GB alone and with activation checkpointing, and "
        f"there are {limit / 1e9:.1f} GB; give more --memory, leave out such long recordings, or train a smaller model"
    )


def batch_for_memory(
    config: Config, device: torch.device, pairs: PairDataset, say: Callable[[str], None], *, processes: int
) -> tuple[int, int, bool]:
    """Batch size, accumulation and checkpointing for ``train.auto_batch``; says what was chosen.

    Args:
        pairs: to train on
        processes: that share the memory of this machine, if the device is its CPU

    Raises:
        TrainingError: not even one utterance fits.
    """
    train = config.train
    limit = parse_memory(train.memory) if train.memory else usable_memory(device)
    if device.type == "cpu":
        limit //= processes
    longest_set = pairs.at_longest()
    listed = longest_set.pairs
    order = sorted(range(len(listed)), key=lambda i: -(listed[i].source_frames + listed[i].target_frames))

    def longest(size: int) -> Batch:
        return collate([longest_set[i] for i in order[:size]])

    effective = train.batch_size * train.accum
    most = len(order) if train.auto_batch == "fill" else min(effective, len(order))
    fit = largest_batch(config, device, longest, limit, most)
    batch_size, accum = fit.batch_size, train.accum
    if train.auto_batch == "keep":
        batch_size, accum = in_batches_of(effective, fit.batch_size)
    say(
        f"{batch_size} utterances at once, {accum} times per step: {fit.batch_size} of the longest fit into "
        f"{limit / 1e9:.1f} GB (they take {fit.needed / 1e9:.1f} GB)"
        + (", with activation checkpointing" if fit.checkpointing and not train.checkpointing else "")
    )
    return batch_size, accum, fit.checkpointing


def in_batches_of(effective: int, largest: int) -> tuple[int, int]:
    """Batch size and accumulation whose product is ``effective``, with the largest batch size that is allowed."""
    size = next(size for size in range(min(effective, largest), 0, -1) if effective % size == 0)
    return size, effective // size
