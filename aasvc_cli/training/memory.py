"""Memory of the device: how much there is, how much was used, whether it ran out, and what fits into it.

A conversion gives memory back, too, and may do without torch: it is imported where it is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aasvc_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

SPARED = 0.1
"""Part of the free memory that is left to others if the user names no amount."""
_ALLOCATION_FAILED = re.compile(r"DefaultCPUAllocator|CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_ALLOCATION_FAILED.search(str(error)))


def release_memory(device: torch.device) -> None:
    """Give back what is no longer needed, to be tried again with."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def return_free_memory() -> None:
    """Have glibc give back what is free: large arrays of many sizes leave holes that fit no other.

    Taking the memory again costs time: worth it where much more is computed between two calls.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def usable_memory(device: torch.device) -> int:
    """Bytes that this process could come to use in all: what it has, and most of what is free."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return torch.cuda.memory_reserved(device) + int((1 - SPARED) * free)
    return _resident() + int((1 - SPARED) * _free_on_host())


def reset_peak(device: torch.device) -> None:
    """Begin to watch how much memory this process comes to use."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # elsewhere than on Linux the peak of the whole process counts
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> int:
    """Most bytes that this process has used since :func:`reset_peak`."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    known = _status("VmHWM")
    if known:
        return known
    try:
        import resource
    except ImportError:  # Windows
        return _resident()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used) if sys.platform == "darwin" else int(used) * 1024


def largest_that_fits(measure: Callable[[int], float], limit: float, most: int) -> int:
    """The largest size up to ``most`` whose measure is within ``limit``, found with few measurements from below.

    Args:
        measure: memory that a size needs, growing about linearly; infinite if there is not enough for it. A size is
            not tried if the sizes before it say that it cannot fit.

    Returns:
        0 if not even size 1 fits
    """
    fits, needed = 1, measure(1)
    if needed > limit:
        return 0
    too_large, needed_there = most + 1, math.nan  # not a number: nothing that is too large was seen yet
    per_item = 0.0
    while fits + 1 < too_large:
        if math.isinf(needed_there):
            size = (fits + too_large) // 2
        elif math.isfinite(needed_there):
            size = fits + int((limit - needed) / (needed_there - needed) * (too_large - fits))
        elif per_item:
            room = int((limit - needed) / per_item)
            if not room:
                break
            size = fits + min(room, 3 * fits)
        else:
            size = 2 * fits
        size = min(max(size, fits + 1), too_large - 1)
        measured = measure(size)
        if measured <= limit:
            per_item, fits, needed = max(0.0, (measured - needed) / (size - fits)), size, measured
        else:
            too_large, needed_there = size, measured
    return fits


def _free_on_host() -> int:
    """Bytes that could still be allocated: of the machine, or of the group of processes that this one belongs to."""
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        available = re.search(r"MemAvailable:\s*(\d+) kB", text)
        free = int(available[1]) * 1024 if available else math.inf
        with contextlib.suppress(OSError, ValueError):
            group = Path("/sys/fs/cgroup")
            limit = int((group / "memory.max").read_text(encoding="ascii"))  # "max" is no number: no limit
            free = min(free, limit - int((group / "memory.current").read_text(encoding="ascii")))
        if math.isfinite(free):
            return max(0, int(free))
    import os

    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    raise ConfigError(
        "--batch-size auto", ["how much memory is free is not known on this system; set it with --memory"]
    )


def _resident() -> int:
    return _status("VmRSS")


def _status(name: str) -> int:
    """Bytes that the kernel reports for this process; 0 where it does not."""
    with contextlib.suppress(OSError):
        value = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if value:
            return int(value[1]) * 1024
    return 0
