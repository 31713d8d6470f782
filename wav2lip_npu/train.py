"""The loop that all trainings share. It knows nothing of lips: a step function says what the losses are."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Annotated, NamedTuple, TypeAlias

import torch
import tyro
from torch import Tensor, nn

from wav2lip_npu import device as devices
from wav2lip_npu import distributed
from wav2lip_npu.averages import Average
from wav2lip_npu.curves import Curves
from wav2lip_npu.data import Batch
from wav2lip_npu.distributed import ALONE, Ranks
from wav2lip_npu.errors import TrainingError, UsageError
from wav2lip_npu.mel import DEFAULT_MEL, MelConfig
from wav2lip_npu.train_state import Trainee, TrainState, prune, saved_steps

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How any of the networks is trained. Names and defaults are those of the original's hparams.py."""

    batch_size: Annotated[int, tyro.conf.arg(aliases=["--syncnet_batch_size"])] = 16
    """Windows in a batch, on each card."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--initial_learning_rate", "--syncnet_lr"])] = 1e-4
    """Step size of Adam."""
    nepochs: int = 200_000_000_000_000_000
    """Stop after so many passes over the clips."""
    steps: int | None = None
    """Stop at this step. (default: only at nepochs, or when told to)"""
    checkpoint_interval: Annotated[int, tyro.conf.arg(aliases=["--syncnet_checkpoint_interval"])] = 3000
    """Steps from one checkpoint to the next."""
    eval_interval: Annotated[int, tyro.conf.arg(aliases=["--syncnet_eval_interval"])] = 3000
    """Steps from one look at the held-out clips to the next."""
    log_interval: int = 50
    """Steps that a point of the training curves is the mean of."""
    num_workers: int = 16
    """Threads that make samples, at most one a core."""
    save_optimizer_state: bool = True
    """Keep optimizer state in checkpoints, so that training can go on exactly; with no_ it is left out."""
    keep: int | None = None
    """Keep only so many checkpoints, and the best. (default: all)"""
    seed: int = 0
    """Of the first weights and of the samples."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises from 0. (default: none, or what the recipe says)"""
    accumulate: int = 1
    """Batches whose gradients are added up for one step."""
    clip_grad_norm: float | None = None
    """Largest norm of the gradients of a network. (default: no limit)"""
    average: float | None = None
    """Decay of the running average of the weights that is saved and judged, 0: the weights themselves.
    (default: 0, or what the recipe says)"""
    amp: str = "off"
    """Numbers inside the networks: off (float32), bf16 or fp16. Losses and weights stay float32."""
    loss_scale: str = "dynamic"
    """With fp16, what losses are multiplied by: dynamic, or a constant such as 1024."""
    sync_batchnorm: bool = False
    """Batch norms see the batches of all cards together."""
    width: int = 32
    """Channels of the networks, 32 for the published ones; smaller ones train faster."""
    img_size: int = 96
    """Side of a face. The networks are made for 96."""
    fps: int = 25
    """Pictures a second. The networks are made for 25."""
    mel: MelConfig = field(default_factory=MelConfig)

    def check(self) -> None:
        """Raise `UsageError` when a value is out of range."""
        at_least = {
            "batch_size": 1,
            "nepochs": 1,
            "checkpoint_interval": 1,
            "eval_interval": 1,
            "log_interval": 1,
            "num_workers": 0,
            "accumulate": 1,
            "seed": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name} {getattr(self, name)} is not at least {least}.")
        for name, least in {"steps": 1, "keep": 1, "warmup_steps": 0}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"--{name} {value} is not at least {least}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning_rate {self.learning_rate:g} is not above 0.")
        if self.clip_grad_norm is not None and not 0 < self.clip_grad_norm < math.inf:
            raise UsageError(f"--clip_grad_norm {self.clip_grad_norm:g} is not above 0.")
        if self.average is not None and not 0 <= self.average < 1:
            raise UsageError(f"--average {self.average:g} is out of range. Pass 0 to 0.9999.")
        if self.width < 2 or self.width % 2 or self.width > 256:
            raise UsageError(f"--width {self.width} is not an even number from 2 to 256.")
        if (self.img_size, self.fps) != (96, 25):
            raise UsageError(
                f"--img_size {self.img_size} --fps {self.fps}: the networks are made for 96 and 25. "
                "Leave both flags out."
            )
        if self.mel != DEFAULT_MEL:
            odd = [each.name for each in fields(MelConfig) if getattr(self.mel, each.name) != each.default]
            raise UsageError(
                f"--{odd[0]} {getattr(self.mel, odd[0]):g}: clips, training and dubs must agree on it. "
                "Change MelConfig in wav2lip_npu/mel.py and preprocess again."
            )


class Losses(NamedTuple):
    """What a step function found for one network."""

    kind: str
    """Whose weights the total is to better."""
    total: Tensor
    """Float32 scalar with a graph."""
    parts: dict[str, Tensor]
    """Scalars for the curves, by name."""


Step: TypeAlias = Callable[[dict[str, Tensor]], Iterator[Losses]]
"""Losses of a batch, network by network; each is differentiated before the next is asked for."""
Evaluate: TypeAlias = Callable[[Curves | None], Mapping[str, float]]
"""Held-out figures of the networks as they are now, the one to be made small first."""


def trainee(
    kind: str,
    network: nn.Module,
    options: TrainOptions,
    device: torch.device,
    ranks: Ranks = ALONE,
    *,
    learning_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Trainee:
    """A network on its device with its optimizer, ready for `fit`."""
    if options.sync_batchnorm:
        network = distributed.synchronised_norms(network, device, ranks)
    network = network.to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    network.train()
    rate = options.learning_rate if learning_rate is None else learning_rate
    optimizer = torch.optim.Adam(network.parameters(), rate, betas, **devices.adam_options(device))
    average = Average(network, options.average) if options.average else None
    return Trainee(kind, network, optimizer, rate, distributed.parallel(network, ranks), average)


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    step: Step,
    evaluate: Evaluate,
    options: TrainOptions,
    directory: Path,
    *,
    epoch_size: int,
    names: Callable[[Batch], str] = str,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> None:
    """Train until `options.steps` or `nepochs`, or until SIGTERM or Ctrl-C, then save.

    Raises `TrainingError`, before any weight moves, when a loss is not finite; `names` tells whose
    samples a batch holds. `progress` is called with the number of each step and its losses.
    """
    kinds = list(state.trainees)
    curves = Curves(directory, state.step) if state.ranks.is_first else None
    means = _Means()
    saved = state.step if state.step in saved_steps(directory) else None

    def save() -> int:
        path = state.save(directory, optimizer=options.save_optimizer_state)
        if state.ranks.is_first:
            log.info("step %d saved: %s", state.step, path)
            if options.keep is not None:
                prune(directory, kinds, options.keep, state.best_step)
        return state.step

    with contextlib.ExitStack() as stack:
        if curves is not None:
            stack.callback(curves.close)
        asked_to_stop = stack.enter_context(_stop_on_signal())
        stopping = False
        while not (stopping or state.step == options.steps or state.epoch >= options.nepochs):
            values, stopping = _advance(state, batches, step, options, asked_to_stop, names)
            state.epoch = state.position // epoch_size
            means.add(values)
            if progress is not None:
                progress(state.step, values)
            if state.step % options.log_interval == 0:
                found = means.take()
                if curves is not None:
                    curves.write("train", state.step, {**found, "skipped": state.skipped})
            if state.step % options.eval_interval == 0:
                _judge(state, evaluate, curves)
            if state.step % options.checkpoint_interval == 0:
                saved = save()
        if saved != state.step:
            save()


def _advance(
    state: TrainState,
    batches: Iterator[Batch],
    step: Step,
    options: TrainOptions,
    asked_to_stop: threading.Event,
    names: Callable[[Batch], str],
) -> tuple[dict[str, float], bool]:
    """One optimizer step. Gives the losses, and whether any rank was asked to stop."""
    rate = min(1.0, (state.step + 1) / options.warmup_steps) if options.warmup_steps else 1.0
    for each in state.trainees.values():
        each.optimizer.zero_grad(set_to_none=True)
        for group in each.optimizer.param_groups:
            group["lr"] = each.learning_rate * rate
    sums: dict[str, Tensor] = {}
    taken = []
    for number in range(options.accumulate):
        batch = next(batches)
        taken.append(batch)
        with _gradients_stay_here(state, number < options.accumulate - 1):
            for losses in step(devices.upload(batch.arrays, state.device)):
                scaled: Tensor = state.scaler.scale(losses.total / options.accumulate)
                scaled.backward()  # type: ignore[no-untyped-call]
                for name, value in losses.parts.items():
                    sums[name] = sums.get(name, 0) + value.detach().float() / options.accumulate
    values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))  # the only wait
    finite = all(map(math.isfinite, values.values()))
    odd, stopping = distributed.highest([not finite, asked_to_stop.is_set()], state.device, state.ranks)
    if odd:
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        clips = "; ".join(names(each) for each in taken)
        raise TrainingError(
            f"the loss is not finite at step {state.step + 1} ({shown}), samples {clips}. No weight was "
            "changed; start again from the newest checkpoint with a lower --learning_rate."
        )
    for each in state.trainees.values():
        if options.clip_grad_norm is not None:
            state.scaler.unscale_(each.optimizer)
            nn.utils.clip_grad_norm_(each.network.parameters(), options.clip_grad_norm)
        state.scaler.step(each.optimizer)
    state.skipped += _adapt(state.scaler, options)
    for each in state.trainees.values():
        if each.average is not None:
            each.average.update()
    state.step += 1
    state.position = taken[-1].after
    return values, bool(stopping)


def _adapt(scaler: torch.amp.GradScaler, options: TrainOptions) -> bool:
    """Let the scaler learn from the step; whether fp16 overflowed and the step was left out."""
    if not scaler.is_enabled():
        return False
    before = scaler.get_scale()
    scaler.update()
    overflowed = scaler.get_scale() < before
    if options.loss_scale != "dynamic":
        scaler.update(before)
    return overflowed


def _judge(state: TrainState, evaluate: Evaluate, curves: Curves | None) -> None:
    """Evaluate on the held-out clips, and remember the best."""
    state.level()
    with contextlib.ExitStack() as stack:
        for each in state.trainees.values():
            stack.enter_context(each.at_its_best())
        found = evaluate(curves)
    leading = next(iter(found.values()))
    if state.best is None or leading < state.best:
        state.best, state.best_step = leading, state.step
    if curves is not None:
        curves.write("held_out", state.step, found)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        log.info("step %d held out: %s; best %.4g, step %d", state.step, shown, state.best, state.best_step)


class _Means:
    """Means of the losses since the last point of the curves."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: Mapping[str, float]) -> None:
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        means = {name: value / self._count for name, value in self._sums.items()}
        self.__init__()  # type: ignore[misc]
        return means


@contextlib.contextmanager
def _gradients_stay_here(state: TrainState, stay: bool) -> Iterator[None]:
    """Leave out the exchange of gradients between ranks while more of them are to be added up."""
    with contextlib.ExitStack() as stack:
        for each in state.trainees.values():
            if stay and isinstance(each.parallel, nn.parallel.DistributedDataParallel):
                stack.enter_context(each.parallel.no_sync())
        yield


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """SIGTERM or Ctrl-C sets the event; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        log.info("stopping after this step; once more stops at once, without saving")

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
