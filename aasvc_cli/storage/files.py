"""Files in and out: atomic writes, JSON, audio."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aasvc_cli.errors import DataError, StorageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Wave = npt.NDArray[np.float32]


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


@contextlib.contextmanager
def lock(path: Path, on_busy: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file; the lock ends with the process, however that ends.

    Args:
        on_busy: called if another process holds it, before this one waits for it; may raise instead

    Raises:
        StorageError: the file cannot be locked.
    """
    from filelock import FileLock, Timeout

    held = FileLock(make_folder(path.parent) / path.name)
    try:
        try:
            held.acquire(timeout=0)
        except Timeout:
            if on_busy is not None:
                on_busy()
            held.acquire(poll_interval=0.2)
    except OSError as error:
        raise storage_error("lock", path, error) from None
    try:
        yield
    finally:
        held.release()


def byte_size(n_bytes: float | None) -> str:
    """A number of bytes for people, in the largest unit that leaves a digit before the point."""
    if n_bytes is None:
        return "unknown size"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} B"


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
