"""Seconds of each stage in a chain of generators, each of which runs in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import ParamSpec, TypeVar

from wav2lip_npu.parallel.threads import close_items

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Where the time of one stage went, in seconds."""

    busy: float
    """Time that the stage worked; if it has several lanes, the mean of them."""
    starved: float
    """Time that it waited for the previous stage."""
    waiting: float
    """Time that it waited for the next stage, because the queue between them was full."""


@dataclass
class _Stage:
    inside: float = 0.0
    """Seconds until items arrived from the stage."""
    outside: float = 0.0
    """Seconds between them, in which nobody asked the stage for an item."""
    starved: float = 0.0
    lanes: float = 0.0
    has_lanes: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def time(self) -> StageTime:
        busy = self.lanes if self.has_lanes else self.inside - self.starved
        starved = max(0.0, self.inside - busy) if self.has_lanes else self.starved
        return StageTime(busy=round(busy, 3), starved=round(starved, 3), waiting=round(self.outside, 3))


class Stopwatch:
    """Measures the stages of a dub. Thread-safe: each stage counts in its own threads."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    @property
    def times(self) -> dict[str, StageTime]:
        """Times of each stage so far."""
        with self._lock:
            stages = dict(self._stages)
        return {name: stage.time() for name, stage in stages.items()}

    def _stage(self, name: str) -> _Stage:
        with self._lock:
            return self._stages.setdefault(name, _Stage())

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a stage that has no items, such as the last one; `wait` subtracts from them."""
        self._stage(name).inside += seconds

    def work(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items of a stage, and count the time until each arrives and until the next is wanted."""
        stage = self._stage(name)

        def arrived(seconds: float) -> None:
            stage.inside += seconds

        def wanted(seconds: float) -> None:
            stage.outside += seconds

        yield from _timed(items, arrived, wanted)

    def wait(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items that a stage takes from the previous one, and count the time until each arrives."""
        stage = self._stage(name)

        def arrived(seconds: float) -> None:
            stage.starved += seconds

        yield from _timed(items, arrived)

    def lane(
        self, name: str, function: Callable[Arguments, Result], lanes: int
    ) -> Callable[Arguments, Result]:
        """Return a function that also counts its own time, for a stage that runs it in several threads."""
        stage = self._stage(name)
        stage.has_lanes = True

        def measured(*args: Arguments.args, **values: Arguments.kwargs) -> Result:
            start = perf_counter()
            try:
                return function(*args, **values)
            finally:
                with stage.lock:
                    stage.lanes += (perf_counter() - start) / lanes

        return measured


def bound_by(times: dict[str, StageTime]) -> str:
    """Return the stage that worked longest, which bounds the speed of the others."""
    return max(times, key=lambda name: times[name].busy)


def _timed(
    items: Iterable[Item], arrived: Callable[[float], None], wanted: Callable[[float], None] | None = None
) -> Iterator[Item]:
    """Yield items; pass on the seconds until each arrives, and those until the next is wanted."""
    source = iter(items)
    try:
        while True:
            start = perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                arrived(perf_counter() - start)
            start = perf_counter()
            yield item
            del item
            if wanted is not None:
                wanted(perf_counter() - start)
    finally:
        close_items(source)
