"""Everything that a training needs to go on: networks, optimizers, places, and their checkpoints.

A checkpoint is the original's dict, so the original's code reads it: `state_dict`, `optimizer`,
`global_step`, `global_epoch`. What it lacks is under one more key, which the original ignores.
"""

from __future__ import annotations

import contextlib
import logging
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
from wav2lip_npu.training.distributed import ALONE, Ranks
from wav2lip_npu.training.ema import Average

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Something whose state is saved and comes back."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such values."""


@dataclass
class Trainee:
    """A network that is being trained."""

    kind: str
    """`generator`, `syncnet` or `discriminator`."""
    network: nn.Module
    """On the device; its weights are those of the latest step."""
    optimizer: torch.optim.Optimizer
    learning_rate: float
    parallel: nn.Module
    """What a training step calls: the network, or the network wrapped for several ranks."""
    average: Average | None = None

    @contextlib.contextmanager
    def at_its_best(self) -> Iterator[nn.Module]:
        """The network in eval mode, with averaged weights where they are kept."""
        self.network.eval()
        try:
            with self.average.in_place() if self.average else contextlib.nullcontext():
                yield self.network
        finally:
            self.network.train()


@dataclass
class TrainState:
    """A training at some step."""

    trainees: dict[str, Trainee]
    """By kind; the first is the one that the training is for."""
    device: torch.device
    scaler: torch.amp.GradScaler
    extras: dict[str, Stateful] = field(default_factory=dict)
    """What else is saved with it, such as the schedule of the sync weight."""
    ranks: Ranks = ALONE
    step: int = 0
    """Optimizer steps done."""
    position: int = 0
    """Samples of the endless stream that are used up, on all ranks together."""
    epoch: int = 0
    best: float | None = None
    """The lowest held-out loss so far."""
    best_step: int = 0
    skipped: int = 0
    """Steps that fp16 overflow made void."""
    mel_shift: int = 0
    """Frames by which the sound is moved against the picture; a dub with these weights moves it alike."""

    @property
    def main(self) -> Trainee:
        """The network that the training is for."""
        return next(iter(self.trainees.values()))

    def save(self, directory: Path, *, optimizer: bool = True) -> Path:
        """Write the checkpoints of this step; the one of the main network last, so it stands for all.

        Every rank calls it, the first one writes. Raises `CheckpointError` when that fails.
        """
        self.level()
        rng = distributed.from_each(devices.rng_state(self.device), self.ranks)
        main = path_of(directory, self.main.kind, self.step)
        if not self.ranks.is_first:
            return main
        for trainee in reversed(self.trainees.values()):
            path = path_of(directory, trainee.kind, self.step)
            progress: dict[str, Any] = {
                "optimizer": _plain(trainee.optimizer.state_dict()) if optimizer else None,
                "global_step": self.step,
                "global_epoch": self.epoch,
                MORE: self._more(trainee, rng),
            }
            if trainee.average is not None:
                progress[MORE]["weights"] = trainee.network.state_dict()
            progress = _copied(progress, to=devices.HOST)
            try:
                with trainee.at_its_best() as network:
                    checkpoint.save(path, network, progress)
            except (OSError, RuntimeError) as error:  # PyTorch's writer turns a full disk into the latter
                raise CheckpointError(f"cannot write {path} ({error}). Make room and start again.") from None
        return main

    def level(self) -> None:
        """Give all ranks the same running statistics, those of the averaged weights too."""
        for trainee in self.trainees.values():
            distributed.share_statistics(trainee.network, self.ranks)
            if trainee.average is not None and self.ranks.size > 1:
                with trainee.average.in_place():
                    distributed.share_statistics(trainee.network, self.ranks)

    def _more(self, trainee: Trainee, rng: list[dict[str, Any]]) -> dict[str, Any]:
        more: dict[str, Any] = {
            "version": __version__,
            "kind": checkpoint.published_kind(trainee.kind),
            "width": getattr(trainee.network, "width", None),
            "mel": asdict(DEFAULT_MEL),
            "mel_shift": self.mel_shift,
            "position": self.position,
            "best": self.best,
            "best_step": self.best_step,
            "skipped": self.skipped,
            "scaler": self.scaler.state_dict(),
            "rng": rng,
            "extras": {name: extra.state_dict() for name, extra in self.extras.items()},
        }
        if trainee.average is not None:
            more["average"] = trainee.average.updates
        return more

    def restore(self, loaded: dict[str, Checkpoint], *, weights_only: bool = False) -> None:
        """Go on where the checkpoints, one a kind, were saved; with `weights_only` just from their weights.

        A checkpoint of the original gives weights, optimizer and step; the stream of samples then starts
        anew. Raises `CheckpointError` when what is beside the weights does not fit.
        """
        for kind, found in loaded.items():
            trainee = self.trainees[kind]
            try:
                self._restore_one(trainee, found, weights_only)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
                raise CheckpointError(
                    f"{found.source}: its training state does not fit ({type(error).__name__}: {error}). "
                    "Pass --weights_only to start anew from its weights."
                ) from None

    def _restore_one(self, trainee: Trainee, found: Checkpoint, weights_only: bool) -> None:
        training = found.training or {}
        more = found.more
        raw = found.weights if weights_only else more.get("weights", found.weights)
        trainee.network.load_state_dict(raw)
        if trainee.average is not None:
            updates = 0 if weights_only else more.get("average", 0)
            trainee.average.load(found.weights, int(updates))
        if weights_only:
            return
        if training.get("optimizer") is not None:
            _load_optimizer(trainee.optimizer, training["optimizer"])
        if trainee is not self.main:
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
        if self.scaler.is_enabled() and self._scales_alike(more["scaler"]):
            # The scaler of chips that saturate has a key more than PyTorch's.
            self.scaler.load_state_dict({**self.scaler.state_dict(), **more["scaler"]})
        for name, extra in self.extras.items():
            if name in more["extras"]:
                extra.load_state_dict(more["extras"][name])
        if self.ranks.rank < len(more["rng"]):
            devices.set_rng_state(self.device, more["rng"][self.ranks.rank])

    def _scales_alike(self, saved: dict[str, Any]) -> bool:
        """Whether a saved scale is not that of another --amp or --loss_scale."""
        interval = self.scaler.get_growth_interval()
        constant = interval == devices.NEVER and saved.get("scale") != self.scaler.get_scale()
        return saved.get("growth_interval") == interval and not constant


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take over moments and counts, after a look at their shapes; the rates stay those asked for."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for number, state in saved["state"].items():
        float(state["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameters[number].shape:
                raise ValueError(f"{name} {number} of the optimizer is {tuple(state[name].shape)}")
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    # Before loading: where PyTorch puts the counts depends on the form of Adam that they are for.
    groups = [{**group, **setting} for group, setting in zip(saved["param_groups"], settings, strict=True)]
    optimizer.load_state_dict(_copied({"state": saved["state"], "param_groups": groups}))


def _plain(optimizer: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer without its form, so that any device goes on with it."""
    groups = [{**group, "foreach": None, "fused": None} for group in optimizer["param_groups"]]
    return {**optimizer, "param_groups": groups}


def _copied(value: Any, *, to: str | None = None) -> Any:
    """The same with every tensor copied, to a device or where it is: a file may be mapped behind it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(to or value.device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(each, to=to) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(each, to=to) for each in value)
    return value
