"""A training task: the samples, losses and held-out evaluation that the loop uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wav2lip_npu.data.samples import Batch, Sample, SampleSource


class Losses(NamedTuple):
    """Losses of one network for one batch."""

    kind: str
    """Network that the total trains."""
    total: Tensor
    """Float32 scalar with an autograd graph."""
    parts: dict[str, Tensor]
    """Scalars for the curves, by name."""


class Evaluation(NamedTuple):
    """Result of a held-out evaluation."""

    figures: Mapping[str, float]
    """Figures by name; the first is the loss, and its minimum marks the best checkpoint."""
    sheet: NDArray[np.uint8] | None = None
    """Sample images, BGR uint8 [H, W, 3]."""


class Monitor(Protocol):
    """An object that follows the held-out figures, such as a schedule."""

    def update(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """Process new figures, and return further values for the curves."""


@dataclass(frozen=True)
class Task(Generic[Sample]):
    """A training task: data, losses and held-out evaluation."""

    samples: SampleSource[Sample]
    samples_per_batch: int
    step: Callable[[Batch[Sample]], Iterator[Losses]]
    """Yields the losses, one network at a time; each is differentiated before the next is computed."""
    evaluate: Callable[[bool], Evaluation]
    """Evaluates the networks without changing them; if true, on a few samples, in 1 to 2 s."""
    monitor: Monitor
    judge: nn.Module | None = None
    """Frozen network that the steps use."""
    prepare: Callable[[Batch[Any]], Batch[Any]] = lambda batch: batch
    """Changes a loaded batch on the device."""
    begin: Callable[[int], None] = lambda step: None
    """Prepares the step after a number of steps, such as the weights of its losses."""
    host_values: Callable[[], object] = lambda: None
    """Returns what the host decides in a step, such as which losses have a weight."""
