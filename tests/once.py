"""What tests need again and again is computed once per process."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T", bound=Callable[..., Any])

PACKAGE = Path(__file__).parents[1] / "aasvc_cli"


def once(function: T) -> T:
    """A function of arrays that computes each result once; every caller gets a copy of the array that it returns."""
    known: dict[Any, np.ndarray] = {}

    def identity(value: Any) -> Any:
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    @functools.wraps(function)
    def remembered(*arguments: Any, **named: Any) -> np.ndarray:
        key = (*map(identity, arguments), *((name, identity(value)) for name, value in sorted(named.items())))
        if key not in known:
            known[key] = function(*arguments, **named)
        return known[key].copy()

    return remembered  # type: ignore[return-value]


@functools.cache
def parsed() -> dict[Path, ast.Module]:
    """The modules of the package, to be looked at only."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
