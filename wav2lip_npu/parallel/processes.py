"""Process items in worker processes. A worker that dies is replaced, and at most its item is lost.

Processes are spawned, not forked: forked processes cannot use an NPU that the parent has initialised.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from wav2lip_npu import signals, watchdog
from wav2lip_npu.errors import DeviceError, Wav2LipError
from wav2lip_npu.parallel.log_lines import log_to_stderr
from wav2lip_npu.parallel.work_queue import (
    Failure,
    Item,
    Result,
    StartWorker,
    Work,
    WorkQueue,
    WorkSource,
)

log = logging.getLogger(__name__)

MAX_STARTS = 3
"""Attempts to start a worker that dies before it is ready."""
_NOTHING = object()
_POLL_S = 0.5


def map_in_processes(
    items: Iterable[Item], start_worker: Callable[[int], Callable[[Item], Result]], workers: int
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Yield each item with its result as items finish.

    `start_worker(number)` runs once in each worker and returns the function that is applied to the items.
    With one worker, everything runs in this process. With more, an item whose process dies, or whose
    function raises anything but `Wav2LipError`, is retried once after all others, one such item at a time.
    A `Wav2LipError`, an error that affects all items, such as a full disk, is raised here.
    The processes are killed when this generator is closed or this process dies.
    """
    if workers <= 1:
        yield from _map_in_this_process(items, start_worker)
        return
    queue = WorkQueue(items)
    names = [str(number) for number in range(min(workers, len(queue)))]
    start = _OneResult(start_worker)
    retries: list[Item] = []
    for item, result in run_in_processes(names, queue, start):
        if isinstance(result, Failure):
            retries.append(item)
        elif result is not None:
            yield item, result
    if retries:
        for item, result in run_in_processes(names[:1], WorkQueue(retries), start):
            if result is not None:
                yield item, result


def run_in_processes(
    workers: Sequence[str],
    source: WorkSource[Item],
    start_worker: StartWorker[Item, Result],
    timeout: Callable[[Item], float | None] = lambda item: None,
) -> Generator[tuple[Item, Result | Failure | None], None, None]:
    """Process the items of a source in one process for each name in `workers`.

    Yields `(item, result)` as results arrive, then `(item, None)` or `(item, Failure)` when an item ends.
    A process that dies, or that takes longer than `timeout(item)` seconds, is replaced; `timeout` is called
    again and again, so it may shorten the time of an item that is running. The next item is taken from the
    source after each item, so the consumer may put failed items back. A `Wav2LipError` of a worker is raised
    here. The processes are killed when this generator is closed or this process dies.

    Raises:
        DeviceError: A worker died `MAX_STARTS` times before it was ready.

    """
    pool: dict[Connection, WorkerProcess] = {}
    starts = dict.fromkeys(workers, 0)

    def start(name: str) -> None:
        starts[name] += 1
        process = WorkerProcess(name, start_worker, timeout)
        pool[process.pipe] = process

    def kill_all() -> None:
        for process in list(pool.values()):
            process.kill()

    with contextlib.ExitStack() as stack:
        stack.callback(kill_all)
        stack.enter_context(watchdog.cleanup(kill_all))
        for name in workers:
            start(name)
        while True:
            signals.check()
            for process in pool.values():
                if process.is_free and (item := source.take(process.name)) is not None:
                    process.send(item)
            if not source.is_open and all(process.is_free for process in pool.values()):
                return
            for process in _processes_with_answers(pool):
                item = process.item
                kind, value = process.receive()
                if kind == "stop":
                    raise value
                if kind == "ready":
                    starts[process.name] = 0
                if kind in ("died", "timeout"):
                    pool.pop(process.pipe).kill()
                    if starts[process.name] >= MAX_STARTS:
                        raise DeviceError(f"a worker could not start: {value}. Use fewer workers.")
                    start(process.name)
                if item is not _NOTHING:
                    ended = None if kind == "done" else Failure(value, kind)
                    yield item, value if kind == "result" else ended


def answers(work: Work[Item, Result], item: Item) -> Iterator[tuple[str, Any]]:
    """Yield the answers of a worker for an item: any number of `result`, then `done`, `bug` or `stop`."""
    try:
        for result in work(item):
            yield "result", result
    except Wav2LipError as error:
        yield "stop", error
    except Exception as error:
        yield "bug", _describe(error)
    else:
        yield "done", None


def _processes_with_answers(pool: dict[Connection, WorkerProcess]) -> list[WorkerProcess]:
    """Return the processes that have an answer or have timed out; wait briefly for one."""
    left = min((process.seconds_left for process in pool.values()), default=_POLL_S)
    readable = wait(list(pool), min(_POLL_S, max(0, left)))
    return [process for pipe, process in pool.items() if pipe in readable or process.seconds_left <= 0]


class _OneResult:
    """A picklable `StartWorker` whose work yields one result per item."""

    def __init__(self, start_worker: Callable[[int], Callable[[Any], Any]]) -> None:
        self._start_worker = start_worker

    def __call__(self, name: str) -> Work[Any, Any]:
        function = self._start_worker(int(name))
        return lambda item: iter([function(item)])


def _map_in_this_process(
    items: Iterable[Item], start_worker: Callable[[int], Callable[[Item], Result]]
) -> Iterator[tuple[Item, Result | Failure]]:
    function = start_worker(0)
    for item in items:
        signals.check()
        result: Result | Failure
        try:
            result = function(item)
        except Wav2LipError:
            raise
        except Exception as error:
            result = Failure(_describe(error), "bug")
        yield item, result


def spawn(
    name: str, target: Callable[..., object], *values: Any, daemon: bool = True
) -> tuple[Any, Connection]:
    """Start a process that calls `target(pipe, *values)`; return it and the other end of the pipe.

    Stop signals are blocked in it: on Ctrl-C, this process ends it. Only a process that is no `daemon` can
    start further ones; it must end by itself, see `exit_with_parent`.
    """
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    process = context.Process(target=target, args=(child_pipe, *values), name=name, daemon=daemon)
    with signals.blocked():
        resource_tracker.ensure_running()  # its start unblocks signals
    with signals.blocked():
        try:
            process.start()
        finally:
            child_pipe.close()  # now only the child has this end open, so its death closes the pipe
    return process, pipe


class WorkerProcess:
    """A worker process, its pipe and its current item; see `run_in_processes`."""

    def __init__(
        self, name: str, start_worker: StartWorker[Any, Any], timeout: Callable[[Any], float | None]
    ) -> None:
        self.name = name
        self.item: Any = _NOTHING
        self._is_ready = False
        self._timeout, self._sent = timeout, 0.0
        self._process, self.pipe = spawn(f"worker-{name}", _serve, name, start_worker)

    @property
    def is_free(self) -> bool:
        """Whether the worker has started and has no item."""
        return self._is_ready and self.item is _NOTHING

    @property
    def seconds_left(self) -> float:
        """Seconds until the item times out."""
        seconds = None if self.item is _NOTHING else self._timeout(self.item)
        return float("inf") if seconds is None else self._sent + seconds - time.monotonic()

    def send(self, item: Any) -> None:
        """Send an item."""
        self.item, self._sent = item, time.monotonic()
        with contextlib.suppress(OSError):  # `receive` reports a dead process
            self.pipe.send(item)

    def receive(self) -> tuple[str, Any]:
        """Return `ready`, a kind of `answers`, `timeout` or `died`, with its value."""
        kind, value = self._receive()
        if kind != "result":
            self.item = _NOTHING
        return kind, value

    def _receive(self) -> tuple[str, Any]:
        if not self.pipe.poll() and self.seconds_left <= 0:
            return "timeout", timeout_detail(self._timeout(self.item))
        try:
            answer: tuple[str, Any] = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return "died", f"its process died ({describe_exit(self._process.exitcode)})"
        self._is_ready = True
        return answer

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def describe_exit(code: int | None) -> str:
    """Return how a process has ended, by its exit code."""
    code = code or 0
    return f"signal {-code}: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


def timeout_detail(seconds: float | None) -> str:
    """Return the detail of a `timeout` failure."""
    return f"it took longer than {seconds:g} s"


def _serve(pipe: Connection, name: str, start_worker: StartWorker[Any, Any]) -> None:
    """Run a worker process: process items from the pipe until the parent closes it."""
    signals.ignore()
    exit_with_parent()
    log_to_stderr()
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            work = start_worker(name)
        except Wav2LipError as error:
            pipe.send(("stop", error))
            return
        pipe.send(("ready", None))
        while True:
            for answer in answers(work, pipe.recv()):
                pipe.send(answer)
                if answer[0] == "stop":
                    return


def exit_with_parent() -> None:
    """Let this process exit as soon as its parent has ended for any reason."""

    def wait_for_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _describe(error: Exception) -> str:
    log.warning("unexpected error", exc_info=error)
    return f"{type(error).__name__}: {error}"
