"""Training loop of SyncNet and generator. A step function supplies the losses, an evaluator the figures."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from wav2lip_npu import signals
from wav2lip_npu.data.samples import Batch, Sample, batches
from wav2lip_npu.devices import compilation, transfers
from wav2lip_npu.errors import TrainingError
from wav2lip_npu.training.checkpoints import path_of, prune, saved_steps
from wav2lip_npu.training.evaluations import Evaluations, Verdict, format_losses
from wav2lip_npu.training.graph import Gradients, GraphedGradients
from wav2lip_npu.training.metrics_log import Curves, Means
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.pace import Pace
from wav2lip_npu.training.readback import Readback, StepResult
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.task import Task

log = logging.getLogger(__name__)

_STOPPING = "stopping after this step; a second signal ends at once, without saving"
_MIN_SCALE = 2.0**-10
"""Loss scale below which fp16 gradients will not become finite again."""

Progress: TypeAlias = Callable[[int, Mapping[str, float]], None]
"""Called on the first rank after each step with its number and its losses."""


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run."""

    step: int
    """Optimizer steps, including those of earlier runs."""
    checkpoint: Path
    """Newest checkpoint of the network that was trained."""
    best_checkpoint: Path | None
    """Checkpoint with the lowest held-out loss; `None` without an evaluation, or if no checkpoint was saved
    then."""
    held_out: Mapping[str, float]
    """Latest held-out figures of this run, by name; empty without an evaluation."""
    stopped_by: int | None = None
    """Number of the signal that ended the run early, such as 15 for SIGTERM."""


def fit(
    state: TrainState,
    task: Task[Sample],
    options: TrainOptions,
    directory: Path,
    *,
    progress: Progress | None = None,
) -> TrainResult:
    """Train until `options.steps` or `options.nepochs`, SIGTERM, SIGHUP or Ctrl-C, then save.

    Raises `TrainingError` if a loss is not finite, before any weight changes.
    """
    ranks, epoch_size = state.ranks, len(task.samples)
    # The original saves only the epoch, so its checkpoints resume at the start of an epoch.
    state.position = state.position or state.epoch * epoch_size
    means = Means()
    saved = state.step if state.step in saved_steps(directory) else None

    def save() -> int:
        path = state.save(directory, optimizer=options.save_optimizer_state)
        if ranks.is_first:
            log.info("step %d saved: %s", state.step, path)
            if options.keep is not None:
                kinds = list(state.networks)
                prune(directory, kinds, options.keep, step=state.step, best_step=state.best_step)
        return state.step

    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(
            contextlib.closing(
                batches(
                    task.samples,
                    state.position,
                    size=task.samples_per_batch,
                    rank=ranks.rank,
                    ranks=ranks.size,
                    threads=max(1, options.num_workers),
                )
            )
        )
        prepared = map(task.prepare, stream)
        curves = Curves(directory, state.step) if ranks.is_first else None
        if curves is not None:
            stack.callback(curves.close)
        hold = stack.enter_context(signals.held(_STOPPING))
        last = math.inf if options.steps is None else options.steps
        evaluations = Evaluations(state, task, options, curves, hold)
        gradients, pace = _gradients_of(state, task, options), Pace()
        is_finished = state.step >= last or state.epoch >= options.nepochs
        if is_finished:
            log.warning("nothing to do: already at step %d, epoch %d", state.step, state.epoch)
        readback = Readback(
            state, task.samples.describe, hold, evaluations.look, transfers.readback_lag(state.device)
        )
        stopped_by, verdict = 0, Verdict()
        if not is_finished or state.is_evaluation_due:
            verdict = evaluations.begin()
            saved = None if verdict.save else saved
        while not (evaluations.interrupted_by or stopped_by or verdict.stop or is_finished):
            with pace.step():
                results = _advance(state, prepared, task, options, readback, gradients, pace)
                state.epoch = state.position // epoch_size
                is_finished = state.step >= last or state.epoch >= options.nepochs
                stopped_by = max((result.stopped_by for result in results), default=0)
                if stopped_by or is_finished or evaluations.look.is_now or _is_due(state.step, options):
                    results += readback.read_all()
            for result in results:
                means.add(result.losses)
                evaluations.add(result.losses)
                if progress is not None and ranks.is_first:
                    progress(result.step, result.losses)
            if state.step % options.log_interval == 0:
                averaged = means.pop()
                if curves is not None:
                    curves.write("train", state.step, {**averaged, "skipped": state.skipped})
                    log.info("step %d: %s, %s", state.step, format_losses(averaged), pace.pop())
            verdict = evaluations.after_step()
            if verdict.save or state.step % options.checkpoint_interval == 0:
                saved = save()
        if curves is not None and (rest := means.pop()):  # a resumed run has the same points of the curves
            log.info("step %d: %s, %s", state.step, format_losses(rest), pace.pop())
        if saved != state.step:
            save()
        stopped_by = stopped_by or evaluations.interrupted_by
        evaluations.end(is_quick=bool(stopped_by))
    kind = state.main.kind
    best = None if state.best is None else path_of(directory, kind, state.best_step)
    return TrainResult(
        step=state.step,
        checkpoint=path_of(directory, kind, state.step),
        best_checkpoint=best if best is not None and best.exists() else None,
        held_out=evaluations.figures,
        stopped_by=None if is_finished else stopped_by or None,
    )


def _is_due(step: int, options: TrainOptions) -> bool:
    """Return whether the log, an evaluation or a checkpoint follows a step."""
    intervals = (options.log_interval, options.eval_interval, options.checkpoint_interval)
    return any(step % interval == 0 for interval in intervals)


def _advance(
    state: TrainState,
    stream: Iterator[Batch[Any]],
    task: Task[Any],
    options: TrainOptions,
    readback: Readback,
    gradients: Gradients | None = None,
    pace: Pace | None = None,
) -> list[StepResult]:
    """Queue one optimizer step. Return the results of earlier steps, without a lag those of this step.

    Raises `TrainingError` before any weight changes.
    """
    pace = pace or Pace()
    gradients = gradients or functools.partial(_gradients, state, task, options)
    for trained in state.networks.values():
        for group in trained.optimizer.param_groups:
            group["lr"] = trained.rate(state.step)
    task.begin(state.step)
    used: list[Batch[Any]] = []

    def drawn() -> Iterator[Batch[Any]]:
        for _ in range(options.accumulate):
            with pace.waiting():
                used.append(next(stream))
            pace.add(len(used[-1].clips) * state.ranks.size)
            yield used[-1]

    sums = gradients(drawn())
    failed = readback.queue(sums, used)
    results = readback.read()
    for trained in state.networks.values():
        if not trained.has_gradients:  # a discriminator that is used later
            continue
        if options.clip_grad_norm is not None:
            state.scaler.unscale_(trained.optimizer)
            nn.utils.clip_grad_norm_(trained.network.parameters(), options.clip_grad_norm)
        if readback.lag and not state.scaler.is_enabled():
            # The loss is read after the next step is queued. If this is 1, a fused Adam changes no weight.
            trained.optimizer.found_inf = failed  # type: ignore[attr-defined]
        state.scaler.step(trained.optimizer)
    state.skipped += _update_scale(state.scaler, options)
    for trained in state.networks.values():
        if trained.average is not None:
            trained.average.update()
    state.step += 1
    state.position = used[-1].after
    return results


def _gradients_of(state: TrainState, task: Task[Any], options: TrainOptions) -> Gradients:
    """Return the computation of gradients, captured as a graph where --compile and the device allow it."""
    gradients = functools.partial(_gradients, state, task, options)
    is_graphed = options.compile != "off" and state.data_on == "device" and state.ranks.size == 1
    if not (is_graphed and compilation.captures_graphs(state.device)):
        return gradients
    modules = [trained.network for trained in state.networks.values()]
    modules += [task.judge] if task.judge is not None else []
    return GraphedGradients(gradients, modules, task.host_values, state.device)


def _gradients(
    state: TrainState, task: Task[Any], options: TrainOptions, batches: Iterable[Batch[Any]]
) -> dict[str, Tensor]:
    """Compute the gradients of a step, and return the losses by name."""
    for trained in state.networks.values():
        trained.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        with _local_gradients(state, number < options.accumulate - 1):
            for losses in task.step(batch):
                scaled: Tensor = state.scaler.scale(losses.total / options.accumulate)
                scaled.backward()  # type: ignore[no-untyped-call]
                for name, value in losses.parts.items():
                    sums[name] = sums.get(name, 0) + value.detach().float() / options.accumulate
    return sums


def _update_scale(scaler: torch.amp.GradScaler, options: TrainOptions) -> bool:
    """Update the loss scale, and return whether fp16 overflowed and the step was skipped."""
    if not scaler.is_enabled():
        return False
    before = scaler.get_scale()
    scaler.update()
    overflowed = scaler.get_scale() < before
    if options.loss_scale != "dynamic":
        scaler.update(before)
    elif scaler.get_scale() < _MIN_SCALE:
        raise TrainingError("gradients overflow fp16 at any loss scale. Pass --amp bf16 or off.")
    return overflowed


@contextlib.contextmanager
def _local_gradients(state: TrainState, local: bool) -> Iterator[None]:
    """Skip the exchange of gradients between ranks until the last accumulated batch."""
    with contextlib.ExitStack() as stack:
        for trained in state.networks.values():
            if local and isinstance(trained.wrapped, nn.parallel.DistributedDataParallel):
                stack.enter_context(trained.wrapped.no_sync())
        yield
