"""Loops compiled to machine code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba on first use; the machine code is kept on disk where some folder for it is writable."""
    import numba

    try:
        return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to keep it in: compile once per process instead
        return cast(Callable[P, R], numba.njit(nogil=True)(function))


def has_machine_code(module: str) -> bool:
    """Whether numba has kept machine code of a module since it was last changed, in the folder beside it.

    Loading numba only to find that nothing has to be compiled takes most of a second. A wrong answer costs time and
    nothing else: what is missing is compiled where it is first used. If the code is kept elsewhere (the folder of the
    program is not writable, or ``NUMBA_CACHE_DIR`` says so) the answer is no.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin)
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    try:
        changed = source.stat().st_mtime
        kept = (source.parent / "__pycache__").glob(f"{source.stem}.*.{python}*.nbi")
        return any(index.stat().st_mtime >= changed for index in kept)
    except OSError:
        return False
