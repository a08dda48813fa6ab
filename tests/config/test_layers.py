"""Where options and settings come from: flags, variables, ``--conf``, the project's file, the user's file, presets."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from aasvc_cli import cli
from aasvc_cli.config.layers import CONFIG_VARIABLE, Layer, Origin, combine, flatten, preset_layer, user_file
from aasvc_cli.config.reading import (
    dump_yaml,
    parse_config,
    preset_names,
    preset_tree,
    read_preset,
    to_tree,
)
from aasvc_cli.config.schema import config_schema
from aasvc_cli.config.settings import Config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.errors import ConfigError
from aasvc_cli.features.kinds import model_kinds, with_widths
from aasvc_cli.storage.home import HOME_VARIABLE, Home
from tests.voices import tiny_config, write_voice

Aasvc = Callable[..., Any]
PLACES = ["user", "project", "conf", "environment", "flag"]
"""From the weakest to the strongest."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of this test."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings file of this test; nothing in it yet."""
    path = tmp_path / "user.yaml"
    path.write_text("")
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    return path


def shown(aasvc: Aasvc, *arguments: object) -> dict[str, Any]:
    """What --print-config says, as JSON."""
    outcome = aasvc("train", "--print-config", "--json", "-", *arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    return json.loads(outcome.out)


class TestPrecedence:
    def test_of_all_places_that_say_something_the_strongest_wins(
        self, aasvc: Aasvc, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
    ):
        values = {place: 11 + index for index, place in enumerate(PLACES)}
        expected = {
            "user": ("file", str(user), values["user"]),
            "project": ("file", "aasvc.yaml", values["project"]),
            "conf": ("conf", "mine.yaml", values["conf"]),
            "environment": ("environment", "AASVC_BATCH_SIZE", values["environment"]),
            "flag": ("flag", "--batch-size", values["flag"]),
        }
        (project / "mine.yaml").write_text(f"train: {{batch_size: {values['conf']}}}")
        for places in [places for n in range(6) for places in itertools.combinations(PLACES, n)]:
            user.write_text(f"train: {{batch_size: {values['user']}}}" if "user" in places else "")
            of_project = f"train: {{batch_size: {values['project']}}}" if "project" in places else ""
            (project / "aasvc.yaml").write_text(of_project)
            arguments: list[object] = ["--conf", "mine.yaml"] if "conf" in places else []
            arguments += ["--batch-size", values["flag"]] if "flag" in places else []
            with monkeypatch.context() as variables:
                if "environment" in places:
                    variables.setenv("AASVC_BATCH_SIZE", str(values["environment"]))
                found = shown(aasvc, *arguments)
            origin, value = found["origins"]["train.batch_size"], found["config"]["train"]["batch_size"]
            default = ("preset", "small", read_preset("small").train.batch_size)
            assert (origin["kind"], origin["place"], value) == (expected[places[-1]] if places else default), places

    def test_keys_that_one_place_leaves_out_come_from_the_next(self, aasvc: Aasvc, project: Path, user: Path):
        user.write_text("train: {lr: 0.5, accum: 3}\nmodel: {width: 64}")
        (project / "aasvc.yaml").write_text("train: {lr: 0.25}")
        (project / "mine.yaml").write_text("loss: {align_weight: 4}")
        found = shown(aasvc, "--conf", "mine.yaml", "--seed", 9)
        config, origins = found["config"], found["origins"]
        assert (config["train"]["lr"], config["train"]["accum"], config["train"]["seed"]) == (0.25, 3, 9)
        assert (config["model"]["width"], config["loss"]["align_weight"]) == (64, 4.0)
        assert config["model"]["n_heads"] == Config().model.n_heads
        assert origins["model.n_heads"] == {"kind": "default", "place": ""}
        assert origins["train.accum"]["place"] == str(user)

    def test_a_conf_that_a_file_names_is_a_base_that_the_file_changes(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text("options: {conf: hificaptain}\ntrain: {batch_size: 3}")
        config = shown(aasvc)["config"]
        assert config["features"]["mel"]["sample_rate"] == 48000
        assert config["train"]["batch_size"] == 3
        # on the command line it beats the file instead
        (project / "mine.yaml").write_text("train: {batch_size: 5}")
        assert shown(aasvc, "--conf", "mine.yaml")["config"]["train"]["batch_size"] == 5

    def test_an_option_in_a_file_is_as_strong_as_the_file(self, aasvc: Aasvc, project: Path, user: Path):
        user.write_text("train: {batch_size: 3}")
        (project / "aasvc.yaml").write_text("options: {batch-size: 4}")
        assert shown(aasvc)["config"]["train"]["batch_size"] == 4
        (project / "mine.yaml").write_text("train: {batch_size: 5}")
        assert shown(aasvc, "--conf", "mine.yaml")["config"]["train"]["batch_size"] == 5

    def test_the_settings_of_a_prepared_set_hold_where_nothing_is_said(
        self, aasvc: Aasvc, trained: Home, project: Path
    ):
        (project / "aasvc.yaml").write_text("train: {accum: 2}")
        found = shown(aasvc)
        assert found["config"]["model"]["width"] == 16
        assert found["origins"]["model.width"] == {"kind": "prepared", "place": "male_female"}
        assert found["origins"]["train.accum"] == {"kind": "file", "place": "aasvc.yaml"}

    def test_training_uses_what_is_shown(self, aasvc: Aasvc, trained: Home, project: Path):
        (project / "aasvc.yaml").write_text("options: {train: {tag: mine}}\ntrain: {lr: 0.002}")
        expected = with_widths(parse_config(shown(aasvc)["config"], "shown"))
        outcome = aasvc("train")
        assert outcome.code == 0, outcome.err
        written = yaml.safe_load((trained.exp / "male_female_mine" / "config.yaml").read_text())
        assert parse_config(written, "written") == expected
        assert expected.train.lr == 0.002


class TestVariables:
    def every_option(self) -> list[tuple[str, Any]]:
        group = typer.main.get_command(cli.app)
        return [
            (name, option)
            for name, command in group.commands.items()  # type: ignore[attr-defined]
            for option in command.params
            if option.param_type_name == "option" and option.expose_value
        ]

    def test_every_option_of_every_command_is_read_from_its_variable(self, monkeypatch: pytest.MonkeyPatch):
        given = {str: "text", int: "7", float: "0.5", bool: "1", Path: "some/path"}
        commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
        for command, option in self.every_option():
            kind = option.type_descriptor.annotation
            if option.multiple:
                (kind,) = get_args(kind)
            value = given[kind] if kind in given else str(next(iter(kind)))
            if option.name == "batch_size":
                value = "7"  # or auto
            if option.min is not None and float(value) < option.min:
                value = str(option.min)
            named = max((name for name in option.opts if name.startswith("--")), key=len).lstrip("-")
            for variable in (f"AASVC_{named}", f"AASVC_{command}_{named}"):
                variable = variable.upper().replace("-", "_")
                with monkeypatch.context() as patch:
                    patch.setenv(variable, value)
                    if (command, option.name) == ("convert", "data"):
                        patch.setenv("AASVC_SET", "dev")  # without it, --data means nothing
                    asked = commands[command]
                    words = ["x" for param in asked.params if param.required]
                    parsed = asked.make_context(command, words).params
                expected = {bool: True}.get(kind) or kind(value)
                assert parsed[option.name] == ([expected] if option.multiple else expected), variable

    def test_the_one_of_a_command_beats_the_one_for_all(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AASVC_SEED", "3")
        monkeypatch.setenv("AASVC_TRAIN_SEED", "4")
        found = shown(aasvc)
        assert found["config"]["train"]["seed"] == 4
        assert found["origins"]["train.seed"] == {"kind": "environment", "place": "AASVC_TRAIN_SEED"}

    def test_a_wrong_value_names_the_variable(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AASVC_BATCH_SIZE", "many")
        outcome = aasvc("train")
        assert outcome.code == 2
        assert "AASVC_BATCH_SIZE" in outcome.err
        assert outcome.err.count("\n") == 1

    def test_what_stands_on_the_command_line_is_not_contradicted_by_a_variable(
        self, aasvc: Aasvc, trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
    ):
        monkeypatch.setenv("AASVC_OUT_DIR", str(tmp_path / "never"))
        monkeypatch.setenv("AASVC_DATA", "male_female")
        monkeypatch.setenv("AASVC_SET", "eval")
        outcome = aasvc("convert", data / "male.flac", "-o", tmp_path / "out.wav", "--model", "tiny")
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "out.wav").is_file()
        assert not (tmp_path / "never").exists()
        outcome = aasvc("convert", "--set", "dev", "--model", "tiny")
        assert outcome.code == 0, outcome.err
        # two on the command line still are
        assert aasvc("convert", data / "male.flac", "--set", "dev", "--model", "tiny").code == 2

    @pytest.mark.parametrize("place", ["AASVC_MODEL", "AASVC_EVALUATE_MODEL", "file"])
    def test_runs_that_are_named_to_be_scored_take_the_place_of_the_usual_model(
        self, aasvc: Aasvc, project: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ):
        if place == "file":
            (project / "aasvc.yaml").write_text("options: {model: usual}\n")
        else:
            monkeypatch.setenv(place, "usual")
        outcome = aasvc("evaluate", "first", "second")
        assert outcome.code == 1 and "first" in outcome.err and "usual" not in outcome.err
        assert aasvc("evaluate", "first", "--model", "second").code == 2


class TestMisspelt:
    def test_a_variable_that_sets_nothing_is_named_with_the_nearest_that_does(
        self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("AASVC_BATCHSIZE", "7")
        monkeypatch.setenv("AASVC_SEED", "3")
        outcome = aasvc("train", "--conf", "small", "--print-config")
        assert outcome.code == 0
        assert outcome.err == "warning: the variable AASVC_BATCHSIZE sets nothing; did you mean AASVC_BATCH_SIZE?\n"

    @pytest.mark.parametrize("command", ["prepare", "stats", "convert", "evaluate"])
    def test_every_command_says_so(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch, command: str):
        monkeypatch.setenv("AASVC_NONSENSE_OF_OTHERS", "7")
        assert (
            "warning: the variable AASVC_NONSENSE_OF_OTHERS sets nothing"
            in aasvc(command, *{"convert": ["x.wav"]}.get(command, [])).err
        )


class TestTilde:
    """Shells expand ~ only at the beginning of a word."""

    @pytest.fixture
    def me(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The user's home folder."""
        for name in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(name, str(tmp_path / "me"))
        return tmp_path / "me"

    @pytest.mark.parametrize("place", ["flag", "file", "environment"])
    def test_it_means_the_home_folder_in_every_option_that_takes_a_path(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, me: Path, place: str
    ):
        monkeypatch.delenv(HOME_VARIABLE)
        for command, options in {
            "convert": ("out-dir", "output", "json", "model"), "evaluate": ("csv", "report", "source"),
            "prepare": ("dev",), "train": ("conf",), None: ("home",),
        }.items():  # fmt: skip
            for option in options:
                (project / "aasvc.yaml").write_text(f"options: {{{option}: ~/x}}" if place == "file" else "")
                cli.output.settings.begin(debug=False)
                group: Any = typer.main.get_command(cli.app)
                running = group.commands[command] if command else group
                arguments = [f"--{option}=~/x"] if place == "flag" else []
                with monkeypatch.context() as variables:
                    if place == "environment":
                        variables.setenv(f"AASVC_{option.upper().replace('-', '_')}", "~/x")
                    parsed = running.make_context("x", arguments, resilient_parsing=command is None).params
                name = next(each.name for each in running.params if f"--{option}" in each.opts)
                assert str(parsed[name]) == str(me / "x"), option

    def test_it_means_nothing_elsewhere(self, me: Path):
        group: Any = typer.main.get_command(cli.app)
        parsed = group.commands["train"].make_context("train", ["--tag=~x", "--conf=a/~/b"]).params
        assert (parsed["tag"], parsed["conf"]) == ("~x", "a/~/b")


class TestFiles:
    @pytest.mark.parametrize("place", ["project", "user"])
    def test_faults_are_errors_that_name_the_file_and_the_key(
        self, aasvc: Aasvc, project: Path, user: Path, place: str
    ):
        path = user if place == "user" else project / "aasvc.yaml"
        for text, message in {
            "train: {bach_size: 2}": "train.bach_size: unknown key; did you mean batch_size?",
            "optons: {device: cpu}": "optons: unknown key; did you mean options?",
            "train: {lr: fast, accum: 0}": "train.accum: should be greater",
            "options: [1]": "options: expected a mapping",
            "options: {batchsize: 2}": "options.batchsize: no such option; did you mean batch-size?",
            "options: {train: {tga: x}}": "options.train.tga: no such option; did you mean tag?",
            "options: {convert: {tag: x}}": "options.convert.tag: no such option",
            "options: {tag: [a, b]}": "options.tag: expected one value, found several",
            "[1, 2]": "expected a mapping",
            "train: {lr: [": "not valid YAML",
        }.items():
            path.write_text(text)
            for command in (["stats"], ["train"], ["convert", "a.wav", "-o", "b.wav"]):
                outcome = aasvc(*command)
                assert (outcome.code, outcome.out) == (1, "")
                assert outcome.err.startswith(f"aasvc: error: {path if place == 'user' else 'aasvc.yaml'}: ")
                assert message in outcome.err
                assert outcome.err.count("\n") == 1

    def test_a_wrong_value_of_an_option_names_the_file(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text("options: {speed: fast}")
        outcome = aasvc("convert", "a.wav", "-o", "b.wav")
        assert outcome.code == 2
        assert "options.speed in aasvc.yaml" in outcome.err

    def test_values_that_are_impossible_together_name_the_files(self, aasvc: Aasvc, project: Path, user: Path):
        user.write_text("model: {width: 30}")
        (project / "aasvc.yaml").write_text("model: {n_heads: 4}")
        outcome = aasvc("train", "--print-config")
        assert outcome.code == 1
        assert str(user) in outcome.err
        assert "aasvc.yaml" in outcome.err
        assert "model.width: 30 is not divisible" in outcome.err

    def test_help_and_version_work_with_a_faulty_file(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text("nonsense: 1")
        assert aasvc("--help").code == 0
        assert aasvc("train", "--help").code == 0
        assert aasvc("--version").code == 0

    def test_options_for_one_command_beat_those_for_all(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text("options: {seed: 3, train: {seed: 4}}")
        assert shown(aasvc)["config"]["train"]["seed"] == 4

    def test_names_may_have_dashes_or_underscores_and_flags_may_be_switched(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text(
            "options: {batch_size: 3, max-steps: 5, checkpointing: true, overwrite: yes}"
        )
        found = shown(aasvc)
        train = found["config"]["train"]
        assert (train["batch_size"], train["max_steps"], train["checkpointing"]) == (3, 5, True)
        assert found["options"]["overwrite"] == {"value": True, "kind": "file", "place": "aasvc.yaml"}

    def test_the_data_folder_may_stand_in_a_file(self, aasvc: Aasvc, user: Path, tmp_path: Path, monkeypatch: Any):
        monkeypatch.delenv("AASVC_HOME")
        user.write_text(f"options: {{home: '{tmp_path / 'elsewhere'}'}}")
        outcome = aasvc("stats")
        assert str(tmp_path / "elsewhere") in outcome.err

    def test_help_shows_a_default_that_a_file_sets(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text("options: {batch-size: 12}")
        text = " ".join(aasvc("train", "-h").out.split())
        assert "it fills the memory. [default: 12, from aasvc.yaml]" in text

    def test_the_users_file_is_found_in_the_platforms_place(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.delenv(CONFIG_VARIABLE)
        place = tmp_path / "config" / "aasvc"
        monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: place)
        assert user_file() is None
        place.mkdir(parents=True)
        (place / "config.yaml").write_text("")
        assert user_file() == place / "config.yaml"
        monkeypatch.setenv(CONFIG_VARIABLE, "")
        assert user_file() is None

    def test_a_users_file_that_is_named_must_be_there(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(CONFIG_VARIABLE, "nowhere.yaml")
        outcome = aasvc("stats")
        assert outcome.code == 1
        assert "AASVC_CONFIG=nowhere.yaml: no such file" in outcome.err

    def test_verbose_names_the_files(self, aasvc: Aasvc, project: Path):
        (project / "aasvc.yaml").write_text("train: {accum: 2}")
        assert "settings: aasvc.yaml" in aasvc("-v", "stats").err
        assert "settings:" not in aasvc("stats").err


class TestShownConfiguration:
    def test_the_text_can_be_used_as_a_settings_file(self, aasvc: Aasvc, project: Path):
        outcome = aasvc("train", "--print-config", "--batch-size", 3, "--tag", "mine", "--norm-name", "other")
        assert "  batch_size: 3" in outcome.out
        assert "# --batch-size" in outcome.out
        (project / "aasvc.yaml").write_text(outcome.out, encoding="utf-8")
        again = shown(aasvc)
        assert again["config"]["train"]["batch_size"] == 3
        assert {name: entry["value"] for name, entry in again["options"].items()} == {
            "tag": "mine",
            "norm-name": "other",
        }

    def test_every_value_has_an_origin(self, aasvc: Aasvc):
        found = shown(aasvc, "--conf", "hificaptain")
        assert set(found["origins"]) == {key for key, _ in flatten(found["config"])}
        said = {key for key, _ in flatten(preset_tree("hificaptain"))}
        kinds = {key: origin["kind"] for key, origin in found["origins"].items() if key != "name"}
        assert {key for key, kind in kinds.items() if kind == "conf"} == said - {"name"}
        assert set(kinds.values()) == {"conf", "default"}

    def test_with_init_the_sizes_are_those_of_the_model_as_in_training(
        self, aasvc: Aasvc, trained: Home, project: Path
    ):
        write_voice(trained.exp / "a_b_other", tiny_config(width=48, encoder_hidden=40))
        found = shown(aasvc, "--init", "other", "--tag", "new")
        assert found["config"]["model"]["width"] == 48
        assert found["origins"]["model.width"] == {"kind": "init", "place": "other"}
        assert found["origins"]["train.batch_size"]["kind"] == "prepared"
        assert found["options"]["init"]["value"] == "other"
        outcome = aasvc("train", "--init", "other", "--tag", "new")
        assert outcome.code == 0, outcome.err
        kept = read_config_file(trained.exp / "male_female_new" / "config.yaml")
        assert kept["model"] == found["config"]["model"]
        # --conf says the sizes, too
        assert shown(aasvc, "--init", "other", "--conf", "small")["origins"]["model.width"]["kind"] != "init"
        (project / "aasvc.yaml").write_text("model: {width: 32}")
        assert shown(aasvc, "--init", "other")["origins"]["model.width"] == {"kind": "file", "place": "aasvc.yaml"}

    def test_of_a_vocoder_it_shows_what_follows_from_where_it_begins(self, aasvc: Aasvc, trained: Home):
        options = (["--mels-from", "none"], ["--init", "universal", "--mels-from", "y"], [])
        plain, begun, with_voice = (shown(aasvc, "--kind", "vocoder", *more) for more in options)
        assert plain["origins"]["train.max_steps"] == {"kind": "preset", "place": "vocoder"}
        assert plain["origins"]["features.mel.sample_rate"]["kind"] == "prepared"
        assert plain["config"]["vocoder"]["pitch_steps"] > 0
        assert begun["config"]["vocoder"]["pitch_steps"] == 0
        assert begun["origins"]["vocoder.pitch_steps"] == {"kind": "init", "place": "universal"}
        assert begun["origins"]["train.max_steps"] == {"kind": "init", "place": "universal"}
        assert begun["config"]["vocoder"]["correct_mel"] and not plain["config"]["vocoder"]["correct_mel"]
        assert with_voice["config"]["vocoder"]["correct_mel"]  # there is one of the same set and tag

    def test_a_vocoder_of_the_preset_begins_with_the_universal_one_unless_told_otherwise(self, aasvc: Aasvc):
        adapted, anew = (shown(aasvc, "--kind", "vocoder", *more) for more in ([], ["--init", "none"]))
        assert adapted["origins"]["vocoder.pitch_steps"] == {"kind": "init", "place": "universal"}
        assert anew["origins"]["vocoder.pitch_steps"]["kind"] == "default"
        assert adapted["config"]["train"]["max_steps"] < anew["config"]["train"]["max_steps"]

    def test_it_reads_and_writes_nothing_else(self, aasvc: Aasvc, home: Home, tmp_path: Path):
        shown(aasvc)
        assert not home.root.exists()
        assert aasvc("train", "--print-config", "--data", "nothing").code == 1

    def test_layers_combine_to_what_parsing_gives(self):
        assert combine([preset_layer("small")]).config == read_preset("small")
        assert combine([]).config == Config()
        with pytest.raises(ConfigError, match=r"there: model\.width: 31 is odd|there: model\.width"):
            combine([Layer(Origin("file", "there"), {"model.width": 31})])


SCHEMA = config_schema(model_kinds())


class TestSchema:
    """An editor that knows the schema marks what the program would refuse."""

    @pytest.fixture
    def valid(self) -> Callable[[Any], bool]:
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        return jsonschema.Draft202012Validator(SCHEMA).is_valid

    def test_the_file_beside_the_presets_is_up_to_date(self):
        """Otherwise: aasvc train --print-schema > aasvc_cli/presets/schema.json"""
        path = Path(cli.__file__).parent.parent / "presets" / "schema.json"
        assert json.loads(path.read_text(encoding="utf-8")) == SCHEMA

    def test_it_is_what_the_command_prints(self, aasvc: Aasvc):
        assert json.loads(aasvc("train", "--print-schema").out) == SCHEMA

    def test_the_presets_and_every_complete_configuration_are_valid(self, valid: Callable[[Any], bool]):
        for name in preset_names():
            assert valid(preset_tree(name)), name
            assert valid(yaml.safe_load(dump_yaml(read_preset(name)))), name
        assert valid({**preset_tree("small"), "options": {"device": "cpu"}})
        assert valid({"train": {"lr": 8e-5}})  # which is what YAML 1.2 reads, as editors do

    def test_what_the_program_refuses_is_not_valid(self, valid: Callable[[Any], bool]):
        trees: list[dict[str, Any]] = [
            {"nonsense": 1}, {"train": {"bach_size": 2}}, {"train": {"batch_size": 0}}, {"train": {"batch_size": 1.5}},
            {"train": {"lr": "fast"}}, {"loss": {"prior": "circular"}}, {"features": {"mel": {"n_fft": None}}},
            {"train": []}, {"name": 3}, {"train": {"bucket": "yes"}}, {"model": {"flow_count": 1}},
            {"features": {"source": 1}},
        ]  # fmt: skip
        for tree in trees:
            assert not valid(tree), tree
            with pytest.raises(ConfigError):
                parse_config(tree, "test")
        assert not valid({"options": []})

    def test_every_field_is_in_it_with_its_default_and_note(self):
        properties = dict(flatten(to_tree(Config())))
        whole = SCHEMA
        for key, default in properties.items():
            node = whole
            for part in key.split("."):
                node = node["properties"][part]
                if "$ref" in node:
                    node = whole["$defs"][node["$ref"].rpartition("/")[2]]
            assert node["default"] == default, key
        assert "noise" in whole["$defs"]["ModelConfig"]["properties"]["noise_scale"]["description"]


@pytest.mark.process
@pytest.mark.skipif(importlib.util.find_spec("yaml") is None, reason="needs PyYAML")
def test_without_settings_files_nothing_is_read(tmp_path: Path):
    code = "import sys\nfrom aasvc_cli.cli import run\nrun(['--version'])\nassert 'yaml' not in sys.modules\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, capture_output=True)
