"""A Dask cluster as :class:`~aasvc_cli.workers.Workers`, checked before it gets work.

All machines see the data folder and the working directory under the same paths: jobs carry file names, not recordings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli import __version__
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.errors import ClusterError, MissingExtraError
from aasvc_cli.storage.files import make_folder, temporary_file
from aasvc_cli.workers import Workers

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 20
JOBS_PER_THREAD = 2
"""Enough that no worker waits for its next job."""


@contextlib.contextmanager
def connect(place: str, home: Path, version: str) -> Iterator[Workers]:
    """The workers of a cluster.

    Args:
        place: ``tcp://HOST:PORT`` of a scheduler, or a file (YAML) with the ``jobqueue`` section of a Dask
            configuration for one batch system, such as ``jobqueue: {slurm: {cores: 4, memory: 8GB, jobs: 10}}``
        home: the data folder, which every worker has to see
        version: of aasvc, which every worker has to have

    Raises:
        MissingExtraError: Dask is not installed.
        ClusterError: no scheduler, no worker, or a worker that cannot be used; names it.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise MissingExtraError("--cluster needs Dask; install it: pip install 'aasvc[cluster]'") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters ends in an error of ours
    with contextlib.ExitStack() as stack:
        address = place if "://" in place else stack.enter_context(_batch_system(Path(place)))
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError):
            raise ClusterError(
                f"--cluster {place}: no Dask scheduler answers; start one with: dask scheduler"
            ) from None
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise ClusterError(f"--cluster {place}: has no workers; start some with: dask worker {place}") from None
        marker = stack.enter_context(temporary_file(make_folder(home), ".cluster."))
        _check(client, marker, version)
        count = JOBS_PER_THREAD * sum(client.nthreads().values())
        check_here = partial(check_worker, os.getcwd(), marker, version)
        with Workers(count, lambda _: client.get_executor(pure=False), (KilledWorker,), check_here) as workers:
            yield workers


def _check(client: Client, marker: Path, version: str) -> None:
    paths = _shared(os.getcwd(), marker)

    def look() -> tuple[str | None, list[str]]:
        """Sent by value, as a worker may have another aasvc, or none."""
        import importlib
        import os

        try:
            version = importlib.import_module("aasvc_cli").__version__
        except ImportError:
            version = None
        return version, [name for name, path in paths.items() if not os.path.exists(path)]

    answers: dict[str, Any] = client.run(look, on_error="return")
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, BaseException):
            raise ClusterError(f"worker {worker}: does not answer ({type(answer).__name__}: {answer})")
        installed, unseen = answer
        _refuse(worker, installed, unseen, paths, version)


def check_worker(folder: str, marker: Path, version: str) -> None:
    """Look at the worker that this runs in, which may have come later than the others.

    Args:
        folder: the working directory
        marker: a file in the data folder
        version: of aasvc

    Raises:
        ClusterError: it cannot be used; names it.
    """
    paths = _shared(folder, marker)
    unseen = [name for name, path in paths.items() if not os.path.exists(path)]
    _refuse(socket.gethostname(), __version__, unseen, paths, version)


def _shared(folder: str, marker: Path) -> dict[str, str]:
    """What every worker has to see, by name."""
    return {"data folder": str(marker), "working directory": folder}


def _refuse(worker: str, installed: str | None, unseen: Sequence[str], paths: Mapping[str, str], version: str) -> None:
    if installed != version:
        raise ClusterError(f"worker {worker}: has aasvc {installed or 'not installed'}, expected {version}")
    if unseen:
        place = os.path.dirname(paths[unseen[0]]) if unseen[0] == "data folder" else paths[unseen[0]]
        raise ClusterError(f"worker {worker}: does not see the {unseen[0]} {place}; share it between all machines")


@contextlib.contextmanager
def _batch_system(path: Path) -> Iterator[Any]:
    """Workers as jobs of a batch system, as a configuration file describes them."""
    tree = read_config_file(path)
    try:
        import dask_jobqueue
    except ImportError:
        raise MissingExtraError(
            f"--cluster {path} needs dask-jobqueue; install it: pip install dask-jobqueue"
        ) from None
    import dask.config

    kinds = {name.removesuffix("Cluster").lower(): name for name in dir(dask_jobqueue) if name.endswith("Cluster")}
    try:
        ((system, options),) = tree["jobqueue"].items()
        kind, n_jobs = kinds[system], options.pop("jobs")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ClusterError(
            f"{path}: expected one of {', '.join(sorted(kinds))} with its options and a number of jobs, such as "
            "jobqueue: {slurm: {cores: 4, memory: 8GB, jobs: 10}}"
        ) from None
    with dask.config.set(tree), getattr(dask_jobqueue, kind)() as cluster:
        cluster.scale(jobs=n_jobs)
        yield cluster
