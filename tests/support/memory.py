"""Memory that Python and numpy allocate."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def traced_peak() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the peak of the block so far, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
