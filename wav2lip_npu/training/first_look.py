"""When a new run is evaluated and saved for the first time: after minutes, not after thousands of steps."""

from __future__ import annotations

import time
from collections.abc import Callable

_AFTER_S = 120.0


class FirstLook:
    """Tells once that the first evaluation of a run is due, unless there was one before."""

    def __init__(self, *, is_needed: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_needed = is_needed
        """Whether the run has no held-out figures yet."""
        self.is_now = False
        """Whether the first look is due on any rank."""
        self._clock, self._due = clock, clock() + _AFTER_S

    def is_due(self) -> bool:
        """Return whether the time has come. Clocks of ranks differ: take the first one that says so."""
        return self.is_needed and self._clock() >= self._due
