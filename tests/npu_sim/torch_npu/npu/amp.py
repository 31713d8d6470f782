"""Gradient scaler that also reads the overflow flag of the chip."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import utils


class GradScaler(torch.amp.GradScaler):
    """Skips a step after an overflow in backward on any rank; `dynamic=False` keeps the scale and all steps."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        dynamic: bool = True,
        enabled: bool = True,
    ) -> None:
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._dynamic = dynamic
        self._cleared = False

    def scale(self, outputs: Any) -> Any:
        if self._enabled and self._dynamic and not self._cleared:
            utils.clear_npu_overflow_flag()
            self._cleared = True
        return super().scale(outputs)

    def _unscale_grads_(self, *arguments: Any) -> dict[torch.device, Tensor]:
        found = super()._unscale_grads_(*arguments)
        if not self._dynamic:
            return {device: torch.zeros_like(each) for device, each in found.items()}
        for each in found.values():
            if utils.get_npu_overflow_flag():
                each.fill_(1)
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(each)
        return found

    def update(self, new_scale: float | Tensor | None = None) -> None:
        if not self._enabled:
            return
        if self._dynamic or new_scale is not None:
            super().update(new_scale)
        else:
            self._per_optimizer_states.clear()
        self._cleared = False

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({"dynamic": self._dynamic} if self._enabled else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._enabled:
            self._dynamic = state_dict["dynamic"]
