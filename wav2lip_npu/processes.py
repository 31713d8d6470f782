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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from wav2lip_npu.errors import DeviceError, Wav2LipError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Prepare = Callable[[int], Callable[[Item], Result]]
"""Given the number of a worker, makes what it does with each item."""
_NOTHING = object()


@dataclass(frozen=True)
class Fault:
    """What came of an item instead of a result: its process died, or there is a bug."""

    detail: str


def work_through(
    items: Iterable[Item], prepare: Prepare[Item, Result], workers: int
) -> Generator[tuple[Item, Result | Fault], None, None]:
    """Each item with its result, as they come.

    With one worker all is done in this process. With more, an item whose process dies or that raises
    anything but `Wav2LipError` is tried once more when all others are done, alone in a new process.
    `Wav2LipError` is for what would stop each item, such as a full disk: it is raised here. Closing this
    generator, or an exception, ends the processes at once; so does the death of this process.
    """
    waiting = deque(items)
    if workers <= 1:
        yield from _here(waiting, prepare)
        return
    again: list[Item] = []
    for item, result in _crew(waiting, prepare, min(workers, len(waiting))):
        if isinstance(result, Fault):
            again.append(item)
        else:
            yield item, result
    for item in again:
        yield from _crew(deque([item]), prepare, 1)


def _here(waiting: Iterable[Item], prepare: Prepare[Item, Result]) -> Iterator[tuple[Item, Result | Fault]]:
    work = prepare(0)
    for item in waiting:
        result: Result | Fault
        try:
            result = work(item)
        except Wav2LipError:
            raise
        except Exception as error:
            result = _fault(error)
        yield item, result


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, number: int, prepare: Prepare[Any, Any]) -> None:
        self.number = number
        self.item: Any = _NOTHING
        self.has_started = False
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, number, prepare), name=f"worker-{number}", daemon=True
        )
        # What is blocked here is blocked there: Ctrl-C is for this process, which then ends the others.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            theirs.close()  # the only other end is in the process: when it dies, the pipe says so
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def give(self, item: Any) -> None:
        self.item = item
        with contextlib.suppress(OSError):  # that it is dead is seen when the answer is read
            self.pipe.send(item)

    def answer(self) -> tuple[str, Any]:
        """What the process said: `ready`, `result` or `fault` and of what kind, `stop` and why, or `died`."""
        try:
            said: tuple[str, Any] = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {-code}: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
            return "died", f"its process died ({how})"
        return said

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _crew(
    waiting: deque[Item], prepare: Prepare[Item, Result], workers: int
) -> Iterator[tuple[Item, Result | Fault]]:
    crew: dict[Any, _Worker] = {}

    def hire(number: int) -> None:
        worker = _Worker(number, prepare)
        crew[worker.pipe] = worker

    try:
        for number in range(workers):
            hire(number)
        while waiting or any(worker.item is not _NOTHING for worker in crew.values()):
            for pipe in wait(list(crew)):
                worker = crew[pipe]
                kind, value = worker.answer()
                item, worker.item = worker.item, _NOTHING
                if kind == "stop":
                    raise value
                if kind == "died":
                    crew.pop(pipe).end()
                    if not worker.has_started:
                        raise DeviceError(f"a worker could not start: {value}. Pass fewer --workers.")
                    hire(worker.number)
                elif waiting:
                    worker.give(waiting.popleft())
                worker.has_started = True
                if item is not _NOTHING:
                    yield item, value if kind == "result" else Fault(value)
    finally:
        for worker in crew.values():
            worker.end()


def _serve(pipe: Connection, number: int, prepare: Prepare[Any, Any]) -> None:
    """What a process does: answer one item after the other until there is nobody to answer."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        work = prepare(number)
        pipe.send(("ready", None))
        while True:
            item = pipe.recv()
            try:
                answer = "result", work(item)
            except Wav2LipError:
                raise
            except Exception as error:
                answer = "fault", _fault(error).detail
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


def _fault(error: Exception) -> Fault:
    log.warning("an unexpected error", exc_info=error)
    return Fault(f"{type(error).__name__}: {error}")
