"""Bodies of requests that are held in memory: bounded, and JSON whose text can be stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from wav2lip_npu.serve.problems import Problem

MAX_JSON = 4 << 20
"""Bytes. The boxes of a face in each frame of an hour have 3 million."""


async def bounded_body(request: Request, most: int, kind: str) -> bytes:
    """Return the body of a request. Raises `Problem` if it has more than `most` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Problem(413, f"the {kind} is larger than {most:,} bytes. Send a smaller one.")
    return bytes(body)


async def json_body(request: Request) -> Any:
    """Return the JSON of a request. Raises `Problem`."""
    return _parsed(await bounded_body(request, MAX_JSON, "JSON"))


def _parsed(body: bytes) -> Any:
    try:
        return parsed_json(body.decode())
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}.") from None


def parsed_json(text: str) -> Any:
    """Return what JSON describes. Raises `ValueError`, also for text that UTF-8 cannot express."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text.lower():  # an escape that may be half of a surrogate pair
        json.dumps(content, ensure_ascii=False).encode()
    return content


class JsonRoute(APIRoute):
    """A route whose JSON is read by `json_body`; FastAPI itself reads bodies of any size."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        answer = super().get_route_handler()

        async def answer_bounded(request: Request) -> Response:
            return await answer(_JsonRequest(request.scope, request.receive))

        return answer_bounded


class _JsonRequest(Request):
    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await bounded_body(self, MAX_JSON, "JSON")
        return self._body

    async def json(self) -> Any:
        return _parsed(await self.body())
