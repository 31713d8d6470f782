"""State of a training run: networks, optimizers and position in the data; saved to and restored from files.

A checkpoint is a dict that the original's code reads: `state_dict`, `optimizer`, `global_step`,
`global_epoch`. Everything else is under one further key, which the original ignores.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from wav2lip_npu import __version__
from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import mixed_precision, random_state
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.content import one_line
from wav2lip_npu.models.weight_formats import MORE
from wav2lip_npu.training import distributed
from wav2lip_npu.training.checkpoints import path_of
from wav2lip_npu.training.distributed import SINGLE, Ranks
from wav2lip_npu.training.trained_network import TrainedNetwork, copied, load_optimizer, portable

log = logging.getLogger(__name__)

CONTINUED_WARMUP = 100
"""Warm-up steps of a network that starts from the weights of another run."""
_MAX_COUNT = 1 << 48
_UNFIT = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError)
"""Errors of a training state that belongs to another network or is damaged."""


class Stateful(Protocol):
    """An object whose state is saved in checkpoints, such as a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""


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
    is_continued: bool = False
    """Whether the run started from the weights of another run instead of random weights."""
    data_on: str = "host"
    """Where samples are drawn, which determines their random numbers: `host` or `device`."""

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
        rng = distributed.all_gather(random_state.rng_state(self.device), self.ranks)
        main = path_of(directory, self.main.kind, self.step)
        if not self.ranks.is_first:
            return main
        for trained in reversed(self.networks.values()):
            path = path_of(directory, trained.kind, self.step)
            progress: dict[str, Any] = {
                "optimizer": portable(trained.optimizer.state_dict()) if optimizer else None,
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
            except (OSError, RuntimeError) as error:
                # PyTorch replaces the error of a full disk with one about the position in the file.
                reason = error.__context__ if isinstance(error.__context__, OSError) else error
                raise CheckpointError(
                    f"cannot write {path} ({reason}). Fix this or free disk space, and run the command again."
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
            "continued": self.is_continued,
            "warmup": [trained.first_step, trained.warmup_steps],
            "scaler": self.scaler.state_dict(),
            "rng": rng,
            "extras": {name: extra.state_dict() for name, extra in self.extras.items()},
        }
        if trained.average is not None:
            more["average"] = trained.average.updates
        if (face_size := getattr(trained.network, "face_size", FACE_SIZE)) != FACE_SIZE:
            more["face_size"] = face_size
        if self.data_on != "host":
            more["data_on"] = self.data_on
        return more

    def restore(
        self,
        checkpoints: dict[str, Checkpoint],
        *,
        weights_only: bool = False,
        warmup_steps: int | None = None,
    ) -> None:
        """Resume from checkpoints, one per kind, or with `weights_only` restart at step 0 from their weights.

        A checkpoint of the original has weights, optimizer and step; the samples then start with a
        new epoch. A network without optimizer state begins with a warm-up, because the first steps of a new
        Adam have full size whatever the gradients are. `warmup_steps` is the option, or None if it is not
        given. Raises `CheckpointError` if the training state does not fit.
        """
        for kind, loaded in checkpoints.items():
            trained = self.networks[kind]
            try:
                self._restore_one(trained, loaded, weights_only)
                self._restore_warmup(trained, loaded, weights_only, warmup_steps)
            except (
                KeyError,
                TypeError,
                ValueError,
                AttributeError,
                LookupError,
                RuntimeError,
                ArithmeticError,
            ) as error:
                reason = one_line(f"{type(error).__name__}: {error}")
                raise CheckpointError(
                    f"{loaded.source}: its training state does not fit ({reason}). "
                    "Pass --weights_only to restart at step 0 from its weights."
                ) from None
        for kind in self.networks.keys() - checkpoints.keys():
            self.networks[kind].first_step = self.step

    def _restore_one(self, trained: TrainedNetwork, loaded: Checkpoint, weights_only: bool) -> None:
        training = loaded.training or {}
        more = loaded.more
        raw = loaded.weights if weights_only else more.get("weights", loaded.weights)
        trained.network.load_state_dict(raw)
        if trained.average is not None:
            updates = None if weights_only else more.get("average")
            trained.average.load(loaded.weights, None if updates is None else _count(updates))
        if weights_only:
            return
        if training.get("optimizer") is not None:
            load_optimizer(trained.optimizer, training["optimizer"])
        if trained is not self.main:
            return
        self.step = _count(training.get("global_step", 0))
        self.epoch = _count(training.get("global_epoch", 0))
        if "position" not in more:
            return
        self.position = _count(more["position"])
        self.best, self.best_step = more["best"], _count(more["best_step"])
        if not (self.best is None or (isinstance(self.best, float) and math.isfinite(self.best))):
            raise ValueError(f"best {self.best!r}")
        self.skipped = _count(more["skipped"])
        self.is_evaluation_due = bool(more.get("evaluation_due", False))
        if self.scaler.is_enabled() and self._is_same_scaling(more["scaler"]):
            self._restore_scaler(more["scaler"])
        for name, extra in self.extras.items():
            if name in more["extras"]:
                extra.load_state_dict(more["extras"][name])
        if self.ranks.rank < len(more["rng"]):
            random_state.set_rng_state(self.device, more["rng"][self.ranks.rank])

    def _restore_warmup(
        self, trained: TrainedNetwork, loaded: Checkpoint, weights_only: bool, warmup_steps: int | None
    ) -> None:
        saved = loaded.more.get("warmup", [0, 0])
        training = loaded.training or {}
        if not weights_only and training.get("optimizer") is not None:
            first, steps = map(_count, saved)
            # A discriminator may come from another run, at another step.
            trained.first_step = max(0, self.step - max(0, _count(training.get("global_step", 0)) - first))
        else:
            trained.first_step, steps = self.step, CONTINUED_WARMUP
            log.info("%s has no optimizer state: Adam starts anew", loaded.source)
        trained.warmup_steps = steps if warmup_steps is None else warmup_steps

    def _restore_scaler(self, saved: dict[str, Any]) -> None:
        """Restore the loss scale. All other values come from the options."""
        scale = float(saved["scale"])
        if not 0 < scale < math.inf:
            raise ValueError(f"loss scale {scale}")
        tracker = _count(saved["_growth_tracker"])
        self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": tracker})

    def _is_same_scaling(self, saved: dict[str, Any]) -> bool:
        """Return whether a loss scale was saved with the current --amp and --loss_scale."""
        interval = self.scaler.get_growth_interval()
        changed = interval == mixed_precision.NEVER and saved.get("scale") != self.scaler.get_scale()
        return saved.get("growth_interval") == interval and not changed


def _count(value: Any) -> int:
    """Return a number of steps or samples in a checkpoint. Raises `ValueError` and `TypeError`."""
    count = int(value)
    if not 0 <= count < _MAX_COUNT:
        raise ValueError(f"{count:.3g} steps or samples")
    return count
