"""State of a training run: networks, optimizers and position in the data; saved to and restored from files.

A checkpoint is a dict that the original's code reads: `state_dict`, `optimizer`, `global_step`,
`global_epoch`. Everything else is under one further key, which the original ignores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from wav2lip_npu import __version__
from wav2lip_npu import device as devices
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.weight_formats import MORE
from wav2lip_npu.training import distributed
from wav2lip_npu.training.checkpoints import path_of
from wav2lip_npu.training.distributed import SINGLE, Ranks
from wav2lip_npu.training.ema import Average
from wav2lip_npu.training.options import TrainOptions


class Stateful(Protocol):
    """An object whose state is saved in checkpoints, such as a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""


@dataclass
class TrainedNetwork:
    """A network in training, with its optimizer."""

    kind: str
    """`generator`, `syncnet` or `discriminator`."""
    network: nn.Module
    """On the device, with the weights of the latest step."""
    optimizer: torch.optim.Optimizer
    learning_rate: float
    wrapped: nn.Module
    """Module that a training step calls: the network, or its wrapper for several ranks."""
    average: Average | None = None

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
    """Move a network to the device and create its optimizer."""
    if options.sync_batchnorm:
        network = distributed.sync_batchnorm(network, ranks)
    network = network.to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    network.train()
    rate = options.learning_rate if learning_rate is None else learning_rate
    optimizer = torch.optim.Adam(network.parameters(), rate, betas, **devices.adam_options(device))
    average = Average(network, options.average) if options.average else None
    return TrainedNetwork(kind, network, optimizer, rate, distributed.wrap(network, ranks), average)


@dataclass
class TrainState:
    """State of a training run at some step."""

    networks: dict[str, TrainedNetwork]
    """Networks by kind; the first is the main one."""
    device: torch.device
    scaler: torch.amp.GradScaler
    extras: dict[str, Stateful] = field(default_factory=dict)
    """Further objects to save, such as the schedule of the sync weight."""
    ranks: Ranks = SINGLE
    step: int = 0
    """Optimizer steps so far."""
    position: int = 0
    """Number of samples of the endless stream that the ranks together have used."""
    epoch: int = 0
    best: float | None = None
    """Lowest held-out loss so far."""
    best_step: int = 0
    is_evaluation_due: bool = False
    """Whether the evaluation after this step was interrupted."""
    skipped: int = 0
    """Steps without an update because fp16 overflowed."""
    mel_shift: int = 0
    """Frames by which mel windows are shifted, in training and in dubs with these weights."""

    @property
    def main(self) -> TrainedNetwork:
        """The main network, which the run is for."""
        return next(iter(self.networks.values()))

    def save(self, directory: Path, *, optimizer: bool = True) -> Path:
        """Write the checkpoints of this step and return the path of the main network's checkpoint.

        The latter is written last, so its presence means that all are complete. Every rank calls this, and
        the first one writes. Raises `CheckpointError`.
        """
        self.average_statistics()
        rng = distributed.all_gather(devices.rng_state(self.device), self.ranks)
        main = path_of(directory, self.main.kind, self.step)
        if not self.ranks.is_first:
            return main
        for trained in reversed(self.networks.values()):
            path = path_of(directory, trained.kind, self.step)
            progress: dict[str, Any] = {
                "optimizer": _portable(trained.optimizer.state_dict()) if optimizer else None,
                "global_step": self.step,
                "global_epoch": self.epoch,
                MORE: self._more(trained, rng),
            }
            if trained.average is not None:
                progress[MORE]["weights"] = trained.network.state_dict()
            progress = copied(progress, to=devices.HOST)
            try:
                with trained.evaluation() as network:
                    checkpoint.save(path, network, progress)
            except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError for a full disk
                raise CheckpointError(
                    f"cannot write {path} ({error}). Free some disk space and run the command again."
                ) from None
        return main

    def average_statistics(self) -> None:
        """Average the running statistics over the ranks, including those of the averaged weights."""
        for trained in self.networks.values():
            distributed.average_statistics(trained.network, self.ranks)
            if trained.average is not None and self.ranks.size > 1:
                with trained.average.in_place():
                    distributed.average_statistics(trained.network, self.ranks)

    def _more(self, trained: TrainedNetwork, rng: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the content that the original's checkpoints do not have."""
        more: dict[str, Any] = {
            "version": __version__,
            "kind": checkpoint.published_kind(trained.kind),
            "width": getattr(trained.network, "width", None),
            "mel": asdict(DEFAULT_MEL),
            "mel_shift": self.mel_shift,
            "position": self.position,
            "best": self.best,
            "best_step": self.best_step,
            "skipped": self.skipped,
            "evaluation_due": self.is_evaluation_due,
            "scaler": self.scaler.state_dict(),
            "rng": rng,
            "extras": {name: extra.state_dict() for name, extra in self.extras.items()},
        }
        if trained.average is not None:
            more["average"] = trained.average.updates
        return more

    def restore(self, checkpoints: dict[str, Checkpoint], *, weights_only: bool = False) -> None:
        """Resume from checkpoints, one per kind, or with `weights_only` restart at step 0 from their weights.

        A checkpoint of the original has weights, optimizer and step; the stream of samples then starts at an
        epoch. Raises `CheckpointError` if the training state does not fit.
        """
        for kind, loaded in checkpoints.items():
            trained = self.networks[kind]
            try:
                self._restore_one(trained, loaded, weights_only)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
                raise CheckpointError(
                    f"{loaded.source}: its training state does not fit ({type(error).__name__}: {error}). "
                    "Pass --weights_only to restart at step 0 from its weights."
                ) from None

    def _restore_one(self, trained: TrainedNetwork, loaded: Checkpoint, weights_only: bool) -> None:
        training = loaded.training or {}
        more = loaded.more
        raw = loaded.weights if weights_only else more.get("weights", loaded.weights)
        trained.network.load_state_dict(raw)
        if trained.average is not None:
            updates = 0 if weights_only else more.get("average", 0)
            trained.average.load(loaded.weights, int(updates))
        if weights_only:
            return
        if training.get("optimizer") is not None:
            _load_optimizer(trained.optimizer, training["optimizer"])
        if trained is not self.main:
            return
        self.step = int(training.get("global_step", 0))
        self.epoch = int(training.get("global_epoch", 0))
        if self.step < 0:
            raise ValueError(f"global_step {self.step}")
        if "position" not in more:
            return
        self.position = int(more["position"])
        self.best, self.best_step = more["best"], int(more["best_step"])
        self.skipped = int(more["skipped"])
        self.is_evaluation_due = bool(more.get("evaluation_due", False))
        if self.scaler.is_enabled() and self._is_same_scaling(more["scaler"]):
            # The scaler of saturating chips has one more key than PyTorch's.
            self.scaler.load_state_dict({**self.scaler.state_dict(), **more["scaler"]})
        for name, extra in self.extras.items():
            if name in more["extras"]:
                extra.load_state_dict(more["extras"][name])
        if self.ranks.rank < len(more["rng"]):
            devices.set_rng_state(self.device, more["rng"][self.ranks.rank])

    def _is_same_scaling(self, saved: dict[str, Any]) -> bool:
        """Return whether a loss scale was saved with the current --amp and --loss_scale."""
        interval = self.scaler.get_growth_interval()
        changed = interval == devices.NEVER and saved.get("scale") != self.scaler.get_scale()
        return saved.get("growth_interval") == interval and not changed


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore moments and step counts after checking their shapes; learning rates do not change."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in saved["state"].items():
        float(state["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameters[number].shape:
                raise ValueError(f"{name} {number} of the optimizer is {tuple(state[name].shape)}")
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    # Before loading: the Adam implementation determines where PyTorch stores the step counts.
    groups = [{**group, **setting} for group, setting in zip(saved["param_groups"], settings, strict=True)]
    optimizer.load_state_dict(copied({"state": saved["state"], "param_groups": groups}))


def _portable(optimizer: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer without its implementation, to restore it on any device."""
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
