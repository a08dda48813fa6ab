"""What a training will take, measured before its first step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aasvc_cli.config.settings import TrainConfig
from aasvc_cli.data.dataset import Batch, longest_batch, pair_batches
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.training.memory import is_out_of_memory, peak, release_memory, reset_peak
from aasvc_cli.training.voice_trainer import Trainer

_WITHOUT_GRADIENT = 1 / 3
"""Time of a pass through the network as a part of that of a pass and its gradient."""


@dataclass(frozen=True)
class Plan:
    """What a training will take.

    Attributes:
        n_utterances, n_frames: of the longest batch that may come, padding included
        batch_seconds: what its gradient takes; None if memory does not suffice for it
        memory: bytes that the process comes to use with it; None as above
        usual_utterances, unbounded_utterances: mean of a batch as it is, and as it were without ``max_frames``
        steps: that are left
        seconds: what these steps take, measurements on the dev set included, about
    """

    n_utterances: int
    n_frames: int
    batch_seconds: float | None
    memory: int | None
    usual_utterances: float
    unbounded_utterances: float
    steps: int
    seconds: float


def rehearse(
    trainer: Trainer,
    collated: Callable[[Sequence[int]], Batch],
    pairs: Sequence[ParallelPair],
    dev_pairs: Sequence[ParallelPair],
    *,
    processes: int = 1,
) -> Plan:
    """Compute the gradients of the longest and of a usual batch, and how long the steps that are left will take.

    The trainer stays as it is, random numbers included.

    Args:
        collated: gives the batch of some of the pairs, with sources as long as they can become
    """
    config = trainer.config.train
    lengths = [max(pair.source_frames, pair.target_frames) for pair in pairs]
    batches = pair_batches(
        pairs,
        config.batch_size,
        seed=config.seed,
        epoch=0,
        bucket=config.bucket,
        max_frames=config.max_frames,
        processes=processes,
    )
    shares = [batch[::processes] for batch in batches]
    sizes = [_padded(share, lengths) for share in shares]
    usual = min(range(len(shares)), key=lambda i: (abs(sizes[i] - statistics.median(sizes)), i))
    longest = longest_batch(lengths, config.batch_size, config.max_frames)
    most = _padded(longest, lengths)
    trainer.rehearse(collated(shares[usual]))  # the first pass of all prepares some things
    batch_seconds, memory = _measured(trainer, collated(longest))
    usual_seconds = trainer.rehearse(collated(shares[usual]))
    per_frame = usual_seconds / sizes[usual]
    if batch_seconds is not None and most > sizes[usual]:
        per_frame = max(0.0, (batch_seconds - usual_seconds) / (most - sizes[usual]))
    per_batch = max(0.0, usual_seconds + per_frame * (statistics.fmean(sizes) - sizes[usual]))
    steps = config.max_steps - trainer.step
    dev_frames = sum(max(pair.source_frames, pair.target_frames) for pair in dev_pairs)
    dev_seconds = _WITHOUT_GRADIENT * dev_frames * usual_seconds / sizes[usual]
    return Plan(
        n_utterances=len(longest),
        n_frames=most,
        batch_seconds=batch_seconds,
        memory=memory,
        usual_utterances=statistics.fmean(map(len, shares)),
        unbounded_utterances=len(pairs) / -(-len(pairs) // (config.batch_size * processes)) / processes,
        steps=steps,
        seconds=steps * config.accum * per_batch + _n_measurements(trainer.step, config) * dev_seconds,
    )


def _padded(batch: Sequence[int], lengths: Sequence[int]) -> int:
    return len(batch) * max(lengths[i] for i in batch)


def _measured(trainer: Trainer, batch: Batch) -> tuple[float | None, int | None]:
    """Seconds and bytes that the gradient of a batch takes; None if memory does not suffice."""
    release_memory(trainer.device)
    reset_peak(trainer.device)
    try:
        seconds = trainer.rehearse(batch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release_memory(trainer.device)
        return None, None
    return seconds, peak(trainer.device) + trainer.bytes_to_come()


def _n_measurements(step: int, config: TrainConfig) -> int:
    """Measurements on the dev set between a step and the last one, which ends with one."""
    due = config.max_steps // config.eval_every - step // config.eval_every
    return due + bool(config.max_steps % config.eval_every)
