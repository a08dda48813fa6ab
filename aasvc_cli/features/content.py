"""Features of the content encoder: what is said, independent of the speaker; and the melody with it, if wanted.

Recordings are resampled to 16 kHz. The encoder was trained on telephone speech, too, which has nothing above 4 kHz.
Levels are relative to the loudest place of the recording, so its gain does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.files import read_audio
from aasvc_cli.audio.mel import checked_mono, log_mel
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.storage.checkpoint import load_arrays, load_checkpoint
from aasvc_cli.storage.files import file_sha256
from aasvc_cli.storage.home import bundled

if TYPE_CHECKING:
    from aasvc_cli.model.content import ContentEncoder, ContentSizes, MelodyEncoder

    Network = TypeVar("Network", ContentEncoder, MelodyEncoder)

Array = npt.NDArray[np.float32]

CONTENT_MEL = MelConfig(sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=80, log_base=None)
MELODY_MEL = MelConfig(
    sample_rate=16000, n_fft=1024, win_length=800, hop_length=160, n_mels=128, fmax=4000.0, log_base=None
)
"""Windows long enough and bands narrow enough to tell the harmonics of a low voice apart."""
CONTENT_CHANNELS = 96
"""Of the features that the bundled encoder writes."""
MELODY_CHANNELS = 2
ENCODED = {"content": CONTENT_CHANNELS, "content_f0": CONTENT_CHANNELS + MELODY_CHANNELS}
"""Kinds of feature that the encoders compute, and their channels; the first ones are the same."""
TAUGHT = "whisper_f0"
"""The kind whose first channels the teacher writes itself; the others are those of ``content_f0``."""
LEAST_LIKENESS = 0.7
"""Correlation of the channels of the teacher with those that the encoder writes, on a recording. Measured: 0.95; of a
model of the same sizes with other weights, 0.36."""
_KNOWN_RECORDING = "demo/ja-JP/male/wav/dev/dev_0666.ogg"
SILENCE = math.log(1e4)
"""What lies further (80 dB) below the loudest place counts as silence."""
WEIGHTS_FILE = "encoder.safetensors"
MELODY_FILE = "melody.safetensors"
PROJECTION_FILE = "projection.safetensors"
"""The channels that an encoder learnt to write, as those of its teacher: ``directions`` (C, D) and ``offset`` (D,)."""
FRAMES_PER_SECOND = 50.0
"""Of what the encoders write."""
BLOCK = 3000
"""Frames computed at a time, a minute of speech."""


def content_input(wave: Array, sample_rate: int) -> Array:
    """What the encoder is given: (n,) -> (T, 80) at 100 frames a second, from 0 for silence to 1 for the loudest."""
    return _levels(wave, sample_rate, CONTENT_MEL)


def melody_input(wave: Array, sample_rate: int) -> Array:
    """The same in the bands of :data:`MELODY_MEL`: (n,) -> (T, 128)."""
    return _levels(wave, sample_rate, MELODY_MEL)


def _levels(wave: Array, sample_rate: int, mel: MelConfig) -> Array:
    levels = log_mel(resample(wave, sample_rate, mel.sample_rate), mel)
    return np.maximum(levels - levels.max() + np.float32(SILENCE), np.float32(0.0)) / np.float32(SILENCE)


def content(wave: Array, sample_rate: int) -> Array:
    """What is said: (n,) -> (T, D) at 50 frames a second, T about n / sample_rate * 50.

    A minute is computed at a time, with as much on either side as can be of influence, so an hour needs no more memory.

    Raises:
        DataError: no samples at all.
        ModelError: the encoder is damaged.
    """
    return encoded(_encoder(), content_input(wave, sample_rate))


def content_f0(wave: Array, sample_rate: int) -> Array:
    """What is said, and log-F0 in octaves relative to its mean, and voicing: (n,) -> (T, D + 2).

    Raises what :func:`content` does.
    """
    wave = resample(wave, sample_rate, CONTENT_MEL.sample_rate)  # once for both
    return _with_melody(content(wave, CONTENT_MEL.sample_rate), wave)


def taught_f0(wave: Array, sample_rate: int, teacher: Callable[[Array, int], Array]) -> Array:
    """The same with what is said as the teacher of the bundled encoder writes it: (n,) -> (T, D + 2).

    The channels are those that the encoder learnt to write, so a model of one reads the other; the teacher is far
    larger, and clearer for languages and voices that the encoder heard little of.

    Args:
        teacher: Whisper base (:class:`aasvc_cli.features.whisper.WhisperEncoder`), (n,) -> (T, C)

    Raises:
        DataError: no samples at all.
        ConfigError: it has another number of channels than the teacher.
        ModelError: the projection or the encoder of the melody is damaged.
    """
    wave = checked_mono(resample(wave, sample_rate, CONTENT_MEL.sample_rate))
    return _with_melody(taught(wave, teacher), wave)


def taught(wave: Array, teacher: Callable[[Array, int], Array]) -> Array:
    """What is said in a recording at 16 kHz, as the teacher of the bundled encoder writes it: (n,) -> (T, D).

    Raises what :func:`taught_f0` does; computed without torch.
    """
    directions, offset = _projection()
    frames = teacher(wave, CONTENT_MEL.sample_rate)
    if frames.shape[1] != len(directions):
        raise ConfigError(
            "the encoder of Whisper", [f"has {frames.shape[1]} channels, expected {len(directions)}; use Whisper base"]
        )
    return frames @ directions + offset


def check_teacher(teacher: Callable[[Array, int], Array], name: str) -> None:
    """Compare a teacher with what the bundled encoder has learnt from it, on a bundled recording.

    Other models of the same sizes write channels that mean something else, which nothing else would notice.

    Raises:
        ConfigError: it is another model; ``name`` is what the message calls it.
    """
    wave = resample(*read_audio(bundled(_KNOWN_RECORDING)), CONTENT_MEL.sample_rate)
    said, learnt = taught(wave, teacher), content(wave, CONTENT_MEL.sample_rate)
    count = min(len(said), len(learnt))
    moves = [frames[:count] - frames[:count].mean(axis=0) for frames in (said, learnt)]
    likeness = float(np.corrcoef(*(frames.ravel() for frames in moves))[0, 1])
    if not likeness > LEAST_LIKENESS:
        raise ConfigError(
            "features.whisper.model",
            [f"{name} is not Whisper base, which the feature whisper_f0 needs (its channels correlate {likeness:.2f} "
             f"with what is expected, those of Whisper base 0.95); give a folder of Whisper base, or use --src-feat "
             "whisper --dp-feat whisper"],
        )  # fmt: skip


def beside(said: Array, melody: Array) -> Array:
    """What is said (T, D) and a melody (T', 2) side by side: (T', D + 2), the last frame held."""
    held = np.minimum(np.arange(len(melody)), len(said) - 1)
    return np.concatenate([said[held], melody], axis=1)


def _with_melody(said: Array, wave: Array) -> Array:
    """Put the melody of a recording at 16 kHz beside what is said: (T, D) -> (T', D + 2)."""
    import torch

    from aasvc_cli.model.content import around_middle

    melody = torch.from_numpy(encoded(_melody_encoder(), melody_input(wave, CONTENT_MEL.sample_rate)))
    return beside(said, around_middle(melody).numpy())


def encoded(encoder: ContentEncoder | MelodyEncoder, levels: Array) -> Array:
    """The result of an encoder for :func:`content_input` or :func:`melody_input`: (T, M) -> (ceil(T / 2), D)."""
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
    from aasvc_cli.model.content import ContentEncoder

    return _load(path, ContentEncoder, "a content encoder")


def load_melody_encoder(path: Path) -> MelodyEncoder:
    """Read an encoder of the melody from its weights file; raises ModelError."""
    from aasvc_cli.model.content import MelodyEncoder

    return _load(path, MelodyEncoder, "an encoder of the melody")


def _load(path: Path, network: Callable[[ContentSizes], Network], what: str) -> Network:
    import torch

    from aasvc_cli.model.content import ContentSizes

    tensors, header = load_checkpoint(path)
    try:
        encoder = network(ContentSizes(**header["sizes"]))
        encoder.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
    except (KeyError, TypeError, RuntimeError):
        raise ModelError(f"{path}: not the weights of {what}") from None
    return encoder.eval()


@lru_cache(maxsize=1)
def _encoder() -> ContentEncoder:
    encoder = load_encoder(weights_file())
    if encoder.sizes.n_out != CONTENT_CHANNELS:
        raise ModelError(f"{weights_file()}: writes {encoder.sizes.n_out} channels, expected {CONTENT_CHANNELS}")
    return encoder


@lru_cache(maxsize=1)
def _melody_encoder() -> MelodyEncoder:
    return load_melody_encoder(melody_file())


@lru_cache(maxsize=1)
def _projection() -> tuple[Array, Array]:
    arrays = load_arrays(projection_file())  # an exported voice does without torch
    try:
        return arrays["directions"].astype(np.float32), arrays["offset"].astype(np.float32)
    except KeyError:
        raise ModelError(f"{projection_file()}: not the projection of a teacher") from None


@lru_cache(maxsize=1)
def weights_identity() -> str:
    """16 hexadecimal digits of the bundled encoder's weights."""
    return file_sha256(weights_file())[:16]


def weights_file() -> Path:
    """Of the bundled encoder."""
    return bundled("content") / WEIGHTS_FILE


@lru_cache(maxsize=1)
def melody_identity() -> str:
    """16 hexadecimal digits of the weights of the bundled encoder of the melody."""
    return file_sha256(melody_file())[:16]


def melody_file() -> Path:
    """Weights of the bundled encoder of the melody."""
    return bundled("content") / MELODY_FILE


@lru_cache(maxsize=1)
def projection_identity() -> str:
    """16 hexadecimal digits of what the bundled encoder learnt of its teacher."""
    return file_sha256(projection_file())[:16]


def projection_file() -> Path:
    """What the bundled encoder learnt of its teacher."""
    return bundled("content") / PROJECTION_FILE
