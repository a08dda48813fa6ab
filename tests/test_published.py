"""Parity with the published system: its checkpoints load, and every stored array comes out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from aasvc_cli.config import Config, LossConfig, parse_config
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.legacy.published import (
    config_from_published,
    convert_state,
    is_published,
    is_published_folder,
    load_published_state,
    our_name,
    published_model_tree,
    read_h5_stats,
    read_published_voice,
)
from aasvc_cli.losses import total_loss
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.model.layers import Dropout

DATA = Path(__file__).parent / "data"
KINDS = ["stochastic", "deterministic", "ppg"]


class Example:
    """A stored model of the published system with its inputs and outputs."""

    def __init__(self, kind: str):
        self.folder = DATA / f"aasvc-{kind}"
        params = yaml.safe_load((self.folder / "config.yml").read_text())["model_params"]
        tree, faults = published_model_tree(params)
        assert not faults
        # a feature that is not extracted here still has a model; only its widths are needed
        self.config = parse_config({"model": {**tree, "source_dim": None, "duration_dim": None}}, kind).model
        self.config = type(self.config)(**{**vars(self.config), **_dims(tree)})
        self.model = AASVC(self.config)
        self.model.load_state_dict(load_published_state(self.folder / "checkpoint-10steps.pkl"))
        with np.load(self.folder / "example.npz") as stored:
            self.arrays = {name: stored[name] for name in stored.files}

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def forward(self, mode: str) -> Any:
        self.model.train(mode == "train")
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        noise = self.tensor(f"{mode}_noise").transpose(1, 2) if f"{mode}_noise" in self.arrays else None
        inputs = [self.tensor(name) for name in ("xs", "ilens", "ys", "olens", "dp_inputs")]
        return self.model(*inputs, noise=noise)


def _dims(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: tree[name] for name in ("source_dim", "target_dim", "duration_dim")}


@pytest.fixture(params=KINDS)
def example(request: pytest.FixtureRequest) -> Example:
    return Example(request.param)


def _largest_difference(found: torch.Tensor, expected: np.ndarray) -> float:
    finite = np.isfinite(expected)
    values = found.detach().numpy()
    assert values.shape == expected.shape
    assert (np.isfinite(values) == finite).all()
    return float(np.abs(values[finite] - expected[finite]).max())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_teacher_forced_outputs_durations_and_losses_are_the_published_ones(example, mode):
    result = example.forward(mode)
    for name, found in (
        ("log_p_attn", result.log_alignment),
        ("before_outs", result.before),
        ("after_outs", result.after),
    ):
        assert _largest_difference(found, example.arrays[f"{mode}_{name}"]) <= 1e-5, name
    assert np.array_equal(result.durations.numpy(), example.arrays[f"{mode}_durations"])
    assert np.array_equal(result.token_lengths.numpy(), example.arrays[f"{mode}_text_lengths"])
    if result.duration_nll is not None:
        assert _largest_difference(result.duration_nll, example.arrays[f"{mode}_dur_nll"]) <= 1e-5
    else:
        assert _largest_difference(result.log_durations, example.arrays[f"{mode}_d_outs"]) <= 1e-5
    losses = total_loss(result, LossConfig(), step=1)
    for ours, theirs in (
        (losses.l1, "l1"),
        (losses.forward_sum, "forward_sum"),
        (losses.binarisation, "bin"),
        (losses.duration, "duration"),
        (losses.total, "total"),
    ):
        assert ours.item() == pytest.approx(float(example.arrays[f"{mode}_loss_{theirs}"]), rel=1e-4), theirs


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradient_norms_are_the_published_ones_and_absent_where_theirs_are(example, mode):
    total_loss(example.forward(mode), LossConfig(), step=1).total.backward()
    expected = json.loads((example.folder / f"grad_norms_{mode}.json").read_text())
    parameters = dict(example.model.named_parameters())
    for theirs, norm in expected.items():
        found = our_name(theirs)
        assert found is not None
        gradient = parameters.pop(found[0]).grad
        if norm is None:
            assert gradient is None, theirs
        else:
            assert gradient is not None, theirs
            # a bias in front of a batch norm has a gradient of 0 up to rounding
            assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6), theirs
    assert not parameters


@pytest.mark.parametrize("noise_scale", ["0.0", "0.8"])
def test_inference_is_the_published_one(example, noise_scale):
    example.model.eval()
    longest = int(np.argmax(example.arrays["ilens"]))
    n_frames = int(example.arrays["ilens"][longest])
    drawn = f"infer_noise{noise_scale}_z"
    noise = example.tensor(drawn)[0].T if drawn in example.arrays else None
    result = example.model.convert(
        example.tensor("xs")[longest, :n_frames],
        example.tensor("dp_inputs")[longest, :n_frames],
        noise_scale=float(noise_scale),
        noise=noise,
    )
    assert np.array_equal(result.durations.numpy(), example.arrays[f"infer_noise{noise_scale}_durations"])
    assert _largest_difference(result.mel, example.arrays[f"infer_noise{noise_scale}_outs"]) <= 1e-5


def test_one_seed_gives_the_published_draw():
    example = Example("stochastic")
    example.model.eval()
    source, feature = example.tensor("xs")[0], example.tensor("dp_inputs")[0]
    n_tokens = len(source) // 4
    drawn = torch.randn(1, 2, n_tokens, generator=torch.Generator().manual_seed(5))[0].T
    given = example.model.convert(source, feature, noise=drawn)
    seeded = example.model.convert(source, feature, generator=torch.Generator().manual_seed(5))
    assert torch.equal(given.mel, seeded.mel)


def test_a_published_recipe_becomes_our_configuration():
    tree = yaml.safe_load((DATA / "aasvc-stochastic" / "config.yml").read_text())
    assert is_published(tree)
    config = config_from_published(tree, "config.yml")
    assert (config.features.mel.sample_rate, config.features.mel.hop_length) == (24000, 256)
    assert (config.train.batch_size, config.train.accum, config.train.lr) == (2, 8, 8e-5)
    assert config.model.frames_per_token == 4 and not config.model.mask_padding
    assert config.loss.prior == "published" and config.loss.align_weight == 2.0


def test_every_fault_of_a_published_recipe_is_named():
    tree = yaml.safe_load((DATA / "aasvc-stochastic" / "config.yml").read_text())
    tree["model_params"] |= {"encoder_type": "transformer", "no_such_key": 1}
    tree["model_type"] = "VTN"
    with pytest.raises(ConfigError) as caught:
        config_from_published(tree, "config.yml")
    assert all(word in str(caught.value) for word in ("encoder_type", "no_such_key", "VTN"))


def test_published_sizes_are_those_of_the_preset():
    from aasvc_cli.config import read_preset

    config: Config = read_preset("hificaptain").resolved()
    with torch.device("meta"):
        model = AASVC(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 157_525_984
    assert len(model.state_dict()) == 660


def test_a_published_folder_gives_configuration_weights_and_target_statistics():
    folder = DATA / "aasvc-stochastic"
    assert is_published_folder(folder) and not is_published_folder(DATA)
    config, state, stats, card = read_published_voice(folder)
    assert card["step"] == 10
    AASVC(config.model).load_state_dict(state)
    assert stats.mean.shape == stats.scale.shape == (80,)
    with pytest.raises(ModelError, match=r"expected mcep_mean .* found mel_mean, mel_scale"):
        read_h5_stats(folder / "stats.h5", "mcep")


def test_a_feature_that_cannot_be_extracted_is_named():
    with pytest.raises(ConfigError, match="ppg_sxliu"):
        read_published_voice(DATA / "aasvc-ppg")


def test_checkpoints_that_are_cut_short_or_would_run_code_are_refused(tmp_path):
    whole = (DATA / "aasvc-deterministic" / "checkpoint-10steps.pkl").read_bytes()
    cut = tmp_path / "checkpoint-1steps.pkl"
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="checkpoint-1steps"):
            load_published_state(cut)
    torch.save({"model": {}, "extra": Path("x")}, cut)
    with pytest.raises(ModelError, match="refused"):
        load_published_state(cut)
    torch.save({"steps": 3}, cut)
    with pytest.raises(ModelError, match="entry 'model'"):
        load_published_state(cut)


def test_names_of_another_architecture_are_refused():
    with pytest.raises(ModelError, match=r"2 tensors .*\(first: foo.bar"):
        convert_state({"foo.bar": torch.zeros(1), "spam": torch.zeros(1)}, "here")
