"""Running ahead in threads: same items, same errors, nothing left behind."""

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


class Picture:
    """Something that can be weakly referenced."""

    def __init__(self, number: int) -> None:
        self.number = number


def no_thread_left(before: set[threading.Thread]) -> bool:
    return set(threading.enumerate()) <= before


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@settings(max_examples=50, deadline=None)
@given(items=st.lists(st.integers()), inner=st.integers(0, 5), outer=st.integers(0, 5))
def test_changes_nothing(items: list[int], inner: int, outer: int) -> None:
    assert list(prefetch(prefetch(iter(items), inner), outer)) == items


def test_none_and_errors_are_items_like_others() -> None:
    items = [None, ValueError("a value"), (), StopIteration()]
    assert list(prefetch(items, 1)) == items


@pytest.mark.parametrize("depth", [1, 3])
def test_error_comes_at_its_item_with_its_traceback(depth: int) -> None:
    def failing_stage() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken picture")

    running = prefetch(prefetch(failing_stage(), depth), depth)
    assert [next(running) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken picture") as caught:
        next(running)
    assert "failing_stage" in "".join(traceback.format_tb(caught.value.__traceback__))
    with pytest.raises(StopIteration):
        next(running)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_whatever_is_raised_surfaces(error: type[BaseException]) -> None:
    def stage() -> Iterator[int]:
        yield 1
        raise error

    running = prefetch(stage(), 2)
    assert next(running) == 1
    with pytest.raises(error):
        next(running)


def test_error_does_not_keep_pictures_alive() -> None:
    seen: list[weakref.ref[Picture]] = []

    def stage() -> Iterator[Picture]:
        picture = Picture(0)
        seen.append(weakref.ref(picture))
        yield picture
        raise ValueError

    gc.disable()
    try:
        try:
            for picture in prefetch(stage(), 2):
                del picture
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
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 1
    assert no_thread_left(before)
    assert len(closed) == bool(taken)
    assert threading.current_thread() not in closed


def test_dropping_the_chain_ends_all_threads() -> None:
    before = set(threading.enumerate())
    running = chain(iter(range(10**9)))
    assert next(running) == 0
    del running
    assert wait_until(lambda: no_thread_left(before), 1)


def test_close_waits_for_a_source_that_is_at_work() -> None:
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
    assert begun.wait(5)
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 1
    assert no_thread_left(before)
    assert len(items) <= 5  # each of the four threads waits for one item at most


def test_close_makes_no_stage_begin_another_item() -> None:
    made = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    running = prefetch(source(), 2)
    next(running)
    assert wait_until(lambda: len(made) == 4)
    running.close()
    assert len(made) == 4


def test_break_in_a_loop_ends_all_threads() -> None:
    before = set(threading.enumerate())
    for number in chain(iter(range(1000))):
        if number == 3:
            break
    assert wait_until(lambda: no_thread_left(before), 1)


def test_error_of_the_consumer_ends_all_threads() -> None:
    before = set(threading.enumerate())
    running = chain(iter(range(1000)))
    next(running)
    with pytest.raises(ZeroDivisionError):
        running.throw(ZeroDivisionError())
    assert no_thread_left(before)


def test_error_in_the_middle_ends_all_threads() -> None:
    before = set(threading.enumerate())

    def failing(items: Iterator[int]) -> Iterator[int]:
        for number in items:
            if number == 3:
                raise ValueError("third")
            yield number

    with pytest.raises(ValueError, match="third"):
        list(chain(failing(chain(iter(range(10**9)), 2)), 2))
    assert wait_until(lambda: no_thread_left(before), 1)


def test_no_thread_before_the_first_item() -> None:
    before = set(threading.enumerate())
    running = chain(iter(range(5)))
    assert set(threading.enumerate()) == before
    running.close()


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_slow_consumer_bounds_the_lead(depth: int) -> None:
    made = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    running = prefetch(source(), depth)
    for taken in range(1, 4):
        next(running)
        assert wait_until(lambda taken=taken: len(made) == taken + depth + 1)
        time.sleep(0.02)
        assert len(made) == taken + depth + 1  # `depth` wait, one is in the producer's hand
    running.close()


def test_items_are_let_go() -> None:
    """While the consumer waits for the next one, or works without its item, nobody else holds a picture."""
    references: list[weakref.ref[Picture]] = []
    go_on = threading.Semaphore(0)

    def source() -> Iterator[Picture]:
        for number in range(3):
            picture = Picture(number)
            references.append(weakref.ref(picture))
            yield picture
            del picture
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


def test_waiting_items_are_let_go_at_close() -> None:
    references: list[weakref.ref[Picture]] = []

    def source() -> Iterator[Picture]:
        for number in range(10):
            picture = Picture(number)
            references.append(weakref.ref(picture))
            yield picture
            del picture

    running = chain(source(), 2, 3)
    next(running)
    assert wait_until(lambda: len(references) >= 7)
    running.close()
    assert wait_until(lambda: all(reference() is None for reference in references))


def test_lanes_keep_the_order_and_work_side_by_side() -> None:
    together = threading.Barrier(3, timeout=10)

    def work(number: int) -> int:
        if number < 3:
            together.wait()  # passes only while three run at once
        time.sleep(0.002 * (number % 4))
        return number * number

    assert list(map_in_threads(work, range(40), 3)) == [number * number for number in range(40)]


def test_lanes_read_a_bounded_number_ahead() -> None:
    read = []
    results = map_in_threads(lambda item: item, (read.append(item) or item for item in range(100)), 2)
    assert next(results) == 0
    assert len(read) <= 4
    results.close()
    assert len(read) <= 4


def test_an_error_in_a_lane_surfaces_at_its_item_and_ends_all() -> None:
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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_each_lane_is_prepared_once() -> None:
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


def test_each_consumer_gets_all_items():
    assert fan_out(numbers(100), [total, first_two, list], 2) == [4950, [0, 1], list(range(100))]
    assert fan_out(numbers(100), [total], 2) == [4950]


@pytest.mark.parametrize("others", [[], [total]])
def test_a_consumer_that_raises_leaves_the_others_alone(others):
    error, *results = fan_out(numbers(50), [failing, *others], 1)
    assert isinstance(error, ZeroDivisionError)
    assert results == [1225] * len(others)


def test_when_all_have_ended_the_items_are_closed():
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


def test_what_the_items_raise_each_consumer_meets():
    results = fan_out(numbers(3, OSError("gone")), [total, first_two, list], 2)
    assert results[1] == [0, 1]
    assert all(isinstance(each, OSError) for each in (results[0], results[2]))
    with pytest.raises(KeyboardInterrupt):
        fan_out(numbers(3, KeyboardInterrupt()), [total, total], 2)


def test_no_consumer_is_far_ahead_of_another():
    """What waits for a slow one is bounded, and so is the memory."""
    held = threading.Event()
    taken: list[int] = []

    def slow(items: Iterator[int]) -> int:
        held.wait(5)
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


def test_results_before_a_failure_of_the_items_come_first():
    results = map_in_threads(lambda number: number * 2, numbers(5, OSError("gone")), 3)
    assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
    with pytest.raises(OSError, match="gone"):
        next(results)
