"""Gradients of a step as one captured graph: the device replays all its kernels without the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from wav2lip_npu.data.samples import Batch
from wav2lip_npu.devices import compilation

Gradients: TypeAlias = Callable[[Iterable[Batch[Any]]], dict[str, Tensor]]
"""Computes the gradients of a step from its batches on the device, and returns the losses by name."""


class GraphedGradients:
    """Captures the computation of gradients for its first batches, and replays it for all later ones.

    `host_values` returns what the host decides in a step, such as which losses are used. If it changes,
    the graph is captured again.
    """

    def __init__(
        self,
        gradients: Gradients,
        modules: Iterable[nn.Module],
        host_values: Callable[[], object],
        device: torch.device,
    ) -> None:
        self._gradients, self._host_values, self._device = gradients, host_values, device
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._inputs: list[Batch[Any]] = []
        self._replay: Callable[[], dict[str, Tensor]] | None = None
        self._captured_with: object = None

    def __call__(self, batches: Iterable[Batch[Any]]) -> dict[str, Tensor]:
        """Compute the gradients of a step, and return the losses by name."""
        batches, values = list(batches), self._host_values()
        if self._replay is None or values != self._captured_with:
            self._inputs = [replace(batch, samples=_cloned(batch.samples)) for batch in batches]
            self._replay, self._captured_with = self._capture(), values
        for fixed, batch in zip(self._inputs, batches, strict=True):
            for target, rows in zip(fixed.samples, batch.samples, strict=True):
                target.copy_(rows)
        return self._replay()

    def _capture(self) -> Callable[[], dict[str, Tensor]]:
        """Return the replay. The runs before the capture leave no trace in the running statistics."""
        before = [buffer.clone() for buffer in self._buffers]
        replay = compilation.captured(lambda: self._gradients(self._inputs), self._device)
        with torch.no_grad():
            for buffer, value in zip(self._buffers, before, strict=True):
                buffer.copy_(value)
        return replay


def _cloned(samples: tuple[Tensor, ...]) -> Any:
    return type(samples)(*(rows.clone() for rows in samples))
