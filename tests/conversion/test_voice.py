"""Voices are found by name, loaded from our own and the published form, and refused if a part is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from aasvc_cli.conversion.voice import find_voice, load_voice, pick_device
from aasvc_cli.data.manifest import Manifest, ParallelPair, write_manifest
from aasvc_cli.errors import AasvcError, DataError, ModelError
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import write_json
from aasvc_cli.storage.home import Home
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
        with pytest.raises(ModelError, match=r"there is: anna_bert_second, male_female_first, .*bundled$"):
            find_voice(home, "xyz")

    def test_without_runs_there_is_the_bundled_voice(self, tmp_path: Path):
        with pytest.raises(ModelError, match="there is: bundled$"):
            find_voice(Home(tmp_path / "empty"), "xyz")

    @pytest.mark.parametrize("name", ["", "missing/voice"])
    def test_no_such_folder(self, home: Home, name: str):
        with pytest.raises(ModelError, match="no such model"):
            find_voice(home, name)

    def test_a_file_is_no_folder(self, home: Home, folder: Path):
        with pytest.raises(ModelError, match="is a file"):
            find_voice(home, folder / "config.yaml")

    def test_no_name_is_the_bundled_voice(self, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("aasvc_cli.conversion.voice.bundled", lambda name: tmp_path / name)
        with pytest.raises(ModelError, match="--model"):
            find_voice(home)
        (tmp_path / "voice").mkdir()
        assert find_voice(home) == find_voice(home, "bundled") == tmp_path / "voice"

    def test_a_run_called_after_what_it_began_with_does_not_hide_it(self, tmp_path: Path):
        home = Home(tmp_path)
        (home.exp / "anna_bert_bundled").mkdir(parents=True)
        assert find_voice(home, "bundled") == find_voice(Home(tmp_path / "empty"), "bundled")
        assert find_voice(home, "anna_bert_bundled") == home.exp / "anna_bert_bundled"
        (home.exp / "bundled").mkdir()
        assert find_voice(home, "bundled") == home.exp / "bundled"


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
    def test_without_source_statistics_it_goes_by_the_recordings_and_says_so(self, data: Path):
        said: list[str] = []
        voice = load_voice(data / "aasvc-stochastic", on_message=said.append)
        assert voice.source_from_input
        assert len(said) == 1 and said[0].startswith("warning: ")
        assert all(option in said[0] for option in ("aasvc-stochastic", "--source-stats", "--data"))

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

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_source_statistics_come_through_a_pipe_as_well(self, folder: Path, tmp_path: Path):
        os.mkfifo(tmp_path / "pipe")
        text = (folder / "stats.json").read_text()
        writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(text))
        writer.start()
        voice = load_voice(folder, source_stats=tmp_path / "pipe")
        writer.join()
        assert np.array_equal(voice.stats.source.mean, plain_stats(voice.config).source.mean)

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


def published(folder: Path, data: Path, **config: Any) -> Path:
    """A copy of the small published voice, with entries of its configuration replaced."""
    shutil.copytree(data / "aasvc-stochastic", folder, ignore=shutil.ignore_patterns("example.npz", "*.json"))
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | config))
    return folder


def kept(home: Home) -> list[Path]:
    return sorted(path for path in home.imported.iterdir() if not path.name.startswith("."))


class TestOurFormOfPublishedVoices:
    def test_it_is_made_on_first_use_and_found_again_by_content(self, home: Home, data: Path, tmp_path: Path):
        folder = published(tmp_path / "theirs", data)
        direct, first = load_voice(folder), load_voice(folder, home=home)
        (place,) = kept(home)
        stamps = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
        assert set(stamps) == {"config.yaml", "stats.json", "card.json", "best.safetensors"}
        shutil.copytree(folder, tmp_path / "elsewhere" / "theirs")
        for voice in (first, load_voice(tmp_path / "elsewhere" / "theirs", home=home)):
            assert voice.config == direct.config and voice.source_from_input
            for name, tensor in direct.model.state_dict().items():
                assert torch.equal(voice.model.state_dict()[name], tensor), name
        assert {path.name: path.stat().st_mtime_ns for path in place.iterdir()} == stamps
        with h5py.File(folder / "stats.h5", "r+") as stream:
            stream["mel_mean"][...] += 1
        changed = load_voice(folder, home=home)
        assert len(kept(home)) == 2
        assert np.allclose(changed.stats.target.mean, first.stats.target.mean + 1)

    def test_it_holds_the_weights_alone_and_says_where_they_come_from(self, home: Home, data: Path, tmp_path: Path):
        folder = published(tmp_path / "theirs", data, src_train_dumpdir="dump/anna_train_parallel/norm_self")
        load_voice(folder, home=home)
        (place,) = kept(home)
        with safe_open(str(place / "best.safetensors"), framework="np") as stream:
            assert all(name.startswith("model.") for name in stream.keys())
            header = json.loads(stream.metadata()["aasvc"])
        assert header["step"] == 10
        digest = hashlib.sha256((folder / "checkpoint-10steps.pkl").read_bytes()).hexdigest()
        assert header["origin"]["files"]["checkpoint-10steps.pkl"]["sha256"] == digest
        card = json.loads((place / "card.json").read_text())
        assert (card["source_speaker"], card["vocoder"], card["step"]) == ("anna", "pwg_jp_female", 10)
        assert str(tmp_path) not in "".join(p.read_text() for p in place.glob("*.[jy]*"))

    def test_it_is_a_voice_of_its_own_that_can_be_moved(self, home: Home, data: Path, tmp_path: Path):
        direct = load_voice(data / "aasvc-stochastic", home=home, source_stats=data / "source_stats.h5")
        (place,) = kept(home)
        shutil.move(place, tmp_path / "moved")
        shutil.rmtree(home.root)
        voice = load_voice(tmp_path / "moved", source_stats=data / "source_stats.h5")
        assert torch.equal(voice.model.output.weight, direct.model.output.weight)
        assert np.array_equal(voice.stats.target.scale, direct.stats.target.scale)

    @pytest.mark.process
    def test_several_processes_at_once_make_one(self, home: Home, data: Path, tmp_path: Path):
        folder = published(tmp_path / "theirs", data)
        code = (
            "import sys; from pathlib import Path; from aasvc_cli.storage.home import Home; "
            "from aasvc_cli.conversion.voice import read_voice; "
            "print(len(read_voice(Path(sys.argv[1]), Home(Path(sys.argv[2]))).weights))"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(folder), str(home.root)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        told = [process.communicate()[0] for process in running]
        assert len(set(told)) == 1 and int(told[0]) > 100
        assert len(kept(home)) == 1
        assert not list(home.imported.glob("*.part"))

    def test_what_a_killed_process_left_is_removed(self, home: Home, data: Path, tmp_path: Path):
        folder = published(tmp_path / "theirs", data)
        load_voice(folder, home=home)
        (place,) = kept(home)
        leftover = home.imported / f".{place.name}.abc.part"
        place.rename(leftover)
        (leftover / "best.safetensors").unlink()
        load_voice(folder, home=home)
        assert kept(home) == [place] and not leftover.exists()

    def test_nothing_is_left_of_a_voice_that_is_refused(self, home: Home, data: Path, tmp_path: Path):
        folder = published(tmp_path / "theirs", data)
        torch.save({"model": {"foo": torch.zeros(1)}}, folder / "checkpoint-20steps.pkl")
        with pytest.raises(ModelError, match="checkpoint-20steps.pkl: 1 tensors are not of an AAS-VC model"):
            load_voice(folder, home=home)
        assert kept(home) == [] and not list(home.imported.glob("*.part"))

    def test_conversion_works_with_a_read_only_data_folder(self, data: Path, tmp_path: Path):
        (tmp_path / "file").write_text("")
        voice = load_voice(data / "aasvc-stochastic", home=Home(tmp_path / "file" / "home"))
        assert voice.config.model.width == 32

    def test_a_vocoder_is_no_voice(self, data: Path, home: Home):
        with pytest.raises(ModelError, match="holds a vocoder, not a voice; pass it as --vocoder"):
            load_voice(data / "vocoder-hifigan", home=home)

    def test_it_is_found_by_name_after_runs(self, home: Home, data: Path):
        published(home.models / "theirs", data)
        assert find_voice(home, "theirs") == home.models / "theirs"
        with pytest.raises(ModelError, match=r"did you mean theirs\?"):
            find_voice(home, "thiers")
        (home.exp / "a_b_theirs").mkdir(parents=True)
        assert find_voice(home, "theirs") == home.exp / "a_b_theirs"


class TestSourceStatistics:
    """Where they come from when the model has none: a file, a named set, the right speaker's set, the recording."""

    @pytest.fixture
    def folder(self, data: Path, tmp_path: Path) -> Path:
        return published(tmp_path / "theirs", data, src_train_dumpdir="dump/anna_train_parallel/norm_self")

    def prepare(
        self, home: Home, folder: Path, name: str, speaker: str, level: float, pairs: int = 1, **features: Any
    ) -> None:
        config = load_voice(folder).config
        mel = replace(config.features.mel, **features)
        config = replace(config, features=replace(config.features, mel=mel))
        pair = ParallelPair("1", Path("1.wav"), Path("2.wav"))
        write_manifest(home, Manifest(name, speaker, "bert", config, {"train": (pair,) * pairs}))
        stats = plain_stats(config)
        own = replace(stats.source, mean=np.full(80, level, np.float32))
        write_json(home.stats / name / "self.json", replace(stats, source=own, duration=own).to_tree())

    def test_the_largest_set_of_the_right_speaker_is_found(self, home: Home, folder: Path):
        self.prepare(home, folder, "wrong-speaker", "carl", 1.0, pairs=9)
        self.prepare(home, folder, "other-settings", "anna", 2.0, pairs=9, hop_length=128)
        self.prepare(home, folder, "small", "anna", 3.0, pairs=1)
        self.prepare(home, folder, "right", "Anna", 4.0, pairs=2)
        said: list[str] = []
        voice = load_voice(folder, home=home, on_message=said.append)
        assert (voice.stats.source.mean == 4).all() and not voice.source_from_input
        assert said == ["source statistics: those of anna in the prepared data right (others: --source-stats, --data)"]
        assert (load_voice(folder, home=home, data="wrong-speaker").stats.duration.mean == 1).all()

    def test_a_file_comes_before_everything(self, home: Home, folder: Path, data: Path):
        self.prepare(home, folder, "right", "anna", 4.0)
        voice = load_voice(folder, home=home, source_stats=data / "source_stats.h5")
        assert not (voice.stats.source.mean == 4).any() and not voice.source_from_input

    def test_without_a_record_of_the_speaker_the_name_of_the_folder_tells(self, home: Home, data: Path, tmp_path: Path):
        folder = published(tmp_path / "anna_bert_pretrained", data)
        self.prepare(home, folder, "right", "anna", 4.0)
        assert (load_voice(folder, home=home).stats.source.mean == 4).all()

    def test_another_speaker_is_never_taken_unasked(self, home: Home, folder: Path):
        self.prepare(home, folder, "wrong", "carl", 1.0)
        assert load_voice(folder, home=home).source_from_input

    def test_a_named_set_that_does_not_fit_is_refused_with_both_values(self, home: Home, folder: Path):
        self.prepare(home, folder, "other", "anna", 2.0, hop_length=128)
        with pytest.raises(DataError, match="hop_length 128, the model has 256"):
            load_voice(folder, home=home, data="other")
        self.prepare(home, folder, "right", "anna", 4.0)
        (home.stats / "right" / "self.json").unlink()
        with pytest.raises(DataError, match="run: aasvc stats --data right"):
            load_voice(folder, home=home, data="right")
        with pytest.raises(DataError, match="no prepared data named missing"):
            load_voice(folder, home=home, data="missing")
