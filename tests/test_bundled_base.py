"""The base that ships: what it knows before anybody trains it, and what a training takes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aasvc_cli.audio.files import list_audio, read_audio
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import read_preset
from aasvc_cli.conversion.voice import Voice, find_voice, load_voice
from aasvc_cli.features.kinds import extract
from aasvc_cli.features.stats import RunningStats
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.pipeline.train import base_layers
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import BASE, Home, bundled

N_PAIRS = 4


@pytest.fixture(scope="module")
def base() -> Voice:
    return load_voice(bundled(BASE))


@pytest.fixture(scope="module")
def pairs(base: Voice, demo_corpus: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of two speakers whom the base never heard, as a training would normalise them."""
    sides = {}
    for speaker, kind in (("male", "content"), ("female", "mel")):
        recordings = list_audio(demo_corpus / speaker / "wav" / "eval")[:N_PAIRS]
        rate = base.config.features.mel.sample_rate
        waves = [resample(wave, given, rate) for wave, given in map(read_audio, recordings)]
        sides[kind] = [extract(kind, wave, base.config.features) for wave in waves]
    running = RunningStats()
    for mel in sides["mel"]:
        running.update(mel)
    own = running.result()
    normalised = [base.stats.source.normalise(each) for each in sides["content"]], map(own.normalise, sides["mel"])
    return [(torch.from_numpy(source), torch.from_numpy(target)) for source, target in zip(*normalised, strict=True)]


def errors(model: AASVC, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """Mean error of the mel with the durations that the alignment finds, and of the length that is predicted."""
    mels, lengths = [], []
    for source, target in pairs:
        forced = model.align(source, target, source)
        mels.append(float((forced.after[0] - target).abs().mean()))
        lengths.append(abs(len(model.convert(source, source).mel) - len(target)) / len(target))
    return float(np.mean(mels)), float(np.mean(lengths))


def test_it_aligns_and_speaks_for_speakers_it_never_heard(base: Voice, pairs: list[tuple[torch.Tensor, torch.Tensor]]):
    torch.manual_seed(0)
    untrained = AASVC(base.config.model).eval()
    (mel, length), (random_mel, _) = errors(base.model, pairs), errors(untrained, pairs)
    assert mel < 0.8 < random_mel
    assert length < 0.3


def test_a_training_takes_its_sizes_and_few_steps(tmp_path: Path):
    home, small = Home(tmp_path), read_preset("small")
    *_, sizes, steps = base_layers(home, None, None, BASE)
    assert sizes.values["model.n_voices"] == 0 and sizes.values["model.width"] == small.model.width
    assert steps.values["train.max_steps"] < small.train.max_steps


def test_it_is_small_and_says_what_it_is(tmp_path: Path):
    folder = find_voice(Home(tmp_path), BASE)
    assert folder == bundled(BASE)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25e6
    assert {"data", "licence", "training", "limits"} <= read_json(folder / "card.json", "the card").keys()
