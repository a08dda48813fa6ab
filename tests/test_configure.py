"""From ``--conf`` and flags to a configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aasvc_cli.config import read_preset
from aasvc_cli.errors import ConfigError
from aasvc_cli.pipeline.configure import resolve_config

DATA = Path(__file__).parent / "data"


def test_nothing_given_is_the_default_preset_or_the_fallback():
    assert resolve_config(None, {}) == read_preset("small")
    fallback = read_preset("hificaptain")
    assert resolve_config(None, {}, fallback) == fallback


def test_flags_override_and_absent_flags_do_not():
    config = resolve_config("hificaptain", {"train.batch_size": 4, "train.lr": None})
    assert (config.train.batch_size, config.train.lr) == (4, 8e-5)
    with pytest.raises(ConfigError, match=r"train.batch_size: 0 is below"):
        resolve_config(None, {"train.batch_size": 0})


def test_a_file_gives_its_name_unless_it_has_one(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: 1e-3}\n")
    assert resolve_config(str(path), {}).name == "mine"
    path.write_text("name: yours\n")
    assert resolve_config(str(path), {}).name == "yours"


def test_a_yaml_file_of_the_published_recipe_is_understood(tmp_path: Path):
    path = tmp_path / "aas_vc.melmelmel.v1.yaml"
    shutil.copy(DATA / "aasvc-stochastic" / "config.yml", path)
    config = resolve_config(str(path), {})
    assert config.name == "aas_vc.melmelmel.v1"
    assert (config.train.accum, config.train.warmup_steps, config.model.width) == (8, 4000, 32)


def test_a_near_miss_of_a_preset_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"smal: neither a file nor a preset; did you mean small\?"):
        resolve_config("smal", {})
