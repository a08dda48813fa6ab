"""The encoders of content and melody: exact in pieces, deaf to gain, level with the mel, and the same from others."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from aasvc_cli.audio.f0 import harvest, with_length
from aasvc_cli.config.settings import FeatureConfig, MelConfig
from aasvc_cli.data.content_path import content_path
from aasvc_cli.errors import ConfigError, DataError, ModelError
from aasvc_cli.features import content as module
from aasvc_cli.features.content import (
    CONTENT_CHANNELS,
    MELODY_MEL,
    content,
    content_f0,
    content_input,
    encoded,
    load_encoder,
    load_melody_encoder,
    taught_f0,
)
from aasvc_cli.features.kinds import at_frames, extract, feature_key
from aasvc_cli.model.content import (
    F0_BINS,
    F0_CEIL,
    F0_FLOOR,
    ContentEncoder,
    ContentSizes,
    MelodyEncoder,
    around_middle,
)
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint

Array = npt.NDArray[np.float32]
DATA = Path(__file__).parents[1] / "assets"
SMALL = ContentSizes(stem=8, width=12, hidden=16, n_blocks=2, kernel=5, n_out=7)


def read(name: str) -> tuple[Array, int]:
    return soundfile.read(DATA / name, dtype="float32")


@pytest.fixture
def encoder() -> ContentEncoder:
    torch.manual_seed(0)
    return ContentEncoder(SMALL).eval()


def test_frames_lie_where_those_of_the_mel_lie() -> None:
    for rate in (8000, 16000, 22050, 24000, 48000):
        config = FeatureConfig(mel=MelConfig(sample_rate=rate, n_fft=512, hop_length=128))
        for n_samples in (1, 700, 24000, 30011):
            wave = np.random.default_rng(0).standard_normal(n_samples).astype(np.float32)
            count = len(extract("mel", wave, config))
            for kind, channels in module.ENCODED.items():
                assert extract(kind, wave, config).shape == (count, channels)


def test_gain_changes_nothing() -> None:
    wave, rate = read("male.flac")
    np.testing.assert_allclose(content_input(wave, rate), content_input(wave * np.float32(0.01), rate), atol=2e-3)


@pytest.mark.parametrize("side", ["male", "female"])
@pytest.mark.parametrize("rate", [8000, 24000])
def test_the_melody_is_that_of_harvest(side: str, rate: int) -> None:
    wave, own = read(f"{side}.flac")
    wave = module.resample(wave, own, rate)
    feature = content_f0(wave, rate)
    np.testing.assert_array_equal(feature[:, :CONTENT_CHANNELS], content(wave, rate))
    expected = with_length(harvest(wave, rate, f0_min=60.0, f0_max=700.0, frame_period=20.0), len(feature))
    voiced, octaves = expected > 0, feature[:, -2]
    assert np.mean((feature[:, -1] > 0.5) == voiced) > 0.9
    both = voiced & (feature[:, -1] > 0.5)
    wanted = np.log2(expected[both])
    difference = octaves[both] - wanted
    assert np.median(np.abs(difference - np.median(difference))) < 0.5 / 12
    assert np.corrcoef(octaves[both], wanted)[0, 1] > 0.9
    assert abs(float(np.average(octaves, weights=feature[:, -1]))) < 0.1  # around its middle


def test_another_pitch_has_the_same_melody() -> None:
    octaves = torch.linspace(0.2, 2.9, 40)
    voicing = (torch.arange(40) % 7 > 2).float()
    melody, higher = (torch.stack([octaves + shift, voicing], dim=-1)[None] for shift in (0.0, 0.7))
    found = around_middle(melody)[0]
    torch.testing.assert_close(around_middle(higher)[0], found)
    kept = voicing > 0
    torch.testing.assert_close(found[kept, 0], octaves[kept] - octaves[kept].mean())
    assert not found[~kept, 0].any()
    torch.testing.assert_close(around_middle(torch.zeros(1, 5, 2)), torch.zeros(1, 5, 2))  # nothing is voiced


def test_an_encoder_learns_the_pitch_of_tones_and_where_there_are_none() -> None:
    torch.manual_seed(0)
    small = ContentSizes(n_mels=24, stem=16, width=16, hidden=32, n_blocks=1, kernel=3, n_out=F0_BINS + 1)
    melody = MelodyEncoder(small)
    random = torch.Generator().manual_seed(1)
    f0 = F0_FLOOR * 2 ** (4.0 * torch.rand(16, 20, generator=random))
    f0[torch.rand(16, 20, generator=random) < 0.3] = 0.0
    # the pitch is the place of a bump among the bands
    places = (f0.clamp_min(1.0) / F0_FLOOR).log2() / np.log2(F0_CEIL / F0_FLOOR) * 23
    bumps = torch.exp(-((places[..., None] - torch.arange(24)) ** 2)) * (f0 > 0)[..., None]
    levels, real = bumps.repeat_interleave(2, dim=1), torch.ones(16, 20)
    real[:, 15:] = 0.0  # whatever stands there does not count
    optimizer = torch.optim.Adam(melody.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        melody.loss(levels, torch.where(real > 0, f0, 60.0), real).backward()
        optimizer.step()
    with torch.no_grad():
        found = melody(levels)
    voiced = (f0 > 0) & (real > 0)
    assert ((found[..., 1] > 0.5) == (f0 > 0))[real > 0].float().mean() > 0.95
    assert (found[..., 0][voiced] - (f0[voiced] / F0_FLOOR).log2()).abs().median() < 1 / 12


def test_silence_is_zero_and_the_loudest_place_is_one() -> None:
    wave, rate = read("male.flac")
    levels = content_input(np.concatenate([np.zeros(rate, dtype=np.float32), wave]), rate)
    assert levels.min() == 0.0 and levels.max() == pytest.approx(1.0)
    assert (levels[:90] == 0.0).all()
    assert (content_input(np.zeros(rate, dtype=np.float32), rate) == 1.0).all()  # nothing is louder


def test_pieces_give_what_the_whole_gives(encoder: ContentEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.random.default_rng(1).uniform(size=(403, 80)).astype(np.float32)
    with torch.inference_mode():
        whole = encoder(torch.from_numpy(levels).unsqueeze(0))[0].numpy()
    wave = np.concatenate([read("male.flac")[0]] * 2)
    spoken = content_f0(wave, 24000)
    monkeypatch.setattr(module, "BLOCK", 17)
    np.testing.assert_allclose(encoded(encoder, levels), whole, atol=1e-5)
    np.testing.assert_allclose(content_f0(wave, 24000), spoken, atol=1e-4)


def test_nothing_outside_its_reach_matters(encoder: ContentEncoder) -> None:
    levels = np.random.default_rng(2).uniform(size=(200, 80)).astype(np.float32)
    changed = levels.copy()
    changed[100:102] += 1.0  # what frame 50 is made of
    difference = np.abs(encoded(encoder, changed) - encoded(encoder, levels)).max(axis=1) > 1e-6
    first, last = np.flatnonzero(difference)[[0, -1]]
    assert 50 - encoder.reach <= first < 50 < last <= 50 + encoder.reach


def test_between_frames_is_interpolated() -> None:
    ramp = np.arange(10, dtype=np.float32)[:, None]
    np.testing.assert_allclose(at_frames(ramp, 50.0, 19, 100.0)[:, 0], np.arange(19) / 2)
    np.testing.assert_allclose(at_frames(ramp, 50.0, 25, 100.0)[19:, 0], 9.0)  # the last frame goes on
    np.testing.assert_allclose(at_frames(ramp[:1], 50.0, 3, 93.75)[:, 0], 0.0)


def test_two_people_say_the_same_at_the_same_moments() -> None:
    (male, rate), (female, _) = read("male.flac"), read("female.flac")
    sides = [content(wave, rate) for wave in (male, female)]
    other = content(read("male_train_parallel_0003.flac")[0], 24000)
    same = content_path(*sides).cost
    assert same < 0.35 < content_path(other, sides[1]).cost


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_any_sample_rate_is_understood(rate: int) -> None:
    wave, own = read("female.flac")
    assert content_path(content(module.resample(wave, own, rate), rate), content(wave, own)).cost < 0.2


def test_the_key_names_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FeatureConfig()
    key, with_melody = (feature_key(kind, config) for kind in module.ENCODED)
    assert key != with_melody
    assert key == feature_key("content", dataclasses.replace(config, mel=MelConfig(n_mels=40)))
    assert key != feature_key("content", dataclasses.replace(config, mel=MelConfig(hop_length=128)))
    there = module.bundled("content")
    monkeypatch.setattr(module, "bundled", lambda _: tmp_path)
    for changed, kept in ((module.WEIGHTS_FILE, module.MELODY_FILE), (module.MELODY_FILE, module.WEIGHTS_FILE)):
        save_checkpoint(tmp_path / changed, {}, {})
        shutil.copy(there / kept, tmp_path)
        _forget()
        try:
            assert feature_key("content_f0", config) != with_melody
            assert (feature_key("content", config) != key) is (changed == module.WEIGHTS_FILE)
        finally:
            _forget()


def _forget() -> None:
    for remembered in (module.weights_identity, module.melody_identity):
        remembered.cache_clear()


def test_an_encoder_comes_back_from_its_file(encoder: ContentEncoder, tmp_path: Path) -> None:
    path = tmp_path / module.WEIGHTS_FILE
    save_checkpoint(path, encoder.state_dict(), {"sizes": dataclasses.asdict(SMALL)})
    levels = np.random.default_rng(3).uniform(size=(50, 80)).astype(np.float32)
    np.testing.assert_array_equal(encoded(load_encoder(path), levels), encoded(encoder, levels))


class Teacher:
    """Writes numbers of its own, one frame for each 320 samples that have begun."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, wave: Array, sample_rate: int) -> Array:
        assert sample_rate == 16000
        return np.random.default_rng(0).normal(size=(-(-len(wave) // 320), self.channels)).astype(np.float32)


class TestTaught:
    @pytest.mark.parametrize("rate", [8000, 16000, 44100])
    def test_the_channels_are_the_projected_ones_of_the_teacher_and_the_melody_is_that_of_content_f0(
        self, rate: int
    ) -> None:
        wave = np.random.default_rng(1).uniform(-0.5, 0.5, size=rate + 7).astype(np.float32)
        tensors, _ = load_checkpoint(module.projection_file())
        directions, offset = (tensors[name].double().numpy() for name in ("directions", "offset"))
        frames = Teacher(512)(np.zeros(16000 + (7 * 16000 - 1) // rate + 1, dtype=np.float32), 16000)
        feature, other = taught_f0(wave, rate, Teacher(512)), content_f0(wave, rate)
        assert feature.shape == other.shape == (51, CONTENT_CHANNELS + 2)
        np.testing.assert_allclose(feature[:50, :CONTENT_CHANNELS], (frames @ directions + offset)[:50], atol=1e-4)
        np.testing.assert_array_equal(feature[:, CONTENT_CHANNELS:], other[:, CONTENT_CHANNELS:])

    def test_a_single_sample_has_a_frame_and_nothing_has_none(self) -> None:
        assert len(taught_f0(np.ones(1, dtype=np.float32), 16000, Teacher(512))) == 1
        with pytest.raises(DataError):
            taught_f0(np.zeros(0, dtype=np.float32), 16000, Teacher(512))

    def test_another_teacher_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="has 768 channels, expected 512; use Whisper base"):
            taught_f0(np.ones(1000, dtype=np.float32), 16000, Teacher(768))

    def test_a_damaged_projection_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_checkpoint(tmp_path / "projection.safetensors", {"x": torch.zeros(1)}, {})
        monkeypatch.setattr(module, "projection_file", lambda: tmp_path / "projection.safetensors")
        module._projection.cache_clear()
        with pytest.raises(ModelError, match=r"projection\.safetensors: not the projection"):
            taught_f0(np.ones(1000, dtype=np.float32), 16000, Teacher(512))


@pytest.mark.parametrize("header", [{}, {"sizes": {"widths": 3}}, {"sizes": {"width": 3}}])
def test_other_weights_are_refused(header: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / module.WEIGHTS_FILE
    save_checkpoint(path, {"x": torch.zeros(1)}, header)
    with pytest.raises(ModelError, match="not the weights of a content encoder"):
        load_encoder(path)
    with pytest.raises(ModelError, match="not the weights of an encoder of the melody"):
        load_melody_encoder(path)


def test_nothing_has_no_content() -> None:
    with pytest.raises(DataError):
        content(np.zeros(0, dtype=np.float32), 16000)
    with pytest.raises(DataError):
        content_f0(np.zeros(0, dtype=np.float32), 16000)


def test_the_bundled_encoders_are_small() -> None:
    melody = load_melody_encoder(module.melody_file())
    assert melody.sizes.n_mels == MELODY_MEL.n_mels and module.melody_file().stat().st_size < 2_000_000
    path = module.weights_file()
    assert path.stat().st_size < 8_000_000
    assert 2e6 < sum(parameter.numel() for parameter in load_encoder(path).parameters()) < 4e6
