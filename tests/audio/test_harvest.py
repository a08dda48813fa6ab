"""F0 against WORLD's own Harvest, and against tones of known pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pyworld
from hypothesis import given, settings
from hypothesis import strategies as st

from aasvc_cli.audio import harvest as harvest_module
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.harvest import harvest
from aasvc_cli.audio.mel import resample

RECORDINGS = sorted((Path(__file__).parents[1] / "assets" / "recordings").rglob("*.flac"))


def both(wave: np.ndarray, sample_rate: int, f0_min: float, f0_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Contours of WORLD and of ours, after looking at the times."""
    wave = np.ascontiguousarray(wave, dtype=np.float64)
    theirs, their_times = pyworld.harvest(wave, sample_rate, f0_floor=f0_min, f0_ceil=f0_max, frame_period=5.0)
    ours, our_times = harvest(wave, sample_rate, f0_min=f0_min, f0_max=f0_max)
    assert np.array_equal(their_times, our_times)
    return theirs, ours


def assert_equal_contours(theirs: np.ndarray, ours: np.ndarray) -> None:
    assert np.array_equal(theirs > 0, ours > 0), "the same frames are voiced"
    assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("path", RECORDINGS[::2], ids=lambda path: f"{path.parent.name} {path.stem}")
@pytest.mark.parametrize(("f0_min", "f0_max"), [(90.0, 440.0), (40.0, 290.0)])
def test_speech_has_the_contour_of_world(path, f0_min, f0_max):
    wave, sample_rate = read_audio(path)
    theirs, ours = both(wave.astype(np.float64) * 32767, sample_rate, f0_min, f0_max)
    assert (theirs > 0).any()
    assert_equal_contours(theirs, ours)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_every_sample_rate_has_the_contour_of_world(sample_rate):
    wave, rate = read_audio(RECORDINGS[0])
    wave = resample(wave[: 2 * rate], rate, sample_rate)
    assert_equal_contours(*both(wave.astype(np.float64) * 32767, sample_rate, 50.0, 500.0))


def test_a_faint_recording_with_a_click_has_the_contour_of_world():
    # what WORLD's convolution does to the highest bins shows here
    wave, rate = read_audio(RECORDINGS[0])
    wave = wave[: 2 * rate].astype(np.float64) * 30
    wave[-5:] = 30000
    assert_equal_contours(*both(wave, rate, 90.0, 440.0))


@given(st.integers(0, 1 << 20))
@settings(max_examples=15, deadline=None)
def test_made_up_voices_have_the_contour_of_world(seed):
    random = np.random.default_rng(seed)
    rate = 16000
    length = int(random.integers(rate // 4, rate))
    pitch = random.uniform(80, 350) * 2 ** (np.cumsum(random.normal(0, 1, length)) / 4000)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = sum(np.cos(k * phase + k * k) / k for k in range(1, 12)) + random.normal(0, 0.3, length)
    wave[: length // 5] = random.normal(0, 0.3, length // 5)
    assert_equal_contours(*both(wave * 1000, rate, 60.0, 500.0))


@pytest.mark.parametrize("ratio", [2, 3, 6, 12])
def test_the_filter_before_decimation_is_scipys(ratio):
    from scipy.signal import cheby1, lfilter

    numerator, denominator = harvest_module._low_pass(ratio)
    assert numerator == pytest.approx(cheby1(3, 0.05, 0.8 / ratio)[0], rel=1e-10)
    assert denominator == pytest.approx(cheby1(3, 0.05, 0.8 / ratio)[1], rel=1e-10)
    wave = np.random.default_rng(0).standard_normal(300)
    forth = lfilter(numerator, denominator, wave)
    expected = lfilter(numerator, denominator, forth[::-1])[::-1]
    assert harvest_module._forth_and_back(wave, numerator, denominator) == pytest.approx(expected, abs=1e-12)


def test_filters_that_are_not_kept_are_the_same(monkeypatch):
    wave, rate = read_audio(RECORDINGS[0])
    kept, _ = harvest(wave[:rate], rate, f0_min=90, f0_max=440)
    monkeypatch.setattr(harvest_module, "MAX_KEPT_BYTES", 0)
    made, _ = harvest(wave[:rate], rate, f0_min=90, f0_max=440)
    assert kept.any()
    assert np.array_equal(kept, made)


@pytest.mark.parametrize("frequency", [95.0, 180.0, 400.0])
def test_a_steady_tone_has_its_own_frequency(frequency):
    time = np.arange(24000) / 24000
    wave = sum(np.cos(2 * np.pi * frequency * k * time + k * k) / k for k in range(1, 9))
    f0, _ = harvest(wave * 1000, 24000, f0_min=90, f0_max=440)
    inner = f0[20:-20]
    assert (inner > 0).all()
    assert inner == pytest.approx(frequency, rel=2e-3)


@pytest.mark.parametrize("n_samples", [1, 2, 50, 500, 3000])
def test_silence_and_scraps_have_no_voice_and_break_nothing(n_samples):
    for wave in (np.zeros(n_samples), np.full(n_samples, 100.0)):
        f0, times = harvest(wave, 24000, f0_min=90, f0_max=440)
        assert len(f0) == len(times) == int(n_samples / 24000 * 200) + 1
        assert not f0.any()
