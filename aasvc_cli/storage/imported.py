"""Models in another form: made once, kept in the data folder by the content of the files they are made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aasvc_cli.errors import ConfigError, DataError, ModelError, StorageError
from aasvc_cli.storage.files import file_sha256, lock, read_json, storage_error, umask, write_json
from aasvc_cli.storage.home import Home

logger = logging.getLogger(__name__)

Provenance = dict[str, Any]
_Loaded = TypeVar("_Loaded")
_VERSION = 1
"""Increased when the same files are converted differently."""


def import_once(
    home: Home,
    folder: Path,
    files: Sequence[Path],
    write: Callable[[Path, Provenance], None],
    load: Callable[[Path], _Loaded],
    *,
    form: str = "",
    on_damage: Callable[[], None] | None = None,
) -> _Loaded | None:
    """What ``load`` reads from the folder that ``write`` makes of some files.

    The folder is made on first use, found again by the content of the files, and made anew if it turns out damaged.

    Args:
        folder: the one it is made of, whose name the result carries
        files: what decides the result
        write: told an empty folder to fill and the provenance of the files
        load: told the folder
        form: which form it is, if there are several; a part of its name
        on_damage: called before a damaged folder is made anew

    Returns:
        None if the data folder cannot be written to; then the caller has to do without.

    Raises:
        AasvcError: what ``write`` raises, and what ``load`` raises of a folder that was just made.
        StorageError: a file cannot be read.
    """
    place = _made(home, folder, files, write, form)
    if place is None:
        return None
    try:
        return load(place)
    except (ModelError, ConfigError, DataError) as error:
        logger.debug("%s is damaged: %s", place, error)
    if not _discard(place):
        return None
    if on_damage is not None:
        on_damage()
    place = _made(home, folder, files, write, form)
    return None if place is None else load(place)


def _made(
    home: Home, folder: Path, files: Sequence[Path], write: Callable[[Path, Provenance], None], form: str
) -> Path | None:
    """The folder of :func:`import_once`.

    It appears complete or not at all. Of several processes that want the same, one makes it and the others wait.
    """
    hashes = [(path.name, _sha256(home, path)) for path in files]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name).strip(".-") or "model"
    name = "-".join([stem, *([form] if form else []), _key(hashes)])
    provenance = {
        "published_folder": folder.absolute().name,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": digest}
            for path, (_, digest) in zip(files, hashes, strict=True)
        },
    }
    place = home.imported / name
    _note_origin(home, name, files)
    if place.is_dir():
        return place
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(home.imported / f".{name}.lock"))
            if place.is_dir():
                return place
            _sweep(home.imported, name)
            temporary = Path(tempfile.mkdtemp(dir=home.imported, prefix=f".{name}.", suffix=".part"))
        except (StorageError, OSError) as error:
            logger.debug("%s is not kept in another form: %s", folder, error)
            return None
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        try:
            write(temporary, provenance)
            temporary.chmod(0o777 & ~umask())
            os.rename(temporary, place)
        except StorageError as error:  # conversion works on a full disk, too
            logger.debug("%s is not kept in another form: %s", folder, error)
            return None
        except OSError as error:
            raise storage_error("write", place, error) from None
    return place


def _discard(place: Path) -> bool:
    """Take a damaged folder away in one step, so that no other process finds half of it; whether that was possible."""
    try:
        with lock(place.parent / f".{place.name}.lock"):
            aside = tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part")
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.rename(place, aside)
            shutil.rmtree(aside, ignore_errors=True)
    except (StorageError, OSError) as error:
        logger.debug("%s cannot be replaced: %s", place, error)
        return False
    return True


def _sweep(folder: Path, mine: str) -> None:
    """Remove what imports that were killed have left; one that is under way holds its lock."""
    from filelock import FileLock, Timeout

    for leftover in folder.glob(".*.part"):
        name = leftover.name[1:].rsplit(".", 2)[0]
        with contextlib.suppress(Timeout, OSError), contextlib.ExitStack() as stack:
            if name != mine:
                stack.enter_context(FileLock(folder / f".{name}.lock", timeout=0))
            shutil.rmtree(leftover, ignore_errors=True)


def made_again(home: Home) -> list[Path]:
    """Folders that can be made again: the files they were made of are in place, unchanged."""
    folders = []
    for place in sorted(home.imported.glob("[!.]*/")):
        with contextlib.suppress(DataError, StorageError, KeyError, TypeError):  # no note, or no such files any more
            files = [Path(name) for name in read_json(_origin_note(home, place.name), "where it came from")["files"]]
            if place.name.endswith(f"-{_key([(path.name, _sha256(home, path)) for path in files])}"):
                folders.append(place)
    return folders


def _key(hashes: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps([_VERSION, sorted(hashes)]).encode()).hexdigest()[:16]


def _origin_note(home: Home, name: str) -> Path:
    return home.imported / ".seen" / f"{name}.json"


def _note_origin(home: Home, name: str, files: Sequence[Path]) -> None:
    """Remember where the files are; without it, it is unknown whether the folder can be made again."""
    note, tree = _origin_note(home, name), {"files": [str(path.resolve()) for path in files]}
    with contextlib.suppress(DataError, StorageError):
        if not note.is_file() or read_json(note, "where it came from") != tree:
            write_json(note, tree)


def _sha256(home: Home, path: Path) -> str:
    """Of a file's content; remembered as long as its size and times are the same, as large files take seconds."""
    try:
        status = path.stat()
        place = str(path.resolve())
        state = [place, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        note = home.imported / ".seen" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.json"
        with contextlib.suppress(Exception):
            seen = read_json(note, "a remembered checksum")
            if seen["state"] == state:
                return str(seen["sha256"])
    except OSError as error:
        raise storage_error("read", path, error) from None
    digest = file_sha256(path)
    with contextlib.suppress(StorageError):
        write_json(note, {"state": state, "sha256": digest})
    return digest
