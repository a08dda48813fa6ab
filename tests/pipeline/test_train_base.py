"""A base from recordings of many voices, and a voice that begins with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aasvc_cli.audio.files import write_audio
from aasvc_cli.config.reading import parse_config, to_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.voice import load_voice, one_voice, read_voice
from aasvc_cli.data.many_voices import DEV_EVERY
from aasvc_cli.errors import ConfigError, DataError, ModelError
from aasvc_cli.pipeline import train_base as module
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.pipeline.stats import compute_stats
from aasvc_cli.pipeline.train import base_layers, train
from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.home import Home
from aasvc_cli.training.voice_run import TrainResult
from tests.voices import TINY

RATE = 16000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three voices, each at a pitch of its own, read sentences of tones."""
    root = tmp_path_factory.mktemp("people") / "people"
    for voice in range(3):
        for sentence in range(DEV_EVERY):
            notes = np.random.default_rng(sentence).permutation(5) * 150.0 + 150.0 + 40.0 * voice
            tones = [np.sin(2 * np.pi * hertz * np.arange(RATE // 12) / RATE) for hertz in notes]
            path = root / "g" / f"v{voice}" / f"s{sentence:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, (0.4 * np.concatenate(tones)).astype(np.float32), RATE)
    return root


def config(max_steps: int = 4, **changes: object) -> Config:
    train = {"batch_size": 4, "accum": 1, "max_steps": max_steps, "warmup_steps": 1, "lr": 1e-3, "eval_every": 2}
    train |= {"log_every": 1, "precision": "fp32", "preview_every": 0}
    features = {"source": "content", "duration": "content", **TINY["features"]}
    return parse_config({"name": "tiny", **TINY, "features": features, "train": train | changes}, "test")


def trained(home: Home, settings: Config, **options: Any) -> TrainResult:
    """A base whose features are computed in this process."""
    return module.train_base(home, settings, jobs=1, **options)


@pytest.fixture(scope="module")
def based_once(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a base of four steps named whole, and the features of all recordings."""
    home = Home(tmp_path_factory.mktemp("based") / "home")
    trained(home, config(), recordings=recordings, tag="whole")
    return home.root


@pytest.fixture
def home(based_once: Path, home: Home) -> Home:
    """The data folder of this test, with that base."""
    shutil.copytree(based_once, home.root)
    return home


def test_a_base_knows_its_voices_and_resumes_exactly(home: Home, recordings: Path) -> None:
    whole = trained(home, config(), recordings=recordings, tag="whole")
    assert (whole.step, whole.folder.name) == (4, "people_whole")
    files = read_voice(whole.folder, home)
    assert files.config.model.n_voices == 3 and files.weights["voices.weight"].shape == (3, 16)
    assert files.stats is not None and list(files.stats.voices) == ["g/v0", "g/v1", "g/v2"]
    assert load_voice(whole.folder, home=home).model.voices is None  # it converts as the mean of its voices
    with pytest.raises(ModelError, match="not the weights of 3 voices"):
        one_voice(dataclasses.replace(files, weights={"voices.weight": torch.zeros(3, 16)}))
    answers = iter([False, False, True])
    assert trained(home, config(), recordings=recordings, tag="two", should_stop=lambda: next(answers)).step == 2
    again = trained(home, config(), recordings=recordings, tag="two")
    first, second = (load_checkpoint(each.folder / "last.safetensors")[0] for each in (whole, again))
    assert first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


def test_the_vectors_of_the_voices_learn(home: Home, recordings: Path) -> None:
    before, after = (
        read_voice(trained(home, config(steps), recordings=recordings, tag=str(steps)).folder, home).weights
        for steps in (1, 6)
    )
    moved = (after["voices.weight"] - before["voices.weight"]).norm(dim=1)
    assert bool((moved > 1e-4).all())


def test_a_voice_begins_with_the_mean_of_a_base(home: Home, recordings: Path) -> None:
    base = trained(home, config(), recordings=recordings, tag="whole").folder
    speakers = {"source": recordings / "g" / "v0", "target": recordings / "g" / "v1"}
    prepare(home, config(), PrepareOptions(**speakers, name="pair", jobs=1))
    compute_stats(home, data="pair")
    _, sizes, steps = base_layers(home, None, None, "whole")
    assert sizes.values["model.n_voices"] == 0 and "train.max_steps" in steps.values
    messages: list[str] = []
    result = train(home, config(1), data="pair", init="whole", tag="mine", on_message=messages.append)
    assert any("begins with the weights" in message for message in messages)
    voice = load_voice(result.folder, home=home)
    assert voice.config.model.n_voices == 0 and voice.model.voices is None
    # content is heard as the base heard it, whoever speaks
    base_stats = read_voice(base, home).stats
    assert base_stats is not None and np.array_equal(voice.stats.source.mean, base_stats.source.mean)
    assert not np.array_equal(voice.stats.target.mean, base_stats.target.mean)


def test_others_recordings_and_too_few_are_refused(home: Home, recordings: Path, tmp_path: Path) -> None:
    (recordings.parent / "fewer").mkdir(exist_ok=True)
    link = recordings.parent / "fewer" / "people" / "g"
    link.mkdir(parents=True, exist_ok=True)
    for name in ("v0", "v1"):
        if not (link / name).exists():
            (link / name).symlink_to(recordings / "g" / name)
    with pytest.raises(ConfigError, match="run with other settings"):
        trained(home, config(), recordings=link.parent, tag="whole")
    alone = tmp_path / "alone" / "g" / "v0"
    alone.mkdir(parents=True)
    write_audio(alone / "s.wav", np.sin(np.arange(RATE) / 9).astype(np.float32), RATE)
    with pytest.raises(DataError, match="expected"):
        trained(home, config(1), recordings=tmp_path / "alone")


def test_the_command_trains_one_and_says_what_comes_next(
    aasvc: Callable[..., Any], home: Home, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "core_count", lambda: 1)
    conf = tmp_path / "tiny.yaml"
    conf.write_text(json.dumps(to_tree(config(1))), encoding="utf-8")
    train_a_base = ["train", "--kind", "base", "--conf", conf, "--tag", "mine"]
    outcome = aasvc(*train_a_base, "--recordings", recordings, "--json", "-")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["step"], Path(told["folder"])) == (1, home.exp / "people_mine")
    assert outcome.err.splitlines()[-1] == "next: aasvc train --init people_mine --tag mine"
    outcome = aasvc(*train_a_base)
    assert outcome.code == 2 and "--kind base: needs --recordings" in outcome.err
