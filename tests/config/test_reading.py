"""The configuration: strict, complete about its faults, and stable through YAML."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aasvc_cli.config.reading import (
    dump_yaml,
    from_tree,
    override,
    parse_config,
    preset_names,
    read_preset,
    to_tree,
)
from aasvc_cli.config.settings import Config
from aasvc_cli.config.yaml_files import read_config_file, read_yaml
from aasvc_cli.errors import ConfigError
from tests.examples import examples


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
    assert sorted(fault.split(":")[0] for fault in faults) == [
        "colour",
        "features.mel.n_mel",
        "features.mel.sample_rate",
        "features.source",
        "model.mask_padding",
        "model.width",
        "train.batch_size",
        "train.lr",
    ]


def test_a_fault_says_what_was_found_and_what_was_expected():
    (fault,) = faults_of("train: {batch_size: many}")
    assert fault == "train.batch_size: should be a valid integer, found 'many'"
    (fault,) = faults_of("train: {max_steps: 0}")
    assert fault == "train.max_steps: should be greater than or equal to 1, found 0"
    (fault,) = faults_of("model: {encoder_dropout: 1.5}")
    assert "less than or equal to 0.95, found 1.5" in fault
    (fault,) = faults_of("loss: {prior: flat}")
    assert fault == "loss.prior: should be 'published', 'beta-binomial', 'content' or 'none', found 'flat'"


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


class TestYaml:
    """PyYAML reads YAML 1.1, where 010 is 8, 1:30 is 90, 1_0 is 10, dates are dates and 8e-5 is text."""

    def test_what_yaml_1_2_calls_a_number_is_one(self):
        tree = read_yaml(
            "[0, -7, +3, 1.5, .5, 8e-5, 1E3, -2.e+1, .inf, 1., 12345678901234567890]".join(("x: ", "")), "x"
        )
        assert tree["x"] == [0, -7, 3, 1.5, 0.5, 8e-5, 1000.0, -20.0, math.inf, 1.0, 12345678901234567890]

    @pytest.mark.parametrize("text", ["010", "007", "1:30", "1_0", "0x10", "0o10", "2024-01-01", "1e", "--1", "0b1"])
    def test_what_looks_like_a_number_and_is_none_stays_as_it_is_written(self, text: str):
        assert read_yaml(f"x: {text}", "x") == {"x": text}
        assert faults_of(f"train: {{batch_size: {text}}}") == (
            f"train.batch_size: should be a valid integer, found '{text}'",
        )

    @pytest.mark.parametrize("text", ["010", "0.50", "1e3", "1:30", "12", "2024-01-01", "1.10"])
    def test_below_options_numbers_stay_as_they_are_written(self, text: str):
        tree = read_yaml(f"options: {{tag: {text}, train: {{tag: {text}}}, many: [{text}, yes]}}", "x")
        assert tree == {"options": {"tag": text, "train": {"tag": text}, "many": [text, True]}}

    def test_numbers_as_text_are_floats_but_no_whole_numbers(self):
        assert parse("train: {lr: '8e-5'}").train.lr == 8e-5
        assert faults_of("train: {batch_size: '4'}")

    def test_a_whole_number_is_a_float_where_a_float_is_expected(self):
        assert parse("train: {grad_norm: 2}").train.grad_norm == 2.0
        assert isinstance(parse("train: {grad_norm: 2}").train.grad_norm, float)

    @pytest.mark.parametrize("word", ["no", "on", "yes", "off"])
    def test_words_that_become_booleans_are_refused_where_text_or_numbers_are_meant(self, word: str):
        assert faults_of(f"train: {{device: {word}}}") == (
            f"train.device: should be a valid string, found {word in ('on', 'yes')}",
        )
        assert faults_of(f"train: {{lr: {word}}}")
        assert faults_of(f"train: {{seed: {word}}}")

    @pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "nan", "inf"])
    def test_numbers_that_are_not_finite_are_refused(self, text: str):
        assert faults_of(f"train: {{lr: {text}}}")

    @pytest.mark.parametrize("text", [f"1{'0' * 400}", f"1{'0' * 5000}", "1e400", "1000000001"])
    @pytest.mark.parametrize("key", ["batch_size", "seed", "max_frames"])
    def test_numbers_that_are_too_large_are_refused_in_one_line(self, text: str, key: str):
        assert len("".join(faults_of(f"train: {{{key}: {text}}}"))) < 400

    def test_keys_given_twice_are_all_refused_with_their_lines(self):
        assert faults_of("train:\n  lr: 1\nmodel:\n  width: 64\n  width: 32\ntrain: {}\n") == (
            "train: given twice, in lines 1 and 6",
            "width: given twice, in lines 4 and 5",
        )
        assert faults_of("train: {seed: 1, 'seed': 2}") == ("seed: given twice, in line 1",)
        assert parse("loss: &a {prior: none}\naugment: {<<: {}, share: 0.5}").augment.share == 0.5

    @pytest.mark.parametrize(
        "text",
        ["%FOO", "? ", "!!int x: 1", "!!int {}", "!!float ''", "a: !!int ''", "!!timestamp x", "a: !!bool maybe",
         "!!binary é", "&a [*a]", "a: &a {b: *a}", "*nobody", "[" * 1000, "{" * 1000, "a: \x00",
         "!!pairs {a: b}", "? {a: 1}\n: 2"],
    )  # fmt: skip
    def test_whatever_the_yaml_library_raises_is_an_error_of_the_configuration(self, text: str):
        with pytest.raises(ConfigError, match=r"^test\.yaml: ") as caught:
            parse(text)
        assert len(str(caught.value)) < 1000

    def test_aliases_that_expand_to_much_are_refused_at_once(self):
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
        )
        assert len(bomb) < 700
        with pytest.raises(ConfigError, match="more than 10000 values") as caught:
            parse(bomb)
        assert len(str(caught.value)) < 200

    def test_a_file_of_any_size_is_refused_quickly_and_a_message_is_bounded(self, tmp_path: Path):
        path = tmp_path / "large.yaml"
        path.write_text("train: {batch_size: 1}\n" + "#" * (1 << 20))
        with pytest.raises(ConfigError, match="larger than 256 KiB"):
            read_config_file(path)
        long = "z" * 50_000
        for text in (f"train: {{lr: {long}}}", f"train: [{long}, {long}]", f"{long}: 1", f"train: {{memory: {long}}}"):
            assert len(faults_of(text)) == 1
            assert len(faults_of(text)[0]) < 310
        many = faults_of("\n".join(f"key{n}: 1" for n in range(1000)))
        assert len(many) == 51
        assert many[-1] == "and 950 more"


def test_types_and_contradictions_are_reported_together():
    assert faults_of("train: {lr: hot}\nmodel: {width: 385}\nfeatures: {mel: {fmin: -1, n_fft: 33}}") == (
        "features.mel.fmin: should be greater than or equal to 0, found -1",
        "train.lr: should be a valid number, found 'hot'",
        "model.width: 385 is not divisible by n_heads 2",
        "model.width: 385 is odd; positional encoding needs an even width",
    )


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


def limits_of(metadata: typing.Iterable[Any]) -> dict[str, Any]:
    """Bounds among what an annotation says besides the type."""
    return {name: getattr(each, name) for each in metadata for name in ("ge", "le") if hasattr(each, name)}


def values_of(kind: Any, limits: typing.Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit an annotation and a range, most of them possible on their own."""
    low, high = limits.get("ge"), limits.get("le")
    if typing.get_origin(kind) is typing.Annotated:
        inner, *metadata = typing.get_args(kind)
        return values_of(inner, limits_of(metadata))
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return st.one_of(st.none(), *(values_of(k, limits) for k in typing.get_args(kind) if k is not types.NoneType))
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(math.ceil(low or 0), math.floor(min(high or 10**6, 10**6)))
    if kind is float:
        return st.floats(low or 0.0, high or 1e6, allow_nan=False)
    assert kind is str
    return st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@st.composite
def trees(draw: st.DrawFn, cls: type) -> dict[str, Any]:
    """A mapping with some keys of a section."""
    tree: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if name.startswith("_") or draw(st.integers(0, 3)) != 0:
            continue
        tree[name] = draw(trees(kind)) if dataclasses.is_dataclass(kind) else draw(values_of(kind, {}))
    return tree


@examples(150)
@given(tree=trees(Config))
def test_a_configuration_survives_being_written_and_read(tree: dict[str, Any]):
    try:
        config = parse_config(tree, "drawn")
    except ConfigError:
        assume(False)
    assert parse(dump_yaml(config)) == config
    assert parse_config(to_tree(config), "tree") == config
    assert from_tree(Config, json.loads(json.dumps(to_tree(config)))) == config


def test_a_tree_of_something_else_is_no_configuration():
    for tree in ({"nmae": "x"}, {"model": 3}, ["model"]):
        with pytest.raises((TypeError, AttributeError)):
            from_tree(Config, tree)


def test_settings_are_held_without_the_library_that_checks_them():
    code = (
        "import sys; from aasvc_cli.config.reading import from_tree; from aasvc_cli.config.settings import Config; "
        "from_tree(Config, {'model': {'width': 16}}); assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_default_is_possible():
    assert parse_config(to_tree(Config()), "defaults") == Config()
