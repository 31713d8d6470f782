"""What a training step takes on a device: autocast, the scaler of its gradients, the fastest Adam."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args

from wav2lip_npu.devices.number_formats import dtype_of
from wav2lip_npu.errors import DeviceError

if TYPE_CHECKING:
    import torch

NEVER = 2**31 - 1
"""Growth interval of a gradient scaler with a constant scale."""
Amp = Literal["off", "bf16", "fp16"]
"""Number format of mixed-precision training."""
AMP: tuple[Amp, ...] = get_args(Amp)


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


def adam_options(device: torch.device) -> dict[str, bool]:
    """Return the arguments for the fastest Adam of the device. Ascend advises against `foreach` on NPUs."""
    return {"fused": True} if device.type == "cuda" else {"foreach": False}
