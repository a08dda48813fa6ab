"""The list of voices that are here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aasvc_cli.conversion.voice import find_voice
from aasvc_cli.pipeline.models import known_models
from aasvc_cli.storage.files import read_json, write_json, write_text
from aasvc_cli.storage.home import Home, bundled
from tests.voices import tiny_config, write_voice


def about(home: Home) -> dict[str, tuple[str, str]]:
    return {model.name: (model.kind, model.about) for model in known_models(home).models}


def test_an_empty_data_folder_has_the_bundled_voice(home: Home):
    card = read_json(bundled("voice") / "card.json", "a model card")
    assert about(home) == {"bundled": ("bundled", card["converts"])}


def test_each_folder_says_what_it_is_as_well_as_it_can(home: Home, data: Path):
    write_voice(home.exp / "m_f_card", tiny_config())
    write_json(home.exp / "m_f_card" / "card.json", {"converts": "Mr A to\nMs B", "licence": "MIT"})
    write_voice(home.exp / "m_f_readme", tiny_config())
    write_text(home.exp / "m_f_readme" / "README.md", "# Title\n\n![picture](x.png)\n\nA voice of a friend.\nMore.\n")
    write_voice(home.exp / "m_f_plain", tiny_config())
    write_json(home.exp / "m_f_plain" / "data.json", {"prepared": "mine"})
    write_voice(home.exp / "m_f_begun", tiny_config())
    (home.exp / "m_f_begun" / "best.safetensors").unlink()
    (home.exp / "m_f_empty").mkdir()
    write_voice(home.exp / "m_f_damaged", tiny_config())
    write_text(home.exp / "m_f_damaged" / "config.yaml", "model: {width: wide}")
    (home.exp / ".hidden").mkdir()
    shutil.copytree(data / "aasvc-stochastic", home.models / "published")
    found = about(home)
    assert next(iter(found)) == "bundled"
    assert found["m_f_card"] == ("run", "Mr A to Ms B")
    assert found["m_f_readme"] == ("run", "A voice of a friend.")
    assert found["m_f_plain"] == ("run", "trained on mine, 16 kHz")
    assert found["m_f_begun"] == ("run", "16 kHz, no checkpoint yet")
    assert found["m_f_empty"] == ("run", "no model: config.yaml is missing")
    assert found["m_f_damaged"][1].startswith("damaged: ")
    assert found["published"] == ("downloaded", "published model")
    assert ".hidden" not in found
    for name in found.keys() - {"bundled"}:
        assert find_voice(home, name).name == name


def test_the_command_shows_it_for_people_and_programs(aasvc: Callable[..., Any], home: Home):
    write_voice(home.exp / "m_f_x", tiny_config())
    outcome = aasvc("convert", "--list-models")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["bundled", "m_f_x"]
    models = json.loads(aasvc("convert", "--list-models", "--json", "-").out)["models"]
    assert [model["name"] for model in models] == ["bundled", "m_f_x"]
    assert {"data", "licence", "training", "scores", "limits"} <= models[0]["card"].keys()


def test_model_cards_are_shown_in_words(aasvc: Callable[..., Any], home: Home):
    write_voice(home.exp / "m_f_x", tiny_config())
    card = {
        "data": "two\n friends", "training": ["aasvc train", 5, "and again"], "licence": 3, "measured": ["CER 5 %"],
        "scores": {"set": "eval", "mean": {"MCD": {"mean": 4.256, "n": 2}, "CER": 0.5, "DDUR": None, "GV": "no"}},
    }  # fmt: skip
    write_json(home.exp / "m_f_x" / "card.json", card)
    lines = aasvc("convert", "--list-models", "-v").out.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("m_f_x"))
    assert lines[begin + 1 :] == [
        "  data: two friends",
        "  training: aasvc train",
        "  training: and again",
        "  measured: CER 5 %",
        "  scores (eval): MCD 4.26, CER 0.5",
    ]
    bundled = "\n".join(lines[1:begin])
    assert all(
        f"  {key}" in bundled for key in ("data: ", "licence: ", "training: aasvc train", "limits: ", "scores (")
    )
    assert "MCD 3." in bundled
    write_json(home.exp / "m_f_x" / "card.json", {"scores": ["of no kind"], "limits": {"none": 1}})
    assert aasvc("convert", "--list-models", "-v").out.splitlines()[begin:] == [lines[begin]]
