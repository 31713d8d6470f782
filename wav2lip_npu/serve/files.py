"""Routes of uploaded files."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import Header, Query, Request, Response
from fastapi.responses import JSONResponse

from wav2lip_npu.serve.downloads import download
from wav2lip_npu.serve.objects import Deleted, Envelope, FileObject, file_json
from wav2lip_npu.serve.problems import Problem, documented, not_found
from wav2lip_npu.serve.records import StoredFile
from wav2lip_npu.serve.service import Router, Service, TheService
from wav2lip_npu.serve.uploads import Upload, received_form

router = Router(prefix="/v1/files", tags=["files"])

_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "Video, image or audio."},
                    "purpose": {"type": "string", "description": "Accepted and ignored."},
                },
            }
        }
    },
}
_KNOWN = {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}


@router.post(
    "",
    openapi_extra={"requestBody": _FORM},
    responses={200: {"model": FileObject}, **documented(400, 413, 415, 422, 507)},
)
async def upload_file(request: Request, service: TheService) -> JSONResponse:
    """Upload a video, image or audio file. The same content has the same ID."""
    if "sec-fetch-site" in request.headers:  # a browser: its page will ask for the faces
        await to_thread.run_sync(service.questions.interactive.start)
    async with received_form(request, service.upload_limits) as form:
        unknown = (set(form.fields) | set(form.files)) - _KNOWN
        if unknown:
            raise Problem(422, f"unknown field {min(unknown)!r:.80}. Send the file as the field file.")
        if "file" not in form.files:
            raise Problem(422, "the form has no file. Send it as the field file.")
        stored = await store_upload(service, form.files["file"])
    return JSONResponse(file_json(stored))


@router.get("/{file_id}", responses={200: {"model": FileObject}, **documented(404)})
def get_file(file_id: str, service: TheService) -> JSONResponse:
    """Return the properties of a file."""
    return JSONResponse(file_json(service.file(file_id)))


@router.delete("/{file_id}", responses={200: {"model": Deleted}, **documented(404, 409)})
def delete_file(file_id: str, service: TheService) -> JSONResponse:
    """Delete a file that no unfinished job uses."""
    if not service.store.delete_file(file_id):
        raise not_found("file", file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


@router.get("/{file_id}/content", response_class=Response, responses=documented(400, 404, 416))
def get_file_content(
    file_id: str,
    service: TheService,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the file itself; ranges are supported."""
    stored = service.file(file_id)
    return download(
        service.store.content(stored),
        media_type=stored.media["type"],
        etag=stored.sha256,
        name=stored.name,
        if_none_match=if_none_match,
    )


@router.get("/{file_id}/envelope", responses={200: {"model": Envelope}, **documented(404, 422, 429, 503)})
async def get_envelope(
    request: Request, file_id: str, service: TheService, points: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> JSONResponse:
    """Return the level of the audio of a file and its pauses."""
    path = await to_thread.run_sync(service.content, file_id)
    questions = service.questions
    return JSONResponse(await questions.ask(request, questions.interactive.envelope, path, points))


async def store_upload(service: Service, upload: Upload) -> StoredFile:
    """Store a received file after a look into it. Raises `MediaError`."""
    service.metrics.upload_bytes += upload.bytes
    known = await to_thread.run_sync(service.store.file, f"file_{upload.sha256[:24]}")
    media: dict[str, Any]
    if known is not None and known.sha256 == upload.sha256:
        media = known.media
    else:
        media = await to_thread.run_sync(
            service.probe.media, upload.path, upload.name, limiter=service.probes
        )

    def add() -> StoredFile:
        return service.store.add_file(upload.path, sha256=upload.sha256, name=upload.name, media=media)

    return await to_thread.run_sync(add, limiter=service.writes)
