"""Results that are expensive to compute, kept by what they were computed from; safe to delete at any time.

A key names the content of a file and every setting that matters, so that an entry never has to be checked against
anything: if something changed, its key is another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.errors import StorageError
from aasvc_cli.storage.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class ResultCache:
    """A folder of results; None for a cache that keeps nothing."""

    folder: Path | None

    def arrays(self, kind: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Arrays by name, kept or computed."""
        import numpy as np

        path = self._path(kind, key, ".npz")
        if path is not None:
            # not there, or damaged: it is made anew
            with (
                contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
                np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored,
            ):
                return {name: stored[name] for name in stored.files}
        found = compute()
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **found)  # type: ignore[arg-type]
            _keep(path, buffer.getvalue())
        return found

    def tree(self, kind: str, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Something that JSON can hold, kept or computed. NaN survives."""
        path = self._path(kind, key, ".json")
        if path is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or damaged
                return json.loads(path.read_text(encoding="utf-8"))["value"]
        found = compute()
        if path is not None:
            _keep(path, json.dumps({"value": found}, ensure_ascii=False).encode("utf-8"))
        return found

    def _path(self, kind: str, key: Mapping[str, Any], suffix: str) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps(key, sort_keys=True, ensure_ascii=False, default=str)
        name = hashlib.sha256(text.encode("utf-8")).hexdigest()
        return self.folder / kind / name[:2] / f"{name}{suffix}"


def _keep(path: Path, data: bytes) -> None:
    """Write an entry; a full disk costs only the saving."""
    with contextlib.suppress(StorageError), atomic_write(path, durable=False) as stream:
        stream.write(data)
