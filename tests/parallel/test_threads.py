"""Stages in threads yield the same items and errors as without threads, and no thread is left."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wav2lip_npu.parallel.threads import fan_out, map_in_threads, prefetch


class Tracked:
    """An object that supports weak references."""

    def __init__(self, number: int) -> None:
        self.number = number


def no_thread_left(before: set[threading.Thread]) -> bool:
    return set(threading.enumerate()) <= before


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@settings(max_examples=50, deadline=None)
@given(items=st.lists(st.integers()), inner=st.integers(0, 5), outer=st.integers(0, 5))
def test_prefetch_keeps_items_and_order(items: list[int], inner: int, outer: int) -> None:
    assert list(prefetch(prefetch(iter(items), inner), outer)) == items


def test_prefetch_passes_none_and_exception_objects() -> None:
    items = [None, ValueError("a value"), (), StopIteration()]
    assert list(prefetch(items, 1)) == items


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_raises_errors_at_their_item_with_traceback(depth: int) -> None:
    def failing_stage() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken frame")

    running = prefetch(prefetch(failing_stage(), depth), depth)
    assert [next(running) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken frame") as caught:
        next(running)
    assert "failing_stage" in "".join(traceback.format_tb(caught.value.__traceback__))
    with pytest.raises(StopIteration):
        next(running)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_prefetch_raises_any_exception(error: type[BaseException]) -> None:
    def stage() -> Iterator[int]:
        yield 1
        raise error

    running = prefetch(stage(), 2)
    assert next(running) == 1
    with pytest.raises(error):
        next(running)


def test_errors_do_not_keep_images_alive() -> None:
    seen: list[weakref.ref[Tracked]] = []

    def stage() -> Iterator[Tracked]:
        item = Tracked(0)
        seen.append(weakref.ref(item))
        yield item
        raise ValueError

    gc.disable()
    try:
        try:
            for item in prefetch(stage(), 2):
                del item
        except ValueError:
            pass
        assert wait_until(lambda: seen[0]() is None)
    finally:
        gc.enable()


def chain(source: Iterator[int], stages: int = 4, depth: int = 2) -> Iterator[int]:
    for _ in range(stages):
        source = prefetch(source, depth)
    return source


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_close_ends_all_threads(taken: int) -> None:
    before = set(threading.enumerate())
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.append(threading.current_thread())

    running = chain(source())
    assert [next(running) for _ in range(taken)] == list(range(taken))
    if taken:
        assert len(set(threading.enumerate()) - before) == 4
        time.sleep(0.05)  # every queue is full now, every producer waits
    running.close()
    assert no_thread_left(before)
    assert len(closed) == bool(taken)
    assert threading.current_thread() not in closed


def test_garbage_collection_ends_all_threads() -> None:
    before = set(threading.enumerate())
    running = chain(iter(range(10**9)))
    assert next(running) == 0
    del running
    assert wait_until(lambda: no_thread_left(before))


def test_close_waits_for_a_busy_source() -> None:
    before = set(threading.enumerate())
    begun = threading.Event()
    items = []

    def slow() -> Iterator[int]:
        for number in range(100):
            if number:
                begun.set()
                time.sleep(0.1)
            items.append(number)
            yield number

    running = chain(slow())
    assert next(running) == 0
    assert begun.wait(60)
    running.close()
    assert no_thread_left(before)
    assert len(items) <= 5  # each of the four threads holds at most one item


def test_close_requests_no_further_items() -> None:
    produced = []

    def source() -> Iterator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    running = prefetch(source(), 2)
    next(running)
    assert wait_until(lambda: len(produced) == 4)
    running.close()
    assert len(produced) == 4


def test_break_ends_all_threads() -> None:
    before = set(threading.enumerate())
    for number in chain(iter(range(1000))):
        if number == 3:
            break
    assert wait_until(lambda: no_thread_left(before))


def test_error_of_the_consumer_ends_all_threads() -> None:
    before = set(threading.enumerate())
    running = chain(iter(range(1000)))
    next(running)
    with pytest.raises(ZeroDivisionError):
        running.throw(ZeroDivisionError())
    assert no_thread_left(before)


def test_error_of_a_stage_ends_all_threads() -> None:
    before = set(threading.enumerate())

    def failing(items: Iterator[int]) -> Iterator[int]:
        for number in items:
            if number == 3:
                raise ValueError("third")
            yield number

    with pytest.raises(ValueError, match="third"):
        list(chain(failing(chain(iter(range(10**9)), 2)), 2))
    assert wait_until(lambda: no_thread_left(before))


def test_no_thread_starts_before_the_first_item() -> None:
    before = set(threading.enumerate())
    running = chain(iter(range(5)))
    assert set(threading.enumerate()) == before
    running.close()


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_prefetch_runs_at_most_depth_items_ahead(depth: int) -> None:
    produced = []

    def source() -> Iterator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    running = prefetch(source(), depth)
    for taken in range(1, 4):
        next(running)
        assert wait_until(lambda taken=taken: len(produced) == taken + depth + 1)
        time.sleep(0.02)
        assert len(produced) == taken + depth + 1  # `depth` wait, the producer holds one
    running.close()


def test_items_are_released_once_consumed() -> None:
    """No item is kept alive while the consumer waits for the next one or has released its item."""
    references: list[weakref.ref[Tracked]] = []
    go_on = threading.Semaphore(0)

    def source() -> Iterator[Tracked]:
        for number in range(3):
            item = Tracked(number)
            references.append(weakref.ref(item))
            yield item
            del item
            go_on.acquire()

    running = prefetch(source(), 1)
    first = next(running)
    assert first.number == 0
    del first
    waiting = threading.Thread(target=lambda: next(running).number)
    waiting.start()
    assert wait_until(lambda: references[0]() is None)
    go_on.release()
    waiting.join()
    go_on.release(5)
    running.close()
    assert wait_until(lambda: all(reference() is None for reference in references))


def test_waiting_items_are_released_at_close() -> None:
    references: list[weakref.ref[Tracked]] = []

    def source() -> Iterator[Tracked]:
        for number in range(10):
            item = Tracked(number)
            references.append(weakref.ref(item))
            yield item
            del item

    running = chain(source(), 2, 3)
    next(running)
    assert wait_until(lambda: len(references) >= 7)
    running.close()
    assert wait_until(lambda: all(reference() is None for reference in references))


def test_map_in_threads_keeps_order_and_runs_in_parallel() -> None:
    together = threading.Barrier(3, timeout=60)

    def work(number: int) -> int:
        if number < 3:
            together.wait()  # passes only if three run concurrently
        time.sleep(0.002 * (number % 4))
        return number * number

    assert list(map_in_threads(work, range(40), 3)) == [number * number for number in range(40)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_map_in_threads_reads_a_bounded_number_ahead(ahead: int) -> None:
    read = []
    items = (read.append(item) or item for item in range(100))
    results = map_in_threads(lambda item: item, items, 2, ahead=ahead)
    assert next(results) == 0
    assert len(read) == 2 + ahead
    results.close()
    assert len(read) == 2 + ahead


def test_map_in_threads_raises_errors_at_their_item() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    results = map_in_threads(work, items(), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("map")]


def test_prepare_runs_once_in_each_thread() -> None:
    prepared = []
    list(
        map_in_threads(
            lambda item: time.sleep(0.01), range(12), 3, lambda: prepared.append(threading.get_ident())
        )
    )
    assert len(prepared) == len(set(prepared)) <= 3


def numbers(count: int, then: BaseException | None = None) -> Generator[int, None, None]:
    yield from range(count)
    if then is not None:
        raise then


def total(items: Iterator[int]) -> int:
    return sum(items)


def first_two(items: Iterator[int]) -> list[int]:
    return list(itertools.islice(items, 2))


def failing(items: Iterator[int]) -> int:
    return next(items) // 0


def test_fan_out_gives_all_items_to_each_consumer():
    assert fan_out(numbers(100), [total, first_two, list], 2) == [4950, [0, 1], list(range(100))]
    assert fan_out(numbers(100), [total], 2) == [4950]


@pytest.mark.parametrize("others", [[], [total]])
def test_error_of_one_consumer_does_not_affect_others(others):
    error, *results = fan_out(numbers(50), [failing, *others], 1)
    assert isinstance(error, ZeroDivisionError)
    assert results == [1225] * len(others)


def test_fan_out_closes_items_when_all_consumers_ended():
    taken = []

    def endless() -> Generator[int, None, None]:
        try:
            for number in itertools.count():
                taken.append(number)
                yield number
        finally:
            taken.append("closed")

    assert fan_out(endless(), [first_two, first_two], 3) == [[0, 1]] * 2
    assert taken[-1] == "closed"
    assert len(taken) < 20


def test_fan_out_raises_errors_of_items_in_each_consumer():
    results = fan_out(numbers(3, OSError("gone")), [total, first_two, list], 2)
    assert results[1] == [0, 1]
    assert all(isinstance(result, OSError) for result in (results[0], results[2]))
    with pytest.raises(KeyboardInterrupt):
        fan_out(numbers(3, KeyboardInterrupt()), [total, total], 2)


def test_consumers_stay_within_depth_of_each_other():
    """The number of items that wait for a slow consumer is bounded."""
    held = threading.Event()
    taken: list[int] = []

    def slow(items: Iterator[int]) -> int:
        held.wait(60)
        return sum(items)

    def quick(items: Iterator[int]) -> int:
        for number in items:
            taken.append(number)
            if number == 3:
                time.sleep(0.3)
                most.append(len(taken))
                held.set()
        return len(taken)

    most: list[int] = []
    assert fan_out(numbers(40), [slow, quick], 4) == [780, 40]
    assert most[0] <= 5


def test_map_in_threads_yields_results_before_an_error_of_items():
    results = map_in_threads(lambda number: number * 2, numbers(5, OSError("gone")), 3)
    assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
    with pytest.raises(OSError, match="gone"):
        next(results)
