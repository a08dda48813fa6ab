"""The models that judge recordings: what they need, and what they make of speech, noise and silence."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.measures import judges as listeners
from aasvc_cli.measures import scoring
from aasvc_cli.pipeline import evaluate
from aasvc_cli.storage.home import find_home

RECORDINGS = Path(__file__).parents[1] / "assets" / "recordings"


def recording(name: str) -> tuple[np.ndarray, int]:
    return read_audio(RECORDINGS / f"{name}.flac")


def needs(group: str) -> None:
    missing = listeners.missing_for(group)
    if missing is not None:
        pytest.skip(missing)


def test_a_missing_package_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(listeners, "PACKAGES", {"mos": ("json", "no_such_package"), "speaker": ("json",)})
    assert listeners.missing_for("mos") == "not installed: no_such_package; run: pip install 'aasvc[mos]'"
    assert listeners.missing_for("speaker") is None
    assert listeners.missing_for("signal") is None
    monkeypatch.setattr(listeners, "PACKAGES", {"text": ("no_such_package",)})
    with pytest.raises(MissingExtraError, match=r"pip install 'aasvc\[asr\]'"):
        listeners.Whisper("base", threads=1)


def test_a_mean_voice_leaves_one_recording_out_where_there_are_others():
    voices = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0]), "c": None}
    assert listeners.mean_voice(voices) == pytest.approx(np.array([1.0, 1.0]) / math.sqrt(2))
    assert listeners.mean_voice(voices, without="a") == pytest.approx([0.0, 1.0])
    assert listeners.mean_voice({"a": np.array([1.0, 0.0])}, without="a") == pytest.approx([1.0, 0.0])
    assert listeners.mean_voice({"c": None}) is None
    assert math.isnan(listeners.similarity(None, voices["a"]))
    assert listeners.similarity(voices["a"], voices["b"]) == 0.0


def test_a_voice_is_nearer_to_itself_in_another_sentence_than_to_another_voice():
    needs("speaker")
    ours, same, other = (
        listeners.voice_embedding(*recording(name))
        for name in ("female/train_parallel_0003", "female/train_parallel_0005", "male/train_parallel_0003")
    )
    assert ours is not None and same is not None and other is not None
    assert np.linalg.norm(ours) == pytest.approx(1.0)
    assert listeners.similarity(ours, ours) == pytest.approx(1.0)
    assert listeners.similarity(ours, same) > 0.8 > 0.7 > listeners.similarity(ours, other)
    assert listeners.voice_embedding(np.zeros(16000), 16000) is None


def test_noise_sounds_worse_than_speech_and_silence_has_no_opinion():
    needs("mos")
    wave, rate = recording("female/train_parallel_0007")
    clean = listeners.opinions(wave, rate)
    noisy = listeners.opinions(wave + 0.1 * np.random.default_rng(0).standard_normal(len(wave)), rate)
    assert all(1.0 <= value <= 5.0 for value in clean.values())
    assert all(noisy[name] < clean[name] - 0.3 for name in ("DNSMOS", "DNSMOS_BAK", "DNSMOS_P808"))
    assert listeners.opinions(wave, rate) == clean, "the same recording has the same opinion"
    assert all(math.isnan(value) for value in listeners.opinions(np.zeros(rate), rate).values())


def test_squim_is_used_if_its_weights_are_there_and_never_fetched(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    missing = listeners.squim_missing()
    assert missing is not None and str(tmp_path) in missing
    (tmp_path / listeners.SQUIM_FILE).parent.mkdir(parents=True)
    (tmp_path / listeners.SQUIM_FILE).touch()
    monkeypatch.setattr(torch.version, "cuda", None)  # torchaudio compares CUDA versions where nobody asks for CUDA
    try:
        from torchaudio import models
    except (ImportError, OSError, RuntimeError) as error:
        assert "torchaudio does not load" in str(listeners.squim_missing())
        pytest.skip(f"torchaudio does not load: {error}")
    torch.manual_seed(0)
    torch.save(models.squim_objective_base().state_dict(), tmp_path / listeners.SQUIM_FILE)
    assert listeners.squim_missing() is None
    found = listeners.squim(recording("male/train_parallel_0003")[0][:24000], 24000)
    assert list(found) == ["SQUIM_STOI", "SQUIM_PESQ", "SQUIM_SISDR"]
    assert all(math.isfinite(value) for value in found.values())


STAND_IN = """
import torch

class SquimObjective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gains = torch.nn.Parameter(torch.zeros(3))

    def forward(self, wave):
        assert not self.training and not torch.is_grad_enabled()
        assert wave.dtype == torch.float32 and wave.ndim == 2 and len(wave) == 1
        return [gain * wave.square().mean(dim=1) for gain in self.gains]

def squim_objective_base():
    return SquimObjective()
"""
"""torchaudio.models as far as SQUIM is concerned: three scores of a batch of one, in the order STOI, PESQ, SI-SDR."""


@pytest.fixture
def squim_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A torchaudio whose SQUIM multiplies the mean power of what it hears by three weights; the file of its weights."""
    import torch

    (tmp_path / "packages" / "torchaudio" / "models").mkdir(parents=True)
    (tmp_path / "packages" / "torchaudio" / "__init__.py").touch()
    (tmp_path / "packages" / "torchaudio" / "models" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = tmp_path / listeners.SQUIM_FILE
    weights.parent.mkdir(parents=True)
    listeners._squim_model.cache_clear()
    yield weights
    listeners._squim_model.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def test_squim_hears_16_khz_with_the_weights_on_disk_and_each_score_keeps_its_name(
    squim_stand_in, tmp_path, monkeypatch
):
    import torch

    assert "SQUIM_OBJECTIVE.get_model()" in str(listeners.squim_missing())
    torch.save({"gains": torch.tensor([1.0, 2.0, 3.0])}, squim_stand_in)
    assert listeners.squim_missing() is None
    tone = np.sin(2 * np.pi * 440 * np.arange(24000) / 24000).astype(np.float32)
    found = listeners.squim(tone, 24000)
    assert found == pytest.approx({"SQUIM_STOI": 0.5, "SQUIM_PESQ": 1.0, "SQUIM_SISDR": 1.5}, rel=1e-3)
    assert all(math.isnan(value) for value in listeners.squim(np.zeros(100), 24000).values())
    # through a whole evaluation: the conversion is half as loud, and silence fails
    monkeypatch.setattr(scoring, "_installed", lambda package: package)
    for folder, wave in (("converted", tone / 2), ("target", tone)):
        write_audio(tmp_path / folder / "tone.wav", wave, 24000)
        write_audio(tmp_path / folder / "silence.wav", np.zeros(24000, dtype=np.float32), 24000)
    folders = tmp_path / "converted", tmp_path / "target"
    result = evaluate.evaluate_folders(
        *folders, home=find_home(), options=evaluate.Options(measures=["squim_pesq"], jobs=1)
    )
    assert not result.skipped and list(result.corpus) == ["SQUIM_PESQ"]
    assert result.corpus["SQUIM_PESQ"].mean == pytest.approx(0.25, rel=1e-2)
    assert (result.corpus["SQUIM_PESQ"].n, result.corpus["SQUIM_PESQ"].n_undefined) == (1, 0)
    assert [failure.utterance_id for failure in result.failures] == ["silence"]
    assert result.ceiling is not None and result.ceiling["SQUIM_PESQ"].mean == pytest.approx(1.0, rel=1e-2)


def test_weights_that_are_no_weights_cost_the_score_and_nothing_is_unpickled(squim_stand_in):
    squim_stand_in.write_bytes(pickle.dumps(Path("anything"), protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        listeners.squim(np.ones(1600), 16000)


def test_a_recogniser_that_is_not_there_is_refused_by_name(tmp_path):
    needs("text")
    with pytest.raises(DataError, match="no such folder and no model of that name; known names: tiny"):
        listeners.Whisper("bass", threads=1)
    with pytest.raises(DataError, match=r"no model\.bin"):
        listeners.Whisper(str(tmp_path), threads=1)
    (tmp_path / "model.bin").write_bytes(b"nothing")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="does not load"):
        listeners.Whisper(str(tmp_path), threads=1)


@pytest.mark.shared
def test_whisper_hears_the_sentence_and_hears_it_again():
    """Needs the folder of a Whisper model in CTranslate2's format in WHISPER_MODEL."""
    import os

    needs("text")
    folder = os.environ.get("WHISPER_MODEL")
    if not folder:
        pytest.skip("set WHISPER_MODEL to the folder of a Whisper model")
    whisper = listeners.Whisper(folder, threads=1)
    heard = whisper.recognise(*recording("female/train_parallel_0003"), "ja")
    assert "社長" in heard and "部屋" in heard
    assert whisper.recognise(*recording("female/train_parallel_0003"), "ja") == heard
    assert whisper.recognise(np.zeros(16000), 16000, "ja") == ""
    chances = whisper.languages(*recording("female/train_parallel_0003"))
    assert max(chances, key=chances.__getitem__) == "ja"
    assert whisper.languages(np.zeros(16000), 16000) == {}
    with pytest.raises(DataError, match="language 'xx'"):
        whisper.recognise(*recording("female/train_parallel_0003"), "xx")
