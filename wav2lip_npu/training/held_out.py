"""Detect when the held-out loss stops falling, and when the network memorizes its clips."""

from __future__ import annotations

import logging
from typing import NamedTuple

from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import TrainState

log = logging.getLogger(__name__)

_RISE = 1.03
"""Multiple of its minimum above which the held-out loss has risen. For equal weights it varies by 1 %."""
_LASTING = 2
"""Consecutive evaluations after which a rise is reported."""


class _Point(NamedTuple):
    step: int
    training: float
    held_out: float


class HeldOutTrend:
    """Warns once in a run if the held-out loss rises while the training loss falls."""

    def __init__(self) -> None:
        self._best: _Point | None = None
        self._risen = 0
        self._warned = False

    def update(self, step: int, name: str, training: float | None, held_out: float) -> None:
        """Add an evaluation: a held-out loss, and its mean over the training steps since the last one."""
        if training is None or self._warned:
            return
        best = self._best
        if best is None or held_out < best.held_out:
            self._best, self._risen = _Point(step, training, held_out), 0
            return
        has_risen = held_out > _RISE * best.held_out and training < best.training
        self._risen = self._risen + 1 if has_risen else 0
        if self._risen == _LASTING:
            self._warned = True
            log.warning(
                "the held-out %s has risen from %.3g at step %d to %.3g, while the training loss "
                "fell from %.3g to %.3g: the network memorizes its clips. Use the checkpoint of step %d, and "
                "train with more clips, with augmentation, or with --patience, which stops here.",
                name, best.held_out, best.step, held_out, best.training, training, best.step,
            )  # fmt: skip


def is_out_of_patience(state: TrainState, options: TrainOptions) -> bool:
    """Return whether none of the last `options.patience` evaluations improved on the best one."""
    if options.patience is None or state.best is None:
        return False
    return state.step - state.best_step >= options.patience * options.eval_interval
