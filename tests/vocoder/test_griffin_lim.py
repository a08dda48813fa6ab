"""Griffin-Lim against signals with known answers and against a real recording."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ModelError
from aasvc_cli.vocoder.build import build_vocoder, refuse_mismatch
from aasvc_cli.vocoder.griffin_lim import GriffinLim, _invert_mel

SETTINGS = [
    MelConfig(),
    MelConfig(sample_rate=48000, n_fft=2048, hop_length=512),
    MelConfig(sample_rate=16000, n_fft=512, hop_length=128, win_length=400, fmin=80.0, fmax=7600.0, log_base=None),
    MelConfig(sample_rate=16000, n_fft=512, hop_length=256, n_mels=20, log_base=2.0),
]


def synthesise(mel: np.ndarray, config: MelConfig, **options: int) -> np.ndarray:
    wave = GriffinLim(config, **options).synthesise(torch.from_numpy(mel).unsqueeze(0))[0].numpy()
    assert wave.dtype == np.float32
    return wave


def middle(wave: np.ndarray) -> np.ndarray:
    """Without the edges, where half of the signal is not known."""
    return wave[len(wave) // 5 : -len(wave) // 5]


def dominant_frequency(wave: np.ndarray, sample_rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17))
    return float(spectrum.argmax() * sample_rate / (1 << 17))


@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("frequency", [220.0, 1234.5])
def test_a_sine_comes_back_with_its_frequency(config: MelConfig, frequency: float):
    n = config.sample_rate
    sine = (0.3 * np.sin(2 * np.pi * frequency / config.sample_rate * np.arange(n))).astype(np.float32)
    wave = middle(synthesise(log_mel(sine, config), config))
    # a mel band is all that is known about the frequency
    band = librosa.mel_frequencies(config.n_mels + 2, fmin=config.fmin, fmax=config.fmax or config.sample_rate / 2)
    near = int(np.searchsorted(band, frequency))
    assert dominant_frequency(wave, config.sample_rate) == pytest.approx(frequency, abs=band[near + 1] - band[near - 1])


@pytest.mark.parametrize("config", SETTINGS[:3])  # wide bands say nothing about how energy is spread in them
def test_a_sine_between_the_bins_comes_back_with_its_level(config: MelConfig):
    frequency = 9.4 * config.sample_rate / config.n_fft
    sine = (0.3 * np.sin(2 * np.pi * frequency / config.sample_rate * np.arange(config.sample_rate))).astype(np.float32)
    wave = middle(synthesise(log_mel(sine, config), config))
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.2)


def test_a_chirp_is_followed_through_time():
    config = MelConfig()
    t = np.arange(2 * config.sample_rate) / config.sample_rate
    chirp = (0.3 * np.sin(2 * np.pi * (300 * t + 0.5 * 600 * t**2))).astype(np.float32)  # 300 to 1500 Hz
    wave = synthesise(log_mel(chirp, config), config)
    for moment in (0.5, 1.0, 1.5):
        start = int(moment * config.sample_rate)
        found = dominant_frequency(wave[start - 1024 : start + 1024], config.sample_rate)
        assert found == pytest.approx(300 + 600 * moment, abs=30)


def test_a_click_comes_back_at_its_time():
    config = MelConfig()
    click = np.zeros(12000, dtype=np.float32)
    click[6000] = 1.0
    wave = synthesise(log_mel(click, config), config)
    assert abs(int(np.abs(wave).argmax()) - 6000) < config.hop_length // 2


@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("n_frames", [1, 2, 3, 50])
def test_the_length_is_exactly_one_hop_per_frame(config: MelConfig, n_frames: int):
    mel = np.random.default_rng(0).normal(-2, 1, (n_frames, config.n_mels)).astype(np.float32)
    wave = synthesise(mel, config)
    assert len(wave) == n_frames * config.hop_length
    assert np.isfinite(wave).all()


@pytest.mark.parametrize("hop_length", [512, 400])
def test_hops_that_windows_barely_cover_give_finite_sound(hop_length: int):
    config = MelConfig(sample_rate=16000, n_fft=512, hop_length=hop_length, n_mels=20)
    wave = synthesise(np.zeros((5, 20), dtype=np.float32), config)
    assert len(wave) == 5 * hop_length
    assert np.isfinite(wave).all()


def test_a_batch_equals_its_items_and_no_batch_is_no_sound():
    config = MelConfig()
    mels = torch.randn(3, 20, 80, generator=torch.Generator().manual_seed(0)) - 2
    vocoder = GriffinLim(config)
    together = vocoder.synthesise(mels)
    for index in range(3):
        alone = vocoder.synthesise(mels[index : index + 1])[0]
        assert torch.allclose(together[index], alone, atol=1e-3 * float(alone.abs().max()))
    assert vocoder.synthesise(mels[:, :0]).shape == (3, 0)
    assert vocoder.synthesise(mels[:0]).shape == (0, 20 * 256)


def test_the_result_is_the_same_each_time_and_no_random_numbers_are_drawn():
    mel = torch.full((1, 30, 80), -2.0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = GriffinLim(MelConfig()).synthesise(mel)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(GriffinLim(MelConfig()).synthesise(mel), first)


def test_silence_is_silent():
    config = MelConfig()
    wave = synthesise(log_mel(np.zeros(24000, dtype=np.float32), config), config)
    assert np.abs(wave).max() < 1e-6


@pytest.mark.parametrize("value", [-1e30, -100.0, 50.0, 1e30, np.inf, -np.inf, np.nan])
def test_extreme_values_give_finite_sound(value: float):
    mel = np.full((1, 20, 80), -3.0, dtype=np.float32)
    mel[0, 5:8, 10:20] = value
    wave = GriffinLim(MelConfig()).synthesise(torch.from_numpy(mel))
    assert torch.isfinite(wave).all()


def test_an_inverted_mel_is_not_negative_and_has_the_bands_it_came_from(data: Path):
    wave, _ = read_audio(data / "female.flac")
    mel = torch.from_numpy(10.0 ** log_mel(wave, MelConfig())).unsqueeze(0)
    vocoder = GriffinLim(MelConfig())
    linear = _invert_mel(mel, vocoder._basis, vocoder._spread)
    assert (linear >= 0).all()
    error = (torch.log10((linear @ vocoder._basis.T).clamp_min(1e-10)) - torch.log10(mel)).abs()
    assert error[mel > 1e-4].mean() < 0.02


def test_a_recording_comes_back_nearer_to_its_mel_than_through_the_published_glue(data: Path):
    config = MelConfig()
    recording, sample_rate = read_audio(data / "female.flac")
    assert sample_rate == config.sample_rate
    mel = log_mel(recording, config)
    loud = mel > mel.max() - 4

    def distance(wave: np.ndarray) -> float:
        again = log_mel(wave, config)[: len(mel)]
        return float(np.abs(again - mel)[: len(again)][loud[: len(again)]].mean())

    ours = distance(synthesise(mel, config))
    basis = librosa.filters.mel(sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels)
    linear = np.maximum(1e-10, np.linalg.pinv(basis) @ 10.0**mel.T)
    published = distance(librosa.griffinlim(linear, n_iter=64, hop_length=config.hop_length, random_state=0))
    assert ours < 0.05
    assert ours < published


def test_more_iterations_come_nearer_to_the_mel(data: Path):
    config = MelConfig()
    recording, _ = read_audio(data / "female.flac")
    mel = log_mel(recording[: 2 * config.sample_rate], config)
    errors = []
    for n_iter in (0, 3, 20):
        again = log_mel(synthesise(mel, config, n_iter=n_iter), config)[: len(mel)]
        errors.append(float(np.abs(again - mel)[mel > mel.max() - 4].mean()))
    assert errors == sorted(errors, reverse=True)


def test_a_mel_of_other_width_is_a_programming_error():
    with pytest.raises(ValueError, match="80"):
        GriffinLim(MelConfig()).synthesise(torch.zeros(1, 5, 79))


def test_vocoders_are_built_by_name_and_refused_if_they_do_not_fit():
    config = MelConfig()
    vocoder = build_vocoder("griffin-lim", config)
    assert (vocoder.sample_rate, vocoder.hop_length) == (24000, 256)
    with pytest.raises(ModelError, match="did you mean griffin-lim"):
        build_vocoder("grifin-lim", config)
    with pytest.raises(ModelError, match="sample_rate 24000, the model has 48000"):
        refuse_mismatch("griffin-lim", vocoder, MelConfig(sample_rate=48000))
