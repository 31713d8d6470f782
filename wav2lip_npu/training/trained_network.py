"""A network in training: its optimizer, learning rate and average."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wav2lip_npu.devices import compilation, mixed_precision
from wav2lip_npu.devices import device as devices
from wav2lip_npu.training import distributed
from wav2lip_npu.training.distributed import SINGLE, Ranks
from wav2lip_npu.training.ema import Average
from wav2lip_npu.training.options import TrainOptions

_LAST_RATE = 0.02
"""Share of the learning rate at the end of a cosine."""
_MOMENTS = "exp_avg", "exp_avg_sq"


@dataclass
class TrainedNetwork:
    """A network in training, with its optimizer."""

    kind: str
    """Kind of the network, such as `generator`."""
    network: nn.Module
    """On the device, with the weights of the latest step."""
    optimizer: torch.optim.Optimizer
    learning_rate: float
    wrapped: nn.Module
    """Module that a training step calls: the network, or its wrapper for several ranks."""
    average: Average | None = None
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    first_step: int = 0
    """Step at which the warm-up begins, because the optimizer had no state."""
    cosine_steps: int | None = None
    """Step at which the learning rate has fallen along a cosine."""

    def rate(self, step: int) -> float:
        """Return the learning rate after a number of steps."""
        rate, steps = self.learning_rate, step - self.first_step
        if self.warmup_steps:
            rate *= min(1.0, (steps + 1) / self.warmup_steps)
        if self.cosine_steps is not None:
            share = min(1.0, steps / max(1, self.cosine_steps - self.first_step))
            rate *= _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * share)) / 2
        return rate

    @property
    def has_gradients(self) -> bool:
        """Whether a loss of the current step trains this network."""
        return any(parameter.grad is not None for parameter in self.network.parameters())

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """Put the network in eval mode, with averaged weights if it has them."""
        self.network.eval()
        try:
            with self.average.in_place() if self.average else contextlib.nullcontext():
                yield self.network
        finally:
            self.network.train()


def trained_network(
    kind: str,
    network: nn.Module,
    options: TrainOptions,
    device: torch.device,
    ranks: Ranks = SINGLE,
    *,
    learning_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
) -> TrainedNetwork:
    """Move a network to the device and create its optimizer.

    With a `learning_rate`, that of the options, their schedule and weight decay do not apply.
    """
    if options.sync_batchnorm:
        network = distributed.sync_batchnorm(network, ranks)
    network = network.to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    network.train()
    is_main = learning_rate is None
    rate = options.learning_rate if learning_rate is None else learning_rate
    given: dict[str, Any] = {"lr": rate, "betas": betas, **mixed_precision.adam_options(device)}
    optimizer: torch.optim.Optimizer
    if is_main and options.weight_decay:
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=options.weight_decay, **given)
    else:
        optimizer = torch.optim.Adam(network.parameters(), **given)
    average = Average(network, options.average) if options.average else None
    wrapped = distributed.wrap(network, ranks)
    if options.compile == "on":
        wrapped = compilation.compiled(wrapped, device)
    trained = TrainedNetwork(kind, network, optimizer, rate, wrapped, average, options.warmup_steps or 0)
    trained.cosine_steps = options.cosine_steps if is_main else None
    return trained


def betas_of(kind: str, kinds: list[str]) -> tuple[float, float]:
    """Return the decays of Adam's moments; with its discriminator, the original uses others."""
    if kind == "patch_discriminator":
        return 0.5, 0.99
    return (0.5, 0.999) if "discriminator" in kinds else (0.9, 0.999)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore moments and step counts after checking their shapes; learning rates do not change."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Any]] = {}
    for number, state in saved["state"].items():
        states[number] = copied({name: value for name, value in state.items() if name not in _MOMENTS})
        if not 0 <= float(state["step"]) < math.inf:
            raise ValueError(f"step {number} of the optimizer is {float(state['step'])}")
        for name in _MOMENTS:
            moment = state[name]
            if moment.shape != parameters[number].shape or not moment.is_floating_point():
                raise ValueError(f"{name} {number} of the optimizer is {moment.dtype} {tuple(moment.shape)}")
            if not moment.sum(dtype=torch.float64).isfinite() or (name == "exp_avg_sq" and moment.min() < 0):
                raise ValueError(f"{name} {number} of the optimizer is NaN, infinite or negative")
            # A fused Adam reads all tensors of a parameter in the order of its memory, which may be channels
            # last; a checkpoint of the original or of an NPU has another one.
            states[number][name] = torch.empty_like(parameters[number]).copy_(moment)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    # Before loading: the Adam implementation determines where PyTorch stores the step counts.
    groups = [{**group, **setting} for group, setting in zip(saved["param_groups"], settings, strict=True)]
    optimizer.load_state_dict({"state": states, "param_groups": copied(groups)})


def portable(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer without its implementation flags, to restore it on any device."""
    groups = [{**group, "foreach": None, "fused": None} for group in optimizer["param_groups"]]
    return {**optimizer, "param_groups": groups}


def copied(value: Any, *, to: str | None = None) -> Any:
    """Copy every tensor in nested dicts and lists, to a device if one is given.

    Tensors of a loaded checkpoint may be memory-mapped and must be copied before use.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to(to or value.device, copy=True)
    if isinstance(value, dict):
        return {key: copied(item, to=to) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item, to=to) for item in value)
    return value
