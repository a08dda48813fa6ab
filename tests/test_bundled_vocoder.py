"""The vocoders that ship with the package: what they say, how well they resynthesise, that pieces have no seams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.audio.world import sptk
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ModelError
from aasvc_cli.measures.signal import score_pair
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import BUNDLED, UNIVERSAL
from aasvc_cli.vocoder.build import Vocoder, build_vocoder
from aasvc_cli.vocoder.folder import find_vocoder
from aasvc_cli.vocoder.griffin_lim import GriffinLim
from aasvc_cli.vocoder.istft import IstftVocoder

MEL = MelConfig()


@pytest.fixture(scope="module", params=[BUNDLED, UNIVERSAL])
def vocoder(request: pytest.FixtureRequest) -> IstftVocoder:
    vocoder = build_vocoder(request.param, MEL)
    assert isinstance(vocoder, IstftVocoder)
    return vocoder


def sentence(demo_corpus: Path, speaker: str, index: int = 0) -> np.ndarray:
    """A sentence that they were not trained on."""
    wave, rate = read_audio(sorted((demo_corpus / speaker / "wav" / "eval").iterdir())[index])
    return resample(wave, rate, MEL.sample_rate)


@pytest.fixture(scope="module")
def recording(demo_corpus: Path) -> np.ndarray:
    return sentence(demo_corpus, "female")


def copy(vocoder: Vocoder, wave: np.ndarray) -> np.ndarray:
    made = vocoder.synthesise(torch.from_numpy(log_mel(wave, MEL))[None])[0].numpy()
    return np.clip(made[: len(wave)], -1.0, 1.0)


@pytest.mark.parametrize("name", [BUNDLED, UNIVERSAL])
def test_they_are_small_and_say_where_they_come_from(name: str):
    folder = find_vocoder(None, name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6
    card = read_json(folder / "card.json", "a model card")
    assert {"data", "licence", "training", "step", "scores", "limits"} <= card.keys()
    assert "synthetic" in str(card["data"])


def test_copy_synthesis_is_near_the_recording_and_nearer_than_griffin_lim(vocoder: IstftVocoder, recording: np.ndarray):
    ours, plain = (
        score_pair(copy(each, recording), 24000, recording, 24000, f0_min=90.0, f0_max=440.0)
        for each in (vocoder, GriffinLim(MEL))
    )
    assert ours.mcd < 3.6 and ours.mcd < plain.mcd - 0.8  # of the compressed recording that ships with the package
    assert ours.f0_corr > 0.8
    assert ours.ddur < 0.02


def test_how_another_machine_rounds_a_mel_is_not_heard(vocoder: IstftVocoder, recording: np.ndarray):
    mel = torch.from_numpy(log_mel(recording, MEL))[None]
    rounding = 2e-6 * torch.randn(mel.shape, generator=torch.Generator().manual_seed(0))
    made, other = (vocoder.synthesise(each) for each in (mel, mel + rounding))
    assert (made - other).abs().max() < 1e-3


def test_a_man_is_spoken_at_his_pitch_by_the_universal_one(demo_corpus: Path):
    # SWIPE finds the pitch of a deep voice where Harvest, asked for anything from 60 Hz on, jumps by octaves
    universal, cents, mcd = build_vocoder(UNIVERSAL, MEL), [], []
    for index in range(5):
        recording = sentence(demo_corpus, "male", index)
        said = copy(universal, recording)
        mcd.append(score_pair(said, 24000, recording, 24000, f0_min=60.0, f0_max=300.0).mcd)
        asked, made = (
            sptk().swipe(each.astype(np.float64) * 32768.0, 24000, 120, min=50.0, max=300.0)
            for each in (recording, said)
        )
        both = (asked[: len(made)] > 0) & (made[: len(asked)] > 0)
        assert both.sum() > 50
        cents.append(1200.0 * np.abs(np.log2(made[: len(asked)][both] / asked[: len(made)][both])))
    assert max(mcd) < 3.6
    every = np.concatenate(cents)
    assert (every > 50.0).mean() < 0.015 and np.median(every) < 8.0


def test_the_mel_of_what_it_says_is_the_mel_asked_for(vocoder: IstftVocoder, recording: np.ndarray):
    asked, made = log_mel(recording, MEL), log_mel(copy(vocoder, recording), MEL)
    audible = np.maximum(asked, -4.0), np.maximum(made, -4.0)
    assert float(np.abs(audible[0] - audible[1]).mean()) < 0.09  # decades


def test_pieces_of_any_length_join_without_seams(vocoder: IstftVocoder, recording: np.ndarray):
    asked = torch.from_numpy(log_mel(recording, MEL))[None]
    whole = vocoder.synthesise(asked)
    for chunk_frames in (50, 128):
        parts = IstftVocoder(vocoder.generator, chunk_frames=chunk_frames).synthesise(asked)
        assert float((whole - parts).abs().max()) <= 1e-5


def test_it_says_the_same_each_time(vocoder: IstftVocoder, recording: np.ndarray):
    assert np.array_equal(copy(vocoder, recording), copy(vocoder, recording))


def test_a_model_of_other_mel_settings_is_refused_with_both_values():
    with pytest.raises(ModelError, match="sample_rate 24000, the model has 48000"):
        build_vocoder(BUNDLED, MelConfig(sample_rate=48000, n_fft=2048, hop_length=512))
