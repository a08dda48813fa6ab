"""The voice that ships with the package: it speaks as the target speaker does, and it is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aasvc_cli.audio.dtw import exact_path
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.conversion.converter import Converted, Converter
from aasvc_cli.measures.signal import score_pair, voiced_f0
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import bundled

DATA = Path(__file__).parent / "assets"
FEMALE_HZ = {"f0_min": 90.0, "f0_max": 440.0}


@pytest.fixture(scope="module")
def converter() -> Converter:
    return Converter.load(device="cpu")


@pytest.fixture(scope="module")
def converted(converter: Converter) -> Converted:
    return converter.convert(*read_audio(DATA / "male.flac"))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of log-mels along the best alignment, in decades."""
    path = exact_path(one.astype(np.float64), other.astype(np.float64))
    return float(np.abs(one[path[:, 0]] - other[path[:, 1]]).mean())


def test_the_result_lies_nearer_to_the_target_recording_than_to_the_source(converter, converted):
    mel = converter.voice.config.features.mel
    source, target = (log_mel(read_audio(DATA / f"{name}.flac")[0], mel) for name in ("male", "female"))
    heard = log_mel(converted.wave, mel)
    assert _distance(heard, target) < 0.25
    assert _distance(heard, target) < 0.5 * _distance(heard, source)


def test_the_result_has_the_length_and_the_pitch_of_the_target(converted):
    target, rate = read_audio(DATA / "female.flac")
    scores = score_pair(converted.wave, converted.sample_rate, target, rate, **FEMALE_HZ)
    assert scores.ddur < 0.35
    assert scores.f0_rmse < 45.0
    assert scores.f0_corr > 0.6
    assert scores.mcd < 8.0
    ours, theirs = (np.median(voiced_f0(wave, rate)) for wave in (converted.wave, target))
    assert abs(12 * np.log2(ours / theirs)) < 2.0  # semitones


def test_the_result_is_the_same_every_time(converter, converted):
    again = converter.convert(*read_audio(DATA / "male.flac"), seed=1)
    np.testing.assert_array_equal(again.wave, converted.wave)


def test_the_level_is_that_of_speech(converted):
    assert 0.05 < np.abs(converted.wave).max() <= 1.0


def test_the_folder_is_small_and_says_what_it_is():
    folder = bundled("voice")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6
    card = read_json(folder / "card.json", "the model card")
    assert {"data", "licence", "training", "scores", "limits"} <= card.keys()
