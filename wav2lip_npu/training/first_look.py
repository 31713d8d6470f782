"""Time of the first evaluation and checkpoint of a new run: after minutes, not after thousands of steps."""

from __future__ import annotations

import time
from collections.abc import Callable

_AFTER_S = 120.0


class FirstLook:
    """Triggers the first evaluation of a run, unless the run has been evaluated before."""

    def __init__(self, *, is_needed: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_needed = is_needed
        """Whether the run has no held-out figures yet."""
        self.is_now = False
        """Whether the evaluation is due on any rank."""
        self._clock, self._due = clock, clock() + _AFTER_S

    def is_due(self) -> bool:
        """Return whether the evaluation is due on this rank. The first rank to be due decides for all."""
        return self.is_needed and self._clock() >= self._due
