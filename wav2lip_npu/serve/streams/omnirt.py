"""OmniRT's protocol of realtime avatars: a face and chunks of audio in, the images of each chunk out.

Its own clients use `/v1/avatar/realtime`, those of OpenTalking the older messages of
`/v1/audio2video/wav2lip`. Both send `AUDI` and 16-bit samples, and get `VIDX` and JPEG images. A chunk of
`chunk_samples` is answered with all of its frames, a smaller one with those that are complete.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from fastapi import WebSocket
from fastapi.responses import JSONResponse

from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.serve.auth import client_name
from wav2lip_npu.serve.files import store_upload
from wav2lip_npu.serve.problems import Problem, documented
from wav2lip_npu.serve.records import StoredFile
from wav2lip_npu.serve.service import Router, Service, TheService
from wav2lip_npu.serve.streams.connection import (
    MAX_AUDIO,
    NO_CONTROL,
    accept,
    error_json,
    parsed_control,
    received,
    refusing,
)
from wav2lip_npu.serve.streams.objects import StreamRequest
from wav2lip_npu.serve.streams.routes import opened_stream
from wav2lip_npu.serve.streams.state import Stream
from wav2lip_npu.serve.streams.vidx import AUDIO
from wav2lip_npu.serve.uploads import Upload

router = Router()

_MODEL = "wav2lip"
"""The name of this kind of network in the protocol."""
_RATE = 16_000
_MAX_CONTROL = 16 << 20
"""Characters of a message, which holds an image."""
_SLICE = 12
"""Frames of a chunk, unless the client wants others: 0.48 s, so that the first images come soon."""
_MAX_SLICE = 250
_LONG_SIDE = 1280
"""Pixels of the longer side of the images, unless the client names a size."""


@dataclass(frozen=True)
class _Dialect:
    """The names of messages."""

    create: str
    close: str
    closed: str
    is_native: bool


_NATIVE = _Dialect("session.create", "session.close", "session.closed", is_native=True)
_COMPATIBLE = _Dialect("init", "close", "close_ok", is_native=False)


@router.get("/v1/audio2video/models", tags=["live streams"], responses=documented())
async def list_avatar_models(service: TheService) -> JSONResponse:
    """Return the models of OmniRT's protocol that this service has: wav2lip."""
    is_on = service.options.max_streams != 0
    status = {
        "id": _MODEL,
        "connected": is_on,
        "reason": "wav2lip_runtime" if is_on else "runtime_not_enabled",
    }
    return JSONResponse({"models": [_MODEL] if is_on else [], "statuses": [status]})


@router.websocket("/v1/avatar/realtime")
async def realtime_avatar(socket: WebSocket, service: TheService) -> None:
    """Talk to a client of OmniRT's protocol."""
    await _Conversation(socket, service, _NATIVE).run()


@router.websocket("/v1/audio2video/wav2lip")
async def wav2lip_avatar(socket: WebSocket, service: TheService) -> None:
    """Talk to OpenTalking's client."""
    await _Conversation(socket, service, _COMPATIBLE).run()


class _Conversation:
    """A connection, with one session at a time."""

    def __init__(self, socket: WebSocket, service: Service, dialect: _Dialect) -> None:
        self._socket, self._service, self._dialect = socket, service, dialect
        self._stream: Stream | None = None
        self._held = contextlib.ExitStack()
        self._chunk_samples = self._chunks = 0

    async def run(self) -> None:
        """Answer the messages until the client leaves."""
        async with refusing(self._socket):
            await accept(self._socket)
            try:
                while True:
                    await self._answer(await received(self._socket))
            finally:
                await self._close()

    async def _answer(self, message: bytes | str) -> None:
        try:
            if isinstance(message, bytes):
                await self._speak(message)
            else:
                await self._control(message)
        except (Problem, Wav2LipError) as error:
            await self._send(error_json(error))

    async def _control(self, text: str) -> None:
        # It may hold a large image, whose characters would keep the event loop busy.
        message = await to_thread.run_sync(parsed_control, text, _MAX_CONTROL)
        if message is None:
            raise Problem(400, NO_CONTROL, "bad_json")
        kind = message["type"]
        if kind == self._dialect.create:
            await self._close()
            await self._send(await self._create(message))
        elif kind == self._dialect.close:
            name = self._name
            await self._close()
            await self._send(self._named(self._dialect.closed, name))
        elif kind == "session.cancel" and self._dialect.is_native:
            if self._stream is not None and self._stream.is_open:
                await self._service.streams.call(self._stream, "clear")
            await self._send(self._named("session.cancelled", self._name))
        elif kind == "ping":
            await self._send({"type": "pong"})
        else:
            raise Problem(400, f"Unsupported message: {kind:.80}", "unsupported_message")

    @property
    def _name(self) -> str | None:
        return None if self._stream is None else self._stream.id

    def _named(self, kind: str, session: str | None) -> dict[str, Any]:
        return {"type": kind, **({"session_id": session} if self._dialect.is_native else {})}

    async def _create(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Open a stream and return the message that describes it."""
        dialect = self._dialect
        inputs = _object(message, "inputs") if dialect.is_native else message
        config = _object(message, "config") if dialect.is_native else message
        model = message.get("model") or _MODEL
        face = await self._face(inputs, "image_b64" if dialect.is_native else "ref_image")
        fps = _integer(config, "fps", 25, 1, 60)
        frames = _integer(config, "slice_len", _SLICE, 1, _MAX_SLICE)
        self._chunk_samples, self._chunks = frames * _RATE // fps, 0
        request = StreamRequest(
            face_id=face.id,
            model=STARTER if model == _MODEL else str(model),
            options={"fps": fps, "resize_factor": _resize_factor(face, config)},
            sample_rate=_RATE,
        )
        client = client_name(self._socket)
        stream = self._stream = await opened_stream(self._service, request, client, is_paced=False)
        self._held.enter_context(self._service.streams.audio(stream))
        if not dialect.is_native:
            return {
                "type": "init_ok",
                "model": _MODEL,
                "frame_num": frames,
                "motion_frames_num": 0,
                "slice_len": frames,
                "fps": fps,
                "width": stream.width,
                "height": stream.height,
                "chunk_samples": self._chunk_samples,
            }
        audio = {
            "format": "pcm_s16le",
            "sample_rate": _RATE,
            "channels": 1,
            "chunk_samples": self._chunk_samples,
        }
        size = {"fps": fps, "width": stream.width, "height": stream.height}
        return {
            "type": "session.created",
            "session_id": stream.id,
            "trace_id": stream.id.replace("stream_", "trace_"),
            "audio": audio,
            "video": {"encoding": "jpeg-seq", "wire_magic": "VIDX", **size},
        }

    async def _face(self, inputs: Mapping[str, Any], name: str) -> StoredFile:
        """Store the image of a message, and return it; or the file that it names."""
        if isinstance(inputs.get("face_id"), str):
            return await to_thread.run_sync(self._service.file, inputs["face_id"])
        data = await to_thread.run_sync(_decoded, str(inputs.get(name) or ""))
        if data is None:
            raise Problem(422, f"{name} is not base64. Send a JPEG or PNG file.", "bad_image_base64")
        if not data:
            raise Problem(422, f"{name} is missing. Send a JPEG or PNG file in base64.", "missing_image")
        upload = await to_thread.run_sync(_written, self._service, data, name)
        try:
            return await store_upload(self._service, upload)
        finally:
            upload.path.unlink(missing_ok=True)

    async def _speak(self, message: bytes) -> None:
        """Answer a chunk of audio with its images."""
        stream = self._stream
        if stream is None or not stream.is_open:
            raise self._no_session()
        if not message.startswith(AUDIO):
            raise Problem(422, "Binary audio payload must start with AUDI magic.", "bad_audio_magic")
        pcm = message[len(AUDIO) :]
        if len(pcm) % 2 or len(pcm) > MAX_AUDIO:
            detail = f"{len(pcm)} bytes are odd or too many. Send 16-bit samples, at most {MAX_AUDIO} bytes."
            raise Problem(422, detail, "bad_audio_chunk")
        is_whole = len(pcm) == 2 * self._chunk_samples
        try:
            images = await self._service.streams.chunk(stream, pcm, is_whole=is_whole)
        except Wav2LipError:
            if stream.is_open:
                raise
            raise self._no_session() from None
        self._chunks += 1
        if self._dialect.is_native:
            result = images.values["result"]
            await self._send({"type": "metrics", "chunk_index": self._chunks, **result})
        await self._socket.send_bytes(images.data)

    def _no_session(self) -> Problem:
        """Return the problem after which clients create a session again."""
        error = None if self._stream is None else self._stream.error
        reason = "." if error is None else f": {error['message']}"
        return Problem(
            409, f"No active session{reason} Send '{self._dialect.create}' first.", "session_required"
        )

    async def _close(self) -> None:
        """End the session, if there is one."""
        stream, self._stream = self._stream, None
        self._held.close()
        if stream is not None:
            await self._service.streams.close_stream(stream)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_json(message)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _written(service: Service, data: bytes, name: str) -> Upload:
    """Write an image to the disk, as an upload."""
    service.upload_limits.check_disk()
    path = service.store.upload_path()
    path.write_bytes(data)
    return Upload(path, hashlib.sha256(data).hexdigest(), len(data), name)


def _object(message: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = message.get(name) or {}
    if not isinstance(value, dict):
        raise UsageError(f"{name} is not an object.")
    return value


def _integer(config: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise UsageError(f"{name} {value!r:.40} is out of range. Pass {low} to {high}.")
    return int(value)


def _resize_factor(face: StoredFile, config: Mapping[str, Any]) -> int:
    """Return the number by which the images are divided to be at most as large as the client wants."""
    width, height = face.media["width"] or 1, face.media["height"] or 1
    if config.get("width") is None or config.get("height") is None:
        return math.ceil(max(width, height) / _LONG_SIDE)
    wanted = [_integer(config, name, 0, 16, 8192) for name in ("width", "height")]
    return max(1, math.ceil(width / wanted[0]), math.ceil(height / wanted[1]))
