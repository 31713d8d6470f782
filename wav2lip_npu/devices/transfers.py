"""Copies between host and device that overlap with computation, and waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


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
