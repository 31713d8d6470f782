"""Files and videos of the service, as its store keeps them, and the errors of requests about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from wav2lip_npu.errors import Wav2LipError

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
FINAL: tuple[Status, ...] = ("completed", "failed", "cancelled")
Stage = Literal["waiting", "preparing", "dubbing", "finishing", "done"]
"""What a job does: it waits in the queue; its models are loaded and the first faces are detected; frames are
written; the video is completed and its report is written; it has ended."""


class NotFoundError(Wav2LipError):
    """No file or video has this ID."""


class ConflictError(Wav2LipError):
    """A request contradicts the state of a file or video, or an earlier request with its key."""


class GoneError(Wav2LipError):
    """What an earlier request created no longer exists."""


class QueueFullError(Wav2LipError):
    """Too many jobs are waiting, in all or of this client."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """An uploaded file."""

    id: str
    """`file_` and the first 24 hex digits of `sha256`."""
    sha256: str
    name: str
    """Name that the client gave."""
    bytes: int
    created_at: int
    """Time of the last upload of this content; all times are seconds since 1970."""
    media: dict[str, Any]
    """Properties of its content, see `GET /v1/files/{id}`."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """A job and its output."""

    id: str
    """`video_` and 24 hex digits."""
    model: str
    status: Status
    stage: Stage
    progress: int
    """Percent, 0 to 100."""
    created_at: int
    started_at: int | None
    completed_at: int | None
    """End of the job, also if it failed or was cancelled."""
    expires_at: int | None
    """When it is removed; None before its end, and if nothing is ever removed."""
    face_id: str
    audio_id: str
    """Of several speakers: the audio that is heard, or the first."""
    face_name: str
    """Name that the client gave the face when the job was created; that of the file may change."""
    audio_name: str
    options: dict[str, Any]
    dialogue: dict[str, Any] | None
    """Several speakers, see `dialogues`; None for one."""
    error: dict[str, str] | None
    """`code` and `message` of a failed job: the reason and the sentence of the command line."""
    frames: int | None
    """Frames of the output; None if not known yet."""
    frames_done: int
    fps: float | None
    """Frames written per second of the current pass."""
    seconds_left: float | None
    """Estimated seconds to the end of the job."""
    queue_position: int | None
    """1 for the job that is started next; None unless it is queued."""
    seconds: float | None
    """Duration of the output; None if not known yet."""
    size: str | None
    """Pixels of the output, such as `1080x1920`; None if not known yet."""
    report: dict[str, Any] | None
    """Report of the dub; None before its end."""
    client: str
    """Name of the client that created it."""
    revision: int
    """Increases with each change."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.status in FINAL


@dataclass(frozen=True)
class Event:
    """A change of a video. Only the newest is kept: it contains the state of the job, not a difference."""

    seq: int
    """Increases with each change of this video."""
    kind: Literal["progress", "done"]
    video: Video


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker process of the engine."""

    name: str
    """Its device."""
    state: Literal["starting", "ready", "failed"]
    """`starting`: it loads the models. `failed`: they cannot be loaded, so all of its jobs fail."""
    detail: str
    """The error of a failed worker, else empty."""
    changed_at: int
    """Time of the last change of `state`."""
