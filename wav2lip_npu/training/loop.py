"""The loop that all trainings share. It knows nothing of lips: a step function says what the losses are."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from wav2lip_npu import device as devices
from wav2lip_npu.data.samples import Batch
from wav2lip_npu.errors import TrainingError
from wav2lip_npu.training import distributed
from wav2lip_npu.training.checkpoints import prune, saved_steps
from wav2lip_npu.training.distributed import ALONE, Ranks
from wav2lip_npu.training.ema import Average
from wav2lip_npu.training.metrics_log import Curves
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import Trainee, TrainState

log = logging.getLogger(__name__)

_SMALLEST_SCALE = 2.0**-10
"""A scale that fell to this will not make fp16 gradients finite any more."""


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
        network = distributed.synchronised_norms(network, ranks)
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
                prune(directory, kinds, options.keep, step=state.step, best_step=state.best_step)
        return state.step

    with contextlib.ExitStack() as stack:
        if curves is not None:
            stack.callback(curves.close)
        asked_to_stop = stack.enter_context(_stop_on_signal())
        last = math.inf if options.steps is None else options.steps
        if state.step >= last or state.epoch >= options.nepochs:
            log.warning("nothing to do: %d steps, %d epochs are done already", state.step, state.epoch)
        stopping = False
        while not (stopping or state.step >= last or state.epoch >= options.nepochs):
            values, stopping = _advance(state, batches, step, options, asked_to_stop, names)
            state.epoch = state.position // epoch_size
            means.add(values)
            if progress is not None:
                progress(state.step, values)
            if state.step % options.log_interval == 0:
                found = means.take()
                if curves is not None:
                    curves.write("train", state.step, {**found, "skipped": state.skipped})
                    log.info("step %d: %s", state.step, _shown(found))
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
        mine = None if finite else f"{_shown(values)}; samples {'; '.join(names(each) for each in taken)}"
        found = next(each for each in distributed.from_each(mine, state.ranks) if each is not None)
        raise TrainingError(
            f"the loss is not finite at step {state.step + 1} ({found}). No weight was changed; "
            "start again from the newest checkpoint with a lower --learning_rate."
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
    elif scaler.get_scale() < _SMALLEST_SCALE:
        raise TrainingError("gradients overflow fp16 at any loss scale. Pass --amp bf16 or off.")
    return overflowed


def _judge(state: TrainState, evaluate: Evaluate, curves: Curves | None) -> None:
    """Evaluate on the held-out clips, and remember the best."""
    state.level()
    with contextlib.ExitStack() as stack:
        for each in state.trainees.values():
            stack.enter_context(each.at_its_best())
        found = evaluate(curves)
    leading = next(iter(found.values()))
    if math.isfinite(leading) and (state.best is None or leading < state.best):
        state.best, state.best_step = leading, state.step
    if curves is not None:
        curves.write("held_out", state.step, found)
        best = "none" if state.best is None else f"{state.best:.4g}, step {state.best_step}"
        log.info("step %d held out: %s; best %s", state.step, _shown(found), best)


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


class _Means:
    """Means of the losses since the last point of the curves."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, values: Mapping[str, float]) -> None:
        self._counts.update(values.keys())
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
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
    """SIGTERM or Ctrl-C sets the event; a second one does what it would do without this."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            usual = before[signal.Signals(number)]
            if callable(usual):
                usual(number, frame)
            raise KeyboardInterrupt
        asked.set()
        log.info("stopping after this step; once more stops at once, without saving")

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    except KeyboardInterrupt as stop:
        raise type(stop)("what was learnt since the newest checkpoint is lost") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
