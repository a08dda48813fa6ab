"""Arrays with facts, by recording: one small file each at first, packed into large ones when there are many.

Both are safetensors files. A small one is written in one step by whoever computed it, so work can be stopped at any
moment. :meth:`Shelf.pack` moves them into packs, which are memory-mapped. A small file goes before an entry of the same
name in a pack, and a later pack before an earlier one. Every entry has a checksum of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.storage.files import atomic_write, lock, make_folder, reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]

PACK_FROM = 512
"""Small files from which on they are packed."""
PACK_BYTES = 256 * 2**20
_SUFFIX = ".safetensors"
_TENSOR = "feature"
_TYPES = {"F32": "<f4", "F16": "<f2"}
_LAYOUT_FOLDERS = frozenset(
    {"wav", "wavs", "audio", "clips", "train", "train_parallel", "train_non_parallel", "dev", "eval", "test"}
)
"""Folder names that say nothing about the speaker."""
_STEM_BYTES = 120
_LEFTOVER_SECONDS = 600.0


class Entry(NamedTuple):
    """What is kept for one recording.

    Attributes:
        said: its header, JSON
        dtype: ``F32`` or ``F16``
    """

    said: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    crc: int

    @property
    def header(self) -> dict[str, Any]:
        """The header as a tree."""
        return _tree_of(self.said)

    @property
    def is_whole(self) -> bool:
        """Whether everything is as it was written."""
        return self.crc == _checksum(self.said, self.shape, self.data)

    def array(self) -> Array:
        """A copy of the values, float32."""
        import numpy as np

        return np.frombuffer(self.data, dtype=_TYPES[self.dtype]).astype(np.float32).reshape(self.shape)


class _Pack:
    """An open pack; no object is made of an entry before it is asked for.

    Raises:
        DataError: it is not whole.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, "a pack of features"), path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            self._tensors = _tree_of(stream.read(size))
            self._facts = _tree_of(self._tensors.pop("__metadata__")["aasvc"])
            self._start = 8 + size
            length = self._start + max((each["data_offsets"][1] for each in self._tensors.values()), default=0)
            if os.fstat(stream.fileno()).st_size != length:
                raise ValueError("it is cut short")
            self._content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

    @property
    def names(self) -> Collection[str]:
        """Of all entries."""
        return self._tensors.keys()

    def entry(self, name: str) -> Entry | None:
        """One of them; None if it is damaged."""
        try:
            tensor, (said, crc) = self._tensors[name], self._facts[name]
            first, last = tensor["data_offsets"]
            data = self._content[self._start + first : self._start + last]
            entry = Entry(said, tensor["dtype"], tuple(tensor["shape"]), data, crc)
            return entry if entry.is_whole else None
        except (KeyError, TypeError, ValueError):
            return None


class Shelf:
    """Entries below one folder.

    Args:
        root: the data folder; recordings in it are known by their place there, so that it may be moved
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._packs = folder / ".packs"
        self._roots = tuple({os.path.join(place, "") for place in (os.path.abspath(root), os.path.realpath(root))})
        self._index: dict[str, _Pack] = {}
        self._known: set[str] = set()
        self._seen: int | None = None

    def name(self, recording: Path | str) -> str:
        """How the entry of a recording is called: speaker, stem, and a digest of the whole path."""
        absolute = os.fspath(recording)
        if not os.path.isabs(absolute) or os.pardir in absolute:
            absolute = os.path.abspath(absolute)
        kept = absolute
        for root in self._roots:
            if absolute.startswith(root):
                kept = absolute[len(root) :].replace(os.sep, "/")
                break
        digest = hashlib.sha256(os.fsencode(kept)).hexdigest()[:10]
        folder, _, base = absolute.rpartition(os.sep)
        dot = base.rfind(".")
        stem = _safe(base[:dot] if 0 < dot < len(base) - 1 else base).encode()[:_STEM_BYTES].decode(errors="ignore")
        return f"{_speaker(folder)}/{stem}-{digest}"

    def path(self, recording: Path) -> Path:
        """The small file of a recording, whether it is there or not."""
        return self.folder / f"{self.name(recording)}{_SUFFIX}"

    def get(self, recording: Path) -> Entry | None:
        """The entry of a recording; None if there is none.

        Raises:
            DataError: it is damaged.
            OSError: it cannot be read.
        """
        name = self.name(recording)
        with contextlib.suppress(FileNotFoundError):
            return read_entry(self.folder / f"{name}{_SUFFIX}")
        if (pack := self._find(name)) is None:
            return None
        if (entry := pack.entry(name)) is None:
            raise DataError(
                f"{pack.path}: expected a whole feature file, but the checksum of {name} is another; run: aasvc prepare"
            )
        return entry

    def each(self, names: Collection[str]) -> Iterator[tuple[str, Entry]]:
        """The entries of many names, file by file, so that no index of them all is made; damaged ones are left out."""
        left = set(names)
        for name, path in self._small():
            if name in left:
                with contextlib.suppress(FileNotFoundError):  # if it is packed meanwhile, it is met below
                    try:
                        entry = read_entry(path)
                    except (DataError, PermissionError):
                        entry = None
                    left.discard(name)
                    if entry is not None:
                        yield name, entry
        for path in reversed(self._pack_files()):
            if not left:
                return
            try:
                pack = _Pack(path)
            except (AasvcError, OSError):
                continue
            for name in left.intersection(pack.names):
                if (entry := pack.entry(name)) is not None:
                    yield name, entry
            left.difference_update(pack.names)

    def has(self, recording: Path) -> bool:
        """Whether there is an entry, good or not."""
        return self.path(recording).is_file() or self._find(self.name(recording)) is not None

    def put(self, recording: Path, header: dict[str, Any], array: Array) -> None:
        """Write an entry, atomically; raises StorageError."""
        import numpy as np

        dtype = "F16" if array.dtype == np.float16 else "F32"
        data = np.ascontiguousarray(array, dtype=_TYPES[dtype]).tobytes()
        write_entry(self.path(recording), json.dumps(header), dtype, array.shape, data)

    def pack(self, least: int = PACK_FROM) -> None:
        """Move small files into packs if there are ``least`` of them, unless another process is at it.

        Raises:
            StorageError: a pack cannot be written.
        """
        small = list(self._small())
        if len(small) < least:
            return

        def leave() -> None:
            raise _BusyError

        with contextlib.suppress(_BusyError), lock(make_folder(self._packs) / ".lock", leave):
            for batch in _batches(small):
                self._pack(batch)

    def remove_leftovers(self) -> None:
        """Remove what writes that were killed have left; recent ones are spared, as another process may be at it."""
        for path in self.folder.rglob(f".*{_SUFFIX}.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()

    # --- packs ------------------------------------------------------------------------------------------------------

    def _small(self) -> Iterator[tuple[str, Path]]:
        """Name and file of every small file."""
        for folder, folders, files in os.walk(self.folder):
            folders[:] = sorted(each for each in folders if each != self._packs.name)
            for file in sorted(files):
                if file.endswith(_SUFFIX) and not file.startswith("."):
                    yield f"{os.path.basename(folder)}/{file.removesuffix(_SUFFIX)}", Path(folder, file)

    def _pack_files(self) -> list[Path]:
        """All packs, the oldest first."""
        try:
            files = sorted(os.listdir(self._packs))
        except OSError:
            return []
        return [self._packs / file for file in files if file.endswith(_SUFFIX) and not file.startswith(".")]

    def _pack(self, batch: Sequence[tuple[str, Path, os.stat_result]]) -> None:
        """Write one pack, and remove the small files that are in it and have not been written anew meanwhile."""
        tree: dict[str, Any] = {}
        facts: dict[str, tuple[str, int]] = {}
        place, packed = 0, []
        for name, path, status in batch:
            try:
                entry = read_entry(path)
            except (AasvcError, OSError):
                continue  # prepare will compute it again
            size = len(entry.data)
            tree[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [place, place + size]}
            facts[name] = (entry.said, entry.crc)
            packed.append((path, status, entry.crc))
            place += size
        text = json.dumps({"__metadata__": {"aasvc": json.dumps(facts)}} | tree).encode()
        text += b" " * (-len(text) % 8)
        target = self._packs / f"{time.time_ns():020d}-{os.getpid()}{_SUFFIX}"
        with atomic_write(target) as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for path, _, crc in packed:
                entry = read_entry(path)
                if entry.crc != crc:
                    raise DataError(f"{path}: was written anew while it was packed; run: aasvc prepare again")
                stream.write(entry.data)
        for path, status, _ in packed:
            with contextlib.suppress(OSError):
                now = path.stat()
                if (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns):
                    path.unlink()

    def _find(self, name: str) -> _Pack | None:
        """The pack that an entry is in; new packs are looked at when there are any."""
        try:
            seen = self._packs.stat().st_mtime_ns
        except OSError:
            return None
        if seen != self._seen:
            for path in self._pack_files():
                if path.name not in self._known:
                    self._known.add(path.name)
                    with contextlib.suppress(AasvcError, OSError):  # a damaged one is as if it were not there
                        pack = _Pack(path)
                        self._index |= dict.fromkeys(pack.names, pack)
            self._seen = seen
        return self._index.get(name)


def _tree_of(text: str | bytes) -> dict[str, Any]:
    """JSON in a third of the time of ``json``, which shows where there are hundreds of thousands; raises ValueError."""
    from pydantic_core import from_json

    tree: dict[str, Any] = from_json(text)
    return tree


class _BusyError(Exception):
    """Another process packs."""


def read_entry(path: Path) -> Entry:
    """A small file; raises DataError if it is not whole, OSError if it cannot be read."""
    content = memoryview(path.read_bytes())
    with reading(path, "a whole feature file", advice="run: aasvc prepare"):
        size = int.from_bytes(content[:8], "little")
        tree = json.loads(bytes(content[8 : 8 + size]))
        described, kept = tree[_TENSOR], tree["__metadata__"]
        entry = Entry(
            kept["aasvc"], described["dtype"], tuple(described["shape"]), content[8 + size :], int(kept["crc"])
        )
        if not entry.is_whole:
            raise ValueError("its checksum is another")
        return entry


def write_entry(path: Path, said: str, dtype: str, shape: Sequence[int], data: bytes | memoryview) -> None:
    """Write a small file, atomically; raises StorageError."""
    tree = {
        "__metadata__": {"aasvc": said, "crc": str(_checksum(said, tuple(shape), data))},
        _TENSOR: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, len(data)]},
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 8)
    # not forced to the disk, which can cost more than the analysis; the checksum tells whether all of it got there
    with atomic_write(path, durable=False) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.write(data)


def _batches(small: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, Path, os.stat_result]]]:
    """Small files that become one pack, with their status."""
    batch: list[tuple[str, Path, os.stat_result]] = []
    size = 0
    for name, path in small:
        try:
            status = path.stat()
        except OSError:
            continue
        if batch and (size + status.st_size > PACK_BYTES or len(batch) >= 8 * PACK_FROM):
            yield batch
            batch, size = [], 0
        batch.append((name, path, status))
        size += status.st_size
    yield batch


def _checksum(said: str, shape: tuple[int, ...], data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(f"{said}{shape}".encode()))


@lru_cache(maxsize=256)
def _speaker(folder: str) -> str:
    """The folder that most likely names the speaker."""
    while True:
        folder, name = os.path.split(folder)
        if not name:
            return "recordings"
        if name.lower() not in _LAYOUT_FOLDERS:
            return _safe(name)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
