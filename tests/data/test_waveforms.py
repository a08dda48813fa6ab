"""Changed recordings, each change against what physics says about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aasvc_cli.audio.f0 import harvest
from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.resampling import resample
from aasvc_cli.audio.world import sptk
from aasvc_cli.data import waveforms

RATE = 16000
Wave = npt.NDArray[np.float32]
SPEECH = Path(__file__).parent.parent / "assets" / "female.flac"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def speech() -> Wave:
    wave, rate = read_audio(SPEECH)
    return resample(wave, rate, RATE)[: 2 * RATE]


def tone(hertz: float, seconds: float = 1.0) -> Wave:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def impulse() -> Wave:
    wave = np.zeros(RATE, dtype=np.float32)
    wave[0] = 1.0
    return wave


def strongest(wave: Wave) -> float:
    """Hertz of the highest peak of the spectrum."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(np.argmax(spectrum) * RATE / len(wave))


def test_stretching_by_one_changes_nothing(speech: Wave) -> None:
    np.testing.assert_allclose(waveforms.stretched(speech, RATE, 1.0), speech, atol=1e-3)


@pytest.mark.parametrize("factor", [0.7, 0.93, 1.25, 1.4])
def test_stretching_changes_the_length_and_not_the_pitch(factor: float) -> None:
    slow = waveforms.stretched(tone(220.0), RATE, factor)
    assert len(slow) == round(RATE * factor)
    assert strongest(slow) == pytest.approx(220.0, abs=3.0)
    inside = slow[RATE // 10 : -RATE // 10]
    assert np.sqrt(np.mean(inside**2)) == pytest.approx(np.sqrt(0.5), rel=0.1)  # pieces do not cancel each other


def test_what_is_stretched_keeps_its_order_in_time() -> None:
    two_tones = np.concatenate([tone(300.0), tone(900.0)])
    slow = waveforms.stretched(two_tones, RATE, 1.3)
    middle = len(slow) // 2
    assert strongest(slow[: middle - RATE // 20]) == pytest.approx(300.0, abs=3.0)
    assert strongest(slow[middle + RATE // 20 :]) == pytest.approx(900.0, abs=3.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_room_answers_after_the_direct_sound_and_falls_silent(seed: int) -> None:
    response = waveforms.in_room(impulse(), RATE, rng(seed))
    assert response[0] == pytest.approx(1.0, abs=1e-5)
    assert np.abs(response[1:16]).max() < 1e-5
    energy = response**2
    assert energy[16:].sum() <= 10.0**0.3 + 0.01
    assert energy[int(0.7 * RATE) :].sum() < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_noise_lies_3_to_40_db_below_the_speech(seed: int, speech: Wave) -> None:
    noise = waveforms.with_noise(speech, RATE, rng(seed)) - speech
    ratio = 10.0 * np.log10(np.mean(speech**2) / np.mean(noise**2))
    assert 2.9 < ratio < 40.1


@pytest.mark.parametrize("seed", range(5))
def test_another_microphone_changes_no_frequency_by_more_than_10_db(seed: int) -> None:
    response = 20.0 * np.log10(np.abs(np.fft.rfft(waveforms.equalised(impulse(), RATE, rng(seed)))))
    assert np.abs(response).max() < 10.1
    assert np.ptp(response) > 1.0


@pytest.mark.parametrize("seed", range(8))
def test_a_line_carries_no_high_frequencies(seed: int) -> None:
    white = 0.1 * rng(seed).standard_normal(RATE).astype(np.float32)
    narrow = waveforms.over_line(white, RATE, rng(seed))
    assert abs(len(narrow) - RATE) <= RATE // 50  # codecs fill up their last block
    power = np.abs(np.fft.rfft(narrow)) ** 2
    top = int(6200 * len(narrow) / RATE)
    assert power[top:].mean() < 1e-3 * power[: top // 3].mean()


@pytest.mark.parametrize("codec", ["GSM610", "ULAW"])
def test_codecs_leave_speech_recognisable(codec: str, speech: Wave) -> None:
    narrow = resample(speech, RATE, 8000)
    coded = waveforms.coded(narrow, 8000, codec)[: len(narrow)]
    assert 0.8 < np.corrcoef(narrow, coded)[0, 1] < 0.99999


def test_another_throat_keeps_length_and_moments(speech: Wave) -> None:
    loud = speech**2 > 1e-3
    for seed in range(4):
        other = waveforms.revoiced(speech, RATE, rng(seed))
        assert len(other) == len(speech)
        before, after = (np.convolve(wave**2, np.ones(800), "same") for wave in (speech, other))
        assert np.corrcoef(before, after)[0, 1] > 0.6
        assert not np.allclose(other[loud], speech[loud], atol=0.01)


def test_versions_follow_from_the_seed_and_differ(speech: Wave) -> None:
    versions = [waveforms.varied(speech, RATE, rng(seed)) for seed in range(12)]
    for seed, version in enumerate(versions):
        assert np.isfinite(version).all() and version.dtype == np.float32
        assert 0.55 < len(version) / len(speech) < 1.8
        np.testing.assert_array_equal(version, waveforms.varied(speech, RATE, rng(seed)))
    assert len({version.tobytes() for version in versions}) > 9


@pytest.mark.parametrize("seed", range(12))
def test_a_recording_made_anew_has_as_many_periods_at_another_pitch_and_level(seed: int) -> None:
    made = waveforms.rerecorded(tone(200.0), RATE, rng(seed))
    assert 200.0 / 1.37 < strongest(made) < 200.0 * 1.37
    assert strongest(made) * len(made) / RATE == pytest.approx(200.0, abs=1.0)
    assert waveforms.LOUDEST * 10 ** (-24.1 / 20) < np.abs(made).max() <= waveforms.LOUDEST * 1.0001


def test_what_is_drawn_decides_how_a_recording_is_made_anew(speech: Wave) -> None:
    first, again, other = (waveforms.rerecorded(speech, RATE, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and len(first) != len(other)


@pytest.mark.parametrize("seed", range(8))
def test_a_repitched_recording_has_the_pitch_that_is_said(seed: int, speech: Wave) -> None:
    hop = 160
    found = harvest(speech, RATE, f0_min=60.0, f0_max=400.0, frame_period=1000.0 * hop / RATE)
    made, f0 = waveforms.repitched(speech, found, RATE, hop, rng(seed), f0_min=50.0, f0_max=600.0)
    assert len(made) == len(speech) and len(f0) == len(found)
    assert np.array_equal(f0 > 0, found > 0) and f0[f0 > 0].min() >= 50.0 and f0.max() <= 600.0
    # SWIPE knows neither WORLD nor the contour that was asked for
    heard = sptk().swipe(made.astype(np.float64) * 32768.0, RATE, hop, min=45.0, max=600.0, threshold=0.3)
    both = (heard[: len(f0)] > 0) & (f0[: len(heard)] > 0)
    assert both.sum() > 20
    cents = 1200.0 * np.abs(np.log2(heard[: len(f0)][both] / f0[: len(heard)][both]))
    assert np.median(cents) < 25.0 and (cents > 100.0).mean() < 0.1


def test_repitched_voices_are_deep_and_high_and_what_has_no_pitch_gets_none(speech: Wave) -> None:
    hop = 160
    found = harvest(speech, RATE, f0_min=60.0, f0_max=400.0, frame_period=1000.0 * hop / RATE)
    contours = [waveforms.repitched(speech, found, RATE, hop, rng(n), f0_min=50.0, f0_max=600.0)[1] for n in range(12)]
    middles = [float(np.median(contour[contour > 0])) for contour in contours]
    assert min(middles) < 90.0 and max(middles) > 200.0
    assert not waveforms.repitched(speech, 0.0 * found, RATE, hop, rng(0), f0_min=50.0, f0_max=600.0)[1].any()
