"""Several processes that train one model: who is who, what they tell each other, and how they are started.

Each process computes its part of every batch and the gradients are added up, so that all of them take the same step.
They are added up by hand, in one place after the last micro-batch, and not while the backward pass runs, as torch's
wrapper does: a process that runs out of memory can then repeat its part alone, and parts of the network that a step
leaves without gradient need no search.

Batch norms take their statistics from the utterances of one process, as they do from one micro-batch; the running
statistics are averaged.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from aasvc_cli.errors import AasvcError, ConfigError, Interrupted, ToldElsewhere, TrainingError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long processes wait for each other; the first measures the dev set and makes previews meanwhile."""
BUCKET_ELEMENTS = 2**24
"""Gradient elements that are added up at once."""


@dataclass(frozen=True)
class World:
    """The processes of a training, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this process, where only a kind of device was asked for."""
        if self.size == 1 or str(device) != "cuda":  # "cuda:1" is one device
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                "--devices", [f"{self.local_size} processes here, but {torch.cuda.device_count()} CUDA devices"]
            )
        return torch.device("cuda", self.local_rank)

    def share_cores(self, threads: int | None) -> None:
        """Compute with so many threads, or, if nobody has said how many, with this process' share of the cores."""
        if threads:
            torch.set_num_threads(threads)
        elif self.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.local_size))

    def spoken(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Messages with the process that they come from, if it is not the first."""
        return say if self.is_first else lambda message: say(f"process {self.rank}: {message}")

    def any(self, *flags: bool) -> list[bool]:
        """For each question, whether one of the processes says yes."""
        if self.size == 1:
            return list(flags)
        votes = torch.tensor([int(flag) for flag in flags])
        self._add(votes)
        return [vote > 0 for vote in votes.tolist()]

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            self._add(tensor)
        return tensor

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of all processes by their sums, some millions of elements at a time."""
        if self.size == 1:
            return
        for bucket in _buckets(list(tensors)):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._add(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])

    def from_first(self, value: T) -> T:
        """What the first process has; plain data or tensors on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        with _peers():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named CPU tensors that the first process has; the others give none."""
        if self.size == 1:
            return tensors
        known = self.from_first([(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()])
        received = {}
        for name, shape, dtype in known:
            received[name] = tensors[name] if self.is_first else torch.empty(shape, dtype=dtype)
            with _peers():
                dist.broadcast(received[name], src=0)
        return received

    def together(self, work: Callable[[], T]) -> T:
        """Let every process do something; an error that the first process meets, too, is reported by that one alone."""
        result, error = None, None
        try:
            result = work()
        except AasvcError as caught:
            error = caught
        first_failed = self.from_first(error is not None)
        if error is not None:
            raise error if self.is_first or not first_failed else ToldElsewhere()
        if first_failed:
            raise ToldElsewhere
        return cast(T, result)

    def by_first(self, work: Callable[[], T]) -> T | None:
        """Let the first process do something, which has the result; an error of it ends all of them."""
        return self.together(work if self.is_first else lambda: None)

    def shared(self, work: Callable[[], T]) -> T:
        """Let the first process do something, and give all of them the result, plain data; an error ends all."""
        return cast(T, self.from_first(self.by_first(work)))

    def shared_state(self, work: Callable[[], tuple[dict[str, Tensor], T]]) -> tuple[dict[str, Tensor], T]:
        """As :meth:`shared`, for CPU tensors by name and plain data."""
        tensors, plain = self.by_first(work) or ({}, None)
        return self.tensors_from_first(tensors), cast(T, self.from_first(plain))

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """A CPU tensor of every process, in the order of ranks."""
        if self.size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            dist.all_gather(parts, tensor.contiguous())
        return parts

    def common(self, error: AasvcError) -> AasvcError:
        """An error that every process meets: only the first tells it."""
        return error if self.is_first else ToldElsewhere()

    def _add(self, tensor: Tensor) -> None:
        with _peers():
            dist.all_reduce(tensor)


ALONE = World()


def is_worker() -> bool:
    """Whether a launcher started this process as one of several."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_restart() -> bool:
    """Whether a launcher started the processes again, after one of them had failed."""
    return is_worker() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the other processes of a launcher, or be alone."""
    if not is_worker() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous  # which a torch built for one process lacks

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _peers():
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # A launcher that starts all processes again keeps its store, and with it the addresses of those that are gone.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined,unused-ignore]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(
            dist.get_rank(),
            dist.get_world_size(),
            int(os.environ.get("LOCAL_RANK", dist.get_rank())),
            int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())),
        )
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


def launch(devices: int, arguments: Sequence[str]) -> None:
    """Run the command line once per device of this machine, as one training, by torch's own launcher.

    Raises:
        Interrupted: the processes were stopped by a signal; they have saved.
        ToldElsewhere: a process failed and told why.
        TrainingError: a process was killed.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # reported below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    # After a signal, the processes finish their step and save before they end.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(int(PATIENCE.total_seconds())))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id="aasvc",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(name for name in STOP_SIGNALS if hasattr(signal, name)),
    )
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in config.signals_to_handle.split(",")}
    try:
        elastic_launch(config, sys.executable)("-m", "aasvc_cli", *arguments)
    except SignalException as stopped:
        raise Interrupted(
            f"stopped by {stopped.sigval.name}; the same command goes on from the last checkpoint"
        ) from None
    except ChildFailedError as failed:
        failures = failed.failures
    else:
        return
    finally:
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)
    if any(failure.exitcode == Interrupted.exit_code for failure in failures.values()):
        raise Interrupted("stopped; the same command goes on from the last checkpoint")
    killed = [(rank, failure) for rank, failure in failures.items() if failure.exitcode < 0]
    if killed:
        rank, failure = min(killed, key=lambda pair: pair[1].timestamp)
        raise TrainingError(
            f"process {rank} of {devices} was killed by {failure.signal_name()}, which ended the training; the same "
            "command goes on from the last checkpoint"
        )
    raise ToldElsewhere


STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
"""What asks for an orderly stop: the user, the system, a batch scheduler."""


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    elements = 0
    for tensor in tensors:
        if bucket and elements + tensor.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, elements = [], 0
        bucket.append(tensor)
        elements += tensor.numel()
    if bucket:
        yield bucket


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Turn the many ways in which torch says that another process is gone into one."""
    try:
        yield
    except RuntimeError as error:  # DistError is one, too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        known = "Connection closed" in reason or "Connection reset" in reason
        what = "is gone" if known else f"does not answer ({reason})"
        raise TrainingError(
            f"another process of this training {what}; the same command goes on from the last checkpoint"
        ) from error
