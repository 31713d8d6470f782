"""What the WebSockets of live streams share: errors, and limits of messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.serve.auth import BEARER
from wav2lip_npu.serve.bodies import parsed_json
from wav2lip_npu.serve.problems import Problem, problem_of

MAX_AUDIO = 1 << 20
"""Bytes of a message with audio."""
NO_CONTROL = 'the message is not a JSON object with a type, such as {"type": "flush"}.'
_MAX_TEXT = 1 << 16
_REFUSED, _TRY_LATER, _FAILED = 1008, 1013, 1011
"""Close codes of WebSockets."""
_CLOSE_S = 5.0
"""Seconds in which a client must take the last message."""


@contextlib.asynccontextmanager
async def refusing(socket: WebSocket) -> AsyncIterator[None]:
    """Refuse the connection, or end it, with the error that is raised in the block."""
    try:
        yield
    except WebSocketDisconnect:
        return
    except (Problem, Wav2LipError) as error:
        if socket.application_state is WebSocketState.CONNECTING:
            await _problem(error).response()(socket.scope, socket.receive, socket.send)
            return
        code = {503: _TRY_LATER, 429: _TRY_LATER}.get(_problem(error).status, _REFUSED)
        await ended(socket, error_json(error), code)


async def accept(socket: WebSocket) -> None:
    """Accept a connection, with a protocol that the client offers: not its token, if there is another."""
    offered = sorted(socket.scope.get("subprotocols", ()), key=lambda name: name.startswith(BEARER))
    await socket.accept(subprotocol=next(iter(offered), None))


async def ended(socket: WebSocket, last: dict[str, Any], code: int = 1000) -> None:
    """Send a last message and close the connection."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
        await asyncio.wait_for(socket.send_json(last), _CLOSE_S)
        await asyncio.wait_for(socket.close(code), _CLOSE_S)


async def received(socket: WebSocket) -> bytes | str:
    """Return the next message. Raises `WebSocketDisconnect` at the end of the connection."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    data: bytes | None = message.get("bytes")
    return str(message["text"]) if data is None else data


def control(text: str) -> dict[str, Any]:
    """Return a control message. Raises `Problem`."""
    message = parsed_control(text, _MAX_TEXT)
    if message is None:
        raise Problem(400, NO_CONTROL)
    return message


def parsed_control(text: str, most: int) -> dict[str, Any] | None:
    """Return a control message, a JSON object with a type, of `most` characters; None if it is not one.

    For threads: an error that leaves one keeps the text in memory until the next full garbage collection.
    """
    try:
        message = parsed_json(text) if len(text) <= most else None
    except ValueError:
        return None
    is_control = isinstance(message, dict) and isinstance(message.get("type"), str)
    return message if is_control else None


def error_json(error: Problem | Wav2LipError) -> dict[str, Any]:
    """Return the message that reports an error."""
    problem = _problem(error)
    return {"type": "error", "code": problem.code, "message": problem.detail}


def _problem(error: Problem | Wav2LipError) -> Problem:
    return error if isinstance(error, Problem) else problem_of(error)


async def first_of(*works: Awaitable[Any]) -> None:
    """Run some works until one of them ends, and raise its error; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
