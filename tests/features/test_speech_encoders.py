"""HuBERT, WavLM and wav2vec 2.0 with small random weights, which torchaudio's own loader reads from torch.hub's folder.

The published weights (360 MB each) are not loaded in any test.
"""

from __future__ import annotations

import dataclasses
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from aasvc_cli.config.settings import FeatureConfig, MelConfig, SpeechEncoderConfig
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import extract, extract_as_is, feature_key, feature_width
from aasvc_cli.features.speech_encoders import BUNDLES, speech_encoder, weights_of

try:
    from torchaudio import models, pipelines
except (ImportError, OSError, RuntimeError) as error:
    pytest.skip(f"torchaudio does not load: {error}", allow_module_level=True)

SMALL = {
    "extractor_conv_layer_config": [(4, 10, 5), *[(4, 3, 2)] * 4, *[(4, 2, 2)] * 2],
    "encoder_pos_conv_kernel": 2,
    "encoder_num_layers": 2,
    "encoder_ff_interm_features": 8,
}
FACTORIES = {"hubert": models.wav2vec2_model, "wavlm": models.wavlm_model, "wav2vec2": models.wav2vec2_model}
CONFIG = FeatureConfig(speech_encoder=SpeechEncoderConfig(layer=2))


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """torch.hub's folder of weights, empty; nothing can be downloaded."""

    def no_network(*_: object, **__: object) -> NoReturn:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in BUNDLES.values():
        bundle = getattr(pipelines, name)
        monkeypatch.setattr(pipelines, name, dataclasses.replace(bundle, _params=bundle._params | SMALL))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    forget()


def forget() -> None:
    speech_encoder.cache_clear()
    weights_of.cache_clear()


def write_weights(hub: Path, kind: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    bundle = getattr(pipelines, BUNDLES[kind])
    model = FACTORIES[kind](**bundle._params).eval()
    torch.save(model.state_dict(), hub / bundle._path)
    return model


def noise(n_samples: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=n_samples).astype(np.float32) * 0.1


@pytest.mark.parametrize("kind", BUNDLES)
def test_frames_are_what_the_layer_writes_for_the_400_samples_around_each_time(hub: Path, kind: str) -> None:
    model, wave = write_weights(hub, kind), noise(16000)
    config = dataclasses.replace(CONFIG, mel=MelConfig(sample_rate=16000, n_fft=512, hop_length=128))
    padded = torch.from_numpy(np.concatenate([np.zeros(200), wave, np.zeros(200)]).astype(np.float32))[None]
    with torch.no_grad():
        expected = model.extract_features(padded)[0][1][0].numpy()
    frames, rate = extract_as_is(kind, wave, config)
    assert rate == 50.0 and frames.shape == (51, feature_width(kind, config))
    np.testing.assert_allclose(frames, expected, atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 479, 480, 12345])
def test_features_lie_where_those_of_the_mel_lie(hub: Path, n_samples: int) -> None:
    write_weights(hub, "hubert")
    assert len(extract("hubert", noise(n_samples), CONFIG)) == len(extract("mel", noise(n_samples), CONFIG))


def test_the_key_is_that_of_the_encoder_its_weights_and_the_layer(hub: Path) -> None:
    for kind in BUNDLES:
        write_weights(hub, kind)
    keys = [feature_key(kind, CONFIG) for kind in BUNDLES]
    keys.append(feature_key("hubert", FeatureConfig(speech_encoder=SpeechEncoderConfig(layer=1))))
    write_weights(hub, "hubert", seed=1)
    forget()
    keys.append(feature_key("hubert", CONFIG))
    assert len(set(keys)) == 5


def test_another_layer_gives_other_frames(hub: Path) -> None:
    write_weights(hub, "wavlm")
    one, two = (speech_encoder("wavlm")(noise(4000), 16000, layer) for layer in (1, 2))
    assert one.shape == two.shape and np.abs(one - two).max() > 0.01


def test_weights_that_cannot_be_downloaded_are_said_in_one_line_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"wavlm_base\.pth: .*no route to host.*pipelines\.WAVLM_BASE") as caught:
        feature_key("wavlm", CONFIG)
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_more_than_weights_is_refused_and_not_run(hub: Path) -> None:
    torch.save({"weight": Path("anything")}, hub / pipelines.HUBERT_BASE._path)
    with pytest.raises(DataError, match="the weights of hubert do not load .*; delete the file"):
        speech_encoder("hubert")
