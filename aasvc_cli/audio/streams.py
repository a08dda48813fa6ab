"""Sound in and out by blocks: files, pipes and raw PCM, of any length in bounded memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aasvc_cli.audio.files import Sound, audio_format, audio_name, check_header
from aasvc_cli.errors import AudioError, DataError
from aasvc_cli.storage.files import atomic_path, destination, storage_error, temporary_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Wave = npt.NDArray[np.float32]

BLOCK_SAMPLES = 1 << 16
STREAM = Path("-")
"""Stands for standard input among the inputs, and for standard output among the outputs."""
RAW_ENCODINGS = {
    "s8": ("PCM_S8", "LITTLE"), "u8": ("PCM_U8", "LITTLE"),
    "s16le": ("PCM_16", "LITTLE"), "s16be": ("PCM_16", "BIG"),
    "s24le": ("PCM_24", "LITTLE"), "s24be": ("PCM_24", "BIG"),
    "s32le": ("PCM_32", "LITTLE"), "s32be": ("PCM_32", "BIG"),
    "f32le": ("FLOAT", "LITTLE"), "f32be": ("FLOAT", "BIG"),
    "f64le": ("DOUBLE", "LITTLE"), "f64be": ("DOUBLE", "BIG"),
}  # fmt: skip
"""ffmpeg's names of raw samples, and libsndfile's subtype and byte order."""
CONTAINERS = ("wav", "flac", "ogg")
FORMATS = (*CONTAINERS, *RAW_ENCODINGS)
"""Everything that can be written."""


@dataclass(frozen=True)
class RawAudio:
    """What a stream of raw samples doesn't say itself.

    Attributes:
        encoding: a key of ``RAW_ENCODINGS``
        sample_rate: in Hz
    """

    encoding: str
    sample_rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be; raises DataError."""
        if self.encoding not in RAW_ENCODINGS:
            raise DataError(f"raw format {self.encoding}: expected one of {', '.join(RAW_ENCODINGS)}")
        check_header("raw audio", self.sample_rate, self.channels)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a sample of all channels."""
        return _sample_bytes(self.encoding) * self.channels


class AudioFile:
    """A recording on disk, read by blocks as often as needed.

    Attributes:
        name: how messages call it
        sample_rate: in Hz

    Raises:
        AudioError: no such file, or not readable as audio.
    """

    def __init__(self, path: Path, name: str | None = None, raw: RawAudio | None = None) -> None:
        """Look at the header; ``raw`` if there is none."""
        self.path = path
        self.name = name or str(path)
        if not path.exists():
            raise AudioError(f"{self.name}: no such file", "missing")
        if path.is_dir():
            raise AudioError(f"{self.name}: is a folder, expected an audio file")
        self._n_samples: int | None = None
        described: dict[str, Any] = {}
        if raw is not None:
            subtype, endian = RAW_ENCODINGS[raw.encoding]
            described = {
                "samplerate": raw.sample_rate, "channels": raw.channels, "format": "RAW", "subtype": subtype,
                "endian": endian,
            }  # fmt: skip
        self._sound = Sound(path, self.name, **described)
        self.sample_rate = self._sound.sample_rate
        if raw is not None and (left := path.stat().st_size % (whole := raw.frame_bytes)):
            # libsndfile passes over it, but it is all that shows of a stream that was cut, or of a wrong description
            from aasvc_cli.audio.mono import Remark

            message = (
                f"ends with {left} of the {whole} bytes of a sample ({raw.encoding}, channels: {raw.channels}), "
                "which are left out; it was cut short, or its format is another"
            )
            self._sound.remarks.append(Remark("truncated", message))

    @property
    def seconds(self) -> float:
        """Its length; known once it was read to its end."""
        assert self._n_samples is not None
        return self._n_samples / self.sample_rate

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the samples don't show, such as a missing end; known once it was read."""
        return tuple(remark.message for remark in self._sound.remarks)

    def blocks(self) -> Iterator[Wave]:
        """The samples in order, (n,) float32 each, mono as :func:`aasvc_cli.audio.files.read_audio` makes them.

        Raises:
            AudioError: damaged, empty, too long, or with samples that are not numbers.
        """
        n_samples = 0
        for block in self._sound.blocks(BLOCK_SAMPLES):
            n_samples += len(block)
            yield block
        self._n_samples = n_samples


def format_of(path: Path, format_name: str | None = None) -> str:
    """What to write to a path: the format named, else the one of its suffix, WAV where there is no name to go by.

    Raises:
        AudioError: nothing known.
    """
    if format_name is not None:
        if format_name not in FORMATS:
            raise AudioError(f"format {format_name}: cannot be written; use one of {', '.join(FORMATS)}")
        return format_name
    if path == STREAM or (not path.suffix and path.exists() and not path.is_file()):
        return "wav"  # a pipe or a device, whose name says nothing
    return audio_format(path).lower()


def suffix_of(format_name: str) -> str:
    """How the name of a file of a format ends."""
    return f".{format_name}" if format_name in CONTAINERS else ".raw"


Write = Callable[["Wave"], None]


@contextlib.contextmanager
def sound_writer(
    path: Path, sample_rate: int, format_name: str, stdout: IO[bytes] | None = None, comment: str = ""
) -> Iterator[Write]:
    """Write mono samples block by block; a file appears complete or not at all.

    Args:
        path: ``STREAM`` for standard output. Raw samples go out as they come; the formats with a header do when all
            is known, by way of a temporary file.
        format_name: of ``FORMATS``; WAV and FLAC have 16 bit, OGG is Vorbis
        stdout: the stream that ``STREAM`` means
        comment: goes into the header, where the format has one

    Raises:
        StorageError: no permission, no space.
    """
    if path != STREAM:
        with atomic_path(path) as temporary, _writer(temporary, sample_rate, format_name, comment) as write:
            yield write
        return
    assert stdout is not None
    if format_name in RAW_ENCODINGS:
        yield lambda samples: _send(stdout, encode_raw(samples, format_name))
        return
    with _somewhere() as temporary:
        with _writer(temporary, sample_rate, format_name, comment) as write:
            yield write
        with temporary.open("rb") as stream:
            while block := stream.read(1 << 20):
                _send(stdout, block)


def _send(stdout: IO[bytes], data: bytes) -> None:
    try:
        _all(stdout, data)
    except BrokenPipeError:  # the reader has gone away, which is no fault
        raise
    except OSError as error:
        raise storage_error("write", Path("standard output"), error) from None


@contextlib.contextmanager
def _writer(path: Path, sample_rate: int, format_name: str, comment: str) -> Iterator[Write]:
    if format_name in RAW_ENCODINGS:
        with path.open("wb") as raw:
            yield lambda samples: _all(raw, encode_raw(samples, format_name))
        return
    import soundfile

    subtype = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS"}[format_name]
    try:
        with soundfile.SoundFile(
            audio_name(path), "w", sample_rate, 1, format=format_name.upper(), subtype=subtype
        ) as stream:
            if comment:
                stream.comment = comment

            def write(samples: Wave) -> None:
                # libsndfile's Vorbis encoder crashes when it is given some minutes at once
                for start in range(0, len(samples), BLOCK_SAMPLES):
                    stream.write(samples[start : start + BLOCK_SAMPLES])

            yield write
    except soundfile.LibsndfileError as error:
        # libsndfile reports that a write failed, but not why; the system call tells
        with contextlib.suppress(FileNotFoundError), path.open("ab") as again:
            again.write(bytes(BLOCK_SAMPLES))
        raise OSError(None, error.error_string.strip().rstrip(".")) from None


def _all(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)
    stream.flush()


def encode_raw(samples: Wave, encoding: str) -> bytes:
    """Samples as raw PCM, the same as libsndfile puts into a WAV: clipped at full scale, too fine digits cut off."""
    import numpy as np

    order = ">" if encoding.endswith("be") else "<"
    kind, bits = encoding[0], 8 * _sample_bytes(encoding)
    if kind == "f":
        return samples.astype(f"{order}f{bits // 8}").tobytes()
    full = np.clip(np.rint(samples.astype(np.float64) * 2.0**31), -(2.0**31), 2.0**31 - 1).astype(np.int64)
    whole = full >> (32 - bits)
    if kind == "u":
        return (whole + (1 << (bits - 1))).astype("u1").tobytes()
    if bits != 24:
        return whole.astype(f"{order}i{bits // 8}").tobytes()
    octets = whole.astype(f"{order}i4").view("u1").reshape(-1, 4)
    return (octets[:, 1:] if order == ">" else octets[:, :3]).tobytes()


def _sample_bytes(encoding: str) -> int:
    return int(encoding.removesuffix("le").removesuffix("be")[1:]) // 8


@contextlib.contextmanager
def _somewhere() -> Iterator[Path]:
    """A temporary file where the system wants such; raises StorageError."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(temporary_file())
        except OSError as error:
            raise storage_error("write", Path(tempfile.gettempdir()), error) from None
        yield path


def open_pipe(path: Path) -> IO[bytes] | None:
    """What can be read only once, such as ``<(command)``, a named pipe or ``/dev/stdin``; None for anything else.

    Raises:
        AudioError: a device, which may have no end.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            place = destination(path)
            return open(os.dup(place), "rb") if isinstance(place, int) else path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read", path, error) from None
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise AudioError(f"{path}: is a device, expected a recording")
    return None


@contextlib.contextmanager
def spooled(stream: IO[bytes], name: str = "standard input") -> Iterator[Path]:
    """Everything that a pipe holds, as a file: audio has to be read from the start, and more than once.

    Args:
        name: how messages call it

    Raises:
        AudioError: nothing came.
        StorageError: no space.
    """
    with _somewhere() as path:
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        except OSError as error:
            raise storage_error("write", path, error) from None
        if not path.stat().st_size:
            raise AudioError(f"{name}: nothing came in, expected a recording", "empty")
        yield path


def read_names(stream: IO[bytes]) -> Iterator[Path]:
    """Names that are ended by NUL, each as soon as it is there (the output of ``find -print0``).

    Raises:
        DataError: the names are on lines instead.
    """
    rest = b""
    # read1 takes what is there instead of waiting for more
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    while chunk := read(1 << 16):
        *names, rest = (rest + chunk).split(b"\0")
        for name in names:
            yield _path(name)
    if rest:
        yield _path(rest)


def _path(name: bytes) -> Path:
    path = Path(os.fsdecode(name))
    if b"\n" in name.strip() and not path.exists():
        first = os.fsdecode(name.strip().split(b"\n", 1)[0])
        raise DataError(f"expected names that are ended by NUL, found lines ({first!r} ...); use find -print0")
    return path
