"""Simulated differences between Ascend chips."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Chip(NamedTuple):
    """An Ascend chip. Without infinity, fp16 saturates at 65504 and sets an overflow flag."""

    name: str
    bf16: bool
    inf_nan: bool
    memory_gib: int
    cube_cores: int
    vector_cores: int


CHIPS = {
    "910B3": Chip("Ascend910B3", bf16=True, inf_nan=True, memory_gib=64, cube_cores=20, vector_cores=40),
    "910A": Chip("Ascend910A", bf16=False, inf_nan=False, memory_gib=32, cube_cores=32, vector_cores=32),
    "310P3": Chip("Ascend310P3", bf16=False, inf_nan=False, memory_gib=24, cube_cores=8, vector_cores=8),
}
_active = "910B3"


def active() -> Chip:
    """Return the chip of all devices."""
    return CHIPS[_active]


def activate(name: str) -> None:
    """Change the chip of all devices. Raises `ImportError` for one that is not simulated."""
    global _active
    if name not in CHIPS:
        raise ImportError(f"NPU_SIM_CHIP={name} is not simulated, {', '.join(CHIPS)} are")
    _active = name
    chip = CHIPS[name]
    torch.ops.npu_sim.set_chip(chip.bf16, chip.inf_nan, chip.name)
    torch.ops.npu_sim.set_capacity(chip.memory_gib << 30)
    torch.ops.npu_sim.clear_overflow_flag()


@contextlib.contextmanager
def swapped(name: str) -> Iterator[Chip]:
    """Change the chip in a block."""
    before = _active
    activate(name)
    try:
        yield active()
    finally:
        activate(before)
