"""Files in and out: atomic writes, text, JSON."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeGuard

from aasvc_cli.errors import AasvcError, DataError, StorageError

_MOST_LINKS = 40
_LONGEST_NAME = 240
"""Bytes of a name that leave room for the additions of a temporary file; file systems take 255."""


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """An operating-system error as one line that says what to do."""
    hints = {
        errno.ENOSPC: "the disk is full; free some space, or use another disk (the data folder: AASVC_HOME)",
        errno.EFBIG: "the file-size limit of this process is reached; raise it (ulimit -f)",
        errno.EDQUOT: "the disk quota is used up; free some space, or use another disk (the data folder: AASVC_HOME)",
        errno.EACCES: "no permission; choose a folder that you may write to",
        errno.EPERM: "no permission; choose a folder that you may write to",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EISDIR: "a folder stands there; choose another name",
        errno.ENOTDIR: "a part of the path is a file; choose another folder",
        errno.EPIPE: "its reader has gone away",
        errno.ENXIO: "no process has this socket or device open",
        errno.ELOOP: "its symbolic links lead in a circle; choose another name",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }
    if action == "read":
        hints |= dict.fromkeys((errno.EACCES, errno.EPERM), "no permission to read it")
    reason = hints.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"cannot {action} {path}: {reason}")


def check_writable(path: Path) -> None:
    """Raise StorageError if permissions keep a file from being written there, before work is done for it."""
    if os.access(path, os.W_OK):
        return
    folder = next(each for each in path.absolute().parents if os.path.exists(each))  # no error for what is out of reach
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise storage_error("write", path, PermissionError(errno.EACCES, ""))


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

    It lies in the same folder; what was written to it reaches the disk, and then takes the final name in one step, with
    the permissions and the owner of the file that it replaces. Whatever goes wrong, the temporary file is removed and
    an older file under that name is left as it was.

    A symbolic link stays, and what it leads to is replaced. What is no regular file (a device, a pipe, one of this
    process's own descriptors such as ``/dev/stdout``), and a file whose folder takes no other, is opened and written to
    once all is known.

    Args:
        durable: wait until the bytes are on the disk. Files that can be made again, and that can tell whether they are
            whole, need not wait.

    Raises:
        StorageError: no permission, no space.
    """
    try:
        target = destination(path)
        if _is_replaced(target):
            make_folder(target.parent)
            with temporary_file(target.parent, _unfinished_prefix(target)) as temporary:
                yield temporary
                if durable:
                    with temporary.open("r+b") as stream:
                        os.fsync(stream.fileno())
                _take_over(temporary, target)
        else:
            with temporary_file() as temporary:
                yield temporary
                _pour(temporary, target)
    except OSError as error:
        raise storage_error("write", path, error) from None


def destination(path: Path) -> Path | int:
    """Where what is written to a path goes: the end of its symbolic links, or a descriptor of this process.

    Raises:
        OSError: the links lead in a circle.
    """
    place = os.fspath(path)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(place)
        folder = os.path.realpath(folder or os.curdir)
        # such links lead to names that may not exist any more, or never did, and opening one starts at the beginning
        if folder in ("/dev/fd", f"/proc/{os.getpid()}/fd") and name.isdecimal():
            return int(name)
        try:
            place = os.path.join(folder, os.readlink(os.path.join(folder, name)))
        except OSError:
            return Path(path if place == os.fspath(path) else place)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_replaced(target: Path | int) -> TypeGuard[Path]:
    """Whether a new file takes the place of a target, as opposed to being written into it; raises OSError."""
    if isinstance(target, int):
        return False
    try:
        mode = target.stat().st_mode
    except OSError:
        return True  # which fails if the target cannot be
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISREG(mode) and not mode & 0o222 and not os.access(target, os.W_OK):  # its owner protects it
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_ISREG(mode) and os.access(target.parent, os.W_OK | os.X_OK)


def _take_over(temporary: Path, target: Path) -> None:
    """Replace a file, keeping its permissions and owner; raises OSError."""
    try:
        old = target.stat()
    except OSError:
        temporary.chmod(0o666 & ~umask())
    else:
        if hasattr(os, "chown"):
            with contextlib.suppress(OSError):  # only root gives files away
                os.chown(temporary, old.st_uid, old.st_gid)
        temporary.chmod(stat.S_IMODE(old.st_mode))
    try:
        os.replace(temporary, target)
    except OSError as error:
        if error.errno != errno.EBUSY:  # a single file that is mounted into a container
            raise
        _pour(temporary, target)


_asking = threading.Lock()


def umask() -> int:
    """The permissions that new files of this process do not get.

    It can be asked for only by setting it, and two threads that did so at once would leave it at 0.
    """
    with _asking:
        mask = os.umask(0)
        os.umask(mask)
    return mask


def _pour(source: Path, target: Path | int) -> None:
    """Write the content of a file into what is there; raises OSError."""
    flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    descriptor = os.dup(target) if isinstance(target, int) else os.open(target, flags)
    with source.open("rb") as content, open(descriptor, "wb", buffering=0) as stream:
        while block := content.read(1 << 20):
            write_all(stream, block)


def write_all(stream: IO[bytes], data: bytes) -> None:
    """Write all of some bytes to an unbuffered stream, which may take them piece by piece; raises OSError."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def same_file(one: Path, other: Path) -> bool:
    """Whether two names, links followed, mean one regular file, which may not be there yet."""
    if not os.path.exists(one):
        return os.path.realpath(one) == os.path.realpath(other)
    return os.path.isfile(one) and os.path.isfile(other) and os.path.samefile(one, other)


def is_standard_output(path: Path) -> bool:
    """Whether a path is another name of standard output, such as ``/dev/stdout``."""
    try:
        return destination(path) == 1
    except OSError:
        return False


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """:func:`atomic_path`, opened for writing."""
    with atomic_path(path, durable=durable) as temporary, temporary.open("wb") as stream:
        yield stream


@contextlib.contextmanager
def line_writer(path: Path) -> Iterator[Callable[[str], None]]:
    """A writer of lines, each flushed at once so that the file can be followed; an older file is replaced.

    Raises:
        StorageError: no permission, no space.
    """
    try:
        target = destination(path)
        if isinstance(target, Path):
            make_folder(target.parent)
        with open(os.dup(target) if isinstance(target, int) else target, "wb", buffering=0) as stream:

            def write(line: str) -> None:
                write_all(stream, as_bytes(line + "\n"))

            yield write
    except OSError as error:
        raise storage_error("write", path, error) from None


def _unfinished_prefix(target: Path) -> str:
    """How the name of a temporary file begins; a name as long as file systems allow has no room for more."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        import hashlib

        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return f".{name}."


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
    """Remove the temporary files of this process before it exits at once."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_unfinished(path: Path) -> None:
    """Remove what a process that was killed has left of a file that it was writing."""
    from glob import escape

    with contextlib.suppress(OSError):
        target = destination(path)
        if isinstance(target, Path):
            for leftover in target.parent.glob(f"{escape(_unfinished_prefix(target))}*"):
                leftover.unlink(missing_ok=True)


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
        on_done: called with the bytes done
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


def open_binary(path: Path) -> IO[bytes]:
    """A file, open for reading; raises StorageError."""
    try:
        return path.open("rb")
    except OSError as error:
        raise storage_error("read", path, error) from None


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
    """Write text atomically, see :func:`as_bytes`."""
    write_bytes(path, as_bytes(text))


def as_bytes(text: str) -> bytes:
    """Text as UTF-8; a file name in it that is no UTF-8 keeps its own bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair of UTF-16, which no file name brings on POSIX
        return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, tree: Any) -> None:
    """Write JSON atomically, see :func:`json_text`."""
    write_text(path, json_text(tree) + "\n")


def json_text(tree: Any, indent: int | None = 1) -> str:
    """A tree as JSON; non-finite numbers become null, and what JSON doesn't know becomes text.

    File names that are no UTF-8 are escaped, so that JSON stays valid and :func:`read_json` gives them back.
    """
    import json

    try:
        text = json.dumps(tree, ensure_ascii=False, indent=indent, allow_nan=False, default=str)
    except (TypeError, ValueError):
        tree = _finite(tree)
        text = json.dumps(tree, ensure_ascii=False, indent=indent, allow_nan=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(tree, indent=indent, allow_nan=False, default=str)
    return text


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and tree - tree != 0:
        return None
    return tree


@contextlib.contextmanager
def reading(
    origin: Path | str, what: str, refuse: Callable[[str], AasvcError] = DataError, *, advice: str = ""
) -> Iterator[None]:
    """Turn any exception of a library that reads a file into one of our errors.

    Args:
        origin: the file, or what messages call it
        what: what was expected of it
        refuse: makes the error of a message
        advice: what to do, added to the message

    Raises:
        StorageError: the file system refused.
        AasvcError: of ``refuse``, with file, expectation and reason; our own errors pass.
    """
    try:
        yield
    except AasvcError:
        raise
    except FileNotFoundError:
        raise refuse(f"{origin}: {what} not found") from None
    except Exception as error:  # MemoryError too: what is asked for is what the file says
        if isinstance(error, OSError) and error.errno:
            raise storage_error("read", Path(origin), error) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise refuse(f"{origin}: expected {what}, but {reason}{f'; {advice}' if advice else ''}") from None


def read_json(path: Path, what: str) -> Any:
    """Read JSON; raises DataError that names the file and what it should have been."""
    import json

    with reading(path, f"{what} in JSON"):
        if not path.exists():
            raise DataError(f"{path}: {what} not found")
        return json.loads(path.read_text(encoding="utf-8"))
