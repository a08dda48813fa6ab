"""Features on disk: one safetensors file per recording, which is never served once it is stale.

The folder's name holds the key of the feature configuration, the file's header the size, the time and the content of
the recording: another setting leads to another folder, another recording under the same name to a new file. A recording
that was only copied anew has another time, but the same content, which is looked at then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.config.settings import FeatureConfig
from aasvc_cli.errors import DataError, StorageError
from aasvc_cli.storage.files import atomic_write, file_sha256, reading, storage_error
from aasvc_cli.storage.home import Home

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

_TENSOR = "feature"
_LAYOUT_FOLDERS = frozenset(
    {"wav", "wavs", "audio", "clips", "train", "train_parallel", "train_non_parallel", "dev", "eval", "test"}
)
"""Folder names that say nothing about the speaker."""
_STEM_BYTES = 120
_LEFTOVER_SECONDS = 600.0


def recording_stamp(recording: Path) -> list[int] | None:
    """Size in bytes and time of change in nanoseconds; None if there is no such file."""
    try:
        status = recording.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class FeatureStore:
    """Feature files below one folder, for one feature configuration.

    Attributes:
        folder: ``Home.features``
        config: settings of the features
        feature_key: names the settings that decide a kind of feature, as :func:`aasvc_cli.features.kinds.storage_key`
    """

    folder: Path
    config: FeatureConfig
    feature_key: Callable[[str, FeatureConfig], str]
    _keys: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def path(self, kind: str, recording: Path) -> Path:
        """Where the feature of a recording is kept, whether it is there or not."""
        if kind not in self._keys:
            self._keys[kind] = self.feature_key(kind, self.config)
        absolute = os.path.abspath(recording)
        # that of a recording within the data folder stays the same when this is moved
        digest = hashlib.sha256(os.fsencode(Home(self.folder.parent).kept(Path(absolute)))).hexdigest()[:10]
        stem = _safe(recording.stem).encode()[:_STEM_BYTES].decode(errors="ignore")
        name = f"{stem}-{digest}.safetensors"
        return self.folder / f"{kind}-{self._keys[kind]}" / _speaker(Path(absolute)) / name

    def facts(self, kind: str, recording: Path) -> dict[str, Any] | None:
        """What :meth:`save` was told about the recording; None if the feature is not fresh."""
        path = self.path(kind, recording)
        try:
            header, (shape, data) = _read(path)
        except (OSError, DataError):
            return None
        stamp = recording_stamp(recording)
        fresh = stamp is not None and _is_fresh(path, header, shape, data, recording, stamp)
        return header["facts"] if fresh else None

    def save(
        self,
        kind: str,
        recording: Path,
        array: Array,
        *,
        facts: Mapping[str, Any] | None = None,
        stamp: list[int] | None = None,
    ) -> None:
        """Keep a feature (T, D) float32 of a recording, atomically.

        Args:
            facts: anything JSON-able about the recording that is worth keeping with it.
            stamp: :func:`recording_stamp` from before the recording was read, if it may change meanwhile.

        Raises:
            DataError: the recording is gone.
            StorageError: no permission, no space.
        """
        import numpy as np

        data = np.ascontiguousarray(array, dtype="<f4").tobytes()
        stamp = stamp or recording_stamp(recording)
        if stamp is None:
            raise DataError(f"{recording}: the recording vanished while its features were computed")
        header: dict[str, Any] = {"stamp": stamp, "facts": dict(facts or {})}
        with contextlib.suppress(StorageError):  # it has just been read
            header["content"] = file_sha256(recording)
        if recording_stamp(recording) != stamp:  # it has changed meanwhile, so its content is that of something else
            header.pop("content", None)
        _write(self.path(kind, recording), header, array.shape, data)

    def load(self, kind: str, recording: Path) -> Array:
        """The feature of a recording: (T, D) float32.

        A recording that was deleted since does no harm; one that was changed does.

        Raises:
            DataError: there is none, it is damaged, or the recording has changed; says to run ``aasvc prepare``.
        """
        import numpy as np

        path = self.path(kind, recording)
        try:
            header, (shape, data) = _read(path)
        except FileNotFoundError:
            raise DataError(f"{recording}: no {kind} features with these settings; run: aasvc prepare") from None
        except OSError as error:
            raise storage_error("read", path, error) from None
        stamp = recording_stamp(recording)
        if stamp is not None and not _is_fresh(path, header, shape, data, recording, stamp):
            raise DataError(f"{recording}: changed after its features were computed; run: aasvc prepare")
        # a copy, as arrays on top of bytes are read-only
        return np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(shape)

    def remove_leftovers(self) -> None:
        """Remove what writes that were killed have left; recent ones are spared, as another process may be at it."""
        for path in self.folder.rglob(".*.safetensors.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()


def _is_fresh(
    path: Path, header: dict[str, Any], shape: tuple[int, ...], data: memoryview, recording: Path, stamp: list[int]
) -> bool:
    """Whether a feature file belongs to a recording as it is now; notes the time of one that was copied anew."""
    if header["stamp"] == stamp:
        return True
    if "content" not in header or header["stamp"][:1] != stamp[:1]:
        return False
    try:
        same = file_sha256(recording) == header["content"] and recording_stamp(recording) == stamp
    except StorageError:
        return False
    if same:
        with contextlib.suppress(StorageError):  # only so that the next time need not look
            _write(path, {**header, "stamp": stamp}, shape, data)
    return same


def _write(path: Path, header: dict[str, Any], shape: tuple[int, ...], data: bytes | memoryview) -> None:
    """Write a file, atomically."""
    tree = {
        "__metadata__": {"aasvc": (said := json.dumps(header)), "crc": str(_checksum(said, shape, data))},
        _TENSOR: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, len(data)]},
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 8)
    # not forced to the disk, which can cost more than the analysis; the checksum tells whether all of it got there
    with atomic_write(path, durable=False) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.write(data)


def _read(path: Path) -> tuple[dict[str, Any], tuple[tuple[int, ...], memoryview]]:
    """Header, shape and bytes; raises DataError if the file is not whole, OSError if it cannot be read."""
    content = memoryview(path.read_bytes())
    with reading(path, "a whole feature file", advice="run: aasvc prepare"):
        size = int.from_bytes(content[:8], "little")
        tree = json.loads(bytes(content[8 : 8 + size]))
        said, shape, data = tree["__metadata__"]["aasvc"], tuple(tree[_TENSOR]["shape"]), content[8 + size :]
        if str(_checksum(said, shape, data)) != tree["__metadata__"]["crc"]:
            raise ValueError("its checksum is another")
        return json.loads(said), (shape, data)


def _checksum(header: str, shape: tuple[int, ...], data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(f"{header}{shape}".encode()))


def _speaker(recording: Path) -> str:
    """The folder that most likely names the speaker."""
    for folder in recording.parents:
        if folder.name and folder.name.lower() not in _LAYOUT_FOLDERS:
            return _safe(folder.name)
    return "recordings"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
