"""Progress on a terminal and elsewhere, and orderly stops."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from aasvc_cli.cli.interrupt import watch
from aasvc_cli.cli.output import clock, is_first_process, live, say, settings
from aasvc_cli.errors import Interrupted
from aasvc_cli.storage.files import byte_size

OnProgress = Callable[[int, int], None]
OnBytes = Callable[[str, int, int | None], None]


PLAIN_PROGRESS_SECONDS = 10.0
"""Without a terminal, progress is one plain line per this many seconds."""


@contextlib.contextmanager
def progress(what: str) -> Iterator[OnProgress | None]:
    """A bar with rate and remaining time on a terminal, a plain line now and then elsewhere."""
    if settings.quiet:
        yield None
        return
    if not live(sys.stderr):
        yield _plain_progress(what)
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def on_progress(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")

        yield on_progress


def _plain_progress(what: str) -> OnProgress:
    started = shown = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < PLAIN_PROGRESS_SECONDS or not done:
            return
        shown = now
        rate = done / (now - started)
        say(f"{what}: {done}/{total}, {rate:.1f}/s, {clock((total - done) / rate)} left")

    return on_progress


@contextlib.contextmanager
def byte_progress() -> Iterator[OnBytes | None]:
    """For each file in turn a bar with bytes, rate and remaining time on a terminal, plain lines elsewhere."""
    if settings.quiet:
        yield None
        return
    if not live(sys.stderr):
        yield _plain_byte_progress()
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    current: tuple[str, TaskID] | None = None

    def on_bytes(what: str, done: int, total: int | None) -> None:
        nonlocal current
        if current is None or current[0] != what:
            if current is not None:
                bar.remove_task(current[1])
            # begins where an earlier transfer stopped, so that the rate is that of this one
            current = (what, bar.add_task(what, total=total, completed=done))
            bar.start()  # not before: a licence may have to be shown and accepted first
        bar.update(current[1], completed=done, total=total)

    try:
        yield on_bytes
    finally:
        bar.stop()


def _plain_byte_progress() -> OnBytes:
    current, started, first, shown = "", 0.0, 0, 0.0

    def on_bytes(what: str, done: int, total: int | None) -> None:
        nonlocal current, started, first, shown
        now = time.monotonic()
        if what != current:
            current, started, first, shown = what, now, done, now
        if now - shown < PLAIN_PROGRESS_SECONDS or done <= first or now <= started:
            return
        shown = now
        rate = (done - first) / (now - started)
        left = f", {clock((total - done) / rate)} left" if total is not None else ""
        say(f"{what}: {byte_size(done)} of {byte_size(total)}, {byte_size(rate)}/s{left}")

    return on_bytes


class TrainingReport(Protocol):
    """What every training reports at intervals; ``dev`` are measurements on the dev set, if there were any."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def max_steps(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> float: ...  # noqa: D102
    @property
    def steps_per_second(self) -> float: ...  # noqa: D102
    @property
    def dev(self) -> dict[str, float] | None: ...  # noqa: D102


@contextlib.contextmanager
def training_progress() -> Iterator[Callable[[TrainingReport], None]]:
    """Loss, steps per second and remaining time: one line that is redrawn on a terminal, plain lines elsewhere."""
    if settings.quiet:
        yield lambda _: None
        return
    if not live(sys.stderr):
        yield _plain_training_progress()
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, state="")

        def on_report(report: TrainingReport) -> None:
            bar.update(task, completed=report.step, total=report.max_steps, state=_training_state(report))
            if report.dev:
                bar.console.print(f"step {report.step}: {_dev_losses(report)}", highlight=False)

        yield on_report


def _plain_training_progress() -> Callable[[TrainingReport], None]:
    shown = time.monotonic() - PLAIN_PROGRESS_SECONDS

    def on_report(report: TrainingReport) -> None:
        nonlocal shown
        now = time.monotonic()
        if report.dev or report.step == report.max_steps or now - shown >= PLAIN_PROGRESS_SECONDS:
            shown = now
            dev = f", {_dev_losses(report)}" if report.dev else ""
            say(f"step {report.step}/{report.max_steps}: {_training_state(report)}{dev}")

    return on_report


def _training_state(report: TrainingReport) -> str:
    left = (report.max_steps - report.step) / report.steps_per_second if report.steps_per_second > 0 else 0.0
    return f"loss {report.loss:.4f}, {report.steps_per_second:.2f} steps/s, {clock(left)} left"


def _dev_losses(report: TrainingReport) -> str:
    return "dev " + ", ".join(f"{name} {value:.4f}" for name, value in (report.dev or {}).items())


def interrupted(step: int, max_steps: int, folder: Path) -> Interrupted:
    """The end of a training that was stopped before its last step."""
    return Interrupted(
        f"stopped after step {step} of {max_steps}; all is saved in {folder} - the same command goes on from there"
    )


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and SIGUSR1 ask for an orderly stop; a second Ctrl-C aborts at once.

    SIGTERM and SIGUSR1 are what batch schedulers send before they end a job, often more than once: one after the other,
    or to a launcher that hands them on and to the process itself. What they send next cannot be caught.
    """
    asked = False
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: asked
        return

    def on_signal(number: int, _frame: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Buffered streams are not safe inside a signal handler.
        if not asked and is_first_process():
            os.write(2, b"\naasvc: stopping after this step (Ctrl-C now aborts at once)\n")
        asked = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGUSR1"):
        numbers.append(signal.SIGUSR1)
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        with watch.stopping_in_order():
            yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
