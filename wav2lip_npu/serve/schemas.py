"""Parts of the OpenAPI document that the framework cannot derive: the fields of a job, from the options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wav2lip_npu.serve.dialogue_fields import dialogue_schemas
from wav2lip_npu.serve.job_requests import DEFAULTS, NAMES
from wav2lip_npu.serve.sync_so import sync_so_schemas

_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    float: {"type": "number"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    tuple[int, int, int, int]: {
        "type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4,
    },
}  # fmt: skip


def option_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each option that a job may set."""
    return dict(_schemas(DEFAULTS))


def _schemas(options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    hints = get_type_hints(type(options))
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        if dataclasses.is_dataclass(value):
            yield from _schemas(value)
        elif option.name in NAMES:
            default = list(value) if isinstance(value, tuple) else value
            yield (
                option.name,
                {**_schema(hints[option.name]), **({} if default is None else {"default": default})},
            )


def _schema(hint: Any) -> dict[str, Any]:
    inner = [part for part in get_args(hint) if part is not NoneType]
    if NoneType in get_args(hint):
        return _schema(inner[0])
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(inner)}
    return dict(_TYPES[hint])


_SYNC_SO, _SYNC_SO_OPTIONS = sync_so_schemas()
_TEXT = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
_IDS: dict[str, Any] = {
    "face_id": {**_TEXT, "description": "ID of an uploaded face video or image."},
    "audio_id": {**_TEXT, "description": "ID of an uploaded audio file, or video with audio."},
    "face_url": {**_TEXT, "description": "https address of the face; only of hosts in --allow_urls."},
    "audio_url": {**_TEXT, "description": "https address of the audio; only of hosts in --allow_urls."},
    **dialogue_schemas(),
    **_SYNC_SO,
    "model": {**_TEXT, "default": "starter", "description": "Name of one of GET /v1/models."},
    "prompt": {**_TEXT, "description": "Accepted and ignored, for clients of OpenAI's API."},
    "webhook_url": {**_TEXT, "description": "https address to call at the end; only of --webhook_hosts."},
}
_OPTIONS = {
    "type": "object",
    "description": "Options of `wav2lip-npu dub` by name, see docs/dub.md.",
    "properties": {**option_schemas(), **_SYNC_SO_OPTIONS},
    "additionalProperties": False,
}
CREATE_VIDEO = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "face": {**_BINARY, "description": "Video or image with the face."},
                    "input_reference": {**_BINARY, "description": "The same as face."},
                    "audio": {**_BINARY, "description": "Audio file, or a video with audio."},
                    **_IDS,
                    "options": {**_TEXT, "description": "Options as a JSON object; or each as a field."},
                    **option_schemas(),
                },
            }
        },
        "application/json": {
            "schema": {"type": "object", "properties": {**_IDS, "options": _OPTIONS, **option_schemas()}}
        },
    },
}
"""Body of POST /v1/videos."""
