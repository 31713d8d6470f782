"""Arrays whose memory is used again: touching the fresh pages of a batch takes as long as filling it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNUSED = 3
"""References to an array that only the list, the loop variable and `getrefcount` hold."""


class Buffers:
    """Memory for the arrays of batches. Threads may share it."""

    def __init__(self) -> None:
        self._owners: dict[tuple[tuple[int, ...], np.dtype[Any]], list[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def concatenate(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the rows of all parts, in memory to which no other array or tensor refers any more."""
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        rows = self._empty(shape, parts[0].dtype)
        np.concatenate(parts, out=rows)
        return rows

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        with self._lock:
            owners = self._owners.setdefault((shape, dtype), [])
            for owner in owners:  # views and tensors of a view refer to the array that owns the memory
                if sys.getrefcount(owner) == _UNUSED:
                    return owner[...]
            owner = np.empty(shape, dtype)
            owners.append(owner)
            return owner[...]
