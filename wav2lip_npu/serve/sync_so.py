"""Requests in the form of sync.so's API: `input`, `segments` and `active_speaker_detection`.

They are translated to the fields of a job, so that clients of sync.so need another address only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from wav2lip_npu.errors import UsageError
from wav2lip_npu.serve.dialogue_fields import MAX_TURNS, Pixels, Seconds, inlined, is_name, parsed

FIELDS = ("input", "segments")
OPTIONS = ("active_speaker_detection", "sync_mode")
_EXTEND = {"loop": "loop", "bounce": "pingpong", "cut_off": "cut_off", "silence": "silence"}
"""Values of `sync_mode`, and those of the option `extend`."""


Face = dict[str, Any] | Literal["auto"] | None
"""The field `face` of a speaker."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ActiveSpeakerDetection(_Fields):
    """Whose face: a point in a frame, or a box for each frame."""

    auto_detect: bool = False
    v3: bool = False
    frame_number: int = Field(0, ge=0, le=10**9)
    coordinates: tuple[Pixels, Pixels] | None = None
    bounding_boxes: list[tuple[Pixels, Pixels, Pixels, Pixels] | None] | None = None

    @property
    def face(self) -> Face:
        """The face of a speaker; None if nothing is told. Of the boxes, the largest shows the face best."""
        if self.bounding_boxes is not None:
            boxes = [(box, number) for number, box in enumerate(self.bounding_boxes) if box is not None]
            if not boxes:
                raise UsageError("active_speaker_detection: all bounding_boxes are null. Pass one at least.")
            (x1, y1, x2, y2), number = max(boxes, key=lambda item: (item[0][2] - item[0][0], -item[1]))
            return {"frame_number": number, "coordinates": [(x1 + x2) / 2, (y1 + y2) / 2]}
        if self.coordinates is not None:
            return {"frame_number": self.frame_number, "coordinates": list(self.coordinates)}
        return "auto" if self.auto_detect or self.v3 else None


class _Override(_Fields):
    active_speaker_detection: ActiveSpeakerDetection | None = None


class _SegmentAudio(_Fields):
    refId: str = Field(min_length=1, description="refId of an input, ID of an upload, or a file of the form.")  # noqa: N815
    startTime: Seconds | None = None  # noqa: N815
    endTime: Seconds | None = None  # noqa: N815


class Segment(_Fields):
    """A time in which a part of an audio file is spoken."""

    startTime: Seconds  # noqa: N815
    endTime: Seconds  # noqa: N815
    audioInput: _SegmentAudio  # noqa: N815
    optionsOverride: _Override | None = None  # noqa: N815

    def turn(self, who: str, audio: Mapping[str, str]) -> dict[str, Any]:
        """Return the turn of a speaker."""
        first, end = self.audioInput.startTime or 0.0, self.endTime
        if self.audioInput.endTime is not None:
            if self.audioInput.endTime <= first:
                raise UsageError(
                    f"the segment at {self.startTime:g} s has no audio: audioInput is from {first:g} s "
                    f"to {self.audioInput.endTime:g} s. Correct its times."
                )
            end = min(end, self.startTime + self.audioInput.endTime - first)
        return {"who": who, "start": self.startTime, "end": end, "offset": first, **audio}


class Input(_Fields):
    """A file of a request."""

    type: Literal["video", "image", "audio"]
    url: str | None = None
    assetId: str | None = Field(None, description="ID of an upload, or a file of the form.")  # noqa: N815
    refId: str | None = None  # noqa: N815

    def named(self, purpose: str) -> dict[str, str]:
        """Return the field that names the file, such as face_id."""
        if bool(self.url) == bool(self.assetId):
            raise UsageError(f"an input of type {self.type} needs either url or assetId. Pass one of them.")
        return {f"{purpose}_id": self.assetId} if self.assetId else {f"{purpose}_url": self.url or ""}


_SEGMENTS = TypeAdapter(Annotated[list[Segment], Field(max_length=MAX_TURNS)])
_INPUTS = TypeAdapter(Annotated[list[Input], Field(max_length=100)])
_DETECTION = TypeAdapter(ActiveSpeakerDetection)


def translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request, options included, without those of sync.so. Raises `UsageError`."""
    fields = {name: value for name, value in given.items() if name not in (*FIELDS, *OPTIONS)}
    if "sync_mode" in given:
        mode = given["sync_mode"]
        if not isinstance(mode, str) or mode not in _EXTEND:
            raise UsageError(f"sync_mode {mode!r:.80} is not supported. Pass {', '.join(_EXTEND)}.")
        fields["extend"] = _EXTEND[mode]
    inputs = parsed(_INPUTS, given["input"], "input") if "input" in given else []
    seen = [item for item in inputs if item.type != "audio"]
    heard = [item for item in inputs if item.type == "audio"]
    if len(seen) > 1:
        raise UsageError("input has several videos. Pass one.")
    fields |= seen[0].named("face") if seen else {}
    face = None
    if "active_speaker_detection" in given:
        detection = given["active_speaker_detection"]
        face = parsed(_DETECTION, detection, "active_speaker_detection").face
    if "segments" in given:
        if both := sorted({"speakers", "turns", "rttm_id"} & set(given)):
            raise UsageError(f"segments and {both[0]} both tell who speaks when. Pass one of them.")
        names = [item.refId for item in heard if item.refId]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"several inputs have the refId {name!r:.80}. Pass different ones.")
        audio = {item.refId: item.named("audio") for item in heard if item.refId}
        return fields | _dialogue(parsed(_SEGMENTS, given["segments"], "segments"), audio, face)
    if len(heard) > 1:
        raise UsageError("input has several audio files. Pass segments, which tell when each is heard.")
    voice = heard[0].named("audio") if heard else {}
    if face is None:
        return fields | voice
    if face == "auto":
        return fields | voice | {"face_select": "speaking"}
    voice = voice or {name: fields.pop(name) for name in ("audio_id", "audio_url") if name in fields}
    return fields | {"speakers": [{"name": "speaker", "face": face, **voice}]}


def _dialogue(segments: list[Segment], audio: Mapping[str, dict[str, str]], default: Face) -> dict[str, Any]:
    """Return `speakers` and `turns`: of one face, or of one refId where no point on a face is told."""
    speakers: dict[str, dict[str, Any]] = {}
    turns = []
    for segment in segments:
        if segment.startTime == segment.endTime:  # sync.so allows it
            continue
        reference = segment.audioInput.refId
        detection = segment.optionsOverride and segment.optionsOverride.active_speaker_detection
        face = detection.face if detection else default
        speaker = speakers.setdefault(
            repr(face if isinstance(face, dict) else reference),
            {"name": _name(reference, len(speakers), speakers), "face": face},
        )
        turns.append(segment.turn(speaker["name"], audio.get(reference, {"audio_id": reference})))
    return {"speakers": list(speakers.values()), "turns": turns}


def _name(reference: str, count: int, speakers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a name that no other speaker has: the refId, if it can be one."""
    is_taken = any(speaker["name"] == reference for speaker in speakers.values())
    return f"speaker {count + 1}" if is_taken or not is_name(reference) else reference


def sync_so_schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON schemas of the fields, and those of the options, for the OpenAPI document."""
    about = "As in sync.so's API. See docs/serve.md."
    fields = {"input": inlined(_INPUTS), "segments": inlined(_SEGMENTS)}
    options = {
        "active_speaker_detection": inlined(_DETECTION),
        "sync_mode": {"type": "string", "enum": list(_EXTEND)},
    }
    return {name: {**schema, "description": about} for name, schema in fields.items()}, options
