"""Times of stages: work, and waits for the previous and the next stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from wav2lip_npu.dubbing import stopwatch
from wav2lip_npu.dubbing.stopwatch import StageTime, Stopwatch, bound_by
from wav2lip_npu.parallel.threads import map_in_threads


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock[0] += seconds` moves."""
    now = [0.0]
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: now[0])
    return now


def slow(items: Iterable[int], clock: list[float], seconds: float) -> Iterator[int]:
    for item in items:
        clock[0] += seconds
        yield item


def test_work_and_waits_are_told_apart(clock):
    watch = Stopwatch()
    source = watch.work("decode", slow(range(10), clock, 2))
    for _ in watch.work("faces", slow(watch.wait("faces", source), clock, 3)):
        clock[0] += 5
    assert watch.times == {
        "decode": StageTime(busy=20, starved=0, waiting=80),
        "faces": StageTime(busy=30, starved=20, waiting=50),
    }
    assert bound_by(watch.times) == "faces"


def test_lanes_share_the_work(clock):
    watch = Stopwatch()

    def blend(number: int) -> int:
        clock[0] += 4
        return number

    shown = map_in_threads(watch.lane("blend", blend, 1), slow(range(5), clock, 1), 1)
    assert list(watch.work("blend", shown)) == list(range(5))
    assert watch.times["blend"] == StageTime(busy=20, starved=5, waiting=0)
    watch = Stopwatch()
    list(map(watch.lane("blend", blend, 4), range(8)))
    assert watch.times["blend"].busy == 8


def test_last_stage_subtracts_its_waits(clock):
    watch = Stopwatch()
    sum(watch.wait("encode", slow(range(3), clock, 2)))
    watch.add("encode", 10)
    assert watch.times == {"encode": StageTime(busy=4, starved=6, waiting=0)}


def test_errors_pass_and_sources_are_closed(clock):
    closed = []

    def failing() -> Iterator[int]:
        try:
            yield 1
            raise ValueError("broken")
        finally:
            closed.append(True)

    watch = Stopwatch()
    items = watch.work("decode", watch.wait("decode", failing()))
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert closed == [True]
