"""Training a vocoder: distances, discriminators, one step, the loop, exact resume."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aasvc_cli.audio.files import write_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.layers import preset_layer
from aasvc_cli.config.reading import override, parse_config
from aasvc_cli.config.settings import Config, MelConfig
from aasvc_cli.conversion.converter import Converter
from aasvc_cli.conversion.voice import find_voice, read_voice
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.errors import ConfigError, DataError, ModelError, TrainingError
from aasvc_cli.features.kinds import feature_keys
from aasvc_cli.measures.judges import missing_for
from aasvc_cli.pipeline.train_vocoder import _Forced, beginning, train_vocoder
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.storage.files import write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.training.discriminators import (
    Discriminators,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from aasvc_cli.training.progress import TrainingReport
from aasvc_cli.training.spectral_losses import SpectralLoss, magnitudes
from aasvc_cli.training.vocoder_trainer import CropSource, Recording, VocoderTrainer
from aasvc_cli.vocoder.build import build_vocoder, read_vocoder
from aasvc_cli.vocoder.istft import IstftVocoder
from tests.pages import parse
from tests.voices import write_voice

TINY = {
    "features": {"mel": {"sample_rate": 16000, "n_fft": 512, "hop_length": 256, "n_mels": 20}},
    "train": {
        "batch_size": 2, "accum": 1, "max_steps": 9, "lr": 1e-3, "schedule": "cosine", "warmup_steps": 1,
        "ema_decay": 0.9, "log_every": 1, "eval_every": 3, "save_every": 3, "preview_every": 0, "device": "cpu",
        "threads": 1,
    },
    "vocoder": {
        "width": 16, "hidden": 16, "n_blocks": 1, "pitch_width": 8, "pitch_blocks": 1, "pitch_bins": 16,
        "pitch_steps": 3, "adversarial_start_step": 6, "discriminator_channels": 2, "crop_frames": 32,
        "judged_frames": 10, "pitch_recordings": 3,
        "final_scores": False,
    },
}  # fmt: skip
"""All three stages within nine steps."""


def tiny(**changes: object) -> Config:
    return override(parse_config(TINY, "test"), {key.replace("__", "."): value for key, value in changes.items()})


def recordings(mel: MelConfig, count: int = 3, seconds: float = 1.0) -> list[Recording]:
    """Buzzing sounds of different pitch."""
    found = []
    rng = np.random.default_rng(0)
    for index in range(count):
        f0 = 150.0 + 60.0 * index
        times = np.arange(round(seconds * mel.sample_rate)) / mel.sample_rate
        wave = sum(np.sin(2 * np.pi * f0 * k * times) / k for k in range(1, 12)) * 0.1
        wave = (wave + 0.003 * rng.standard_normal(len(times))).astype(np.float32)
        features = log_mel(wave, mel)
        pitch = np.full(len(features), f0, dtype=np.float32)
        found.append(Recording(f"sound{index}", np.round(wave * 32768).astype(np.int16), features, pitch))
    return found


def trainer(config: Config) -> tuple[VocoderTrainer, CropSource]:
    mel = config.features.mel
    made = recordings(mel)
    frames = np.concatenate([recording.mel for recording in made])
    ready = VocoderTrainer(config, torch.device("cpu"), mean=frames.mean(0), scale=frames.std(0) + 0.1)
    source = CropSource(made, mel, n_frames=config.vocoder.crop_frames, margin=ready.margin, seed=config.train.seed)
    return ready, source


class TestSpectralLoss:
    def test_equal_signals_have_no_distance(self):
        wave = torch.randn(2, 6000)
        assert [float(value) for value in SpectralLoss(24000)(wave, wave)] == [0.0, 0.0]

    def test_twice_as_loud_is_the_logarithm_of_two_away_in_every_band_and_bin(self):
        wave = torch.randn(2, 6000)
        mel, stft = SpectralLoss(24000, [512, 1024])(2.0 * wave, wave)
        assert float(mel) == pytest.approx(math.log(2.0), rel=1e-4)
        # the relative distance of magnitudes is one
        assert float(stft) == pytest.approx(math.log(2.0) + 1.0, rel=1e-3)

    def test_magnitudes_are_those_of_torch(self):
        wave, window = torch.randn(2, 3000), torch.hann_window(512)
        expected = torch.stft(wave, 512, 128, window=window, center=True, pad_mode="reflect", return_complex=True).abs()
        torch.testing.assert_close(magnitudes(wave, 512, 128, window), expected.transpose(1, 2), atol=1e-4, rtol=1e-4)

    def test_silence_has_a_finite_gradient(self):
        wave = torch.zeros(1, 4000, requires_grad=True)
        mel, stft = SpectralLoss(24000)(wave, torch.randn(1, 4000))
        (mel + stft).backward()
        assert wave.grad is not None and bool(wave.grad.isfinite().all())

    def test_the_phase_does_not_matter_but_the_pitch_does(self):
        times = torch.arange(24000) / 24000
        tone, shifted, higher = (
            torch.sin(2 * math.pi * f * times + p)[None] for f, p in ((220, 0), (220, 1), (260, 0))
        )
        loss = SpectralLoss(24000)
        assert float(loss(shifted, tone)[0]) < 0.5 * float(loss(higher, tone)[0])


class TestDiscriminators:
    @pytest.mark.parametrize("part", [SpectrumDiscriminator(512, 4), PeriodDiscriminator(3, 4)])
    @pytest.mark.parametrize("n_samples", [1000, 2048])
    def test_each_scores_every_signal_and_shows_its_features(self, part: torch.nn.Module, n_samples: int):
        scores, features = part(torch.randn(3, n_samples))
        assert scores.shape[0] == 3 and scores.ndim == 2 and len(features) == 4

    def test_the_losses_are_those_of_the_formulas(self):
        ones, zeros = (torch.ones(2, 5), [torch.ones(2, 4)]), (torch.zeros(2, 5), [torch.full((2, 4), 0.5)])
        assert float(discriminator_loss([ones], [zeros])) == 0.0  # everything told apart
        assert float(discriminator_loss([zeros], [ones])) == 2.0  # everything mistaken
        assert float(adversarial_loss([ones])) == 0.0 and float(adversarial_loss([zeros])) == 1.0
        assert float(feature_loss([ones], [zeros])) == pytest.approx(0.5)
        assert float(feature_loss([ones], [ones])) == 0.0

    def test_they_learn_to_tell_noise_from_tones(self):
        torch.manual_seed(0)
        judges = Discriminators(channels=4, windows=(256,), periods=(2,))
        optimizer = torch.optim.Adam(judges.parameters(), lr=3e-3)
        times = torch.arange(2048) / 16000
        for _ in range(40):
            tones = torch.sin(2 * math.pi * (200 + 300 * torch.rand(4, 1)) * times)
            loss = discriminator_loss(judges(tones), judges(torch.randn(4, 2048)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.1


class TestCrops:
    def test_they_are_a_function_of_seed_and_step(self):
        made = recordings(tiny().features.mel)
        one, two, other = (CropSource(made, tiny().features.mel, n_frames=16, margin=2, seed=s) for s in (1, 1, 2))
        assert torch.equal(one.draw(5, 4).wave, two.draw(5, 4).wave)
        assert not torch.equal(one.draw(5, 4).wave, one.draw(6, 4).wave)
        assert not torch.equal(one.draw(5, 4).wave, other.draw(5, 4).wave)

    def test_the_wave_belongs_to_the_middle_of_the_mel(self):
        mel = tiny().features.mel
        crops = CropSource(recordings(mel), mel, n_frames=16, margin=2, seed=1).draw(0, 3)
        assert crops.mel.shape == (3, 16, 20) and crops.own_mel.shape == (3, 20, 20)
        assert crops.f0.shape == (3, 20) and crops.wave.shape == (3, 16 * 256)
        again = log_mel(crops.wave[0].numpy(), mel)
        # frames that see only samples of the crop
        np.testing.assert_allclose(again[2:15], crops.mel[0, 2:15].numpy(), atol=0.02)
        assert torch.equal(crops.own_mel[:, 2:-2], crops.mel)

    def test_the_pitch_is_read_from_the_recording_whatever_a_model_wrote(self):
        mel = tiny().features.mel
        made = [
            dataclasses.replace(recording, mel=recording.mel - 9.0, own_mel=recording.mel)
            for recording in recordings(mel)
        ]
        crops = CropSource(made, mel, n_frames=16, margin=2, seed=1).draw(0, 3)
        torch.testing.assert_close(crops.own_mel[:, 2:-2] - 9.0, crops.mel)

    def test_a_short_recording_is_followed_by_silence(self):
        mel = tiny().features.mel
        wave = np.full(300, 1000, dtype=np.int16)
        short = Recording("short", wave, np.zeros((2, 20), dtype=np.float32), None)
        crops = CropSource([short], mel, n_frames=16, margin=1, seed=1).draw(0, 1)
        assert bool((crops.wave[0, 300:] == 0).all()) and not bool(crops.f0.any())


class TestSteps:
    def test_the_stages_follow_each_other(self):
        ready, source = trainer(tiny())
        stages, losses = [], []
        for step in range(9):
            stages.append(ready.stage())
            losses.append(ready.update(source.draw(step, 2)).losses)
        assert stages == ["pitch"] * 3 + ["spectral"] * 3 + ["adversarial"] * 3
        named = dict(zip(("pitch", "mel", "stft", "adversarial"), torch.stack(losses).T[:4] > 0, strict=True))
        assert named["pitch"].tolist() == [True] * 3 + [False] * 6
        assert named["mel"].tolist() == named["stft"].tolist() == [False] * 3 + [True] * 6
        assert named["adversarial"].tolist() == [False] * 6 + [True] * 3

    def test_each_stage_trains_its_own_networks(self):
        ready, source = trainer(tiny(train__max_steps=20))
        parts = {
            "pitch": ready.generator.pitch, "filters": ready.generator.backbone, "judges": ready.discriminators,
        }  # fmt: skip
        changed = []
        for step in range(9):
            before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
            ready.update(source.draw(step, 2))
            changed.append(
                {
                    n
                    for n, part in parts.items()
                    if any(not torch.equal(a, b) for a, b in zip(before[n], part.parameters(), strict=True))
                }
            )
        assert changed == [{"pitch"}] * 3 + [{"filters"}] * 3 + [{"filters", "judges"}] * 3

    def test_training_lowers_the_losses_of_each_stage(self):
        ready, source = trainer(
            tiny(
                vocoder__pitch_steps=25,
                vocoder__adversarial_start_step=50,
                vocoder__pitch_lr=1e-2,
                train__max_steps=62,
                train__lr=3e-3,
            )
        )
        means = [ready.update(source.draw(step, 2)).losses for step in range(62)]
        pitch, mel = (torch.stack(means)[:, index] for index in (0, 1))
        assert float(pitch[18:25].mean()) < 0.8 * float(pitch[:7].mean())
        assert float(mel[43:50].mean()) < 0.9 * float(mel[25:29].mean())
        # discriminators do not undo what was learnt
        assert float(mel[55:].mean()) < 1.1 * float(mel[43:50].mean())

    def test_the_gradient_of_the_judges_reaches_the_generator(self):
        ready, source = trainer(tiny(vocoder__mel_weight=0.0, vocoder__stft_weight=0.0))
        for step in range(6):
            ready.update(source.draw(step, 2))
        assert ready.stage() == "adversarial"
        before = ready.generator.backbone.head.weight.detach().clone()
        assert ready.update(source.draw(6, 2)).grad_norm > 0
        assert not torch.equal(before, ready.generator.backbone.head.weight)

    def test_a_loss_that_is_not_a_number_stops_and_changes_nothing(self):
        ready, source = trainer(tiny())
        crops = source.draw(0, 2)
        crops.own_mel[0, 3, 2] = math.nan
        before = {name: tensor.clone() for name, tensor in ready.generator.state_dict().items()}
        with pytest.raises(TrainingError, match="not a finite number at step 1"):
            ready.update(crops)
        assert all(torch.equal(before[name], tensor) for name, tensor in ready.generator.state_dict().items())


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.safetensors")[0]


def _log(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


@pytest.fixture(scope="module")
def analysed_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that knows the pitch of its recordings, too, whose analysis is most of a short run."""
    home = Home(tmp_path_factory.mktemp("analysed") / "home")
    shutil.copytree(trained_once, home.root)
    train_vocoder(home, tiny(train__max_steps=1), tag="any")
    shutil.rmtree(home.vocoders)
    return home.root


@pytest.fixture
def analysed(analysed_once: Path, home: Home) -> Home:
    """The data folder of this test, with the small corpus prepared, a run named tiny, and the pitch of recordings."""
    shutil.copytree(analysed_once, home.root)
    return home


class TestRun:
    @pytest.mark.slow
    def test_it_leaves_a_vocoder_with_log_previews_and_dev_measures(self, analysed: Home):
        reports: list[TrainingReport] = []
        result = train_vocoder(
            analysed,
            tiny(train__preview_every=9, train__n_previews=1, vocoder__final_scores=True),
            tag="mine",
            on_report=reports.append,
        )
        assert result.folder == analysed.vocoders / "female_mine" and result.step == 9 and not result.stopped
        assert [report.step for report in reports] == list(range(1, 10))
        assert [report.step for report in reports if report.dev] == [3, 6, 9]
        assert {"log_mel", "pitch_cents", "voicing_errors", "mcd", "f0_rmse"} <= result.dev.keys()
        assert ("dnsmos" in result.dev) == (missing_for("mos") is None)
        assert len(list((result.folder / "previews").iterdir())) == 3
        page = parse((result.folder / "previews" / "index.html").read_text(encoding="utf-8"))
        assert [take.find("strong")[0].text for take in page.find("div", class_="take")] == ["step 9", "target"]
        assert page.find("h1")[0].text == "female_mine, step 9"
        captions = [caption.find("strong")[0].text for caption in page.find("figcaption")]
        assert {"total", "adversarial", "log mel", "pitch cents"} <= set(captions)
        mel = tiny().features.mel
        vocoder = build_vocoder("female_mine", mel, home=analysed)
        assert isinstance(vocoder, IstftVocoder)
        wave = vocoder.synthesise(torch.full((1, 8, 20), -2.0))
        assert wave.shape == (1, 8 * 256) and bool(wave.isfinite().all())

    def test_a_run_stopped_in_every_stage_ends_with_the_same_bits_as_an_uninterrupted_one(self, analysed: Home):
        whole = train_vocoder(analysed, tiny(), tag="whole")
        messages: list[str] = []
        for stop_at in (1, 4, 7, 8):
            seen: list[int] = []
            stopped = train_vocoder(
                analysed,
                tiny(),
                tag="parts",
                on_report=lambda report, seen=seen: seen.append(report.step),  # type: ignore[misc]
                on_message=messages.append,
                should_stop=lambda seen=seen, stop_at=stop_at: seen[-1:] == [stop_at],  # type: ignore[misc]
            )
            assert stopped.stopped and stopped.step == stop_at
        resumed = train_vocoder(analysed, tiny(), tag="parts", on_message=messages.append)
        told = [message for message in messages if message.startswith("resuming")]
        assert told == [f"resuming {resumed.folder} at step {step}" for step in (1, 4, 7, 8)]
        assert _log(resumed.folder) == _log(whole.folder)
        expected, found = _tensors(whole.folder), _tensors(resumed.folder)
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)

    def test_a_vocoder_learns_from_the_mels_of_a_voice_beginning_with_another_one(self, analysed: Home):
        config = tiny(train__max_steps=7)
        base = train_vocoder(analysed, config, tag="base")
        messages: list[str] = []
        stages: list[str] = []
        options: dict[str, Any] = {"tag": "fine", "init": "female_base", "mels_from": "tiny"}
        fine = train_vocoder(
            analysed,
            tiny(train__max_steps=2),
            on_message=messages.append,
            on_report=lambda report: stages.append(report.stage),
            **options,
        )
        assert f"begins with the weights of {base.folder} and its discriminators" in messages
        assert stages == ["adversarial"] * 2
        before, after = (load_checkpoint(run.folder / "generator.safetensors")[0] for run in (base, fine))
        pitch = [name for name in before if name.startswith("pitch.")]
        assert pitch and all(torch.equal(before[name], after[name]) for name in pitch)
        assert not torch.equal(before["backbone.embed.weight"], after["backbone.embed.weight"])
        assert bool(after["correction.weight"].any()) and "correction.weight" not in before
        assert isinstance(build_vocoder("female_fine", config.features.mel, home=analysed), IstftVocoder)
        # a run that goes on needs the same beginning
        assert train_vocoder(analysed, tiny(train__max_steps=3), **options).step == 3
        with pytest.raises(ConfigError, match="this folder has a run with other settings"):
            train_vocoder(analysed, tiny(train__max_steps=4), **{**options, "mels_from": "none"})

    def test_a_voice_that_predicts_the_pitch_writes_its_mels_at_that_of_the_target(
        self, analysed: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        found = read_voice(find_voice(analysed, "tiny"), analysed, weights=False).config
        voice = write_voice(tmp_path / "pitched", override(found, {"model.pitch_predictor": True}))

        def mel_at(f0: float) -> np.ndarray:
            def reader(*_: object) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
                return lambda mel: (torch.full(mel.shape[:2], f0), torch.ones(mel.shape[:2], dtype=torch.bool))

            monkeypatch.setattr("aasvc_cli.pipeline.train_vocoder.PitchReader", reader)
            forced = _Forced(analysed, voice, "male_female", found.features.mel, torch.device("cpu"))
            assert forced.voice.model.pitch_predictor is not None
            torch.manual_seed(1)
            torch.nn.init.normal_(forced.voice.model.pitch_predictor.condition.weight)
            return forced._mel(read_manifest(analysed).sets["train"][0])

        assert np.array_equal(mel_at(200.0), mel_at(200.0))
        assert np.abs(mel_at(200.0) - mel_at(300.0)).max() > 1e-2

    def test_a_voice_without_statistics_of_its_source_takes_those_of_the_pairs(self, analysed: Home, tmp_path: Path):
        found = read_voice(find_voice(analysed, "tiny"), analysed, weights=False).config
        voice = write_voice(tmp_path / "theirs", found)
        tree = json.loads((voice / "stats.json").read_text())
        target = tree["target"] | {"kind": "mel", "key": feature_keys(found.features)["target"]}
        write_json(voice / "stats.json", {"origin": "theirs", "target": target})
        forced = _Forced(analysed, voice, "male_female", found.features.mel, torch.device("cpu"))
        own = json.loads((analysed.stats / "male_female" / "self.json").read_text())
        assert np.allclose(forced.voice.stats.source.mean, own["source"]["mean"])
        assert not np.allclose(forced.voice.stats.source.mean, forced.voice.stats.target.mean)

    def test_without_mels_from_it_learns_from_the_voice_of_the_same_tag_which_speaks_through_it_then(
        self, analysed: Home
    ):
        run = find_voice(analysed, "tiny")
        messages: list[str] = []
        done = train_vocoder(analysed, tiny(train__max_steps=2), tag="tiny", on_message=messages.append)
        assert f"writing mels with {run.name}" in messages
        assert messages[-1] == f"{run.name} speaks through it from now on, where --vocoder names no other"
        assert json.loads((run / "card.json").read_text()) == {"vocoder": "female_tiny"}
        assert json.loads((done.folder / "data.json").read_text())["mels_from"] == run.name
        loaded = Converter.load("tiny", home=analysed)
        assert loaded.vocoder_name == "female_tiny" and isinstance(loaded.vocoder, IstftVocoder)
        # it goes on as it began, whatever has become of the voice
        shutil.rmtree(run)
        with pytest.raises(ModelError, match="no such model folder"):
            train_vocoder(analysed, tiny(train__max_steps=3), tag="tiny")

    def test_recordings_alone_stay_possible_and_what_began_with_them_goes_on_with_them(self, analysed: Home):
        run = find_voice(analysed, "tiny")
        hidden = run.with_name(".hidden")
        run.rename(hidden)
        train_vocoder(analysed, tiny(train__max_steps=1), tag="tiny")
        hidden.rename(run)
        assert train_vocoder(analysed, tiny(train__max_steps=2), tag="tiny").step == 2
        alone = train_vocoder(analysed, tiny(train__max_steps=1), tag="tiny", mels_from="none", overwrite=True)
        assert "mels_from" not in json.loads((alone.folder / "data.json").read_text())
        assert not (run / "card.json").exists()

    def test_a_voice_that_was_trained_on_another_set_is_not_heard(self, analysed: Home):
        record = find_voice(analysed, "tiny") / "data.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "prepared": "other"}))
        done = train_vocoder(analysed, tiny(train__max_steps=1), tag="tiny")
        assert "mels_from" not in json.loads((done.folder / "data.json").read_text())

    @pytest.mark.parametrize("corrects", [False, True])
    def test_training_starts_from_a_vocoder_with_or_without_mels_of_a_voice(self, analysed: Home, corrects: bool):
        train_vocoder(analysed, tiny(train__max_steps=1, vocoder__correct_mel=corrects), tag="base")
        further = train_vocoder(analysed, tiny(train__max_steps=1), tag="further", init="female_base")
        assert further.step == 1

    def test_without_init_a_run_of_the_preset_begins_with_the_universal_vocoder(self):
        preset = override(Config(), preset_layer("vocoder").values)
        assert beginning(None, preset) == "universal"
        assert beginning("female_mine", preset) == "female_mine"
        assert beginning("none", preset) is None
        assert beginning(None, override(preset, {"vocoder.width": 128})) is None
        assert beginning(None, override(preset, {"features.mel.hop_length": 300})) is None

    def test_the_pitch_range_is_that_of_the_vocoder_that_it_begins_with(self, analysed: Home):
        # the bins of the pitch network lie in it
        train_vocoder(
            analysed, tiny(train__max_steps=1, features__mcep__f0_floor=100.0, vocoder__pitch_recordings=1), tag="base"
        )
        further = train_vocoder(
            analysed, tiny(train__max_steps=1, vocoder__pitch_recordings=1), tag="further", init="female_base"
        )
        assert read_vocoder(further.folder).generator["f0_floor"] == 100.0

    def test_discriminators_that_lie_beside_a_vocoder_are_gone_on_with(self, analysed: Home, tmp_path: Path):
        base = train_vocoder(
            analysed, tiny(train__max_steps=1, vocoder__pitch_steps=0, vocoder__adversarial_start_step=0), tag="base"
        )
        given = tmp_path / "given"
        given.mkdir()
        for name in ("config.yaml", "generator.safetensors"):
            shutil.copy(base.folder / name, given)
        tensors = {name: value for name, value in _tensors(base.folder).items() if name.startswith("discriminators.")}
        save_checkpoint(given / "discriminators.safetensors", tensors, {})
        said: list[str] = []
        # without a single step of theirs, they stay what they were
        config = tiny(train__max_steps=1, vocoder__discriminator_lr=0.0)
        further = train_vocoder(analysed, config, tag="further", init=given, on_message=said.append)
        assert f"begins with the weights of {given} and its discriminators" in said
        found = _tensors(further.folder)
        assert all(torch.equal(found[name], value) for name, value in tensors.items())

    def test_a_vocoder_of_other_sizes_cannot_be_the_beginning(self, analysed: Home):
        train_vocoder(analysed, tiny(train__max_steps=1), tag="base")
        with pytest.raises(ModelError, match="--init female_base: the sizes of its network differ"):
            train_vocoder(analysed, tiny(train__max_steps=1, vocoder__width=8), tag="fine", init="female_base")

    def test_other_settings_are_refused_by_name(self, analysed: Home):
        train_vocoder(analysed, tiny(train__max_steps=1), tag="mine")
        with pytest.raises(ConfigError, match=r"vocoder.width: 16 there, 8 now"):
            train_vocoder(analysed, tiny(train__max_steps=1, vocoder__width=8), tag="mine")
        # those of voices do not matter, nor do more steps
        longer = train_vocoder(analysed, tiny(model__width=64, train__max_steps=2), tag="mine")
        assert longer.step == 2

    def test_overwrite_begins_anew(self, analysed: Home):
        train_vocoder(analysed, tiny(train__max_steps=2), tag="mine")
        again = train_vocoder(analysed, tiny(train__max_steps=1, vocoder__width=8), tag="mine", overwrite=True)
        assert again.step == 1
        assert _tensors(again.folder)["generator.backbone.embed.weight"].shape[0] == 8

    def test_a_folder_that_is_no_run_is_left_alone(self, analysed: Home):
        folder = analysed.vocoders / "female_mine"
        folder.mkdir(parents=True)
        (folder / "poem.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match="not a training run"):
                train_vocoder(analysed, tiny(), tag="mine", overwrite=overwrite)
        assert (folder / "poem.txt").read_text() == "mine"

    def test_a_damaged_checkpoint_is_refused(self, analysed: Home):
        folder = train_vocoder(analysed, tiny(train__max_steps=1), tag="mine").folder
        (folder / "last.safetensors").write_bytes((folder / "last.safetensors").read_bytes()[:1000])
        with pytest.raises(ModelError, match="expected a complete safetensors file"):
            train_vocoder(analysed, tiny(train__max_steps=2), tag="mine")

    def test_without_prepared_data_it_says_what_to_do(self, home: Home):
        with pytest.raises(DataError, match="aasvc prepare"):
            train_vocoder(home, tiny())

    def test_recordings_of_many_people_take_the_place_of_a_prepared_set(self, home: Home, tmp_path: Path):
        config = tiny(train__max_steps=4, vocoder__versions=1)
        for recording in recordings(config.features.mel, count=8, seconds=0.6):
            number = int(recording.utterance_id.removeprefix("sound"))
            folder = tmp_path / "people" / "readers" / f"p{number // 2}"
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(folder / f"s{number % 2}.wav", recording.wave / 32768.0, config.features.mel.sample_rate)
        result = train_vocoder(home, config, recordings=tmp_path / "people", tag="many")
        assert result.folder == home.vocoders / "people_many" and result.step == 4
        described = json.loads((result.folder / "data.json").read_text())
        assert described["dev"] == ["readers-p3-s0", "readers-p3-s1"]
        assert described["train"] == [f"readers-p{n}-s{k}" for n in range(3) for k in range(2)]
        shutil.rmtree(tmp_path / "people" / "readers" / "p3")
        with pytest.raises(DataError, match="expected 4 speakers or more in a group"):
            train_vocoder(home, config, recordings=tmp_path / "people", tag="few")

    @pytest.mark.parametrize("versions", [0, 1])
    def test_with_versions_the_pitch_network_sees_each_recording_at_another_pitch(
        self, analysed: Home, monkeypatch: pytest.MonkeyPatch, versions: int
    ):
        drawn: list[list[Recording]] = []

        class Source(CropSource):
            def __init__(self, chosen, *args, **kwargs):
                drawn.append(list(chosen))
                super().__init__(chosen, *args, **kwargs)

        monkeypatch.setattr("aasvc_cli.pipeline.train_vocoder.CropSource", Source)
        train_vocoder(analysed, tiny(train__max_steps=1, vocoder__versions=versions), tag=f"versions{versions}")
        for_pitch, for_all = drawn
        names = {each.utterance_id for each in for_all if each.f0 is not None and not each.utterance_id.endswith("-0")}
        repitched = [each for each in for_pitch if each.utterance_id.endswith("-pitch")]
        assert {each.utterance_id.removesuffix("-pitch") for each in repitched} == (names if versions else set())
        assert not [each for each in for_all if each.utterance_id.endswith("-pitch")]
        for each in repitched:
            assert each.f0 is not None and len(each.f0) == len(each.mel)

    def test_only_some_recordings_are_analysed_for_their_pitch(self, trained: Home):
        train_vocoder(trained, tiny(train__max_steps=1), tag="mine")
        kinds = [path.name for path in trained.features.iterdir() if path.name.startswith("f0-")]
        assert len(kinds) == 1
        manifest = read_manifest(trained)
        n_dev = len(manifest.sets["dev"])
        assert len(list((trained.features / kinds[0]).rglob("*.safetensors"))) == 3 + min(3, n_dev)


class TestCommand:
    def write(self, tmp_path: Path) -> Path:
        path = tmp_path / "quick.yaml"
        path.write_text(json.dumps(TINY))
        return path

    def test_it_trains_a_vocoder_that_convert_takes(self, aasvc: Callable[..., Any], analysed: Home, tmp_path: Path):
        done = aasvc("train", "--kind", "vocoder", "--conf", self.write(tmp_path), "--tag", "mine", "--json", "-")
        assert done.code == 0, done.err
        told = json.loads(done.out)
        assert told["step"] == 9 and Path(told["folder"]).name == "female_mine"
        program, *proposed = done.err.partition("next: ")[2].splitlines()[0].replace("TAG", "tiny").split()
        converted = aasvc(*proposed)
        assert (program, proposed[-1], converted.code) == ("aasvc", "female_mine", 0), converted.err

    def test_options_for_voices_are_wrong_usage(self, aasvc: Callable[..., Any], analysed: Home):
        done = aasvc("train", "--kind", "vocoder", "--tensorboard")
        assert done.code == 2 and "leave it out with --kind vocoder" in done.err
        done = aasvc("train", "--mels-from", "tiny")
        assert done.code == 2 and "add --kind vocoder" in done.err
        done = aasvc("train", "--recordings", analysed.root)
        assert done.code == 2 and "add --kind vocoder or content" in done.err
        done = aasvc("train", "--kind", "vocoder", "--recordings", analysed.root, "--mels-from", "tiny")
        assert done.code == 2 and "has no pairs for --mels-from" in done.err
