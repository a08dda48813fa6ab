"""The benchmarks that compare settings, and ways to predict durations, by short trainings."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from aasvc_cli.config.settings import LossConfig
from aasvc_cli.conversion.voice import load_voice
from aasvc_cli.data.dataset import PairDataset, collate
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.features.kinds import feature_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.home import Home
from aasvc_cli.training.losses import total_loss
from tests.conftest import TINY

SCRIPT = Path(__file__).parent / "benchmarks" / "ablation.py"


def _script(name: str) -> ModuleType:
    """A benchmark, as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    """The script that compares settings."""
    return _script("ablation")


def _tiny() -> list[str]:
    """The changes that make any variant as small as the prepared features want it."""
    changes = []
    for section, values in yaml.safe_load(TINY).items():
        nested = dict(values)
        nested |= {f"mel.{key}": value for key, value in nested.pop("mel", {}).items()}
        changes += [f"{section}.{key}={value}" for key, value in nested.items()]
    return changes


def _task(ablation: ModuleType, name: str, trained: Home, **options: Any) -> Any:
    given = {
        "home": trained.root, "data": None, "out": trained.root / "ablation", "pairs": 4, "steps": 2,
        "set": _tiny(), "eval_every": 1, "threads": 1, "convert": False, "scores": False,
    }  # fmt: skip
    return ablation.Task(name, argparse.Namespace(**given | options))


@pytest.mark.process
def test_variants_are_measured_and_shown_in_one_table(trained: Home):
    arguments = ["faithful", "small+loss.prior=none", "--convert", "--json", "--steps", "2", "--pairs", "4"]
    arguments += ["--home", str(trained.root), "--out", str(trained.root / "ablation")]
    command = [sys.executable, str(SCRIPT), *arguments, *(f"--set={change}" for change in _tiny())]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    *_, title, _rule, first, second, as_json = told.splitlines()
    assert [cell.strip() for cell in title.split("|")[1:5]] == ["variant", "steps", "s/step", "train L1"]
    assert first.startswith("| faithful | 2 |") and second.startswith("| small+loss.prior=none | 2 |")
    faithful, small = json.loads(as_json)
    for figures in (faithful, small):
        assert figures["seconds_per_step"] > 0.0 and figures["reached_step"] is None
        assert figures["length_ratio"] > 0.0 and figures["mel_distance"] > 0.0
    assert faithful["train"] != small["train"]


def test_the_losses_reported_are_the_published_ones_whatever_is_trained(ablation: ModuleType, trained: Home):
    arguments = _task(ablation, "small+loss.prior=none", trained).arguments
    variant = ablation.parse_variant("small+loss.prior=none", arguments.set)
    run = ablation.Ablation(variant, trained, None, 4, 1, arguments.out)
    batch = ablation.collate([run.train_set[0], run.train_set[1]])
    run.trainer.model.eval()
    trained_on = run.trainer.losses(batch)
    with torch.no_grad():
        expected = total_loss(run.trainer.forward(batch), LossConfig(), 0)
    assert run.trainer.noted[0]["forward_sum"] == pytest.approx(float(expected.forward_sum), rel=1e-5)
    assert float(trained_on.forward_sum.detach()) != pytest.approx(float(expected.forward_sum), rel=1e-2)


def test_a_training_that_goes_on_ends_with_the_same_figures(ablation: ModuleType, trained: Home):
    whole = _task(ablation, "small", trained, out=trained.root / "whole").run()
    _task(ablation, "small", trained, steps=1).run()
    parts = _task(ablation, "small", trained).run()
    assert (parts["train"], parts["dev"]["2"]) == (whole["train"], whole["dev"]["2"])


def test_the_target_is_reached_when_all_means_of_an_epoch_lie_below_it(ablation: ModuleType, trained: Home):
    arguments = _task(ablation, "small", trained).arguments
    run = ablation.Ablation(ablation.parse_variant("small", arguments.set), trained, None, 4, 5, arguments.out)
    assert run.epoch == 2
    good, bad = {name: level - 0.1 for name, level in ablation.TARGET.items()}, {"binarisation": 9.0}
    run.progress.noted = [good, good | bad, good, {**good, "l1": ablation.TARGET["l1"] + 0.05}, good]
    run.progress.costs = [1.0, 2.0, 3.0, 4.0, 5.0]
    figures = run._figures()
    assert (figures["reached_step"], figures["reached_seconds"]) == (4, 10.0)
    assert figures["seconds_per_step"] == statistics.median(run.progress.costs)


def test_a_setting_that_acts_at_conversion_needs_no_training_of_its_own(ablation: ModuleType, trained: Home):
    plain = _task(ablation, "small", trained, convert=True).run()
    shorter = _task(ablation, "small@model.max_duration=1", trained, convert=True).run()
    assert "train" not in shorter and shorter["length_ratio"] <= plain["length_ratio"]
    states = [(trained.root / "ablation" / name / "best.safetensors").read_bytes() for name in (
        "small", "small@model.max_duration=1")]  # fmt: skip
    assert states[0] == states[1]


def test_predictors_of_durations_learn_on_a_voice_that_stays_as_it_is(
    trained: Home, capsys: pytest.CaptureFixture[str]
):
    durations = _script("durations")
    voice = load_voice(trained.exp / "male_female_tiny")
    pairs = read_manifest(trained, None).sets["train"]
    store = FeatureStore(trained.features, voice.config.features, feature_key)
    pair_set = PairDataset(pairs, store.load, voice.stats)
    data = [durations.known(voice, collate([pair_set[0], pair_set[1]]))]
    assert data[0].durations.sum(1).tolist() == data[0].batch.target_lengths.tolist()
    for changes in (durations.PREDICTORS["stochastic, tokens"], durations.PREDICTORS["poisson, trained branch"]):
        begun, learnt = (durations.trained(voice, changes, data, steps, 1e-2) for steps in (0, 30))
        torch.manual_seed(0)
        before = float(durations.loss_of(begun, data[0]).detach())
        torch.manual_seed(0)
        assert float(durations.loss_of(learnt, data[0]).detach()) < before
        found = learnt.state_dict()
        for name, tensor in voice.model.state_dict().items():
            if not name.startswith("duration_"):
                assert torch.equal(found[name], tensor), name
    command = ["--voice", str(voice.folder), "--home", str(trained.root), "--steps", "1", "--pairs", "2", "--json"]
    durations.main([*command, "--only", "poisson, tokens"])
    *_, as_json = capsys.readouterr().out.splitlines()
    rows = json.loads(as_json)
    assert [row["duration_rounding"] for row in rows] == ["nearest", "nearest", "cumulative", "cumulative"]
    assert all(row["ratio"] > 0.0 for row in rows)
