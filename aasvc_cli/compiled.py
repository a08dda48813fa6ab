"""Loops compiled to machine code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba on first use; the machine code is kept in the user's cache folder, or where numba is told to.

    Beside the source, as numba would have it, it would outlive the package there: an uninstalled package of which a
    folder is left hides the same package that is installed for development.
    """
    import numba

    settings: Any = numba.config
    told = settings.CACHE_DIR
    settings.CACHE_DIR = told or str(_kept_in())
    try:
        return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to keep it in: compile once per process instead
        return cast(Callable[P, R], numba.njit(nogil=True)(function))
    finally:
        settings.CACHE_DIR = told


def _kept_in() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("aasvc", appauthor=False) / "compiled"


def has_machine_code(module: str) -> bool:
    """Whether numba has kept machine code of a module since it was last changed, in the user's cache folder.

    Loading numba only to find that nothing has to be compiled takes most of a second. A wrong answer costs time and
    nothing else: what is missing is compiled where it is first used. If the code is kept elsewhere (that folder is not
    writable, or ``NUMBA_CACHE_DIR`` says so) the answer is no.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin)
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    try:
        changed = source.stat().st_mtime
        # numba names a folder after that of the source, with a digest of its path
        kept = _kept_in().glob(f"{source.parent.name}_*/{source.stem}.*.{python}*.nbi")
        return any(index.stat().st_mtime >= changed for index in kept)
    except OSError:
        return False
