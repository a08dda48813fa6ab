"""Voices are found by name, loaded from our own and the published form, and refused if a part is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from aasvc_cli.errors import AasvcError, DataError, ModelError
from aasvc_cli.storage.cache import Home
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.voice import find_voice, load_voice, pick_device
from tests.voices import plain_stats, tiny_config, write_voice


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_voice(tmp_path / "voice", tiny_config())


class TestFind:
    @pytest.fixture(autouse=True)
    def runs(self, home: Home) -> None:
        for name in ("male_female_first", "male_female_second", "anna_bert_second", "male_female_second_try"):
            (home.exp / name).mkdir(parents=True)

    @pytest.mark.parametrize(
        ("name", "run"),
        [
            ("male_female_second", "male_female_second"),
            ("first", "male_female_first"),
            ("bert_second", "anna_bert_second"),
            ("second_try", "male_female_second_try"),
        ],
    )
    def test_a_run_by_its_name_or_tag(self, home: Home, name: str, run: str):
        assert find_voice(home, name) == home.exp / run

    def test_a_tag_of_several_runs_lists_them(self, home: Home):
        with pytest.raises(ModelError, match=r"anna_bert_second, male_female_second; give the full name"):
            find_voice(home, "second")

    def test_a_folder_anywhere(self, home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch):
        assert find_voice(home, folder) == find_voice(home, str(folder)) == folder
        monkeypatch.chdir(folder.parent)
        assert find_voice(home, "voice") == Path("voice")
        (folder.parent / "first").mkdir()
        assert find_voice(home, "first") == home.exp / "male_female_first"
        assert find_voice(home, "./first") == Path("first")

    @pytest.mark.parametrize(("name", "near"), [("frist", "first"), ("male_female_firts", "male_female_first")])
    def test_a_misspelt_name_suggests_the_nearest(self, home: Home, name: str, near: str):
        with pytest.raises(ModelError, match=rf"{name}: no such model.*did you mean {near}\?"):
            find_voice(home, name)

    def test_a_strange_name_lists_what_there_is(self, home: Home):
        with pytest.raises(ModelError, match="there is: anna_bert_second, male_female_first"):
            find_voice(home, "xyz")

    def test_without_runs_it_says_how_to_make_one(self, tmp_path: Path):
        with pytest.raises(ModelError, match="aasvc train"):
            find_voice(Home(tmp_path / "empty"), "xyz")

    @pytest.mark.parametrize("name", ["", "missing/voice"])
    def test_no_such_folder(self, home: Home, name: str):
        with pytest.raises(ModelError, match="no such model"):
            find_voice(home, name)

    def test_a_file_is_no_folder(self, home: Home, folder: Path):
        with pytest.raises(ModelError, match="is a file"):
            find_voice(home, folder / "config.yaml")

    def test_no_name_is_the_bundled_voice(self, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("aasvc_cli.voice.bundled", lambda name: tmp_path / name)
        with pytest.raises(ModelError, match="--model"):
            find_voice(home)
        (tmp_path / "voice").mkdir()
        assert find_voice(home) == tmp_path / "voice"


class TestLoad:
    def test_the_weights_of_the_folder_are_those_of_the_model(self, folder: Path):
        voice = load_voice(folder)
        saved, _ = load_checkpoint(folder / "best.safetensors")
        for name, tensor in voice.model.state_dict().items():
            assert torch.equal(tensor, saved[f"model.{name}"]), name
        assert voice.name == "voice"
        assert not voice.model.training
        assert voice.config == tiny_config()
        assert np.array_equal(voice.stats.target.mean, plain_stats(voice.config).target.mean)

    def test_loading_draws_no_random_numbers(self, folder: Path):
        state = torch.get_rng_state()
        load_voice(folder)
        assert torch.equal(torch.get_rng_state(), state)

    def test_half_precision_on_disk_is_single_in_memory(self, tmp_path: Path):
        voice = load_voice(write_voice(tmp_path / "half", tiny_config(), dtype=torch.float16))
        assert {parameter.dtype for parameter in voice.model.parameters()} == {torch.float32}

    def test_the_best_weights_come_first_and_the_last_ones_will_do(self, folder: Path):
        tensors, _ = load_checkpoint(folder / "best.safetensors")
        name = "model.output.bias"
        save_checkpoint(
            folder / "last.safetensors",
            tensors | {name: tensors[name] + 1, "optimizer.output.bias.exp_avg": tensors[name]},
            {},
        )
        assert torch.equal(load_voice(folder).model.output.bias, tensors[name])
        (folder / "best.safetensors").unlink()
        assert torch.equal(load_voice(folder).model.output.bias, tensors[name] + 1)

    def test_a_moved_folder_still_works(self, folder: Path, tmp_path: Path):
        shutil.move(folder, tmp_path / "elsewhere")
        assert load_voice(tmp_path / "elsewhere").name == "elsewhere"

    @pytest.mark.parametrize("name", ["config.yaml", "stats.json", "best.safetensors"])
    def test_a_missing_part_is_named(self, folder: Path, name: str):
        (folder / name).unlink()
        with pytest.raises(ModelError, match=f"{folder}.*{name}"):
            load_voice(folder)

    def test_a_missing_folder(self, tmp_path: Path):
        with pytest.raises(ModelError, match="no such model folder"):
            load_voice(tmp_path / "nothing")

    @pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99])
    def test_truncated_weights_are_refused(self, folder: Path, kept: float):
        path = folder / "best.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
        with pytest.raises(ModelError, match=str(path)):
            load_voice(folder)

    def test_weights_of_another_model_are_summed_up_in_one_line(self, folder: Path, tmp_path: Path):
        other = write_voice(tmp_path / "other", tiny_config(width=32, encoder_layers=2))
        shutil.copy(other / "best.safetensors", folder)
        with pytest.raises(ModelError, match=r"\d+ unexpected \(first: encoder.*\d+ of another shape") as caught:
            load_voice(folder)
        assert "\n" not in str(caught.value)

    def test_missing_tensors_are_counted(self, folder: Path):
        tensors, _ = load_checkpoint(folder / "best.safetensors")
        for name in ("model.output.weight", "model.output.bias"):
            del tensors[name]
        save_checkpoint(folder / "best.safetensors", tensors, {})
        with pytest.raises(ModelError, match=r"2 missing \(first: output\.weight\)"):
            load_voice(folder)

    def test_weights_that_are_not_numbers_are_refused(self, folder: Path):
        tensors, _ = load_checkpoint(folder / "best.safetensors")
        tensors["model.output.bias"][3] = float("nan")
        save_checkpoint(folder / "best.safetensors", tensors, {})
        with pytest.raises(ModelError, match="output.bias"):
            load_voice(folder)

    def test_statistics_of_other_features_are_refused(self, folder: Path):
        tree = json.loads((folder / "stats.json").read_text())
        tree["target"]["key"] = "0" * 12
        (folder / "stats.json").write_text(json.dumps(tree))
        with pytest.raises(ModelError, match="target statistics"):
            load_voice(folder)

    def test_statistics_of_another_width_are_refused(self, folder: Path):
        tree = json.loads((folder / "stats.json").read_text())
        tree["source"]["mean"].append(0.0)
        tree["source"]["scale"].append(1.0)
        (folder / "stats.json").write_text(json.dumps(tree))
        with pytest.raises(ModelError, match="21 dimensions.*20"):
            load_voice(folder)

    @pytest.mark.parametrize("name", ["config.yaml", "stats.json"])
    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
    def test_settings_that_are_something_else_are_refused(self, folder: Path, name: str, content: bytes):
        (folder / name).write_bytes(content)
        with pytest.raises(AasvcError, match=str(folder)):
            load_voice(folder)

    @pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta:x"])
    def test_a_device_that_is_not_there(self, folder: Path, device: str):
        with pytest.raises(ModelError, match=f"--device {device}"):
            load_voice(folder, device)

    def test_the_automatic_device_can_compute(self):
        assert torch.ones(2, device=pick_device("auto")).sum() == 2


class TestPublished:
    def test_it_needs_the_source_statistics(self, data: Path):
        with pytest.raises(ModelError, match="--source-stats"):
            load_voice(data / "aasvc-stochastic")

    def test_with_them_it_is_a_voice(self, data: Path):
        voice = load_voice(data / "aasvc-stochastic", source_stats=data / "source_stats.h5")
        with h5py.File(data / "source_stats.h5") as source, h5py.File(data / "aasvc-stochastic" / "stats.h5") as target:
            assert np.array_equal(voice.stats.source.mean, source["mel_mean"])
            assert np.array_equal(voice.stats.duration.scale, source["mel_scale"])
            assert np.array_equal(voice.stats.target.mean, target["mel_mean"])
        assert voice.config.features.mel.n_fft == 1024

    def test_source_statistics_of_ours(self, data: Path, tmp_path: Path):
        config = load_voice(data / "aasvc-stochastic", source_stats=data / "source_stats.h5").config
        stats = plain_stats(config)
        path = tmp_path / "stats.json"
        path.write_text(json.dumps(stats.to_tree()))
        voice = load_voice(data / "aasvc-stochastic", source_stats=path)
        assert np.array_equal(voice.stats.source.mean, stats.source.mean)
        assert not np.array_equal(voice.stats.target.mean, stats.target.mean)

    def test_source_statistics_replace_those_of_a_folder_of_ours(self, folder: Path, tmp_path: Path):
        path = tmp_path / "stats.h5"
        with h5py.File(path, "w") as stream:
            stream["mel_mean"], stream["mel_scale"] = np.full(20, 7.0), np.full(20, 2.0)
        voice = load_voice(folder, source_stats=path)
        assert (voice.stats.source.mean == 7).all()
        assert np.array_equal(voice.stats.target.mean, plain_stats(voice.config).target.mean)

    def test_source_statistics_that_do_not_fit_are_refused(self, data: Path, tmp_path: Path):
        published = data / "aasvc-stochastic"
        with pytest.raises(ModelError, match="no such file"):
            load_voice(published, source_stats=tmp_path / "missing.h5")
        (tmp_path / "other.json").write_text(json.dumps(plain_stats(tiny_config()).to_tree()))
        with pytest.raises(ModelError, match="other settings"):
            load_voice(published, source_stats=tmp_path / "other.json")
        (tmp_path / "text.h5").write_text("no numbers")
        with pytest.raises(ModelError, match="HDF5"):
            load_voice(published, source_stats=tmp_path / "text.h5")
        for values, message in ((np.ones(3), "3 dimensions"), (np.zeros(80), "above zero")):
            path = tmp_path / f"{len(values)}.h5"
            with h5py.File(path, "w") as stream:
                stream["mel_mean"] = stream["mel_scale"] = values
            with pytest.raises((ModelError, DataError), match=message):
                load_voice(published, source_stats=path)
