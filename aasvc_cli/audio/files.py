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

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz that a recording may have; a header with another one is damaged."""
MOST_CHANNELS = 64
LONGEST_HOURS = 24
"""Of a recording that is read by blocks."""
MOST_SAMPLES_AT_ONCE = 1 << 28
"""Of a recording that is read into memory: 1 GiB, three hours at 24 kHz."""
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

    blocks, n_samples = [], 0
    with open_sound(source, name) as stream:
        sample_rate = int(stream.samplerate)
        for block in mono_blocks(stream, name, 1 << 20):
            blocks.append(block)
            n_samples += len(block)
            if n_samples > MOST_SAMPLES_AT_ONCE:
                raise AudioError(
                    f"{name}: longer than {MOST_SAMPLES_AT_ONCE / sample_rate / 60:.0f} minutes; split it into "
                    "sentences first",
                    "long",
                )
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), sample_rate


def mono_blocks(stream: Any, name: str, length: int) -> Iterator[Wave]:
    """The samples of an open sound in order, (n,) float32 each of at most ``length``; channels are averaged.

    Lengths in headers are not believed: those of streams are often wrong.

    Raises:
        AudioError: no samples, samples that are not finite, or more than a day of them.
    """
    import numpy as np

    n_samples = 0
    while len(block := stream.read(length, dtype="float32", always_2d=True)):
        n_samples += len(block)
        mono = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
        if not np.isfinite(mono).all():
            raise AudioError(
                f"{name}: holds samples that are not numbers (NaN or infinite); export the recording again", "nan"
            )
        if n_samples > LONGEST_HOURS * 3600 * stream.samplerate:
            raise AudioError(f"{name}: longer than {LONGEST_HOURS} hours; split it first", "long")
        yield mono
    if not n_samples:
        raise AudioError(f"{name}: holds no samples", "empty")


@contextlib.contextmanager
def open_sound(source: Path | IO[bytes], name: str, **raw: Any) -> Iterator[Any]:
    """A sound, open for reading from start to end; what goes wrong meanwhile becomes an AudioError.

    Args:
        name: how messages call it
        raw: soundfile's description of samples without a header

    Raises:
        AudioError: not readable as audio, or its header says what no recording has.
    """
    with readable(name, source):
        opened = forward_reader()(audio_name(source) if isinstance(source, Path) else source, **raw)
        with opened as stream:
            check_header(name, int(stream.samplerate), int(stream.channels))
            yield stream


def check_header(name: str, sample_rate: int, channels: int = 1) -> None:
    """Refuse a sample rate or a number of channels that no recording has; raises AudioError."""
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise AudioError(
            f"{name}: a sample rate of {sample_rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE} Hz, so its header is "
            "probably wrong"
        )
    if not 1 <= channels <= MOST_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; expected 1 to {MOST_CHANNELS}, so its header is probably wrong")


@contextlib.contextmanager
def readable(name: str, source: Path | IO[bytes]) -> Iterator[None]:
    """What goes wrong inside while a sound is read becomes an AudioError that names it."""
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        content = what_it_is(source)
        if content is not None:
            raise AudioError(f"{name}: not readable as audio, {content}") from None
        reason = error.error_string.strip().rstrip(".")
        raise AudioError(
            f"{name}: not readable as audio ({reason}); expected wav, flac, ogg or mp3 - other formats can be "
            "converted with ffmpeg"
        ) from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from None


_OTHER_SOUNDS = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"ADIF", "AAC"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio (ape)"),
    (0, b"FLV", "Flash video"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (8, b"AVI ", "AVI"),
    (0, b"OggS", "Ogg with a codec other than Vorbis or Opus"),
)
"""Where the first bytes of sounds that libsndfile doesn't read tell what they are."""
_NO_SOUNDS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the recording; fetch it with git lfs pull"),
    (b"<", "a web page or XML, no recording; download it again"),
    (b"PK\x03\x04", "a zip archive, no recording; unpack it first"),
    (b"\x1f\x8b", "a gzip archive, no recording; unpack it first"),
    (b"%PDF", "a PDF document, no recording"),
)


def what_it_is(source: Path | IO[bytes]) -> str | None:
    """What a file that is not readable as audio holds, by its first bytes, and what to do; None if they don't tell."""
    try:
        if isinstance(source, Path):
            with source.open("rb") as stream:
                start = stream.read(64)
        else:
            source.seek(0)
            start = source.read(64)
    except OSError:
        return None
    if not start:
        return "it is empty (0 bytes)"
    for beginning, what in _NO_SOUNDS:
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginning):
            return f"it is {what}"
    for offset, magic, what in _OTHER_SOUNDS:
        if start[offset : offset + len(magic)] == magic:
            return f"it is {what}; convert it first: {_ffmpeg_line(source)}"
    return None


def _ffmpeg_line(source: Path | IO[bytes]) -> str:
    import shlex

    if not isinstance(source, Path):
        return "ffmpeg -i INPUT OUTPUT.wav"
    result = source.with_suffix(".flac" if source.suffix.lower() == ".wav" else ".wav")
    return f"ffmpeg -i {shlex.quote(str(source))} {shlex.quote(str(result))}"


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
