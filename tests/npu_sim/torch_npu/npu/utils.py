"""Overflow flag of chips without infinity."""

from __future__ import annotations

import torch

from torch_npu import chips


def is_support_inf_nan() -> bool:
    return chips.active().inf_nan


def get_npu_overflow_flag() -> bool:
    return torch.ops.npu_sim.overflow_flag()


def clear_npu_overflow_flag() -> None:
    torch.ops.npu_sim.clear_overflow_flag()
