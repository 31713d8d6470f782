"""Memory of devices and of the host: how much there is, how much was used, and running out of it."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that device or host memory is exhausted."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error).lower() for text in ("out of memory", "can't allocate memory", "not enough memory")
    )


def release_memory(device: torch.device) -> None:
    """Free cached blocks of device memory, after an out-of-memory error."""
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def peak_memory() -> int:
    """Return the peak host memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory(device: torch.device) -> tuple[int, int]:
    """Return free and total memory of the device in bytes; of the host for a CPU."""
    import torch

    if device.type == "cpu":
        free, total = (os.sysconf(f"SC_{which}_PAGES") for which in ("AVPHYS", "PHYS"))
        free, total = free * resource.getpagesize(), total * resource.getpagesize()
        with contextlib.suppress(OSError, StopIteration), open("/proc/meminfo") as file:
            # Includes the file cache, which makes way for other data.
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
        return free, total
    free, total = getattr(torch, device.type).mem_get_info(device)
    return int(free), int(total)


def device_peak_memory(device: torch.device) -> int | None:
    """Return the peak device memory held by tensors, in bytes; `None` for a CPU."""
    import torch

    if device.type == "cpu":
        return None
    return int(getattr(torch, device.type).max_memory_allocated(device))
