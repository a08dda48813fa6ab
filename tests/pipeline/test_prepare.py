import errno
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.reading import override
from aasvc_cli.config.settings import Config, FeatureConfig, MelConfig, ModelConfig
from aasvc_cli.data.manifest import ParallelPair, read_manifest
from aasvc_cli.errors import DataError, Interrupted, StorageError
from aasvc_cli.features.kinds import extract, feature_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.prepare import PrepareReport, prepare, smallest_frames_per_token

RATE = 8000
CONFIG = Config(features=FeatureConfig(mel=MelConfig(sample_rate=RATE, n_fft=256, hop_length=64, n_mels=20)))


def sound(seconds: float = 0.5, seed: int = 0, rate: int = RATE, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-level, level, size=round(seconds * rate))


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
        return prepare(home, config, **arguments)

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
        assert [(f.code, f.excluded) for f in report.findings] == [("rates_differ", False)]

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
        alone = prepare(home, CONFIG, **arguments, jobs=1, name="alone")
        for path in home.features.rglob("*.safetensors"):
            path.unlink()
        together = prepare(home, CONFIG, **arguments, jobs=2, name="together")
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
            ("clipped", np.clip(sound(level=1.2), -1, 1), "1[5-8].*% of its samples are at full scale"),
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
        corpus.put("normalised", wave, wave)
        assert run().findings == ()

    def test_upsampled_recordings_are_noted(self, corpus, run):
        corpus.put("phone", sound(rate=4000), sound(rate=4000), rates=(4000, 4000))
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


class TestDurationRatio:
    def far(self, corpus: Corpus, run: Callable[..., PrepareReport], seconds: float) -> list[tuple[str, bool]]:
        corpus.put("odd", sound(0.5), sound(seconds))
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
        assert prepare(home, CONFIG, source=corpus.source, target=corpus.target, jobs=1).findings == ()

    def test_one_outlier_does_not_hide_another(self, corpus, run):
        corpus.put("one", sound(0.3), sound(6.0))
        corpus.put("two", sound(0.3), sound(3.0))
        assert {f.utterance_id for f in run().findings if f.excluded} == {"one", "two"}


class TestCondition:
    @given(
        lengths=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 200)), min_size=1, max_size=8),
        stacks=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    )
    def test_the_proposed_factor_is_the_smallest_that_all_pairs_satisfy(self, lengths, stacks):
        config = Config(model=ModelConfig(source_stack=stacks[0], target_stack=stacks[1]))
        pairs = [ParallelPair("", Path(), Path(), None, source, target) for source, target in lengths]
        tried = (
            factor
            for factor in range(1, 1000)
            if all(source // stacks[0] // factor <= target // stacks[1] for source, target in lengths)
        )
        assert smallest_frames_per_token(pairs, config) == next(tried)

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
            prepare(home, config, source=corpus.source, target=corpus.target, jobs=1)
        again = override(config, {"model.frames_per_token": 3})
        assert prepare(home, again, source=corpus.source, target=corpus.target, jobs=1).n_breaking == 0

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
            prepare(home, CONFIG, source=corpus.source, target=corpus.target, jobs=1)
        assert not home.prepared.exists(), "nothing half-written"

    def test_three_are_enough(self, home, tmp_path):
        corpus = Corpus(tmp_path / "few", 3)
        report = prepare(home, CONFIG, source=corpus.source, target=corpus.target, jobs=1)
        assert report.n_pairs == {"train": 2, "dev": 1, "eval": 0}

    def test_the_error_says_why_the_others_were_left_out(self, home, tmp_path):
        corpus = Corpus(tmp_path / "bad", 1)
        for index in range(5):
            corpus.put(f"bad{index}", np.zeros(4000), sound())
        with pytest.raises(DataError, match=r"left out: 5 silent \(first: bad0: .*digital silence"):
            prepare(home, CONFIG, source=corpus.source, target=corpus.target, jobs=1)

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
                    soundfile.write(path, sound(0.4, count), RATE)
        return root

    def test_a_corpus_keeps_its_own_sets(self, home, captain):
        prepare(home, CONFIG, corpus=captain, jobs=1)
        assert ids(home, "train") == [f"train_parallel_{index}" for index in range(6)]
        assert ids(home, "dev") == ["dev_0", "dev_1"]
        assert ids(home, "eval") == ["eval_0", "eval_1"]

    def test_a_set_that_is_asked_for_is_drawn_from_all_but_the_others(self, home, captain):
        prepare(home, CONFIG, corpus=captain, dev="5", jobs=1)
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
            prepare(home, CONFIG, source=corpus.source, target=corpus.target, dev="4", seed=seed, jobs=1)
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
        monkeypatch.setattr("aasvc_cli.pipeline.prepare.read_audio", no_analysis)
        second = run()
        assert (first.n_computed, first.n_fresh) == (12, 0)
        assert (second.n_computed, second.n_fresh) == (0, 12)
        assert second.findings == first.findings
        assert second.n_pairs == first.n_pairs

    def test_notes_are_found_again_without_decoding(self, corpus, run, monkeypatch):
        corpus.put("wide", sound(rate=16000), sound(), rates=(16000, RATE))
        findings = run().findings
        monkeypatch.setattr("aasvc_cli.pipeline.prepare.read_audio", no_analysis)
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
            "from aasvc_cli.pipeline.prepare import prepare\n"
            "kill = lambda done, total: done == 7 and os.kill(os.getpid(), signal.SIGKILL)\n"
            "prepare(find_home(), CONFIG, source=sys.argv[1], target=sys.argv[2], jobs=1, on_progress=kill)\n"
        )
        command = [sys.executable, "-c", code, str(corpus.source), str(corpus.target)]
        assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -9
        report = run()
        assert (report.n_computed, report.n_fresh) == (5, 7)

    @pytest.mark.process
    def test_ctrl_c_ends_all_processes_at_once(self, home, tmp_path):
        """The pipe stays open as long as any worker lives."""
        corpus = Corpus(tmp_path / "more", 40)
        code = (
            "import os, signal, sys\n"
            "from tests.pipeline.test_prepare import CONFIG; from aasvc_cli.storage.home import find_home\n"
            "from aasvc_cli.errors import Interrupted; from aasvc_cli.pipeline.prepare import prepare\n"
            "stop = lambda done, total: done == 8 and os.kill(os.getpid(), signal.SIGINT)\n"
            "try:\n"
            "    prepare(find_home(), CONFIG, source=sys.argv[1], target=sys.argv[2], jobs=2, on_progress=stop)\n"
            "except Interrupted as error:\n"
            "    print(error)\n"
        )
        command = [sys.executable, "-c", code, str(corpus.source), str(corpus.target)]
        result = subprocess.run(
            command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True, timeout=60
        )
        assert result.stdout.startswith("stopped after 8 of 80 recordings")
        assert "Traceback" not in result.stderr
        report = prepare(home, CONFIG, source=corpus.source, target=corpus.target, jobs=1)
        assert 8 <= report.n_fresh < 80


class TestStorage:
    @pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.process)])
    def test_features_that_cannot_be_written_stop_the_run_in_one_line(self, home, tmp_path, jobs):
        corpus = Corpus(tmp_path / "more", 10)
        home.root.mkdir(parents=True)
        home.features.write_text("a file in the way")
        with pytest.raises(StorageError, match="features") as caught:
            prepare(home, CONFIG, source=corpus.source, target=corpus.target, jobs=jobs)
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

        monkeypatch.setattr("aasvc_cli.pipeline.prepare.resample", moody)
        corpus.put("bad", sound(3333 / RATE), sound())
        (finding,) = run().findings
        assert (finding.code, finding.excluded) == ("unreadable", True)
        assert "MemoryError: much too long" in finding.message

    @pytest.mark.parametrize("jobs", [0, -1])
    def test_a_number_of_processes_that_is_none(self, run, jobs):
        with pytest.raises(DataError, match=f"--jobs {jobs}: expected 1 or more"):
            run(jobs=jobs)


def test_real_speech_gives_no_findings(home, demo_corpus):
    """Recordings without faults must not be suspected of any."""
    config = override(Config(), {"features.mel.sample_rate": 24000})
    report = prepare(home, config, corpus=demo_corpus, jobs=1)
    assert report.findings == ()
    assert report.n_pairs == {"train": 80, "dev": 10, "eval": 10}
    assert math.isfinite(report.source_seconds)
