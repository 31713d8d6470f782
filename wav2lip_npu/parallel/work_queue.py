"""Sources of items for workers, and failures of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Supplied = TypeVar("Supplied", covariant=True)

Work = Callable[[Item], Iterable[Result]]
"""Processes one item and yields any number of results."""
StartWorker = Callable[[str], Work[Item, Result]]
"""Called once in each worker with its name, such as a device. Returns the function that processes an item."""


@dataclass(frozen=True)
class Failure:
    """Failure of an item, which has no further results."""

    detail: str
    kind: str = "died"
    """`died`: the worker process died. `timeout`: the item took too long. `bug`: the work raised an
    exception."""


class WorkSource(Protocol[Supplied]):
    """A source of items for workers."""

    def take(self, worker: str) -> Supplied | None:
        """Return the next item for the worker of this name, or `None` if there is currently none."""

    @property
    def is_open(self) -> bool:
        """Whether further items may arrive even if no item is in progress."""


class WorkQueue(Generic[Item]):
    """A first-in, first-out source for all workers."""

    is_open = False

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = deque(items)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Iterable[Item]) -> None:
        """Append items."""
        self._items.extend(items)

    def take(self, worker: str) -> Item | None:
        """Return the next item, for any worker."""
        return self._items.popleft() if self._items else None
