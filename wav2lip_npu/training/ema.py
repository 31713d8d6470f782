"""A running average of a network's weights: steadier than the weights of any one step.

Batch norms make this matter: their running statistics trail the weights, so a network judged in eval
mode jumps from one step to the next; averaged together, both settle (Izmailov et al., "Averaging Weights
Leads to Wider Optima and Better Generalization", 2018; the exponential form is Polyak's).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The exponential average of all weights and running statistics of a network."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        """How many times weights were taken in."""
        self._network = network
        self._tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in; the first ones count for more, so that the start is forgotten."""
        self.updates += 1
        share = 1 - min(self.decay, self.updates / (self.updates + 10))
        means, values = [], []
        for name, tensor in self._network.state_dict().items():
            if tensor.is_floating_point():
                means.append(self._tensors[name])
                values.append(tensor)
            else:
                self._tensors[name].copy_(tensor)
        torch._foreach_lerp_(means, values, share)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While the block runs, the network has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._network.state_dict().items():
            held = tensor.clone()
            tensor.copy_(self._tensors[name])
            self._tensors[name].copy_(held)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from the tensors of a saved average. Raises `KeyError` when they are of another network."""
        self.updates = updates
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])
