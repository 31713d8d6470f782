"""Running average of a network's weights, which is steadier than the weights of any one step.

Batch norms make this necessary: their running statistics lag behind the weights, so the figures of a network
in eval mode jump from one step to the next; averaging both steadies them (Izmailov et al., "Averaging Weights
Leads to Wider Optima and Better Generalization", 2018; the exponential form is Polyak's).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

_SETTLED = 1 << 20
"""Updates after which any decay is constant."""


class Average:
    """Exponential average of all weights and running statistics of a network."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        """Number of updates so far."""
        self._network = network
        state = network.state_dict()
        self._tensors = {name: tensor.detach().clone() for name, tensor in state.items()}
        pairs = [(self._tensors[name], tensor) for name, tensor in state.items()]
        self._means, self._values = zip(*(pair for pair in pairs if pair[1].is_floating_point()), strict=True)
        self._counts = [pair for pair in pairs if not pair[1].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights. The first updates have more weight, so that the initial weights fade."""
        self.updates += 1
        share = 1 - min(self.decay, self.updates / (self.updates + 10))
        torch._foreach_lerp_(self._means, self._values, share)
        for count, value in self._counts:
            count.copy_(value)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the averaged weights into the network for the duration of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._network.state_dict().items():
            current = tensor.clone()
            tensor.copy_(self._tensors[name])
            self._tensors[name].copy_(current)

    def load(self, tensors: Mapping[str, Tensor], updates: int | None) -> None:
        """Restore a saved average. Raises `KeyError` if the tensors belong to another network.

        `updates` is None for weights from elsewhere, which then decay no faster than later ones.
        """
        self.updates = _SETTLED if updates is None else updates
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])
