"""The WebSockets of a live stream: audio in, images out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.serve.problems import Problem
from wav2lip_npu.serve.service import TheService
from wav2lip_npu.serve.streams.connection import (
    MAX_AUDIO,
    accept,
    control,
    ended,
    error_json,
    first_of,
    received,
    refusing,
)
from wav2lip_npu.serve.streams.registry import Streams
from wav2lip_npu.serve.streams.state import Images, Stream

router = APIRouter(prefix="/v1/streams")

_FIGURES_S = 1.0
_REST_S = 40.0
"""Seconds in which the audio that a client has sent before it left is passed on."""


@router.websocket("/{stream_id}/audio")
async def receive_audio(socket: WebSocket, stream_id: str, service: TheService) -> None:
    """Take audio and control messages of a client, and send it the figures of the stream once a second."""
    async with refusing(socket):
        stream = _open_stream(service.streams, stream_id)
        with service.streams.audio(stream) as replaced:
            await accept(socket)
            passing = asyncio.create_task(stream.inbox.run(_Push(service.streams, stream)))
            try:
                works = _receive(socket, service.streams, stream), _report(socket, stream)
                await first_of(*works, asyncio.shield(passing), replaced.wait())
            except WebSocketDisconnect:
                resting = first_of(stream.inbox.drained(), asyncio.shield(passing), replaced.wait())
                with contextlib.suppress(asyncio.TimeoutError, Wav2LipError):  # what has arrived is spoken
                    await asyncio.wait_for(resting, _REST_S)
                return
            except Wav2LipError:
                if stream.is_open:
                    raise
            finally:
                passing.cancel()
                await asyncio.gather(passing, return_exceptions=True)
        if stream.is_open:
            raise Problem(409, f"another connection sends the audio of {stream_id} now.")
        await ended(socket, _end_json(stream))


@router.websocket("/{stream_id}/frames")
async def send_frames(socket: WebSocket, stream_id: str, service: TheService) -> None:
    """Send the images of a stream. A client that is too slow misses images."""
    async with refusing(socket):
        stream = _open_stream(service.streams, stream_id)
        with service.streams.images(stream) as images:
            await accept(socket)
            await first_of(_send(socket, images), _wait_for_end(socket))
        await ended(socket, _end_json(stream))


class _Push:
    """Passes audio and marks on to the live process."""

    def __init__(self, streams: Streams, stream: Stream) -> None:
        self._streams, self._stream = streams, stream

    async def __call__(self, item: bytes | str) -> None:
        if isinstance(item, str):
            await self._streams.call(self._stream, item)
        else:
            await self._streams.push(self._stream, item)


async def _receive(socket: WebSocket, streams: Streams, stream: Stream) -> None:
    """Take the messages of a client. Those that are invalid are answered with an error, and dropped."""
    while True:
        message = await received(socket)
        try:
            if isinstance(message, bytes):
                await stream.inbox.put(_checked(message))
                continue
            kind = control(message)["type"]
            if kind == "flush":
                await stream.inbox.put("flush")
            elif kind == "clear":
                stream.inbox.clear()
                await streams.call(stream, "clear")
            elif kind == "close":
                await streams.close_stream(stream)
                return
            else:
                raise Problem(400, f"the type {kind!r:.80} is unknown. Send flush, clear or close.")
        except Problem as problem:
            await socket.send_json(error_json(problem))


def _checked(pcm: bytes) -> bytes:
    if len(pcm) > MAX_AUDIO:
        raise Problem(413, f"a message of {len(pcm)} bytes is too large. Send at most {MAX_AUDIO} at a time.")
    if len(pcm) % 2:
        raise Problem(422, f"a message of {len(pcm)} bytes does not hold whole samples. Send 16-bit samples.")
    return pcm


async def _report(socket: WebSocket, stream: Stream) -> None:
    """Send the figures of a stream until it ends."""
    while True:
        try:
            await asyncio.wait_for(stream.ended.wait(), _FIGURES_S)
        except asyncio.TimeoutError:
            await socket.send_json({"type": "metrics", **stream.figures})
        else:
            return


async def _send(socket: WebSocket, images: Images) -> None:
    while (message := await images.next()) is not None:
        await socket.send_bytes(message)


async def _wait_for_end(socket: WebSocket) -> None:
    """Ignore what a client sends until it leaves."""
    while True:
        await received(socket)


def _open_stream(streams: Streams, name: str) -> Stream:
    stream = streams.get(name)
    if not stream.is_open:
        raise Problem(409, f"the stream {name} has ended. Start another one.")
    streams.check_shared(stream)
    return stream


def _end_json(stream: Stream) -> dict[str, Any]:
    return {"type": "ended", "status": stream.status, "error": stream.error}
