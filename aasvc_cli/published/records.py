"""Notes beside what was downloaded: which files make up an item, where they came from, and which licence was accepted.

An item grows in a hidden folder, :func:`partial_folder`, beside its place. A mark, written last, makes it complete.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aasvc_cli.errors import AasvcError, DataError
from aasvc_cli.published.catalogue import CatalogueItem, RemoteFile
from aasvc_cli.storage.files import lock, read_json, write_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.transfer import STATE_SUFFIX, Fetched

COMPLETED = ".completed"
"""Written last, so a folder without it is unfinished."""
PROGRESS = ".progress.json"
"""The files that are done, while others are not."""
LICENCE_FILE = "LICENCE.txt"
LOCK_FILE = "downloads.lock.json"
"""In the data folder: what each file's checksum was when it was first seen."""


def partial_folder(folder: Path) -> Path:
    """Where an item grows until it is complete."""
    return folder.parent / f".{folder.name}.partial"


def entry_of(file: RemoteFile, fetched: Fetched, files: dict[str, list[int | None]]) -> dict[str, Any]:
    """What a record says of a fetched file, and of the files that it became: size and CRC by path."""
    return {
        "url": file.url,
        "size": fetched.size,
        "sha256": fetched.sha256,
        "etag": fetched.facts.etag,
        "last_modified": fetched.facts.last_modified,
        "files": files,
    }


def record_tree(item: CatalogueItem, record: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a mark or a progress file."""
    return {"name": item.name, "kind": item.kind, "licence": item.licence.name, "sources": dict(record)}


def read_record(path: Path) -> dict[str, Any]:
    """Content of a mark or a progress file; empty if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        sources = read_json(path, "a record of downloads")["sources"]
        for entry in sources.values():
            if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
                return {}
            for size, _ in entry["files"].values():
                if not isinstance(size, int):
                    return {}
    except (AasvcError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    return dict(sources)


def is_present(folder: Path, item: CatalogueItem) -> bool:
    """Whether all files of an item are in place."""
    record = read_record(folder / COMPLETED)
    if set(record) != {file.name for file in item.files}:
        return False
    files = {path: size for entry in record.values() for path, (size, _) in entry["files"].items()}
    return bool(files) and all(has_size(folder / path, size) for path, size in files.items())


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there, with this size."""
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def bytes_below(folder: Path) -> int:
    """Size of the fetched files in a folder, without our notes."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            if name in (LICENCE_FILE, COMPLETED, PROGRESS) or name.endswith(STATE_SUFFIX):
                continue
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total


def was_accepted(home: Home, item: CatalogueItem) -> bool:
    """Whether the licence was accepted when this download began."""
    folder = item.folder(home)
    return any((place / LICENCE_FILE).is_file() for place in (folder, partial_folder(folder)))


def licence_text(item: CatalogueItem) -> str:
    """Source and licence of an item, to keep beside it."""
    return (
        f"{item.name}: {item.description}\n"
        f"Source: {item.page}\n"
        f"Licence: {item.licence.name}\n"
        f"{item.licence.terms[0].upper()}{item.licence.terms[1:]}.\n"
        f"{item.licence.url}\n"
    )


def remember(home: Home, url: str, sha256: str, size: int) -> dict[str, Any] | None:
    """Note a file's checksum; returns the first entry if that has another checksum."""
    path = home.root / LOCK_FILE
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with lock(home.root / f".{LOCK_FILE}.lock"):
        tree = read_json(path, "checksums of downloads") if path.is_file() else {}
        if not isinstance(tree, dict) or not all(isinstance(entry, dict) for entry in tree.values()):
            raise DataError(f"{path}: expected checksums of downloads; remove it")
        first = tree.get(url)
        if first is None:
            tree[url] = {"sha256": sha256, "size": size, "first_seen": now}
        elif first.get("sha256") == sha256:
            return None
        else:
            later = first.setdefault("later", [])
            if all(entry["sha256"] != sha256 for entry in later):
                later.append({"sha256": sha256, "size": size, "seen": now})
        write_json(path, tree)
    return None if first is None else {"sha256": "?", "first_seen": "?", **first}
