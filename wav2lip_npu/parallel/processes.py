"""Work through items in processes of their own: one that dies is replaced, and costs its item at most.

Processes are spawned, not forked: a fork would share the driver of a device, which NPUs forbid.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from wav2lip_npu.errors import DeviceError, Wav2LipError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Offered = TypeVar("Offered", covariant=True)
Result = TypeVar("Result")
Work = Callable[[Item], Iterable[Result]]
"""What is done with an item: a stream of results."""
Prepare = Callable[[str], Work[Item, Result]]
"""Given the place of a worker, such as its device, makes what it does with each item."""
_NOTHING = object()
_POLL_S = 0.5
_MOST_STARTS = 3


@dataclass(frozen=True)
class Failure:
    """How an item ended before its end."""

    detail: str
    kind: str = "died"
    """`died`: its process did. `timeout`: it took too long and was ended. `bug`: it raised."""


class Board(Protocol[Offered]):
    """What there is to do."""

    def take(self, place: str) -> Offered | None:
        """The next item for a worker at this place, `None` when there is none at present."""

    @property
    def is_open(self) -> bool:
        """Whether there may be another later, though nothing is being done."""


class Pile(Generic[Item]):
    """A board of items for anybody, first come first served."""

    is_open = False

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = deque(items)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Iterable[Item]) -> None:
        """Lay more on it."""
        self._items.extend(items)

    def take(self, place: str) -> Item | None:
        """See `Board`."""
        return self._items.popleft() if self._items else None


def map_in_processes(
    items: Iterable[Item], prepare: Callable[[int], Callable[[Item], Result]], workers: int
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Each item with its result, as they come; `prepare` makes what a worker does, given its number.

    With one worker all is done in this process. With more, an item whose process dies or that raises
    anything but `Wav2LipError` is tried once more when all others are done, alone in a new process.
    `Wav2LipError` is for what would stop each item, such as a full disk: it is raised here. Closing this
    generator, or an exception, ends the processes at once; so does the death of this process.
    """
    pile = Pile(items)
    if workers <= 1:
        yield from _here(pile, prepare)
        return
    again: list[Item] = []
    single = _Single(prepare)
    places = [str(number) for number in range(min(workers, len(pile)))]
    for item, result in run_in_processes(places, pile, single):
        if isinstance(result, Failure):
            again.append(item)
        elif result is not None:
            yield item, result
    for item in again:
        for _, result in run_in_processes(["0"], Pile([item]), single):
            if result is not None:
                yield item, result


def run_in_processes(
    places: Sequence[str],
    board: Board[Item],
    prepare: Prepare[Item, Result],
    timeout: Callable[[Item], float | None] = lambda item: None,
) -> Generator[tuple[Item, Result | Failure | None], None, None]:
    """Do what is on the board, in one process for each place.

    Gives items with their results as they come, and when one has ended with `None`, or with a `Failure`: a
    process that dies, or that takes longer than `timeout` allows for its item (seconds), is replaced. The
    board is asked again after each, so whoever takes the results may put back what failed. What raises
    `Wav2LipError` is raised here, as in `map_in_processes`, and the processes end as there.
    """
    crew: dict[Connection, _Worker] = {}
    starts = dict.fromkeys(places, 0)

    def hire(place: str) -> None:
        starts[place] += 1
        worker = _Worker(place, prepare)
        crew[worker.pipe] = worker

    try:
        for place in places:
            hire(place)
        while True:
            for worker in crew.values():
                if worker.is_free and (item := board.take(worker.place)) is not None:
                    worker.give(item, timeout(item))
            if not board.is_open and all(worker.is_free for worker in crew.values()):
                return
            for worker in _that_speak(crew):
                kind, value = worker.answer()
                if kind == "stop":
                    raise value
                if kind == "ready":
                    starts[worker.place] = 0
                if kind in ("died", "timeout"):
                    crew.pop(worker.pipe).end()
                    if starts[worker.place] >= _MOST_STARTS:
                        raise DeviceError(f"a worker could not start: {value}. Run again with fewer.")
                    hire(worker.place)
                if worker.item is not _NOTHING:
                    item = worker.item
                    if kind == "result":
                        yield item, value
                    else:
                        worker.item = _NOTHING
                        yield item, None if kind == "done" else Failure(value, kind)
    finally:
        for worker in crew.values():
            worker.end()


def _that_speak(crew: dict[Connection, _Worker]) -> list[_Worker]:
    """Workers that have something to say, or no time left; waits a little for one."""
    left = min((worker.seconds_left for worker in crew.values()), default=_POLL_S)
    said = wait(list(crew), min(_POLL_S, max(0, left)))
    return [worker for pipe, worker in crew.items() if pipe in said or worker.seconds_left <= 0]


class _Single:
    """`prepare` for one result an item."""

    def __init__(self, prepare: Callable[[int], Callable[[Any], Any]]) -> None:
        self._prepare = prepare

    def __call__(self, place: str) -> Work[Any, Any]:
        work = self._prepare(int(place))
        return lambda item: iter([work(item)])


def _here(
    pile: Pile[Item], prepare: Callable[[int], Callable[[Item], Result]]
) -> Iterator[tuple[Item, Result | Failure]]:
    work = prepare(0)
    while (item := pile.take("")) is not None:
        result: Result | Failure
        try:
            result = work(item)
        except Wav2LipError:
            raise
        except Exception as error:
            result = _fault(error)
        yield item, result


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, place: str, prepare: Prepare[Any, Any]) -> None:
        self.place = place
        self.item: Any = _NOTHING
        self._is_ready = False
        self._ends_at = float("inf")
        self._seconds: float | None = None
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, place, prepare), name=f"worker-{place}", daemon=True
        )
        # What is blocked here is blocked there: Ctrl-C is for this process, which then ends the others.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            theirs.close()  # the only other end is in the process: when it dies, the pipe says so
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def is_free(self) -> bool:
        """Whether it has started and waits for an item."""
        return self._is_ready and self.item is _NOTHING

    @property
    def seconds_left(self) -> float:
        """Until its item will have taken too long."""
        return self._ends_at - time.monotonic()

    def give(self, item: Any, seconds: float | None) -> None:
        self.item = item
        self._seconds = seconds
        self._ends_at = float("inf") if seconds is None else time.monotonic() + seconds
        with contextlib.suppress(OSError):  # that it is dead is seen when the answer is read
            self.pipe.send(item)

    def answer(self) -> tuple[str, Any]:
        """What the process said, and about what.

        `ready`, `result`, `done`, `bug`, `stop`; or in its place `timeout` or `died`.
        """
        if not self.pipe.poll() and self.seconds_left <= 0:
            return "timeout", f"it took longer than {self._seconds:g} s"
        try:
            said: tuple[str, Any] = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {-code}: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
            return "died", f"its process died ({how})"
        self._is_ready = True
        if said[0] in ("done", "bug"):
            self._ends_at = float("inf")
        return said

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, place: str, prepare: Prepare[Any, Any]) -> None:
    """What a process does: answer one item after the other until there is nobody to answer."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        work = prepare(place)
        pipe.send(("ready", None))
        while True:
            item = pipe.recv()
            answer: tuple[str, str | None] = "done", None
            try:
                for result in work(item):
                    pipe.send(("result", result))
            except (Wav2LipError, EOFError, BrokenPipeError):
                raise
            except Exception as error:
                answer = "bug", _fault(error).detail
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        return
    except Wav2LipError as error:
        pipe.send(("stop", error))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that came about."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _fault(error: Exception) -> Failure:
    log.warning("an unexpected error", exc_info=error)
    return Failure(f"{type(error).__name__}: {error}", "bug")
