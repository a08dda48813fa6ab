"""Results that are expensive to compute, kept by what they were computed from; safe to delete at any time.

A key names the content of a file and every setting that matters: if something changed, its key is another one. An entry
begins with the SHA-256 of what follows, and one that does not fit (damaged, or cut short) is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.errors import StorageError
from aasvc_cli.storage.files import as_bytes, atomic_write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.generic]]


DIGEST_BYTES = 32


@dataclass(frozen=True)
class ResultCache:
    """A folder of results; None for a cache that keeps nothing."""

    folder: Path | None

    def arrays(self, kind: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """Arrays by name, kept or computed."""
        import numpy as np

        path = self._path(kind, key, ".npz")
        kept = _kept(path)
        if kept is not None:
            with np.load(io.BytesIO(kept), allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        made = compute()
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **made)  # type: ignore[arg-type]
            _keep(path, buffer.getvalue())
        return made

    def tree(self, kind: str, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Something that JSON can hold, kept or computed. NaN survives."""
        path = self._path(kind, key, ".json")
        kept = _kept(path)
        if kept is not None:
            return json.loads(kept)
        made = compute()
        if path is not None:
            _keep(path, json.dumps(made, ensure_ascii=False).encode("utf-8"))
        return made

    def _path(self, kind: str, key: Mapping[str, Any], suffix: str) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps(key, sort_keys=True, ensure_ascii=False, default=str)
        name = hashlib.sha256(as_bytes(text)).hexdigest()
        return self.folder / kind / name[:2] / f"{name}{suffix}"


def _kept(path: Path | None) -> bytes | None:
    """The content of an entry; None if it is missing or damaged."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    return content if digest == hashlib.sha256(content).digest() else None


def _keep(path: Path, content: bytes) -> None:
    """Write an entry; a full disk costs only the saving."""
    with contextlib.suppress(StorageError), atomic_write(path, durable=False) as stream:
        stream.write(hashlib.sha256(content).digest() + content)
