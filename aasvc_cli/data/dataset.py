"""Parallel pairs as padded batches."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aasvc_cli.config.settings import Config
from aasvc_cli.data.augmentation import Augmenter
from aasvc_cli.data.content_path import content_path
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.features.kinds import KINDS
from aasvc_cli.features.stats import NormStats

Array = npt.NDArray[np.float32]
MIXING = 0.5
"""By how many batches an utterance may move among those in order of length, so that not always the same ones meet."""
POOL = 2
"""Batches whose utterances, similar in their target lengths, are dealt out by their source lengths."""
_ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What a terminal or a batch scheduler sends to all processes of a job."""


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
    guide: Array | None = None
    """(T,), the source frame at which the same is said as in each target frame; not whole. None if not known."""

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Source, target and duration feature on a device."""
        sides = (self.source, self.target, self.duration_feature)
        source, target, duration_feature = (torch.from_numpy(side).to(device) for side in sides)
        return source, target, duration_feature


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
    guide: Tensor | None = None
    """(B, T), see :class:`Item`; None if not known."""
    spare: bool = False
    """Counts nothing: a process that has no part in a batch computes one utterance all the same, to stay in step."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        if self.source.device == device:
            return self
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, called by the loader."""
        pinned = {name: tensor.pin_memory() for name, tensor in self._tensors().items()}
        return dataclasses.replace(self, **pinned)

    def _tensors(self) -> dict[str, Any]:
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def rows(self, start: int, stop: int, *, trim: bool) -> Batch:
        """Some utterances of the batch; ``trim`` cuts padding that none of them needs."""
        part = {name: tensor[start:stop] for name, tensor in self._tensors().items()}
        if trim:
            source, target = (int(part[f"{side}_lengths"].max()) for side in ("source", "target"))
            lengths = {"source": source, "target": target, "duration_feature": source, "guide": target}
            part |= {name: part[name][:, :length] for name, length in lengths.items() if name in part}
        return dataclasses.replace(self, utterance_ids=self.utterance_ids[start:stop], **part)


_TENSORS = ("source", "source_lengths", "target", "target_lengths", "duration_feature", "guide")


class PairDataset(Dataset[Item]):
    """Features of pairs, read from disk and normalised when asked for.

    Args:
        pairs: what to serve
        load: gives the stored feature ``(T, D)`` of ``(kind, recording)``; ``FeatureStore.load``
        stats: mean and scale of each side, and the kinds of feature
        augmenter: changes the sources, differently in every epoch
        guided: also find out where both sides say the same, from their stored content
    """

    def __init__(
        self,
        pairs: Sequence[ParallelPair],
        load: Callable[..., Array],
        stats: NormStats,
        augmenter: Augmenter | None = None,
        *,
        guided: bool = False,
    ):
        self.pairs = tuple(pairs)
        self._load = load
        self._stats = stats
        self._augmenter = augmenter
        self._guided = guided
        self._guides: dict[int, Array] = {}
        self._seed = (0, 0)

    def __len__(self) -> int:
        return len(self.pairs)

    def at_longest(self) -> PairDataset:
        """The same pairs with the sources as long as they can become."""
        twin = copy.copy(self)
        twin._augmenter = self._augmenter.slowest() if self._augmenter is not None else None
        return twin

    def in_epoch(self, seed: int, epoch: int, *, varied: bool = True) -> PairDataset:
        """The pairs as they are in one epoch, or as they were recorded."""
        twin = copy.copy(self)
        twin._seed = (seed, epoch)
        if not varied:
            twin._augmenter = None
        return twin

    def __getitem__(self, index: int) -> Item:
        pair, stats = self.pairs[index], self._stats
        source, target = self._load(stats.kinds["source"], pair.source), self._load(stats.kinds["target"], pair.target)
        guide = self._guide(index) / np.float32(len(source)) if self._guided else None
        if self._augmenter is not None:
            source = self._augmenter(source, target_frames=len(target), seed=(*self._seed, index))
        same = stats.kinds["duration"] == stats.kinds["source"]
        duration = source if same else self._load(stats.kinds["duration"], pair.source)
        return Item(
            utterance_id=pair.utterance_id,
            source=stats.source.normalise(source),
            target=stats.target.normalise(target),
            duration_feature=stats.duration.normalise(duration),
            guide=None if guide is None else guide * np.float32(len(source)),
        )

    def _guide(self, index: int) -> Array:
        """(T,), in frames of the source as it was recorded; found once."""
        if index not in self._guides:
            pair = self.pairs[index]
            path = content_path(*(self._load("content", recording) for recording in (pair.source, pair.target)))
            self._guides[index] = path.source_positions().astype(np.float32)
        return self._guides[index]


def can_vary(config: Config) -> bool:
    """Whether the recordings of this configuration are features that can be varied."""
    return config.features.source == config.features.duration


def varied_pairs(
    pairs: Sequence[ParallelPair], load: Callable[..., Array], stats: NormStats, config: Config
) -> PairDataset:
    """Pairs to train on, varied as far as ``config.augment`` asks for it and the features allow."""
    augmenter = None
    if config.augment.share and can_vary(config):
        mel = config.features.mel if config.features.source == "mel" else None
        melody = KINDS[config.features.source].melody
        augmenter = Augmenter(config.augment, mel, frames_per_token=config.model.frames_per_token, melody=melody)
    return PairDataset(pairs, load, stats, augmenter, guided=config.loss.prior == "content")


def collate(items: Sequence[Item]) -> Batch:
    """Zero-pad items to their longest."""

    def padded(arrays: list[Array]) -> Tensor:
        longest = max(len(array) for array in arrays)
        result = torch.zeros(len(arrays), longest, arrays[0].shape[1])
        for row, array in zip(result, arrays, strict=True):
            row[: len(array)] = torch.from_numpy(array)
        return result

    guides = [item.guide[:, None] for item in items if item.guide is not None]
    return Batch(
        utterance_ids=tuple(item.utterance_id for item in items),
        source=padded([item.source for item in items]),
        source_lengths=torch.tensor([len(item.source) for item in items]),
        target=padded([item.target for item in items]),
        target_lengths=torch.tensor([len(item.target) for item in items]),
        duration_feature=padded([item.duration_feature for item in items]),
        guide=padded(guides)[..., 0] if len(guides) == len(items) else None,
    )


def epoch_batches(
    lengths: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    bucket: bool,
    source_lengths: Sequence[int] | None = None,
    max_frames: int | None = None,
    processes: int = 1,
    speakers: Sequence[str] | None = None,
) -> list[list[int]]:
    """The batches of one epoch, a function of the arguments only.

    Args:
        lengths: target frames of each utterance
        batch_size: utterances of each process, at most
        bucket: put utterances of similar length together
        source_lengths: source frames of each utterance, so that buckets can see to both sides
        max_frames: frames of each process on either side, padding included, at most; an utterance that is longer is
            alone in its batch
        processes: among how many a batch is dealt out
        speakers: of each utterance. Each speaker has an equal part in every batch then, to within one utterance, and
            as many utterances in the epoch as the one who has most; the others' come again.

    Returns:
        indices of each batch of all processes; every utterance once, unless ``speakers`` says otherwise
    """
    chooser = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chooser.shuffle(order)
    size = batch_size * processes
    if max_frames is not None:
        usual = len(lengths) * max_frames * processes // max(1, sum(lengths))
        size = max(1, min(size, usual))
    if speakers is not None:
        order = _in_turn(order, speakers, lengths if bucket else None, size, chooser)
    elif bucket:
        order = _by_length(order, lengths, size, chooser)
        if source_lengths is not None:
            order = _by_source_in_pools(order, source_lengths, size, chooser)
    batches = list(filled(order, longer_sides(lengths, source_lengths), batch_size, max_frames, processes))
    chooser.shuffle(batches)
    return batches


def longer_sides(lengths: Sequence[int], source_lengths: Sequence[int] | None) -> list[int]:
    """Frames of each utterance on its longer side."""
    return list(lengths) if source_lengths is None else list(map(max, lengths, source_lengths))


def pair_batches(
    pairs: Sequence[ParallelPair],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    bucket: bool,
    max_frames: int | None,
    processes: int,
) -> list[list[int]]:
    """The batches of one epoch of pairs, balanced over their speakers if there are several: :func:`epoch_batches`."""
    speakers = [pair.speaker for pair in pairs]
    return epoch_batches(
        [pair.target_frames or 1 for pair in pairs],
        batch_size,
        seed=seed,
        epoch=epoch,
        bucket=bucket,
        source_lengths=[pair.source_frames or 1 for pair in pairs],
        max_frames=max_frames,
        processes=processes,
        speakers=speakers if len(set(speakers)) > 1 else None,
    )


def _in_turn(
    order: Sequence[int], speakers: Sequence[str], lengths: Sequence[int] | None, size: int, chooser: random.Random
) -> list[int]:
    """One utterance of each speaker after the other, with ``lengths`` those of similar rank in length together."""
    own: dict[str, list[int]] = {}
    for index in order:
        own.setdefault(speakers[index], []).append(index)
    most = max(map(len, own.values()))
    columns = []
    for _, utterances in sorted(own.items()):
        column: list[int] = []
        while len(column) < most:
            column += chooser.sample(utterances, min(len(utterances), most - len(column)))
        if lengths is not None:
            column = _by_length(column, lengths, max(1, size // len(own)), chooser)
        columns.append(column)
    return [index for row in zip(*columns, strict=True) for index in row]


def _by_length(order: Sequence[int], lengths: Sequence[int], size: int, chooser: random.Random) -> list[int]:
    """Utterances in order of length, but for some noise."""
    ranks = enumerate(sorted(order, key=lambda i: lengths[i]))
    return [i for _, i in sorted((rank + MIXING * size * chooser.random(), i) for rank, i in ranks)]


def _by_source_in_pools(
    order: Sequence[int], source_lengths: Sequence[int], size: int, chooser: random.Random
) -> list[int]:
    """Utterances in order of source length within pools of some batches."""
    first = size * (1 + chooser.randrange(POOL))
    bounds = [0, *range(first, len(order), POOL * size), len(order)]
    return [i for a, b in pairwise(bounds) for i in sorted(order[a:b], key=lambda i: source_lengths[i])]


def filled(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, max_frames: int | None, processes: int = 1
) -> Iterator[list[int]]:
    """Consecutive utterances in batches of at most so many utterances and padded frames per process."""
    most = math.inf if max_frames is None else max_frames
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        rows = -(-(len(batch) + 1) // processes)
        if batch and (rows > batch_size or rows * longest > most):
            yield batch
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        yield batch


def longest_batch(lengths: Sequence[int], batch_size: int, max_frames: int | None) -> list[int]:
    """The utterances of the largest batch, in padded frames, that :func:`filled` can make in any order."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    most, best = 0, order[:1]
    for start, longest in enumerate(lengths[i] for i in order):
        rows = batch_size if max_frames is None else max(1, min(batch_size, max_frames // longest))
        batch = order[start : start + rows]
        if len(batch) * longest > most:
            most, best = len(batch) * longest, batch
    return best


@dataclass
class Position:
    """How far training has come in its stream of batches."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that were used, each dealt out among all processes."""


def batch_stream(
    dataset: PairDataset,
    position: Position,
    *,
    batch_size: int,
    seed: int,
    bucket: bool,
    n_workers: int,
    pin_memory: bool,
    max_frames: int | None = None,
    rank: int = 0,
    processes: int = 1,
    varied_from: int = 0,
) -> Iterator[Batch]:
    """Batches without end, from a position on; ``position`` is moved on as batches are handed out.

    With several processes, each gets its part of every batch; a part that would be empty is a spare one.

    Args:
        varied_from: number of the batch from which on sources are augmented, or rather of the first epoch after it
    """
    while True:
        batches = pair_batches(
            dataset.pairs,
            batch_size,
            seed=seed,
            epoch=position.epoch,
            bucket=bucket,
            max_frames=max_frames,
            processes=processes,
        )
        rest = batches[position.batch :]
        loader: DataLoader[Item] = DataLoader(
            dataset.in_epoch(seed, position.epoch, varied=position.epoch * len(batches) >= varied_from),
            batch_sampler=[batch[rank::processes] or batch[:1] for batch in rest],
            collate_fn=collate,
            num_workers=n_workers,
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=pin_memory,
            # of its own, because each new loader draws a seed: a resumed run would draw once more than the other
            generator=torch.Generator(),
        )
        with _signals_held_back():
            loaded = iter(loader)
        for whole, batch in zip(rest, loaded, strict=True):
            position.batch += 1
            if position.batch == len(batches):
                position.epoch, position.batch = position.epoch + 1, 0
            yield batch if rank < len(whole) else dataclasses.replace(batch, spare=True)
        if position.batch:  # the stream was entered behind the last batch
            position.epoch, position.batch = position.epoch + 1, 0


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Workers that are started meanwhile hear no signal before they are able to ignore it, nor afterwards.

    Signals to this thread arrive when the block is left.
    """
    mask = getattr(signal, "pthread_sigmask", None)  # Windows has none
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Outlive what asks a whole job to end: training takes one more step, and tells its workers when it is done."""
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
