"""An exported model converts as the one it was made of, without torch, and says what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.conversion.converter import Converter, ConvertOptions, _Samples
from aasvc_cli.conversion.exported import VOCODER_FILE, exported_from, load_exported
from aasvc_cli.conversion.voice import EXPORTED_FILE, load_voice
from aasvc_cli.errors import AudioError, ModelError
from aasvc_cli.exporting.parts import graph_files, vocoder_file, voice_file
from aasvc_cli.vocoder.build import KINDS, Vocoder
from aasvc_cli.vocoder.gan_generators import GanVocoder, HiFiGan, HiFiGanSizes, ParallelWaveGan, ParallelWaveGanSizes
from tests.exports import RATE, export, sound, tiny_converter, tiny_vocoder

PREDICTORS = [
    {"duration_predictor": "poisson"},
    {"duration_predictor": "poisson", "pitch_predictor": True},
    {"duration_predictor": "deterministic", "duration_input": "feature", "postnet_layers": 0},
    {"duration_predictor": "stochastic", "duration_input": "feature", "mask_padding": False},
]
LOADED = (
    "import runpy, sys\n"
    "try:\n    runpy.run_module('aasvc_cli', run_name='__main__')\n"
    "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
    "assert 'onnxruntime' in sys.modules\n"
    "assert not {'torch', 'librosa', 'scipy', 'numba', 'safetensors', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
)


SMALL_HIFI_GAN: dict[str, Any] = {
    "in_channels": 20, "channels": 16, "upsample_scales": (8, 4, 4), "resblock_kernel_sizes": (3, 5),
    "resblock_dilations": ((1, 3), (1, 2)),
}  # fmt: skip
SMALL_PARALLEL_WAVEGAN: dict[str, Any] = {
    "aux_channels": 20, "layers": 4, "stacks": 2, "residual_channels": 8, "gate_channels": 16, "skip_channels": 8,
    "upsample_scales": (8, 4, 4),
}  # fmt: skip
VOCODERS: dict[str, dict[str, Any]] = {
    "istft": {},
    "hifi-gan": {},
    "hifi-gan, causal": {"use_causal_conv": True, "use_additional_convs": False, "negative_slope": 0.2},
    "parallel-wavegan": {},
    "parallel-wavegan, causal": {"use_causal_conv": True, "kernel_size": 2},
    "parallel-wavegan, of another upsampling": {
        "upsample_net": "UpsampleNetwork", "aux_context_window": 0, "freq_axis_kernel_size": 3, "upsample_slope": 0.3
    },
}  # fmt: skip
"""Each kind, with what else published configurations may ask of it."""


def vocoder_of(kind: str, mel: MelConfig) -> Vocoder:
    """A small one with random weights."""
    if kind == "istft":
        return tiny_vocoder(mel)
    torch.manual_seed(0)
    generator: HiFiGan | ParallelWaveGan
    if kind.startswith("hifi-gan"):
        generator = HiFiGan(HiFiGanSizes(**SMALL_HIFI_GAN | VOCODERS[kind]))
    else:
        generator = ParallelWaveGan(ParallelWaveGanSizes(**SMALL_PARALLEL_WAVEGAN | VOCODERS[kind]))
    return GanVocoder(generator, mel, mean=torch.linspace(-2, -1, 20), scale=torch.linspace(0.3, 0.6, 20))


@pytest.fixture(scope="module")
def hears_content(tmp_path_factory: pytest.TempPathFactory) -> tuple[Converter, dict[str, bytes]]:
    """A voice on content and melody with torch, and its files."""
    converter = tiny_converter(
        tmp_path_factory.mktemp("content"),
        heard="content_f0",
        duration_predictor="stochastic",
        duration_input="feature",
    )
    return converter, graph_files(converter.voice, converter.vocoder, "istft")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Converter, Converter]:
    """A voice with torch, and the same exported."""
    folder = tmp_path_factory.mktemp("pair")
    converter = tiny_converter(folder / "tiny", duration_predictor="stochastic")
    return converter, export(converter, folder / "exported")


def assert_same(one: Converter, other: Converter, wave: np.ndarray, **options: float) -> None:
    expected, found = (each.convert(wave, RATE, **options) for each in (one, other))
    assert found.durations.tolist() == expected.durations.tolist()
    assert np.abs(found.log_mel - expected.log_mel).max() < 1e-5
    assert len(found.wave) == len(expected.wave)
    assert np.abs(found.wave - expected.wave).max() < 1e-3
    assert np.abs(expected.wave).max() > 0.01


@pytest.mark.slow
class TestSamples:
    @pytest.mark.parametrize("seconds", [0.1, 0.43, 1.0, 3.0])
    def test_are_those_of_torch_at_any_length(self, pair: tuple[Converter, Converter], seconds: float):
        assert_same(*pair, sound(seconds), seed=4)

    def test_follow_seed_freedom_and_speed(self, pair: tuple[Converter, Converter]):
        for options in ({"seed": 7}, {"noise_scale": 0.0}, {"noise_scale": 1.5}, {"speed": 1.7}, {"speed": 0.5}):
            assert_same(*pair, sound(1.0), **options)

    @pytest.mark.parametrize("heard", ["mel", "content", "content_f0"])
    @pytest.mark.parametrize("model", PREDICTORS, ids=lambda model: "-".join(map(str, model.values())))
    def test_are_those_of_torch_with_every_predictor(
        self, model: dict[str, object], heard: str, hears_content: tuple[Converter, dict[str, bytes]], tmp_path: Path
    ):
        _, files = hears_content  # with the same vocoder, and the same encoders of content and melody
        converter = tiny_converter(tmp_path / "tiny", heard=heard, **model)
        if (predictor := converter.voice.model.pitch_predictor) is not None:
            torch.nn.init.normal_(predictor.condition.weight)
        exported = exported_from(tmp_path, files | {EXPORTED_FILE: voice_file(converter.voice)}, {})
        for seconds in (0.1, 0.7, 1.2):
            assert_same(converter, Converter(*exported, "istft"), sound(seconds), noise_scale=1.0)

    def test_are_those_of_torch_where_whisper_hears_what_is_said(
        self, hears_content: tuple[Converter, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        weights = "first"

        def encoder(_: str) -> Callable[[np.ndarray, int], np.ndarray]:
            return lambda wave, _: np.random.default_rng(len(wave)).normal(size=(-(-len(wave) // 320), 512))

        monkeypatch.setattr("aasvc_cli.features.whisper.whisper_encoder", encoder)
        monkeypatch.setattr("aasvc_cli.conversion.exported.whisper_encoder", encoder)
        monkeypatch.setattr("aasvc_cli.features.whisper.weights_of", lambda _: weights)
        converter = tiny_converter(tmp_path / "tiny", heard="whisper_f0")
        files = hears_content[1] | {EXPORTED_FILE: voice_file(converter.voice)}
        assert_same(converter, Converter(*exported_from(tmp_path, files, {}), "istft"), sound(1.2), noise_scale=0.0)
        weights = "second"
        with pytest.raises(ModelError, match=r"voice\.onnx: its source .*; or Whisper base is another model"):
            exported_from(tmp_path, files, {})

    @pytest.mark.parametrize("kind", VOCODERS)
    def test_are_those_of_torch_with_every_vocoder_on_a_voice_that_hears_content(
        self, kind: str, hears_content: tuple[Converter, dict[str, bytes]], tmp_path: Path
    ):
        converter, files = hears_content
        vocoder = vocoder_of(kind, converter.voice.config.features.mel)
        spoken = exported_from(tmp_path, files | {VOCODER_FILE: vocoder_file(vocoder, kind)}, {})
        for seconds in (0.1, 0.7, 3.0):  # the last is synthesised in pieces, where that leaves no seam
            assert_same(Converter(converter.voice, vocoder, kind), Converter(*spoken, kind), sound(seconds), seed=3)

    def test_every_kind_of_vocoder_is_among_them(self):
        assert {kind.partition(",")[0] for kind in VOCODERS} == set(KINDS)

    def test_of_long_recordings_have_the_same_pauses_and_warnings(self, pair: tuple[Converter, Converter]):
        wave = np.concatenate([sound(4), np.zeros(2 * RATE, np.float32), sound(19), np.zeros(RATE * 3, np.float32)])
        told: list[list[str]] = [[], []]
        parts = [
            list(each.stream(_Samples("long", RATE, wave), ConvertOptions(), on_message=lines.append))
            for each, lines in zip(pair, told, strict=True)
        ]
        assert told[0] == told[1] and told[0]
        assert [(part.pieces, len(part.wave)) for part in parts[0]] == [
            (part.pieces, len(part.wave)) for part in parts[1]
        ]
        assert sum(part.pieces for part in parts[0]) > 2

    def test_too_short_recordings_are_refused_in_the_same_words(self, pair: tuple[Converter, Converter]):
        messages = []
        for each in pair:
            with pytest.raises(AudioError) as refused:
                each.convert(sound(0.01), RATE)
            messages.append(str(refused.value))
        assert messages[0] == messages[1]


@pytest.mark.slow
class TestFolder:
    @pytest.fixture
    def folder(self, pair: tuple[Converter, Converter], tmp_path: Path) -> Path:
        return Path(shutil.copytree(pair[1].voice.folder, tmp_path / "copy"))

    def test_what_it_cannot_do_is_refused_by_name(self, folder: Path, tmp_path: Path):
        for options in ({"vocoder": "bundled"}, {"source_stats": tmp_path / "stats.h5"}, {"data": "demo"}):
            with pytest.raises(ModelError, match="is an exported model, which has its own inside; give --"):
                load_exported(folder, **options)
        with pytest.raises(ModelError, match="--device cuda: .* runs on the CPU"):
            load_exported(folder, "cuda")
        with pytest.raises(ModelError, match="is an exported model, which can only convert"):
            load_voice(folder)

    def test_a_part_that_is_missing_or_damaged_is_named(self, folder: Path):
        content = (folder / "voice.onnx").read_bytes()
        other = bytearray(content)
        other[len(content) // 2] ^= 1
        for damaged in (content[: len(content) // 2], bytes(other), content[:-1], b"", b"a graph"):
            (folder / "voice.onnx").write_bytes(damaged)
            with pytest.raises(ModelError, match=r"voice\.onnx: expected an ONNX graph .*; export the model again$"):
                load_exported(folder)
        (folder / "voice.onnx").write_bytes(content)
        (folder / "vocoder.onnx").unlink()
        with pytest.raises(ModelError, match=r"vocoder\.onnx: not found"):
            load_exported(folder)

    @pytest.mark.process
    def test_the_command_line_converts_without_torch(
        self, folder: Path, tmp_path: Path, pair: tuple[Converter, Converter]
    ):
        wave = np.concatenate([sound(3), np.zeros(2 * RATE, np.float32), sound(2)])
        soundfile.write(tmp_path / "in.flac", wave, RATE)
        arguments = ["convert", "in.flac", "-o", "out.wav", "--model", str(folder), "--json", "out.json"]
        code = f"import sys\nsys.argv = ['aasvc', *{arguments!r}]\n{LOADED}"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
        heard, rate = soundfile.read(tmp_path / "in.flac", dtype="float32")
        expected = pair[0].convert(heard, rate).wave
        found, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
        assert len(found) == len(expected) and np.abs(found - np.clip(expected, -1, 1)).max() < 1e-3
        assert json.loads((tmp_path / "out.json").read_text())["vocoder"] == "tiny"
