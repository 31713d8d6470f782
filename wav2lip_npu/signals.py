"""SIGINT, SIGTERM and SIGHUP as requests to stop, which take effect between frames, steps and jobs.

An exception that a handler raises is discarded inside a callback of a C library, and leaves a lock held
inside `queue.get`. So these handlers only record the signal, and `check`, which loops of the main thread
call, raises.
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
    """A stop signal, raised by `check`. It unwinds the stack as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.note = "nothing was written"
        """What the run has left, for the last line of a command."""

    @property
    def exit_code(self) -> int:
        """The exit code for this signal, such as 143 for SIGTERM."""
        return watchdog.exit_code(self.number)

    def __str__(self) -> str:
        return f"{watchdog.WORDS[self.number]}, {self.note}."


Pause = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def deferred() -> Iterator[Pause]:
    """Run the handlers of stop signals at the next `check` while the block runs, instead of anywhere.

    The default of SIGTERM and SIGHUP becomes a `StoppedError`, and the process ends by the signal when the
    block has unwound. A second signal is handled at once. Does nothing in other threads than the main thread,
    inside another such block, and for signals that are ignored. Yields a context manager in which the
    handlers are those of the program again, for a generator that yields in the block.
    """
    with _installed(is_command=False) as deferral:
        yield contextlib.nullcontext if deferral is None else deferral.paused


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Handle the stop signals of a command: `check` raises `StoppedError`; a second signal ends the process.

    A process that is still running 3 s after the signal is ended by `watchdog`.
    """
    if _deferral is not None or not _is_main_thread():
        yield
        return
    with _installed(is_command=True), watchdog.watching():
        yield


def check() -> None:
    """Raise if a stop signal has arrived. Loops call this; it acts in the main thread only.

    Raises:
        StoppedError: Outside the `deferred` block, this becomes the `KeyboardInterrupt` of Ctrl-C or the
            exception that the program's own handler raises.

    """
    if _deferral is not None and _deferral.number is not None and _is_main_thread():
        _deferral.deliver()


@contextlib.contextmanager
def held(notice: str) -> Iterator[Hold]:
    """Leave stop signals to the block, which looks at `Hold.number`: `check` does nothing.

    A second signal ends the process at once. In a command, the first one logs the `notice`.
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
    """The stop signal of a `held` block."""

    def __init__(self, deferral: _Deferral | None) -> None:
        self._deferral = deferral
        self.is_released = False

    @property
    def number(self) -> int | None:
        """Number of the signal; `None` if there was none."""
        return None if self._deferral is None else self._deferral.number

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """End the block with `StoppedError`, silently, if a signal arrives; `number` keeps it."""
        self.is_released = True
        try:
            with contextlib.suppress(StoppedError):
                yield
        finally:
            self.is_released = False


def ignore() -> None:
    """Ignore stop signals from now on: in workers, which end with their parent, and after a command."""
    for number in watchdog.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Block stop signals in this thread, and so in the threads and processes that it starts in the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watchdog.STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Deferral:
    """The handlers of the outermost block. They run in the main thread, which alone uses this object."""

    def __init__(self, is_command: bool) -> None:
        self.number: int | None = None
        """The first signal, until `check` has raised it."""
        self.hold: Hold | None = None
        self.raised: BaseException | None = None
        """What the program's own handler has raised. Until the block has unwound, `StoppedError` stands for
        it, because an `Exception` could be taken for a failure of the work."""
        self._is_command = is_command
        self._first = math.inf
        self._handlers: dict[int, Any] = {}
        self._fatal: int | None = None

    def install(self) -> None:
        if not _is_main_thread():  # a generator that is closed in another thread
            return
        for number in watchdog.STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # `nohup` ignores SIGHUP; None was not set by Python
                self._handlers[number] = handler
                signal.signal(number, self._record)
                signal.siginterrupt(number, False)  # C libraries report an interrupted read as an error

    def restore(self) -> None:
        """Restore the handlers, and deliver what has not been delivered yet."""
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
        self.forget()  # the program's handler returned: the work goes on

    def forget(self) -> None:
        self.number, self._first = None, math.inf

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if math.isinf(self._first):
            self._first, self.number = now, number
        elif now - self._first > watchdog.REPEAT_S and not self._is_command:  # else `watchdog` ends it
            handler = self._handlers[number]
            signal.signal(number, handler)
            if callable(handler):
                handler(number, frame)
            else:
                os.kill(os.getpid(), number)


_deferral: _Deferral | None = None


@contextlib.contextmanager
def _installed(is_command: bool) -> Iterator[_Deferral | None]:
    """Install the handlers, unless an outer block has done so, or this is another thread."""
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
