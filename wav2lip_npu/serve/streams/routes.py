"""Routes of live streams. Their audio and images come through `sockets`."""

from __future__ import annotations

from anyio import to_thread
from fastapi import Request
from fastapi.responses import JSONResponse

from wav2lip_npu.serve.auth import client_name
from wav2lip_npu.serve.jobs import weights_of
from wav2lip_npu.serve.problems import Problem, documented
from wav2lip_npu.serve.service import Router, Service, TheService
from wav2lip_npu.serve.streams.objects import StreamList, StreamObject, StreamRequest, stream_json
from wav2lip_npu.serve.streams.state import Stream

router = Router(prefix="/v1/streams", tags=["live streams"])


@router.post("", responses={200: {"model": StreamObject}, **documented(400, 404, 413, 422, 429, 503)})
async def open_stream(body: StreamRequest, request: Request, service: TheService) -> JSONResponse:
    """Open a live stream: its face is tracked first, which takes some seconds for a video.

    Audio goes to `/v1/streams/{id}/audio` and images come from `/v1/streams/{id}/frames`, both WebSockets.
    """
    stream = await opened_stream(service, body, client_name(request))
    return JSONResponse(stream_json(stream))


@router.get("", responses={200: {"model": StreamList}, **documented()})
async def list_streams(service: TheService) -> JSONResponse:
    """Return the open streams and the latest ones that have ended."""
    return JSONResponse({"object": "list", "data": [stream_json(stream) for stream in service.streams.all()]})


@router.get("/{stream_id}", responses={200: {"model": StreamObject}, **documented(404)})
async def get_stream(stream_id: str, service: TheService) -> JSONResponse:
    """Return a stream with its figures, which change once a second."""
    return JSONResponse(stream_json(service.streams.get(stream_id)))


@router.delete("/{stream_id}", responses={200: {"model": StreamObject}, **documented(404)})
async def close_stream(stream_id: str, service: TheService) -> JSONResponse:
    """End a stream and return it."""
    stream = service.streams.get(stream_id)
    await service.streams.close_stream(stream)
    return JSONResponse(stream_json(stream))


async def opened_stream(
    service: Service, request: StreamRequest, client: str, *, is_paced: bool = True
) -> Stream:
    """Open a stream of a stored face. Raises `Problem` and `Wav2LipError`."""
    face = await to_thread.run_sync(service.file, request.face_id)
    if face.media["kind"] == "audio":
        raise Problem(422, f"the face {face.name} has no video. Pass a video or an image.", "media")
    path = await to_thread.run_sync(service.content, request.face_id)
    weights = await to_thread.run_sync(weights_of, request.model, service.options.checkpoints)
    return await service.streams.open(request, path, weights, client, is_paced=is_paced)
