"""Work spread over processes that can be stopped at any moment.

Workers are spawned: they inherit no threads in an unknown state, and that is what there is on every platform. Each gets
one item at a time over a pipe of its own, so that it is always known what a worker is at, and none has to be asked
before it is ended. A worker that is still starting is ended like any other.

Ctrl-C reaches every process of a terminal; workers never see it, and the process that started them decides.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from aasvc_cli.errors import AasvcError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

PATIENCE_SECONDS = 0.4
"""How long a worker may take to clean up when it is stopped; then it is killed."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the libraries of numpy and torch look at when they are loaded."""


@dataclass
class _Worker:
    """A process.

    Attributes:
        item: what it is working on, while it is busy
        knows: the function that it was told
    """

    process: SpawnProcess
    connection: Connection
    busy: bool = False
    item: Any = None
    knows: object = None


class Workers:
    """Processes that are started when there is work for them, and ended by :meth:`close`.

    They stay from one :meth:`spread` to the next, so that what they have loaded serves again.
    """

    def __init__(self, count: int) -> None:
        """No process yet, and never more than ``count``."""
        self.count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def spread(
        self,
        function: Callable[[Item], Outcome],
        items: Iterable[Item],
        *,
        killed: Callable[[Item], Outcome],
        sweep: Callable[[Item], None] | None = None,
    ) -> Generator[Outcome, None, None]:
        """Outcomes in the order in which they are done.

        Args:
            function: sent to each worker once, so what it remembers from one item to the next, it remembers there
            items: taken as they are needed
            killed: gives the outcome of an item whose worker was killed, or raises
            sweep: removes what a worker has left that had no time to do so itself

        Raises:
            AasvcError, MemoryError: what ``function`` raises.
            RuntimeError: it raised anything else; says what.
        """
        from multiprocessing.connection import wait

        todo = iter(items)
        try:
            while len(self._busy()) < self.count and (item := next(todo, todo)) is not todo:
                self._give(function, item)
            while busy := self._busy():
                ready = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in ready]:
                    item = worker.item
                    try:
                        answer = worker.connection.recv()
                    except (EOFError, OSError):  # killed, most likely for want of memory
                        self._retire(worker)
                        if sweep is not None:
                            sweep(item)
                        answer = killed(item)
                    if isinstance(answer, _Raised):
                        raise answer.error
                    worker.busy = False
                    yield answer
                    if (item := next(todo, todo)) is not todo:
                        self._give(function, item)
        finally:
            self._stop([worker for worker in self._workers if worker.busy], sweep)

    def close(self) -> None:
        """End all processes; they have nothing to do any more."""
        self._stop(self._workers, None)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.busy]

    def _give(self, function: object, item: object) -> None:
        """Let an idle worker do something, or a new one."""
        for worker in [worker for worker in self._workers if not worker.busy]:
            try:
                _send(worker, function, item)
            except OSError:  # killed while it had nothing to do
                self._retire(worker)
            else:
                return
        with children_without_ctrl_c():  # which is let through when the process is known here
            self._workers.append(worker := _start(self.count))
        _send(worker, function, item)  # waits in the pipe until the process is there

    def _retire(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        worker.connection.close()

    def _stop(self, workers: Sequence[_Worker], sweep: Callable[[Any], None] | None) -> None:
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.connection.close()
            worker.process.terminate()
        until = time.monotonic() + PATIENCE_SECONDS
        for worker in list(workers):
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            self._workers.remove(worker)
            if worker.busy and sweep is not None:
                sweep(worker.item)


def core_count() -> int:
    """Cores that this process may use: those of the machine, or fewer if it was given fewer."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # of a container
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    return max(1, count)


@contextlib.contextmanager
def children_without_ctrl_c() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C, not even while they are still starting.

    Here it arrives when the block is left.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    asked: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    mask = getattr(signal, "pthread_sigmask", None)  # Windows has none
    if mask:  # starting the first process of any pool starts this one, which would let the signal through
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
    # what is blocked here is blocked in processes that are started from here
    blocked = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else set()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if mask:
            mask(signal.SIG_SETMASK, blocked)
        if asked:  # another thread got it
            signal.raise_signal(signal.SIGINT)


# --- between the processes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Raised:
    """An answer that is none."""

    error: Exception


def _start(count: int) -> _Worker:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    threads = {name: str(max(1, core_count() // count)) for name in THREAD_VARIABLES}
    process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _send(worker: _Worker, function: object, item: object) -> None:
    worker.busy, worker.item = True, item
    worker.connection.send((None if worker.knows is function else function, item))
    worker.knows = function


def _serve(connection: Connection, threads: dict[str, str]) -> None:
    """The life of a worker: do what comes until nothing more does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    for name, value in threads.items():
        os.environ.setdefault(name, value)
    function: Any = None
    # without a word, whatever is the reason: the other end is gone, or wants this one to go
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        while True:
            received = connection.recv_bytes()
            try:
                signal.signal(signal.SIGTERM, _interrupt_once)  # what is half written is removed on the way out
                told, item = pickle.loads(received)  # imports what the function needs
                function = function if told is None else told
                answer = function(item)
            except Exception as error:
                answer = _Raised(_portable(error))
            signal.signal(signal.SIGTERM, _leave)
            connection.send(answer)
    _leave()


def _leave(*_: object) -> NoReturn:
    os._exit(0)  # nothing is left to do that would be worth the time


def _interrupt_once(_number: int, _frame: object) -> NoReturn:
    """Not again while the work is given up: a second one would come out where nobody expects it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _portable(error: Exception) -> Exception:
    """What the other process can make again."""
    if isinstance(error, (AasvcError, MemoryError)):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told
