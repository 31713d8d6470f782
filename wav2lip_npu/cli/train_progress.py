"""Training progress: a bar on a terminal, else one log line per minute."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wav2lip_npu.training.loop import Progress
    from wav2lip_npu.training.options import TrainOptions

log = logging.getLogger(__name__)

_LINE_EVERY_S = 60.0
_SPEED_OVER_S = 120.0
"""Seconds over which the speed is averaged."""


class Estimate:
    """Training speed, and the time until the next evaluation and the end."""

    def __init__(self, options: TrainOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options, self._clock = options, clock
        self._steps: deque[tuple[float, int]] = deque()

    def update(self, step: int) -> str:
        """Return the speed and the remaining times after a step, as text; empty after the first step."""
        now = self._clock()
        self._steps.append((now, step))
        while len(self._steps) > 2 and self._steps[1][0] < now - _SPEED_OVER_S:
            self._steps.popleft()
        began, first = self._steps[0]
        if step == first or now <= began:
            return ""
        speed = (step - first) / (now - began)
        interval = self._options.eval_interval
        evaluation = (step // interval + 1) * interval
        until = _time((evaluation - step) / speed)
        parts = [f"{speed:.3g} steps/s", f"evaluation at step {evaluation} in {until}"]
        if self._options.steps is not None:
            parts.append(f"{_time(max(0, self._options.steps - step) / speed)} left")
        return ", ".join(parts)


@contextlib.contextmanager
def show_progress(options: TrainOptions) -> Iterator[Progress]:
    """Yield a function that shows the latest step, its losses, and the time left."""
    estimate = Estimate(options)
    if sys.stderr.isatty():
        with _bar(options, estimate) as progress:
            yield progress
    else:
        yield log_progress(estimate)


def log_progress(estimate: Estimate, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Return a function that logs the latest step once per minute."""
    logged = clock()

    def show(step: int, losses: Mapping[str, float]) -> None:
        nonlocal logged
        text = estimate.update(step)
        if clock() >= logged + _LINE_EVERY_S and text:
            logged = clock()
            log.info("step %d: %s; %s", step, _format(losses), text)

    return show


@contextlib.contextmanager
def _bar(options: TrainOptions, estimate: Estimate) -> Iterator[Progress]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), contextlib.ExitStack() as stack:
        bars: list[tqdm[None]] = []

        def show(step: int, losses: Mapping[str, float]) -> None:
            if not bars:  # created at the first step, which only the first rank reports
                bars.append(stack.enter_context(tqdm(total=options.steps, initial=step - 1, unit="step")))
            (bar,) = bars
            bar.set_postfix_str(f"{_format(losses)}; {estimate.update(step)}", refresh=False)
            bar.update(step - bar.n)

        yield show


def _format(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in losses.items())


def _time(seconds: float) -> str:
    """Return a time in the two largest units, such as `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes >= 5 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
