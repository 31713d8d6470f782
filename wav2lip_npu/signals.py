"""Handle SIGINT, SIGTERM and SIGHUP between frames, steps and jobs.

An exception that a handler raises inside a callback of a C library is lost; inside `queue.get`, it leaves a
lock held. So these handlers only record the signal, and `check`, called in loops of the main thread, raises.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType
from typing import Any

from wav2lip_npu import watchdog


class StoppedError(KeyboardInterrupt):
    """A stop signal, raised by `check`. It unwinds the stack like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.note = "nothing was written"
        """State of the outputs, for the last line of a command."""

    @property
    def exit_code(self) -> int:
        """Exit code for this signal, such as 143 for SIGTERM."""
        return watchdog.exit_code(self.number)

    def __str__(self) -> str:
        return f"{watchdog.WORDS[self.number]}, {self.note}."


class AbandonedError(BaseException):
    """The consumer of a thread has ended. This exception unwinds the stack of the thread."""


Pause = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def deferred() -> Iterator[Pause]:
    """Defer the handlers of stop signals to the next `check` during the block.

    If SIGTERM or SIGHUP has no handler, `check` raises `StoppedError`, and the signal ends the process after
    the block has unwound. A second signal is handled at once. Has no effect outside the main thread, inside
    another such block, and on ignored signals. A generator that yields inside the block uses the yielded
    context manager, which restores the program's own handlers meanwhile.
    """
    with _installed(is_command=False) as deferral:
        yield contextlib.nullcontext if deferral is None else deferral.paused


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Handle the stop signals of a command: `check` raises `StoppedError`; a second signal ends the process.

    `watchdog` ends a process that is still running 3 s after the signal.
    """
    if _deferral is not None or not _is_main_thread():
        yield
        return
    with _installed(is_command=True), watchdog.watching():
        yield


def check() -> None:
    """Raise if a stop signal has arrived or, in other threads, if their work is no longer needed. For loops.

    Raises:
        StoppedError: Outside the `deferred` block, it becomes the exception of the program's own handler,
            such as the `KeyboardInterrupt` of Ctrl-C.
        AbandonedError: In a thread with `abandoned_after`.

    """
    if _deferral is not None and _deferral.number is not None and _is_main_thread():
        _deferral.deliver()
    closed = getattr(_thread, "closed", None)
    if closed is not None and closed.is_set():
        _thread.closed = None  # so that cleanup code can call `check`
        raise AbandonedError


def abandoned_after(closed: threading.Event) -> None:
    """Make `check` raise in the current thread once `closed` is set, so that the thread ends soon."""
    _thread.closed = closed


@contextlib.contextmanager
def held(notice: str) -> Iterator[Hold]:
    """Make `check` ignore stop signals during the block, which polls `Hold.number` instead.

    In a command, the first signal logs the `notice`. A second signal ends the process at once.
    """
    with deferred():
        if _deferral is None or not _is_main_thread():
            yield Hold(None)
            return
        hold = Hold(_deferral)
        _deferral.hold = hold
        watchdog.patience.put(notice)
        try:
            yield hold
        finally:
            watchdog.patience.put(None)
            _deferral.hold = None
            _deferral.forget()


class Hold:
    """Stop signal of a `held` block."""

    def __init__(self, deferral: _Deferral | None) -> None:
        self._deferral = deferral
        self.is_released = False

    @property
    def number(self) -> int | None:
        """Number of the signal; `None` if there was none."""
        return None if self._deferral is None else self._deferral.number

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let `check` end the block after a signal. The exception is suppressed; `number` remains."""
        self.is_released = True
        try:
            with contextlib.suppress(StoppedError):
                yield
        finally:
            self.is_released = False


def ignore() -> None:
    """Ignore stop signals: in workers, which end with their parent, and at the end of a command."""
    for number in watchdog.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Block stop signals in this thread, and in the threads and processes that it starts in the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watchdog.STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Deferral:
    """Handlers of the outermost block. Only the main thread uses this object."""

    def __init__(self, is_command: bool) -> None:
        self.number: int | None = None
        """The first signal, until `check` has raised it."""
        self.hold: Hold | None = None
        self.raised: BaseException | None = None
        """Exception of the program's own handler. `StoppedError` replaces it until the block has unwound,
        because the block could handle an `Exception` as a failure of its work."""
        self._is_command = is_command
        self._first = math.inf
        self._handlers: dict[int, Any] = {}
        self._fatal: int | None = None

    def install(self) -> None:
        if not _is_main_thread():  # a generator that is closed in another thread
            return
        for number in watchdog.STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # ignored, as by `nohup`, or not set by Python
                self._handlers[number] = handler
                signal.signal(number, self._record)
                signal.siginterrupt(number, False)  # else an interrupted read fails in C libraries

    def restore(self) -> None:
        """Restore the handlers and send the process a signal that has not been delivered."""
        if not _is_main_thread():
            return
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._record:
                signal.signal(number, handler)
        pending = self._fatal if self.number is None else self.number
        self.number = self._fatal = None
        if pending is not None and not self._is_command:
            os.kill(os.getpid(), pending)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        global _deferral
        _deferral = None
        self.restore()
        try:
            yield
        finally:
            _deferral = self
            self.install()

    def deliver(self) -> None:
        number = self.number
        assert number is not None
        if self.hold is not None:
            if self.hold.is_released:
                raise StoppedError(number)
            return
        self.number = None
        if self._is_command or self._handlers[number] == signal.SIG_DFL:
            self._fatal = number
            raise StoppedError(number)
        try:
            self._handlers[number](number, sys._getframe())
        except BaseException as error:
            self.raised = error
            raise StoppedError(number) from None
        self.forget()  # the program's handler returned: continue

    def forget(self) -> None:
        self.number, self._first = None, math.inf

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if math.isinf(self._first):
            self._first, self.number = now, number
        elif now - self._first > watchdog.REPEAT_S and not self._is_command:  # see `watchdog` for commands
            handler = self._handlers[number]
            signal.signal(number, handler)
            if callable(handler):
                handler(number, frame)
            else:
                os.kill(os.getpid(), number)


_thread = threading.local()
_deferral: _Deferral | None = None


@contextlib.contextmanager
def _installed(is_command: bool) -> Iterator[_Deferral | None]:
    """Install the handlers, unless an outer block has done so or this is not the main thread."""
    global _deferral
    if _deferral is not None or not _is_main_thread():
        yield None
        return
    deferral = _deferral = _Deferral(is_command)
    try:
        deferral.install()
        yield deferral
    except StoppedError:
        if deferral.raised is None:
            raise
        raise deferral.raised from None
    finally:
        _deferral = None
        deferral.restore()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
