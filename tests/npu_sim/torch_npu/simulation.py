"""Controls of the simulated NPU for tests, which the real torch_npu does not have.

They apply to the whole process, including backward passes and worker threads.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from torch_npu import npu
from torch_npu.chips import swapped as chip
from torch_npu.settings import Record, Setting
from torch_npu.settings import of_process as settings
from torch_npu.settings import recording as settings_of

__all__ = [
    "Calls",
    "HostReads",
    "OpLog",
    "Record",
    "Setting",
    "chip",
    "deny",
    "host_reads",
    "kernel_names",
    "listed_kernels_only",
    "memory_limit",
    "no_wide_dtypes",
    "op_log",
    "poison",
    "settings",
    "settings_of",
    "unplugged",
]

KERNELS = Path(__file__).parents[1] / "aten_kernels.txt"
_WIDE = ("Double", "ComplexHalf", "ComplexFloat", "ComplexDouble")
_NAMES = {
    torch.float32: "Float",
    torch.float64: "Double",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.bool: "Bool",
    torch.complex32: "ComplexHalf",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ops = torch.ops.npu_sim
_denied: list[str] = []


class Calls(NamedTuple):
    """Calls of one operator with arguments and results of these dtypes."""

    name: str
    dtypes: frozenset[torch.dtype]


class OpLog(Counter[Calls]):
    """Number of calls of each operator, complete after the `op_log` block."""

    def names(self) -> set[str]:
        """Return names without overload; `convolution[transposed]` is separate from `convolution`."""
        return {call.name.partition(".")[0] for call in self}

    def dtypes(self, name: str | None = None) -> set[torch.dtype]:
        """Return the dtypes used with an operator, or with any."""
        return {
            dtype
            for call in self
            if name in (None, call.name, call.name.partition(".")[0])
            for dtype in call.dtypes
        }

    def calls(self, name: str) -> int:
        """Return the number of calls of an operator, over all overloads and dtypes."""
        return sum(count for call, count in self.items() if name in (call.name, call.name.partition(".")[0]))


@contextlib.contextmanager
def op_log() -> Iterator[OpLog]:
    """Record the operators that run on the device. Copies to, from or on it are `copy_`."""
    log = OpLog()
    _ops.watch(True)
    before = _op_counts()
    try:
        yield log
    finally:
        log.update(_op_counts() - before)
        _ops.watch(False)


def _op_counts() -> OpLog:
    counts = OpLog()
    for line in _ops.op_counts():
        name, dtypes, count = line.split(" ")
        counts[Calls(name, frozenset(_DTYPES[each] for each in dtypes.split(",") if each))] = int(count)
    return counts


class HostReads(Counter[str]):
    """Number of host synchronizations by operator: `_local_scalar_dense` is `.item()`, `copy_` a blocking copy."""


@contextlib.contextmanager
def host_reads() -> Iterator[HostReads]:
    """Count reads for which the host waits for the device, complete after the block."""
    reads = HostReads()
    before = _host_reads()
    try:
        yield reads
    finally:
        reads.update(_host_reads() - before)


def _host_reads() -> HostReads:
    return HostReads({how: int(count) for how, count in (line.split(" ") for line in _ops.host_reads())})


@contextlib.contextmanager
def deny(op: str, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Make an operator, or one overload of it, fail for a dtype or for all.

    `deny("convolution[transposed]", torch.bfloat16)` is an entry of Huawei's table of unsupported dtypes.
    """
    rule = f"{op} {'*' if dtype is None else _NAMES[dtype]}"
    _denied.append(rule)
    _ops.set_denied(_denied)
    try:
        yield
    finally:
        _denied.remove(rule)
        _ops.set_denied(_denied)


def kernel_names() -> list[str]:
    """Return the operators for which the wheel of torch_npu 2.13.0 registers a kernel."""
    return KERNELS.read_text().split()


@contextlib.contextmanager
def listed_kernels_only() -> Iterator[None]:
    """Raise `NotImplementedError` for operators without a kernel in torch_npu, which would run on the CPU there."""
    _ops.set_kernel_list(kernel_names())
    try:
        yield
    finally:
        _ops.set_kernel_list([])


@contextlib.contextmanager
def no_wide_dtypes() -> Iterator[None]:
    """Raise `RuntimeError` for float64 and complex tensors on the device."""
    _ops.forbid(list(_WIDE))
    try:
        yield
    finally:
        _ops.forbid([])


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Limit the memory of each device; more raises `torch.OutOfMemoryError`."""
    for index in range(_ops.device_count()):
        _ops.set_limit(num_bytes, index)
    try:
        yield
    finally:
        for index in range(_ops.device_count()):
            _ops.set_limit(0, index)


@contextlib.contextmanager
def poison() -> Iterator[None]:
    """Fill new device memory with NaN, integers with -1, to reveal reads of uninitialized memory."""
    _ops.set_poison(True)
    try:
        yield
    finally:
        _ops.set_poison(False)


@contextlib.contextmanager
def unplugged() -> Iterator[None]:
    """Hide the devices and `torch_npu`, for tests of the CPU path; `torch.npu` remains."""
    before, npu._plugged = npu._plugged, False
    modules = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "torch_npu"
    }
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if entry != str(KERNELS.parent)]
    try:
        yield
    finally:
        npu._plugged = before
        sys.modules.update(modules)
        sys.path[:] = path
