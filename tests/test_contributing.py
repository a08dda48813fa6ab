"""The worked examples of CONTRIBUTING work: they are run as they are written."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from aasvc_cli.conversion.voice import read_voice
from aasvc_cli.features import kinds
from aasvc_cli.measures.catalogue import MEASURES, Measure
from aasvc_cli.measures.signal import analyse
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder import build
from aasvc_cli.vocoder.build import load_vocoder, write_vocoder
from aasvc_cli.vocoder.folder import StoredVocoder
from tests.conftest import TIERS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def examples(heading: str) -> list[str]:
    """The Python blocks below a heading."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def run_example(heading: str) -> dict[str, Any]:
    """What the blocks below a heading define."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile("\n".join(examples(heading)), "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    return names


def test_a_feature_kind_is_prepared_and_trained_on(
    aasvc: Callable[..., Any], home: Home, small_corpus: Path, tiny_conf: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kinds, "KINDS", kinds.KINDS.copy())
    run_example("Add a feature kind")
    for line in (
        ["prepare", small_corpus, "--conf", tiny_conf, "--jobs", 1, "--src-feat", "level"],
        ["stats"],
        ["train", "--tag", "example"],
    ):
        outcome = aasvc("--quiet", *line)
        assert outcome.code == 0, outcome.err
    assert read_voice(home.exp / "male_female_example").config.model.source_dim == 1


def test_a_vocoder_is_stored_found_and_speaks(
    aasvc: Callable[..., Any], trained: Home, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "KINDS", build.KINDS.copy())
    run_example("Add a vocoder")
    mel = read_voice(trained.exp / "male_female_tiny").config.features.mel
    write_vocoder(tmp_path / "whisper", StoredVocoder("whisper", mel, {}, {}))
    vocoder = load_vocoder(tmp_path / "whisper")
    quiet, loud = (vocoder.synthesise(torch.full((1, 5, mel.n_mels), level)) for level in (-2.0, -1.0))
    assert quiet.shape == (1, 5 * mel.hop_length)
    assert torch.allclose(loud, 10 * quiet)
    outcome = aasvc(
        "--quiet", "convert", data / "male.flac", "-o", tmp_path / "out.wav",
        "--model", "tiny", "--vocoder", tmp_path / "whisper",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert soundfile.info(tmp_path / "out.wav").duration > 0.1


def test_a_measure_has_the_value_of_a_signal_that_is_known():
    defined = run_example("Add a measure")
    rate = 16000
    tone = 0.3 * np.sin(2 * np.pi * 120 * np.arange(rate) / rate)
    target = analyse(tone, rate, f0_min=70, f0_max=400)
    octave_higher = dataclasses.replace(target, f0=2 * target.f0)
    silent = dataclasses.replace(target, f0=0 * target.f0)
    assert defined["pitch_offset"](octave_higher, target) == pytest.approx(12)
    assert defined["pitch_offset"](target, target) == 0
    assert math.isnan(defined["pitch_offset"](target, silent))
    measure = eval(examples("Add a measure")[1].strip().splitlines()[-1], {"Measure": Measure})
    assert measure.name not in {known.name for known in MEASURES}
    assert measure.loss(-2.0) > measure.loss(1.0)


def test_files_and_names_in_the_text_exist():
    for path in re.findall(r"`((?:aasvc_cli|tests)/[\w/.]*)`", TEXT):
        assert (ROOT / path).exists(), path
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "aasvc_cli").rglob("*.py"))
    for name in ("Vocoder", "PairScores", "score_analyses", "write_vocoder", "StoredVocoder", "AasvcError"):
        assert name in TEXT
        assert re.search(rf"^(class|def) {name}\b", sources, re.MULTILINE), name
    assert all(name in TEXT for name in TIERS)


def test_workflow_and_hooks_are_yaml_and_run_what_the_project_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["everything"]["steps"]
    assert any(".ci/run" in step.get("run", "") for step in steps)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(hook["entry"].removesuffix(" --fix") in script for hook in hooks)
