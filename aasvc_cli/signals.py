"""Ctrl-C reaches every process of a terminal; the parent alone should decide what happens then."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def children_without_ctrl_c() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C, not even while they are still starting.

    Here it arrives when the block is left: it is held back, and being ignored is what the others inherit.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    mask = getattr(signal, "pthread_sigmask", None)  # Windows has none
    if mask:  # starting the first process of any pool starts this one, which would let the signal through
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
    blocked = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else set()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if mask:
            mask(signal.SIG_SETMASK, blocked)
