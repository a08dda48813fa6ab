"""Files in and out: atomic writes, JSON, audio."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aasvc_cli.errors import AudioError, DataError, StorageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Wave = npt.NDArray[np.float32]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"})


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """An operating-system error as one line that says what to do."""
    hints = {
        errno.ENOSPC: "the disk is full; free some space, or set AASVC_HOME to another disk",
        errno.EFBIG: "the file-size limit of this process is reached; raise it (ulimit -f)",
        errno.EDQUOT: "the disk quota is used up; free some space, or set AASVC_HOME to another disk",
        errno.EACCES: "no permission; choose a folder that you may write to",
        errno.EPERM: "no permission; choose a folder that you may write to",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EISDIR: "a folder stands there; choose another name",
        errno.ENOTDIR: "a part of the path is a file; choose another folder",
    }
    reason = hints.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"cannot {action} {path}: {reason}")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents; raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StorageError(f"cannot create folder {path}: a file stands there; choose another name") from None
    except OSError as error:
        raise storage_error("create folder", path, error) from None
    return path


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write a file that appears complete or not at all: yields a temporary file, empty and closed.

    It lies in the same folder; what was written to it reaches the disk, and then takes the final name in one step.
    Whatever goes wrong, the temporary file is removed and an older file under that name is left as it was.

    Args:
        durable: wait until the bytes are on the disk. Files that can be made again, and that can tell whether they are
            whole, need not wait.

    Raises:
        StorageError: no permission, no space.
    """
    make_folder(path.parent)
    try:
        with temporary_file(path.parent, f".{path.name}.") as temporary:
            yield temporary
            if durable:
                with temporary.open("r+b") as stream:
                    os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
    except OSError as error:
        raise storage_error("write", path, error) from None


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """:func:`atomic_path`, opened for writing."""
    with atomic_path(path, durable=durable) as temporary, temporary.open("wb") as stream:
        yield stream


_unfinished: set[Path] = set()


@contextlib.contextmanager
def temporary_file(folder: Path | None = None, prefix: str = "aasvc-") -> Iterator[Path]:
    """An empty file that is removed afterwards, if it still has that name; raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=prefix)
    path = Path(name)
    _unfinished.add(path)
    try:
        os.close(descriptor)
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        _unfinished.discard(path)


def abandon_unfinished() -> None:
    """Remove the temporary files of this process, before it ends without any more ado."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_unfinished(path: Path) -> None:
    """Remove what a process that was killed has left of a file that it was writing."""
    from glob import escape

    for leftover in path.parent.glob(f".{escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def file_sha256(path: Path, on_done: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's content, in hexadecimal digits; raises StorageError.

    Args:
        on_done: told the bytes done
    """
    import hashlib  # takes longer to load than help and completion should wait

    digest, done = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                done += len(block)
                if on_done:
                    on_done(done)
    except OSError as error:
        raise storage_error("read", path, error) from None
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_write(path) as stream:
        stream.write(data)


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises StorageError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("remove", path, error) from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, tree: Any) -> None:
    """Write JSON atomically; non-finite numbers become null."""
    import json

    write_text(path, json.dumps(_finite(tree), ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and tree - tree != 0:
        return None
    return tree


def read_json(path: Path, what: str) -> Any:
    """Read JSON; raises DataError that names the file and what it should have been."""
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: {what} not found") from None
    except OSError as error:
        raise storage_error("read", path, error) from None
    except ValueError as error:
        raise DataError(f"{path}: expected {what} in JSON, but {error}") from None


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
