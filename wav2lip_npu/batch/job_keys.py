"""Job keys: hashes of everything that an output depends on, stored in the metadata of the output."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.container import open_media
from wav2lip_npu.media.frame_rate import exact_fps
from wav2lip_npu.models.bundled import weights_path
from wav2lip_npu.options import fields_of
from wav2lip_npu.storage import hashing
from wav2lip_npu.storage.json_types import matches

_COMMENT = re.compile(r"\(sha256 [0-9a-f]{12}\), job ([0-9a-f]{32})\s*\Z")
"""End of the comment of an output. File names precede it, so they cannot forge a key."""
# fmt: off
_ALWAYS = {
    "precision", "detector", "face_select", "no_face", "pads", "box", "nosmooth", "resize_factor", "rotate",
    "crop", "crf", "preset", "blend", "extend", "static", "fps", "mel_shift",
}
# fmt: on
"""Options of 0.6.0. A key contains later options only if they differ from their defaults."""
_OF_GENERATOR = ("face_size", "audio_refine")
_WITHOUT_EFFECT = {
    "wav2lip_batch_size", "face_det_batch_size", "occlusion_mask", "enhance", "asd", "check",
    "min_confidence",
}  # fmt: skip
"""Options that do not change the output, and paths: the content of their files is hashed."""


def job_key(job: Job) -> str:
    """Return 32 hex digits, the hash of a job's input files, weights and settings.

    Raises:
        MediaError: One of the files cannot be read.

    """
    sources: dict[str, Any] = {name: record["sha256"] for name, record in input_records(job).items()}
    sources["kind"] = os.path.splitext(job.outfile)[1].lower()
    sources["settings"] = _key_settings(job)
    if job.has_speakers:
        sources["speakers"] = _speakers(job)
    return json_sha256(sources)[:32]


def job_settings(job: Job) -> dict[str, Any]:
    """Return the options of a job that affect its output."""
    options = {name: getattr(job, name) for name in ("precision", *_OF_GENERATOR)}
    options |= fields_of(job.dub)
    return {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}


def _key_settings(job: Job) -> dict[str, Any]:
    """Return the settings that the key contains. A key must not change when a release adds an option."""
    settings = job_settings(job)
    fps = settings["fps"]
    if settings["precision"] == "auto":
        settings["precision"] = "fp32"  # the default of 0.6.0; the formats of `auto` look the same
    settings["fps"] = 25 if fps is None else str(exact_fps(fps))  # 25 was the default of 0.6.0
    defaults = dict(fields_of(Job(face="", audio="", outfile="")))
    return {name: value for name, value in settings.items() if name in _ALWAYS or value != defaults[name]}


def _speakers(job: Job) -> list[Any]:
    """Return who has which file and face; files are numbered as in `input_records`."""
    dialogue = job.dialogue
    assert dialogue is not None
    numbers = {file.path: number for number, file in enumerate(dialogue.files)}
    told = [
        (one.name, numbers.get(one.audio or ""), numbers.get(one.face or "", one.face))
        for one in dialogue.speakers
    ]
    turns = [
        (turn.who, turn.start, turn.end, numbers.get(turn.audio or ""), turn.offset)
        for turn in dialogue.turns or ()
    ]
    return [told, turns, job.listeners]


def input_records(job: Job) -> dict[str, dict[str, Any]]:
    """Return the `file_record` of `face`, `audio`, `weights`, `voice`, networks and files of speakers.

    Raises `MediaError`, and `UsageError` for turns that cannot be read.
    """
    records = {
        "face": file_record(job.face),
        **({"audio": file_record(job.audio)} if job.audio else {}),
        "weights": file_record(weights_path(job.checkpoint_path, "generator")),
    }
    dialogue = job.dialogue
    for number, file in enumerate(() if dialogue is None else dialogue.files):
        records[f"speakers {number}"] = file_record(file.path)
    more = {**({} if job.voice is None else {"voice": job.voice}), **job.dub.network_files}
    return records | {name: file_record(path) for name, path in more.items()}


def file_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return `path`, `bytes`, `mtime_ns` and `sha256` of a file. Raises `MediaError`."""
    try:
        state = hashing.state_of(path)
        return {**state._asdict(), "sha256": hashing.sha256_of(path)}
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None


def remember_hash(record: Any) -> None:
    """Reuse the hash in a `file_record` of an earlier report; damaged records are ignored."""
    try:
        state = hashing.FileState(record["path"], record["bytes"], record["mtime_ns"])
        sha256 = record["sha256"]
    except (KeyError, TypeError):
        return
    if all(map(matches, (*state, sha256), (str, int, int, str))):
        hashing.remember(state, sha256)


def json_sha256(content: Any) -> str:
    """Return the SHA-256 of JSON content as hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def key_comment(key: str) -> str:
    """Return the comment for the metadata of an output."""
    return f"job {key}"


def read_key(path: str | os.PathLike[str]) -> str | None:
    """Return the key of the job that created a video; `None` for any other file."""
    try:
        with open_media(path) as container:
            comments = [text for name, text in container.metadata.items() if name.lower() == "comment"]
    except MediaError:
        return None
    match = _COMMENT.search(comments[0]) if comments else None
    return match and match[1]
