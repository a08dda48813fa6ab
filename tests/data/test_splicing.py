"""Joined pairs: of recorded frames, cut at the same moment on both sides, never longer than what they replace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel, resample
from aasvc_cli.config.settings import AugmentConfig, Config, FeatureConfig, MelConfig
from aasvc_cli.data.augmentation import Augmenter, Change, changed, stretched
from aasvc_cli.data.dataset import PairDataset, Position, batch_stream, varied_pairs
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.data.splicing import EDGE_FRAMES, SHORTEST, Splicer, cuts
from aasvc_cli.features.stats import FeatureStats, NormStats

MEL = MelConfig(n_mels=80)


@pytest.fixture(scope="module")
def spoken(data: Path) -> np.ndarray:
    return log_mel(resample(*read_audio(data / "male.flac"), MEL.sample_rate), MEL)


def syllables(seed: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A pair of the same bursts of sound with pauses between, spoken at two paces, by two voices, and numbered.

    The source's frames hold the number of the syllable in band 0 and the target's in band 1, far below all levels
    that matter.
    """
    random = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number in range(count):
        shape = np.convolve(random.normal(size=MEL.n_mels), np.ones(9) / 3, mode="same")
        for side, (voice, length) in enumerate([(0.0, random.integers(12, 20)), (1.0, random.integers(12, 20))]):
            burst = np.hanning(length)[:, None] * (2.0 + shape + 0.3 * voice) - 4.0
            pause = np.full((6, MEL.n_mels), -4.0)
            for block in (burst, pause):
                block[:, side] = -4.0 + 1e-3 * (10 * seed + number)
                parts[side].append(block)
    source, target = (np.concatenate(side).astype(np.float32) for side in parts)
    return source, target


def numbers(frames: np.ndarray, side: int) -> list[int]:
    """The numbers of the syllables in a joined recording, in order, each once."""
    found = np.rint((frames[:, side] + 4.0) / 1e-3).astype(int)
    return [int(n) for i, n in enumerate(found) if i == 0 or n != found[i - 1]]


def test_both_sides_are_cut_between_the_same_syllables():
    pairs = [syllables(seed) for seed in range(8)]
    splicer = Splicer(1.0, MEL, frames_per_step=4.0)
    joined = 0
    for index in range(8):
        for version in range(10):
            source, target = splicer(index, 8, pairs.__getitem__, seed=(version, index))
            here, there = numbers(source, 0), numbers(target, 1)
            assert here == there
            owners = [number // 10 for number in here]
            assert owners[0] == index
            assert owners == sorted(owners, key=lambda owner: owner != index), "one other pair follows"
            assert len(set(owners)) <= 2
            joined += len(set(owners)) == 2
    assert joined > 60


@pytest.mark.parametrize("pace", [0.8, 1.0, 1.3])
def test_a_cut_of_the_source_is_the_same_moment(spoken: np.ndarray, pace: float):
    source = stretched(spoken, round(len(spoken) / pace))
    found = cuts(source, spoken, MEL)
    assert len(found) >= 4
    assert np.abs(found[:, 0] - found[:, 1] / pace).max() <= 8
    assert np.median(np.abs(found[:, 0] - found[:, 1] / pace)) <= 3


def test_a_louder_and_deeper_voice_is_cut_at_the_same_moments(spoken: np.ndarray):
    other = changed(spoken, Change(gain_db=5.0, pitch=0.8, formant=0.92), MEL, np.random.default_rng(0))
    found = cuts(other, spoken, MEL)
    assert np.median(np.abs(found[:, 0] - found[:, 1])) <= 3


def test_cuts_are_where_it_is_quiet_and_not_at_the_ends(spoken: np.ndarray):
    found = cuts(spoken, spoken, MEL)
    level = spoken.mean(axis=1)
    assert level[found[:, 1]].mean() < np.quantile(level, 0.35)
    for side in (0, 1):
        assert found[:, side].min() >= EDGE_FRAMES
        assert found[:, side].max() < len(spoken) - EDGE_FRAMES


@settings(max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 120)), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    ratio=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_joined_pairs_consist_of_recorded_frames_and_fit_where_the_pair_did(lengths, seed, ratio):
    random = np.random.default_rng(seed)
    pairs = [
        tuple(random.normal(size=(length, MEL.n_mels)).astype(np.float32) for length in sides) for sides in lengths
    ]
    splicer = Splicer(1.0, MEL, frames_per_step=ratio)
    for index, (source, target) in enumerate(pairs):
        new_source, new_target = splicer(index, len(pairs), pairs.__getitem__, seed=(seed, index))
        assert len(new_source) <= len(source)
        assert len(new_target) <= len(target)
        if new_target is target:
            assert new_source is source
            continue
        assert len(new_target) >= SHORTEST * len(target)
        assert len(new_source) <= ratio * len(new_target)
        for side, new in enumerate((new_source, new_target)):
            own = pairs[index][side]
            begins = next((i for i in range(len(new)) if not np.array_equal(new[i], own[i])), len(new))
            rest = new[begins:]
            others = [pair[side] for number, pair in enumerate(pairs) if number != index]
            assert any(
                len(rest) < len(other) and np.array_equal(other[len(other) - len(rest) :], rest) for other in others
            )


def test_as_many_are_joined_as_asked_for():
    pairs = [syllables(seed) for seed in range(4)]
    for share in (0.0, 0.3, 1.0):
        splicer = Splicer(share, MEL, frames_per_step=4.0)
        joined = [splicer(i % 4, 4, pairs.__getitem__, seed=(i,))[1] is not pairs[i % 4][1] for i in range(400)]
        assert sum(joined) / 400 == pytest.approx(share, abs=0.07)
    assert Splicer(1.0, MEL, frames_per_step=4.0)(0, 1, pairs.__getitem__, seed=(1,)) == pairs[0], "nothing to join"


def _dataset(splicer: Splicer | None, augmenter: Augmenter | None = None) -> PairDataset:
    return PairDataset(*_data(), augmenter, splicer)


def _data() -> tuple[list[ParallelPair], Callable[..., np.ndarray], NormStats]:
    recordings = {f"{side}{i}": syllables(i)[which] for i in range(5) for which, side in enumerate("st")}
    pairs = [
        ParallelPair(f"u{i}", Path(f"s{i}"), Path(f"t{i}"), len(recordings[f"s{i}"]), len(recordings[f"t{i}"]))
        for i in range(5)
    ]
    one = FeatureStats(np.zeros(MEL.n_mels, np.float32), np.ones(MEL.n_mels, np.float32), 1)
    kinds = dict.fromkeys(("source", "target", "duration"), "mel")
    stats = NormStats(one, one, one, kinds, dict.fromkeys(kinds, "k"), "t")
    return pairs, lambda kind, path: recordings[path.name], stats


@pytest.mark.parametrize(
    ("share", "duration", "joins"), [(1.0, "mel", True), (0.0, "mel", False), (1.0, "mcep", False)]
)
def test_a_configuration_joins_pairs_if_it_asks_for_it_and_its_features_are_mels(share, duration, joins):
    config = Config(augment=AugmentConfig(splice_share=share), features=FeatureConfig(duration=duration))
    pairs, load, stats = _data()
    varied = varied_pairs(pairs, load, stats, config).in_epoch(1, 0)
    recorded = [len(load("mel", pair.target)) for pair in pairs]
    assert ([len(item.target) for item in varied] != recorded) == joins


@pytest.mark.parametrize("augmented", [False, True])
def test_a_resumed_stream_joins_the_same_pairs_and_epochs_differ(augmented: bool):
    augmenter = Augmenter(AugmentConfig(share=1.0), MEL, frames_per_step=4.0) if augmented else None
    dataset = _dataset(Splicer(1.0, MEL, frames_per_step=4.0), augmenter)
    stream = {"batch_size": 2, "seed": 3, "bucket": False, "n_workers": 0, "pin_memory": False}
    whole = list(islice(batch_stream(dataset, Position(), **stream), 9))
    fresh = _dataset(Splicer(1.0, MEL, frames_per_step=4.0), augmenter)
    position = Position()
    begun = list(islice(batch_stream(dataset, position, **stream), 4))
    resumed = list(islice(batch_stream(fresh, Position(position.epoch, position.batch), **stream), 5))
    for batch, again in zip(whole, begun + resumed, strict=True):
        assert batch.utterance_ids == again.utterance_ids
        np.testing.assert_array_equal(batch.source, again.source)
        np.testing.assert_array_equal(batch.target, again.target)
        np.testing.assert_array_equal(batch.source, batch.duration_feature)
    versions = {batch.target[row].numpy().tobytes() for batch in whole for row in range(len(batch.utterance_ids))}
    assert len(versions) > 12


def test_pairs_are_as_recorded_before_the_start_and_where_the_longest_are_asked_for():
    dataset, plain = _dataset(Splicer(1.0, MEL, frames_per_step=4.0)), _dataset(None)
    for there in (dataset.in_epoch(1, 0, varied=False), dataset.at_longest()):
        for item, recorded in zip(there, plain, strict=True):
            np.testing.assert_array_equal(item.target, recorded.target)
            np.testing.assert_array_equal(item.source, recorded.source)
