"""Takes down what the process asks of the device before it computes, in order of time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Setting(NamedTuple):
    """One thing that was set: `set_compile_mode.jit_compile`, `config.<name>`, `conv.allow_hf32`, ..."""

    name: str
    value: Any
    before_first_tensor: bool
    """Whether no tensor had been put on a device yet, since the process or the recording began."""


class Record(list[Setting]):
    """Settings in the order in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self._allocations = torch.ops.npu_sim.num_allocations()

    def note(self, name: str, value: Any) -> None:
        self.append(Setting(name, value, torch.ops.npu_sim.num_allocations() == self._allocations))

    def of(self, name: str) -> Setting | None:
        """The last setting of that name."""
        return next((each for each in reversed(self) if each.name == name), None)


_records = [Record()]


def of_process() -> Record:
    """All settings since torch_npu was imported."""
    return _records[0]


@contextlib.contextmanager
def recording() -> Iterator[Record]:
    """Settings inside, as if the device had not been used before."""
    record = Record()
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def note(name: str, value: Any) -> None:
    for record in _records:
        record.note(name, value)
