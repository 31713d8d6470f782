"""Speed of a training: windows per second, and the share of the time that steps wait for their data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Pace:
    """Times the steps between two lines of the log, without evaluations and checkpoints."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._windows, self._seconds, self._waiting = 0, 0.0, 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Time a step."""
        begun = self._clock()
        yield
        self._seconds += self._clock() - begun

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the part of a step that waits for a batch, or draws one."""
        begun = self._clock()
        yield
        self._waiting += self._clock() - begun

    def add(self, windows: int) -> None:
        """Count the windows of a batch on all ranks."""
        self._windows += windows

    def pop(self) -> str:
        """Return the speed in words, and start again."""
        seconds = max(self._seconds, 1e-9)
        words = f"{self._windows / seconds:,.0f} windows/s, {self._waiting / seconds:.0%} waiting for data"
        self._reset()
        return words
