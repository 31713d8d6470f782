"""Run the held-out evaluations of a training, and decide when it stops."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu import signals
from wav2lip_npu.training.first_look import FirstLook
from wav2lip_npu.training.held_out import HeldOutTrend, is_out_of_patience
from wav2lip_npu.training.metrics_log import Curves, Means
from wav2lip_npu.training.options import TrainOptions
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.task import Evaluation, Task

log = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """Consequences of an evaluation."""

    save: bool = False
    stop: bool = False


class Evaluations:
    """Evaluates a run every `options.eval_interval` steps, and once earlier or at its end.

    These extra evaluations are only logged and written. They do not affect the schedule or the best
    checkpoint, so a run does not depend on the clock or on interruptions.
    """

    def __init__(
        self,
        state: TrainState,
        task: Task[Any],
        options: TrainOptions,
        curves: Curves | None,
        hold: signals.Hold,
    ) -> None:
        self.figures: Mapping[str, float] = {}
        """Latest held-out figures, by name."""
        self.look = FirstLook(is_needed=state.best is None)
        self._state, self._task, self._options = state, task, options
        self._curves, self._hold = curves, hold
        self._first_step, self._latest_step = state.step, -1
        self._losses, self._trend = Means(), HeldOutTrend()

    @property
    def interrupted_by(self) -> int:
        """Signal that interrupted an evaluation, which the next run repeats; 0 without one."""
        return (self._hold.number or 0) if self._state.is_evaluation_due else 0

    def begin(self) -> Verdict:
        """Repeat an interrupted evaluation, and evaluate the weights that a new run starts from."""
        state = self._state
        is_repeated = state.is_evaluation_due
        if is_out_of_patience(state, self._options) and not is_repeated:
            log.warning("nothing to do: %s", self._out_of_patience())
            return Verdict(stop=True)
        if is_repeated or (state.is_continued and self.look.is_needed):
            self._evaluate()
        return Verdict(save=is_repeated, stop=is_out_of_patience(state, self._options))

    def add(self, losses: Mapping[str, float]) -> None:
        """Add the losses of a step."""
        self._losses.add(losses)

    def after_step(self) -> Verdict:
        """Evaluate if an evaluation is due; the losses of all steps have been added then."""
        state, options = self._state, self._options
        if state.step % options.eval_interval == 0:
            if not self._evaluate():
                return Verdict()
            name, held_out = next(iter(self.figures.items()))
            self._trend.update(state.step, name, self._losses.pop().get(name), held_out)
            if stop := is_out_of_patience(state, options):
                log.info("stopping: %s", self._out_of_patience())
            return Verdict(options.patience is not None and state.best_step == state.step, stop)
        if self.look.is_now:
            self.look.is_needed = self.look.is_now = False
            self._write_only()
            return Verdict(save=True)
        return Verdict()

    def end(self, *, is_quick: bool) -> None:
        """Evaluate at the end of a run that has no held-out figures after its first step."""
        if self._latest_step <= self._first_step < self._state.step and not self._state.is_evaluation_due:
            self._write_only(is_quick=is_quick)

    def _evaluate(self) -> bool:
        """Evaluate, update the monitor and the best step, and write the curves.

        Returns False if a stop signal interrupted the evaluation, which the next run repeats.
        """
        state = self._state
        state.is_evaluation_due = True
        evaluation = self._figures()
        if evaluation is None:
            return False
        state.is_evaluation_due = self.look.is_needed = False
        figures = {**evaluation.figures, **self._task.monitor.update(evaluation.figures)}
        loss = next(iter(figures.values()))
        if math.isfinite(loss) and (state.best is None or loss < state.best):
            state.best, state.best_step = loss, state.step
        self._write(figures, evaluation.sheet, "")
        return True

    def _write_only(self, *, is_quick: bool = False) -> None:
        """Evaluate and write the curves. A stop signal interrupts the evaluation, unless it is quick."""
        evaluation = self._figures(is_quick=is_quick)
        if evaluation is not None:
            self._write(evaluation.figures, evaluation.sheet, " (a few samples)" if is_quick else "")

    def _figures(self, *, is_quick: bool = False) -> Evaluation | None:
        """Return an evaluation on the held-out clips, or `None` if a stop signal interrupted it."""
        state = self._state
        state.average_statistics()
        with contextlib.ExitStack() as stack:
            if state.ranks.size == 1 and not is_quick:  # with several ranks, the others would wait
                stack.enter_context(self._hold.released())
            for trained in state.networks.values():
                stack.enter_context(trained.evaluation())
            return self._task.evaluate(is_quick)
        return None

    def _write(self, figures: Mapping[str, float], sheet: NDArray[np.uint8] | None, note: str) -> None:
        state, curves = self._state, self._curves
        self.figures, self._latest_step = figures, state.step
        if curves is not None:
            if sheet is not None:
                curves.write_image(state.step, sheet)
            curves.write("held_out", state.step, figures)
            best = "none" if state.best is None else f"{state.best:.4g} at step {state.best_step}"
            log.info("step %d, held out%s: %s; best %s", state.step, note, format_losses(figures), best)

    def _out_of_patience(self) -> str:
        return (
            f"the held-out loss has not been below {self._state.best:.4g}, that of step "
            f"{self._state.best_step}, for {self._options.patience} evaluations (--patience)"
        )


def format_losses(values: Mapping[str, float]) -> str:
    """Return losses or figures as text, such as `bce 0.25, accuracy 0.9`."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
