"""The JSON objects of the service, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from wav2lip_npu.dubbing.dialogue import Listeners
from wav2lip_npu.serve.records import Status, StoredFile, Video

FileKind = Literal["video", "image", "audio", "rttm"]


class Media(BaseModel):
    """Properties of a file."""

    kind: FileKind
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    seconds: float | None = None
    video_seconds: float | None = Field(
        default=None, description="Length of the frames alone, after which a looped video starts again."
    )
    has_audio: bool
    type: str = Field(description="Media type, such as video/mp4.")


class FileObject(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    media: Media


class JobError(BaseModel):
    """Reason why a job failed."""

    code: str
    message: str


class SpeakerObject(BaseModel):
    """A speaker of a job."""

    name: str
    audio_id: str | None
    face: str | None = Field(description="left, right, or X,Y@SECONDS.")
    photo_id: str | None


class VideoObject(BaseModel):
    """A job and its video. Times are seconds since 1970."""

    id: str
    object: Literal["video"]
    model: str
    status: Status
    progress: int = Field(description="Percent, 0 to 100.")
    stage: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    seconds: str | None = Field(description="Duration of the video.")
    size: str | None = Field(description="Width and height, such as 1080x1920.")
    error: JobError | None
    queue_position: int | None
    frames: int | None
    frames_done: int
    fps: float | None = Field(description="Frames written per second.")
    seconds_left: float | None
    face_id: str
    audio_id: str
    face_name: str = Field(description="Name of the face when the job was created.")
    audio_name: str
    options: dict[str, Any]
    speakers: list[SpeakerObject] | None = Field(description="Several people who speak; null for one.")
    listeners: Listeners | None
    report: dict[str, Any] | None


class VideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"]
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    """Confirmation of a deletion."""

    id: str
    object: str
    deleted: bool


class ModelObject(BaseModel):
    """A generator."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    bytes: int
    sha256: str


class ModelList(BaseModel):
    """The generators of the service."""

    object: Literal["list"]
    data: list[ModelObject]


class Limits(BaseModel):
    """What the service accepts."""

    object: Literal["limits"]
    max_upload: int
    max_seconds: float
    max_pixels: int
    max_queue: int
    max_per_client: int | None
    max_speakers: int
    keep_seconds: float
    needs_token: bool
    devices: list[str]
    version: str


class Pose(BaseModel):
    """Direction of a head in degrees."""

    yaw: float
    pitch: float
    roll: float


class FaceObject(BaseModel):
    """A face of a frame."""

    box: list[float] = Field(description="Left, top, right and bottom in pixels.")
    confidence: float | None
    pose: Pose | None
    face_select: str = Field(description="Value of the option face_select that selects this face.")
    reason: str | None = Field(description="Why this face would stay as filmed; null if it would be dubbed.")


class FaceList(BaseModel):
    """The faces of one frame."""

    object: Literal["faces"]
    time: float
    width: int
    height: int
    seconds: float | None
    fps: float | None
    faces: list[FaceObject]
    picture: str = Field(description="The frame as JPEG in base64.")


class FacesRequest(BaseModel):
    """Body of POST /v1/faces."""

    file_id: str
    time: float = Field(0, ge=0, le=1e6)


class PreviewRequest(BaseModel):
    """Body of POST /v1/previews."""

    face_id: str
    audio_id: str | None = Field(None, description="Required without speakers, turns and rttm_id.")
    speakers: list[Any] | None = Field(None, description="As of a job.")
    turns: list[Any] | None = Field(None, description="As of a job.")
    rttm_id: str | None = Field(None, description="As of a job.")
    listeners: Listeners | None = Field(None, description="As of a job.")
    model: str = "starter"
    options: dict[str, Any] = Field(default_factory=dict)
    time: float = Field(0, ge=0, le=1e6)


class SessionRequest(BaseModel):
    """Body of POST /v1/session."""

    token: str = Field(max_length=4096)


class Envelope(BaseModel):
    """The level of an audio track."""

    object: Literal["envelope"]
    seconds: float
    points: list[float] = Field(description="Peaks of equally long spans, 0 to 1.")
    pauses: list[list[float]] = Field(description="Begin and end of each pause, in seconds.")


def file_json(file: StoredFile) -> dict[str, Any]:
    """Return the JSON of a file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.name,
        "purpose": "user_data",
        "media": file.media,
    }


def video_json(video: Video) -> dict[str, Any]:
    """Return the JSON of a video."""
    return {
        "id": video.id,
        "object": "video",
        "model": video.model,
        "status": video.status,
        "progress": video.progress,
        "stage": video.stage,
        "created_at": video.created_at,
        "started_at": video.started_at,
        "completed_at": video.completed_at,
        "expires_at": video.expires_at,
        "seconds": None if video.seconds is None else f"{video.seconds:.2f}".rstrip("0").rstrip("."),
        "size": video.size,
        "error": video.error,
        "queue_position": video.queue_position,
        "frames": video.frames,
        "frames_done": video.frames_done,
        "fps": video.fps,
        "seconds_left": video.seconds_left,
        "face_id": video.face_id,
        "audio_id": video.audio_id,
        "face_name": video.face_name,
        "audio_name": video.audio_name,
        "options": video.options,
        "speakers": video.dialogue and video.dialogue["speakers"],
        "listeners": video.dialogue and video.dialogue["listeners"],
        "report": video.report,
    }


def deleted_json(kind: str, name: str) -> dict[str, Any]:
    """Return the confirmation of a deletion."""
    return {"id": name, "object": f"{kind}.deleted", "deleted": True}


def progress_json(video: Video) -> dict[str, Any]:
    """Return the data of a progress event."""
    names = ("status", "progress", "stage", "frames_done", "frames", "fps", "seconds_left", "queue_position")
    return {name: getattr(video, name) for name in names}
