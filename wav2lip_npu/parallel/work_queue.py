"""Items for workers: where workers get them and how an item can fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Supplied = TypeVar("Supplied", covariant=True)

Work = Callable[[Item], Iterable[Result]]
"""Process one item; yields any number of results."""
StartWorker = Callable[[str], Work[Item, Result]]
"""Called once in each worker with its name, such as a device. Returns what the worker does with an item."""


@dataclass(frozen=True)
class Failure:
    """Why an item has no further results."""

    detail: str
    kind: str = "died"
    """`died`: the worker process died. `timeout`: the item took too long. `bug`: the work raised."""


class WorkSource(Protocol[Supplied]):
    """Where workers get their items."""

    def take(self, worker: str) -> Supplied | None:
        """Return the next item for the worker of this name, `None` if there is none at present."""

    @property
    def is_open(self) -> bool:
        """Whether further items may arrive although no item is in progress."""


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
        """Return the next item, whichever worker asks."""
        return self._items.popleft() if self._items else None
