"""The configuration: strict, complete about its faults, and stable through YAML."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aasvc_cli.config.reading import (
    dump_yaml,
    override,
    parse_config,
    preset_names,
    read_config_file,
    read_preset,
    read_yaml,
    to_tree,
)
from aasvc_cli.config.settings import Config, FeatureConfig, LossConfig, McepConfig, MelConfig, ModelConfig, TrainConfig
from aasvc_cli.errors import ConfigError

SECTIONS = [MelConfig, McepConfig, FeatureConfig, ModelConfig, LossConfig, TrainConfig]


def parse(text: str) -> Config:
    return parse_config(read_yaml(text, "test.yaml"), "test.yaml")


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.faults


def test_an_empty_file_is_the_default_configuration():
    assert parse("") == Config()
    assert parse("# only a comment\n") == Config()


def test_every_fault_is_reported_at_once_with_the_path_of_its_key():
    faults = faults_of(
        """
        features:
          mel: {n_mel: 80, sample_rate: fast}
          source: 1
        model: {width: -2, mask_padding: 1}
        train: {batch_size: 2.5, lr: hot}
        colour: red
        """
    )
    assert [fault.split(":")[0] for fault in faults] == [
        "features.mel.n_mel",
        "features.mel.sample_rate",
        "features.source",
        "model.width",
        "model.mask_padding",
        "train.batch_size",
        "train.lr",
        "colour",
    ]


def test_a_fault_says_what_was_found_and_what_was_expected():
    (fault,) = faults_of("train: {batch_size: many}")
    assert fault == "train.batch_size: expected a whole number, found text 'many'"
    (fault,) = faults_of("train: {max_steps: 0}")
    assert "0" in fault
    assert "smallest possible value, 1" in fault
    (fault,) = faults_of("model: {encoder_dropout: 1.5}")
    assert "above the largest possible value, 0.95" in fault
    (fault,) = faults_of("loss: {prior: flat}")
    assert "one of published, beta-binomial, content, none" in fault


@pytest.mark.parametrize(
    ("typo", "meant"), [("batchsize", "batch_size"), ("max_step", "max_steps"), ("learning_rate", None)]
)
def test_a_misspelt_key_is_refused_and_the_near_miss_is_named(typo: str, meant: str | None):
    (fault,) = faults_of(f"train: {{{typo}: 4}}")
    assert fault.startswith(f"train.{typo}: unknown key")
    assert ("did you mean" in fault) == (meant is not None)
    assert (meant or "") in fault


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "3"])
def test_a_file_that_is_not_a_mapping_is_refused(text: str):
    with pytest.raises(ConfigError, match="expected a mapping"):
        parse(text)


@pytest.mark.parametrize("text", ["train: [1, 2]", "train: 3", "train: null"])
def test_a_section_that_is_not_a_mapping_is_refused(text: str):
    (fault,) = faults_of(text)
    assert fault.startswith("train: expected a mapping")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "a: !!python/object:os.system {}"])
def test_broken_or_unsafe_yaml_is_one_line(text: str):
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files_are_configuration_errors(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config_file(binary)


class TestYaml11:
    """PyYAML reads YAML 1.1: exponents without a dot are text, no and on are booleans, 012 is octal."""

    def test_a_float_without_a_dot_in_its_mantissa_is_a_number(self):
        assert read_yaml("lr: 8e-5", "x")["lr"] == "8e-5", "the trap is still there"
        assert parse("train: {lr: 8e-5}").train.lr == 8e-5

    def test_a_whole_number_is_a_float_where_a_float_is_expected(self):
        assert parse("train: {grad_norm: 2}").train.grad_norm == 2.0
        assert isinstance(parse("train: {grad_norm: 2}").train.grad_norm, float)

    @pytest.mark.parametrize("word", ["no", "on", "yes", "off"])
    def test_words_that_become_booleans_are_refused_where_text_or_numbers_are_meant(self, word: str):
        assert faults_of(f"train: {{device: {word}}}") == (
            f"train.device: expected text, found boolean {word in ('on', 'yes')}",
        )
        assert faults_of(f"train: {{lr: {word}}}")
        assert faults_of(f"train: {{seed: {word}}}")

    def test_quoted_numbers_are_no_whole_numbers(self):
        assert faults_of("train: {batch_size: '4'}")

    @pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "nan", "inf"])
    def test_numbers_that_are_not_finite_are_refused(self, text: str):
        assert faults_of(f"train: {{lr: {text}}}")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("features: {mel: {fmax: 13000}}", "features.mel.fmax"),
        ("features: {mel: {fmin: 12000}}", "features.mel.fmin"),
        ("features: {mel: {win_length: 2048}}", "features.mel.win_length"),
        ("features: {mel: {hop_length: 2048}}", "features.mel.hop_length"),
        ("features: {mcep: {f0_floor: 900}}", "features.mcep.f0_floor"),
        ("features: {target: mcep}", "features.target"),
        ("model: {width: 385}", "model.width"),
        ("model: {width: 96, n_heads: 5}", "model.width"),
        ("model: {encoder_kernel: 4}", "model.encoder_kernel"),
    ],
)
def test_values_that_contradict_each_other_are_refused(text: str, where: str):
    assert any(fault.startswith(f"{where}:") for fault in faults_of(text))


def test_presets_parse_and_carry_their_names():
    assert preset_names() == ["content", "hificaptain", "small", "vocoder"]
    for name in preset_names():
        assert read_preset(name).name == name


def test_the_published_preset_has_the_published_sizes():
    config = read_preset("hificaptain")
    mel, model, training = config.features.mel, config.model, config.train
    assert (mel.sample_rate, mel.n_fft, mel.hop_length, mel.n_mels) == (48000, 2048, 512, 80)
    assert (model.width, model.decoder_width, model.n_heads) == (384, 1536, 2)
    assert (model.encoder_layers, model.decoder_layers) == (4, 4)
    assert model.frames_per_token == 4
    assert (training.batch_size * training.accum, training.max_steps, training.lr) == (16, 50000, 8e-5)


def test_an_override_replaces_one_key_and_is_checked():
    config = override(Config(), {"train.batch_size": 4, "model.width": 64})
    assert (config.train.batch_size, config.model.width) == (4, 64)
    assert dataclasses.replace(config, train=Config().train, model=Config().model) == Config()
    with pytest.raises(ConfigError, match=r"command line: train\.lr"):
        override(Config(), {"train.lr": -1.0})


def values_of(kind: Any, limits: typing.Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit an annotation and a range, most of them possible on their own."""
    low, high = limits.get("minimum"), limits.get("maximum")
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if isinstance(kind, types.UnionType):
        return st.one_of(st.none(), *(values_of(k, limits) for k in typing.get_args(kind) if k is not types.NoneType))
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(math.ceil(low or 0), math.floor(high or 10**6))
    if kind is float:
        return st.floats(low or 0.0, high or 1e6, allow_nan=False)
    assert kind is str
    return st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@st.composite
def trees(draw: st.DrawFn, cls: type) -> dict[str, Any]:
    """A mapping with some keys of a section."""
    hints = typing.get_type_hints(cls)
    tree: dict[str, Any] = {}
    for entry in dataclasses.fields(cls):
        if draw(st.integers(0, 3)) != 0:
            continue
        kind = hints[entry.name]
        tree[entry.name] = (
            draw(trees(kind)) if dataclasses.is_dataclass(kind) else draw(values_of(kind, entry.metadata))
        )
    return tree


@settings(max_examples=150, deadline=None)
@given(tree=trees(Config))
def test_a_configuration_survives_being_written_and_read(tree: dict[str, Any]):
    try:
        config = parse_config(tree, "drawn")
    except ConfigError:
        assume(False)
    assert parse(dump_yaml(config)) == config
    assert parse_config(to_tree(config), "tree") == config


@pytest.mark.parametrize("cls", SECTIONS)
def test_every_default_is_possible(cls: type):
    assert cls().faults() == [] if hasattr(cls, "faults") else cls()
    for entry in dataclasses.fields(cls):
        default = getattr(cls(), entry.name)
        low, high = entry.metadata.get("minimum"), entry.metadata.get("maximum")
        if default is not None and low is not None:
            assert default >= low
        if default is not None and high is not None:
            assert default <= high
