"""Recordings unlike those that a voice was trained on are told from those like them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.conversion.converter import UNLIKE, Converter, _Samples
from aasvc_cli.errors import DataError
from aasvc_cli.features.likeness import ALWAYS_NEAR, Likeness, upper_quartile
from aasvc_cli.features.stats import FeatureStats, NormStats, RunningStats
from aasvc_cli.storage.files import read_json, write_json
from aasvc_cli.storage.home import Home


class TestDistances:
    def test_closed_form_on_constant_features(self):
        scale = np.array([1.0, 2.0], np.float32)
        quartiles = [np.array([0.0, 0.0]), np.array([1.0, 2.0]), np.array([2.0, 4.0])]
        likeness = Likeness.of([entry.astype(np.float32) for entry in quartiles], scale)
        assert likeness.typical.tolist() == [1.0, 2.0]
        assert likeness.reach == pytest.approx(1.0)
        assert likeness.limit == pytest.approx(2.0)
        mean = np.array([5.0, 5.0], np.float32)
        feature = np.tile((np.array([4.0, 2.0]) - mean) / scale, (9, 1)).astype(np.float32)
        assert likeness.difference(feature, mean, scale) == pytest.approx([3.0, 0.0])

    def test_alike_recordings_still_leave_some_room(self):
        same = [np.zeros(3, np.float32)] * 4
        assert Likeness.of(same, np.ones(3, np.float32)).limit == ALWAYS_NEAR

    def test_pauses_of_a_third_hardly_matter(self):
        rng = np.random.default_rng(0)
        speech = rng.normal(0, 1, (3000, 4)).astype(np.float32)
        paused = np.concatenate([speech, np.full((1000, 4), -8.0, np.float32)])
        assert np.abs(upper_quartile(paused) - upper_quartile(speech)).max() < 0.3

    def test_it_is_kept_with_the_statistics(self):
        likeness = Likeness(np.array([1.5, -2.25], np.float32), 0.125)
        stats = FeatureStats(np.zeros(2, np.float32), np.ones(2, np.float32), 7, likeness=likeness)
        again = FeatureStats.from_tree(stats.to_tree(), "test").likeness
        assert again is not None
        assert (again.typical.tolist(), again.reach) == ([1.5, -2.25], 0.125)

    @pytest.mark.parametrize(
        "tree", [[], {}, {"typical": [1.0], "reach": 0.1}, {"typical": [1.0, 2.0], "reach": -1}, {"typical": "x"}]
    )
    def test_damaged_ones_are_named(self, tree: Any):
        stats = FeatureStats(np.zeros(2, np.float32), np.ones(2, np.float32), 7).to_tree() | {"likeness": tree}
        with pytest.raises(DataError, match=r"stats\.json.*likeness"):
            FeatureStats.from_tree(stats, "stats.json")


@pytest.fixture(scope="module")
def voice(trained_once: Path, demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice on mels, which knows one speaker from forty sentences."""
    folder = tmp_path_factory.mktemp("voice") / "known"
    shutil.copytree(trained_once / "exp" / "male_female_tiny", folder)
    mel = parse_config(read_config_file(folder / "config.yaml"), "config.yaml").features.mel
    running, quartiles = RunningStats(), []
    for path in sorted((demo_corpus / "male/wav/train_parallel").iterdir())[:40]:
        feature = log_mel(resample(*read_audio(path), mel.sample_rate), mel)
        running.update(feature)
        quartiles.append(upper_quartile(feature))
    source = running.result()
    source = dataclasses.replace(source, likeness=Likeness.of(quartiles, source.scale))
    stats = NormStats.from_tree(read_json(folder / "stats.json", "statistics"), "stats.json")
    write_json(folder / "stats.json", dataclasses.replace(stats, source=source).to_tree())
    return folder


@pytest.fixture(scope="module")
def converter(voice: Path) -> Converter:
    return Converter.load(voice, device="cpu")


@pytest.fixture(scope="module")
def recordings() -> dict[str, np.ndarray]:
    data = Path(__file__).parents[1] / "assets"
    return {name: read_audio(data / f"{name}.flac")[0] for name in ("male", "female")}


def told(converter: Converter, wave: np.ndarray) -> list[str]:
    messages: list[str] = []
    list(converter.stream(_Samples("in.wav", 24000, wave.astype(np.float32)), on_message=messages.append))
    return messages


class TestWarnings:
    @pytest.mark.parametrize(
        "change",
        [
            lambda wave: wave,
            lambda wave: 0.5 * wave,
            lambda wave: 2.0 * wave,
            lambda wave: np.pad(wave, 12000),
            lambda wave: wave + np.random.default_rng(0).normal(0, 0.03 * wave.std(), len(wave)),
        ],
        ids=["as it is", "quieter", "louder", "pauses", "noise"],
    )
    def test_its_own_speaker_is_recognised(
        self, converter: Converter, recordings: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
    ):
        assert told(converter, change(recordings["male"])) == []

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("female", lambda wave: wave, "in.wav: sounds unlike the recordings"),
            ("male", lambda wave: np.sin(np.arange(48000) * 0.1), "in.wav: sounds unlike the recordings"),
            ("male", lambda wave: 0.15 * wave, "in.wav: is much quieter"),
            ("male", lambda wave: 8.0 * wave, "in.wav: is much louder"),
        ],
        ids=["another speaker", "a tone", "far quieter", "far louder"],
    )
    def test_input_unlike_the_training_speaker_is_reported_with_advice(
        self,
        converter: Converter,
        recordings: dict[str, np.ndarray],
        name: str,
        change: Callable[[np.ndarray], np.ndarray],
        message: str,
    ):
        (line,) = told(converter, change(recordings[name]))
        assert line.startswith(message)
        assert UNLIKE in line
        assert "aasvc prepare" in line or "bring it to their level" in line

    def test_it_is_said_once_for_a_folder(self, aasvc: Callable[..., Any], voice: Path, data: Path, tmp_path: Path):
        (tmp_path / "rec").mkdir()
        for name in ("1.flac", "2.flac"):
            (tmp_path / "rec" / name).write_bytes((data / "female.flac").read_bytes())
        places = "--out-dir", tmp_path / "out", "--jsonl", tmp_path / "l.jsonl"
        outcome = aasvc("convert", tmp_path / "rec", "--model", voice, *places)
        assert outcome.code == 0
        assert outcome.err.count("sounds unlike") == 1
        assert (tmp_path / "l.jsonl").read_text(encoding="utf-8").count("sounds unlike") == 2

    def test_stats_finds_it_for_the_source(self, trained: Home):
        stats = NormStats.from_tree(read_json(trained.exp / "male_female_tiny" / "stats.json", "statistics"), "test")
        assert stats.source.likeness is not None
        assert 0 < stats.source.likeness.reach < 1
        assert stats.target.likeness is None


@pytest.fixture(scope="module")
def bundled() -> Converter:
    return Converter.load(device="cpu")


class TestTheBundledVoice:
    """It hears what is said, not who says it."""

    @pytest.mark.parametrize("name", ["male", "female"])
    @pytest.mark.parametrize("gain", [0.15, 1.0, 8.0])
    def test_it_takes_speakers_and_levels_that_it_never_heard(self, bundled: Converter, recordings, name, gain):
        assert told(bundled, gain * recordings[name]) == []

    def test_what_is_no_speech_is_reported(self, bundled: Converter):
        (line,) = told(bundled, np.sin(np.arange(48000) * 0.1))
        speakers = bundled.voice.stats.speakers
        assert line.startswith(f"in.wav: sounds like none of the {len(speakers)} speakers") and len(speakers) > 1
