"""Processes that start at once, because what they import is loaded already."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

POSSIBLE = "forkserver" in multiprocessing.get_all_start_methods()
needs_forks = pytest.mark.skipif(not POSSIBLE, reason="needs processes that fork")


@cache
def _context() -> ForkServerContext:
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm"])
    with pytest.MonkeyPatch.context() as patch:  # older Pythons do not hand their path on
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        ensure_running()
    return context


def start(work: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Run a function of a module in a process of its own, with the environment of this one."""
    process = _context().Process(target=_run, args=({**os.environ, **(environment or {})}, work, arguments))
    process.start()
    return process


def start_group(size: int, work: Callable[..., Any], *arguments: Any) -> list[BaseProcess]:
    """Run a function in several processes as a launcher would start them, which can join to train together."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [
        start(work, *arguments, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]


def free_port() -> int:
    """A port that a process to be started can listen on.

    It lies below those that systems usually hand out, so nobody is given it before that process asks for it.
    """
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError("no port is free")


def finish(processes: Sequence[BaseProcess], seconds: float = 120.0) -> list[int | None]:
    """Wait for processes; their exit codes."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
    return codes


def command_line(arguments: Sequence[str], output: Path | None = None) -> None:
    """The program in a process; what it says goes to a file, or nowhere."""
    from aasvc_cli.cli import run

    target = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.exit(run(arguments))


def _run(environment: Mapping[str, str], work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    work(*arguments)
