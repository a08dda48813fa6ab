import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.reading import override
from aasvc_cli.config.settings import Config, FeatureConfig, MelConfig
from aasvc_cli.data.checks import smallest_frames_per_token
from aasvc_cli.data.manifest import ParallelPair, read_manifest
from aasvc_cli.data.preparation import PrepareReport
from aasvc_cli.errors import DataError, Interrupted, MissingExtraError, StorageError
from aasvc_cli.features.kinds import KINDS, extract, feature_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.storage.home import Home

RATE = 8000
CONFIG = Config(features=FeatureConfig(mel=MelConfig(sample_rate=RATE, n_fft=256, hop_length=64, n_mels=20)))


def sound(seconds: float = 0.5, seed: int = 0, rate: int = RATE, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-level, level, size=round(seconds * rate))


def tone(seconds: float = 0.5, level: float = 0.1) -> np.ndarray:
    return level * np.sin(2 * np.pi * 123.4 * np.arange(round(seconds * RATE)) / RATE)


class Corpus:
    """Two folders of made-up recordings."""

    def __init__(self, root: Path, n_pairs: int) -> None:
        self.source, self.target = root / "anna", root / "bob"
        for folder in (self.source, self.target):
            folder.mkdir(parents=True)
        for index in range(n_pairs):
            self.put(f"good{index}", sound(0.5, index), sound(0.6, index + 100))

    def put(
        self, name: str, source: Any, target: Any, rates: tuple[int, int] = (RATE, RATE), subtype: str = "PCM_16"
    ) -> None:
        for folder, content, rate in ((self.source, source, rates[0]), (self.target, target, rates[1])):
            path = folder / f"{name}.wav"
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content is not None:
                soundfile.write(path, content, rate, subtype=subtype)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "data", 6)


@pytest.fixture
def run(home, corpus) -> Callable[..., PrepareReport]:
    def call(config: Config = CONFIG, **arguments: Any) -> PrepareReport:
        arguments = {"source": corpus.source, "target": corpus.target, "jobs": 1} | arguments
        return prepare(home, config, PrepareOptions(**arguments))

    return call


def ids(home, key: str) -> list[str]:
    return [pair.utterance_id for pair in read_manifest(home).sets[key]]


def everything(home) -> set[str]:
    return {name for key in ("train", "dev", "eval") for name in ids(home, key)}


class TestGoodPairs:
    def test_features_of_both_sides_are_those_of_the_recordings(self, home, corpus, run):
        run()
        store = FeatureStore(home.features, CONFIG.features, feature_key)
        for pair in read_manifest(home).sets["train"]:
            for path, frames in ((pair.source, pair.source_frames), (pair.target, pair.target_frames)):
                feature = store.load("mel", path)
                np.testing.assert_array_equal(feature, log_mel(read_audio(path)[0], CONFIG.features.mel))
                assert len(feature) == frames

    def test_the_manifest_holds_everything_that_training_needs(self, home, corpus, run):
        report = run()
        manifest = read_manifest(home)
        assert (manifest.name, manifest.source_speaker, manifest.target_speaker) == ("anna_bob", "anna", "bob")
        assert manifest.config == CONFIG
        assert {key: len(pairs) for key, pairs in manifest.sets.items()} == {"train": 4, "dev": 1, "eval": 1}
        assert report.n_pairs == {"train": 4, "dev": 1, "eval": 1}
        pair = manifest.sets["train"][0]
        assert (pair.source_seconds, pair.target_seconds) == (0.5, 0.6)
        assert (pair.source_frames, pair.target_frames) == (1 + 4000 // 64, 1 + 4800 // 64)
        assert report.source_seconds == pytest.approx(3.0)
        assert report.findings == ()

    def test_other_rates_and_channels_are_converted(self, home, corpus, run):
        stereo = np.stack([sound(0.5, rate=44100), np.zeros(22050)], axis=1)
        corpus.put("wide", stereo, sound(0.5, rate=16000), rates=(44100, 16000))
        report = run(dev="1", evaluation="0")
        pair = next(
            pair for key in ("train", "dev") for pair in read_manifest(home).sets[key] if pair.utterance_id == "wide"
        )
        assert (pair.source_frames, pair.target_frames) == (1 + 4000 // 64, 1 + 4000 // 64)
        assert [(f.side, f.code, f.excluded) for f in report.findings] == [("source", "channels", False)]

    def test_each_side_gets_the_kinds_of_features_it_needs(self, home, corpus, run):
        config = override(CONFIG, {"features.source": "mcep"})
        run(config)
        store = FeatureStore(home.features, config.features, feature_key)
        pair = read_manifest(home).sets["train"][0]
        assert store.facts("mcep", pair.source) is not None
        assert store.facts("mel", pair.source) is not None, "for the duration predictor"
        assert store.facts("mel", pair.target) is not None
        assert store.facts("mcep", pair.target) is None
        expected = extract("mcep", read_audio(pair.source)[0], config.features)
        np.testing.assert_allclose(store.load("mcep", pair.source), expected, atol=1e-3)

    def test_what_a_feature_needs_and_is_not_there_is_no_fault_of_the_recordings(
        self, home, run, monkeypatch, tmp_path
    ):
        config = override(CONFIG, {"features.source": "whisper_f0", "features.whisper.model": str(tmp_path)})
        monkeypatch.setitem(KINDS, "whisper_f0", replace(KINDS["whisper_f0"], packages=("no_such_package",)))
        with pytest.raises(MissingExtraError, match=r"whisper_f0 needs no_such_package .* pip install 'aasvc\[asr\]'"):
            run(config)
        monkeypatch.setitem(KINDS, "whisper_f0", replace(KINDS["whisper_f0"], packages=()))
        with pytest.raises(DataError, match=rf"^{re.escape(str(tmp_path))}: no model\.bin in it"):
            run(config)
        assert not home.prepared.exists() and not home.features.exists()

    def test_progress_counts_every_recording_once(self, run):
        told: list[tuple[int, int]] = []
        run(on_progress=lambda done, total: told.append((done, total)))
        assert told == [(done, 12) for done in range(13)]

    def test_the_report_is_kept_as_json(self, corpus, run):
        corpus.put("lonely", sound(), None)
        report = run()
        tree = json.loads(report.report.read_text(encoding="utf-8"))
        assert tree == json.loads(json.dumps(report.to_tree()))
        assert tree["counts"] == {"no_partner": 1}
        assert tree["n_excluded"] == 1

    @pytest.mark.process
    def test_processes_find_the_same_as_one(self, home, tmp_path, monkeypatch):
        corpus = Corpus(tmp_path / "more", 20)
        corpus.put("silent", np.zeros(4000), sound())
        arguments = {"source": corpus.source, "target": corpus.target}
        alone = prepare(home, CONFIG, PrepareOptions(**arguments, jobs=1, name="alone"))
        shutil.rmtree(home.features)
        together = prepare(home, CONFIG, PrepareOptions(**arguments, jobs=2, name="together"))
        assert together.n_computed == alone.n_computed == 42
        assert together.findings == alone.findings
        one, two = read_manifest(home, "alone"), read_manifest(home, "together")
        assert (one.sets, one.excluded) == (two.sets, two.excluded)


class TestFaults:
    """Each sort of bad recording is found, named and left out, and the others go on."""

    @pytest.mark.parametrize(
        ("code", "content", "message"),
        [
            ("unreadable", b"this is no recording", "not readable as audio"),
            ("unreadable", b"", "not readable as audio"),
            ("empty", np.zeros(0), "holds no samples"),
            ("silent", np.zeros(4000), "digital silence"),
            ("silent", sound(level=5e-4), r"peak: -6\d dB"),
            ("clipped", np.clip(tone(level=1.2), -1, 1), "3[5-9].*% of its samples are cut off at the peak"),
            ("too_short", sound(0.05), r"lasts 0\.050 s; expected 0\.1 s or more"),
        ],
    )
    @pytest.mark.parametrize("side", ["source", "target"])
    def test_a_bad_recording(self, home, corpus, run, side, code, content, message):
        corpus.put("bad", *((content, sound()) if side == "source" else (sound(), content)))
        report = run()
        (finding,) = report.findings
        assert (finding.utterance_id, finding.side, finding.code, finding.excluded) == ("bad", side, code, True)
        assert finding.message.startswith(str(getattr(corpus, side) / "bad.wav"))
        assert re.search(message, finding.message)
        assert everything(home) == {f"good{index}" for index in range(6)}
        assert [(name, where) for name, where, _ in read_manifest(home).excluded] == [("bad", "")]

    def test_samples_that_are_not_numbers(self, home, corpus, run):
        wave = sound()
        wave[1000] = np.nan
        corpus.put("bad", wave, sound(), subtype="FLOAT")
        assert [finding.code for finding in run().findings] == ["nan"]
        assert "bad" not in everything(home)

    def test_a_dangling_link(self, home, corpus, run):
        corpus.put("bad", None, sound())
        (corpus.source / "bad.wav").symlink_to(corpus.source / "nowhere.wav")
        assert [finding.code for finding in run().findings] == ["missing"]
        assert "bad" not in everything(home)

    def test_without_a_partner(self, home, corpus, run):
        corpus.put("alone", None, sound())
        assert [(f.utterance_id, f.side, f.code, f.excluded) for f in run().findings] == [
            ("alone", "source", "no_partner", True)
        ]

    def test_slight_clipping_is_only_a_note(self, home, corpus, run):
        wave = sound()
        wave[:20] = 1.0  # half a per cent
        corpus.put("loud", wave, sound())
        assert [(f.code, f.excluded) for f in run().findings] == [("clipped", False)]
        assert "loud" in everything(home)

    def test_a_single_peak_at_full_scale_is_no_clipping(self, corpus, run):
        wave = sound()
        wave[7] = 1.0
        corpus.put("normalised", wave, wave[::-1])
        assert run().findings == ()

    def test_recordings_of_a_narrower_band_than_the_others_are_noted(self, corpus, run):
        corpus.put("phone", sound(rate=4000), sound(rate=4000, seed=1), rates=(4000, 4000))
        assert [(f.side, f.code, f.excluded) for f in run().findings] == [
            ("source", "low_rate", False),
            ("target", "low_rate", False),
        ]

    def test_a_mixed_bag_is_reported_as_a_whole(self, home, corpus, run):
        corpus.put("a", np.zeros(4000), b"no")
        corpus.put("b", sound(), None)
        report = run()
        assert [(f.utterance_id, f.side, f.code) for f in report.findings] == [
            ("b", "target", "no_partner"),
            ("a", "source", "silent"),
            ("a", "target", "unreadable"),
        ]
        assert report.n_excluded == 2


class TestReading:
    """What reading a recording brings up reaches the report."""

    def test_a_recording_whose_end_is_missing_is_left_out(self, corpus, run):
        corpus.put("cut", sound(1.6), sound(1.6, 1))
        whole = (corpus.source / "cut.wav").read_bytes()
        (corpus.source / "cut.wav").write_bytes(whole[: int(len(whole) * 0.65)])
        (finding,) = run().findings
        assert (finding.utterance_id, finding.side, finding.code, finding.excluded) == (
            "cut",
            "source",
            "truncated",
            True,
        )
        assert "ends after 1.0" in finding.message
        assert "of 1.60 s, the rest of the file is missing" in finding.message

    def test_inverted_channels_are_noted_and_the_pair_is_kept(self, home, corpus, run):
        wave = sound()
        corpus.put("inverted", np.stack([wave, -wave], axis=1), sound(seed=1))
        assert [(f.utterance_id, f.side, f.code, f.excluded) for f in run().findings] == [
            ("inverted", "source", "channels", False)
        ]

    def test_silence_with_an_offset_is_silence(self, corpus, run):
        corpus.put("offset", 0.2 + sound(level=1e-4), sound(), subtype="FLOAT")
        assert [(f.utterance_id, f.code) for f in run().findings if f.excluded] == [("offset", "silent")]

    def test_integers_in_a_float_file_are_left_out(self, corpus, run):
        corpus.put("unscaled", sound() * 32768, sound(), subtype="FLOAT")
        assert [(f.utterance_id, f.code) for f in run().findings] == [("unscaled", "scale")]

    def test_the_same_recording_on_both_sides_is_noted(self, corpus, run):
        corpus.put("same", sound(), sound())
        soundfile.write(corpus.target / "same.flac", soundfile.read(corpus.source / "same.wav", dtype="int16")[0], RATE)
        (corpus.target / "same.wav").unlink()
        assert [(f.utterance_id, f.code, f.excluded) for f in run().findings] == [("same", "same_recording", False)]

    def test_the_same_recordings_throughout_are_refused(self, home, corpus, run):
        shutil.rmtree(corpus.target)
        shutil.copytree(corpus.source, corpus.target)
        with pytest.raises(DataError, match="source and target are the same recordings in all 6 pairs"):
            run()
        assert not home.prepared.exists()
        corpus.put("other", sound(), sound(seed=1))
        report = run()
        assert report.counts == {"same_recording": 6}
        assert any("6 pairs are the same recording on both sides" in advice for advice in report.advice)


def spoken(*parts: float, pitch: float = 120.0, level: float = 0.1, rate: int = RATE) -> np.ndarray:
    """A buzz with pauses: seconds of sound, of silence, of sound and so on; two pitches are two speakers."""
    pieces = []
    for index, seconds in enumerate(parts):
        t = np.arange(round(seconds * rate)) / rate
        noise = 1e-4 * np.random.default_rng(index).standard_normal(len(t))
        wobble = 2 * np.pi * pitch * (t + 0.01 * np.sin(7 * t + index))
        pieces.append(noise + (index % 2 == 0) * level * sum(np.sin(k * wobble) / k for k in range(1, 9)))
    return np.concatenate(pieces)


class TestExcerpts:
    """What of a recording is used: without the silence around it, in pieces, at another level."""

    def pairs(self, home) -> dict[str, ParallelPair]:
        return {pair.utterance_id: pair for pairs in read_manifest(home).sets.values() for pair in pairs}

    def speakers(self, corpus: Corpus, seconds: float = 0.0) -> None:
        for index in range(6):
            sounds = (
                spoken(0, seconds, 1.0 + 0.1 * index, seconds, pitch=pitch) for pitch in (110 + index, 210 + index)
            )
            corpus.put(f"good{index}", *sounds)

    def test_silence_at_both_ends_goes_and_is_reported(self, home, corpus, run):
        self.speakers(corpus, 2.0)
        report = run(trim=True)
        pair = self.pairs(home)["good0"]
        assert pair.source_seconds == pytest.approx(1.1, abs=0.03)
        wave, rate = read_audio(pair.source)
        original, _ = read_audio(corpus.source / "good0.wav")
        start = round(1.95 * RATE)
        best = min(
            np.abs(wave - original[start + shift : start + shift + len(wave)]).max() for shift in range(-200, 200)
        )
        assert rate == RATE
        assert best < 1e-4, "the samples themselves are as they were"
        assert pair.source_frames == 1 + len(wave) // 64
        assert report.trimmed_seconds == pytest.approx(12 * 3.9, abs=0.5)

    def test_by_default_the_configuration_decides(self, home, corpus, run):
        self.speakers(corpus, 2.0)
        run()
        assert self.pairs(home)["good0"].source == corpus.source / "good0.wav"
        run(override(CONFIG, {"features.trim": True}))
        assert self.pairs(home)["good0"].source_seconds < 1.2
        run(override(CONFIG, {"features.trim": True}), trim=False)
        assert self.pairs(home)["good0"].source_seconds == pytest.approx(5.0)
        assert not list((home.prepared / "anna_bob" / "recordings").glob("*")), "nothing is left of the run before"

    @pytest.fixture
    def long(self, corpus, demo_corpus) -> dict[str, np.ndarray]:
        """Five sentences in one recording of each speaker, with pauses of the same lengths."""
        joined = {}
        for side in ("male", "female"):
            takes = [read_audio(path) for path in sorted((demo_corpus / side / "wav" / "train_parallel").iterdir())[:5]]
            rate = takes[0][1]
            gaps = [np.zeros(round(seconds * rate)) for seconds in (0.6, 1.1, 0.5, 0.9, 0.4)]
            joined[side] = np.concatenate([x for (wave, _), gap in zip(takes, gaps, strict=True) for x in (wave, gap)])
        corpus.put("long", joined["male"], joined["female"], (rate, rate))
        return {"source": joined["male"], "target": joined["female"]}

    def test_long_pairs_are_cut_where_both_pause(self, home, corpus, run, long):
        report = run(max_seconds=9.0)
        pieces = {name: pair for name, pair in self.pairs(home).items() if name.startswith("long")}
        (cut,) = report.cuts
        assert (cut.utterance_id, set(cut.pieces)) == ("long", set(pieces))
        assert len(pieces) >= 3
        for name, piece in cut.pieces.items():
            assert max(pieces[name].source_seconds, pieces[name].target_seconds) <= 9.0
            for side, samples in long.items():
                wave, rate = read_audio(getattr(pieces[name], side))
                start = round(getattr(piece, side).start * rate)
                np.testing.assert_allclose(wave, samples[start : start + len(wave)], atol=1e-4)
        assert [(f.utterance_id, f.excluded) for f in report.findings if f.code == "cut"] == [("long", False)]
        assert report.to_tree()["n_cut"] == 1

    def test_pieces_are_neither_cut_nor_analysed_again(self, home, run, long, monkeypatch):
        run(max_seconds=9.0)
        before = self.pairs(home)
        monkeypatch.setattr("aasvc_cli.data.excerpts.cut_pair", no_analysis)
        monkeypatch.setattr("aasvc_cli.data.analysis.extract_as_is", no_analysis)
        run(max_seconds=9.0)
        assert self.pairs(home) == before

    def test_long_pairs_without_a_shared_pause_are_refused_by_name(self, home, corpus, run):
        corpus.put("long", spoken(14.8), spoken(14.8, pitch=200.0))
        (finding,) = [each for each in run().findings if each.utterance_id == "long"]
        assert (finding.utterance_id, finding.code, finding.excluded) == ("long", "too_long", True)
        assert "lasts 14.8 s (source) and 14.8 s (target), more than --max-seconds 12" in finding.message
        assert "long" not in self.pairs(home)
        run(max_seconds=0)
        assert "long" in self.pairs(home)

    def test_no_pair_is_longer_than_a_batch_may_be(self, home, corpus, run):
        self.speakers(corpus)
        corpus.put("long", spoken(3.0, 0.6, 4.0), spoken(3.0, 0.7, 4.0, pitch=200.0))
        corpus.put("bad", spoken(2.0, 0.8, 8.0), spoken(8.0, 0.8, 2.0, pitch=200.0))
        report = run(override(CONFIG, {"train.max_frames": 600}), max_seconds=0)
        assert {f.utterance_id: f.code for f in report.findings} == {"long": "cut", "bad": "too_long"}
        frames = [max(pair.source_frames, pair.target_frames) for pair in self.pairs(home).values()]
        assert 500 < max(frames) <= 600

    def test_levels_that_differ_are_named_and_matched_on_request(self, home, corpus, run):
        self.speakers(corpus)
        corpus.put("quiet", spoken(1.0, level=0.1 * 10 ** (-15 / 20)), spoken(1.0, pitch=220))
        report = run()
        assert [(f.utterance_id, f.side, f.code) for f in report.findings] == [("quiet", "source", "level")]
        assert "15 dB quieter than usual" in report.findings[0].message
        assert any("--loudness matches all" in advice for advice in report.advice)
        report = run(loudness=True)
        peaks = [np.abs(read_audio(pair.source)[0]).max() for pair in self.pairs(home).values()]
        assert max(peaks) / min(peaks) < 10 ** (2 / 20)
        assert report.n_pairs == {"train": 5, "dev": 1, "eval": 1}

    def test_recordings_made_from_a_lower_rate_lead_to_one_advice(self, home, tmp_path, monkeypatch):
        corpus = Corpus(tmp_path / "phone", 0)
        for index in range(6):
            narrow = (soxr.resample(sound(1.0, 2 * index + side, 8000), 8000, 24000) for side in (0, 1))
            corpus.put(f"u{index}", *narrow, rates=(24000, 24000))
        config = override(CONFIG, {"features.mel.sample_rate": 24000})
        arguments = {"source": corpus.source, "target": corpus.target, "jobs": 1}
        report = prepare(home, config, PrepareOptions(**arguments))
        assert report.findings == ()
        (advice,) = report.advice
        assert "anna has sound up to 4.0 kHz" in advice
        assert "--sample-rate 8000" in advice
        again = prepare(home, config, PrepareOptions(**arguments, sample_rate=8000))
        assert (again.advice, again.sample_rate) == ((), 8000)
        assert read_manifest(home).config.features.mel.sample_rate == 8000

    @pytest.mark.parametrize("narrow", ["anna", "bob"])
    def test_where_only_one_speaker_is_narrow_the_advice_says_what_that_means(self, home, tmp_path, narrow):
        corpus = Corpus(tmp_path / "phone", 0)
        for index in range(6):
            both = [sound(1.0, 2 * index + side, 24000) for side in (0, 1)]
            at = ["anna", "bob"].index(narrow)
            both[at] = soxr.resample(sound(1.0, 2 * index + at, 8000), 8000, 24000)
            corpus.put(f"u{index}", *both, rates=(24000, 24000))
        config = override(CONFIG, {"features.mel.sample_rate": 24000})
        (advice,) = prepare(home, config, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1)).advice
        assert f"{narrow} has sound up to 4.0 kHz only" in advice
        assert ("so will the voice" in advice) == (narrow == "bob")
        assert ("has to make up the rest" in advice) == (narrow == "anna")

    def test_few_training_pairs_take_the_batch_of_the_published_series(self, home, corpus, run):
        config = override(CONFIG, {"train.batch_size": 2, "train.accum": 8})
        assert run(config).batch_size == 16
        report = run(config, training="3")
        assert report.n_pairs == {"train": 3, "dev": 1, "eval": 1}
        assert report.batch_size == 4
        assert "4 pairs per step, as the published series does for 3 pairs, in place of 16" in report.advice[-1]
        train = read_manifest(home).config.train
        assert (train.batch_size, train.accum) == (2, 2)


class TestDurationRatio:
    def far(self, corpus: Corpus, run: Callable[..., PrepareReport], seconds: float) -> list[tuple[str, bool]]:
        corpus.put("odd", sound(0.5), sound(seconds, 1))
        return [(f.code, f.excluded) for f in run().findings if f.utterance_id == "odd"]

    @pytest.mark.parametrize("seconds", [0.5, 0.6, 0.72])
    def test_usual_ratios_are_not_mentioned(self, corpus, run, seconds):
        assert self.far(corpus, run, seconds) == []

    @pytest.mark.parametrize("seconds", [0.85, 1.1])
    def test_an_unusual_ratio_is_a_note(self, home, corpus, run, seconds):
        assert self.far(corpus, run, seconds) == [("duration_ratio", False)]
        assert "odd" in everything(home)

    @pytest.mark.parametrize("seconds", [1.5, 5.0, 0.25])
    def test_another_sentence_is_left_out(self, home, corpus, run, seconds):
        assert self.far(corpus, run, seconds) == [("duration_ratio", True)]
        assert "odd" not in everything(home)

    def test_speakers_of_very_different_speed_are_no_outliers(self, tmp_path, home):
        corpus = Corpus(tmp_path / "slow", 0)
        for index in range(8):
            corpus.put(f"{index}", sound(0.4, index), sound(1.4 + 0.05 * index, index))
        assert prepare(home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1)).findings == ()

    def test_one_outlier_does_not_hide_another(self, corpus, run):
        corpus.put("one", sound(0.3), sound(6.0))
        corpus.put("two", sound(0.3), sound(3.0))
        assert {f.utterance_id for f in run().findings if f.excluded} == {"one", "two"}


class TestCondition:
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=1, max_size=8),
    )
    def test_the_proposed_factor_is_the_smallest_that_all_pairs_satisfy(self, lengths):
        pairs = [ParallelPair("", Path(), Path(), None, source, target) for source, target in lengths]
        tried = (factor for factor in range(1, 1000) if all(source // factor <= target for source, target in lengths))
        assert smallest_frames_per_token(pairs) == next(tried)

    def test_pairs_that_break_it_are_left_out_and_a_factor_is_proposed(self, home, corpus, run):
        corpus.put("odd", sound(1.0), sound(0.8))
        report = run(override(CONFIG, {"model.frames_per_token": 1}))
        (finding,) = [f for f in report.findings if f.excluded]
        assert (finding.utterance_id, finding.code) == ("odd", "too_many_tokens")
        assert "has 126 source tokens (frames_per_token 1) for 101 target frames" in finding.message
        assert (report.n_breaking, report.frames_per_token, report.smallest_frames_per_token) == (1, 1, 2)
        assert "odd" not in everything(home)

    def test_with_the_proposed_factor_all_pairs_stay(self, home, corpus, run):
        corpus.put("odd", sound(1.0), sound(0.8))
        report = run(override(CONFIG, {"model.frames_per_token": 2}))
        assert (report.n_breaking, report.smallest_frames_per_token) == (0, 2)
        assert "odd" in everything(home)

    def test_when_all_break_it_the_error_proposes_the_factor(self, home, tmp_path):
        corpus = Corpus(tmp_path / "fast", 0)
        for index in range(6):
            corpus.put(str(index), sound(1.0, index), sound(0.4, index))
        config = override(CONFIG, {"model.frames_per_token": 2})
        with pytest.raises(DataError, match="6 too_many_tokens.*set model.frames_per_token to 3"):
            prepare(home, config, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1))
        again = override(config, {"model.frames_per_token": 3})
        assert prepare(home, again, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1)).n_breaking == 0

    def test_a_source_shorter_than_a_token_is_left_out(self, corpus, run):
        corpus.put("tiny", sound(0.12), sound(0.15))
        report = run(override(CONFIG, {"model.frames_per_token": 20}))
        assert [(f.utterance_id, f.side, f.code) for f in report.findings if f.excluded] == [
            ("tiny", "source", "too_short")
        ]


class TestTooFew:
    @pytest.mark.parametrize("n_pairs", [1, 2])
    def test_too_few_pairs(self, home, tmp_path, n_pairs):
        corpus = Corpus(tmp_path / "few", n_pairs)
        with pytest.raises(DataError, match="too few good pairs"):
            prepare(home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1))
        assert not home.prepared.exists(), "nothing half-written"

    def test_three_are_enough(self, home, tmp_path):
        corpus = Corpus(tmp_path / "few", 3)
        report = prepare(home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1))
        assert report.n_pairs == {"train": 2, "dev": 1, "eval": 0}

    def test_the_error_says_why_the_others_were_left_out(self, home, tmp_path):
        corpus = Corpus(tmp_path / "bad", 1)
        for index in range(5):
            corpus.put(f"bad{index}", np.zeros(4000), sound())
        with pytest.raises(DataError, match=r"left out: 5 silent \(first: bad0: .*digital silence"):
            prepare(home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1))

    @pytest.mark.parametrize(("dev", "evaluation"), [("0", None), ("3", "2"), ("5", "1")])
    def test_sizes_that_leave_nothing_are_refused(self, run, dev, evaluation):
        with pytest.raises(DataError, match="too few good pairs|asks for"):
            run(dev=dev, evaluation=evaluation)


class TestSets:
    @pytest.fixture
    def captain(self, tmp_path) -> Path:
        root, count = tmp_path / "ja-JP", 0
        for folder, size in (("train_parallel", 6), ("dev", 2), ("eval", 2)):
            for index in range(size):
                count += 1
                for speaker in ("male", "female"):
                    path = root / speaker / "wav" / folder / f"{folder}_{index}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, sound(0.4, count + 100 * (speaker == "male")), RATE)
        return root

    def test_a_corpus_keeps_its_own_sets(self, home, captain):
        prepare(home, CONFIG, PrepareOptions(corpus=captain, jobs=1))
        assert ids(home, "train") == [f"train_parallel_{index}" for index in range(6)]
        assert ids(home, "dev") == ["dev_0", "dev_1"]
        assert ids(home, "eval") == ["eval_0", "eval_1"]

    def test_a_set_that_is_asked_for_is_drawn_from_all_but_the_others(self, home, captain):
        prepare(home, CONFIG, PrepareOptions(corpus=captain, dev="5", jobs=1))
        assert ids(home, "eval") == ["eval_0", "eval_1"]
        assert len(ids(home, "dev")) == 5
        assert set(ids(home, "train") + ids(home, "dev")) == {f"train_parallel_{i}" for i in range(6)} | {
            "dev_0",
            "dev_1",
        }

    def test_a_list_may_name_pairs_that_turned_out_bad(self, home, corpus, run, tmp_path):
        corpus.put("bad", np.zeros(4000), sound())
        (tmp_path / "dev.txt").write_text("bad\ngood3\n")
        run(dev=str(tmp_path / "dev.txt"), evaluation="0")
        assert ids(home, "dev") == ["good3"]

    def test_the_seed_decides_the_draw(self, home, tmp_path):
        corpus = Corpus(tmp_path / "more", 12)
        draws = []
        for seed in (1, 1, 2):
            prepare(
                home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, dev="4", seed=seed, jobs=1)
            )
            draws.append(ids(home, "dev"))
        assert draws[0] == draws[1] != draws[2]


class TestNames:
    def test_the_same_folders_are_prepared_again_without_a_word(self, run):
        run()
        assert run(override(CONFIG, {"features.mel.n_mels": 10})).name == "anna_bob"

    def test_other_folders_need_another_name_or_permission(self, home, run, tmp_path):
        run()
        other = Corpus(tmp_path / "elsewhere", 5)
        folders = {"source": other.source, "target": other.target}
        with pytest.raises(
            DataError, match="anna_bob already stands for .*another --name, or replace it with --overwrite"
        ):
            run(**folders)
        assert run(**folders, name="second").name == "second"
        run(**folders, overwrite=True)
        assert read_manifest(home, "anna_bob").source_root == other.source

    def test_a_name_is_no_path(self, run):
        with pytest.raises(DataError, match="--name a/b: expected letters.*a-b"):
            run(name="a/b")

    def test_statistics_of_a_replaced_training_set_are_removed(self, home, run):
        run()
        path = home.stats / "anna_bob" / "self.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        run()
        assert path.is_file(), "nothing has changed"
        run(seed=3)
        assert not path.exists()


def no_analysis(*args: object) -> None:
    raise AssertionError("this recording was ready")


class TestResuming:
    def test_a_second_run_decodes_nothing(self, run, monkeypatch):
        first = run()
        monkeypatch.setattr("aasvc_cli.data.analysis.read_audio", no_analysis)
        second = run()
        assert (first.n_computed, first.n_fresh) == (12, 0)
        assert (second.n_computed, second.n_fresh) == (0, 12)
        assert second.findings == first.findings
        assert second.n_pairs == first.n_pairs

    def test_notes_are_found_again_without_decoding(self, corpus, run, monkeypatch):
        corpus.put("wide", np.stack([sound(), np.zeros(4000)], axis=1), sound(seed=1))
        findings = run().findings
        monkeypatch.setattr("aasvc_cli.data.analysis.read_audio", no_analysis)
        assert run().findings == findings != ()

    def test_only_a_changed_recording_is_done_again(self, home, corpus, run):
        run()
        soundfile.write(corpus.source / "good2.wav", sound(0.7, 55), RATE)
        report = run()
        assert (report.n_computed, report.n_fresh) == (1, 11)
        manifest = read_manifest(home)
        pair = next(p for key in manifest.sets for p in manifest.sets[key] if p.utterance_id == "good2")
        assert pair.source_seconds == 0.7

    def test_a_changed_setting_does_everything_again_and_the_way_back_nothing(self, run):
        run()
        assert run(override(CONFIG, {"features.mel.fmax": 3000.0})).n_computed == 12
        assert run().n_computed == 0

    def test_another_kind_of_feature_adds_only_that(self, run):
        run()
        assert run(override(CONFIG, {"features.duration": "mcep"})).n_computed == 6

    def test_ctrl_c_keeps_what_is_done(self, home, run):
        def stop(done: int, total: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match="stopped after 5 of 12 recordings; they are kept"):
            run(on_progress=stop)
        assert not home.prepared.exists()
        report = run()
        assert (report.n_computed, report.n_fresh) == (7, 5)

    @pytest.mark.process
    def test_a_killed_run_is_taken_up_where_it_was(self, home, corpus, run):
        code = (
            "import os, signal, sys\n"
            "from tests.pipeline.test_prepare import CONFIG; from aasvc_cli.storage.home import find_home\n"
            "from aasvc_cli.pipeline.prepare import PrepareOptions, prepare\n"
            "kill = lambda done, total: done == 7 and os.kill(os.getpid(), signal.SIGKILL)\n"
            "options = PrepareOptions(source=sys.argv[1], target=sys.argv[2], jobs=1, on_progress=kill)\n"
            "prepare(find_home(), CONFIG, options)\n"
        )
        command = [sys.executable, "-c", code, str(corpus.source), str(corpus.target)]
        assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -9
        report = run()
        assert (report.n_computed, report.n_fresh) == (5, 7)

    @pytest.mark.process
    def test_of_many_recordings_the_process_that_gives_the_work_loads_no_torch_and_no_numba(self, home, tmp_path):
        corpus = Corpus(tmp_path / "more", 10)
        code = (
            "import sys\n"
            "from aasvc_cli import workers; from aasvc_cli.pipeline.prepare import PrepareOptions, prepare\n"
            "from aasvc_cli.storage.home import find_home; from tests.pipeline.test_prepare import CONFIG\n"
            "workers.MANY = 10\n"
            "if __name__ == '__main__':\n"
            "    options = PrepareOptions(source=sys.argv[1], target=sys.argv[2], jobs=1)\n"
            "    report = prepare(find_home(), CONFIG, options)\n"
            "    print(report.n_computed, report.measured[0].misfit, *sorted({'torch', 'numba'} & set(sys.modules)))\n"
        )
        (tmp_path / "main.py").write_text(code)
        command = [sys.executable, str(tmp_path / "main.py"), str(corpus.source), str(corpus.target)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
        n_computed, *loaded = result.stdout.split()
        assert n_computed == "20"
        assert loaded == ["None"], "noise has no words, and nothing is loaded"
        (fits,) = (home.cache / "fits").rglob("*.npz")
        assert fits.stat().st_size > 10 * 6 * 8

    @pytest.mark.process
    def test_ctrl_c_ends_all_processes_at_once(self, home, tmp_path):
        """The pipe stays open as long as any worker lives."""
        corpus = Corpus(tmp_path / "more", 40)
        code = (
            "import os, signal, sys\n"
            "from tests.pipeline.test_prepare import CONFIG; from aasvc_cli.storage.home import find_home\n"
            "from aasvc_cli.errors import Interrupted; from aasvc_cli.pipeline.prepare import PrepareOptions, prepare\n"
            "stop = lambda done, total: done == 8 and os.kill(os.getpid(), signal.SIGINT)\n"
            "try:\n"
            "    options = PrepareOptions(source=sys.argv[1], target=sys.argv[2], jobs=2, on_progress=stop)\n"
            "    prepare(find_home(), CONFIG, options)\n"
            "except Interrupted as error:\n"
            "    print(error)\n"
        )
        command = [sys.executable, "-c", code, str(corpus.source), str(corpus.target)]
        result = subprocess.run(
            command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True, timeout=60
        )
        assert result.stdout.startswith("stopped after 8 of 80 recordings")
        assert "Traceback" not in result.stderr
        report = prepare(home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, jobs=1))
        assert 8 <= report.n_fresh < 80


class TestStorage:
    @pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.process)])
    def test_features_that_cannot_be_written_stop_the_run_in_one_line(self, home, tmp_path, jobs):
        corpus = Corpus(tmp_path / "more", 10)
        home.root.mkdir(parents=True)
        home.features.write_text("a file in the way")
        with pytest.raises(StorageError, match="features") as caught:
            prepare(home, CONFIG, PrepareOptions(source=corpus.source, target=corpus.target, jobs=jobs))
        assert "\n" not in str(caught.value)
        assert not home.prepared.exists()

    def test_a_full_disk_is_no_fault_of_the_recordings(self, home, run, monkeypatch):
        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="the disk is full"):
            run()
        assert [path for path in home.root.rglob("*") if path.is_file()] == []

    def test_an_unforeseen_error_in_one_recording_is_a_finding(self, corpus, run, monkeypatch):
        def moody(wave: np.ndarray, *rates: int) -> np.ndarray:
            if len(wave) == 3333:
                raise MemoryError("much too long")
            return wave

        monkeypatch.setattr("aasvc_cli.data.analysis.resample", moody)
        corpus.put("bad", sound(3333 / RATE), sound())
        (finding,) = run().findings
        assert (finding.code, finding.excluded) == ("unreadable", True)
        assert "MemoryError: much too long" in finding.message

    @pytest.mark.parametrize("jobs", [0, -1])
    def test_an_invalid_number_of_processes_is_refused(self, run, jobs):
        with pytest.raises(DataError, match=f"--jobs {jobs}: expected 1 or more"):
            run(jobs=jobs)


@pytest.fixture(scope="module")
def exchanged(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Fourteen pairs, the targets of two of which were exchanged, and beside them a data folder that knows them."""
    corpus = Corpus(tmp_path_factory.mktemp("words"), 0)
    for side, folder in (("male", corpus.source), ("female", corpus.target)):
        recordings = sorted((demo_corpus / side / "wav" / "train_parallel").iterdir())[:14]
        names = [path.name for path in recordings]
        if side == "female":
            names[3], names[8] = names[8], names[3]
        for path, name in zip(recordings, names, strict=True):
            shutil.copy(path, folder / name)
    options = PrepareOptions(source=corpus.source, target=corpus.target, jobs=1)
    prepare(Home(corpus.source.parent / "home"), CONFIG, options)
    return corpus


class TestWords:
    """Pairs whose two recordings do not hold the same words."""

    @pytest.fixture
    def corpus(self, exchanged: Corpus, home: Home) -> Corpus:
        shutil.copytree(exchanged.source.parent / "home", home.root)
        return exchanged

    @pytest.fixture
    def swapped(self) -> set[str]:
        """Names of the two pairs."""
        return {"train_parallel_0003", "train_parallel_0008"}

    def named(self, report: PrepareReport) -> set[str]:
        return {finding.utterance_id for finding in report.findings if finding.code == "different_words"}

    def test_they_are_named_and_kept_and_lead_the_ranking(self, home, run, swapped):
        report = run()
        assert self.named(report) == swapped
        assert swapped <= everything(home)
        assert report.ranking is not None
        rows = [line.split("\t") for line in report.ranking.read_text().splitlines()]
        assert rows[0] == ["pair", "misfit", "cost", "length_ratio", "verdict"]
        assert {row[0] for row in rows if row[-1] == "wrong"} == {row[0] for row in rows[1:3]} == swapped
        assert [float(row[1]) for row in rows[1:]] == sorted((float(row[1]) for row in rows[1:]), reverse=True)
        assert any(f"--drop {report.ranking}" in advice for advice in report.advice)
        assert not any("hardly better" in advice for advice in report.advice)

    def test_a_set_whose_names_are_mixed_up_is_told_as_a_whole(self, run, corpus, tmp_path):
        sources, targets = (sorted(folder.iterdir()) for folder in (corpus.source, corpus.target))
        table = tmp_path / "pairs.tsv"
        table.write_text("".join(f"{one}\t{targets[index - 5]}\n" for index, one in enumerate(sources)))
        first, *_ = run(pairs=table).advice
        assert re.search(r"misfit (0\.9|1\.)\d.*do both speakers read the same sentences", first)

    def test_the_ranking_leaves_them_out_as_often_as_one_likes(self, home, run, swapped):
        ranking = run().ranking
        for _ in range(2):
            report = run(drop=str(ranking))
            assert report.counts["dropped"] == 2
            assert not swapped & everything(home)
            assert sum(report.n_pairs.values()) == 12
        run()
        assert swapped <= everything(home)

    def test_a_ranking_may_name_pairs_that_are_left_out_anyway(self, run, corpus, swapped, tmp_path):
        ranking = shutil.copy(run().ranking, tmp_path / "mine.tsv")
        fewer = shutil.copytree(corpus.source, tmp_path / "fewer")
        next(path for path in fewer.iterdir() if path.stem == min(swapped)).unlink()
        report = run(source=fewer, name="fewer", drop=str(ranking))
        assert (report.counts["dropped"], report.counts["no_partner"]) == (1, 1)

    def test_a_number_leaves_out_the_worst(self, home, run, swapped):
        run(drop="2")
        assert not swapped & everything(home)

    def test_with_a_recogniser_what_both_sides_say_decides(self, home, run, swapped):
        class Recogniser:
            """Hears the same words in every recording but one."""

            description: ClassVar[dict[str, str]] = {"engine": "made up"}
            n_asked = 0

            def recognise(self, wave: np.ndarray, sample_rate: int, language: str) -> str:
                assert language == "de"
                Recogniser.n_asked += 1
                return "etwas ganz anderes" if Recogniser.n_asked == 5 else "guten Tag"

            def languages(self, wave: np.ndarray, sample_rate: int) -> dict[str, float]:
                return {"de": 0.9, "nl": 0.1}

        for language in (None, "de"):
            report = run(recogniser=Recogniser(), language=language)
            assert any("recognised as de, by the sound" in advice for advice in report.advice) is (language is None)
            (finding,) = [each for each in report.findings if each.code == "different_words"]
            assert finding.message == "the source says “etwas ganz anderes”, the target “guten Tag”"
        assert Recogniser.n_asked == 28, "what was recognised is kept"
        assert report.ranking is not None
        names, first, *_ = [line.split("\t") for line in report.ranking.read_text().splitlines()]
        worst = dict(zip(names, first, strict=True))
        assert (worst["pair"], worst["verdict"]) == (finding.utterance_id, "wrong")
        assert (worst["source_text"], worst["target_text"]) == ("etwas ganz anderes", "guten Tag")


def test_what_is_recognised_needs_no_other_pairs_to_be_held_against(home, tmp_path):
    class Recogniser:
        """Hears other words in one recording of the target."""

        description: ClassVar[dict[str, str]] = {"engine": "made up"}
        n_heard = 0

        def recognise(self, wave: np.ndarray, sample_rate: int, language: str) -> str:
            Recogniser.n_heard += 1
            return "etwas ganz anderes" if Recogniser.n_heard == 4 else "guten Tag"

        def languages(self, wave: np.ndarray, sample_rate: int) -> dict[str, float]:
            return {"de": 1.0}

    corpus, told = Corpus(tmp_path / "few", 5), []
    options = PrepareOptions(
        source=corpus.source, target=corpus.target, jobs=1, recogniser=Recogniser(),
        on_progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    report = prepare(home, CONFIG, options)
    assert [each.message for each in report.findings if each.code == "different_words"] == [
        "the source says “guten Tag”, the target “etwas ganz anderes”"
    ]
    assert told[-1] == (5, 5)


@pytest.mark.slow
def test_real_speech_gives_no_findings(home, demo_corpus):
    """Recordings without faults must not be suspected of any."""
    config = override(Config(), {"features.mel.sample_rate": 24000})
    report = prepare(home, config, PrepareOptions(corpus=demo_corpus, jobs=1))
    assert report.findings == ()
    assert report.n_pairs == {"train": 80, "dev": 10, "eval": 10}
    assert math.isfinite(report.source_seconds)
