"""Ctrl-C is answered within a second, whatever the program is doing.

Python raises KeyboardInterrupt between two steps of the main thread. That takes as long as whatever the main thread is
at (a library being loaded, machine code being compiled, a process being waited for), and libraries that are interrupted
in a bad moment swallow it or make another error of it. So a thread watches: if the program has not ended by itself soon
after the signal, it removes half-written files, ends the processes that were started, and ends the program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from aasvc_cli.cli.output import EXIT_INTERRUPTED

PATIENCE_SECONDS = 0.7
"""From the signal to the end of the program, if it does not end by itself before."""
SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"
"""Takes away the line of a progress bar, and gives back the cursor that it hides."""


class Watch:
    """Signals that asked the program to stop.

    Attributes:
        answered: a message was shown
    """

    def __init__(self) -> None:
        self.answered = self._asked = self._in_order = False
        self._numbers: set[int] = set()
        self._over = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether there was a signal; the thread may notice it when the program is through already."""
        return self._asked and not self._over.is_set()

    @contextlib.contextmanager
    def over(self, *numbers: int, alone: bool) -> Iterator[None]:
        """Raise KeyboardInterrupt on these signals, and make sure that the program ends.

        Args:
            alone: no launcher watches over this process
        """
        # a program in the background of a script ignores Ctrl-C, and goes on ignoring it
        before = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        self.answered = self._asked = False
        self._numbers, self._over = set(before), threading.Event()
        for number in before:
            signal.signal(number, self._interrupt)
        try:
            with self._told_at_once() if alone else contextlib.nullcontext():
                yield
        finally:
            self._over.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _told_at_once(self) -> Iterator[None]:
        """Report each signal to a thread, whatever the main thread is doing."""
        reader, writer = os.pipe()
        try:
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        except (OSError, ValueError, AttributeError):  # not everywhere
            yield
            return
        with contextlib.suppress(AttributeError):  # the signals of a forked process are its own
            os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._watch, args=(reader, self._over), name="ctrl-c", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            os.close(writer)  # which ends the thread

    @contextlib.contextmanager
    def stopping_in_order(self) -> Iterator[None]:
        """Leave a signal to another handler, which may take its time; a second Ctrl-C still ends the program."""
        self._in_order = True
        try:
            yield
        finally:
            self._in_order = False

    def _interrupt(self, _number: int, _frame: object) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def _watch(self, reader: int, over: threading.Event) -> None:
        begun = False
        while number := os.read(reader, 1):
            if number[0] not in self._numbers:
                continue
            if self._in_order and not (begun and number[0] == signal.SIGINT):
                begun = True
                continue
            self._asked = True
            if not over.wait(PATIENCE_SECONDS):
                self._end()
        os.close(reader)

    def _end(self) -> None:
        """End everything in as few steps as possible."""
        from aasvc_cli.storage.files import abandon_unfinished

        with contextlib.suppress(Exception):
            if "multiprocessing" in sys.modules:
                for process in sys.modules["multiprocessing"].active_children():
                    process.kill()
        abandon_unfinished()
        with contextlib.suppress(OSError):
            if os.isatty(2):
                os.write(2, SHOW_CURSOR)
            if not self.answered:
                os.write(2, b"aasvc: interrupted\n")
        os._exit(EXIT_INTERRUPTED)


watch = Watch()
"""Of this process."""
