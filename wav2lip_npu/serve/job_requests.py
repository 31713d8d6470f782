"""Check the fields of a job: files, model, and the options of `dub` by their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wav2lip_npu.batch.job_table import EMPTY, column_names, with_cells
from wav2lip_npu.batch.jobs import PATHS, Job
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.spans import canonical_spans
from wav2lip_npu.errors import NoAudioError, UsageError
from wav2lip_npu.options import closest, fields_of
from wav2lip_npu.serve import dialogue_fields, sync_so
from wav2lip_npu.serve.dialogue_fields import DialogueFields, pop_dialogue
from wav2lip_npu.serve.problems import Problem
from wav2lip_npu.serve.records import StoredFile

_OF_THE_SERVER = {
    *PATHS, "checkpoints", "cache", "watch", "jobs", "outdir", "data",
} - {"face", "audio"}  # fmt: skip
"""Options of the commands that name files of the server."""
_OF_THE_SERVICE = {
    "check", "min_confidence", "wav2lip_batch_size", "face_det_batch_size", "device", "devices",
    "engine", "row", "cluster", "timeout", "in_flight", "compile",
    "enhance_blend", "enhance_region", "enhance_weight",
}  # fmt: skip
"""Options that the service itself decides on. Each output is checked."""
DEFAULTS = Job(face="", audio="", outfile="")
"""A job without any option."""
NAMES = sorted(
    set(column_names(DEFAULTS))
    - {"face", "audio", "model", *dialogue_fields.NAMES}
    - _OF_THE_SERVER
    - _OF_THE_SERVICE
)
"""Options that a job may set."""
FILES = {
    "face": "face", "input_reference": "face", "input_reference[file_id]": "face", "face_id": "face",
    "face_url": "face",
    "audio": "audio", "audio_id": "audio", "audio_url": "audio",
}  # fmt: skip
"""Fields that name the files of a job."""
_IGNORED = {"prompt"}
"""Fields that clients of OpenAI's API must send."""
_UNUSED = {"seconds": "the audio", "size": "the face"}
"""Fields of OpenAI's API which may only be empty, and what decides instead."""
_OTHERS = {"model", "options", "webhook_url"}


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Fields of a request for a job."""

    files: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Field and value by purpose, `face` and `audio`; the value of a received file is its ID."""
    model: str = "starter"
    options: dict[str, Any] = field(default_factory=dict)
    """The options that the request sets."""
    dialogue: DialogueFields | None = None
    """Several speakers; None for one."""
    dub: DubOptions = field(default_factory=DubOptions)
    webhook_url: str | None = None

    def body_hash(self, parts: Mapping[str, StoredFile]) -> str:
        """Return the hash of what the request asks for, for its idempotency key.

        `parts` has the files that came with it, by name. A file is known by its ID, which is that of its
        content, or by its address. It may have been deleted since.
        """
        files = self.files.items()
        named = {purpose: parts[name].id if name in parts else value for purpose, (name, value) in files}
        content: list[Any] = [named, self.model, self.options, self.webhook_url]
        if self.dialogue is not None:
            references = (name.value for name in self.dialogue.references)
            content += [self.dialogue.json(), {name: parts[name].id for name in references if name in parts}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse_request(values: Mapping[str, Any]) -> JobRequest:
    """Return the request with some fields. Raises `Problem` and `UsageError`."""
    given = {name: value for name, value in values.items() if name not in _IGNORED and value not in EMPTY}
    if "webhookUrl" in given:  # of sync.so
        given.setdefault("webhook_url", given.pop("webhookUrl"))
    nested = given.pop("options", None) or {}
    if isinstance(nested, str):
        nested = _json_object(nested)
    if not isinstance(nested, Mapping):
        raise UsageError(f'options {nested!r:.80} is not a JSON object. Pass {{"blend": "soft"}}.')
    for name, owner in _UNUSED.items():
        if name in given:
            raise UsageError(f"{name} {given[name]!r:.80} is not supported: {owner} decides. Leave it out.")
    if both := set(given) & set(nested):
        raise UsageError(f"{min(both)} occurs both as a field and in options. Pass it once.")
    given = {**given, **nested}
    if set(given) & {*sync_so.FIELDS, *sync_so.OPTIONS}:
        given = sync_so.translated(given)
    files: dict[str, tuple[str, str]] = {}
    for name in [name for name in given if name in FILES]:
        value, purpose = given.pop(name), FILES[name]
        if name.startswith("input_reference") and name.endswith("]"):
            name = "face_id"
        if name == "input_reference" and isinstance(value, Mapping):
            name, value = "face_id", value.get("file_id")
        if not isinstance(value, str):
            raise UsageError(f"{name} {value!r:.80} is invalid. Pass a string.")
        if purpose in files:
            raise UsageError(f"{name} and {files[purpose][0]} name the same file twice. Pass one of them.")
        files[purpose] = name, value
    model, webhook = given.pop("model", "starter"), given.pop("webhook_url", None)
    for name, value in (("model", model), ("webhook_url", webhook)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} {value!r:.80} is invalid. Pass a string.")
    dialogue = pop_dialogue(given)
    dub, options = parse_options(given)
    return JobRequest(
        files=files, model=model, options=options, dub=dub, dialogue=dialogue, webhook_url=webhook
    )


def parse_options(values: Mapping[str, Any]) -> tuple[DubOptions, dict[str, Any]]:
    """Return the options of a job, and those that differ from their defaults. Raises `UsageError`."""
    for name in values:
        if name in _OF_THE_SERVER:
            raise UsageError(f"{name} is a path on the server; a request cannot set it. Leave it out.")
        if name in _OF_THE_SERVICE:
            raise UsageError(f"{name} is decided by the service, not by a request. Leave it out.")
        if name not in NAMES:
            advice = closest(name, [*NAMES, *FILES, *dialogue_fields.NAMES, *_OTHERS]) or "See /docs."
            raise UsageError(f"unknown field {name!r:.80}. {advice}")
    given = dict(values)
    if isinstance(given.get("skip"), list):
        given["skip"] = canonical_spans(given["skip"])
    job, problems = with_cells(DEFAULTS, given)
    if problems:
        raise UsageError(" ".join(problems))
    defaults = dict(fields_of(DEFAULTS))
    changed = {name: value for name, value in fields_of(job) if value != defaults[name]}
    return job.dub, {
        name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()
    }


def check_files(face: StoredFile, audio: StoredFile | None) -> None:
    """Raise an error if the face has no frames or the audio no audio track."""
    if face.media["kind"] not in ("video", "image"):
        raise Problem(422, f"the face {face.name} has no video. Pass a video or an image.", "media")
    if audio is not None and not audio.media["has_audio"]:
        raise NoAudioError(f"the audio {audio.name} has no audio track. Pass another file.")


def output_seconds(face: StoredFile, heard: float, dub: DubOptions) -> float:
    """Return the expected duration of the output, of `heard` seconds of audio."""
    seconds = max(0.0, heard - dub.start)
    if dub.extend in ("cut_off", "silence") and face.media["seconds"] is not None:
        video = max(0.0, float(face.media["seconds"]) - dub.start)
        seconds = min(seconds, video) if dub.extend == "cut_off" else max(seconds, video)
    return seconds if dub.duration is None else min(seconds, dub.duration)


def output_size(face: StoredFile, dub: DubOptions) -> str | None:
    """Return the expected size of the output, such as 1080x1920; None if options change it."""
    geometry = dub.geometry
    if geometry.resize_factor != 1 or geometry.rotate or geometry.crop != type(geometry)().crop:
        return None
    return f"{face.media['width']}x{face.media['height']}"


def _json_object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f'options is not JSON: {error}. Pass {{"blend": "soft"}}.') from None
