"""Fields of a request for a job with several speakers: who they are, and who speaks when."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from wav2lip_npu.dubbing.dialogue import Listeners
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.face_rules import FaceRule

NAMES = ("speakers", "turns", "rttm_id", "listeners")
MAX_TURNS = 5000
"""Turns of one job. The report of a job lists them, and a page of jobs has a hundred reports."""
_MAX_NAME = 80
_JOINERS = dict.fromkeys((0x200C, 0x200D))
"""Invisible letters of Persian and of emoji, for `str.translate`."""
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Pixels = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
_FACES = 'left, right, auto, X,Y (a point in pixels), X,Y@SECONDS, or {"photo_id": ID}'


class Reference(NamedTuple):
    """A file that a request names."""

    field: str
    """`audio_id`, `audio_url`, `photo_id` or `rttm_id`."""
    value: str
    """An ID, the name of a file of the form, or an address."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Photo(_Fields):
    """A photo of a speaker."""

    photo_id: str = Field(description="ID of an uploaded photo.")


class FrameFace(_Fields):
    """A point on a face in a frame."""

    frame_number: int = Field(ge=0, le=10**9)
    coordinates: tuple[Pixels, Pixels]

    def at(self, fps: float | None) -> str:
        """Return the rule `X,Y@SECONDS`. An image has no `fps`."""
        x, y = (max(0.0, value) for value in self.coordinates)
        # A quarter of a frame later, rounding does not hit another frame.
        seconds = 0.0 if fps is None else (self.frame_number + 0.25) / fps
        return f"{x:.1f},{y:.1f}@{seconds:.4f}"


class _Voice(_Fields):
    audio_id: str | None = Field(None, description="ID of an uploaded audio file, or a file of the form.")
    audio_url: str | None = Field(None, description="https address; only of hosts in --allow_urls.")

    @property
    def audio(self) -> Reference | None:
        """The audio file."""
        if self.audio_id and self.audio_url:
            raise UsageError("audio_id and audio_url name the same audio twice. Pass one of them.")
        if self.audio_id:
            return Reference("audio_id", self.audio_id)
        return Reference("audio_url", self.audio_url) if self.audio_url else None


def is_name(name: str) -> bool:
    """Return whether a speaker can have this name."""
    return is_printed(name) and name == name.strip() and not set("=@") & set(name)


def is_printed(name: str) -> bool:
    """Return whether a name is short and printable, joiners within words and emoji included."""
    return name.translate(_JOINERS).isprintable() and 0 < len(name) <= _MAX_NAME


def _checked_name(name: str) -> str:
    if not is_name(name):
        raise PydanticCustomError("name", "A name is printable, without = and @ and outer blanks.")
    return name


Name = Annotated[str, Field(min_length=1, max_length=_MAX_NAME), AfterValidator(_checked_name)]


class SpeakerFields(_Voice):
    """A person in the video who speaks."""

    name: Name
    face: str | Photo | FrameFace | None = Field(None, description=f"Whose face: {_FACES}.")

    @field_validator("face", mode="wrap")
    @classmethod
    def _check_face(cls, face: Any, handler: Any) -> Any:
        try:
            value = handler(face or None)
            if isinstance(value, str):
                value = f"{value}@0" if FaceRule.is_rule(f"{value}@0") else value
                if FaceRule(value).photo is not None:
                    raise UsageError("a path")
        except (ValidationError, UsageError):
            raise PydanticCustomError("face", f"Pass {_FACES}.") from None
        return value


class TurnFields(_Voice):
    """A time in which a speaker speaks."""

    who: Name
    start: Seconds = Field(description="Seconds from the beginning of the video.")
    end: Seconds | None = Field(None, description="None: the end of the audio.")
    offset: Seconds = Field(0, description="Seconds of the audio that are left out at its start.")


@dataclass(frozen=True)
class DialogueFields:
    """Several speakers, as a request tells them."""

    speakers: list[SpeakerFields]
    turns: list[TurnFields] | None
    rttm: Reference | None
    listeners: Listeners

    def json(self) -> list[Any]:
        """Return all fields as JSON."""
        people = [[one.model_dump() for one in fields] for fields in (self.speakers, self.turns or ())]
        return [*people, self.rttm, self.listeners]

    @property
    def references(self) -> Iterator[Reference]:
        """The files of the speakers and turns."""
        for one in (*self.speakers, *(self.turns or ())):
            if one.audio is not None:
                yield one.audio
        for speaker in self.speakers:
            if isinstance(speaker.face, Photo):
                yield Reference("photo_id", speaker.face.photo_id)
        if self.rttm is not None:
            yield self.rttm


def pop_dialogue(given: dict[str, Any]) -> DialogueFields | None:
    """Remove the fields of several speakers from those of a request, and return them; None if there are none.

    Raises `UsageError`.
    """
    own = {name: given.pop(name) for name in NAMES if name in given}
    if not own:
        return None
    listeners = own.get("listeners", "filmed")
    if listeners not in get_args(Listeners):
        raise UsageError(f"listeners {listeners!r:.80} is invalid. Pass {' or '.join(get_args(Listeners))}.")
    rttm = own.get("rttm_id")
    if rttm is not None and not isinstance(rttm, str):
        raise UsageError(f"rttm_id {rttm!r:.80} is invalid. Pass the ID of an uploaded RTTM file.")
    fields = DialogueFields(
        parsed(_SPEAKERS, own.get("speakers", []), "speakers"),
        parsed(_TURNS, own["turns"], "turns") if "turns" in own else None,
        None if rttm is None else Reference("rttm_id", rttm),
        listeners,
    )
    if not fields.speakers and not fields.turns and rttm is None:
        raise UsageError("nobody speaks: there is no speaker and no turn. Pass speakers, turns or rttm_id.")
    if fields.turns is not None and rttm is not None:
        raise UsageError("turns and rttm_id both tell who speaks when. Pass one of them.")
    return fields


def parsed(kind: TypeAdapter[Any], value: Any, name: str) -> Any:
    """Return a value, or its JSON text in a form, as a type. Raises `UsageError` for its first fault."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} is not JSON: {error}.") from None
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise UsageError(_sentence(name, error.errors(include_url=False)[0])) from None


def _sentence(name: str, error: ErrorDetails) -> str:
    where = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    if error["type"] == "missing":
        return f"{where} is missing."
    if error["type"] == "extra_forbidden":
        return f"{where:.120} is no field. See /docs."
    return f"{where} {error['input']!r:.80} is invalid. {error['msg'].rstrip('.')}."


_SPEAKERS = TypeAdapter(list[SpeakerFields])
_TURNS = TypeAdapter(Annotated[list[TurnFields], Field(max_length=MAX_TURNS)])


def dialogue_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of the fields, for the OpenAPI document."""
    return {
        "speakers": inlined(_SPEAKERS) | {"description": "Several people who speak. See docs/speakers.md."},
        "turns": inlined(_TURNS) | {"description": "Who speaks when. Default: their audio tells."},
        "rttm_id": {"type": "string", "description": "The same as an uploaded RTTM file; it needs audio."},
        "listeners": {"type": "string", "enum": list(get_args(Listeners)), "default": "filmed"},
    }


def inlined(kind: TypeAdapter[Any]) -> dict[str, Any]:
    """Return the JSON schema of a type without references."""
    schema = kind.json_schema()
    parts = schema.pop("$defs", {})

    def inside(node: Any) -> Any:
        if isinstance(node, Mapping):
            if "$ref" in node:
                return inside(parts[node["$ref"].rpartition("/")[2]])
            return {name: inside(value) for name, value in node.items()}
        return [inside(value) for value in node] if isinstance(node, list) else node

    result: dict[str, Any] = inside(schema)
    return result
