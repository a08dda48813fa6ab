"""Parity with the published system: its checkpoints load, and every stored array comes out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.settings import Config, LossConfig
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.model.layers import Dropout
from aasvc_cli.published.voices import (
    config_from_published,
    convert_state,
    is_published,
    is_published_folder,
    load_published_state,
    native_name,
    published_model_tree,
    read_h5_stats,
    read_published_voice,
)
from aasvc_cli.training.losses import total_loss

DATA = Path(__file__).parents[1] / "assets"
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
def test_gradient_norms_are_the_published_ones_and_absent_where_those_are(example, mode):
    total_loss(example.forward(mode), LossConfig(), step=1).total.backward()
    expected = json.loads((example.folder / f"grad_norms_{mode}.json").read_text())
    parameters = dict(example.model.named_parameters())
    for theirs, norm in expected.items():
        found = native_name(theirs)
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


CONSTRUCTOR = """
idim odim adim aheads elayers eunits dlayers dunits postnet_layers postnet_chans postnet_filts positionwise_layer_type
positionwise_conv_kernel_size use_scaled_pos_enc use_batch_norm encoder_input_layer encoder_input_conv_kernel_size
encoder_normalize_before decoder_normalize_before encoder_concat_after decoder_concat_after
duration_predictor_use_encoder_outputs duration_predictor_input_dim duration_predictor_layers duration_predictor_chans
duration_predictor_kernel_size encoder_reduction_factor post_encoder_reduction_factor decoder_reduction_factor
encoder_type decoder_type duration_predictor_type conformer_pos_enc_layer_type conformer_self_attn_layer_type
use_macaron_style_in_conformer use_cnn_in_conformer conformer_enc_kernel_size conformer_dec_kernel_size spk_embed_dim
spk_embed_integration_type transformer_enc_dropout_rate transformer_enc_positional_dropout_rate
transformer_enc_attn_dropout_rate transformer_dec_dropout_rate transformer_dec_positional_dropout_rate
transformer_dec_attn_dropout_rate duration_predictor_dropout_rate postnet_dropout_rate init_type use_masking
use_weighted_masking diffsinger_denoiser_residual_channels prodiff_denoiser_layers prodiff_denoiser_channels
prodiff_diffusion_steps prodiff_diffusion_timescale prodiff_diffusion_beta prodiff_diffusion_scheduler
prodiff_diffusion_cycle_ln stochastic_duration_predictor_kernel_size stochastic_duration_predictor_dropout_rate
stochastic_duration_predictor_flows stochastic_duration_predictor_dds_conv_layers
stochastic_duration_predictor_noise_scale
""".split()
"""Every argument of the published constructor."""
# published key: (our field, the published default, another value)
UNDERSTOOD: dict[str, tuple[str, Any, Any]] = {
    "idim": ("source_dim", 80, 40),
    "odim": ("target_dim", 80, 40),
    "duration_predictor_input_dim": ("duration_dim", 80, 40),
    "adim": ("width", 384, 64),
    "aheads": ("n_heads", 4, 2),
    "elayers": ("encoder_layers", 6, 3),
    "dlayers": ("decoder_layers", 6, 3),
    "eunits": ("encoder_hidden", 1536, 100),
    "dunits": ("decoder_hidden", 1536, 100),
    "conformer_enc_kernel_size": ("encoder_kernel", 7, 9),
    "conformer_dec_kernel_size": ("decoder_kernel", 31, 9),
    "post_encoder_reduction_factor": ("frames_per_token", 1, 4),
    "transformer_enc_dropout_rate": ("encoder_dropout", 0.1, 0.3),
    "transformer_enc_positional_dropout_rate": ("encoder_positional_dropout", 0.1, 0.3),
    "transformer_enc_attn_dropout_rate": ("encoder_attention_dropout", 0.1, 0.3),
    "transformer_dec_dropout_rate": ("decoder_dropout", 0.1, 0.3),
    "transformer_dec_positional_dropout_rate": ("decoder_positional_dropout", 0.1, 0.3),
    "transformer_dec_attn_dropout_rate": ("decoder_attention_dropout", 0.1, 0.3),
    "postnet_layers": ("postnet_layers", 5, 0),
    "postnet_chans": ("postnet_channels", 512, 32),
    "postnet_filts": ("postnet_kernel", 5, 7),
    "postnet_dropout_rate": ("postnet_dropout", 0.5, 0.3),
    "duration_predictor_type": ("duration_predictor", "deterministic", "stochastic"),
    "duration_predictor_use_encoder_outputs": ("duration_input", "tokens", "feature"),
    "duration_predictor_layers": ("duration_layers", 2, 3),
    "duration_predictor_chans": ("duration_channels", 384, 32),
    "duration_predictor_kernel_size": ("duration_kernel", 3, 5),
    "duration_predictor_dropout_rate": ("duration_dropout", 0.1, 0.3),
    "stochastic_duration_predictor_kernel_size": ("flow_kernel", 3, 5),
    "stochastic_duration_predictor_dropout_rate": ("flow_dropout", 0.5, 0.3),
    "stochastic_duration_predictor_flows": ("flow_count", 4, 2),
    "stochastic_duration_predictor_dds_conv_layers": ("flow_layers", 3, 2),
    "stochastic_duration_predictor_noise_scale": ("noise_scale", 0.8, 0.3),
}
UNSUPPORTED = {
    "encoder_input_layer": "conv2d",
    "encoder_concat_after": True,
    "decoder_concat_after": True,
    "encoder_type": "transformer",
    "decoder_type": "prodiff",
    "conformer_pos_enc_layer_type": "legacy_rel_pos",
    "conformer_self_attn_layer_type": "legacy_rel_selfattn",
    "spk_embed_dim": 256,
    "positionwise_layer_type": "conv1d",
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "use_macaron_style_in_conformer": False,
    "use_cnn_in_conformer": False,
    "encoder_reduction_factor": 2,
    "decoder_reduction_factor": 2,
    "use_batch_norm": False,
}
RECIPE = {
    "idim": 80,
    "odim": 80,
    "positionwise_layer_type": "linear",
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
}
"""What a published configuration has to say to be supported."""
IGNORED = {
    "positionwise_conv_kernel_size": 3,
    "use_scaled_pos_enc": False,
    "use_masking": True,
    "use_weighted_masking": True,
    "init_type": "pytorch",
    "encoder_input_conv_kernel_size": 5,
    "spk_embed_integration_type": "concat",
    "diffsinger_denoiser_residual_channels": 1,
    "prodiff_denoiser_layers": 1,
    "prodiff_denoiser_channels": 1,
    "prodiff_diffusion_steps": 1,
    "prodiff_diffusion_timescale": 2,
    "prodiff_diffusion_beta": 1.0,
    "prodiff_diffusion_scheduler": "linear",
    "prodiff_diffusion_cycle_ln": 2,
}


def _model(**params: Any) -> Any:
    tree, faults = published_model_tree(RECIPE | params)
    assert not faults
    return parse_config({"model": {**tree, **dict.fromkeys(("source_dim", "target_dim", "duration_dim"))}}, "x").model


def test_every_argument_of_the_published_constructor_is_dealt_with():
    assert set(CONSTRUCTOR) == {*UNDERSTOOD, *UNSUPPORTED, *IGNORED}
    assert len(CONSTRUCTOR) == len(UNDERSTOOD) + len(UNSUPPORTED) + len(IGNORED)


def test_every_argument_has_the_published_default_and_reaches_the_model():
    for key, (field, default, other) in UNDERSTOOD.items():
        if field.endswith("_dim"):
            tree, _ = published_model_tree({"idim": 80, "odim": 80, key: other})
            assert tree[field] == other and published_model_tree({"idim": 80, "odim": 80})[0][field] == default, key
            continue
        given = False if key == "duration_predictor_use_encoder_outputs" else other
        assert getattr(_model(), field) == default, key
        changed = {name for name, value in vars(_model(**{key: given})).items() if value != getattr(_model(), name)}
        assert getattr(_model(**{key: given}), field) == other, key
        # how durations are rounded goes with the kind of predictor
        assert changed - {"duration_rounding"} == {field}, key


def test_what_has_no_effect_in_the_published_code_has_none_here():
    assert [key for key, value in IGNORED.items() if _model(**{key: value}) != _model()] == []


def test_what_is_not_supported_is_named():
    for key, value in {**UNSUPPORTED, "conformer_activation_type": "relu"}.items():
        _, (fault,) = published_model_tree(RECIPE | {key: value})
        assert fault.startswith(f"model_params.{key}: ")


def test_what_a_file_leaves_to_an_unsupported_default_is_named():
    for key in ("positionwise_layer_type", "encoder_normalize_before", "decoder_normalize_before"):
        _, (fault,) = published_model_tree({name: value for name, value in RECIPE.items() if name != key})
        assert fault.startswith(f"model_params.{key}: ")
        assert "where nothing is said" in fault


def test_published_sizes_are_those_of_the_preset():
    from aasvc_cli.config.reading import read_preset

    config: Config = with_widths(read_preset("hificaptain"))
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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trg_feat": "ppg_sxliu"}, "target feature 'ppg_sxliu' is not available here; known are mel"),
        ({"src_feat": "encodec"}, "source and duration feature: encodec and ppg_sxliu are not available here together"),
        ({"src_feat": "hubert"}, "source and duration feature: hubert and ppg_sxliu are not available here together"),
    ],
)
def test_features_that_no_folder_can_stand_for_are_named(changed: dict[str, str], message: str):
    tree = yaml.safe_load((DATA / "aasvc-ppg" / "config.yml").read_text()) | changed
    with pytest.raises(ConfigError, match=message):
        config_from_published(tree, "config.yml")


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


@pytest.mark.parametrize(("gain", "supported"), [(1.0, True), (1, True), (None, True), (0.5, False), ("loud", False)])
def test_a_gain_that_conversion_would_not_apply_is_refused_by_name(gain: Any, supported: bool):
    tree = yaml.safe_load((DATA / "aasvc-stochastic" / "config.yml").read_text()) | {"global_gain_scale": gain}
    if supported:
        config_from_published(tree, "config.yml")
        return
    with pytest.raises(ConfigError, match=r"config\.yml.*global_gain_scale: .* is not supported, only 1\.0"):
        config_from_published(tree, "config.yml")
