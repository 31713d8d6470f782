"""The JSON objects of live streams, as the OpenAPI document describes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.options import closest, fields_of
from wav2lip_npu.serve.objects import JobError

if TYPE_CHECKING:
    from wav2lip_npu.serve.streams.state import Stream

_OF_THE_SERVICE = {
    "detector", "face_det_batch_size", "no_face", "sample_rate", "buffer_seconds", "queue_seconds",
    "max_sessions",
}  # fmt: skip
"""Options of a stream that requests cannot set among `options`."""
NAMES = sorted({name for name, _ in fields_of(StreamOptions())} - _OF_THE_SERVICE)
HAS_WEBRTC = importlib.util.find_spec("aiortc") is not None


class StreamRequest(BaseModel):
    """Body of POST /v1/streams."""

    model_config = {"extra": "forbid"}

    face_id: str
    model: str = "starter"
    options: dict[str, Any] = Field(
        default_factory=dict, description=f"Options of `wav2lip-npu live`: {', '.join(NAMES)}."
    )
    sample_rate: int = Field(16_000, description="Samples per second of the audio, 8000 to 192000.")


class Delay(BaseModel):
    """Delay of the latest frames behind their audio, in milliseconds."""

    median: int
    p95: int


class StreamObject(BaseModel):
    """A live stream. Times are seconds since 1970."""

    id: str
    object: Literal["stream"]
    status: Literal["open", "closed", "failed"]
    created_at: int
    ended_at: int | None
    model: str
    face_id: str
    options: dict[str, Any]
    width: int
    height: int
    fps: float
    sample_rate: int
    webrtc: bool = Field(description="Whether the service offers WebRTC.")
    error: JobError | None = Field(description="What ended it.")
    frames: int
    late: int = Field(description="Frames that repeat an image, because the device was too slow.")
    silent: int = Field(description="Frames without speech.")
    cleared: int = Field(description="Frames that a clear message dropped.")
    viewers: int
    delay_ms: Delay | None


class StreamList(BaseModel):
    """The streams, the oldest first."""

    object: Literal["list"]
    data: list[StreamObject]


def stream_json(stream: Stream) -> dict[str, Any]:
    """Return the JSON of a stream."""
    return {
        "id": stream.id,
        "object": "stream",
        "status": stream.status,
        "created_at": stream.created_at,
        "ended_at": stream.ended_at,
        "model": stream.request.model,
        "face_id": stream.request.face_id,
        "options": stream.request.options,
        "width": stream.width,
        "height": stream.height,
        "fps": stream.fps,
        "sample_rate": stream.request.sample_rate,
        "webrtc": HAS_WEBRTC,
        "error": stream.error,
        **stream.figures,
    }


def stream_options(values: Mapping[str, Any], sample_rate: int) -> StreamOptions:
    """Return the options of a stream by their names. Raises `UsageError`."""
    for name in values:
        if name not in NAMES:
            reason = "is decided by the service" if name in _OF_THE_SERVICE else "is unknown"
            advice = closest(name, NAMES) or f"The options are {', '.join(NAMES)}."
            raise UsageError(f"the option {name!r:.80} {reason}. {advice}")
    return StreamOptions(**dict(values), sample_rate=sample_rate)
