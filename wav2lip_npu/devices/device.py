"""Devices: resolve a name such as `npu:1`, prepare the device, and report what it is.

This folder alone names npu, cuda or cpu and calls `torch.npu` or `torch.cuda`. torch_npu is imported only
when an NPU is requested. PyTorch's autoload of it is switched off in `wav2lip_npu/__init__.py`, because
`import torch` fails where torch_npu is installed without CANN.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from wav2lip_npu.errors import DeviceError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
_MOST_LANES, _ACCELERATOR_LANES = 16, 2
HOST_PROVIDER = "CPUExecutionProvider"
_ONNX_PROVIDERS = {"npu": "CANNExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Providers of onnxruntime by device type."""


class Backend(NamedTuple):
    """Properties of a device type."""

    plugin: str | None
    """Module that adds the device type to PyTorch; `None` if PyTorch has it built in."""
    collectives: str
    """Backend of `torch.distributed`."""
    channels_last: bool
    """Whether convolutions run in channels-last memory format, which torch_npu does not support."""
    batch: int
    """Default number of faces in a generator batch. Small ones stay in the caches of a CPU."""
    missing: str
    """How to make the device available."""


BACKENDS = {
    "npu": Backend("torch_npu", "hccl", False, 64, "Install CANN and the torch-npu of your torch version"),
    "cuda": Backend(None, "nccl", True, 64, "Install a CUDA build of torch and the driver"),
    "cpu": Backend(None, "gloo", True, 4, ""),
}
NPU, HOST = "npu", "cpu"
"""Device types by name, for the other modules."""


def is_device_name(spec: str) -> bool:
    """Return whether a text is the name of a device that `resolve` may find: without importing PyTorch."""
    return re.fullmatch(rf"auto|({'|'.join(BACKENDS)})(:\d{{1,3}})?", spec, re.ASCII) is not None


def resolve(spec: str = "auto") -> torch.device:
    """Return the device named `auto`, `cpu`, `cuda[:i]` or `npu[:i]`.

    `auto` is the first available of npu, cuda and cpu. Raises `DeviceError` if the name is unknown or the
    device does not exist.
    """
    import torch

    named = re.fullmatch(
        rf"({'|'.join(BACKENDS)})(?::(\d{{1,3}}))?", _best() if spec == "auto" else spec, re.ASCII
    )
    if named is None:
        raise DeviceError(f"unknown device {spec!r}. Pass --device auto, cpu, cuda, cuda:1, npu or npu:1.")
    kind, index = named[1], int(named[2] or 0)
    count, reason = count_available(kind)
    if count <= index:
        available = f"{count} found" if count else f"none found{reason and f' ({reason})'}"
        way_out = f"Pass --device {kind}" if count else f"{BACKENDS[kind].missing}, or pass --device cpu"
        raise DeviceError(f"device {spec!r} is not available, {available}. {way_out}.")
    return torch.device(kind) if kind == "cpu" else torch.device(kind, index)  # set_device requires an index


def _best() -> str:
    """Return the first available device type. Log a warning for a plugin that is installed but unusable."""
    for kind, backend in BACKENDS.items():
        count, reason = count_available(kind)
        if count:
            return kind
        if backend.plugin and importlib.util.find_spec(backend.plugin):
            log.warning("%s is installed, but no %s is available. %s", backend.plugin, kind, reason)
    raise AssertionError("the cpu is always available")


def count_available(kind: str) -> tuple[int, str]:
    """Return the number of usable devices of a type, and the error of its plugin if that failed to load."""
    import torch

    if kind == "cpu":
        return 1, ""
    try:
        plugin = BACKENDS[kind].plugin
        if plugin is not None:
            importlib.import_module(plugin)
        module = getattr(torch, kind)
        return int(module.device_count()) if module.is_available() else 0, ""
    except Exception as error:  # any type: a plugin for another torch version, or without its driver
        return 0, (str(error).strip().splitlines() or [type(error).__name__])[0]


def activate(device: torch.device) -> None:
    """Make `device` the current device of the calling thread. Each computing thread calls it first."""
    import torch

    module: Any = getattr(torch, device.type)
    if device.type == "npu":  # before any .to(), which would change the format of the weights
        module.set_compile_mode(jit_compile=False)
        module.config.allow_internal_format = False
    if device.type != "cpu":
        module.set_device(device)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the fastest memory format of images that the device supports."""
    import torch

    return torch.channels_last if BACKENDS[device.type].channels_last else torch.contiguous_format


def lanes(device: torch.device) -> int:
    """Return how many batches to run concurrently, each in its own thread ("lane").

    On a CPU each lane has one core: small batches are faster than one on all cores, whose threads wait for
    each other, and the results do not depend on the number of cores. An accelerator gets two lanes: it works
    for one while the other prepares its inputs and unpacks its results.
    """
    return min(_MOST_LANES, cpu_count()) if device.type == "cpu" else _ACCELERATOR_LANES


def shared_runtime_threads() -> int:
    """Return the thread count for a runtime shared by all lanes of a CPU, one thread per lane included."""
    return cpu_count() - min(_MOST_LANES, cpu_count()) + 1


def onnx_providers(device: torch.device) -> list[str]:
    """Return the providers of onnxruntime for a device, the best first; that of the CPU is the last."""
    import onnxruntime

    wanted = _ONNX_PROVIDERS.get(device.type)
    if wanted is None or wanted not in onnxruntime.get_available_providers():
        return [HOST_PROVIDER]
    return [wanted, HOST_PROVIDER]


def npu_index(spec: str) -> int:
    """Return the index of the NPU named `auto` or `npu[:i]`, without importing PyTorch.

    Raises `DeviceError` for another device.
    """
    named = re.fullmatch(r"(?:auto|npu)(?::(\d{1,3}))?", spec, re.ASCII)
    if named is None:
        raise DeviceError(f"an .om file runs on an NPU, not on {spec!r}. Pass --device npu or npu:1.")
    return int(named[1] or 0)


def cpu_count() -> int:
    """Return the number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_accelerator(device: torch.device) -> bool:
    """Return whether a device has its own memory and works while the host continues."""
    return device.type != HOST


def describe(device: torch.device) -> str:
    """Return the device and its model name, for logs and reports."""
    import torch

    if device.type == "cpu":
        return f"cpu ({cpu_count()} cores)"
    return f"{device} ({getattr(torch, device.type).get_device_name(device)})"
