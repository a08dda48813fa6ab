"""Conversion of arrays, files, folders and prepared sets."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.conversion.converter import Converter, ConvertOptions
from aasvc_cli.data.manifest import Manifest, ParallelPair, write_manifest
from aasvc_cli.errors import AasvcError, AudioError, DataError, ModelError, StorageError
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.pipeline import convert as pipeline
from aasvc_cli.pipeline.convert import ConvertSummary, LoadOptions, RunOptions
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import write_vocoder
from aasvc_cli.vocoder.folder import StoredVocoder
from aasvc_cli.vocoder.gan_generators import HiFiGan, HiFiGanSizes
from aasvc_cli.vocoder.griffin_lim import GriffinLim
from tests.examples import examples
from tests.voices import tiny_config, write_voice

RATE = 16000


def sorted_out(home: Home, options: dict[str, Any]) -> tuple[LoadOptions, dict[str, Any]]:
    """Options in the three groups that the pipeline has, and what is left of them."""
    groups = {}
    for kind in (LoadOptions, ConvertOptions, RunOptions):
        names = {entry.name for entry in fields(kind)} & options.keys()
        groups[kind] = {name: options.pop(name) for name in names}
    how = {"options": ConvertOptions(**groups[ConvertOptions]), "run": RunOptions(**groups[RunOptions])}
    return LoadOptions(home, **groups[LoadOptions]), how | options


def convert_files(home: Home, inputs: Sequence[Path] = (), **options: Any) -> ConvertSummary:
    load, how = sorted_out(home, options)
    return pipeline.convert_files(load, inputs, **how)


def convert_set(home: Home, set_name: str, **options: Any) -> ConvertSummary:
    load, how = sorted_out(home, options)
    return pipeline.convert_set(load, set_name, **how)


def buzz(seconds: float = 0.5, rate: int = RATE, frequency: float = 120.0) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    sound = sum(np.sin(2 * np.pi * frequency * k * t) / k for k in range(1, 20))
    return (0.1 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voice(tmp_path_factory.mktemp("voices") / "tiny", tiny_config())


@pytest.fixture(scope="module")
def converter(voice: Path) -> Converter:
    return Converter.load(voice, device="cpu")


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestArrays:
    def test_the_result_is_the_model_and_the_vocoder_on_normalised_features(self, converter: Converter):
        result = converter.convert(buzz(), RATE)
        voice = converter.voice
        mel = log_mel(buzz(), voice.config.features.mel)
        source = torch.from_numpy((mel - voice.stats.source.mean) / voice.stats.source.scale)
        direct = voice.model.convert(source, source, generator=torch.Generator().manual_seed(1))
        expected = direct.mel.numpy() * voice.stats.target.scale + voice.stats.target.mean
        assert np.allclose(result.log_mel, expected, atol=1e-6)
        assert result.durations.tolist() == direct.durations.tolist()
        spoken = GriffinLim(voice.config.features.mel).synthesise(torch.from_numpy(expected)[None])[0].numpy()
        assert np.allclose(result.wave, spoken * result.gain, atol=1e-4)

    def test_lengths_agree(self, converter: Converter):
        result = converter.convert(buzz(), RATE)
        assert result.sample_rate == RATE
        assert result.durations.sum() == len(result.log_mel)
        assert len(result.wave) == len(result.log_mel) * 128
        assert len(result.durations) == (1 + len(buzz()) // 128) // 4

    def test_the_published_chain_gives_the_published_mel(self, data: Path):
        expected = np.load(data / "end_to_end_mel.npz")
        converter = Converter.load(data / "aasvc-stochastic", device="cpu", source_stats=data / "source_stats.h5")
        samples, rate = read_audio(data / f"male_{expected['utterance']}.flac")
        result = converter.convert(samples, rate, noise_scale=0.0)
        assert np.abs(result.log_mel - expected["converted_mel"]).max() < 1e-5
        assert result.durations.tolist() == expected["durations"].tolist()

    def test_the_same_seed_gives_the_same_result_whatever_came_before(self, converter: Converter):
        first = converter.convert(buzz(), RATE, seed=3, noise_scale=2.0)
        torch.manual_seed(99)
        converter.convert(buzz(0.7), RATE, seed=4)
        again = converter.convert(buzz(), RATE, seed=3, noise_scale=2.0)
        assert np.array_equal(first.wave, again.wave)
        others = [
            converter.convert(buzz(), RATE, seed=seed, noise_scale=2.0).durations.tolist() for seed in range(10, 15)
        ]
        assert any(other != first.durations.tolist() for other in others)

    def test_without_noise_the_seed_does_not_matter(self, converter: Converter):
        one, two = (converter.convert(buzz(), RATE, seed=seed, noise_scale=0.0) for seed in (1, 2))
        assert np.array_equal(one.wave, two.wave)

    def test_slow_speech_is_longer_than_fast_speech(self, converter: Converter):
        lengths = [
            len(converter.convert(buzz(), RATE, noise_scale=0.0, speed=speed).log_mel) for speed in (0.5, 1.0, 2.0)
        ]
        assert lengths[0] > lengths[2]
        assert lengths == sorted(lengths, reverse=True)

    def test_another_rate_of_the_same_sound_gives_nearly_the_same(self, converter: Converter):
        at_model_rate = converter.convert(buzz(), RATE, noise_scale=0.0)
        resampled = converter.convert(buzz(rate=48000), 48000, noise_scale=0.0)
        assert resampled.sample_rate == RATE
        assert len(resampled.log_mel) == pytest.approx(len(at_model_rate.log_mel), abs=2)

    def test_channels_are_averaged(self, converter: Converter):
        left, right = buzz(), buzz(frequency=200.0)
        both = converter.convert(np.stack([left, right], axis=1), RATE)
        assert np.array_equal(both.wave, converter.convert((left + right) / 2, RATE).wave)

    @examples(20)
    @given(rate=st.sampled_from([8000, 11025, 16000, 44100, 48000, 96000]), n=st.integers(0, 5000))
    def test_any_length_is_converted_or_called_too_short(self, converter: Converter, rate: int, n: int):
        fewest = 4  # one token
        samples = buzz(1.0, rate)[:n]
        if not n:
            with pytest.raises(AudioError, match="expected samples"):
                converter.convert(samples, rate)
        elif 1 + math.ceil(n * RATE / rate) // 128 < fewest:
            with pytest.raises(AudioError, match="too short"):
                converter.convert(samples, rate)
        else:
            assert np.isfinite(converter.convert(samples, rate).wave).all()

    def test_the_feature_branch_needs_seven_frames(self, tmp_path: Path):
        converter = Converter.load(
            write_voice(tmp_path / "branch", tiny_config(duration_input="feature")), device="cpu"
        )
        assert len(converter.convert(buzz()[: 6 * 128], RATE).wave)
        with pytest.raises(AudioError, match=r"in\.wav: too short, 0\.048 s; this model converts 0\.048 s or more"):
            converter.convert(buzz()[: 6 * 128 - 1], RATE, name="in.wav")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_samples_that_are_not_numbers_are_refused(self, converter: Converter, value: float):
        samples = buzz()
        samples[7] = value
        with pytest.raises(AudioError, match="not numbers"):
            converter.convert(samples, RATE)

    @pytest.mark.parametrize("options", [{"speed": 0.0}, {"speed": math.nan}, {"noise_scale": -1.0}])
    def test_impossible_options_are_refused(self, converter: Converter, options: dict[str, float]):
        with pytest.raises(DataError, match="expected"):
            converter.convert(buzz(), RATE, **options)

    def test_silence_can_be_converted(self, converter: Converter):
        assert np.isfinite(converter.convert(np.zeros(8000, np.float32), RATE).wave).all()

    def test_loud_results_are_scaled_down_and_not_clipped(self, tmp_path: Path):
        loud = write_voice(tmp_path / "loud", tiny_config(postnet_layers=0))
        tensors, header = load_checkpoint(loud / "best.safetensors")
        tensors["model.output.bias"] += 10.0
        save_checkpoint(loud / "best.safetensors", tensors, header)
        result = Converter.load(loud, device="cpu").convert(buzz(), RATE)
        assert result.gain < 1
        assert np.abs(result.wave).max() == pytest.approx(0.99, abs=1e-4)

    def test_a_model_that_gives_no_numbers_is_refused(self, tmp_path: Path):
        folder = write_voice(tmp_path / "broken", tiny_config(postnet_layers=0))
        tensors, header = load_checkpoint(folder / "best.safetensors")
        tensors["model.output.weight"] *= 1e38
        tensors["model.output.weight"] = tensors["model.output.weight"].clamp(-3e38, 3e38)
        tensors["model.output.bias"] += 3e38
        save_checkpoint(folder / "best.safetensors", tensors, header)
        with pytest.raises(ModelError, match="not a finite spectrum"):
            Converter.load(folder, device="cpu").convert(buzz(), RATE)

    def test_a_mel_cepstrum_can_drive_the_durations(self, tmp_path: Path):
        config = tiny_config(duration_input="feature")
        features = FeatureConfig(mel=config.features.mel, duration="mcep")
        config = with_widths(replace(config, features=features, model=replace(config.model, duration_dim=None)))
        converter = Converter.load(write_voice(tmp_path / "mcep", config), device="cpu")
        assert np.isfinite(converter.convert(buzz(), RATE).wave).all()


class TestFiles:
    def run(self, home: Home, voice: Path, *inputs: Path, **options: Any) -> ConvertSummary:
        return convert_files(home, list(inputs), model=voice, device="cpu", **options)

    @pytest.mark.parametrize(
        ("name", "rate", "channels"),
        [("a.wav", 8000, 1), ("a.flac", 44100, 2), ("a.ogg", 48000, 1), ("a.mp3", 24000, 2)],
    )
    def test_any_recording_becomes_one_channel_at_the_rate_of_the_model(
        self, home: Home, voice: Path, tmp_path: Path, name: str, rate: int, channels: int
    ):
        source = write(tmp_path / name, np.stack([buzz(rate=rate)] * channels, axis=1), rate)
        summary = self.run(home, voice, source, output=tmp_path / "new" / "out.wav")
        info = soundfile.info(tmp_path / "new" / "out.wav")
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        assert summary.error is None
        assert summary.files[0].seconds == pytest.approx(info.duration)
        assert summary.files[0].source_seconds == pytest.approx(0.5, abs=0.1)

    def test_the_file_holds_the_result_for_the_array(
        self, home: Home, voice: Path, tmp_path: Path, converter: Converter
    ):
        source = write(tmp_path / "in.wav", buzz(), subtype="FLOAT")
        self.run(home, voice, source, output=tmp_path / "out.flac", save_mel=tmp_path / "mel.npy", seed=5)
        expected = converter.convert(buzz(), RATE, seed=5)
        assert np.abs(read_audio(tmp_path / "out.flac")[0] - expected.wave).max() < 1e-4
        assert np.array_equal(np.load(tmp_path / "mel.npy"), expected.log_mel)

    def test_folders_keep_their_tree_and_files_their_names(self, home: Home, voice: Path, tmp_path: Path):
        for name in ("rec/a.wav", "rec/sub/b.flac", "rec/sub/ü ん.wav", "c.d.wav"):
            write(tmp_path / name, buzz(0.2))
        seen: list[tuple[int, int]] = []
        summary = self.run(
            home, voice, tmp_path / "rec", tmp_path / "c.d.wav", out_dir=tmp_path / "out",
            on_progress=lambda *now: seen.append(now),
        )  # fmt: skip
        assert files_below(tmp_path / "out") == {"a.wav", "sub/b.wav", "sub/ü ん.wav", "c.d.wav"}
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert summary.folder == tmp_path / "out"
        assert json.loads(json.dumps(summary.to_tree()))["seconds"] == pytest.approx(summary.seconds)

    def test_results_do_not_depend_on_their_company(self, home: Home, voice: Path, tmp_path: Path):
        one, two = write(tmp_path / "1.wav", buzz(0.3)), write(tmp_path / "2.wav", buzz(0.4))
        self.run(home, voice, one, two, out_dir=tmp_path / "together")
        self.run(home, voice, two, output=tmp_path / "alone.wav")
        assert (tmp_path / "together" / "2.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()

    def test_a_recording_given_twice_is_converted_once(self, home: Home, voice: Path, tmp_path: Path):
        source = write(tmp_path / "1.wav", buzz(0.2))
        assert len(self.run(home, voice, source, source, out_dir=tmp_path / "out").files) == 1

    def test_results_of_an_earlier_run_are_not_converted_again(self, home: Home, voice: Path, tmp_path: Path):
        write(tmp_path / "rec" / "1.wav", buzz(0.2))
        for _ in range(2):
            summary = self.run(home, voice, tmp_path / "rec", out_dir=tmp_path / "rec" / "converted")
            assert [file.source.name for file in summary.files] == ["1.wav"]
        assert files_below(tmp_path / "rec") == {"1.wav", "converted/1.wav"}

    def test_bad_recordings_do_not_keep_the_others(self, home: Home, voice: Path, tmp_path: Path):
        (tmp_path / "text.wav").write_text("no sound")
        write(tmp_path / "short.wav", buzz(0.01))
        good = write(tmp_path / "good.wav", buzz(0.2))
        told: list[str] = []
        summary = self.run(
            home, voice, tmp_path / "missing.wav", tmp_path / "text.wav", tmp_path / "short.wav", good,
            out_dir=tmp_path / "out", on_file=lambda file: told.append(type(file).__name__),
        )  # fmt: skip
        assert files_below(tmp_path / "out") == {"good.wav"}
        assert told == ["FailedFile"] * 3 + ["ConvertedFile"]
        assert [failure.source.name for failure in summary.failures] == ["missing.wav", "text.wav", "short.wav"]
        assert summary.error is not None
        for part in ("3 of 4", "missing.wav: no such file", "text.wav: not readable", "short.wav: too short"):
            assert part in str(summary.error)
        assert "\n" not in str(summary.error)

    def test_one_bad_recording_gives_its_own_error_and_nothing_is_left(self, home: Home, voice: Path, tmp_path: Path):
        summary = self.run(home, voice, tmp_path / "missing.wav", output=tmp_path / "out.wav")
        assert isinstance(summary.error, AudioError)
        assert not files_below(tmp_path) - files_below(home.root)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "say where"),
            ({"output": "out.wav", "out_dir": "out"}, "say where"),
            ({"output": "out.mp4"}, "cannot write .mp4"),
            ({"output": "folder.wav"}, "a folder stands there"),
            ({"output": "in.wav"}, "overwrite the recording"),
            ({"output": "link.wav"}, "overwrite the recording"),
            ({"output": "hard.wav"}, "overwrite the recording"),
            ({"out_dir": "."}, "overwrite the recording"),
            ({"output": "out.wav", "save_mel": "mel.txt"}, r"ends in \.npy"),
            ({"output": "out.wav", "speed": -1.0}, "speed"),
        ],
    )
    def test_outputs_that_cannot_be_are_refused_before_the_model_is_loaded(
        self, home: Home, tmp_path: Path, options: dict[str, Any], message: str
    ):
        source = write(tmp_path / "in.wav", buzz(0.2))
        (tmp_path / "folder.wav").mkdir()
        (tmp_path / "link.wav").symlink_to(source)
        os.link(source, tmp_path / "hard.wav")
        before = files_below(tmp_path)
        placed = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
        with pytest.raises(AasvcError, match=message):
            self.run(home, tmp_path / "no such model", source, **placed)
        assert files_below(tmp_path) == before

    def test_two_recordings_cannot_share_one_output(self, home: Home, voice: Path, tmp_path: Path):
        for name in ("a/x.wav", "b/x.wav", "c/x.flac"):
            write(tmp_path / name, buzz(0.2))
        with pytest.raises(DataError, match="takes one recording, and 2 were given; use --out-dir"):
            self.run(home, voice, tmp_path / "a/x.wav", tmp_path / "b/x.wav", output=tmp_path / "out.wav")
        for pair in (("a", "b"), ("a/x.wav", "c/x.flac")):
            with pytest.raises(DataError, match="would both become"):
                self.run(home, voice, *(tmp_path / name for name in pair), out_dir=tmp_path / "out")
        with pytest.raises(DataError, match="--save-mel .* takes one"):
            self.run(
                home, voice, tmp_path / "a", write(tmp_path / "y.wav", buzz(0.2)), out_dir=tmp_path / "out",
                save_mel=tmp_path / "m.npy",
            )  # fmt: skip
        assert not (tmp_path / "out").exists()

    def test_an_empty_folder_and_no_input_at_all(self, home: Home, voice: Path, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no recordings in this folder"):
            self.run(home, voice, tmp_path / "empty", out_dir=tmp_path / "out")
        with pytest.raises(DataError, match="no recordings were given"):
            self.run(home, voice, out_dir=tmp_path / "out")

    def test_a_place_that_cannot_be_written_is_an_error_and_nothing_is_left(
        self, home: Home, voice: Path, tmp_path: Path
    ):
        source = write(tmp_path / "in.wav", buzz(0.2))
        (tmp_path / "file").write_text("mine")
        summary = self.run(home, voice, source, output=tmp_path / "file" / "out.wav")
        assert isinstance(summary.error, StorageError)
        assert files_below(tmp_path) - files_below(home.root) == {"in.wav", "file"}

    def test_a_mel_that_cannot_be_written_keeps_the_sound_from_appearing(self, home: Home, voice: Path, tmp_path: Path):
        source = write(tmp_path / "in.wav", buzz(0.2))
        (tmp_path / "file").write_text("mine")
        summary = self.run(home, voice, source, output=tmp_path / "o.wav", save_mel=tmp_path / "file" / "mel.npy")
        assert isinstance(summary.error, StorageError)
        assert files_below(tmp_path) - files_below(home.root) == {"in.wav", "file"}

    def test_features_for_a_voice_that_computes_its_own_are_refused(self, home: Home, voice: Path, tmp_path: Path):
        source = write(tmp_path / "in.wav", buzz(0.2))
        np.save(tmp_path / "in.npy", np.zeros((20, 80), np.float32))
        with pytest.raises(DataError, match=r"--features .*in.npy: this voice takes mel, which is computed"):
            self.run(home, voice, source, output=tmp_path / "o.wav", features=tmp_path / "in.npy")

    def test_long_sound_can_be_written_as_ogg(self, tmp_path: Path):
        # libsndfile's Vorbis encoder overflows its stack when it gets all of this at once
        write_audio(tmp_path / "long.ogg", np.zeros(8000 * 900, np.float32), 8000)
        assert soundfile.info(tmp_path / "long.ogg").duration == 900

    def test_an_unknown_vocoder_is_refused(self, home: Home, voice: Path, tmp_path: Path):
        source = write(tmp_path / "in.wav", buzz(0.2))
        with pytest.raises(ModelError, match="did you mean griffin-lim"):
            self.run(home, voice, source, output=tmp_path / "out.wav", vocoder="griffinlim")


class TestBatches:
    def run(self, home: Home, voice: Path, *inputs: Path, **options: Any) -> ConvertSummary:
        return convert_files(home, list(inputs), model=voice, device="cpu", **options)

    @pytest.fixture
    def recordings(self, tmp_path: Path) -> Path:
        for index in range(4):
            write(tmp_path / "rec" / f"{index}.wav", buzz(0.2 + 0.05 * index))
        (tmp_path / "rec" / "bad.wav").write_text("no sound")
        return tmp_path / "rec"

    def test_each_recording_is_one_line_as_soon_as_it_is_finished(
        self, home: Home, voice: Path, recordings: Path, tmp_path: Path
    ):
        lines: list[dict[str, Any]] = []
        there: list[int] = []

        def on_line(facts: dict[str, Any]) -> None:
            there.append(len(files_below(tmp_path / "out")))
            lines.append(json.loads(json.dumps(facts)))

        self.run(home, voice, recordings, out_dir=tmp_path / "out", on_line=on_line)
        assert there == [1, 2, 3, 4, 4]
        assert [line["status"] for line in lines] == ["converted"] * 4 + ["failed"]
        for line in lines[:4]:
            assert line["real_time_factor"] == pytest.approx(line["elapsed_seconds"] / line["seconds"])
            assert soundfile.info(line["output"]).duration == pytest.approx(line["seconds"])
            assert line["source_seconds"] == pytest.approx(soundfile.info(line["source"]).duration)
            assert (line["pieces"], line["gain"], line["warnings"]) == (1, 1.0, [])
            assert (line["model"], line["vocoder"]) == (str(voice), "griffin-lim")
        assert "not readable" in lines[4]["error"]

    def test_what_is_there_is_left_out(self, home: Home, voice: Path, recordings: Path, tmp_path: Path):
        write(tmp_path / "out" / "2.wav", buzz(0.1))
        before = (tmp_path / "out" / "2.wav").read_bytes()
        told: list[str] = []
        summary = self.run(
            home, voice, recordings, out_dir=tmp_path / "out", skip_existing=True,
            on_file=lambda file: told.append(type(file).__name__),
        )  # fmt: skip
        assert (tmp_path / "out" / "2.wav").read_bytes() == before
        assert sorted(told) == ["ConvertedFile"] * 3 + ["FailedFile", "SkippedFile"]
        assert (len(summary.files), summary.n_skipped, len(summary.failures)) == (3, 1, 1)
        assert summary.lines()[0].endswith("; 1 were there already")

    @pytest.mark.parametrize(
        ("content", "fault"), [(b"", "is empty"), (b"no sound at all", "is no recording"), (None, "ends too early")]
    )
    def test_what_is_there_and_no_result_is_named_and_kept(
        self, home: Home, voice: Path, tmp_path: Path, content: bytes | None, fault: str
    ):
        source, there = write(tmp_path / "in.wav", buzz(0.2)), write(tmp_path / "out.wav", buzz(0.2))
        content = there.read_bytes()[:-1000] if content is None else content
        there.write_bytes(content)
        summary = self.run(home, voice, source, output=there, skip_existing=True)
        assert f"out.wav: stands where a result would go and {fault}" in str(summary.error)
        assert there.read_bytes() == content

    @pytest.mark.parametrize("name", ["out.wav", "out.flac", "out.ogg"])
    def test_results_of_other_weights_options_or_recordings_are_made_again(
        self, home: Home, voice: Path, tmp_path: Path, name: str
    ):
        voice = Path(shutil.copytree(voice, tmp_path / "voice"))
        source = write(tmp_path / "in.wav", buzz(0.2))

        def again(**options: Any) -> int:
            summary = self.run(home, voice, source, output=tmp_path / name, skip_existing=True, **options)
            assert summary.error is None
            return len(summary.files)

        assert [again(), again()] == [1, 0]
        assert [again(seed=5), again(seed=5)] == [1, 0]
        write(source, buzz(0.3))
        assert [again(seed=5), again(seed=5)] == [1, 0]
        (stored,) = voice.glob("*.safetensors")
        tensors, header = load_checkpoint(stored)
        save_checkpoint(stored, {key: tensor * 1.01 for key, tensor in tensors.items()}, header)
        assert [again(seed=5), again(seed=5)] == [1, 0]

    def test_if_all_is_there_no_model_is_loaded(self, home: Home, voice: Path, tmp_path: Path):
        source = write(tmp_path / "in.wav", buzz(0.2))
        write(tmp_path / "out.wav", buzz(0.1))
        summary = self.run(home, voice, source, output=tmp_path / "out.wav", skip_existing=True)
        assert (summary.n_skipped, summary.load_seconds, summary.sample_rate) == (1, 0.0, None)

    def test_names_are_read_as_they_are_needed(self, home: Home, voice: Path, recordings: Path, tmp_path: Path):
        seen: list[tuple[str, int]] = []

        def names() -> Any:
            for path in sorted(recordings.iterdir()):
                seen.append((path.name, len(files_below(tmp_path / "out"))))
                yield path.relative_to(tmp_path)

        monkeypatch = pytest.MonkeyPatch()
        monkeypatch.chdir(tmp_path)
        try:
            summary = convert_files(home, names=names(), out_dir=tmp_path / "out", model=voice, device="cpu")
        finally:
            monkeypatch.undo()
        assert seen == [("0.wav", 0), ("1.wav", 1), ("2.wav", 2), ("3.wav", 3), ("bad.wav", 4)]
        assert files_below(tmp_path / "out") == {f"rec/{index}.wav" for index in range(4)}
        assert len(summary.failures) == 1

    @pytest.mark.process
    def test_several_processes_give_the_same_files(self, home: Home, voice: Path, recordings: Path, tmp_path: Path):
        messages: list[str] = []
        for out, workers in (("alone", 1), ("together", 2)):
            summary = self.run(
                home, voice, recordings, out_dir=tmp_path / out, workers=workers, on_message=messages.append
            )
            assert [file.source.name for file in summary.files] == [f"{index}.wav" for index in range(4)]
            assert [failure.source.name for failure in summary.failures] == ["bad.wav"]
            assert isinstance(summary.error, AudioError)
            assert summary.sample_rate == RATE
        for name in files_below(tmp_path / "alone"):
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()

    @pytest.mark.process
    def test_a_model_that_cannot_be_loaded_is_one_error_of_all_processes(
        self, home: Home, recordings: Path, tmp_path: Path
    ):
        with pytest.raises(ModelError, match="not a model folder"):
            self.run(home, recordings, recordings, out_dir=tmp_path / "out", workers=2)
        assert not (tmp_path / "out").exists()

    @pytest.mark.process
    def test_a_process_that_is_killed_costs_its_recording_only(
        self, home: Home, voice: Path, recordings: Path, tmp_path: Path
    ):
        import multiprocessing

        def kill_one(file: Any) -> None:
            victims = [process for process in multiprocessing.active_children() if process.pid not in killed]
            if victims and not killed:
                killed.append(victims[0].pid)
                victims[0].kill()
                victims[0].join()

        killed: list[int | None] = []
        for index in range(4, 12):
            write(recordings / f"{index}.wav", buzz(0.2))
        summary = self.run(home, voice, recordings, out_dir=tmp_path / "out", workers=2, on_file=kill_one)
        assert killed
        assert len(summary.files) + len(summary.failures) == 13
        lost = [str(failure.error) for failure in summary.failures if failure.source.name != "bad.wav"]
        assert all("was killed; try fewer --jobs" in error for error in lost)
        assert len(lost) <= 1

    def test_what_is_to_be_said_of_a_recording_names_it(self, home: Home, voice: Path, tmp_path: Path):
        source = tmp_path / "in.wav"
        soundfile.write(source, np.stack([buzz(1), -buzz(1)], axis=1), RATE)
        (file,) = self.run(home, voice, source, output=tmp_path / "out.wav").files
        assert any(warning.startswith(f"{source}: the two channels are inverted") for warning in file.warnings)

    def test_a_long_recording_tells_its_pieces(self, home: Home, voice: Path, tmp_path: Path):
        sound = np.concatenate([buzz(9), np.zeros(2 * RATE, np.float32), buzz(14)])
        source = write(tmp_path / "in.wav", sound)
        seen: list[tuple[int, int]] = []
        summary = self.run(
            home, voice, source, output=tmp_path / "out.ogg", save_mel=tmp_path / "mel.npy",
            on_progress=lambda *now: seen.append(now),
        )  # fmt: skip
        (file,) = summary.files
        assert seen == [(done, file.pieces) for done in range(1, file.pieces + 1)] + [(1, 1)]
        assert file.pieces >= 3
        assert any("no pause to cut at" in warning for warning in file.warnings)
        assert file.seconds == pytest.approx(soundfile.info(tmp_path / "out.ogg").duration)
        assert len(np.load(tmp_path / "mel.npy")) * 128 < file.seconds * RATE


class TestSets:
    @pytest.fixture
    def run_folder(self, home: Home, tmp_path: Path) -> Path:
        config = tiny_config()
        pairs = []
        for index in range(3):
            source = write(tmp_path / "corpus" / "m" / f"u{index}.wav", buzz(0.2 + 0.1 * index))
            pairs.append(ParallelPair(f"u{index}", source, source))
        sets = {"train": tuple(pairs), "dev": (), "eval": tuple(pairs[:2])}
        write_manifest(home, Manifest("mine", "m", "f", config, sets))
        folder = write_voice(home.exp / "m_f_tiny", config)
        write_json(folder / "data.json", {"prepared": "mine"})
        return folder

    def test_a_set_goes_to_the_folder_of_the_run(self, home: Home, run_folder: Path):
        summary = convert_set(home, "eval", model="tiny", device="cpu")
        assert summary.error is None
        assert files_below(run_folder / "converted") == {"eval/u0.wav", "eval/u1.wav"}
        assert summary.folder == run_folder / "converted" / "eval"

    def test_results_of_a_model_that_is_no_run_go_to_the_data_folder(
        self, home: Home, run_folder: Path, tmp_path: Path, voice: Path
    ):
        models = [write_voice(home.models / "theirs", tiny_config()), voice]
        models += [shutil.copytree(voice, tmp_path / owner / "tiny") for owner in ("one", "other")]
        before = [files_below(model) for model in models]
        results = []
        for model in models:
            summary = convert_set(home, "eval", model=model, data="mine", device="cpu")
            assert summary.error is None
            assert files_below(summary.folder) == {"u0.wav", "u1.wav"}
            assert summary.folder.is_relative_to(home.results)
            results.append(summary.folder)
        assert results[0] == home.results / "theirs_mine" / "converted" / "eval"
        assert len(set(results)) == len(models), "models of the same name stay apart"
        assert [files_below(model) for model in models] == before

    def test_a_recording_that_has_gone_does_not_keep_the_others(self, home: Home, run_folder: Path, tmp_path: Path):
        (tmp_path / "corpus" / "m" / "u0.wav").unlink()
        summary = convert_set(home, "eval", model="tiny", device="cpu")
        assert [failure.source.name for failure in summary.failures] == ["u0.wav"]
        assert files_below(run_folder / "converted") == {"eval/u1.wav"}

    @pytest.mark.parametrize("name", ["dev", "test"])
    def test_a_set_without_pairs(self, home: Home, run_folder: Path, name: str):
        with pytest.raises(DataError, match=rf"no pairs in the set {name}; it has train \(3\), dev \(0\), eval \(2\)"):
            convert_set(home, name, model="tiny", device="cpu")

    def test_a_voice_that_was_not_trained_here(self, home: Home, run_folder: Path):
        (run_folder / "data.json").unlink()
        with pytest.raises(DataError, match="not trained on data prepared here"):
            convert_set(home, "eval", model="tiny", device="cpu")
        assert len(convert_set(home, "eval", model="tiny", data="mine", device="cpu").files) == 2

    @pytest.mark.parametrize("tree", [[], {}, {"prepared": 3}])
    def test_damaged_notes_about_the_data(self, home: Home, run_folder: Path, tree: Any):
        write_json(run_folder / "data.json", tree)
        with pytest.raises(DataError, match="data.json"):
            convert_set(home, "eval", model="tiny", device="cpu")


@pytest.mark.process
def test_nothing_heavy_that_conversion_does_not_need_is_loaded(voice: Path, tmp_path: Path):
    code = (
        "import sys, numpy as np\n"
        "from aasvc_cli.conversion.converter import Converter\n"
        f"Converter.load({str(voice)!r}, device='cpu').convert(np.random.default_rng(0).normal(0, .1, 9000), 16000)\n"
        "heavy = {'librosa', 'torchaudio', 'numba', 'matplotlib', 'scipy', 'pyworld', 'joblib', 'pandas', 'h5py'}\n"
        "heavy |= {'typer', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestPublished:
    """The published chain from the command line: model, both normalisations, vocoder."""

    def arguments(self, data: Path, out: Path) -> list[Any]:
        utterance = np.load(data / "end_to_end_mel.npz")["utterance"]
        return [
            "convert", data / f"male_{utterance}.flac", "-o", out, "--model", data / "aasvc-stochastic",
            "--noise-scale", 0,
        ]  # fmt: skip

    def test_it_writes_the_published_waveform_and_mel(self, aasvc: Callable[..., Any], data: Path, tmp_path: Path):
        expected, rate = soundfile.read(data / "end_to_end_wave.flac", dtype="int16")
        # at first from the published files, then from our form of them
        for name in ("first", "second"):
            outcome = aasvc(
                *self.arguments(data, tmp_path / f"{name}.wav"), "--vocoder", data / "vocoder-hifigan",
                "--source-stats", data / "source_stats.h5", "--save-mel", tmp_path / f"{name}.npy",
            )  # fmt: skip
            assert (outcome.code, outcome.err) == (0, "")
            found, found_rate = soundfile.read(tmp_path / f"{name}.wav", dtype="int16")
            assert found_rate == rate and found.shape == expected.shape
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2
            mel = np.load(tmp_path / f"{name}.npy")
            assert np.abs(mel - np.load(data / "end_to_end_mel.npz")["converted_mel"]).max() <= 1e-5

    def test_without_statistics_and_vocoder_it_works_and_says_what_is_missing(
        self, aasvc: Callable[..., Any], data: Path, tmp_path: Path
    ):
        outcome = aasvc(*self.arguments(data, tmp_path / "out.wav"), "--json", "-")
        assert outcome.code == 0
        statistics, vocoder = outcome.err.splitlines()
        assert statistics.startswith("warning: ") and "--source-stats" in statistics
        assert vocoder.startswith("warning: ") and "pwg_jp_female" in vocoder and "aasvc download" in vocoder
        assert json.loads(outcome.out)["vocoder"] == "universal"

    def test_the_vocoder_that_a_model_names_is_used_where_it_is(self, home: Home, data: Path, tmp_path: Path):
        folder = tmp_path / "downloads" / "model"
        shutil.copytree(data / "aasvc-stochastic", folder)

        def vocoder_name() -> str:
            said: list[str] = []
            converter = Converter.load(
                folder, home=home, device="cpu", source_stats=data / "source_stats.h5", on_message=said.append
            )
            assert bool(said) == (converter.vocoder_name == "universal"), said
            return f"{converter.vocoder_name} at {converter.sample_rate}"

        assert vocoder_name() == "universal at 24000"
        for place in (folder.parent, home.vocoders, folder):  # beside it, by name, inside it
            shutil.copytree(data / "vocoder-pwg", place / "pwg_jp_female")
            assert vocoder_name() == "pwg_jp_female at 24000"
            shutil.rmtree(place / "pwg_jp_female")
        shutil.copytree(data / "vocoder-pwg", home.vocoders / "pwg_jp_female")
        config = home.vocoders / "pwg_jp_female" / "config.yml"
        config.write_text(config.read_text().replace("sampling_rate: 24000", "sampling_rate: 48000"))
        assert vocoder_name() == "universal at 24000"
        with pytest.raises(ModelError, match="sample_rate 48000, the model has 24000"):
            Converter.load(folder, home=home, device="cpu", vocoder="pwg_jp_female")

    def test_the_seed_decides_the_noise_of_the_vocoder(self, home: Home, data: Path):
        converter = Converter.load(
            data / "aasvc-stochastic", home=home, device="cpu", vocoder=str(data / "vocoder-pwg"),
            source_stats=data / "source_stats.h5",
        )  # fmt: skip
        sound = buzz(0.5, 24000)
        one, again, other = (converter.convert(sound, 24000, seed=seed, noise_scale=0.0) for seed in (1, 1, 2))
        assert np.array_equal(one.wave, again.wave)
        assert np.array_equal(one.log_mel, other.log_mel) and not np.array_equal(one.wave, other.wave)

    def test_a_recording_is_normalised_with_its_own_statistics_if_there_are_no_others(self, home: Home, data: Path):
        converter = Converter.load(data / "aasvc-stochastic", home=home, device="cpu")
        mel = log_mel(buzz(0.5, 24000), converter.voice.config.features.mel)
        source = torch.from_numpy((mel - mel.mean(0)) / mel.std(0))
        direct = converter.voice.model.convert(source, source, noise_scale=0.0)
        stats = converter.voice.stats.target
        found = converter.convert(buzz(0.5, 24000), 24000, noise_scale=0.0)
        assert np.allclose(found.log_mel, direct.mel.numpy() * stats.scale + stats.mean, atol=1e-4)

    @pytest.mark.parametrize(("level", "gain"), [(0.5, 1.0), (0.999, 1.0), (2.0, 0.495)])
    def test_what_a_vocoder_gives_is_left_alone_unless_it_would_clip(self, converter: Converter, level, gain):
        class Loud:
            mel = converter.vocoder.mel
            sample_rate, hop_length = mel.sample_rate, mel.hop_length

            def synthesise(self, log_mel: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
                return torch.full((1, log_mel.shape[1] * self.hop_length), level)

        result = Converter(converter.voice, Loud()).convert(buzz(), RATE)
        assert result.gain == pytest.approx(gain)
        assert np.allclose(result.wave, min(level, 0.99) if gain < 1 else level)

    def test_data_is_for_models_without_statistics(self, aasvc: Callable[..., Any], voice: Path, tmp_path: Path):
        source = write(tmp_path / "in.wav", buzz(0.2))
        outcome = aasvc("convert", source, "-o", tmp_path / "out.wav", "--model", voice, "--data", "x")
        assert outcome.code == 1 and "has its own statistics" in outcome.err

    def test_a_vocoder_that_is_not_there_is_named(self, aasvc: Callable[..., Any], voice: Path, tmp_path: Path):
        source = write(tmp_path / "in.wav", buzz(0.2))
        outcome = aasvc("convert", source, "-o", tmp_path / "out.wav", "--model", voice, "--vocoder", "griffinlim")
        assert outcome.code == 1 and "did you mean griffin-lim?" in outcome.err
        assert not (tmp_path / "out.wav").exists()

    def test_a_copied_voice_folder_with_a_vocoder_in_it_converts_elsewhere(
        self, home: Home, voice: Path, tmp_path: Path
    ):
        mel = tiny_config().features.mel
        sizes = HiFiGanSizes(
            in_channels=mel.n_mels, channels=8, upsample_scales=(8, 16), resblock_kernel_sizes=(3,),
            resblock_dilations=((1,),),
        )  # fmt: skip
        torch.manual_seed(0)
        stored = StoredVocoder("hifi-gan", mel, asdict(sizes), HiFiGan(sizes).state_dict(), {"steps": 1})
        whole = tmp_path / "whole"
        shutil.copytree(voice, whole)
        write_vocoder(whole / "vocoder", stored)
        write_json(whole / "card.json", {"vocoder": "vocoder"})
        source = write(tmp_path / "in.wav", buzz(0.3))
        waves = []
        for place in (whole, tmp_path / "another" / "machine"):
            if place != whole:
                place.parent.mkdir()
                shutil.move(whole, place)
            summary = convert_files(home, [source], output=tmp_path / "out.wav", model=place, device="cpu")
            assert summary.vocoder == "vocoder"
            waves.append((tmp_path / "out.wav").read_bytes())
        assert waves[0] == waves[1]


@pytest.mark.process
def test_the_command_loads_nothing_heavy_but_torch(data: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "from aasvc_cli.cli import run\n"
        "assert run(sys.argv[1:]) == 0\n"
        "heavy = {'librosa', 'torchaudio', 'numba', 'matplotlib', 'scipy', 'pyworld', 'h5py', 'sympy'}\n"
        "heavy |= {'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    command = ["convert", data / "male.flac", "-o", tmp_path / "out.wav"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
