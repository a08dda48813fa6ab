import numpy as np
import pytest
import soxr

from aasvc_cli.audio.mel import at_sample_rate, log_mel, mel_basis
from aasvc_cli.audio.quality import bandwidth, clipped_share, find_speech, loudness
from aasvc_cli.config.settings import MelConfig

RATE = 16000


def tone(frequency: float, seconds: float, level: float = 0.5, rate: int = RATE) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


class TestClipping:
    @pytest.mark.parametrize("full_scale", [1.0, 0.4])
    def test_the_share_that_clipping_cut_off(self, full_scale):
        loud = tone(200, 1.0, 2 * full_scale)
        clipped = np.clip(loud, -full_scale, full_scale)
        expected = np.mean(np.abs(loud) >= full_scale)
        assert clipped_share(clipped, RATE) == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("level", [0.01, 0.5, 1.0])
    def test_loud_is_not_clipped(self, level):
        steps = np.rint(tone(210, 1.0, level) * 32767) / 32768
        assert clipped_share(steps.astype(np.float32), RATE) == 0.0


class TestLoudness:
    def test_a_sine_of_one_kilohertz_has_the_loudness_of_the_standard(self):
        """ITU-R BS.1770: a sine of 997 Hz at full scale in one channel is -3.01 LUFS."""
        assert loudness(tone(997, 3.0, 1.0, 48000), 48000) == pytest.approx(-3.01, abs=0.05)

    def test_neither_silence_nor_a_click_has_one(self):
        assert loudness(np.zeros(RATE, dtype=np.float32), RATE) is None
        assert loudness(tone(997, 0.3), RATE) is None


class TestBandwidth:
    @pytest.mark.parametrize(("real", "header"), [(8000, 24000), (16000, 24000), (8000, 44100), (24000, 24000)])
    def test_it_is_that_of_the_recording_and_not_of_the_header(self, real, header):
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * real)
        assert bandwidth(soxr.resample(noise, real, header).astype(np.float32), header) == pytest.approx(
            real / 2, rel=0.05
        )

    def test_silence_has_none(self):
        assert bandwidth(np.zeros(1000, dtype=np.float32), RATE) == 0.0


class TestSpeech:
    def test_its_ends_and_pauses_are_found(self):
        silence = [np.zeros(round(s * RATE)) for s in (1.0, 0.5, 0.1, 2.0)]
        parts = [silence[0], tone(200, 1.0), silence[1], tone(200, 0.5), silence[2], tone(200, 0.5), silence[3]]
        wave = np.concatenate(parts) + 1e-4 * np.random.default_rng(0).standard_normal(round(5.6 * RATE))
        start, stop, pauses = find_speech(wave.astype(np.float32), RATE)
        assert (start, stop) == pytest.approx((0.95, 3.65), abs=0.02)
        assert len(pauses) == 1
        assert pauses[0] == pytest.approx((2.0, 2.5), abs=0.02)

    def test_what_is_silent_throughout_is_left_as_it_is(self):
        assert find_speech(np.zeros(RATE, dtype=np.float32), RATE) == (0.0, 1.0, ())


class TestSampleRates:
    @pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
    def test_windows_last_about_as_long_and_no_band_is_empty(self, rate):
        preset = MelConfig()
        mel = at_sample_rate(preset, rate)
        assert mel.faults() == []
        assert 0.7 < (mel.n_fft / rate) / (preset.n_fft / preset.sample_rate) < 1.5
        assert mel.hop_length * 4 == mel.n_fft
        assert (mel_basis(mel).sum(axis=1) > 0).all()
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, rate).astype(np.float32)
        assert log_mel(noise, mel).min() > -4.0

    def test_the_same_rate_changes_nothing(self):
        assert at_sample_rate(MelConfig(), 24000) == MelConfig()

    def test_a_band_limit_below_the_rate_stays(self):
        mel = at_sample_rate(MelConfig(fmin=80.0, fmax=7600.0), 16000)
        assert (mel.fmin, mel.fmax, mel.n_mels) == (80.0, 7600.0, 80)
        assert at_sample_rate(MelConfig(fmin=80.0, fmax=7600.0), 8000).fmax is None
