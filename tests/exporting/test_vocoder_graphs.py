"""Graphs of vocoders give the samples of the vocoders themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ModelError
from aasvc_cli.exporting.onnx_files import onnx_bytes
from aasvc_cli.exporting.vocoder_graphs import vocoder_graph
from aasvc_cli.exporting.voice_graphs import LogMelGraph
from aasvc_cli.storage.home import bundled
from aasvc_cli.vocoder.build import load_vocoder
from aasvc_cli.vocoder.gan_generators import GanVocoder
from aasvc_cli.vocoder.griffin_lim import GriffinLim


def test_a_vocoder_without_a_graph_is_refused_by_name():
    with pytest.raises(ModelError, match="griffin-lim: this kind of vocoder cannot be exported; .* --vocoder"):
        vocoder_graph(GriffinLim(MelConfig()), "griffin-lim")


def test_the_bundled_vocoder_as_a_module_gives_the_same_samples(data: Path):
    vocoder = load_vocoder(bundled("vocoder"))
    wave, _ = read_audio(data / "male.flac")
    mel = torch.from_numpy(log_mel(wave, vocoder.mel))
    with torch.inference_mode():
        found = vocoder_graph(vocoder, "bundled")(mel, torch.tensor(3))
    assert (found - vocoder.synthesise(mel[None], seed=3)[0]).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vocoder-hifigan", "vocoder-pwg"])
def test_published_vocoders_in_onnxruntime_give_the_same_samples(name: str, data: Path):
    vocoder = load_vocoder(data / name)
    assert isinstance(vocoder, GanVocoder)
    graph = vocoder_graph(vocoder, name)
    hop, n_mels = vocoder.hop_length, vocoder.mel.n_mels
    inputs = {"log_mel": (torch.zeros(40, n_mels), {0: "frames"}), "noise": (torch.zeros(40 * hop), {0: "samples"})}
    content = onnx_bytes(graph, {key: inputs[key] for key in graph.inputs}, ["wave"], {})
    session = onnxruntime.InferenceSession(content)
    for n_frames in (1, 2, 77):
        mel, noise = torch.randn(n_frames, n_mels), torch.randn(n_frames * hop)
        given = {"log_mel": mel.numpy(), "noise": noise.numpy()}
        found = session.run(None, {key: given[key] for key in graph.inputs})[0]
        expected = vocoder.synthesise(mel[None], noise=noise[None])[0].numpy()
        assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("log_base", [None, 10.0])
def test_log_mels_as_a_module_are_those_of_the_features(log_base: float | None):
    mel = MelConfig(sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, log_base=log_base)
    wave = np.random.default_rng(0).normal(0, 0.1, 5003).astype(np.float32)
    wave[2000:3000] = 0.0
    found = LogMelGraph(mel)(torch.from_numpy(wave)).numpy()
    expected = log_mel(wave, mel)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4
