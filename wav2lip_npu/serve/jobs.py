"""Videos of the service as jobs of a batch, and what a batch reports in the words of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import CheckpointError, MediaError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.serve.dialogues import TURNS, dialogue_as_paths, job_fields
from wav2lip_npu.serve.records import Video
from wav2lip_npu.serve.store import OUTPUT, REPORT, Store
from wav2lip_npu.serve.weights import model_paths

_FILES = ("face", "audio", "outfile", "checkpoint")
"""Fields of a report that name files."""


def weights_of(model: str, checkpoints: str | None) -> str:
    """Return the weights of a model: a file in the folder `checkpoints`, or `starter`.

    Raises `CheckpointError` if there is none of this name.
    """
    if model == STARTER:
        return STARTER
    path = model_paths(checkpoints).get(model)
    if path is None:
        raise CheckpointError(f"there is no model {model!r:.80}. GET /v1/models lists those of this server.")
    return os.fspath(path)


def job_of(video: Video, store: Store, checkpoints: str | None) -> Job:
    """Return the job that makes a video. Its options were checked by `job_requests`.

    Raises:
        UsageError: An option is unknown or out of range.
        CheckpointError: The model is unknown.
        MediaError: A file was deleted.

    """
    folder = store.video_folder(video.id)

    def content_of(file_id: str) -> str:
        file = store.file(file_id)
        if file is None:
            raise MediaError(f"the file {file_id} was deleted. Upload it again.")
        return os.fspath(store.content(file))

    if video.dialogue is None:
        voices: dict[str, Any] = {"audio": content_of(video.audio_id)}
    else:
        voices = job_fields(dialogue_as_paths(video.dialogue, content_of, DubOptions()), folder)
    return Job(
        face=content_of(video.face_id),
        outfile=os.fspath(folder / OUTPUT),
        report=os.fspath(folder / REPORT),
        checkpoint_path=weights_of(video.model, checkpoints),
        dub=DubOptions(check=True),
        **voices,
        **video.options,
    )


def video_id_of(outfile: str) -> str:
    """Return the ID of the video with this output."""
    return os.path.basename(os.path.dirname(outfile))


def public_text(text: str, video: Video, store: Store, checkpoints: str | None) -> str:
    """Return a message with the names that the client knows instead of paths of the server."""
    for path, name in _names(video, store, checkpoints).items():
        text = text.replace(path, name)
    return text


def public_report(
    report: Mapping[str, Any], video: Video, store: Store, checkpoints: str | None
) -> dict[str, Any]:
    """Return the report of a dub with the names that the client knows instead of paths of the server."""
    names = _names(video, store, checkpoints)

    def public(path: str) -> str:
        return names.get(path, os.path.basename(path))

    files = {name: public(report[name]) for name in _FILES if name in report}
    speakers = [
        {
            **speaker,
            "audio": [public(path) for path in speaker["audio"]],
            "face": names.get(speaker["face"], speaker["face"]),
        }
        for speaker in report.get("speakers") or ()
    ]
    return {**report, **files, **({"speakers": speakers} if speakers else {})}


def _names(video: Video, store: Store, checkpoints: str | None) -> dict[str, str]:
    """Return the names of the files of a job by their paths."""
    names = {os.fspath(store.video_folder(video.id) / name): name for name in (OUTPUT, REPORT)}
    names[os.fspath(store.video_folder(video.id) / TURNS)] = "turns"
    names |= store.names_of(video.id)
    if checkpoints is not None:
        names[os.path.join(checkpoints, video.model)] = video.model
    return names
