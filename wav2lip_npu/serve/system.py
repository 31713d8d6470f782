"""Routes of the service itself: health, metrics, models, limits, and the session of the page."""

from __future__ import annotations

import os
import shutil
from typing import Any

from anyio import to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from wav2lip_npu import __version__
from wav2lip_npu.dubbing.dialogue import Dialogue
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.serve import state
from wav2lip_npu.serve.auth import COOKIE
from wav2lip_npu.serve.dialogue_fields import NAMES, DialogueFields, pop_dialogue
from wav2lip_npu.serve.dialogues import Files, check_dialogue, dialogue_as_paths, stored_dialogue
from wav2lip_npu.serve.job_bodies import referenced
from wav2lip_npu.serve.job_requests import check_files, parse_options
from wav2lip_npu.serve.jobs import weights_of
from wav2lip_npu.serve.objects import (
    FaceList,
    FacesRequest,
    Limits,
    ModelList,
    PreviewRequest,
    SessionRequest,
)
from wav2lip_npu.serve.problems import Problem, documented
from wav2lip_npu.serve.records import StoredFile
from wav2lip_npu.serve.service import Router, Service, TheService
from wav2lip_npu.serve.weights import model_objects

router = Router()

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics"}
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The frame",
        "headers": {"X-Time": {"schema": {"type": "number"}, "description": "Its time in seconds."}},
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/healthz", tags=["health"])
async def health() -> dict[str, str]:
    """Report that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", tags=["health"], responses=documented(503))
def readiness(service: TheService) -> dict[str, str]:
    """Report whether jobs can run: a worker has loaded its models, and the disk has space."""
    free, floor = shutil.disk_usage(service.store.folder).free, service.options.floor_bytes
    if free < floor:
        raise Problem(503, f"the disk has {free:,} bytes free; --disk_floor requires {floor:,}.")
    workers = state.workers(service.store)
    if not any(worker.state == "ready" for worker in workers):
        details = " ".join(worker.detail for worker in workers if worker.detail) or "It is starting."
        raise Problem(503, f"no worker is ready. {details}")
    return {"status": "ready"}


@router.get(
    "/metrics", tags=["health"], response_class=PlainTextResponse, responses={**_TEXT, **documented()}
)
async def metrics(service: TheService) -> PlainTextResponse:
    """Return counters in Prometheus' text format."""
    text = await to_thread.run_sync(
        service.metrics.text, service.store, service.hub.streams, service.streams.counts()
    )
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.get("/v1/models", tags=["models"], responses={200: {"model": ModelList}, **documented(422)})
def list_models(service: TheService) -> JSONResponse:
    """Return the generators that jobs can name."""
    return JSONResponse({"object": "list", "data": model_objects(service.options.checkpoints)})


@router.get("/v1/limits", tags=["models"], responses={200: {"model": Limits}})
def get_limits(service: TheService) -> JSONResponse:
    """Return what the service accepts. Needs no token."""
    options = service.options
    return JSONResponse(
        {
            "object": "limits",
            "max_upload": options.upload_bytes,
            "max_seconds": options.max_seconds,
            "max_pixels": options.max_pixels,
            "max_queue": options.max_queue,
            "max_per_client": options.max_per_client,
            "max_speakers": options.max_speakers,
            "keep_seconds": options.keep_seconds,
            "needs_token": bool(service.tokens),
            "devices": [worker.name for worker in state.workers(service.store)],
            "version": __version__,
        }
    )


@router.post("/v1/session", tags=["session"], status_code=204, responses=documented(400, 413, 422))
async def start_session(body: SessionRequest, request: Request, service: TheService) -> Response:
    """Set a cookie for the page, whose media elements cannot send a token in a header."""
    value = service.tokens.cookie_for(body.token)
    if value is None:
        raise Problem(401, "the token is wrong.")
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE, value, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    return response


@router.delete("/v1/session", tags=["session"], status_code=204, responses=documented())
async def end_session() -> Response:
    """Delete the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response


@router.post(
    "/v1/faces",
    tags=["preview"],
    responses={200: {"model": FaceList}, **documented(400, 404, 413, 422, 429, 503)},
)
async def find_faces(request: Request, body: FacesRequest, service: TheService) -> JSONResponse:
    """Return the faces of one frame of a file, and the values of face_select that select them."""
    path = await to_thread.run_sync(service.content, body.file_id)
    questions = service.questions
    return JSONResponse(await questions.ask(request, questions.interactive.faces, path, body.time))


@router.post(
    "/v1/previews",
    tags=["preview"],
    response_class=Response,
    responses={**_JPEG, **documented(400, 404, 413, 422, 429, 503)},
)
async def preview(request: Request, body: PreviewRequest, service: TheService) -> Response:
    """Return one dubbed frame."""
    given = {name: value for name in NAMES if (value := getattr(body, name)) is not None}
    dialogue = pop_dialogue(given)
    face = await to_thread.run_sync(service.file, body.face_id)
    audio = None
    if body.audio_id is not None or dialogue is None:
        audio = await to_thread.run_sync(service.file, body.audio_id or "")
    dub, options = parse_options(body.options)
    check_files(face, audio)
    weights_of(body.model, service.options.checkpoints)
    if dialogue is None:
        assert audio is not None
        voices: str | Dialogue = os.fspath(service.store.content(audio))
    else:
        references = dict.fromkeys(dialogue.references)
        files = {name: await referenced(service, name, {}) for name in references}
        voices = await to_thread.run_sync(_dialogue, service, dialogue, face, audio, files, dub)

    values = os.fspath(service.store.content(face)), voices, body.model, options, body.time
    picture, time = await service.questions.ask(request, service.questions.interactive.preview, *values)
    return Response(picture, media_type="image/jpeg", headers={"X-Time": f"{time:.3f}"})


def _dialogue(
    service: Service,
    fields: DialogueFields,
    face: StoredFile,
    audio: StoredFile | None,
    files: Files,
    dub: DubOptions,
) -> Dialogue:
    """Return the dialogue of a preview. Raises `UsageError` and `Problem`."""
    stored = stored_dialogue(fields, face, audio, files, service.store.content)
    by_id = {file.id: file for file in (audio, *files.values()) if file is not None}
    check_dialogue(stored, by_id, dub, service.options.max_speakers, service.options.max_seconds)
    return dialogue_as_paths(stored, lambda name: os.fspath(service.store.content(by_id[name])), dub)
