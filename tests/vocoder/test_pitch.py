"""The pitch that is read from mels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from aasvc_cli.audio.f0 import harvest
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import read_preset
from aasvc_cli.errors import ConfigError
from aasvc_cli.features.stats import FeatureStats
from aasvc_cli.vocoder.pitch import PitchReader
from tests.conftest import DATA

MEL = read_preset("small").features.mel


@pytest.mark.parametrize(("name", "f0_range"), [("male.flac", (60.0, 300.0)), ("female.flac", (90.0, 440.0))])
def test_is_that_which_world_finds_in_the_recording(name: str, f0_range: tuple[float, float]):
    wave, rate = read_audio(DATA / name)
    wave = resample(wave, rate, MEL.sample_rate)
    stats = FeatureStats(np.full(MEL.n_mels, -2.0, np.float32), np.full(MEL.n_mels, 0.5, np.float32), 1)
    mel = torch.from_numpy(stats.normalise(log_mel(wave, MEL))).unsqueeze(0)
    f0, voiced = PitchReader(MEL, stats, torch.device("cpu"))(mel)
    expected = harvest(wave.astype(np.float64), MEL.sample_rate, f0_min=f0_range[0], f0_max=f0_range[1])
    times = np.arange(f0.shape[1]) * MEL.hop_length / MEL.sample_rate
    expected = expected[np.minimum(np.round(times / 0.005).astype(int), len(expected) - 1)]
    both = voiced[0].numpy() & (expected > 0)
    assert both.mean() > 0.3
    assert float(np.median(np.abs(f0[0].numpy()[both] / expected[both] - 1))) < 0.02
    assert float(np.mean(voiced[0].numpy() == (expected > 0))) > 0.8


def test_mels_of_other_settings_are_refused_by_the_name_of_the_setting():
    with pytest.raises(ConfigError, match="model.pitch_predictor: the pitch cannot be read from mels"):
        PitchReader(
            dataclasses.replace(MEL, n_mels=40), FeatureStats(np.zeros(40), np.ones(40), 1), torch.device("cpu")
        )
