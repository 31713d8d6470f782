"""Responses with the content of a file."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from wav2lip_npu.serve.problems import Problem

_SANDBOX = "sandbox"
"""Content-Security-Policy of files, which must not act as pages of the service if a browser opens them."""


class _File(FileResponse):
    """A file; an error of the header Range is a problem, as all errors are."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem: Problem | None = None

        async def checked(message: Message) -> None:
            nonlocal problem
            if message["type"] == "http.response.start" and message["status"] >= 400:
                ranges = {"Content-Range": f"bytes */{size}"} if message["status"] == 416 else {}
                text = f"the header Range is beyond the {size} bytes of the file, or damaged. Leave it out."
                problem = Problem(message["status"], text, headers=ranges)
            if problem is None:
                await send(message)

        size = 0 if self.stat_result is None else self.stat_result.st_size
        await super().__call__(scope, receive, checked)
        if problem is not None:
            await problem.response()(scope, receive, send)


def download(
    path: Path, *, media_type: str, etag: str, name: str, if_none_match: str | None, inline: bool = True
) -> Response:
    """Return a file with `ETag`, `Accept-Ranges` and `Content-Disposition`, or 304 if the client has it.

    Raises `Problem` if the file no longer exists.
    """
    headers = {
        "ETag": f'"{etag}"',
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": _SANDBOX,
    }
    known = [] if if_none_match is None else [tag.strip() for tag in if_none_match.split(",")]
    if "*" in known or f'"{etag}"' in known or f'W/"{etag}"' in known:
        return Response(status_code=304, headers=headers)
    try:
        status = os.stat(path)
    except OSError:
        raise Problem(404, "the content no longer exists. It was deleted or has expired.") from None
    return _File(
        path,
        headers=headers,
        media_type=media_type,
        filename=name,
        stat_result=status,
        content_disposition_type="inline" if inline else "attachment",
    )
