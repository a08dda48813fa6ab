"""Recordings unlike those that a voice was trained on are told from those like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aasvc_cli.audio.files import read_audio
from aasvc_cli.conversion.converter import UNLIKE, Converter, _Samples
from aasvc_cli.errors import DataError
from aasvc_cli.features.likeness import ALWAYS_NEAR, Likeness, upper_quartile
from aasvc_cli.features.stats import FeatureStats, NormStats
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home, bundled


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
def converter() -> Converter:
    return Converter.load(device="cpu")


@pytest.fixture(scope="module")
def recordings() -> dict[str, np.ndarray]:
    data = Path(__file__).parents[1] / "assets"
    return {name: read_audio(data / f"{name}.flac")[0] for name in ("male", "female")}


class TestWarnings:
    def told(self, converter: Converter, wave: np.ndarray) -> list[str]:
        messages: list[str] = []
        list(converter.stream(_Samples("in.wav", 24000, wave.astype(np.float32)), on_message=messages.append))
        return messages

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
        assert self.told(converter, change(recordings["male"])) == []

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
        (told,) = self.told(converter, change(recordings[name]))
        assert told.startswith(message)
        assert UNLIKE in told
        assert "aasvc prepare" in told or "bring it to their level" in told

    def test_it_is_said_once_for_a_folder(self, aasvc: Callable[..., Any], data: Path, tmp_path: Path):
        (tmp_path / "rec").mkdir()
        for name in ("1.flac", "2.flac"):
            (tmp_path / "rec" / name).write_bytes((data / "female.flac").read_bytes())
        outcome = aasvc("convert", tmp_path / "rec", "--out-dir", tmp_path / "out", "--jsonl", tmp_path / "l.jsonl")
        assert outcome.code == 0
        assert outcome.err.count("sounds unlike") == 1
        assert (tmp_path / "l.jsonl").read_text(encoding="utf-8").count("sounds unlike") == 2

    def test_stats_finds_it_for_the_source(self, trained: Home):
        stats = NormStats.from_tree(read_json(trained.exp / "male_female_tiny" / "stats.json", "statistics"), "test")
        assert stats.source.likeness is not None
        assert 0 < stats.source.likeness.reach < 1
        assert stats.target.likeness is None

    def test_the_bundled_voice_has_it(self):
        tree = read_json(bundled("voice") / "stats.json", "statistics")
        assert len(tree["source"]["likeness"]["typical"]) == 80
