"""Parallel pairs as padded batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aasvc_cli.corpus import ParallelPair
from aasvc_cli.features import NormStats

Array = npt.NDArray[np.float32]
LENGTH_JITTER = 0.1
"""Relative noise on lengths before bucketing, so that the same utterances do not always meet."""


@dataclass(frozen=True)
class Item:
    """One pair, normalised."""

    utterance_id: str
    source: Array
    """(S, D)"""
    target: Array
    """(T, M)"""
    duration_feature: Array
    """(S, D')"""


@dataclass(frozen=True)
class Batch:
    """Several pairs, zero-padded."""

    utterance_ids: tuple[str, ...]
    source: Tensor
    """(B, S, D)"""
    source_lengths: Tensor
    """(B,)"""
    target: Tensor
    """(B, T, M)"""
    target_lengths: Tensor
    """(B,)"""
    duration_feature: Tensor
    """(B, S, D')"""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        if self.source.device == device:
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("source", "source_lengths", "target", "target_lengths", "duration_feature")
        }
        return Batch(utterance_ids=self.utterance_ids, **moved)

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, called by the loader."""
        pinned = {
            name: getattr(self, name).pin_memory()
            for name in ("source", "source_lengths", "target", "target_lengths", "duration_feature")
        }
        return Batch(utterance_ids=self.utterance_ids, **pinned)


class PairDataset(Dataset[Item]):
    """Features of pairs, read from disk and normalised when asked for.

    Args:
        pairs: what to serve
        load: gives the stored feature ``(T, D)`` of ``(kind, recording)``; ``FeatureStore.load``
        stats: mean and scale of each side, and the kinds of feature
    """

    def __init__(self, pairs: Sequence[ParallelPair], load: Callable[..., Array], stats: NormStats):
        self.pairs = tuple(pairs)
        self._load = load
        self._stats = stats

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        pair, stats = self.pairs[index], self._stats
        source = self._load(stats.kinds["source"], pair.source)
        target = self._load(stats.kinds["target"], pair.target)
        same = stats.kinds["duration"] == stats.kinds["source"]
        duration = source if same else self._load(stats.kinds["duration"], pair.source)
        return Item(
            utterance_id=pair.utterance_id,
            source=stats.source.normalise(source),
            target=stats.target.normalise(target),
            duration_feature=stats.duration.normalise(duration),
        )


def collate(items: Sequence[Item]) -> Batch:
    """Zero-pad items to their longest."""

    def padded(arrays: list[Array]) -> Tensor:
        longest = max(len(array) for array in arrays)
        result = torch.zeros(len(arrays), longest, arrays[0].shape[1])
        for row, array in zip(result, arrays, strict=True):
            row[: len(array)] = torch.from_numpy(array)
        return result

    return Batch(
        utterance_ids=tuple(item.utterance_id for item in items),
        source=padded([item.source for item in items]),
        source_lengths=torch.tensor([len(item.source) for item in items]),
        target=padded([item.target for item in items]),
        target_lengths=torch.tensor([len(item.target) for item in items]),
        duration_feature=padded([item.duration_feature for item in items]),
    )


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, bucket: bool) -> list[list[int]]:
    """The batches of one epoch, a function of seed and epoch only.

    Args:
        lengths: frames of each utterance
        bucket: put utterances of similar length together

    Returns:
        indices of each batch; every utterance once, the last batch may be smaller
    """
    chooser = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chooser.shuffle(order)
    if bucket:
        order.sort(key=lambda i: lengths[i] * (1.0 + LENGTH_JITTER * chooser.random()))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    chooser.shuffle(batches)
    return batches


@dataclass
class Position:
    """How far training has come in its stream of batches."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that were used."""


def batch_stream(
    dataset: PairDataset,
    position: Position,
    *,
    batch_size: int,
    seed: int,
    bucket: bool,
    n_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Batches without end, from a position on; ``position`` is moved on as batches are handed out."""
    lengths = [pair.target_frames or 1 for pair in dataset.pairs]
    while True:
        batches = epoch_batches(lengths, batch_size, seed=seed, epoch=position.epoch, bucket=bucket)
        loader: DataLoader[Item] = DataLoader(
            dataset,
            batch_sampler=batches[position.batch :],
            collate_fn=collate,
            num_workers=n_workers,
            pin_memory=pin_memory,
            # of its own, because each new loader draws a seed: a resumed run would draw once more than the other
            generator=torch.Generator(),
        )
        for batch in loader:
            position.batch += 1
            if position.batch == len(batches):
                position.epoch, position.batch = position.epoch + 1, 0
            yield batch
        if position.batch:  # the stream was entered behind the last batch
            position.epoch, position.batch = position.epoch + 1, 0
