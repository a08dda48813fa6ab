"""Whisper's encoder, with a model that writes down what it is given."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.config.settings import FeatureConfig, FolderConfig, MelConfig, WhisperConfig
from aasvc_cli.errors import ConfigError, DataError
from aasvc_cli.features import content as content_module
from aasvc_cli.features import whisper as module
from aasvc_cli.features.content import check_teacher, content
from aasvc_cli.features.kinds import extract, feature_key, from_anywhere
from aasvc_cli.features.whisper import WhisperEncoder, weights_of, whisper_encoder

DATA = Path(__file__).parents[1] / "assets"


class Recorder:
    """Its frames hold the largest of the samples that they stand for."""

    given: np.ndarray

    def feature_extractor(self, wave: np.ndarray, padding: int) -> np.ndarray:
        assert padding == 0
        self.given = wave
        return wave

    def encode(self, levels: np.ndarray) -> np.ndarray:
        assert len(levels) <= 30 * 16000, "more than Whisper takes in"
        return np.abs(levels.reshape(1, -1, module.FRAME_SAMPLES)).max(axis=2, keepdims=True)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    whisper_encoder.cache_clear()
    weights_of.cache_clear()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    model = Recorder()
    monkeypatch.setattr(module, "load_whisper", lambda *_, **__: (model, "identity"))
    return model


@pytest.mark.parametrize(("n_samples", "n_frames"), [(1, 1), (320, 1), (321, 2), (16000, 50)])
def test_frames_are_those_of_the_recording_and_not_of_the_silence_behind(
    recorder: Recorder, n_samples: int, n_frames: int
) -> None:
    frames = WhisperEncoder("any")(np.ones(n_samples, dtype=np.float32), 16000)
    assert frames.shape == (n_frames, 1) and (frames == 1.0).all()
    assert len(recorder.given) == n_frames * 320 + 16000
    assert not recorder.given[n_samples:].any()


@pytest.mark.parametrize("n_frames", [1450, 1451, 2600, 2601, 6000])
def test_a_recording_of_any_length_is_heard_part_by_part(recorder: Recorder, n_frames: int) -> None:
    samples = np.repeat(np.arange(n_frames, dtype=np.float32), 320)[:-1]
    assert (WhisperEncoder("any")(samples, 16000)[:, 0] == np.arange(n_frames)).all()


def test_other_sample_rates_are_resampled(recorder: Recorder) -> None:
    assert len(WhisperEncoder("any")(np.zeros(24000, dtype=np.float32), 48000)) == 25


def folder_with(weights: bytes, folder: Path) -> FeatureConfig:
    folder.mkdir()
    (folder / "model.bin").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return FeatureConfig(whisper=WhisperConfig(model=str(folder), channels=1))


def test_features_lie_where_those_of_the_mel_lie(recorder: Recorder) -> None:
    config = FeatureConfig(
        mel=MelConfig(sample_rate=16000, n_fft=512, hop_length=128), whisper=WhisperConfig(channels=1)
    )
    wave = np.ones(12345, dtype=np.float32)
    assert len(extract("whisper", wave, config)) == len(extract("mel", wave, config))


def test_an_encoder_of_another_width_is_refused(recorder: Recorder) -> None:
    with pytest.raises(ConfigError, match="has 1 channels; set features.whisper.channels"):
        extract("whisper", np.ones(16000, dtype=np.float32), FeatureConfig())


def test_the_key_is_that_of_the_weights_wherever_they_lie(tmp_path: Path) -> None:
    one, moved, other = (
        feature_key("whisper", folder_with(weights, tmp_path / name))
        for name, weights in (("one", b"weights"), ("moved", b"weights"), ("other", b"others"))
    )
    assert one == moved != other


def test_folders_are_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_with(b"weights", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    near = FeatureConfig(source="whisper", whisper=WhisperConfig(model="./model"), folder=FolderConfig(path="features"))
    found = from_anywhere(near)
    assert (found.whisper.model, found.folder.path) == (str(tmp_path / "model"), str(tmp_path / "features"))
    assert from_anywhere(found) == found
    assert from_anywhere(FeatureConfig(source="whisper")) == FeatureConfig(source="whisper"), "a name stays a name"


def test_the_key_names_the_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder_with(b"weights", tmp_path / "model")
    key = feature_key("whisper", config)
    monkeypatch.setattr(module, "PADDING_SECONDS", 2.0)
    assert feature_key("whisper", config) != key


def test_a_model_by_name_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def download_model(name: str, local_files_only: bool = False) -> str:
        assert name == "base"
        asked.append(not local_files_only)
        if not (tmp_path / "model.bin").exists():
            if local_files_only:
                raise ValueError("not there")
            (tmp_path / "model.bin").write_bytes(b"weights")
            (tmp_path / "tokenizer.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(module, "_check_installed", lambda: None)
    monkeypatch.setitem(sys.modules, "faster_whisper", ModuleType("faster_whisper"))
    utils = ModuleType("faster_whisper.utils")
    utils.download_model = download_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper.utils", utils)
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of the same name that is no model
    first = weights_of("base")
    weights_of.cache_clear()
    assert weights_of("base") == first == hashlib.sha256(b"weights").hexdigest()[:16]
    assert asked == [False, True, False]


def test_a_folder_without_weights_or_tokenizer_is_named(tmp_path: Path) -> None:
    config = FeatureConfig(whisper=WhisperConfig(model=str(tmp_path / "model")))
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match=r"no model\.bin in it"):
        feature_key("whisper", config)
    (tmp_path / "model" / "model.bin").write_bytes(b"weights")
    with pytest.raises(DataError, match=r"no tokenizer\.json in it"):
        feature_key("whisper", config)


def test_a_model_of_the_same_sizes_that_is_not_whisper_base_is_refused() -> None:
    directions, offset = content_module._projection()
    back = np.linalg.pinv(directions)

    def teacher(wave: np.ndarray, rate: int) -> np.ndarray:
        return (content(wave, rate) - offset) @ back

    check_teacher(teacher, "base")
    with pytest.raises(ConfigError, match="other is not Whisper base"):
        check_teacher(lambda wave, rate: np.roll(teacher(wave, rate), 1, axis=1), "other")


@pytest.mark.shared
def test_whisper_itself_writes_512_channels_that_its_gain_hardly_changes() -> None:
    """Needs the folder of Whisper base in CTranslate2's format in WHISPER_MODEL."""
    folder = os.environ.get("WHISPER_MODEL")
    if not folder:
        pytest.skip("set WHISPER_MODEL to the folder of a Whisper model")
    encoder: Any = WhisperEncoder(folder)
    wave, rate = soundfile.read(DATA / "female.flac", dtype="float32")
    frames = encoder(wave, rate)
    assert frames.shape == (-(-len(wave) * 16000 // rate // 320), 512)
    assert np.corrcoef(frames.ravel(), encoder(wave / 4, rate).ravel())[0, 1] > 0.95
    several = np.tile(wave, 31 * rate // len(wave) + 1)
    assert np.corrcoef(frames.ravel(), encoder(several, rate)[: len(frames)].ravel())[0, 1] > 0.9


@pytest.mark.shared
def test_the_bundled_encoder_writes_what_whisper_does() -> None:
    """Needs Whisper base, as above."""
    folder = os.environ.get("WHISPER_MODEL")
    if not folder:
        pytest.skip("set WHISPER_MODEL to the folder of a Whisper model")
    wave, rate = soundfile.read(DATA / "female.flac", dtype="float32")
    config = FeatureConfig(mel=MelConfig(sample_rate=rate), whisper=WhisperConfig(model=folder))
    one, other = (extract(kind, wave, config) for kind in ("whisper_f0", "content_f0"))
    assert np.corrcoef(one[:, :-2].ravel(), other[:, :-2].ravel())[0, 1] > 0.9
