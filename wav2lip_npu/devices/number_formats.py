"""Number formats of a network: their dtypes, the one that suits a device, and strict float32."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Literal, get_args

from wav2lip_npu.errors import DeviceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_FP32_FLAGS = frozenset({"avx2", "avx512f"})
_NO_WEIGHT = 1e-12
"""Weight of a blur that counts as none."""
Precision = Literal["fp32", "bf16", "fp16", "fp32_strict"]
"""Number format of a network; `fp32_strict` rules out reduced-precision multiplication (HF32, TF32)."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16", "fp32_strict"]
"""Precision of a generator; for `auto` see `generator_precision`."""


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


def has_packed_convolutions(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the convolutions of `models/packed.py` run on a device: oneDNN's on a CPU with AVX2."""
    import torch

    library: Any = torch.backends.mkldnn
    if device.type != "cpu" or not library.is_available():
        return False
    wanted = {torch.float32: _FP32_FLAGS, torch.bfloat16: _BF16_FLAGS}.get(dtype, frozenset())
    return bool(_cpu_flags() & wanted)


def without_tails(weights: Tensor) -> Tensor:
    """Return the weights of a blur with zeros in place of the smallest.

    The tails of a Gaussian are subnormal numbers, which take a CPU a hundred times as long to multiply.
    """
    import torch

    return torch.where(weights < _NO_WEIGHT, 0.0, weights)


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
