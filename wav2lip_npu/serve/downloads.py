"""Responses with the content of a file."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse

from wav2lip_npu.serve.problems import Problem

_SANDBOX = "sandbox"
"""Content-Security-Policy of files, which must not act as pages of the service if a browser opens them."""


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
    return FileResponse(
        path,
        headers=headers,
        media_type=media_type,
        filename=name,
        stat_result=status,
        content_disposition_type="inline" if inline else "attachment",
    )
