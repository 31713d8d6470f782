"""End a command that does not stop in time after a signal, from a thread that receives signals at once.

Python runs signal handlers in the main thread, after the current call of a C library, which may take minutes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from time import monotonic

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS: dict[int, str] = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminal closed",
}
REPEAT_S = 0.3
"""Seconds within which a second signal counts as part of the first. `timeout`, torchrun and a closed terminal
send two at once; a second Ctrl-C takes longer."""
_GRACE_S = 3.0
"""Seconds after the signal until the process is ended."""
_CLEANUP_S = 1.0
_POLL_S = 0.1

patience: SimpleQueue[str | None] = SimpleQueue()
"""Notice to log at the first signal, which the main thread handles without a time limit; `None` ends this."""
_cleanups: dict[object, Callable[[], object]] = {}
_cleanups_lock = threading.Lock()


def exit_code(number: int) -> int:
    """Return the exit code of a process that was stopped by a signal, such as 143 for SIGTERM."""
    return 128 + number


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """During the block, end the process with `os._exit` at a second stop signal, or 3 s after the first.

    The functions of `cleanup` run first, newest first. Python signal handlers must be installed.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.write(writer, bytes(1))
        watcher.join()
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def cleanup(function: Callable[[], object]) -> Iterator[None]:
    """Call a function if the watchdog ends the process during the block.

    The function runs in another thread and must not wait for locks. Its errors are ignored.
    """
    key = object()
    with _cleanups_lock:
        _cleanups[key] = function
    try:
        yield
    finally:
        with _cleanups_lock:
            _cleanups.pop(key, None)


def _watch(reader: int) -> None:
    """End the process at a second signal, or some time after the first. A 0 in the pipe ends this thread."""
    first = started = math.inf
    last = int(signal.SIGTERM)
    notice: str | None = None
    while True:
        readable, _, _ = select.select([reader], [], [], None if math.isinf(first) else _POLL_S)
        with contextlib.suppress(Empty):
            while True:
                notice = patience.get_nowait()
        for number in os.read(reader, 64) if readable else b"":
            if not number:
                return
            if number not in STOP_SIGNALS:
                continue
            last = number
            if math.isinf(first):
                first = started = monotonic()
                if notice is not None:
                    log.info("%s", notice)
            elif monotonic() - first > REPEAT_S:
                _end(number, "ended at once")
        if notice is not None:
            started = monotonic()
        elif monotonic() - started > _GRACE_S:
            _end(last, "ended inside a long call")


def _end(number: int, how: str) -> None:
    """Run the cleanups, newest first, and end the process."""

    def clean_up() -> None:
        with _cleanups_lock:
            functions = list(_cleanups.values())
        for function in reversed(functions):
            with contextlib.suppress(Exception):
                function()
        with contextlib.suppress(OSError):
            os.write(2, f"wav2lip-npu: {WORDS[number]}, {how}.\n".encode())

    thread = threading.Thread(target=clean_up, daemon=True)
    thread.start()
    thread.join(_CLEANUP_S)
    os._exit(exit_code(number))
