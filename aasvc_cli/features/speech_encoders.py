"""HuBERT, WavLM and wav2vec 2.0 by torchaudio: loading the published weights, and what a layer of theirs writes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.mel import checked_mono
from aasvc_cli.audio.resampling import resample
from aasvc_cli.errors import DataError, MissingExtraError
from aasvc_cli.storage.files import file_sha256

Array = npt.NDArray[np.float32]

BUNDLES = {"hubert": "HUBERT_BASE", "wavlm": "WAVLM_BASE", "wav2vec2": "WAV2VEC2_BASE"}
"""Kind of feature -> name in ``torchaudio.pipelines``. The base models: 12 layers, trained without texts."""
CHANNELS = 768
SAMPLE_RATE = 16000
PADDING_SAMPLES = 200
"""Silence in front and behind: half of the 400 samples that a frame sees, so that the first one lies at time 0."""


@lru_cache(maxsize=len(BUNDLES))
def speech_encoder(kind: str) -> SpeechEncoder:
    """An encoder, loaded once in each process."""
    return SpeechEncoder(kind)


@lru_cache(maxsize=len(BUNDLES))
def weights_of(kind: str) -> str:
    """16 hexadecimal digits that identify the weights, which are downloaded if they are not there.

    Raises:
        MissingExtraError: torchaudio does not load.
        DataError: the weights cannot be downloaded, or do not load.
    """
    file = _file(_bundle(kind))
    if not file.is_file():
        speech_encoder(kind)
    return file_sha256(file)[:16]


def _bundle(kind: str) -> Any:
    try:
        from torchaudio import pipelines
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingExtraError(
            f"the feature {kind} needs torchaudio, which does not load ({reason}); install the release that belongs to "
            "your PyTorch"
        ) from None
    return getattr(pipelines, BUNDLES[kind])


def _file(bundle: Any) -> Path:
    """Where torch.hub keeps the weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / str(bundle._path)


class SpeechEncoder:
    """A speech encoder of torchaudio.

    Args:
        kind: a key of :data:`BUNDLES`

    Raises:
        MissingExtraError: torchaudio does not load.
        DataError: the weights cannot be downloaded, or do not load.
    """

    def __init__(self, kind: str) -> None:
        bundle = _bundle(kind)
        file = _file(bundle)
        kept = file.is_file()
        try:
            self._model = bundle.get_model(dl_kwargs={"weights_only": True, "progress": False})
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            if kept:
                raise DataError(
                    f"{file}: the weights of {kind} do not load ({reason}); delete the file to download it again"
                ) from None
            raise DataError(
                f"{file}: the weights of {kind} are not there and cannot be downloaded ({reason}); run once where the "
                "internet is reached: "
                f"python -c 'import torchaudio; torchaudio.pipelines.{BUNDLES[kind]}.get_model()', and copy the file"
            ) from None

    def __call__(self, wave: Array, sample_rate: int, layer: int) -> Array:
        """What a layer writes, the first one being 1: (n,) -> (T, 768) at 50 Hz, T = 1 + n // 320 at 16 kHz.

        Raises:
            DataError: no samples at all.
        """
        import torch

        signal = np.pad(resample(checked_mono(wave), sample_rate, SAMPLE_RATE), PADDING_SAMPLES)
        with torch.inference_mode():
            layers, _ = self._model.extract_features(
                torch.from_numpy(signal.astype(np.float32))[None], num_layers=layer
            )
        return np.asarray(layers[-1][0].numpy(), dtype=np.float32)
