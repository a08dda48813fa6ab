"""The published vocoders: exact, in pieces as at once, in our form as in theirs, and refused if a part is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aasvc_cli.storage.cache import Home
from aasvc_cli.vocoder.build import load_vocoder
from aasvc_cli.vocoder.gan_generators import GanVocoder

KINDS = ["hifigan", "pwg"]


class Example:
    """A stored published vocoder with a mel, normalised, and the sound that it makes of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        with np.load(folder / "example.npz") as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        self.mel, self.wave = arrays["mel"], arrays["wave"].reshape(-1)
        self.noise = arrays["noise"].reshape(1, -1) if "noise" in arrays else None

    def log_mel(self, vocoder: GanVocoder) -> torch.Tensor:
        """(1, T, M), not normalised."""
        return (self.mel * vocoder._scale + vocoder._mean)[None]


@pytest.fixture(params=KINDS)
def example(request: pytest.FixtureRequest, data: Path) -> Example:
    return Example(data / f"vocoder-{request.param}")


@pytest.fixture
def vocoder(example: Example) -> GanVocoder:
    loaded = load_vocoder(example.folder)
    assert isinstance(loaded, GanVocoder)
    return loaded


@pytest.mark.parametrize("chunk_frames", [None, 1, 5, 64])
def test_the_published_sound_comes_out_at_once_and_in_pieces(example, vocoder, chunk_frames):
    vocoder.chunk_frames = chunk_frames
    found = vocoder.synthesise(example.log_mel(vocoder), noise=example.noise)[0]
    assert found.shape == example.wave.shape
    assert float((found - example.wave).abs().max()) <= 1e-5


def test_our_form_of_a_published_vocoder_is_made_once_and_sounds_the_same(example, home: Home):
    direct, kept = load_vocoder(example.folder), load_vocoder(example.folder, home=home)
    (folder,) = [path for path in home.imported.iterdir() if not path.name.startswith(".")]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "generator.safetensors"]
    log_mel = example.log_mel(direct)
    expected = direct.synthesise(log_mel, seed=3)
    assert torch.equal(kept.synthesise(log_mel, seed=3), expected)
    assert torch.equal(load_vocoder(folder).synthesise(log_mel, seed=3), expected)
