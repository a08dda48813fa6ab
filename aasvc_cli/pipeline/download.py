"""Corpora laid out in the data folder. So far the one that ships with the package."""

from __future__ import annotations

import dataclasses
import filecmp
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aasvc_cli.errors import DataError
from aasvc_cli.storage.cache import Home, bundled
from aasvc_cli.storage.files import atomic_write, make_folder, storage_error, write_json

COMPLETED = ".completed"
"""Written last, so a folder without it is unfinished."""


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus that can be had by name.

    Attributes:
        seconds: of speech, both speakers together
        asset: where it lies in the package
    """

    name: str
    description: str
    licence: str
    seconds: float
    asset: str


CATALOGUE = {
    entry.name: entry
    for entry in (
        CorpusEntry(
            name="demo",
            description="100 Japanese sentences by a male and a female synthetic voice, ships with the package",
            licence="Apache-2.0",
            seconds=708.0,
            asset="demo",
        ),
    )
}
"""Everything that ``aasvc download`` knows, by name."""


@dataclass(frozen=True)
class DownloadResult:
    """A corpus in the data folder.

    Attributes:
        n_files: in the corpus
        seconds: of speech
        already_there: nothing had to be done
    """

    name: str
    folder: Path
    n_files: int
    seconds: float
    already_there: bool

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self) | {"folder": str(self.folder)}


def download_demo(
    home: Home, *, overwrite: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> DownloadResult:
    """Lay the demo corpus out as ``corpora/demo``, in the layout of Hi-Fi-CAPTAIN; needs no network.

    A copy that is complete is left alone; files that are missing or differ are written again. Files that do not belong
    to the corpus are never touched.

    Args:
        overwrite: write every file again
        on_progress: told (done, all) files

    Raises:
        StorageError: no permission or no space; what was finished stays.
        DataError: the package was installed without the corpus.
    """
    entry = CATALOGUE["demo"]
    origin = bundled(entry.asset)
    names = _files(origin)
    if not names:
        raise DataError(f"{origin}: the demo corpus is missing from this installation; install the package again")
    folder = home.corpora / entry.name
    marker = folder / COMPLETED
    stale = names if overwrite else [name for name in names if not _is_copy(folder / name, origin / name)]
    if not stale and marker.is_file():
        if on_progress:
            on_progress(len(names), len(names))
        return DownloadResult(entry.name, folder, len(names), entry.seconds, already_there=True)
    make_folder(folder)
    try:
        marker.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("replace", marker, error) from None
    done = len(names) - len(stale)
    for name in stale:
        _copy(origin / name, folder / name)
        done += 1
        if on_progress:
            on_progress(done, len(names))
    write_json(marker, {"name": entry.name, "n_files": len(names), "licence": entry.licence})
    return DownloadResult(entry.name, folder, len(names), entry.seconds, already_there=False)


def _files(folder: Path) -> list[Path]:
    """Paths of all files below a folder, relative to it, sorted."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [(Path(base) / name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def _is_copy(path: Path, origin: Path) -> bool:
    try:
        return filecmp.cmp(path, origin, shallow=False)
    except OSError:
        return False


def _copy(origin: Path, path: Path) -> None:
    with origin.open("rb") as source, atomic_write(path) as stream:
        shutil.copyfileobj(source, stream)
