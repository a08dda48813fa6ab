"""Untrusted zip archives: checked before anything is written, unpacked so that an interruption loses nothing."""

from __future__ import annotations

import contextlib
import errno
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aasvc_cli.errors import DataError, StorageError
from aasvc_cli.storage.files import atomic_write, reading, storage_error

_DAMAGE: tuple[type[Exception], ...] = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, struct.error)
with contextlib.suppress(ImportError):  # a Python may have been built without it
    from lzma import LZMAError

    _DAMAGE = (*_DAMAGE, LZMAError)

_BLOCK = 1 << 20
_RATIO_FROM_BYTES = 1 << 20
"""Smaller files may have any ratio."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class ZipLimits:
    """Limits that an intact archive stays below.

    Attributes:
        members: files and folders
        total_bytes: of all files, unpacked
        ratio: of unpacked to packed size of one file
    """

    members: int
    total_bytes: int
    ratio: float = 200.0


@dataclass(frozen=True)
class Member:
    """A file in an archive that is wanted.

    Attributes:
        path: where it goes, relative to the folder
    """

    info: zipfile.ZipInfo
    path: PurePosixPath

    @property
    def size(self) -> int:
        """In bytes, unpacked."""
        return self.info.file_size


class BadArchive(DataError):
    """An archive that is refused as malicious or unusable."""


class DamagedArchive(BadArchive):
    """An archive that has lost or changed bytes."""


def read_members(
    archive: Path, where: Callable[[PurePosixPath], PurePosixPath | None], limits: ZipLimits
) -> list[Member]:
    """The wanted files of an archive, after all of its table of contents was found harmless.

    Args:
        where: the place of a file, or None if it is not wanted

    Raises:
        BadArchive: not a zip, or with paths that leave the folder, links, names that stand for several files, or
            far more data than it should have.
    """
    with _reading(archive) as opened:
        infos = opened.infolist()
        if len(infos) > limits.members:
            raise BadArchive(f"{archive}: holds {len(infos)} files, expected at most {limits.members}; refused")
        packed = sum(info.compress_size for info in infos)
        if packed > archive.stat().st_size:
            raise BadArchive(f"{archive}: its files overlap, as in a zip bomb; refused")
        members: list[Member] = []
        taken: dict[str, str] = {}
        total = 0
        for info in infos:
            path = _harmless(archive, info)
            if info.is_dir():
                continue
            total += info.file_size
            if total > limits.total_bytes:
                raise BadArchive(
                    f"{archive}: unpacks to more than {limits.total_bytes} bytes, as a zip bomb does; refused"
                )
            if info.file_size > max(_RATIO_FROM_BYTES, limits.ratio * info.compress_size):
                raise BadArchive(
                    f"{archive}: {info.filename} unpacks to {info.file_size} bytes from {info.compress_size}, as in a "
                    "zip bomb; refused"
                )
            place = where(path)
            if place is None:
                continue
            _check_writable(archive, info)
            # one file on systems that do not tell upper from lower case
            key = unicodedata.normalize("NFC", str(place)).casefold()
            if key in taken:
                raise BadArchive(f"{archive}: {info.filename} and {taken[key]} are the same file; refused")
            taken[key] = info.filename
            members.append(Member(info, place))
    return members


def unpack(
    archive: Path,
    members: Sequence[Member],
    folder: Path,
    *,
    also: Path | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
) -> None:
    """Write the files that are not there yet, one after the other, each of them whole or not at all.

    Args:
        also: another folder in which files that are there count
        on_bytes: called with (done, all) bytes

    Raises:
        BadArchive: a file does not have the checksum that the archive states.
        StorageError: no permission, no space; what was written stays.
    """
    total, done = sum(member.size for member in members), 0
    root = folder.resolve()
    with _reading(archive) as opened:
        for member in members:
            if not any(is_whole(base / member.path, member) for base in (also, folder) if base is not None):
                target = folder / member.path
                _check_no_link(root, target)
                _write(archive, opened, member, target)
            done += member.size
            if on_bytes:
                on_bytes(done, total)


def is_whole(path: Path, member: Member) -> bool:
    """Whether a file has the size and the checksum that the archive states."""
    try:
        if path.stat().st_size != member.size or not path.is_file():
            return False
        crc = 0
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                crc = zlib.crc32(block, crc)
    except OSError:
        return False
    return crc == member.info.CRC


def _write(archive: Path, opened: zipfile.ZipFile, member: Member, target: Path) -> None:
    # not forced to the disk: the checksum tells whether all of it got there
    with atomic_write(target, durable=False) as stream:
        for block in _content(archive, opened, member):
            stream.write(block)


def _content(archive: Path, opened: zipfile.ZipFile, member: Member) -> Iterator[bytes]:
    """A member's bytes; the last ones come only if the checksum is right."""
    name, n_read = member.info.filename, 0
    try:
        with opened.open(member.info) as packed:
            while block := packed.read(_BLOCK):
                n_read += len(block)
                yield block
    except _DAMAGE as error:
        raise DamagedArchive(f"{archive}: {name} is damaged ({_cut(error)})") from None
    except (NotImplementedError, RuntimeError) as error:
        raise BadArchive(f"{archive}: {name} cannot be unpacked ({_cut(error)})") from None
    except OSError as error:
        # a position that does not exist, or one of bzip2's own, which have no number
        if error.errno in (None, errno.EINVAL):
            raise DamagedArchive(f"{archive}: {name} is damaged ({_cut(error)})") from None
        raise storage_error("read", archive, error) from None
    if n_read != member.size:
        raise DamagedArchive(f"{archive}: {name} has {n_read} bytes, expected {member.size}")


def _harmless(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    """The path of a member, which is a file or a folder and stays below the folder; raises BadArchive."""
    name = info.orig_filename
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise BadArchive(f"{archive}: holds a path that leaves the folder, {name!r}; refused")
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if stat.S_ISLNK(mode) else "a device"
        raise BadArchive(f"{archive}: holds {what}, {name!r}; refused")
    return PurePosixPath(*parts)


def _check_writable(archive: Path, info: zipfile.ZipInfo) -> None:
    """Whether a wanted file can be read, and written on every system; raises BadArchive."""
    name = info.orig_filename
    odd = any(part in ("", ".") or part[-1] in " ." or _RESERVED.fullmatch(part) for part in name.split("/"))
    if odd or re.search(r'[\x00-\x1f\x7f:*?"<>|]', name):
        raise BadArchive(f"{archive}: holds a name that not every system can write, {name!r}; refused")
    if info.flag_bits & 0x1:
        raise BadArchive(f"{archive}: {name!r} is encrypted; refused")


def _check_no_link(root: Path, target: Path) -> None:
    if not target.parent.resolve().is_relative_to(root):
        raise StorageError(f"cannot write {target}: a link leads out of {root}; remove it")


def _cut(error: Exception) -> str:
    """The message of a library, cut short, as it may quote much of a damaged file."""
    return str(error)[:200]


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise DamagedArchive(f"{archive}: not a whole zip archive ({_cut(error)})") from None
    except OSError as error:
        raise storage_error("read", archive, error) from None
    with opened:
        yield opened


def read_tar(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Files of a tar archive that are known by name; raises DataError if one is missing or the archive is damaged."""
    with reading(path, f"a tar archive with {', '.join(names)}"), tarfile.open(path) as archive:
        streams = {name: archive.extractfile(name) for name in names}
        return {name: stream.read() for name, stream in streams.items() if stream is not None}
