"""Routes of WebRTC: WHEP, an offer in and an answer out. The media do not pass here."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from wav2lip_npu.serve.bodies import bounded_body
from wav2lip_npu.serve.problems import Problem, documented, not_found
from wav2lip_npu.serve.service import TheService
from wav2lip_npu.serve.streams.objects import HAS_WEBRTC

router = APIRouter(prefix="/v1/streams/{stream_id}/whep", tags=["live streams"])

_SDP = "application/sdp"
_MAX_OFFER = 65_536
_CONTENT = {_SDP: {"schema": {"type": "string"}}}


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses={
        201: {
            "description": "The answer. `Location` is the viewer.",
            "content": _CONTENT,
        },
        **documented(404, 409, 413, 415, 422, 503),
    },
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
)
async def watch_stream(stream_id: str, request: Request, service: TheService) -> Response:
    """Watch a live stream by WebRTC: the body is an SDP offer that receives a video and an audio track.

    Video is H.264, or VP8 for viewers that have no H.264; audio is Opus. Delete the address in `Location` to
    end it.
    """
    stream = service.streams.get(stream_id)
    service.streams.check_shared(stream)
    if not HAS_WEBRTC:
        raise Problem(
            503,
            "WebRTC is not available: the service was installed without aiortc. Install it there: "
            "pip install 'wav2lip-npu[webrtc]'; or use the images of /v1/streams/{id}/frames.",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _SDP:
        raise Problem(415, f"the offer has the type {kind!r:.80}. Send it as {_SDP}.")
    offer = await bounded_body(request, _MAX_OFFER, "offer")
    servers = service.options.ice_servers()
    answer = await service.streams.call(stream, "answer", offer, ice_servers=servers)
    result = answer.values["result"]
    # Relative, because a proxy may serve this below a prefix.
    return Response(result["sdp"], 201, {"Location": f"whep/{result['peer']}"}, _SDP)


@router.delete("/{peer}", status_code=204, response_class=Response, responses=documented(404))
async def leave_stream(stream_id: str, peer: str, service: TheService) -> Response:
    """Disconnect a viewer."""
    stream = service.streams.get(stream_id)
    if not stream.is_open or not (await service.streams.call(stream, "leave", peer=peer)).values["result"]:
        raise not_found("viewer", peer)
    return Response(status_code=204)
