"""From ``--conf`` and flags to a configuration."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aasvc_cli.config.layers import FLAG, PREPARED, Layer, Origin, config_layer
from aasvc_cli.config.reading import read_preset
from aasvc_cli.config.settings import Config
from aasvc_cli.errors import ConfigError
from aasvc_cli.pipeline.configure import trace_config

DATA = Path(__file__).parents[1] / "assets"


def resolve(conf: str | None, flags: Mapping[str, Any], prepared: Config | None = None) -> Config:
    base = [config_layer(Origin(PREPARED, "mine"), prepared)] if prepared is not None else []
    return trace_config(base, [], [Layer(Origin(FLAG, "command line"), flags)], conf=conf).config


def test_nothing_given_is_the_default_preset_or_the_fallback():
    assert resolve(None, {}) == read_preset("small")
    fallback = read_preset("hificaptain")
    assert resolve(None, {}, fallback) == fallback


def test_flags_override():
    config = resolve("hificaptain", {"train.batch_size": 4})
    assert (config.train.batch_size, config.train.lr) == (4, 8e-5)
    with pytest.raises(ConfigError, match=r"train.batch_size: should be greater than or equal to 1, found 0"):
        resolve(None, {"train.batch_size": 0})


def test_features_are_checked_with_everything_else():
    with pytest.raises(ConfigError) as raised:
        resolve(None, {"features.source": "mell", "features.duration": "mcep", "model.duration_dim": 80})
    first, second = raised.value.faults
    assert "features.source: 'mell' is no kind of feature; did you mean mel? known are mel, mcep, content" in first
    assert "model.duration_dim: 80, but features.duration is mcep with 40 channels" in second


def test_a_file_gives_its_name_unless_it_has_one(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: 1e-3}\n")
    assert resolve(str(path), {}).name == "mine"
    path.write_text("name: yours\n")
    assert resolve(str(path), {}).name == "yours"


def test_a_yaml_file_of_the_published_recipe_is_understood(tmp_path: Path):
    path = tmp_path / "aas_vc.melmelmel.v1.yaml"
    shutil.copy(DATA / "aasvc-stochastic" / "config.yml", path)
    config = resolve(str(path), {})
    assert config.name == "aas_vc.melmelmel.v1"
    assert (config.train.accum, config.train.warmup_steps, config.model.width) == (8, 4000, 32)


def test_a_misspelt_preset_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"smal: neither a file nor a preset; did you mean small\?"):
        resolve("smal", {})
