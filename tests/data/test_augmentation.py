"""Changed recordings look as recordings of such a voice would: compared with sounds that really are so."""

from __future__ import annotations

import dataclasses
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel, mel_basis, mel_centres
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.settings import AugmentConfig, MelConfig
from aasvc_cli.data.augmentation import Augmenter, Change, changed, draw, stretched, warped, with_noise
from aasvc_cli.data.dataset import PairDataset, Position, batch_stream, varied_pairs
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.features.stats import FeatureStats, NormStats

MEL = MelConfig()
RANDOM = np.random.default_rng(0)
ALL = AugmentConfig(share=1.0, noise_share=1.0)


def vowel(f0: float, *, formant: float = 1.0, seconds: float = 1.0) -> np.ndarray:
    """Harmonics of a pitch under three resonances, whose frequencies are multiplied by a factor."""
    times = np.arange(round(seconds * MEL.sample_rate)) / MEL.sample_rate
    wave = np.zeros(len(times))
    for harmonic in range(1, int(MEL.sample_rate / 2 / f0)):
        hertz = harmonic * f0 / formant
        gain = sum(1.0 / (1.0 + ((hertz - peak) / 120.0) ** 2) for peak in (600.0, 1400.0, 2700.0)) + 0.003
        wave += gain * np.cos(2 * np.pi * harmonic * f0 * times + harmonic**2)
    return (0.05 * wave).astype(np.float32)


def distance(one: np.ndarray, other: np.ndarray, bands: slice = slice(0, 60)) -> float:
    """Mean absolute difference; the highest bands have nothing above them from which they could be filled."""
    return float(np.abs(one[4:-4, bands] - other[4:-4, bands]).mean())


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.12, 1.25])
def test_another_pitch_moves_the_harmonics_and_leaves_the_formants(factor):
    spoken, higher = log_mel(vowel(120.0), MEL), log_mel(vowel(120.0 * factor), MEL)
    result = warped(spoken, MEL, pitch=factor, formant=1.0)
    # harmonics can be told apart in the lowest bands
    assert distance(result, higher, slice(0, 20)) < 0.7 * distance(spoken, higher, slice(0, 20))
    peak = MEL.n_mels // 4
    assert abs(int(result[:, :peak].mean(0).argmax()) - int(higher[:, :peak].mean(0).argmax())) <= 3


@pytest.mark.parametrize("factor", [0.85, 1.0 / 1.1, 1.1, 1.15])
def test_another_vocal_tract_moves_the_formants_and_leaves_the_harmonics(factor):
    spoken, smaller = log_mel(vowel(120.0), MEL), log_mel(vowel(120.0, formant=factor), MEL)
    result = warped(spoken, MEL, pitch=1.0, formant=factor)
    assert distance(result, smaller) < 0.5 * distance(spoken, smaller)


@pytest.mark.parametrize("semitones", [-3, 2, 4])
def test_both_together_are_what_playing_faster_does_to_a_spectrum(semitones, data):
    recording = resample(*read_audio(data / "male.flac"), MEL.sample_rate)

    factor = 2 ** (semitones / 12)
    faster = soxr.resample(recording, MEL.sample_rate * factor, MEL.sample_rate)
    spoken, played = log_mel(recording, MEL), log_mel(faster, MEL)
    result = changed(spoken, Change(tempo=factor, pitch=factor, formant=factor), MEL, RANDOM)
    assert len(result) == round(len(spoken) / factor)
    count = min(len(result), len(played))
    plain = stretched(spoken, len(result))
    assert distance(result[:count], played[:count]) < 0.5 * distance(plain[:count], played[:count])


@pytest.mark.parametrize("log_base", [10.0, 2.0, None])
def test_louder_is_the_mel_of_the_louder_recording(log_base):
    mel = dataclasses.replace(MEL, log_base=log_base)
    wave = vowel(140.0)
    result = changed(log_mel(wave, mel), Change(gain_db=5.0), mel, RANDOM)
    np.testing.assert_allclose(result, log_mel(wave * np.float32(10 ** (5 / 20)), mel), atol=2e-4)


def test_noise_is_that_of_a_noisy_recording():
    """White noise of the same level, added to the samples, has the same mean in every band."""
    wave = np.zeros(MEL.sample_rate * 4, np.float32)
    wave[: len(wave) // 2] = vowel(150.0, seconds=2.0)
    clean = log_mel(wave, MEL)
    result = with_noise(clean, MEL, np.random.default_rng(1), snr_db=20.0, tilt_db=0.0)
    # the level that this is in the waveform, from the mean square magnitude of the window's spectrum of white noise
    basis = mel_basis(MEL)
    magnitude = np.sqrt(np.random.default_rng(2).standard_exponential((400, basis.shape[1]))) @ basis.T
    level = math.sqrt((10.0 ** (2 * clean)).mean() / (magnitude**2).mean()) * 0.1
    window_energy = 3.0 / 8.0 * MEL.n_fft  # of Hann's
    noise = np.random.default_rng(3).standard_normal(len(wave)) * level / math.sqrt(window_energy)
    noisy = log_mel((wave + noise).astype(np.float32), MEL)
    assert np.abs(result.mean(0) - noisy.mean(0)).max() < 0.06
    silent = slice(len(result) // 2 + 4, -4)
    # a window makes neighbouring bins alike, so the real bands vary somewhat more
    assert np.abs(result[silent].std(0) - noisy[silent].std(0)).max() < 0.08
    assert np.median(result[silent] - clean[silent]) > 2.0


def test_noise_rises_with_its_tilt():
    quiet = np.full((200, MEL.n_mels), -6.0, np.float32)
    flat, rising = (
        with_noise(quiet, MEL, np.random.default_rng(0), snr_db=-40.0, tilt_db=tilt).mean(0) for tilt in (0.0, 6.0)
    )
    octaves = np.log2(mel_centres(MEL) / 1000.0)
    middle = slice(20, 70)
    slope = np.polyfit(octaves[middle], (rising - flat)[middle], 1)[0] * 20.0
    assert slope == pytest.approx(6.0, abs=0.3)


@given(n_frames=st.integers(1, 60), new=st.integers(1, 90))
def test_another_tempo_keeps_a_straight_line_straight(n_frames, new):
    line = np.linspace(-3.0, 1.0, n_frames)[:, None].astype(np.float32) * np.ones(3, np.float32)
    result = stretched(line, new)
    assert result.shape == (new, 3) and result.min() >= line.min() and result.max() <= line.max()
    place = np.clip((np.arange(new) + 0.5) * n_frames / new - 0.5, 0, n_frames - 1)
    np.testing.assert_allclose(result[:, 0], np.interp(place, np.arange(n_frames), line[:, 0]), atol=1e-5)


def test_nothing_changed_is_the_very_same():
    spoken = log_mel(vowel(120.0), MEL)
    assert changed(spoken, Change(), MEL, RANDOM) is spoken
    np.testing.assert_allclose(warped(spoken, MEL, pitch=1.0, formant=1.0), spoken, atol=1e-5)


def test_silence_stays_finite_and_at_the_floor():
    silence = log_mel(np.zeros(8000, np.float32), MEL)
    everything = Change(tempo=0.9, pitch=1.2, formant=0.9, gain_db=-6.0)
    result = changed(silence, everything, MEL, RANDOM)
    assert result.dtype == np.float32 and np.all(result == result.min()) and result.min() == pytest.approx(-10.0)


@given(seed=st.integers(0, 2**32), pitch=st.floats(0, 12), formant=st.floats(0, 0.3), tempo=st.floats(0, 0.5))
def test_changes_stay_within_their_ranges(seed, pitch, formant, tempo):
    settings = AugmentConfig(share=0.7, pitch=pitch, formant=formant, tempo=tempo)
    change = draw(settings, np.random.default_rng(seed))
    assert abs(12 * math.log2(change.pitch)) <= pitch + 1e-9
    assert abs(math.log(change.formant)) <= math.log1p(formant) + 1e-9
    assert abs(math.log(change.tempo)) <= math.log1p(tempo) + 1e-9
    assert abs(change.gain_db) <= settings.gain_db
    assert change.snr_db is None or 20.0 <= change.snr_db <= 50.0


def test_as_many_are_changed_as_asked_for():
    settings = AugmentConfig(share=0.4, noise_share=0.25)
    drawn = [draw(settings, np.random.default_rng(seed)) for seed in range(2000)]
    touched = [change for change in drawn if change != Change()]
    assert len(touched) / len(drawn) == pytest.approx(0.4, abs=0.04)
    assert sum(change.snr_db is not None for change in touched) / len(touched) == pytest.approx(0.25, abs=0.05)
    assert not any(draw(AugmentConfig(), np.random.default_rng(seed)) != Change() for seed in range(50))


@given(n_frames=st.integers(1, 200), target_frames=st.integers(1, 60), seed=st.integers(0, 1000))
def test_a_slower_recording_can_still_be_aligned(n_frames, target_frames, seed):
    settings = dataclasses.replace(ALL, tempo=1.0)
    spoken = np.zeros((n_frames, MEL.n_mels), np.float32)
    result = Augmenter(settings, MEL, frames_per_token=4)(spoken, target_frames=target_frames, seed=(seed,))
    assert len(result) <= max(n_frames, 4 * target_frames)
    longest = Augmenter(settings, MEL, frames_per_token=4).slowest()(spoken, target_frames=1000, seed=(seed,))
    assert len(longest) == 2 * n_frames


def test_of_other_features_only_the_tempo_changes():
    """A ramp stays a ramp, far below where mels have their floor, and as steep as it is slower."""
    ramp = np.linspace(-900.0, -800.0, 200, dtype=np.float32)[:, None]
    results = [Augmenter(ALL, None, frames_per_token=4)(ramp, target_frames=1000, seed=(seed,)) for seed in range(20)]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
    for result in results:
        assert 200 / 1.16 <= len(result) <= 200 * 1.16
        slope = np.diff(result[10:-10, 0])
        assert slope == pytest.approx(100.0 / 199 * 200 / len(result), rel=0.01)
    assert len({len(result) for result in results}) > 5


def test_a_melody_is_taken_away_in_every_manner_and_what_is_said_stays():
    settings = AugmentConfig(share=1.0, tempo=0.0, monotone_share=0.6)
    feature = np.random.default_rng(0).uniform(0.1, 0.9, (50, 4)).astype(np.float32)
    found = {"as it was": 0, "monotonous": 0, "buzz": 0, "whisper": 0}
    for seed in range(400):
        result = Augmenter(settings, None, frames_per_token=4, melody=True)(feature, target_frames=50, seed=(seed,))
        np.testing.assert_array_equal(result[:, :2], feature[:, :2])
        if np.array_equal(result, feature):
            found["as it was"] += 1
            continue
        assert not result[:, 2].any()
        voicing = result[:, 3]
        manner = "monotonous" if np.array_equal(voicing, feature[:, 3]) else {1.0: "buzz", 0.0: "whisper"}[voicing[0]]
        assert manner == "monotonous" or len(set(voicing)) == 1
        found[manner] += 1
    assert found.pop("as it was") == pytest.approx(160, abs=30)
    assert min(found.values()) > 50
    other = Augmenter(settings, None, frames_per_token=4)(feature, target_frames=50, seed=(1,))
    np.testing.assert_array_equal(other, feature)  # whose last channels are something else


@pytest.mark.parametrize(("kind", "known"), [("content_f0", True), ("content", False)])
def test_the_kind_of_feature_says_whether_there_is_a_melody(kind: str, known: bool):
    """Of a feature without one, the last two channels are like the others."""
    tree = {
        "features": {"source": kind, "duration": kind},
        "augment": {"share": 1.0, "tempo": 0.0, "monotone_share": 1.0},
    }
    one = FeatureStats(np.zeros(4, np.float32), np.ones(4, np.float32), 1)
    kinds = {"source": kind, "duration": kind, "target": "mel"}
    stats = NormStats(one, one, one, kinds, dict.fromkeys(kinds, "k"), "t")
    pairs = [ParallelPair("u", Path("s"), Path("t"), source_frames=20, target_frames=20)]
    dataset = varied_pairs(pairs, lambda kind, path: np.full((20, 4), 0.5, np.float32), stats, parse_config(tree, "t"))
    source = dataset.in_epoch(0, 0)[0].source
    assert (source[:, :2] == 0.5).all() and (source[:, 2] == (0.0 if known else 0.5)).all()


def _dataset(augmenter: Augmenter | None) -> PairDataset:
    pairs = [ParallelPair(f"u{i}", Path(f"s{i}"), Path(f"t{i}"), source_frames=30, target_frames=30) for i in range(5)]
    one = FeatureStats(np.zeros(MEL.n_mels, np.float32), np.ones(MEL.n_mels, np.float32), 1)
    kinds = dict.fromkeys(("source", "target", "duration"), "mel")
    spoken = log_mel(vowel(150.0, seconds=0.3), MEL)
    return PairDataset(
        pairs, lambda kind, path: spoken, NormStats(one, one, one, kinds, dict.fromkeys(kinds, "k"), "t"), augmenter
    )


def test_epochs_differ_and_a_resumed_stream_goes_on_with_the_same_changes():
    dataset = _dataset(Augmenter(ALL, MEL, frames_per_token=4))
    settings = {"batch_size": 2, "seed": 3, "bucket": False, "n_workers": 0, "pin_memory": False}
    whole = list(islice(batch_stream(dataset, Position(), **settings), 9))
    position = Position()
    begun = list(islice(batch_stream(dataset, position, **settings), 4))
    resumed = list(islice(batch_stream(dataset, Position(position.epoch, position.batch), **settings), 5))
    for batch, again in zip(whole, begun + resumed, strict=True):
        assert batch.utterance_ids == again.utterance_ids
        np.testing.assert_array_equal(batch.source, again.source)
        np.testing.assert_array_equal(batch.source, batch.duration_feature)
    versions = {batch.source[row].numpy().tobytes() for batch in whole for row in range(len(batch.utterance_ids))}
    assert len(versions) == sum(len(batch.utterance_ids) for batch in whole)
    plain = _dataset(None)
    np.testing.assert_array_equal(whole[0].target[0], plain[0].target)


@pytest.mark.parametrize(("varied_from", "first_varied_epoch"), [(0, 0), (1, 1), (3, 1), (4, 2), (7, 3)])
def test_epochs_before_the_start_are_as_recorded(varied_from: int, first_varied_epoch: int):
    dataset, plain = _dataset(Augmenter(ALL, MEL, frames_per_token=4)), _dataset(None)
    settings = {"batch_size": 2, "seed": 3, "bucket": False, "n_workers": 0, "pin_memory": False}
    batches = list(islice(batch_stream(dataset, Position(), **settings, varied_from=varied_from), 12))  # 3 in an epoch
    recorded = list(islice(batch_stream(plain, Position(), **settings), 12))
    same = [batch.source.equal(other.source) for batch, other in zip(batches, recorded, strict=True)]
    assert same == [i < 3 * first_varied_epoch for i in range(12)]
