"""Weights of the losses of the generator at each step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from wav2lip_npu.training.loss_options import GeneratorOptions

log = logging.getLogger(__name__)


class LossWeights(NamedTuple):
    """Weights of the losses of a step."""

    pixels: float
    sync: float
    quality: float


class LossSchedule:
    """Weights of the losses: that of the sync loss is low until the generator can learn from it.

    It rises when the held-out sync loss passes the gate, or at a given step. Checkpoints store whether the
    gate is passed; the weights themselves come from the options.
    """

    def __init__(self, options: GeneratorOptions) -> None:
        self._options = options
        self._passed, self._step = False, 0

    def begin(self, step: int) -> None:
        """Set the number of steps before the current one."""
        self._step = step

    @property
    def weights(self) -> LossWeights:
        """Current weights."""
        options, sync = self._options, self.sync_weight
        started = self._risen(options.disc_from)
        quality = options.patch_disc_wt * started
        if options.disc_wt:
            quality = options.disc_wt * started
        return LossWeights(1 - sync - options.disc_wt * started, sync, quality)

    @property
    def sync_weight(self) -> float:
        """Current weight of the sync loss."""
        first, risen = self._options.syncnet_wt, max(self._options.syncnet_wt, self._options.risen_weight)
        if self._passed:
            return risen
        if self._options.sync_from is None:
            return first
        return first + (risen - first) * self._risen(self._options.sync_from)

    def _risen(self, start: int) -> float:
        """Return the share, 0 to 1, of a weight that rises from a step on."""
        steps = self._step - start + 1
        return max(0.0, min(1.0, steps / max(1, self._options.ramp_steps)))

    def update(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """Raise the weight of the sync loss for good once the held-out loss is below the gate; return it."""
        held_out, is_gated = figures["sync"], self._options.sync_from is None
        if is_gated and held_out < self._options.sync_gate and not self._passed:
            self._passed = True
            log.info(
                "sync loss %.3f is below %g: its weight is now %g",
                held_out, self._options.sync_gate, self.sync_weight,
            )  # fmt: skip
        return {"sync_weight": self.sync_weight}

    def state_dict(self) -> dict[str, Any]:
        """Return whether the gate is passed, and the weight for information."""
        return {"passed": self._passed, "weight": self.sync_weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore whether the gate is passed."""
        self._passed = bool(state["passed"])
