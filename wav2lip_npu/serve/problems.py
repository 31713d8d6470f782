"""Errors as `application/problem+json` (RFC 9457), with the sentences of the command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException as FastApiError
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from wav2lip_npu.errors import (
    BusyError,
    CheckpointError,
    DeviceError,
    FaceError,
    MediaError,
    NoAudioError,
    OutputError,
    UsageError,
    Wav2LipError,
)
from wav2lip_npu.serve.records import ConflictError, GoneError, NotFoundError, QueueFullError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_OF_ERRORS: tuple[tuple[type[Wav2LipError], int, str], ...] = (
    (NotFoundError, 404, "not_found"),
    (ConflictError, 409, "conflict"),
    (GoneError, 410, "gone"),
    (QueueFullError, 429, "busy"),
    (BusyError, 503, "busy"),
    (NoAudioError, 422, "no_sound"),
    (FaceError, 422, "no_face"),
    (CheckpointError, 422, "weights"),
    (MediaError, 422, "media"),
    (UsageError, 422, "options"),
    (OutputError, 507, "storage"),
    (DeviceError, 503, "device"),
)
"""Status and code of each error class; the codes are those of failed jobs where both exist."""
_RETRY_S = 10
"""Seconds after which a refused client may try again."""
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "media_type",
    416: "range",
    422: "options",
    429: "busy",
    503: "unavailable",
    507: "storage",
}


class ErrorObject(BaseModel):
    """The same for clients of OpenAI's API, which show `message`."""

    message: str
    code: str


class ProblemObject(BaseModel):
    """Body of an error."""

    type: str = Field("about:blank", description="Always about:blank: see `code`.")
    title: str = Field(description="Words of the HTTP status.")
    status: int
    detail: str = Field(description="One line: what is wrong, where, and how to fix it.")
    code: str = Field(description="Kind of the error, for programs.")
    error: ErrorObject


class Problem(FastApiError):  # noqa: N818 the word of RFC 9457
    """An error of a request, with its HTTP status and a code for programs."""

    def __init__(
        self, status: int, detail: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, " ".join(detail.split("\n")), dict(headers or {}))
        self.status, self.code = status, code or _CODES.get(status, "error")

    @property
    def body(self) -> dict[str, Any]:
        """Content of the response."""
        title = HTTPStatus(self.status).phrase
        return {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "error": {"message": self.detail, "code": self.code},
        }

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, self.headers, MEDIA_TYPE)


def problem_of(error: Wav2LipError) -> Problem:
    """Return the problem for an error that a user can fix."""
    for kind, status, code in _OF_ERRORS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(_RETRY_S)} if status in (429, 503) else None
            return Problem(status, str(error), code, headers)
    return Problem(422, str(error), "input")


def not_found(kind: str, name: str) -> Problem:
    """Return the problem of an unknown ID."""
    return Problem(404, f"no {kind} {name:.80}. It was deleted, has expired, or never existed.")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route, for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemObject"}}}
    wanted = sorted({401, 403, *statuses})
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in wanted}


def handle_problems(app: FastAPI) -> None:
    """Answer each kind of exception with a problem."""

    @app.exception_handler(Problem)
    async def of_problem(request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(Wav2LipError)
    async def of_user_error(request: Request, error: Wav2LipError) -> JSONResponse:
        return problem_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        if any(entry["type"] == "json_invalid" for entry in error.errors()):
            return Problem(400, "the body is not JSON. Send a JSON object.").response()
        texts = [
            f"{'.'.join(map(str, entry['loc'][1:])) or 'the body'} is invalid: {entry['msg']}."
            for entry in error.errors()
        ]
        return Problem(422, " ".join(texts[:5])).response()

    @app.exception_handler(HTTPException)
    async def of_framework(request: Request, error: HTTPException) -> JSONResponse:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"no such address: {request.url.path:.200}. See /docs."
        elif error.status_code == 405:
            detail = f"{request.method} is not allowed for {request.url.path:.200}. See /docs."
        return Problem(error.status_code, detail, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def of_bug(request: Request, error: Exception) -> JSONResponse:
        # The traceback is logged by the server, which receives the exception too.
        return Problem(500, "an error inside the service. See its log.", "bug").response()
