"""The live process as the HTTP process sees it: calls, events, its start and its end.

It starts with the first stream and ends some minutes after the last one. If it dies, its streams end with an
error, and the next one starts it again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from anyio import to_thread

from wav2lip_npu.errors import DeviceError, Wav2LipError
from wav2lip_npu.parallel.processes import describe_exit, spawn
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.streams.wire import Message, Wire, error_of

log = logging.getLogger(__name__)

_IDLE_S = 300.0
"""Seconds after the last stream until the process ends."""
_STARTED = "ready"


class LiveProcess:
    """Starts the live process when it is needed, and sends it calls. Belongs to one event loop.

    Args:
        options: Options of the service; the first of `devices` is used.
        on_event: Called with each message that answers no call: `{"stream": id, "event": name, ...}`.
        on_end: Called with the reason when the process has ended and its streams with it.

    """

    def __init__(
        self,
        options: EngineOptions,
        on_event: Callable[[Message], None],
        on_end: Callable[[Wav2LipError], None],
    ) -> None:
        self._options, self._on_event, self._on_end = options, on_event, on_end
        self._starting = asyncio.Lock()
        self._running: _Running | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Process ID; None while it does not run."""
        return None if self._running is None else int(self._running.process.pid)

    async def call(self, name: str, data: bytes = b"", **values: Any) -> Message:
        """Call a function of the process and return its answer.

        Raises:
            Wav2LipError: The function has raised it, or the process has died.

        """
        async with self._starting:
            if self._running is None:
                self._running = await self._start()
            running = self._running
        return await running.call(name, data, values)

    def notify(self, name: str, **values: Any) -> None:
        """Call a function without an answer, if the process runs."""
        if self._running is not None:
            self._running.wire.send({"call": name, **values})

    def end_when_idle(self, is_idle: bool) -> None:
        """Let the process end after some time while there are no streams."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._end) if is_idle else None

    async def close(self) -> None:
        """End the process. Calls that wait for it fail."""
        self._is_closed = True
        self.end_when_idle(False)
        async with self._starting:
            running = self._running
            self._end()
        if running is not None:
            await to_thread.run_sync(running.process.join)

    def kill(self) -> None:
        """End the process now; its streams end with an error."""
        if self._running is not None:
            self._running.process.kill()

    def _end(self) -> None:
        """End the process, which has no streams. The next call starts another one."""
        running, self._running = self._running, None
        if running is not None:
            running.process.kill()

    async def _start(self) -> _Running:
        if self._is_closed:
            raise DeviceError("no live stream can start: the service is ending. Try again later.")
        process, pipe = await to_thread.run_sync(spawn, "live", _run, self._options)
        running = _Running(process, await Wire.open(pipe))
        running.reading = asyncio.create_task(self._read(running))
        return running

    async def _read(self, running: _Running) -> None:
        """Take the messages of the process until it ends."""
        while (message := await running.wire.read()) is not None:
            if "reply" in message.values:
                running.answer(message)
            else:
                self._on_event(message)
        running.wire.close()
        await to_thread.run_sync(running.process.join)
        is_unexpected = self._running is running
        self._running = None if is_unexpected else self._running
        cause = describe_exit(running.process.exitcode)
        error = DeviceError(f"the process of live streams has ended ({cause}). Start the stream again.")
        running.fail(error)
        if is_unexpected:
            self._on_end(error)


@dataclass
class _Running:
    """The process while it runs, and the calls that wait for it."""

    process: Any
    wire: Wire
    reading: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._error: Wav2LipError | None = None

    async def call(self, name: str, data: bytes, values: Mapping[str, Any]) -> Message:
        if self._error is not None:
            raise self._error
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            self.wire.send({"call": name, "number": number, **values}, data)
            return await answer
        finally:
            del self._calls[number]

    def answer(self, message: Message) -> None:
        future = self._calls.get(message.values["reply"])
        if future is None or future.done():
            return
        if "error" in message.values:
            future.set_exception(error_of(message.values["error"]))
        else:
            future.set_result(message)

    def fail(self, error: Wav2LipError) -> None:
        self._error = error
        for future in self._calls.values():
            if not future.done():
                future.set_exception(error)


def _run(pipe: Connection, options: EngineOptions) -> None:
    """Run the live process, which imports more than this one."""
    from wav2lip_npu.serve.streams.live import run_live

    run_live(pipe, options)
