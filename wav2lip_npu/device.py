"""The only file that knows npu, cuda and cpu: which device, how to prepare it, what it can do.

torch_npu is imported late and explicitly, and PyTorch's own autoload of it is switched off in
`wav2lip_npu/__init__.py`: with the plugin but without CANN, `import torch` itself would fail.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from wav2lip_npu.errors import DeviceError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


log = logging.getLogger(__name__)


class Backend(NamedTuple):
    """What differs between kinds of device."""

    plugin: str | None
    """Module that brings the device to PyTorch, `None` when PyTorch has it."""
    collectives: str
    """What carries tensors between processes."""
    channels_last: bool
    """Whether convolutions may and should run channels last (torch_npu refuses it)."""
    batch: int
    """Faces a generator batch holds by default: on a CPU small ones stay in its caches."""
    missing: str
    """What to do when the device is asked for and not there."""


BACKENDS = {
    "npu": Backend("torch_npu", "hccl", False, 64, "Install CANN and the torch-npu of your torch version"),
    "cuda": Backend(None, "nccl", True, 64, "Install a CUDA build of torch and the driver"),
    "cpu": Backend(None, "gloo", True, 4, ""),
}
NPU, HOST = "npu", "cpu"
"""What others may ask for by name: the vendor's doctor, and what computes beside a device."""
_MOST_LANES = 4
NEVER = 2**31 - 1
"""Growth interval of a scaler whose factor is constant."""
PRECISIONS = ("fp32", "bf16", "fp16", "fp32_strict")
AMP = ("off", "bf16", "fp16")


def resolve(spec: str = "auto") -> torch.device:
    """The device that `auto`, `cpu`, `cuda[:i]` or `npu[:i]` means; `auto` takes npu, cuda, cpu in order.

    Raises `DeviceError` when it is unknown, absent, or its index is too high.
    """
    import torch

    named = re.fullmatch(
        rf"({'|'.join(BACKENDS)})(?::(\d{{1,3}}))?", _best() if spec == "auto" else spec, re.ASCII
    )
    if named is None:
        raise DeviceError(f"unknown device {spec!r}. Pass --device auto, cpu, cuda, cuda:1, npu or npu:1.")
    kind, index = named[1], int(named[2] or 0)
    count, reason = found(kind)
    if count <= index:
        there = f"{count} found" if count else f"none found{reason and f' ({reason})'}"
        way_out = f"Pass --device {kind}" if count else f"{BACKENDS[kind].missing}, or pass --device cpu"
        raise DeviceError(f"device {spec!r} is not there, {there}. {way_out}.")
    return torch.device(kind) if kind == "cpu" else torch.device(kind, index)  # set_device wants an index


def _best() -> str:
    """The first kind of device that is there; a plugin that is installed in vain is named in the log."""
    for kind, backend in BACKENDS.items():
        count, reason = found(kind)
        if count:
            return kind
        if backend.plugin and importlib.util.find_spec(backend.plugin):
            log.warning("%s is installed, but no %s can be used. %s", backend.plugin, kind, reason)
    raise AssertionError("there is always a cpu")


def found(kind: str) -> tuple[int, str]:
    """How many devices of a kind can be used now, and what kept its plugin from loading."""
    import torch

    if kind == "cpu":
        return 1, ""
    try:
        plugin = BACKENDS[kind].plugin
        if plugin is not None:
            importlib.import_module(plugin)
        module = getattr(torch, kind)
        return int(module.device_count()) if module.is_available() else 0, ""
    except (
        Exception
    ) as error:  # a plugin beside another torch, or without its driver, fails in ways of its own
        return 0, (str(error).strip().splitlines() or [type(error).__name__])[0]


def for_libraries(spec: str) -> str:
    """The same device for a library that knows GPUs of one vendor and the CPU only."""
    return spec if spec.startswith("cuda") else HOST


def activate(device: torch.device) -> None:
    """Make `device` the current one of the calling thread; each thread that computes calls it first."""
    import torch

    module: Any = getattr(torch, device.type)
    if device.type == "npu":  # before any .to(), or weights are recast in place
        module.set_compile_mode(jit_compile=False)
        module.config.allow_internal_format = False
    if device.type != "cpu":
        module.set_device(device)


def dtype_of(precision: str) -> torch.dtype:
    """The number format of one of `PRECISIONS`. Raises `DeviceError` for any other word."""
    import torch

    if precision not in PRECISIONS:
        raise DeviceError(f"unknown precision {precision!r}. Pass --precision {', '.join(PRECISIONS)}.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def name_of(numbers: torch.dtype) -> str:
    """The precision that computes in a number format."""
    return next(name for name in PRECISIONS if dtype_of(name) == numbers)


def full_float32(device: torch.device) -> None:
    """Keep the whole mantissa of float32, where the device would multiply with less of it (HF32, TF32).

    It is for comparing devices and for `--precision fp32_strict`, and holds for the whole process.
    """
    import torch

    module: Any = getattr(torch, device.type)
    if device.type == "npu":
        module.conv.allow_hf32 = module.matmul.allow_hf32 = False
        # Chips older than A2 compute float32 convolutions in fp16 unless told otherwise.
        module.set_option({"ACL_PRECISION_MODE": "must_keep_origin_dtype"})
    elif device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[None]:
    """Run the networks inside in `bf16` or `fp16` where that is safe; `off` leaves float32.

    Raises `DeviceError` for any other word, and for bf16 on an NPU that cannot compute it.
    """
    import torch

    if amp not in AMP:
        raise DeviceError(f"unknown --amp {amp!r}. Pass {', '.join(AMP)}.")
    if amp == "off":
        return contextlib.nullcontext()
    if amp == "bf16" and not _computes_bf16(device):
        raise DeviceError(f"{device} cannot compute in bf16. Pass --amp fp16.")
    return torch.autocast(device.type, dtype_of(amp))


@lru_cache
def _computes_bf16(device: torch.device) -> bool:
    import torch

    return device.type == "cpu" or bool(getattr(torch, device.type).is_bf16_supported())


def grad_scaler(device: torch.device, amp: str, loss_scale: str) -> torch.amp.GradScaler:
    """What keeps small fp16 gradients from vanishing: `loss_scale` is `dynamic` or a constant factor.

    NPUs that saturate instead of overflowing need the scaler of torch_npu, which reads their overflow flag.
    Raises `DeviceError` when the factor is no positive number.
    """
    import torch

    options: dict[str, Any] = {"enabled": amp == "fp16"}
    if loss_scale != "dynamic":
        try:
            factor = float(loss_scale)
        except ValueError:
            factor = 0.0
        if not 0 < factor < float("inf"):
            raise DeviceError(f"--loss_scale {loss_scale!r} is no positive number. Pass dynamic or 1024.")
        # It falls at an overflow and is set again at once, see `train.py`.
        options |= {"init_scale": factor, "growth_interval": NEVER}
    plugin = sys.modules.get("torch_npu") if device.type == "npu" else None
    if plugin is not None and not plugin.npu.utils.is_support_inf_nan():
        saturating: torch.amp.GradScaler = plugin.npu.amp.GradScaler(**options)
        return saturating
    return torch.amp.GradScaler(device.type, **options)


def check_training(device: torch.device, amp: str, loss_scale: str, sync_batchnorm: bool) -> None:
    """Raise `DeviceError` when the device cannot train so."""
    autocast(device, amp)
    grad_scaler(device, amp, loss_scale)
    if sync_batchnorm and device.type == "cpu":
        raise DeviceError("--sync_batchnorm needs an accelerator, PyTorch has none for a CPU. Leave it off.")


def adam_options(device: torch.device) -> dict[str, bool]:
    """The quickest form of Adam on the device; the vendor of NPUs advises against the grouped one."""
    return {"fused": True} if device.type == "cuda" else {"foreach": False}


def upload(arrays: dict[str, NDArray[Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Arrays as tensors on the device; the copy runs beside the computation."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if device.type == "cpu":
        return tensors
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}


def seed_all(seed: int) -> None:
    """Seed the random generators of PyTorch on every device."""
    import torch

    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the random generators of host and device."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state(device)
    return states


def set_rng_state(device: torch.device, states: dict[str, torch.Tensor]) -> None:
    """Go on with random numbers where `rng_state` was taken; a kind of device that it lacks is left alone."""
    import torch

    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type], device)


def memory_format(device: torch.device) -> torch.memory_format:
    """The fastest layout of pictures that the device allows."""
    import torch

    return torch.channels_last if BACKENDS[device.type].channels_last else torch.contiguous_format


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host said that its memory is full."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error).lower() for text in ("out of memory", "can't allocate memory", "not enough memory")
    )


def release_memory(device: torch.device) -> None:
    """Give cached blocks back after an out-of-memory error."""
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def lanes(device: torch.device) -> int:
    """Batches that should run at the same time, each in a thread of its own.

    On a CPU several small batches on one core each leave no core waiting, as the threads of one batch
    wait for each other; a device has its own queue.
    """
    return min(_MOST_LANES, cpu_count()) if device.type == "cpu" else 1


def threads_beside_lanes() -> int:
    """Threads that a runtime which all lanes of a CPU share may use, the lanes' own counted as one."""
    return cpu_count() - min(_MOST_LANES, cpu_count()) + 1


def npu_index(spec: str) -> int:
    """Number of the NPU that `auto` or `npu[:i]` means, whether PyTorch knows it or not.

    Raises `DeviceError` for another device.
    """
    named = re.fullmatch(r"(?:auto|npu)(?::(\d{1,3}))?", spec, re.ASCII)
    if named is None:
        raise DeviceError(f"an .om file runs on an NPU, not on {spec!r}. Pass --device npu or npu:1.")
    return int(named[1] or 0)


@contextlib.contextmanager
def shared_cores(device: torch.device) -> Iterator[Callable[[], None]]:
    """Divide the cores among the lanes; gives what each lane's thread calls first.

    PyTorch keeps a number of threads for each thread and one for threads to come; the latter is as it was
    afterwards.
    """
    import torch

    before = torch.get_num_threads()
    each = max(1, cpu_count() // lanes(device))

    def prepare() -> None:
        activate(device)
        torch.set_num_threads(each)

    try:
        yield prepare
    finally:
        torch.set_num_threads(before)


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """Bytes of host memory that the process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory(device: torch.device) -> tuple[int, int]:
    """Free bytes and all bytes of the device's memory, of the host's for a CPU."""
    import torch

    if device.type == "cpu":
        free, total = (os.sysconf(f"SC_{which}_PAGES") for which in ("AVPHYS", "PHYS"))
        return free * resource.getpagesize(), total * resource.getpagesize()
    free, total = getattr(torch, device.type).mem_get_info(device)
    return int(free), int(total)


def synchronize(device: torch.device) -> None:
    """Wait until all that was asked of the device is done."""
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def device_peak_memory(device: torch.device) -> int | None:
    """Bytes of device memory that tensors have held at most; `None` on a CPU."""
    import torch

    if device.type == "cpu":
        return None
    return int(getattr(torch, device.type).max_memory_allocated(device))


def describe(device: torch.device) -> str:
    """The device in words, for the log and the report."""
    import torch

    if device.type == "cpu":
        return f"cpu ({cpu_count()} cores)"
    return f"{device} ({getattr(torch, device.type).get_device_name(device)})"
