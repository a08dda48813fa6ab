"""Recordings on disk: read, written, listed."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aasvc_cli.errors import AudioError
from aasvc_cli.storage.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Wave = npt.NDArray[np.float32]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"})


def audio_name(path: Path) -> str | bytes:
    """A path as libsndfile takes it, which on POSIX may be no text at all."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def read_audio(path: Path) -> tuple[Wave, int]:
    """Read a recording as mono.

    Any format, rate, channel count and bit depth that libsndfile reads. Channels are averaged. The file is read by
    blocks, because headers of streamed files can promise sizes that are not there.

    Returns:
        samples: (n,) float32, full scale at 1.0
        sample_rate: in Hz

    Raises:
        AudioError: missing, unreadable, empty, or with samples that are not finite.
    """
    if not path.exists():
        raise AudioError(f"{path}: no such file", "missing")
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, expected an audio file")
    return decode_audio(path, str(path))


def decode_audio(source: Path | IO[bytes], name: str) -> tuple[Wave, int]:
    """Decode a file or a seekable stream like :func:`read_audio`; ``name`` is used in messages."""
    import numpy as np

    blocks = []
    with readable(name), forward_reader()(source if not isinstance(source, Path) else audio_name(source)) as stream:
        sample_rate = int(stream.samplerate)
        while True:
            block = stream.read(1 << 20, dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
    samples = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *blocks])
    if not len(samples):
        raise AudioError(f"{name}: holds no samples", "empty")
    if not np.isfinite(samples).all():
        raise AudioError(
            f"{name}: holds samples that are not numbers (NaN or infinite); export the recording again", "nan"
        )
    return samples, sample_rate


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """What goes wrong inside while a sound is read becomes an AudioError that names it."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        raise AudioError(
            f"{name}: not readable as audio ({reason}); expected wav, flac, ogg or mp3 - other formats can be "
            "converted with ffmpeg"
        ) from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from None


@cache
def forward_reader() -> Any:
    """``soundfile.SoundFile`` that reads from start to end only.

    The original seeks to where it already is after each block. At the end of a FLAC that was streamed (and doesn't know
    its length) that fails, and in an MP3 it throws away what the next frame borrows from the one before.
    """
    import soundfile

    class ForwardReader(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return ForwardReader


def encode_audio(samples: Wave, sample_rate: int, format_name: str = "WAV", subtype: str | None = None) -> bytes:
    """Encode mono samples; clipping and rounding to 16 bit are libsndfile's.

    MP3 has a constant bit rate (80 kbit/s up to 24 kHz, 112 above), so that a jump to a position in it is exact.
    """
    import soundfile

    buffer = io.BytesIO()
    default = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(format_name)
    quality: dict[str, Any] = {}
    if format_name == "MP3":
        quality = {"compression_level": 0.5 if sample_rate < 32000 else 0.7, "bitrate_mode": "CONSTANT"}
    with soundfile.SoundFile(
        buffer, "w", sample_rate, 1, format=format_name, subtype=subtype or default, **quality
    ) as stream:
        # libsndfile's Vorbis encoder crashes when it is given some minutes at once
        for start in range(0, len(samples), 1 << 16):
            stream.write(samples[start : start + (1 << 16)])
    return buffer.getvalue()


def audio_format(path: Path) -> str:
    """The format that the suffix of a file to write stands for; raises AudioError if there is none."""
    formats = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise AudioError(f"{path}: cannot write {suffix or 'a file without suffix'}; use .wav, .flac or .ogg")
    return formats[suffix]


def write_audio(path: Path, samples: Wave, sample_rate: int) -> None:
    """Write mono samples atomically; the suffix picks WAV (16 bit), FLAC or OGG."""
    write_bytes(path, encode_audio(samples, sample_rate, audio_format(path)))


def list_audio(folder: Path) -> list[Path]:
    """All audio files below a folder, sorted; hidden files and folders are left out."""
    found = []
    for base, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(base) / n for n in names if Path(n).suffix.lower() in AUDIO_SUFFIXES and not n.startswith(".")]
    return sorted(found)
