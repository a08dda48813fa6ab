"""Features of the content encoder: what is said, independent of the speaker.

Recordings are resampled to 16 kHz. The encoder was trained on telephone speech, too, which has nothing above 4 kHz.
Levels are relative to the loudest place of the recording, so its gain does not matter.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.mel import log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ModelError
from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.home import bundled

if TYPE_CHECKING:
    from aasvc_cli.model.content import ContentEncoder

Array = npt.NDArray[np.float32]

CONTENT_MEL = MelConfig(sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=80, log_base=None)
CONTENT_CHANNELS = 96
"""Of the features that the bundled encoder writes."""
SILENCE = math.log(1e4)
"""What lies further (80 dB) below the loudest place counts as silence."""
WEIGHTS_FILE = "encoder.safetensors"
BLOCK = 3000
"""Frames computed at a time, a minute of speech."""


def content_input(wave: Array, sample_rate: int) -> Array:
    """What the encoder is given: (n,) -> (T, 80) at 100 frames a second, from 0 for silence to 1 for the loudest."""
    levels = log_mel(resample(wave, sample_rate, CONTENT_MEL.sample_rate), CONTENT_MEL)
    return np.maximum(levels - levels.max() + np.float32(SILENCE), np.float32(0.0)) / np.float32(SILENCE)


def content(wave: Array, sample_rate: int) -> Array:
    """What is said: (n,) -> (T, D) at 50 frames a second, T about n / sample_rate * 50.

    A minute is computed at a time, with as much on either side as can be of influence, so an hour needs no more memory.

    Raises:
        DataError: no samples at all.
        ModelError: the encoder is damaged.
    """
    return encoded(_encoder(), content_input(wave, sample_rate))


def encoded(encoder: ContentEncoder, levels: Array) -> Array:
    """The result of an encoder for :func:`content_input`: (T, 80) -> (ceil(T / 2), D)."""
    import torch

    count = (len(levels) + 1) // 2
    blocks = []
    with torch.inference_mode():
        for start in range(0, count, BLOCK):
            low, high = max(0, start - encoder.reach), start + BLOCK + encoder.reach
            part = encoder(torch.from_numpy(levels[2 * low : 2 * high]).unsqueeze(0))[0]
            blocks.append(part[start - low : start - low + BLOCK].numpy())
    return np.concatenate(blocks)


def load_encoder(path: Path) -> ContentEncoder:
    """Read an encoder from its weights file; raises ModelError."""
    import torch

    from aasvc_cli.model.content import ContentEncoder, ContentSizes

    tensors, header = load_checkpoint(path)
    try:
        encoder = ContentEncoder(ContentSizes(**header["sizes"]))
        encoder.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
    except (KeyError, TypeError, RuntimeError):
        raise ModelError(f"{path}: not the weights of a content encoder") from None
    return encoder.eval()


@lru_cache(maxsize=1)
def _encoder() -> ContentEncoder:
    encoder = load_encoder(weights_file())
    if encoder.sizes.n_out != CONTENT_CHANNELS:
        raise ModelError(f"{weights_file()}: writes {encoder.sizes.n_out} channels, expected {CONTENT_CHANNELS}")
    return encoder


@lru_cache(maxsize=1)
def weights_identity() -> str:
    """16 hexadecimal digits of the bundled encoder's weights."""
    return file_sha256(weights_file())[:16]


def weights_file() -> Path:
    """Of the bundled encoder."""
    return bundled("content") / WEIGHTS_FILE
