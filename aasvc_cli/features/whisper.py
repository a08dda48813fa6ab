"""Whisper by faster-whisper: loading a model, and what its encoder writes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.resampling import resample
from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.storage.files import file_sha256

Array = npt.NDArray[np.float32]

SAMPLE_RATE = 16000
FRAME_SAMPLES = 320
"""Samples from one frame of the encoder to the next, 50 to the second."""
PADDING_SECONDS = 1.0
"""Silence behind a recording. Whisper itself fills up to 30 s, which takes twenty times as long."""
MOST_FRAMES = 1500 - round(PADDING_SECONDS * SAMPLE_RATE / FRAME_SAMPLES)
"""Of what the encoder takes in at once, half a minute with the silence behind."""
FILES = ("model.bin", "tokenizer.json")
"""Parts of a model; without the second, one is asked for in the internet, for minutes."""
AROUND_FRAMES = 100
"""On either side of a part of a longer recording, as what is heard depends on what is said around it."""


def load_whisper(model: str, *, compute_type: str, threads: int) -> tuple[Any, str]:
    """A model of faster-whisper and what identifies its weights.

    Args:
        model: a folder in CTranslate2's format, or a name that faster-whisper knows

    Raises:
        MissingExtraError: faster-whisper is not installed.
        DataError: no such model, or it does not load.
    """
    _check_installed()
    from faster_whisper import WhisperModel
    from faster_whisper.utils import available_models

    folder = _folder(model)
    if folder is not None:
        identity = file_sha256(folder / "model.bin")[:16]
    elif model in available_models() or (model.count("/") == 1 and not Path(os.path.expanduser(model)).exists()):
        identity = model
    else:
        names = ", ".join(name for name in available_models() if "." not in name)
        raise DataError(f"{model}: no such folder and no model of that name; known names: {names}")
    try:
        name = model if folder is None else str(folder)
        return WhisperModel(name, device="cpu", compute_type=compute_type, cpu_threads=threads), identity
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{model}: the recogniser does not load ({reason}); give the folder of a downloaded model"
        ) from None


@lru_cache(maxsize=1)
def whisper_encoder(model: str) -> WhisperEncoder:
    """The encoder of a model, loaded once in each process."""
    return WhisperEncoder(model)


@lru_cache(maxsize=4)
def weights_of(model: str) -> str:
    """16 hexadecimal digits that identify the weights of a model, wherever it lies; one that has a name is downloaded.

    Raises:
        MissingExtraError: faster-whisper is not installed.
        DataError: no such folder, or the model of that name cannot be downloaded.
    """
    folder = _folder(model) or _downloaded(model)
    return file_sha256(folder / "model.bin")[:16]


def lasting_name(model: str) -> str:
    """The same model from whatever working directory: a name as it is, a folder with its whole path.

    Raises:
        DataError: a part of the model is missing in the folder.
    """
    folder = _folder(model)
    return model if folder is None else str(folder.absolute())


def _folder(model: str) -> Path | None:
    """The folder that is meant; None for a name: ``base`` is one, also where a folder of that name happens to lie.

    Raises:
        DataError: a part of the model is missing there.
    """
    folder = Path(os.path.expanduser(model))
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not folder.is_dir() or (len(Path(model).parts) == 1 and len(missing) == len(FILES)):
        return None
    if missing:
        raise DataError(f"{folder}: no {missing[0]} in it; expected a Whisper model in CTranslate2's format")
    return folder


def _downloaded(model: str) -> Path:
    """The folder of a model by its name; asks the internet only if it is not there yet."""
    _check_installed()
    from faster_whisper.utils import download_model

    with contextlib.suppress(Exception):
        return Path(download_model(model, local_files_only=True))
    try:
        return Path(download_model(model))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"Whisper {model}: no such folder, and faster-whisper cannot download a model of that name ({reason}); "
            "set features.whisper.model to the folder of a Whisper model, for a voice in its config.yaml"
        ) from None


def _check_installed() -> None:
    if importlib.util.find_spec("faster_whisper") is None:
        raise MissingExtraError("Whisper: not installed: faster_whisper; run: pip install 'aasvc[asr]'")


class WhisperEncoder:
    """The encoder of a Whisper model.

    Args:
        model: as for :func:`load_whisper`
    """

    def __init__(self, model: str, *, threads: int = 1) -> None:
        self._model, _ = load_whisper(model, compute_type="int8", threads=threads)

    def __call__(self, wave: Array, sample_rate: int) -> Array:
        """What the encoder writes: (n,) -> (T, D) at 50 frames a second, T = ceil(n / 320) at 16 kHz."""
        signal = resample(wave, sample_rate, SAMPLE_RATE)
        count = -(-len(signal) // FRAME_SAMPLES)
        if count <= MOST_FRAMES:
            return self._encode(signal)
        parts, step = [], MOST_FRAMES - 2 * AROUND_FRAMES
        for start in range(0, count, step):
            low, high = max(0, start - AROUND_FRAMES), min(count, start + step + AROUND_FRAMES)
            part = self._encode(signal[low * FRAME_SAMPLES : high * FRAME_SAMPLES])
            parts.append(part[start - low : start - low + step])
        return np.concatenate(parts)

    def _encode(self, signal: Array) -> Array:
        """At most ``MOST_FRAMES`` frames."""
        count = -(-len(signal) // FRAME_SAMPLES)
        length = count * FRAME_SAMPLES + round(PADDING_SECONDS * SAMPLE_RATE)
        levels = self._model.feature_extractor(np.pad(signal, (0, length - len(signal))), padding=0)
        return np.asarray(self._model.encode(levels), dtype=np.float32)[0, :count]
