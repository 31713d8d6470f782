"""Run stages of a chain of generators at the same time: ahead of a consumer, in lanes, for several."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_POLL_S = 0.1


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items of a generator, which meanwhile works up to `depth` items ahead.

    Order is kept. What the generator raises surfaces here, after the items before it and with its own
    traceback. Closing this generator closes the one inside, in its thread, and waits for that thread.
    The thread starts with the first item asked for, so a chain that is never run starts none.
    """
    queue: Queue[tuple[Any, BaseException | None]] = Queue(max(1, depth))
    closed = threading.Event()
    done = object()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not closed.is_set():
            try:
                queue.put((item, error), timeout=_POLL_S)
                return not closed.is_set()  # the close may have made the room: work no further
            except Full:
                continue
        return False

    def work() -> None:
        try:
            try:
                for item in items:
                    if not put(item):
                        return
                    del item  # a frame that waits in no queue must not be held here
            finally:
                _close(items)
        except BaseException as error:
            put(done, error)
        else:
            put(done)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    error: BaseException | None = None
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is done:
                return
            yield item
            del item
    finally:
        error = None  # its traceback holds this frame: no circle, or pictures live on in it
        closed.set()
        while True:  # let a put in progress go through at once
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()


def map_in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    lanes: int,
    prepare: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """Yield work(item) for each item, in order, up to `lanes` of them being worked on at the same time.

    What the items raise comes after the results of those before. `prepare` runs once in each lane's thread.
    The threads end with this generator.
    """
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane", initializer=prepare) as pool:
        failure: Exception | None = None
        source = iter(items)
        try:
            while True:
                try:
                    item = next(source)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                running.append(pool.submit(work, item))
                del item
                if len(running) > lanes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in running:
                future.cancel()
            _close(items)


def fan_out(
    items: Iterator[Item], consumers: Sequence[Callable[[Iterator[Item]], Result]], depth: int
) -> list[Result | Exception]:
    """What each consumer makes of the same items, or the exception that it raises instead.

    They work at the same time, none more than `depth` items behind another; each has a thread, a single
    one works in this. One that ends early leaves the others alone, and when all have ended the generator is
    closed. What it raises, each of them meets at that item.
    """
    if len(consumers) == 1:
        try:
            return [consumers[0](items)]
        except Exception as error:
            return [error]
        finally:
            _close(items)
    hands = [_Hand(consumer, depth) for consumer in consumers]
    failure: BaseException | None = None
    try:
        for item in items:
            for hand in hands:
                hand.give(item)
            del item
            if all(hand.has_left.is_set() for hand in hands):
                break
    except BaseException as error:
        failure = error
    for hand in hands:
        hand.give(None, failure or StopIteration())
    for hand in hands:
        hand.join()
    _close(items)
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    return [hand.outcome for hand in hands]


class _Hand(threading.Thread):
    """One of several consumers of the same items."""

    def __init__(self, consumer: Callable[[Iterator[Any]], Any], depth: int) -> None:
        super().__init__(name="hand", daemon=True)
        self.outcome: Any = None
        self.has_left = threading.Event()
        self._consumer = consumer
        self._queue: Queue[tuple[Any, BaseException | None]] = Queue(max(1, depth))
        self.start()

    def give(self, item: Any, end: BaseException | None = None) -> None:
        """Hand an item on, or how the items end; waits while the consumer is far behind."""
        while not self.has_left.is_set():
            try:
                self._queue.put((item, end), timeout=_POLL_S)
                return
            except Full:
                continue

    def run(self) -> None:
        try:
            self.outcome = self._consumer(self._items())
        except BaseException as error:
            self.outcome = error
        finally:
            self.has_left.set()
            with contextlib.suppress(Empty):
                while True:  # what it did not take must not be held
                    self._queue.get_nowait()

    def _items(self) -> Iterator[Any]:
        while True:
            item, end = self._queue.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item
            del item


def _close(items: Iterable[Any]) -> None:
    """End a generator; other iterables have nothing to end."""
    close = getattr(items, "close", None)
    if close is not None:
        close()
