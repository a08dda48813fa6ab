"""Pretrained models that judge a recording: speech recognition, opinion scores, voices.

Each needs optional packages; :func:`missing_for` says in one line how to get them. All take mono samples at any rate
and bring them to the 16 kHz that these models hear; whatever lies above 8 kHz they do not judge.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.resampling import resample
from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.features.whisper import load_whisper
from aasvc_cli.measures.transcripts import Reader

Key = TypeVar("Key")
Wave = npt.NDArray[np.floating[Any]]
FloatArray = npt.NDArray[np.float64]

SAMPLE_RATE = 16000
SQUIM_FILE = "torchaudio/models/squim_objective_dns2020.pth"
"""Where torchaudio keeps the weights of SQUIM, below the folder of torch.hub."""
SQUIM_FETCH = "import torchaudio; torchaudio.pipelines.SQUIM_OBJECTIVE.get_model()"

PACKAGES: dict[str, tuple[str, ...]] = {
    "text": ("faster_whisper", "whisper_normalizer"),
    "mos": ("speechmos", "onnxruntime", "tqdm", "requests"),
    "speaker": ("resemblyzer",),
}
EXTRAS = {"text": "asr", "mos": "mos", "speaker": "mos"}


class Recogniser(Protocol):
    """Speech recognition."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What it is and how it decodes; together with the language it decides the outcome."""
        ...

    def recognise(self, wave: Wave, sample_rate: int, language: str) -> str:
        """The recognised text; empty if there is none."""
        ...

    def languages(self, wave: Wave, sample_rate: int) -> Mapping[str, float]:
        """How likely each language is, by its two letters; empty if nothing is heard."""
        ...


def missing_for(group: str) -> str | None:
    """How to get the packages of a group of measures; None if all are installed."""
    lacking = [name for name in PACKAGES.get(group, ()) if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return f"not installed: {', '.join(lacking)}; run: pip install 'aasvc[{EXTRAS[group]}]'"


COMPUTE_TYPE = "float32"
"""How Whisper calculates. In int8 it is a fifth faster, but processors without instructions for it (VNNI) clip sums,
and the same recordings had a character error rate of 14.3 % instead of 11.1 %."""

LEAST_CHANCE = 1e-3
"""Of the hundred languages of Whisper, the likely ones."""


class Whisper:
    """Whisper by faster-whisper: greedy, without a second try, so that a recording always gives the same text."""

    def __init__(self, model: str, *, threads: int) -> None:
        missing = missing_for("text")
        if missing:
            raise MissingExtraError(f"speech recognition: {missing}")
        self._model, identity = load_whisper(model, compute_type=COMPUTE_TYPE, threads=threads)
        self.description: Mapping[str, Any] = {
            "engine": "faster-whisper", "model": model, "identity": identity, "compute_type": COMPUTE_TYPE,
            "beam_size": 1, "temperature": 0.0,
        }  # fmt: skip

    @property
    def known_languages(self) -> list[str]:
        """Codes of the languages that the model understands, such as ``ja``."""
        return sorted(self._model.supported_languages)

    def recognise(self, wave: Wave, sample_rate: int, language: str) -> str:
        """The recognised text; empty for silence, for which Whisper invents text."""
        if not np.any(wave):
            return ""
        try:
            segments, _ = self._model.transcribe(
                _heard(wave, sample_rate), language=language, beam_size=1, best_of=1, temperature=0.0,
                condition_on_previous_text=False, without_timestamps=True, vad_filter=False,
                compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None,
            )  # fmt: skip
            return unicodedata.normalize("NFC", "".join(segment.text for segment in segments).strip())
        except ValueError as error:
            raise DataError(f"language {language!r}: {error}") from None

    def languages(self, wave: Wave, sample_rate: int) -> Mapping[str, float]:
        """How likely each language is, by the first 30 s: none of silence, English of a model without others."""
        if not np.any(wave):
            return {}
        if not self._model.model.is_multilingual:
            return {"en": 1.0}
        _, _, chances = self._model.detect_language(_heard(wave, sample_rate))
        return {code: float(chance) for code, chance in chances if chance >= LEAST_CHANCE}


def japanese_reader() -> tuple[str, Reader] | None:
    """Name and function of an installed library that reads Japanese; None if there is none that works offline."""
    for name, load in (("fugashi", _fugashi), ("pyopenjtalk", _openjtalk)):
        if importlib.util.find_spec(name) is not None:
            reader = load()
            if reader is not None:
                return name, reader
    return None


def opinions(wave: Wave, sample_rate: int) -> dict[str, float]:
    """DNSMOS P.835 and P.808 (Reddy et al., 2021 and 2022); NaN for silence.

    The procedure of its authors: the recording is repeated up to 9 s, and windows a second apart are averaged.
    """
    names = {
        "DNSMOS": "ovrl_mos", "DNSMOS_SIG": "sig_mos", "DNSMOS_BAK": "bak_mos", "DNSMOS_P808": "p808_mos",
    }  # fmt: skip
    if not np.any(wave):
        return dict.fromkeys(names, math.nan)
    from speechmos import dnsmos

    scores = dnsmos.run(np.clip(_heard(wave, sample_rate), -1.0, 1.0), sr=SAMPLE_RATE)
    return {name: float(scores[key]) for name, key in names.items()}


def squim_missing() -> str | None:
    """Why SQUIM cannot be used, and what to do; None if it can. Its weights are never fetched from here."""
    if importlib.util.find_spec("torchaudio") is None:
        return "not installed: torchaudio; run: pip install torchaudio"
    import torch

    path = Path(torch.hub.get_dir()) / SQUIM_FILE
    if not path.is_file():
        home = Path.home()  # reports show this text, too
        shown = Path("~") / path.relative_to(home) if path.is_relative_to(home) else path
        return f'weights not found: {shown}; run: python -c "{SQUIM_FETCH}"'
    try:
        importlib.import_module("torchaudio.models")
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        return f"torchaudio does not load ({reason}); install the release that belongs to your PyTorch"
    return None


def squim(wave: Wave, sample_rate: int) -> dict[str, float]:
    """Estimates of STOI, PESQ and SI-SDR without a reference (Kumar et al., "TorchAudio-Squim", 2023)."""
    names = ("SQUIM_STOI", "SQUIM_PESQ", "SQUIM_SISDR")
    if not np.any(wave):
        return dict.fromkeys(names, math.nan)
    import torch

    with torch.inference_mode():
        scores = _squim_model()(torch.from_numpy(_heard(wave, sample_rate))[None])
    return {name: float(value) for name, value in zip(names, scores, strict=True)}


def voice_embedding(wave: Wave, sample_rate: int) -> FloatArray | None:
    """The voice as a unit vector (256,) by Resemblyzer (GE2E, Wan et al. 2018); None for silence.

    Resemblyzer's own preparation: volume to -30 dBFS, long silences cut out.
    """
    if not np.any(wave):
        return None
    from resemblyzer import preprocess_wav

    prepared = preprocess_wav(_heard(wave, sample_rate), source_sr=SAMPLE_RATE)
    if not len(prepared) or not np.isfinite(prepared).all():
        return None
    vector = np.asarray(_voice_encoder().embed_utterance(prepared), dtype=np.float64)
    norm = np.linalg.norm(vector)
    return vector / norm if np.isfinite(norm) and norm > 0 else None


def mean_voice(vectors: Mapping[Key, FloatArray | None], without: Key | None = None) -> FloatArray | None:
    """Mean of voices as a unit vector, leaving one recording out where there are others; None without any."""
    known = {name: vector for name, vector in vectors.items() if vector is not None}
    others = [vector for name, vector in known.items() if name != without] or list(known.values())
    if not others:
        return None
    total = np.sum(others, axis=0)
    norm = np.linalg.norm(total)
    return np.asarray(total / norm) if norm > 0 else None


def similarity(voice: FloatArray | None, mean: FloatArray | None) -> float:
    """Cosine of two unit vectors; NaN if either is missing."""
    return math.nan if voice is None or mean is None else float(np.clip(voice @ mean, -1.0, 1.0))


def _heard(wave: Wave, sample_rate: int) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(resample(np.asarray(wave), sample_rate, SAMPLE_RATE), dtype=np.float32)


@lru_cache(maxsize=1)
def _voice_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


@lru_cache(maxsize=1)
def _squim_model() -> Any:
    import torch
    from torchaudio.models import squim_objective_base

    model = squim_objective_base()
    weights = Path(torch.hub.get_dir()) / SQUIM_FILE
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


def _fugashi() -> Reader | None:
    import fugashi

    try:
        tagger = fugashi.Tagger()
    except RuntimeError:  # no dictionary
        return None
    return lambda text: "".join(getattr(word.feature, "pron", None) or word.surface for word in tagger(text))


def _openjtalk() -> Reader | None:
    import pyopenjtalk

    folder = getattr(pyopenjtalk, "OPEN_JTALK_DICT_DIR", None)
    folder = folder.decode() if isinstance(folder, bytes) else folder
    if folder is None or not os.path.isdir(folder):  # it would be fetched without being asked
        return None
    read: Callable[..., Any] = pyopenjtalk.g2p  # whose several distributions declare it differently
    return lambda text: str(read(text, kana=True))
