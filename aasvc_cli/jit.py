"""Loops compiled to machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba on first use; the machine code is kept on disk where some folder for it is writable."""
    return _compiled(function)


def compiled_loosely(function: Callable[P, R]) -> Callable[P, R]:
    """The same, with sums in any order, so that several terms are added at once: equal up to rounding.

    Dividing by zero gives infinity or NaN, as everywhere in numpy.
    """
    return _compiled(function, fastmath={"reassoc", "contract"}, error_model="numpy")


def _compiled(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    try:
        return cast(Callable[P, R], numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # no folder to keep it in: compile once per process instead
        return cast(Callable[P, R], numba.njit(nogil=True, **options)(function))
