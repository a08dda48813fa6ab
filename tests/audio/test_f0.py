"""F0 of sounds of known pitch, and what the estimators refuse."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyworld

from aasvc_cli.audio import f0 as f0_module
from aasvc_cli.audio.f0 import dio, frame_times, harvest, with_length
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.world import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, shortest_fft, spectral_envelope
from aasvc_cli.errors import DataError

RECORDING = Path(__file__).parents[1] / "assets" / "recordings" / "female" / "train_parallel_0007.flac"
RATE = 16000
ESTIMATORS = (harvest, dio)


def tone(frequency: float, seconds: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return sum(np.cos(2 * np.pi * frequency * k * time + k * k) / k for k in range(1, 9)) * 0.1


@pytest.mark.parametrize("frequency", [95.0, 180.0, 400.0])
@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_a_steady_tone_has_its_own_frequency(estimate, frequency):
    f0 = estimate(tone(frequency, 0.6), RATE, f0_min=90, f0_max=440)
    inner = f0[20:-20]
    assert (inner > 0).all()
    assert inner == pytest.approx(frequency, rel=2e-3)


def test_the_estimators_are_those_of_world():
    wave, rate = read_audio(RECORDING)
    signal = wave[:rate].astype(np.float64)
    accurate, _ = pyworld.harvest(signal, rate, f0_floor=90.0, f0_ceil=440.0, frame_period=5.0)
    rough, times = pyworld.dio(signal, rate, f0_floor=90.0, f0_ceil=440.0, frame_period=8.0)
    assert np.array_equal(harvest(wave[:rate], rate, f0_min=90, f0_max=440), accurate)
    quick = dio(wave[:rate], rate, f0_min=90, f0_max=440, frame_period=8.0)
    assert np.array_equal(quick, pyworld.stonemask(signal, rough, times, rate))


@pytest.mark.parametrize("n_samples", [1, 2, 50, 500, 3000])
@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_silence_and_scraps_have_no_voice_and_break_nothing(estimate, n_samples):
    for wave in (np.zeros(n_samples), np.full(n_samples, 0.1)):
        f0 = estimate(wave, 24000, f0_min=90, f0_max=440)
        assert len(f0) == int(n_samples / 24000 * 200) + 1
        assert not f0.any()


@pytest.mark.parametrize("frame_period", [5.0, 1000 * 300 / 22050])
def test_a_long_signal_in_pieces_has_the_contour_of_the_whole(monkeypatch, frame_period):
    """Pitches of tones that change every 0.4 s, some of them across the end of a piece."""
    rate = 22050
    sounds = [tone(f, 0.4, rate) if f else np.zeros(int(0.4 * rate)) for f in (120, 0, 200, 300, 0, 150, 0, 250, 180)]
    wave = np.concatenate(sounds)
    whole = dio(wave, rate, f0_min=80, f0_max=440, frame_period=frame_period)
    monkeypatch.setattr(f0_module, "PIECE_SECONDS", 1.0)
    monkeypatch.setattr(f0_module, "MARGIN_SECONDS", 0.5)
    pieces = dio(wave, rate, f0_min=80, f0_max=440, frame_period=frame_period)
    assert len(pieces) == len(whole)
    assert np.mean((pieces > 0) == (whole > 0)) > 0.98
    voiced = (pieces > 0) & (whole > 0)
    assert np.median(np.abs(pieces[voiced] / whole[voiced] - 1)) < 1e-3


def test_a_contour_is_cut_or_continued_without_voice():
    contour = np.array([100.0, 110.0])
    assert with_length(contour, 1).tolist() == [100.0]
    assert with_length(contour, 4).tolist() == [100.0, 110.0, 0.0, 0.0]
    assert frame_times(3, 8.0).tolist() == [0.0, 0.008, 0.016]


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize(
    ("wave", "rate", "f0_range", "message"),
    [
        (np.zeros(0), RATE, (90, 440), "no samples"),
        (np.full(100, np.nan), RATE, (90, 440), "not numbers"),
        (np.zeros((2, 100)), RATE, (90, 440), "one channel"),
        (np.zeros(100), RATE, (440, 90), "F0 range 440-90"),
        (np.zeros(100), RATE, (0, 440), "F0 range 0-440"),
        (np.zeros(100), 1200, (90, 700), "maximum < 600 Hz"),
        (np.zeros(100), MIN_SAMPLE_RATE - 1, (90, 200), "sample rate 999 Hz: expected 1000 to 384000 Hz"),
        (np.zeros(100), 1, (0.1, 0.2), "sample rate 1 Hz"),
        (np.zeros(100), MAX_SAMPLE_RATE + 1, (90, 440), "is the header of the recording right"),
    ],
)
def test_what_world_cannot_take_is_refused_before_it_is_called(estimate, wave, rate, f0_range, message):
    with pytest.raises(DataError, match=message):
        estimate(wave, rate, f0_min=f0_range[0], f0_max=f0_range[1])


def test_an_fft_too_short_for_the_sample_rate_is_refused():
    with pytest.raises(DataError, match="FFT size 1024: too short for 192000 Hz"):
        spectral_envelope(np.zeros(1000), np.zeros(2), np.zeros(2), 192000, fft_size=1024)
    assert shortest_fft(160_000) <= 1024 < shortest_fft(192_000)


@pytest.mark.process
def test_the_limits_leave_the_heap_alone():
    """At the lowest and the highest rate, and with the shortest FFT, nothing is written outside of a buffer."""
    calls = [
        "import numpy as np",
        "from aasvc_cli.audio.f0 import dio, harvest",
        "from aasvc_cli.audio.world import spectral_envelope, shortest_fft, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE",
    ]
    for rate, estimate in itertools.product(("MIN_SAMPLE_RATE", "MAX_SAMPLE_RATE"), ("dio", "harvest")):
        calls += [
            f"wave = np.random.default_rng(0).normal(size={rate} // 4)",
            f"f0 = {estimate}(wave, {rate}, f0_min=90, f0_max=440)",
            f"fft = 1 << (shortest_fft({rate}) - 1).bit_length()",
            f"spectral_envelope(wave, f0, np.arange(len(f0)) * 0.005, {rate}, fft_size=fft)",
        ]
    done = subprocess.run([sys.executable, "-c", "\n".join(calls)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
