"""The live streams of the service: who opened them, their limits, and when they end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter, deque
from collections.abc import Iterator
from time import monotonic, time
from typing import Any

from wav2lip_npu.errors import BusyError, DeviceError, UsageError, Wav2LipError
from wav2lip_npu.serve.metrics import LiveCounts
from wav2lip_npu.serve.options import ServeOptions
from wav2lip_npu.serve.problems import Problem, not_found, problem_of
from wav2lip_npu.serve.streams.objects import StreamRequest, stream_options
from wav2lip_npu.serve.streams.process import LiveProcess
from wav2lip_npu.serve.streams.state import Images, Stream
from wav2lip_npu.serve.streams.wire import Message, error_of

log = logging.getLogger(__name__)

UNUSED_S = 30.0
"""Seconds after which a stream without audio connection and without viewer is closed."""
_LOOK_EVERY_S = 1.0
_CLOSE_S = 30.0
"""Seconds in which the live process must end a stream."""
_MAX_OPENING = 16
"""Streams whose faces may be tracked, or wait for it, at the same time."""
_MAX_VIEWERS = 16
"""Connections that get the JPEG images of a stream."""
_ENDED = 100
"""Streams that have ended and are still listed."""


class Streams:
    """The live streams. Belongs to the event loop of the HTTP process."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._process = LiveProcess(options.engine, self._on_event, self._on_process_end)
        self._open: dict[str, Stream] = {}
        self._ended: deque[Stream] = deque(maxlen=_ENDED)
        self._opening: dict[str, Stream] = {}
        """Streams whose faces are being tracked."""
        self._watching: asyncio.Task[None] | None = None
        self._totals: Counter[str] = Counter()
        """Streams by their status at the end, and frames of streams that have ended."""

    @property
    def pid(self) -> int | None:
        """Process ID of the live process; None while it does not run."""
        return self._process.pid

    def all(self) -> list[Stream]:
        """Return the streams, the oldest first, those that have ended before the others."""
        return [*self._ended, *self._open.values()]

    def counts(self) -> LiveCounts:
        """Return counts since the start of the service."""
        totals, still = self._totals, self._open.values()
        return LiveCounts(
            open=len(still),
            process=self.pid is not None,
            ended={status: totals[status] for status in ("closed", "failed")},
            frames=totals["frames"] + sum(stream.figures["frames"] for stream in still),
            late=totals["late"] + sum(stream.figures["late"] for stream in still),
        )

    def get(self, name: str) -> Stream:
        """Return a stream. Raises the problem of an unknown ID."""
        found = self._open.get(name) or next((s for s in self._ended if s.id == name), None)
        if found is None:
            raise not_found("stream", name)
        return found

    async def open(
        self, request: StreamRequest, face: str, weights: str, client: str, *, is_paced: bool = True
    ) -> Stream:
        """Open a stream of a face file.

        Args:
            request: What the client wants.
            face: Path of the face.
            weights: Path of the generator, or `starter`.
            client: Name of the client.
            is_paced: Whether frames come at the frame rate by themselves; if not, `chunk` returns them.

        Raises:
            Problem: Too many streams.
            Wav2LipError: The face, an option or the device.

        """
        options = stream_options(request.options, request.sample_rate)
        self._check_place(client)
        stream = Stream(
            id=f"stream_{secrets.token_hex(12)}",
            client=client,
            request=request,
            fps=float(options.exact_fps),
            is_paced=is_paced,
        )
        self._opening[stream.id] = stream
        self._process.end_when_idle(False)
        try:
            answer = await self._process.call(
                "open",
                stream=stream.id,
                face=face,
                weights=weights,
                options={**request.options, "sample_rate": request.sample_rate},
                max_sessions=self._options.max_streams,
                is_paced=is_paced,
            )
            if not stream.is_open:
                raise DeviceError("the live stream has ended at once. See the log of the service.")
            stream.width, stream.height = answer.values["result"]
            self._open[stream.id] = stream
        finally:
            del self._opening[stream.id]
            self._when_idle()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return stream

    async def close_stream(self, stream: Stream) -> None:
        """End a stream, and wait for its end."""
        if stream.is_open:
            self._process.notify("close", stream=stream.id)
            try:
                await asyncio.wait_for(stream.ended.wait(), _CLOSE_S)
            except asyncio.TimeoutError:
                log.error("the live process does not answer and is ended")
                self._process.kill()
                await stream.ended.wait()

    def check_shared(self, stream: Stream) -> None:
        """Raise `Problem` if a stream belongs to one connection, which sends audio and gets the images."""
        if not stream.is_paced:
            raise Problem(
                409,
                f"the stream {stream.id} belongs to the connection that opened it. Open one with POST "
                "/v1/streams, which others can watch.",
            )

    async def call(self, stream: Stream, name: str, data: bytes = b"", **values: Any) -> Message:
        """Call a function of the live process for a stream. Raises `Wav2LipError`."""
        if not stream.is_open:
            raise UsageError(f"the stream {stream.id} has ended. Start another one.")
        return await self._process.call(name, data, stream=stream.id, **values)

    async def push(self, stream: Stream, pcm: bytes) -> None:
        """Append audio. Waits while the stream has enough. Raises `Wav2LipError`."""
        await self._heard(stream, "audio", pcm)

    async def chunk(self, stream: Stream, pcm: bytes, *, is_whole: bool) -> Message:
        """Append audio and return its images, see `LiveStream.chunk`. Raises `Wav2LipError`."""
        return await self._heard(stream, "chunk", pcm, is_whole=is_whole)

    @contextlib.contextmanager
    def audio(self, stream: Stream) -> Iterator[asyncio.Event]:
        """Make a connection the one that sends audio, and return what is set when another one takes over.

        The connection of a client that is gone may look alive for a while.
        """
        if stream.audio is not None:
            stream.audio.set()
        replaced = stream.audio = asyncio.Event()
        try:
            yield replaced
        finally:
            if stream.audio is replaced:
                stream.audio, stream.used = None, monotonic()

    @contextlib.contextmanager
    def images(self, stream: Stream) -> Iterator[Images]:
        """Return the images of a stream from now on. Raises `BusyError` if it has too many viewers."""
        if len(stream.viewers) >= _MAX_VIEWERS:
            raise BusyError(f"the stream {stream.id} has {_MAX_VIEWERS} viewers of its images. Close one.")
        images = Images()
        if not stream.viewers:
            self._process.notify("watch", stream=stream.id, wanted=True)
        stream.viewers.add(images)
        try:
            yield images
        finally:
            stream.viewers.discard(images)
            stream.used = monotonic()
            if not stream.viewers and stream.is_open:
                self._process.notify("watch", stream=stream.id, wanted=False)

    async def close(self) -> None:
        """End all streams and the process."""
        if self._watching is not None:
            self._watching.cancel()
        await self._process.close()

    async def _heard(self, stream: Stream, name: str, pcm: bytes, **values: Any) -> Message:
        stream.heard = monotonic()
        try:
            return await self.call(stream, name, pcm, **values)
        finally:
            stream.heard = monotonic()

    def _check_place(self, client: str) -> None:
        """Raise `Problem` if there are too many streams for another one."""
        most, per_client = self._options.max_streams, self._options.max_streams_per_client
        streams = [*self._open.values(), *self._opening.values()]
        if most is not None and len(streams) >= most:
            raise Problem(
                503,
                f"all {most} live streams are in use (--max_streams). Close one, or try again later."
                if most
                else "live streams are off: the service runs with --max_streams 0.",
                "busy" if most else "unavailable",
                {"Retry-After": "10"},
            )
        if len(self._opening) >= _MAX_OPENING:
            raise Problem(
                503,
                f"{_MAX_OPENING} live streams are being opened. Try again later.",
                "busy",
                {"Retry-After": "10"},
            )
        used = sum(stream.client == client for stream in streams)
        if per_client is not None and used >= per_client:
            raise Problem(
                429,
                f"you have {used} live streams; --max_streams_per_client allows {per_client}. Close one.",
                headers={"Retry-After": "10"},
            )

    def _when_idle(self) -> None:
        self._process.end_when_idle(not self._open and not self._opening)

    def _on_event(self, message: Message) -> None:
        name = message.values["stream"]
        stream = self._open.get(name) or self._opening.get(name)
        if stream is None:
            return
        event = message.values["event"]
        if event == "image":
            for images in stream.viewers:
                images.offer(message.data)
        else:
            stream.figures = message.values["figures"]
        if event == "ended":
            error = message.values["error"]
            self._end(stream, None if error is None else error_of(error))

    def _on_process_end(self, error: Wav2LipError) -> None:
        for stream in [*self._open.values(), *self._opening.values()]:
            self._end(stream, error)
        self._process.end_when_idle(False)

    def _end(self, stream: Stream, error: Wav2LipError | None) -> None:
        if self._open.pop(stream.id, None) is not None:
            self._ended.append(stream)
        stream.status = "closed" if error is None else "failed"
        stream.ended_at = int(time())
        if error is not None:
            stream.error = {"code": problem_of(error).code, "message": str(error)}
        for images in stream.viewers:
            images.offer(None)
        stream.inbox.clear()  # it is listed for a while, without its audio
        self._totals[stream.status] += 1
        for name in ("frames", "late"):
            self._totals[name] += stream.figures[name]
        stream.ended.set()
        self._when_idle()

    async def _watch(self) -> None:
        """Close the streams that nobody uses, and those that are too long."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for stream in list(self._open.values()):
                if stream.audio is not None or stream.viewers or stream.figures["viewers"]:
                    stream.used = monotonic()
                reason = self._reason_to_end(stream)
                if reason is not None:
                    stream.error = {"code": "timeout", "message": reason}
                    self._process.notify("close", stream=stream.id)

    def _reason_to_end(self, stream: Stream) -> str | None:
        now, options = monotonic(), self._options
        if now - stream.used > UNUSED_S:
            return f"nobody has sent audio or watched for {UNUSED_S:g} s."
        if now - stream.heard > options.max_silent_seconds:
            return f"no audio came for {options.max_silent_seconds:g} s (--max_silent_seconds)."
        if now - stream.started > options.max_stream_seconds:
            return f"the stream was open for {options.max_stream_seconds:g} s (--max_stream_seconds)."
        return None
