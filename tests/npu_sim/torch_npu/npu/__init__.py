"""`torch.npu` of the simulated device: the part that PyTorch and this project use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, accelerator

from torch_npu import chips
from torch_npu.settings import note

from . import amp, utils

__all__ = ["amp", "utils"]

_Device = int | str | torch.device | None
_ops = torch.ops.npu_sim
_plugged = True


def _index(device: _Device = None) -> int:
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return current_device() if index is None else index


# Devices


def init() -> None:
    """Do nothing: devices are initialized at first use."""


_lazy_init = init


def is_initialized() -> bool:
    return _ops.num_allocations() > 0 and not _is_in_bad_fork()


def _is_in_bad_fork() -> bool:
    return _ops.is_bad_fork()


def is_available() -> bool:
    return device_count() > 0


def device_count() -> int:
    return _ops.device_count() if _plugged else 0


def current_device() -> int:
    return accelerator.current_device_index()


def set_device(device: _Device) -> None:
    if not is_available():
        raise RuntimeError("No NPUs are available")
    accelerator.set_device_index(_index(device))


def synchronize(device: _Device = None) -> None:
    accelerator.synchronize(_index(device))


class device(contextlib.ContextDecorator):  # noqa: N801 name in torch_npu
    """Change the current device in a block; -1 and `None` change nothing."""

    def __init__(self, device: _Device) -> None:
        self.index = -1 if device is None else _index(device)

    def __enter__(self) -> None:
        self.before = current_device()
        if self.index >= 0:
            set_device(self.index)

    def __exit__(self, *error: object) -> None:
        set_device(self.before)


class DeviceProperties(NamedTuple):
    name: str
    total_memory: int
    cube_core_num: int
    vector_core_num: int
    L2_cache_size: int


def get_device_name(device: _Device = None) -> str:
    return f"{chips.active().name} (simulated)"


def get_device_properties(device: _Device = None) -> DeviceProperties:
    chip = chips.active()
    return DeviceProperties(
        get_device_name(device), chip.memory_gib << 30, chip.cube_cores, chip.vector_cores, 192 << 20
    )


def get_device_capability(device: _Device = None) -> None:
    """Return unknown values, as on the hardware."""


# Memory


def empty_cache() -> None:
    accelerator.empty_cache()


def memory_stats(device: _Device = None) -> dict[str, Any]:
    return accelerator.memory_stats(_index(device))


def memory_allocated(device: _Device = None) -> int:
    return accelerator.memory_allocated(_index(device))


def max_memory_allocated(device: _Device = None) -> int:
    return accelerator.max_memory_allocated(_index(device))


def memory_reserved(device: _Device = None) -> int:
    return accelerator.memory_reserved(_index(device))


def max_memory_reserved(device: _Device = None) -> int:
    return accelerator.max_memory_reserved(_index(device))


def reset_peak_memory_stats(device: _Device = None) -> None:
    accelerator.reset_peak_memory_stats(_index(device))


def memory_summary(device: _Device = None, abbreviated: bool = False) -> str:
    return "\n".join(f"{name} {value}" for name, value in memory_stats(device).items())


def mem_get_info(device: _Device = None) -> tuple[int, int]:
    return accelerator.get_memory_info(_index(device))


def set_per_process_memory_fraction(fraction: float, device: _Device = None) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    _ops.set_limit(int(fraction * (chips.active().memory_gib << 30)), _index(device))


# Random numbers


class _Generators:
    def __len__(self) -> int:
        return device_count()

    def __getitem__(self, index: int) -> torch.Generator:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _ops.default_generator(index)


default_generators = _Generators()


def get_rng_state(device: _Device = "npu") -> Tensor:
    return default_generators[_index(device)].get_state()


def set_rng_state(new_state: Tensor, device: _Device = "npu") -> None:
    default_generators[_index(device)].set_state(new_state)


def get_rng_state_all() -> list[Tensor]:
    return [generator.get_state() for generator in default_generators]


def set_rng_state_all(new_states: Iterable[Tensor]) -> None:
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


def manual_seed(seed: int) -> None:
    default_generators[current_device()].manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    for generator in default_generators:
        generator.manual_seed(int(seed))


def initial_seed() -> int:
    return default_generators[current_device()].initial_seed()


# Streams and events


class Stream(torch.Stream):
    def __new__(cls, device: _Device = None, priority: int = 0, **more: Any) -> Stream:
        return super().__new__(cls, device=torch.device("npu", _index(device)), priority=priority)


class Event:
    """Return a `torch.Event`: `elapsed_time` does not accept a subclass."""

    def __new__(
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> torch.Event:
        return torch.Event("npu", enable_timing=enable_timing, blocking=blocking)


def current_stream(device: _Device = None) -> torch.Stream:
    return accelerator.current_stream(_index(device))


def default_stream(device: _Device = None) -> torch.Stream:
    kind = current_stream(device).device_type
    return torch.Stream(stream_id=0, device_index=_index(device), device_type=kind)


def set_stream(stream: torch.Stream) -> None:
    accelerator.set_stream(stream)


@contextlib.contextmanager
def stream(stream: torch.Stream | None) -> Iterator[None]:
    with stream or contextlib.nullcontext():
        yield


# Precision


def is_bf16_supported() -> bool:
    return chips.active().bf16


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Return the dtypes that autocast accepts, whether the chip supports them or not."""
    return [torch.float16, torch.bfloat16, torch.float32]


def set_compile_mode(jit_compile: bool = False) -> None:
    if not isinstance(jit_compile, bool):
        raise TypeError("jit_compile should be a bool")
    note("set_compile_mode.jit_compile", jit_compile)


def set_option(option: dict[str, str]) -> None:
    if not isinstance(option, dict):
        raise TypeError("npu option must be a dict.")
    for name, value in option.items():
        note(f"option.{name}", value)


class _Config:
    """Options that can only be written."""

    def __setattr__(self, name: str, value: Any) -> None:
        note(f"config.{name}", value)


class _Switch:
    """An option of `where` that can be read and written."""

    def __init__(self, where: str, allow_hf32: bool) -> None:
        self.__dict__.update(_where=where, allow_hf32=allow_hf32)

    def __setattr__(self, name: str, value: bool) -> None:
        if name != "allow_hf32":
            raise AttributeError(f"torch.npu.{self._where} has no {name}")
        self.__dict__[name] = value
        note(f"{self._where}.{name}", value)


config = _Config()
conv = _Switch("conv", allow_hf32=True)
matmul = _Switch("matmul", allow_hf32=False)
