"""Record of the device settings of the process, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Setting(NamedTuple):
    """A setting: `set_compile_mode.jit_compile`, `config.<name>`, `conv.allow_hf32`, ..."""

    name: str
    value: Any
    before_first_tensor: bool
    """Whether it was set before the first tensor on a device since the start of the process or recording."""


class Record(list[Setting]):
    """Settings in order."""

    def __init__(self) -> None:
        super().__init__()
        self._allocations = torch.ops.npu_sim.num_allocations()

    def note(self, name: str, value: Any) -> None:
        self.append(Setting(name, value, torch.ops.npu_sim.num_allocations() == self._allocations))

    def of(self, name: str) -> Setting | None:
        """Return the last setting of a name."""
        return next((each for each in reversed(self) if each.name == name), None)


_records = [Record()]


def of_process() -> Record:
    """Return all settings since the import of torch_npu."""
    return _records[0]


@contextlib.contextmanager
def recording() -> Iterator[Record]:
    """Record the settings in a block, as if the device had not been used before."""
    record = Record()
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def note(name: str, value: Any) -> None:
    for record in _records:
        record.note(name, value)
