"""The live process: the networks, the streams, and the answers to the HTTP process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import cv2

from wav2lip_npu import signals
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.devices import device
from wav2lip_npu.dubbing.inference import Models, load_models
from wav2lip_npu.errors import BusyError, DeviceError, UsageError, Wav2LipError
from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.live.stream import FaceStream
from wav2lip_npu.models.bundled import weights_state
from wav2lip_npu.parallel.log_lines import log_to_stderr
from wav2lip_npu.parallel.processes import exit_with_parent
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.streams.stream import LiveStream, Viewer
from wav2lip_npu.serve.streams.vidx import video_message
from wav2lip_npu.serve.streams.wire import Message, Wire, error_values
from wav2lip_npu.storage.hashing import FileState

if TYPE_CHECKING:
    from wav2lip_npu.serve.streams.webrtc import WebRtcViewers

log = logging.getLogger(__name__)

_FIGURES_S = 1.0
_KEPT = 2
"""Streams that have ended and are kept for their faces (256 MiB each at most), which often come again."""
_OPENINGS = 2
"""Faces that are tracked at the same time, in threads that also encode the images of all streams."""
_QUALITY = 85
_BUG = "an error inside the live process. See the log of the service."
_MAX_WAITING = 8 << 20
"""Bytes on the way to the HTTP process beyond which images are skipped."""


def run_live(pipe: Connection, options: EngineOptions) -> None:
    """Run the live process until the other end of the pipe is closed."""
    signals.ignore()
    exit_with_parent()
    log_to_stderr()
    asyncio.run(_serve(pipe, options))


async def _serve(pipe: Connection, options: EngineOptions) -> None:
    await LiveServer(await Wire.open(pipe), options).run()


_Weights = tuple[str, FileState | None]
"""A file, and its state when it was loaded: one that was replaced is loaded again."""


class LiveServer:
    """The streams of the process, in its event loop."""

    def __init__(self, wire: Wire, options: EngineOptions) -> None:
        self._wire, self._options = wire, options
        self._cache = FaceCache(Path(options.folder) / "faces")
        self._models: dict[_Weights, Models] = {}
        self._loading, self._openings = asyncio.Lock(), asyncio.Semaphore(_OPENINGS)
        self._streams: dict[str, LiveStream] = {}
        self._latest: deque[FaceStream] = deque(maxlen=_KEPT)
        """Streams that have ended, whose faces are ready for the next ones."""
        self._images: dict[str, Viewer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[str, Callable[..., Awaitable[Any]]] = {
            "open": self._open,
            "audio": self._audio,
            "flush": self._flush,
            "clear": self._clear,
            "close": self._close,
            "chunk": self._chunk,
            "watch": self._watch,
            "answer": self._answer_offer,
            "leave": self._leave,
        }

    async def run(self) -> None:
        """Answer the calls until the HTTP process ends."""
        while (message := await self._wire.read()) is not None:
            self._start(self._answer(message))

    def stream(self, name: str) -> LiveStream:
        """Return a stream. Raises `UsageError` if it has ended."""
        if name not in self._streams:
            raise UsageError(f"the stream {name:.80} has ended. Start another one.")
        return self._streams[name]

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        values = dict(message.values)
        name, number = values.pop("call"), values.pop("number", None)
        try:
            result = await self._calls[name](data=message.data, **values)
            if isinstance(result, Message):
                self._wire.send({"reply": number, "result": dict(result.values)}, result.data)
                return
            answer = {"reply": number, "result": result}
        except Wav2LipError as error:
            answer = {"reply": number, "error": error_values(error)}
        except Exception:
            log.exception("a call of the live process failed: %s", name)
            answer = {"reply": number, "error": error_values(DeviceError(_BUG))}
        if number is not None:
            self._wire.send(answer)

    # Calls

    async def _open(
        self,
        stream: str,
        face: str,
        weights: str,
        options: dict[str, Any],
        max_sessions: int | None,
        is_paced: bool,
        data: bytes,
    ) -> tuple[int, int]:
        wanted = StreamOptions(**options, max_sessions=max_sessions)
        assert wanted.sample_rate is not None
        async with self._openings:
            opened = await asyncio.to_thread(self._opened, face, await self._loaded(weights), wanted)
        live = self._streams[stream] = LiveStream(stream, opened, wanted.sample_rate, is_paced=is_paced)
        self._start(self._run(live))
        return opened.size

    async def _loaded(self, weights: str) -> Models:
        """Return the networks with some weights. Those of others that no stream uses are freed."""
        async with self._loading:
            key = weights, weights_state(weights)
            if key not in self._models:
                used = {id(stream.face.models) for stream in self._streams.values()}
                self._models = {name: models for name, models in self._models.items() if id(models) in used}
                self._latest = deque((face for face in self._latest if id(face.models) in used), _KEPT)
                first = self._options.devices[0].split(",")[0]
                name = device.resolve("auto" if first == "all" else first)
                with _without_path(weights, os.path.basename(weights)):
                    self._models[key] = await asyncio.to_thread(load_models, weights, device=str(name))
            return self._models[key]

    def _opened(self, face: str, models: Models, options: StreamOptions) -> FaceStream:
        try:
            with _without_path(face, "the face"):
                return models.stream(face, options=options, cache=self._cache)
        except BusyError:
            streams = models.live.loop.streams
            raise BusyError(
                f"the device holds {streams} live streams and no more. Close one, or try again later."
            ) from None

    async def _run(self, live: LiveStream) -> None:
        """Run a stream to its end, which is reported."""
        figures = asyncio.create_task(self._send_figures(live))
        reason = None
        try:
            await live.run()
        except Wav2LipError as error:
            reason = error_values(error)
        except Exception:
            log.exception("a live stream failed")
            reason = error_values(DeviceError(_BUG))
        finally:
            figures.cancel()
            del self._streams[live.name]
            self._images.pop(live.name, None)
            self._latest.append(live.face)
            self._wire.send(
                {"stream": live.name, "event": "ended", "error": reason, "figures": live.figures()}
            )

    async def _audio(self, stream: str, data: bytes) -> None:
        await self.stream(stream).push(data)

    async def _flush(self, stream: str, data: bytes) -> None:
        self.stream(stream).face.flush()

    async def _clear(self, stream: str, data: bytes) -> None:
        self.stream(stream).clear()

    async def _close(self, stream: str, data: bytes) -> None:
        self.stream(stream).close()

    async def _chunk(self, stream: str, is_whole: bool, data: bytes) -> Message:
        """Return the images of a chunk of audio."""
        began, encoding, images = monotonic(), 0.0, []
        async for frame in self.stream(stream).chunk(data, is_whole=is_whole):
            taken = monotonic()
            images.append(await asyncio.to_thread(jpeg_of, frame))  # at once: a frame takes more memory
            encoding += monotonic() - taken
        times = {"infer_ms": 1000 * (monotonic() - began - encoding), "encode_ms": 1000 * encoding}
        return Message({name: round(value, 1) for name, value in times.items()}, video_message(images))

    async def _watch(self, stream: str, wanted: bool, data: bytes) -> None:
        """Send the images of a stream from now on, or no longer."""
        viewer = self._images.pop(stream, None)
        if viewer is not None:
            viewer.close()
        if wanted:
            live = self.stream(stream)
            viewer = self._images[stream] = live.watch(1)
            self._start(self._send_images(live.name, viewer))

    async def _answer_offer(self, stream: str, ice_servers: list[str], data: bytes) -> dict[str, str]:
        return await self._webrtc.answer(self.stream(stream), data.decode(errors="replace"), ice_servers)

    async def _leave(self, stream: str, peer: str, data: bytes) -> bool:
        return await self._webrtc.remove(self.stream(stream), peer)

    @functools.cached_property
    def _webrtc(self) -> WebRtcViewers:
        from wav2lip_npu.serve.streams.webrtc import WebRtcViewers

        return WebRtcViewers()

    # Events

    async def _send_figures(self, live: LiveStream) -> None:
        while True:
            await asyncio.sleep(_FIGURES_S)
            self._wire.send({"stream": live.name, "event": "figures", "figures": live.figures()})

    async def _send_images(self, stream: str, viewer: Viewer) -> None:
        async for frame in viewer:
            if self._wire.waiting > _MAX_WAITING:
                continue
            image = await asyncio.to_thread(jpeg_of, frame)
            self._wire.send({"stream": stream, "event": "image"}, video_message([image]))


@contextlib.contextmanager
def _without_path(path: str, name: str) -> Iterator[None]:
    """Replace a path of the server by a name in the errors that the client gets."""
    try:
        yield
    except Wav2LipError as error:
        raise type(error)(str(error).replace(path, name)) from None


def jpeg_of(frame: LiveFrame) -> bytes:
    """Return the image of a frame as JPEG."""
    return bytes(cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
