"""Small voices with small vocoders, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.voice import Voice, load_voice
from aasvc_cli.exporting import checked
from aasvc_cli.exporting.parts import graph_files
from aasvc_cli.storage.files import write_bytes
from aasvc_cli.vocoder.build import Vocoder, write_vocoder
from aasvc_cli.vocoder.folder import StoredVocoder
from aasvc_cli.vocoder.istft import IstftGenerator, IstftSizes, IstftVocoder
from tests.voices import tiny_config, write_voice

RATE = 16000
SIZES = {"width": 16, "hidden": 32, "n_blocks": 1, "pitch_width": 16, "pitch_blocks": 1, "pitch_bins": 16}


def sound(seconds: float) -> np.ndarray:
    """A buzz that rises and falls."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * 120.0 * k * t) / k for k in range(1, 20))
    return (0.1 * wave * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def tiny_vocoder(mel: MelConfig) -> IstftVocoder:
    """One with random weights that are the same each time."""
    torch.manual_seed(0)
    return IstftVocoder(IstftGenerator(mel, IstftSizes(**SIZES)))


def tiny_converter(folder: Path, vocoder: Vocoder | None = None, heard: str = "mel", **model: object) -> Converter:
    """A small voice with torch; ``model`` replaces entries of its section."""
    config = tiny_config(heard, **model)
    voice = load_voice(write_voice(folder, config), "cpu")
    # weights as they come are too small for durations to differ
    for parameter in voice.model.duration_predictor.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Converter(voice, vocoder or tiny_vocoder(config.features.mel), "tiny")


def speaking_voice(folder: Path) -> Path:
    """The folder of a small voice with a small vocoder inside, "own"."""
    config = tiny_config(duration_predictor="poisson")
    write_voice(folder, config)
    generator = tiny_vocoder(config.features.mel).generator
    write_vocoder(folder / "own", StoredVocoder("istft", config.features.mel, SIZES, generator.state_dict()))
    (folder / "card.json").write_text('{"name": "tiny", "vocoder": "own"}')
    return folder


def export(converter: Converter, folder: Path) -> Converter:
    """The same, exported and loaded again."""
    for name, content in graph_files(converter.voice, converter.vocoder, converter.vocoder_name).items():
        write_bytes(folder / name, content)
    return Converter.load(folder)


def make_graphs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, every export has the graphs of the first one: to make them takes ten seconds."""
    made: list[dict[str, bytes]] = []

    def first_graph_files(voice: Voice, vocoder: Vocoder, vocoder_name: str) -> dict[str, bytes]:
        if not made:
            made.append(graph_files(voice, vocoder, vocoder_name))
        return made[0]

    monkeypatch.setattr(checked, "graph_files", first_graph_files)
