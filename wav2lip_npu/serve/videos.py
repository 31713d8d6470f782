"""Routes of jobs and their videos, in the shape of OpenAI's videos API."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from wav2lip_npu.serve import job_requests, listing
from wav2lip_npu.serve.auth import client_name
from wav2lip_npu.serve.dialogue_fields import Reference
from wav2lip_npu.serve.dialogues import check_dialogue, stored_dialogue
from wav2lip_npu.serve.downloads import download
from wav2lip_npu.serve.job_bodies import file_of, received_job, referenced
from wav2lip_npu.serve.job_requests import JobRequest
from wav2lip_npu.serve.jobs import weights_of
from wav2lip_npu.serve.objects import Deleted, VideoList, VideoObject, deleted_json, video_json
from wav2lip_npu.serve.problems import Problem, documented, not_found
from wav2lip_npu.serve.records import Status, StoredFile, Video
from wav2lip_npu.serve.schemas import CREATE_VIDEO
from wav2lip_npu.serve.service import Router, Service, TheService
from wav2lip_npu.serve.store import OUTPUT, REPORT, THUMBNAIL

router = Router(prefix="/v1/videos", tags=["videos"])

_MAX_KEY = 255
_EVENT_STREAM = "text/event-stream"
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events progress, and at last done or deleted, with the ID of the event",
        "content": {_EVENT_STREAM: {"schema": {"type": "string"}}},
    },
    204: {"description": "The job has ended, and the client has seen its last event"},
}
_VARIANTS = {
    "video": (OUTPUT, "video/mp4"),
    "thumbnail": (THUMBNAIL, "image/jpeg"),
    "report": (REPORT, "application/json"),
}
"""File and media type of each variant of the content."""
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("video/mp4", "image/jpeg")
        }
        | {"application/json": {"schema": {"type": "object"}}},
    },
    206: {"description": "A part of the file"},
    304: {"description": "The client has this file"},
}


@router.post(
    "",
    openapi_extra={"requestBody": CREATE_VIDEO},
    responses={200: {"model": VideoObject}, **documented(400, 404, 409, 410, 413, 415, 422, 429, 507)},
)
async def create_video(
    request: Request,
    service: TheService,
    idempotency_key: Annotated[
        str | None,
        Header(
            max_length=_MAX_KEY,
            description="A second request with this key within 24 h returns the job, or 410 if deleted.",
        ),
    ] = None,
) -> JSONResponse:
    """Create a job: face or face_id, audio or audio_id, model, and options of `wav2lip-npu dub --help`."""
    client = client_name(request)
    async with received_job(request, service) as (job, parts):
        body_hash = job.body_hash(parts)
        if idempotency_key is not None:  # first: its files may have been deleted since
            earlier = await to_thread.run_sync(service.store.earlier, client, idempotency_key, body_hash)
            if earlier is not None:
                return JSONResponse(video_json(earlier))
        face = await file_of(service, job, "face", parts)
        audio = None
        if "audio" in job.files or job.dialogue is None:
            audio = await file_of(service, job, "audio", parts)
        references = dict.fromkeys(() if job.dialogue is None else job.dialogue.references)
        files = {name: await referenced(service, name, parts) for name in references}
        key = {"client": client, "idempotency_key": idempotency_key, "body_hash": body_hash}
        create = functools.partial(_create, service, job, face, audio, files, key)
        video = await to_thread.run_sync(create, limiter=service.writes)
    return JSONResponse(video_json(video))


@router.get("", responses={200: {"model": VideoList}, **documented(404, 422)})
def list_videos(
    service: TheService,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    status: Status | None = None,
) -> JSONResponse:
    """Return jobs in the order of their creation."""
    videos = listing.videos(service.store, limit=limit + 1, after=after, order=order, status=status)
    page = [video_json(video) for video in videos[:limit]]
    ids = [video["id"] for video in page]
    return JSONResponse(
        {
            "object": "list",
            "data": page,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": len(videos) > limit,
        }
    )


@router.get("/{video_id}", responses={200: {"model": VideoObject}, **documented(404)})
async def get_video(video_id: str, service: TheService) -> JSONResponse:
    """Return a job."""
    # One row is read without a thread: SQLite in WAL mode never waits for writers, and clients poll often.
    return JSONResponse(video_json(service.video(video_id)))


@router.delete("/{video_id}", responses={200: {"model": Deleted}, **documented(404)})
def delete_video(video_id: str, service: TheService) -> JSONResponse:
    """Delete a job and its video. A running job is cancelled."""
    if not service.store.delete(video_id):
        raise not_found("video", video_id)
    return JSONResponse(deleted_json("video", video_id))


@router.post("/{video_id}/cancel", responses={200: {"model": VideoObject}, **documented(404, 409)})
def cancel_video(video_id: str, service: TheService) -> JSONResponse:
    """Cancel a job that has not ended."""
    before = service.video(video_id)
    if before.is_final and before.status != "cancelled":
        raise Problem(409, f"the video {video_id} is {before.status} and cannot be cancelled. Delete it.")
    video = service.store.cancel(video_id)
    if video is None:
        raise not_found("video", video_id)
    return JSONResponse(video_json(video))


@router.get(
    "/{video_id}/events", response_class=StreamingResponse, responses={**_EVENTS, **documented(404, 422)}
)
async def get_events(
    request: Request,
    video_id: str,
    service: TheService,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream the progress of a job as server-sent events; Last-Event-ID continues a stream."""
    after = (
        int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 16 else 0
    )
    video = await to_thread.run_sync(service.video, video_id)
    if video.is_final and video.revision <= after:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return Response(media_type=_EVENT_STREAM, headers=headers)
    stream = service.hub.stream(video_id, after)
    return StreamingResponse(stream, media_type=_EVENT_STREAM, headers=headers)


@router.get(
    "/{video_id}/content",
    response_class=Response,
    responses={**_CONTENT, **documented(400, 404, 409, 416, 422)},
)
def get_content(
    video_id: str,
    service: TheService,
    variant: Literal["video", "thumbnail", "report"] = "video",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the video, its first frame or its report; ranges are supported."""
    video = service.video(video_id)
    if video.status != "completed":
        message = f": {video.error['message']}" if video.error else ""
        raise Problem(409, f"the video {video_id} is {video.status}, so it has no content{message}.")
    file_name, media_type = _VARIANTS[variant]
    stem = f"{Path(video.face_name).stem or video_id}-dubbed"
    return download(
        service.store.video_folder(video_id) / file_name,
        media_type=media_type,
        etag=f"{video_id}-{variant}-{video.completed_at}",
        name=stem + Path(file_name).suffix,
        if_none_match=if_none_match,
    )


def _create(
    service: Service,
    job: JobRequest,
    face: StoredFile,
    audio: StoredFile | None,
    files: Mapping[Reference, StoredFile],
    key: Mapping[str, Any],
) -> Video:
    """Check a request, and queue its job; `key` has its client and its idempotency key as in `Store.create`.

    Raises `Problem` and `Wav2LipError`.
    """
    options = service.options
    if job.webhook_url is not None:
        service.webhooks.check(job.webhook_url)
    service.upload_limits.check_disk()
    weights_of(job.model, options.checkpoints)
    job_requests.check_files(face, audio)
    by_id = {file.id: file for file in (audio, *files.values()) if file is not None}
    dialogue = None
    if job.dialogue is not None:
        dialogue = stored_dialogue(job.dialogue, face, audio, files, service.store.content)
        heard = check_dialogue(dialogue, by_id, job.dub, options.max_speakers, options.max_seconds)
        audio = audio or next(file for name, file in files.items() if name.field.startswith("audio"))
    else:
        assert audio is not None
        heard = float(audio.media["seconds"] or 0)
    seconds = job_requests.output_seconds(face, heard, job.dub)
    if not seconds:
        raise Problem(422, f"nothing is left of {audio.name} after --start {job.dub.start:g}.")
    return service.store.create(
        model=job.model,
        face_id=face.id,
        audio_id=audio.id,
        options=job.options,
        dialogue=dialogue,
        more_files=by_id,
        seconds=round(seconds, 3),
        size=job_requests.output_size(face, job.dub),
        max_queue=options.max_queue,
        max_jobs=options.max_per_client,
        webhook_url=job.webhook_url,
        **key,
    )
