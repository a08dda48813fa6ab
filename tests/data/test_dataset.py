"""Batches: nothing lost, nothing twice, the same order after a resume."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections import Counter
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.data.dataset import (
    PairDataset,
    Position,
    _signals_held_back,
    batch_stream,
    collate,
    epoch_batches,
    longest_batch,
    pair_batches,
)
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.features.stats import FeatureStats, NormStats


def _dataset(n_pairs: int) -> PairDataset:
    """Pairs whose features hold their own number, normalised by mean 1 and scale 2."""
    pairs = [
        ParallelPair(f"u{i}", Path(f"s{i}"), Path(f"t{i}"), source_frames=i + 8, target_frames=i + 9)
        for i in range(n_pairs)
    ]
    one = FeatureStats(np.ones(2, np.float32), np.full(2, 2.0, np.float32), 1)
    kinds = {"source": "mel", "target": "mel", "duration": "mcep"}
    stats = NormStats(one, one, one, kinds, dict.fromkeys(kinds, "key"), "test")

    def load(kind: str, recording: Path) -> np.ndarray:
        number = int(recording.name[1:])
        length = number + (8 if recording.name[0] == "s" else 9)
        return np.full((length, 2), number + (0.5 if kind == "mcep" else 0.0), np.float32)

    return PairDataset(pairs, load, stats)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=80),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 3),
    bucket=st.booleans(),
)
def test_an_epoch_holds_every_utterance_once(lengths, batch_size, epoch, bucket):
    batches = epoch_batches(lengths, batch_size, seed=1, epoch=epoch, bucket=bucket)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert batches == epoch_batches(lengths, batch_size, seed=1, epoch=epoch, bucket=bucket)


def test_epochs_and_seeds_differ_and_buckets_hold_similar_lengths():
    lengths = list(np.random.default_rng(0).integers(100, 500, 400))

    def padding(bucket: bool, seed: int = 1) -> int:
        batches = epoch_batches(lengths, 8, seed=seed, epoch=0, bucket=bucket)
        return sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) - sum(lengths)

    first = epoch_batches(lengths, 8, seed=1, epoch=0, bucket=True)
    assert first != epoch_batches(lengths, 8, seed=1, epoch=1, bucket=True)
    assert first != epoch_batches(lengths, 8, seed=2, epoch=0, bucket=True)
    assert padding(True) < 0.25 * padding(False)


@given(n_pairs=st.integers(1, 80), batch_size=st.integers(1, 9), epoch=st.integers(0, 3), seed=st.integers(0, 9))
def test_buckets_that_see_to_both_sides_hold_every_utterance_once(n_pairs, batch_size, epoch, seed):
    chooser = np.random.default_rng(seed)
    target, source = (chooser.integers(1, 500, n_pairs).tolist() for _ in range(2))
    batches = epoch_batches(target, batch_size, seed=1, epoch=epoch, bucket=True, source_lengths=source)
    assert sorted(index for batch in batches for index in batch) == list(range(n_pairs))
    assert len(batches) == -(-n_pairs // batch_size)


def test_buckets_keep_padding_small_on_both_sides_and_change_with_the_epoch():
    chooser = np.random.default_rng(0)
    target = chooser.integers(100, 500, 640)
    source = (target * chooser.uniform(0.8, 1.2, 640)).astype(int)

    def batches(epoch: int, **settings: Any) -> list[list[int]]:
        return epoch_batches(target.tolist(), 16, seed=1, epoch=epoch, **settings)

    def padding(lengths: np.ndarray, found: list[list[int]]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) - int(lengths[batch].sum()) for batch in found)

    random = batches(0, bucket=False)
    one_side, both = (batches(0, bucket=True, source_lengths=lengths) for lengths in (None, source.tolist()))
    assert padding(target, both) < 0.1 * padding(target, random)
    assert padding(source, both) < 0.3 * padding(source, random)
    assert padding(source, both) < 0.75 * padding(source, one_side)
    met = [
        {frozenset((a, b)) for batch in batches(epoch, bucket=True, source_lengths=source.tolist()) for a in batch
         for b in batch if a != b}
        for epoch in range(6)
    ]  # fmt: skip
    again = [len(before & after) / len(after) for before, after in pairwise(met)]
    assert max(again) < 0.9 and np.mean(again) < 0.7, "other utterances meet in the next epoch"


def test_items_are_normalised_and_batches_padded_with_zeros():
    dataset = _dataset(3)
    batch = collate([dataset[2], dataset[0]])
    assert batch.utterance_ids == ("u2", "u0")
    assert batch.source_lengths.tolist() == [10, 8] and batch.target_lengths.tolist() == [11, 9]
    assert batch.source[0].unique().tolist() == [0.5] and batch.duration_feature[0].unique().tolist() == [0.75]
    assert batch.source[1, :8].unique().tolist() == [-0.5] and not batch.source[1, 8:].any()


def _ids(stream: object, count: int) -> list[tuple[str, ...]]:
    return [batch.utterance_ids for batch in islice(stream, count)]  # type: ignore[call-overload]


def test_a_stream_goes_on_from_any_position_as_if_never_stopped():
    dataset = _dataset(7)
    settings = {"batch_size": 3, "seed": 5, "bucket": True, "n_workers": 0, "pin_memory": False}
    whole = _ids(batch_stream(dataset, Position(), **settings), 10)
    for stop in range(10):
        position = Position()
        before = _ids(batch_stream(dataset, position, **settings), stop)
        saved = Position(position.epoch, position.batch)
        assert before + _ids(batch_stream(dataset, saved, **settings), 10 - stop) == whole


def test_making_batches_draws_no_random_numbers_of_torch():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _ids(batch_stream(_dataset(5), Position(), batch_size=2, seed=1, bucket=False, n_workers=0, pin_memory=False), 9)
    assert torch.equal(torch.get_rng_state(), before)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=80),
    batch_size=st.integers(1, 8),
    max_frames=st.integers(1, 2000),
    processes=st.integers(1, 4),
    bucket=st.booleans(),
)
def test_batches_hold_every_utterance_once_and_never_too_many_utterances_or_frames(
    lengths, batch_size, max_frames, processes, bucket
):
    sources = lengths[::-1]
    batches = epoch_batches(
        lengths, batch_size, seed=1, epoch=0, bucket=bucket, source_lengths=sources, max_frames=max_frames,
        processes=processes,
    )  # fmt: skip
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        for rank in range(processes):
            share = batch[rank::processes]
            padded = len(share) * max((max(lengths[i], sources[i]) for i in share), default=0)
            assert len(share) <= batch_size
            assert padded <= max_frames or len(share) == 1


def test_batches_by_frames_are_filled():
    lengths = list(np.random.default_rng(0).integers(100, 500, 400))
    batches = epoch_batches(lengths, 64, seed=1, epoch=0, bucket=True, max_frames=4000)
    filled = [max(lengths[i] for i in batch) * len(batch) for batch in batches]
    assert np.mean(filled) > 0.85 * 4000
    assert len({len(batch) for batch in batches}) > 5


@pytest.mark.parametrize("bucket", [True, False])
def test_a_bound_that_no_batch_reaches_changes_no_batch(bucket):
    lengths, sources = np.random.default_rng(1).integers(100, 400, (2, 90)).tolist()
    epochs = [
        epoch_batches(lengths, 4, seed=1, epoch=2, bucket=bucket, source_lengths=sources, max_frames=bound)
        for bound in (None, 1600)
    ]
    assert epochs[0] == epochs[1]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=7),
    batch_size=st.integers(1, 4),
    max_frames=st.none() | st.integers(1, 60),
)
def test_the_longest_batch_is_the_longest_of_all_that_may_be(lengths, batch_size, max_frames):
    def padded(batch):
        return len(batch) * max(lengths[i] for i in batch)

    subsets = [each for size in range(1, batch_size + 1) for each in combinations(range(len(lengths)), size)]
    allowed = [each for each in subsets if max_frames is None or len(each) == 1 or padded(each) <= max_frames]
    longest = longest_batch(lengths, batch_size, max_frames)
    assert tuple(sorted(longest)) in allowed
    assert padded(longest) == max(map(padded, allowed))


@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    batch_size=st.integers(1, 7),
    max_frames=st.none() | st.integers(200, 1500),
    processes=st.integers(1, 3),
    bucket=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_speaker_has_an_equal_part_in_every_batch(counts, batch_size, max_frames, processes, bucket, epoch):
    speakers = [name for name, count in zip("abcd", counts, strict=False) for _ in range(count)]
    lengths = np.random.default_rng(sum(counts)).integers(50, 400, len(speakers)).tolist()
    batches = epoch_batches(
        lengths, batch_size, seed=1, epoch=epoch, bucket=bucket, source_lengths=lengths, max_frames=max_frames,
        processes=processes, speakers=speakers,
    )  # fmt: skip
    times = Counter(index for batch in batches for index in batch)
    assert set(times) == set(range(len(speakers))), "everybody says everything"
    for name in set(speakers):
        own = [times[index] for index, speaker in enumerate(speakers) if speaker == name]
        assert sum(own) == max(counts), "as often as the one who has most"
        assert max(own) - min(own) <= 1, "nothing is said twice before all is said once"
    for batch in batches:
        parts = Counter(speakers[index] for index in batch)
        assert max(parts.values()) - min(parts[name] for name in set(speakers)) <= 1


def test_the_lengths_in_a_batch_of_several_speakers_are_alike():
    lengths = np.random.default_rng(0).integers(100, 500, 300).tolist()
    padded = []
    for bucket in (True, False):
        batches = epoch_batches(
            lengths * 3, 6, seed=1, epoch=0, bucket=bucket, speakers=["a"] * 300 + ["b"] * 300 + ["c"] * 300
        )
        padded.append(sum(len(batch) * max((lengths * 3)[i] for i in batch) for batch in batches))
    assert padded[0] < 1.1 * 3 * sum(lengths) < padded[1]


def test_pairs_of_one_speaker_are_batched_as_if_nothing_were_known_of_speakers():
    pairs = list(_dataset(20).pairs)
    settings = {"seed": 3, "epoch": 1, "bucket": True, "max_frames": None, "processes": 1}
    expected = epoch_batches(
        [pair.target_frames for pair in pairs], 4, source_lengths=[pair.source_frames for pair in pairs], **settings
    )
    assert pair_batches(pairs, 4, **settings) == expected
    named = [dataclasses.replace(pair, speaker="a") for pair in pairs]
    assert pair_batches(named, 4, **settings) == expected


@given(n_pairs=st.integers(1, 12), processes=st.integers(1, 4), batch_size=st.integers(1, 3), stop=st.integers(0, 5))
def test_processes_share_every_batch_and_stay_in_step(n_pairs, processes, batch_size, stop):
    dataset = _dataset(n_pairs)
    settings: dict[str, Any] = {"seed": 5, "bucket": True, "n_workers": 0, "pin_memory": False}
    whole = _ids(batch_stream(dataset, Position(), batch_size=batch_size * processes, **settings), 6)
    positions = [Position() for _ in range(processes)]
    shares = []
    for rank, position in enumerate(positions):
        among = {"rank": rank, "processes": processes, "batch_size": batch_size, **settings}
        before = list(islice(batch_stream(dataset, position, **among), stop))
        saved = Position(position.epoch, position.batch)
        shares.append(before + list(islice(batch_stream(dataset, saved, **among), 6 - stop)))
    assert all(position == positions[0] for position in positions)
    for number, ids in enumerate(whole):
        counted = [share[number].utterance_ids for share in shares if not share[number].spare]
        assert sorted(name for part in counted for name in part) == sorted(ids)
        assert all(len(share[number].utterance_ids) == 1 for share in shares if share[number].spare)


def test_a_batch_is_padded_to_its_longest_row_only():
    dataset = _dataset(5)
    batch = collate([dataset[0], dataset[4], dataset[2]])
    part = batch.rows(2, 3, trim=True)
    assert part.utterance_ids == ("u2",)
    alone = collate([dataset[2]])
    assert all(
        torch.equal(getattr(part, name), getattr(alone, name)) for name in ("source", "target", "duration_feature")
    )
    assert batch.rows(2, 3, trim=False).source.shape[1] == batch.source.shape[1]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_signals_wait_until_workers_are_started():
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with _signals_held_back():
            # to this thread: one that is meant for the process goes to any thread that takes it
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            assert heard == []
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


class TestGuides:
    """Where pairs say the same."""

    @staticmethod
    def dataset(**options: Any) -> PairDataset:
        """The target says everything twice as slowly as the source; how often its content is loaded is counted."""
        content = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
        sides = {"s": content, "t": np.repeat(content, 2, axis=0)}
        plain = _dataset(1)
        pairs = [ParallelPair("u0", Path("s0"), Path("t0"), source_frames=10, target_frames=20)]
        loaded: list[str] = []

        def load(kind: str, recording: Path) -> np.ndarray:
            loaded.append(kind)
            return sides[recording.name[0]] if kind == "content" else sides[recording.name[0]][:, :2]

        dataset = PairDataset(pairs, load, plain._stats, **options)
        dataset.loaded = loaded  # type: ignore[attr-defined]
        return dataset

    def test_say_which_source_frame_belongs_to_each_target_frame(self):
        batch = collate([self.dataset(guided=True)[0]])
        assert batch.guide is not None
        np.testing.assert_allclose(batch.guide[0], np.repeat(np.arange(10), 2))

    def test_follow_a_source_that_is_changed_in_tempo(self):
        def slower(source: np.ndarray, **_: Any) -> np.ndarray:
            return np.repeat(source, 3, axis=0)

        item = self.dataset(guided=True, augmenter=slower)[0]
        np.testing.assert_allclose(item.guide, 3.0 * np.repeat(np.arange(10), 2), rtol=1e-6)

    def test_are_found_once(self):
        dataset = self.dataset(guided=True)
        for epoch in range(3):
            dataset.in_epoch(1, epoch)[0]
        assert dataset.loaded.count("content") == 2

    def test_are_left_out_where_nobody_asks_for_them(self):
        dataset = self.dataset()
        assert collate([dataset[0]]).guide is None
        assert "content" not in dataset.loaded

    def test_are_padded_cut_and_moved_with_their_batch(self):
        short, long = self.dataset(guided=True)[0], self.dataset(guided=True)[0]
        short = dataclasses.replace(short, target=short.target[:6], guide=short.guide[:6])
        batch = collate([short, long])
        assert batch.guide is not None and batch.guide.shape == (2, 20) and not batch.guide[0, 6:].any()
        piece = batch.rows(0, 1, trim=True).to(torch.device("cpu"))
        assert piece.guide is not None and piece.guide.shape == (1, 6)
