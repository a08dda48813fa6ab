"""Spectral envelopes against WORLD's own CheapTrick."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pyworld
from hypothesis import given, settings
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.harvest import harvest
from aasvc_cli.audio.mel import resample
from aasvc_cli.measures import cheaptrick
from aasvc_cli.measures.cheaptrick import log_envelope

RECORDINGS = sorted((Path(__file__).parents[1] / "assets" / "recordings").rglob("*.flac"))


def both(wave: np.ndarray, sample_rate: int, fft_size: int, f0_min: float = 90.0) -> tuple[np.ndarray, np.ndarray]:
    """Log envelopes of WORLD and of ours, with the same F0."""
    wave = np.ascontiguousarray(wave, dtype=np.float64)
    f0, times = harvest(wave, sample_rate, f0_min=f0_min, f0_max=440.0)
    theirs = np.log(pyworld.cheaptrick(wave, f0, times, sample_rate, fft_size=fft_size))
    return theirs, log_envelope(wave, f0, times, sample_rate, fft_size=fft_size)


@pytest.fixture
def without_world(monkeypatch):
    """Speech has to come out right without any help."""

    def missing() -> None:
        raise AssertionError("WORLD was asked")

    monkeypatch.setattr(cheaptrick, "_world", missing)


@pytest.mark.parametrize("path", RECORDINGS[::3], ids=lambda path: f"{path.parent.name} {path.stem}")
@pytest.mark.parametrize(("fft_size", "f0_min"), [(1024, 90.0), (2048, 40.0)])
@pytest.mark.usefixtures("without_world")
def test_speech_has_the_envelope_of_world(path, fft_size, f0_min):
    wave, sample_rate = read_audio(path)
    theirs, ours = both(wave.astype(np.float64) * 32768, sample_rate, fft_size, f0_min)
    # what WORLD's difference of running sums leaves of the faintest bins; see the mean for the others
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert np.abs(ours - theirs).mean() < 1e-9


@pytest.mark.parametrize(("sample_rate", "fft_size"), [(8000, 512), (16000, 1024), (44100, 2048), (48000, 1024)])
def test_every_sample_rate_has_the_envelope_of_world_even_where_the_upper_band_is_empty(sample_rate, fft_size):
    wave, rate = read_audio(RECORDINGS[0])
    wave = resample(wave[: 2 * rate], rate, sample_rate).astype(np.float64)
    theirs, ours = both(wave * 32768, sample_rate, fft_size)
    assert np.isfinite(ours).all()
    assert np.median(np.abs(ours - theirs)) < 1e-9
    assert ours == pytest.approx(theirs, abs=0.1)


def test_frames_without_sound_have_the_noise_that_world_gives_them_and_the_others_are_not_touched():
    wave, rate = read_audio(RECORDINGS[0])
    wave = wave[:rate].astype(np.float64) * 32768
    wave[8000:14000] = 0.0
    theirs, ours = both(wave, rate, 1024)
    silent = slice(8000 // 120 + 4, 14000 // 120 - 4)
    assert (ours[silent] < -20).all()
    assert np.array_equal(ours[silent], theirs[silent])
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("wave", [np.zeros(3000), np.full(3000, 100.0), np.ones(1), np.arange(40.0)])
def test_silence_and_scraps_have_the_envelope_of_world(wave):
    theirs, ours = both(wave, 24000, 1024)
    assert ours == pytest.approx(theirs, abs=1e-6)


@given(st.integers(0, 1 << 20))
@settings(max_examples=15, deadline=None)
def test_any_f0_has_the_envelope_of_world(seed):
    random = np.random.default_rng(seed)
    wave = random.normal(0, 1000, 4000)
    times = np.arange(50) * 0.005
    f0 = random.uniform(30, 900, 50) * (random.uniform(size=50) < 0.7)  # some unvoiced, some too low for the size
    theirs = np.log(pyworld.cheaptrick(wave, f0, times, 16000, fft_size=1024))
    assert log_envelope(wave, f0, times, 16000, fft_size=1024) == pytest.approx(theirs, abs=1e-7)


def test_a_gain_moves_the_envelope_by_twice_its_logarithm():
    wave, rate = read_audio(RECORDINGS[0])
    wave = wave[:rate].astype(np.float64) * 32768
    times = np.arange(150) * 0.005
    f0 = np.full(150, 200.0)
    quiet, loud = (log_envelope(gain * wave, f0, times, rate, fft_size=1024) for gain in (1.0, 2.0))
    assert loud - quiet == pytest.approx(2 * np.log(2.0), abs=1e-6)
