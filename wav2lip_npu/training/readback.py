"""Losses of steps, read by the host while the device works on the next step, so that neither waits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu import signals
from wav2lip_npu.data.samples import Batch
from wav2lip_npu.devices import transfers
from wav2lip_npu.errors import TrainingError
from wav2lip_npu.training import distributed
from wav2lip_npu.training.evaluations import format_losses
from wav2lip_npu.training.first_look import FirstLook
from wav2lip_npu.training.state import TrainState


class StepResult(NamedTuple):
    """Losses of a step on this rank, and what any rank decided."""

    step: int
    losses: Mapping[str, float]
    stopped_by: int
    """Number of the stop signal of any rank, 0 without one."""


class _Queued(NamedTuple):
    step: int
    names: tuple[str, ...]
    batches: list[Batch[Any]]
    read: Callable[[], list[float]]


class Readback:
    """Queue of the losses of steps, which are read after at most `lag` further steps are queued."""

    def __init__(
        self,
        state: TrainState,
        describe: Callable[[Batch[Any]], str],
        hold: signals.Hold,
        look: FirstLook,
        lag: int = 0,
    ) -> None:
        self.lag = lag
        self._state, self._describe, self._hold, self._look = state, describe, hold, look
        self._queued: deque[_Queued] = deque()

    def queue(self, losses: Mapping[str, Tensor], batches: list[Batch[Any]]) -> Tensor:
        """Start to copy the losses of the current step to the host.

        Returns a scalar on the device: 1 if a loss of any rank is not finite, else 0.
        """
        state = self._state
        values = torch.stack(list(losses.values()))
        failed = (~values.isfinite()).any().to(values.dtype)
        own = np.array([self._hold.number or 0, self._look.is_due()], np.float32)
        flags = torch.cat([failed[None], transfers.upload({"own": own}, state.device)["own"]])
        flags = distributed.max_of_ranks(flags, state.ranks)
        read = transfers.reading(torch.cat([values, flags]), state.device)
        self._queued.append(_Queued(state.step + 1, tuple(losses), batches, read))
        return flags[0]

    def read(self) -> list[StepResult]:
        """Return the losses of the steps that are due.

        Raises `TrainingError` if a loss of any rank is not finite.
        """
        return [self._next() for _ in range(len(self._queued) - self.lag)]

    def read_all(self) -> list[StepResult]:
        """Return the losses of all steps in the queue. Raises `TrainingError` as `read` does."""
        return [self._next() for _ in range(len(self._queued))]

    def _next(self) -> StepResult:
        queued = self._queued.popleft()
        *values, failed, stopped_by, is_look_due = queued.read()
        losses = dict(zip(queued.names, values, strict=True))
        if failed:
            raise TrainingError(self._failure(queued.step, losses, queued.batches))
        self._look.is_now = self._look.is_now or bool(is_look_due)
        return StepResult(queued.step, losses, int(stopped_by))

    def _failure(self, step: int, losses: Mapping[str, float], batches: Sequence[Batch[Any]]) -> str:
        own = None
        if not all(map(math.isfinite, losses.values())):
            own = f"{format_losses(losses)}; samples {'; '.join(map(self._describe, batches))}"
        reports = distributed.all_gather(own, self._state.ranks)
        reported = next(text for text in reports if text is not None)
        return (
            f"the loss is not finite at step {step} ({reported}). No weight was changed; "
            "resume from the newest checkpoint with a lower --learning_rate."
        )
