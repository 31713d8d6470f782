"""Run stages of a chain of generators at the same time: one ahead of its consumer, or one in lanes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
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
                close = getattr(items, "close", None)
                if close is not None:
                    close()
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


def in_lanes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    lanes: int,
    prepare: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """Yield work(item) for each item, in order, up to `lanes` of them being worked on at the same time.

    `prepare` runs once in each lane's thread. The threads end with this generator.
    """
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane", initializer=prepare) as pool:
        try:
            for item in items:
                running.append(pool.submit(work, item))
                del item
                if len(running) > lanes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            close = getattr(items, "close", None)
            if close is not None:
                close()
