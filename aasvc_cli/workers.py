"""Work spread over processes, on top of :class:`concurrent.futures.Executor`.

A process pool gives up when one of its processes is killed, and cannot be stopped while it works. Here, the jobs of a
pool that broke are run once more, each alone, so that the one that is to blame is known; and work can be stopped at any
moment, within half a second and without a traceback. Ctrl-C, which reaches every process of a terminal, is left to the
process that started the others.

Workers are spawned: they inherit no threads in an unknown state, and every platform can do it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from aasvc_cli.errors import AasvcError, ClusterError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

PATIENCE_SECONDS = 0.4
"""How long a worker may take to clean up when it is stopped; then it is killed."""
CHUNK = 8
"""Items per task: enough to hide the cost of handing over a task, few enough for a smooth progress bar."""
MANY = 256
"""Items whose work takes much longer than the start of a process."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the libraries of numpy and torch look at when they are loaded."""
CLUSTER_LOST = "the connection to the cluster was lost; what is done is kept, the same command goes on from there"


class Workers:
    """An executor that is made when there is work for it, and ended by :meth:`close`.

    Its processes stay from one :meth:`spread` to the next, so that what they have loaded serves again.
    """

    def __init__(
        self,
        count: int,
        executor: Callable[[int], Executor] | None = None,
        lost: tuple[type[Exception], ...] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        """No process yet.

        Args:
            count: jobs at the same time
            executor: makes an executor for so many; by default, one of processes on this machine
            lost: what a future of that executor raises if all its attempts to run the job ended with a lost worker
            before: called in each worker before its first job; raises an AasvcError if the worker cannot be used
        """
        self.count = count
        self._make = executor or _local_pool
        self._lost: tuple[type[Exception], ...] = (BrokenExecutor, *lost)
        self._before = before
        self._executor: Executor | None = None
        self._processes: set[BaseProcess] = set()

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
            function: made once in each worker, so it may remember there what it has loaded
            items: taken as they are needed
            killed: gives the outcome of an item whose worker was killed twice, or raises
            sweep: removes what a worker has left that had no time to do so itself

        Raises:
            AasvcError, MemoryError: what ``function`` raises.
            ClusterError: the cluster was lost.
            RuntimeError: it raised anything else; says what.
        """
        job = functools.partial(_call, pickle.dumps((uuid.uuid4().hex, os.getcwd(), self._before, function)))
        todo = iter(items)
        running: dict[Future[Outcome], Item] = {}
        suspects: list[Item] = []
        try:
            while True:
                while not suspects and len(running) < self.count and (item := next(todo, todo)) is not todo:
                    running[self._submit(job, item)] = item  # type: ignore[assignment]
                alone = not running
                if alone and not suspects:
                    return
                if alone:
                    item = suspects.pop()
                    running[self._submit(job, item)] = item
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    try:
                        outcome = future.result()
                    except self._lost as error:  # killed, most likely for want of memory
                        broken = isinstance(error, BrokenExecutor)
                        if broken:
                            self.close()
                        if sweep is not None:
                            sweep(item)
                        if broken and not alone:
                            suspects.append(item)
                            continue
                        outcome = killed(item)
                    except CancelledError:
                        raise ClusterError(CLUSTER_LOST) from None
                    yield outcome
        finally:
            if running:
                self.close()
                for item in running.values():
                    if sweep is not None:
                        sweep(item)

    def _submit(self, job: Callable[[Item], Outcome], item: Item) -> Future[Outcome]:
        from multiprocessing import active_children

        with children_without_ctrl_c():  # which is let through when the process is known here
            others = set(active_children())
            if self._executor is None:
                self._executor = self._make(self.count)
            try:
                return self._executor.submit(job, item)
            except BrokenExecutor:  # a worker was killed while it had nothing to do
                self.close()
            except OSError as error:
                if error.errno is not None:  # the system starts no more processes
                    raise
                self.close()  # one was killed, and the pool closed its pipes while it started another
            finally:
                self._processes |= set(active_children()) - others
        return self._submit(job, item)

    def close(self) -> None:
        """End the executor, and its processes if they are here."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._executor = None
        for process in self._processes:
            process.terminate()
        until = time.monotonic() + PATIENCE_SECONDS
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()
        self._processes.clear()


def each_in_chunks(
    workers: Workers,
    function: Callable[[Item], Outcome],
    items: Sequence[Item],
    *,
    killed: Callable[[Sequence[Item]], Any],
    sweep: Callable[[Sequence[Item]], None] | None = None,
    size: int = CHUNK,
) -> Generator[tuple[Item, Outcome], None, None]:
    """Items with their outcomes, in any order: by the workers a few at a time, or here where that pays more.

    Many items are done by a worker even if there is only one, so that this process stays small, whatever the function
    loads.

    Args:
        killed: raises an error about a chunk whose worker was killed twice
        sweep: as in :meth:`Workers.spread`, for a chunk
        size: items of a chunk
    """
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    if len(chunks) <= 1 or (workers.count <= 1 and len(items) < MANY):
        yield from ((item, function(item)) for item in items)
        return
    for outcomes in workers.spread(functools.partial(_chunk, function), chunks, killed=killed, sweep=sweep):
        yield from outcomes


def _chunk(function: Callable[[Item], Outcome], items: Sequence[Item]) -> list[tuple[Item, Outcome]]:
    return [(item, function(item)) for item in items]


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

    It arrives here when the block is left.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    asked: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    mask = getattr(signal, "pthread_sigmask", None)  # Windows has none
    if mask:  # starting the first process of any pool starts this one, which would let the signal through
        _start_resource_tracker()
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


def _start_resource_tracker() -> None:
    """It removes the semaphores of a program that was killed, and would complain about them."""
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    resource_tracker.ensure_running()
    if before is None:
        del os.environ["PYTHONWARNINGS"]
    else:
        os.environ["PYTHONWARNINGS"] = before


# --- in the workers -------------------------------------------------------------------------------------------------


def _local_pool(count: int) -> Executor:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    threads = max(1, core_count() // count)
    return ProcessPoolExecutor(count, get_context("spawn"), _begin, (threads,))


def _begin(threads: int) -> None:
    """Prepare a process for its work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    sys.unraisablehook = _stop_soon
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """The process that gives the work may be killed, and a worker would wait for more forever."""
    from multiprocessing import parent_process

    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(0)


_working = False
"""Whether this process is at a job."""


def _stop(*_: object) -> NoReturn:
    """Leave at once, or, from a job, as soon as it has removed what is half written."""
    if not _working:
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one could arrive anywhere
    raise KeyboardInterrupt


def _stop_soon(dropped: sys.UnraisableHookArgs) -> None:
    """Stop a moment later when the signal came in a destructor or a callback, where Python drops exceptions."""
    if dropped.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(dropped)
        return
    if hasattr(signal, "setitimer"):  # elsewhere no signal ends a worker
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # when this function has returned


def _call(pickled: bytes, item: Any) -> Any:
    global _working
    try:
        _working = True
        return _made(pickled)(item)
    except KeyboardInterrupt:
        os._exit(0)
    except (AasvcError, MemoryError):
        raise
    except Exception as error:  # that one may need libraries, or arguments, to be made again elsewhere
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    finally:
        _working = False


@functools.lru_cache(maxsize=1)
def _made(pickled: bytes) -> Callable[[Any], Any]:
    """The function of a spread, made once; it may remember things from one item to the next."""
    _, folder, before, function = pickle.loads(pickled)
    if before is not None:
        before()
    os.chdir(folder)  # on another machine, relative paths have to mean the same
    return function
