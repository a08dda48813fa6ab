"""The demo corpus, which ships with the package."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from aasvc_cli.errors import DataError
from aasvc_cli.published.catalogue import CatalogueItem
from aasvc_cli.published.records import COMPLETED
from aasvc_cli.storage.files import atomic_write, make_folder, remove_file, write_json


def lay_out(
    item: CatalogueItem,
    bundle: Path,
    folder: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Copy a bundled corpus into its folder.

    A copy that is complete is left alone; files that are missing or differ are written again. Files that do not belong
    to the corpus are never touched.

    Args:
        bundle: where the package has it
        overwrite: write every file again
        on_progress: called with (done, all) files

    Returns:
        whether anything had to be written

    Raises:
        StorageError: no permission or no space; what was finished stays.
        DataError: the package was installed without the corpus.
    """
    names = bundled_files(bundle)
    if not names:
        raise DataError(f"{bundle}: the demo corpus is missing from this installation; install the package again")
    marker = folder / COMPLETED
    stale = names if overwrite else [name for name in names if not _is_copy(folder / name, bundle / name)]
    if not stale and marker.is_file():
        if on_progress:
            on_progress(len(names), len(names))
        return False
    make_folder(folder)
    remove_file(marker)
    done = len(names) - len(stale)
    for name in stale:
        _copy(bundle / name, folder / name)
        done += 1
        if on_progress:
            on_progress(done, len(names))
    write_json(marker, {"name": item.name, "n_files": len(names), "licence": item.licence.name})
    return True


def bundled_files(folder: Path) -> list[Path]:
    """Paths of all files below a folder, relative to it, sorted."""
    files = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        files += [(Path(base) / name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(files)


def _is_copy(path: Path, original: Path) -> bool:
    try:
        return filecmp.cmp(path, original, shallow=False)
    except OSError:
        return False


def _copy(original: Path, path: Path) -> None:
    # each is compared with its original before it is taken for a copy, so none of them has to wait for the disk
    with original.open("rb") as source, atomic_write(path, durable=False) as stream:
        shutil.copyfileobj(source, stream)
