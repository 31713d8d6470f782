"""Run stages of a pipeline in threads: prefetch, map over items, feed several consumers."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

from wav2lip_npu import signals

Item = TypeVar("Item")
Result = TypeVar("Result")
_POLL_S = 0.1


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items of a generator that runs in a thread, up to `depth` items ahead.

    Order is kept. An exception of the generator is raised here, at its item and with its original traceback.
    Closing this generator makes `signals.check` raise in the thread, closes the inner generator there, and
    waits for the thread. The thread starts when the first item is requested.
    """
    queue: Queue[tuple[Any, BaseException | None]] = Queue(max(1, depth))
    closed = threading.Event()
    end = object()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not closed.is_set():
            try:
                queue.put((item, error), timeout=_POLL_S)
                return not closed.is_set()  # close() empties the queue: do not compute another item
            except Full:
                continue
        return False

    def work() -> None:
        signals.abandoned_after(closed)
        try:
            try:
                for item in items:
                    if not put(item):
                        return
                    del item  # do not hold a frame while waiting for the next one
            finally:
                close_items(items)
        except BaseException as error:
            put(end, error)
        else:
            put(end)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    error: BaseException | None = None
    try:
        while True:
            signals.check()
            try:
                item, error = queue.get(timeout=_POLL_S)
            except Empty:
                continue
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            del item
    finally:
        error = None  # break the reference cycle error -> traceback -> frame, which would keep images alive
        closed.set()
        with contextlib.suppress(Empty):
            while True:  # unblock a put in progress
                queue.get_nowait()
        thread.join()


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    prepare: Callable[[], None] = lambda: None,
    ahead: int = 1,
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item in order, computed in several threads; one is the calling thread.

    At most `threads` + `ahead` items are read ahead of the consumer. An exception of `items` is raised after
    the results of the items before it. `prepare` runs once in each thread. The threads end with it.
    """
    if threads == 1:
        prepare()
        yield from _map_here(function, items)
        return
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="map", initializer=prepare) as pool:
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
                running.append(pool.submit(function, item))
                del item
                if len(running) >= threads + ahead:
                    yield result_of(running.popleft())
            while running:
                yield result_of(running.popleft())
            if failure is not None:
                raise failure
        finally:
            for future in running:
                future.cancel()
            close_items(items)


def _map_here(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    try:
        for item in items:
            result = function(item)
            del item
            yield result
            del result
    finally:
        close_items(items)


def result_of(future: Future[Result]) -> Result:
    """Wait for a result, and check for stop signals meanwhile."""
    signals.check()
    while not future.done():
        wait_for([future], _POLL_S)
        signals.check()
    return future.result()


def fan_out(
    items: Iterator[Item], consumers: Sequence[Callable[[Iterator[Item]], Result]], depth: int
) -> list[Result | Exception]:
    """Return the result of each consumer of the same items, or the exception that it raised.

    The consumers run concurrently, each in a thread and at most `depth` items apart; a single consumer
    runs in the calling thread. A consumer that ends early does not affect the others. The items are closed
    when all consumers have ended. An exception of `items` is raised in each consumer, at its item.
    """
    if len(consumers) == 1:
        try:
            return [consumers[0](items)]
        except Exception as error:
            return [error]
        finally:
            close_items(items)
    failure: BaseException | None = None
    with ThreadPoolExecutor(len(consumers), thread_name_prefix="fan-out") as pool:
        feeds: list[_Feed[Item]] = [_Feed(depth) for _ in consumers]
        futures = [pool.submit(feed.run, consumer) for feed, consumer in zip(feeds, consumers, strict=True)]
        try:
            for item in items:
                for feed in feeds:
                    feed.put(item)
                del item
                if all(feed.has_ended.is_set() for feed in feeds):
                    break
        except BaseException as error:
            failure = error
        for feed in feeds:
            feed.put(None, failure or StopIteration())
    close_items(items)
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    return [future.result() for future in futures]


class _Feed(Generic[Item]):
    """Queue of items to one consumer of `fan_out`."""

    def __init__(self, depth: int) -> None:
        self.has_ended = threading.Event()
        self._queue: Queue[tuple[Any, BaseException | None]] = Queue(max(1, depth))

    def put(self, item: Item | None, end: BaseException | None = None) -> None:
        """Pass on an item or the end of the items. Wait while the consumer is `depth` items behind."""
        while not self.has_ended.is_set():
            try:
                self._queue.put((item, end), timeout=_POLL_S)
                return
            except Full:
                if end is None:  # every consumer must receive the end
                    signals.check()

    def run(self, consumer: Callable[[Iterator[Item]], Result]) -> Any:
        """Run the consumer in its thread and return its result or exception."""
        try:
            return consumer(self._items())
        except BaseException as error:
            return error
        finally:
            self.has_ended.set()
            with contextlib.suppress(Empty):
                while True:  # release the unread items
                    self._queue.get_nowait()

    def _items(self) -> Iterator[Item]:
        while True:
            item, end = self._queue.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item
            del item


def close_items(items: Iterable[Any]) -> None:
    """Close the items if they are a generator."""
    close = getattr(items, "close", None)
    if close is not None:
        close()
