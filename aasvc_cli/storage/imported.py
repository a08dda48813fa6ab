"""Published models in our form: converted once, kept in the data folder by the content of their files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aasvc_cli.errors import StorageError
from aasvc_cli.storage.cache import Home
from aasvc_cli.storage.files import make_folder, read_json, storage_error, write_json

logger = logging.getLogger(__name__)

Provenance = dict[str, Any]
_VERSION = 1
"""Counted up when the same files become something else."""


def import_once(
    home: Home, folder: Path, files: Sequence[Path], write: Callable[[Path, Provenance], None]
) -> Path | None:
    """The folder that ``write`` makes of some files, made on first use and found again by their content.

    It appears complete or not at all. Of several processes that want the same, one makes it and the others wait.

    Args:
        folder: the published one, whose name the result carries
        files: what decides the result
        write: told an empty folder to fill and the provenance of the files

    Returns:
        None if the data folder cannot be written to; then the caller has to do without.

    Raises:
        AasvcError: what ``write`` raises.
        StorageError: a file cannot be read.
    """
    hashes = {path.name: _sha256(home, path) for path in files}
    key = hashlib.sha256(json.dumps([_VERSION, sorted(hashes.items())]).encode()).hexdigest()[:16]
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.absolute().name).strip('.-') or 'model'}-{key}"
    provenance = {
        "published_folder": folder.absolute().name,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": hashes[path.name]} for path in files},
    }
    place = home.imported / name
    if place.is_dir():
        return place
    with contextlib.ExitStack() as stack:
        try:
            make_folder(home.imported)
            stack.enter_context(_alone(home.imported / f".{name}.lock"))
            if place.is_dir():
                return place
            for leftover in home.imported.glob(f".{name}.*.part"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=home.imported, prefix=f".{name}.", suffix=".part"))
        except (StorageError, OSError) as error:
            logger.debug("%s is not kept in our form: %s", folder, error)
            return None
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        try:
            write(temporary, provenance)
            temporary.chmod(0o777 & ~_umask())
            os.rename(temporary, place)
        except StorageError as error:  # a full disk must not keep anybody from converting
            logger.debug("%s is not kept in our form: %s", folder, error)
            return None
        except OSError as error:
            raise storage_error("write", place, error) from None
    return place


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path):
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sha256(home: Home, path: Path) -> str:
    """Of a file's content; remembered as long as its size and times are the same, as large files take seconds."""
    try:
        status = path.stat()
        place = str(path.resolve())
        state = [place, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        note = home.imported / ".seen" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
        with contextlib.suppress(Exception):
            seen = read_json(note, "a remembered checksum")
            if seen["state"] == state:
                return str(seen["sha256"])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise storage_error("read", path, error) from None
    with contextlib.suppress(StorageError):
        write_json(note, {"state": state, "sha256": digest})
    return digest
