"""Imports of heavy modules."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Import modules without the cyclic garbage collector.

    Importing torch creates hundreds of thousands of objects that all stay; looking through them again and again takes a
    seventh of the time. Afterwards they are left out of every later collection, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
