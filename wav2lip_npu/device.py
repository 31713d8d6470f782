"""Devices: resolve a name such as `npu:1`, prepare the device, and report what it supports.

This is the only file that names npu, cuda or cpu and that calls `torch.npu` or `torch.cuda`, so it is longer
than 300 lines. torch_npu is imported only when an NPU is requested. PyTorch's autoload of it is
switched off in `wav2lip_npu/__init__.py`, because `import torch` fails where torch_npu is installed without
CANN.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast, get_args

from wav2lip_npu.errors import DeviceError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


log = logging.getLogger(__name__)
Result = TypeVar("Result")
Network = TypeVar("Network", bound=Callable[..., Any])


class Backend(NamedTuple):
    """Properties of a device type."""

    plugin: str | None
    """Module that adds the device type to PyTorch; `None` if PyTorch has it built in."""
    collectives: str
    """Backend of `torch.distributed`."""
    channels_last: bool
    """Whether convolutions run in channels-last memory format, which torch_npu does not support."""
    batch: int
    """Default number of faces in a generator batch. Small float32 batches stay in the caches of a CPU."""
    missing: str
    """How to make the device available."""


BACKENDS = {
    "npu": Backend("torch_npu", "hccl", False, 64, "Install CANN and the torch-npu of your torch version"),
    "cuda": Backend(None, "nccl", True, 64, "Install a CUDA build of torch and the driver"),
    "cpu": Backend(None, "gloo", True, 4, ""),
}
NPU, HOST = "npu", "cpu"
"""Device types by name, for the other modules."""
HOST_PROVIDER = "CPUExecutionProvider"
_ONNX_PROVIDERS = {"npu": "CANNExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Providers of onnxruntime by device type."""
_MOST_LANES, _ACCELERATOR_LANES = 16, 2
_RUNS_BEFORE_CAPTURE = 3
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_BF16_CPU_BATCH = 8
NEVER = 2**31 - 1
"""Growth interval of a gradient scaler with a constant scale."""
Precision = Literal["fp32", "bf16", "fp16", "fp32_strict"]
"""Number format of a network; `fp32_strict` rules out reduced-precision multiplication (HF32, TF32)."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CompileOption = Literal["off", "on"]
"""Whether a generator is compiled."""
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16", "fp32_strict"]
"""Precision of a generator; for `auto` see `generator_precision`."""
Amp = Literal["off", "bf16", "fp16"]
"""Number format of mixed-precision training."""
AMP: tuple[Amp, ...] = get_args(Amp)


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


def dtype_of(precision: str) -> torch.dtype:
    """Return the dtype of one of `PRECISIONS`. Raises `DeviceError` for another name."""
    import torch

    if precision not in PRECISIONS:
        raise DeviceError(f"unknown precision {precision!r}. Pass --precision {', '.join(PRECISIONS)}.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def generator_precision(option: str, device: torch.device) -> str:
    """Return the precision of a generator; for `auto`, bf16 where it is native and its mouths were compared.

    That is a CPU with bf16 instructions: there it takes a quarter of the time of fp32 (AMX), and mouths of
    real faces differ by 0.2 to 0.25 of 255 levels on average, at most 3.4.
    """
    if option != "auto":
        return option
    return "bf16" if device.type == "cpu" and _cpu_flags() & _BF16_FLAGS else "fp32"


@functools.lru_cache
def _cpu_flags() -> frozenset[str]:
    """Return the instruction sets of the CPU by their names in Linux; nothing on other systems."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                return frozenset(line.split())
    return frozenset()


def full_float32(device: torch.device) -> None:
    """Turn off reduced-precision float32 multiplication (HF32, TF32), for the whole process.

    Used for `--precision fp32_strict` and for comparing devices.
    """
    import torch

    module: Any = getattr(torch, device.type)
    if device.type == "npu":
        module.conv.allow_hf32 = module.matmul.allow_hf32 = False
        # Chips older than A2 compute float32 convolutions in fp16 by default.
        module.set_option({"ACL_PRECISION_MODE": "must_keep_origin_dtype"})
    elif device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[None]:
    """Return a context for mixed precision in `bf16` or `fp16`; `off` leaves float32.

    Raises `DeviceError` for another name, and for bf16 on an NPU that does not support it.
    """
    import torch

    if amp not in AMP:
        raise DeviceError(f"unknown --amp {amp!r}. Pass {', '.join(AMP)}.")
    if amp == "off":
        return contextlib.nullcontext()
    if amp == "bf16" and not _computes_bf16(device):
        raise DeviceError(f"{device} does not support bf16. Pass --amp fp16.")
    return torch.autocast(device.type, dtype_of(amp))


@functools.lru_cache
def _computes_bf16(device: torch.device) -> bool:
    import torch

    return device.type == "cpu" or bool(getattr(torch, device.type).is_bf16_supported())


def grad_scaler(device: torch.device, amp: str, loss_scale: str) -> torch.amp.GradScaler:
    """Return a gradient scaler for fp16; `loss_scale` is `dynamic` or a constant factor.

    NPUs that saturate instead of overflowing need the scaler of torch_npu, which reads their overflow flag.
    Raises `DeviceError` if the factor is not a positive number.
    """
    import torch

    options: dict[str, Any] = {"enabled": amp == "fp16"}
    if loss_scale != "dynamic":
        try:
            factor = float(loss_scale)
        except ValueError:
            factor = 0.0
        if not 0 < factor < float("inf"):
            raise DeviceError(f"--loss_scale {loss_scale!r} is not a positive number. Pass dynamic or 1024.")
        # An overflow halves the scale; `training/loop.py` sets it back at once.
        options |= {"init_scale": factor, "growth_interval": NEVER}
    plugin = sys.modules.get("torch_npu") if device.type == "npu" else None
    if plugin is not None and not plugin.npu.utils.is_support_inf_nan():
        saturating: torch.amp.GradScaler = plugin.npu.amp.GradScaler(**options)
        return saturating
    return torch.amp.GradScaler(device.type, **options)


def check_training(device: torch.device, amp: str, loss_scale: str, sync_batchnorm: bool) -> None:
    """Raise `DeviceError` if the device does not support these training options."""
    autocast(device, amp)
    grad_scaler(device, amp, loss_scale)
    if sync_batchnorm and device.type == "cpu":
        raise DeviceError(
            "--sync_batchnorm needs npu or cuda: PyTorch does not support it on a CPU. Leave it out."
        )


def check_compile(device: torch.device) -> None:
    """Raise `DeviceError` if PyTorch cannot compile for the device on this machine."""
    if device.type == "npu" and importlib.util.find_spec("torchair") is None:
        raise DeviceError(
            "--compile on needs torchair on an NPU. Install it with CANN, or leave --compile off."
        )
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise DeviceError("--compile on needs a C++ compiler on a CPU. Install g++, or leave --compile off.")


def compiled(network: Network, device: torch.device, *, is_frozen: bool = False) -> Network:
    """Return a network, or a function of one, that is compiled at its first call for each shape.

    It shares the weights; if they are frozen, a CPU keeps copies in the layout of its kernels.
    """
    import torch

    backend = importlib.import_module("torchair").get_npu_backend() if device.type == "npu" else "inductor"
    options: dict[str, Any] | None = {"freezing": True} if is_frozen and device.type == "cpu" else None
    result: Any = torch.compile(network, backend=backend, dynamic=False, options=options)
    return cast("Network", result)


def captures_graphs(device: torch.device) -> bool:
    """Return whether the kernels of a training step can be captured as a graph."""
    return device.type == "cuda"


def check_graphs(device: torch.device) -> None:
    """Raise `DeviceError` if the kernels of a step cannot be captured."""
    if not captures_graphs(device):
        raise DeviceError(f"--compile graph needs CUDA, not {device}. Pass --compile on or off.")


def captured(function: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """Return a function that replays the kernels of another one, and returns its result with new values.

    The function runs a few times before the capture, and must not wait for the device.
    """
    module: Any = importlib.import_module("torch").cuda
    side, graph = module.Stream(device), module.CUDAGraph()
    side.wait_stream(module.current_stream(device))
    with module.stream(side):
        for _ in range(_RUNS_BEFORE_CAPTURE):
            function()
    module.current_stream(device).wait_stream(side)
    with module.graph(graph):
        result = function()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def adam_options(device: torch.device) -> dict[str, bool]:
    """Return the arguments for the fastest Adam of the device. Ascend advises against `foreach` on NPUs."""
    return {"fused": True} if device.type == "cuda" else {"foreach": False}


def upload(arrays: dict[str, NDArray[Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Return arrays as tensors on the device. The copy overlaps with computation."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if device.type == "cpu":
        return tensors
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}


def reading(values: torch.Tensor, device: torch.device) -> Callable[[], list[float]]:
    """Start to copy values to the host, and return a function that waits for them and returns them."""
    if not readback_lag(device):  # the caller reads them at once
        return values.tolist
    copied, event = _copying(values)

    def wait() -> list[float]:
        event.synchronize()
        numbers: list[float] = copied.tolist()
        return numbers

    return wait


def download(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the host. Waits for its values, not for what other threads have queued since."""
    if tensor.device.type == "cpu":
        return tensor
    copied, event = _copying(tensor)
    event.synchronize()
    return copied


def _copying(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Start to copy a tensor to the host; return the copy, and the event after which it has its values."""
    import torch

    copied = torch.empty(tensor.shape, dtype=tensor.dtype).pin_memory()
    copied.copy_(tensor, non_blocking=True)
    event = getattr(torch, tensor.device.type).Event()
    event.record()
    return copied, event


def seed_all(seed: int) -> None:
    """Seed PyTorch's random generators on all devices."""
    import torch

    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of the random generators of CPU and device, by device type."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state(device)
    return states


def set_rng_state(device: torch.device, states: dict[str, torch.Tensor]) -> None:
    """Restore the states from `rng_state`. A device type that is missing from them is left unchanged."""
    import torch

    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type], device)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the fastest memory format of images that the device supports."""
    import torch

    return torch.channels_last if BACKENDS[device.type].channels_last else torch.contiguous_format


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


def lanes(device: torch.device) -> int:
    """Return how many batches to run concurrently, each in its own thread ("lane").

    On a CPU each lane has one core: small batches are faster than one on all cores, whose threads wait for
    each other, and the results do not depend on the number of cores. An accelerator gets two lanes: it works
    for one while the other prepares its inputs and unpacks its results.
    """
    return min(_MOST_LANES, cpu_count()) if device.type == "cpu" else _ACCELERATOR_LANES


def generator_batch(device: torch.device, dtype: torch.dtype) -> int:
    """Return the default number of faces in a generator batch. Matrix units of a CPU prefer larger ones."""
    is_half = dtype.itemsize == 2
    return _BF16_CPU_BATCH if device.type == "cpu" and is_half else BACKENDS[device.type].batch


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


def is_accelerator(device: torch.device) -> bool:
    """Return whether a device has its own memory and works while the host continues."""
    return device.type != HOST


def readback_lag(device: torch.device) -> int:
    """Return how many training steps to queue before their losses are read.

    Only a fused Adam can skip the update of a step whose loss is not finite without waiting for the host.
    """
    return 1 if device.type == "cuda" else 0


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def device_peak_memory(device: torch.device) -> int | None:
    """Return the peak device memory held by tensors, in bytes; `None` for a CPU."""
    import torch

    if device.type == "cpu":
        return None
    return int(getattr(torch, device.type).max_memory_allocated(device))


def describe(device: torch.device) -> str:
    """Return the device and its model name, for logs and reports."""
    import torch

    if device.type == "cpu":
        return f"cpu ({cpu_count()} cores)"
    return f"{device} ({getattr(torch, device.type).get_device_name(device)})"
