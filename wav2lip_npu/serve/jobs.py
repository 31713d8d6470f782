"""Videos of the service as jobs of a batch, and what a batch reports in the words of the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import CheckpointError, MediaError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.serve.records import Video
from wav2lip_npu.serve.store import OUTPUT, REPORT, Store
from wav2lip_npu.serve.weights import model_paths


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
    face, audio = (_content_of(file_id, store) for file_id in (video.face_id, video.audio_id))
    return Job(
        face=face,
        audio=audio,
        outfile=os.fspath(folder / OUTPUT),
        report=os.fspath(folder / REPORT),
        checkpoint_path=weights_of(video.model, checkpoints),
        dub=DubOptions(check=True),
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
    files = {name: report[name] for name in ("face", "audio", "outfile", "checkpoint") if name in report}
    return {**report, **{name: names.get(path, os.path.basename(path)) for name, path in files.items()}}


def _names(video: Video, store: Store, checkpoints: str | None) -> dict[str, str]:
    """Return the names of the files of a job by their paths."""
    names = {os.fspath(store.video_folder(video.id) / name): name for name in (OUTPUT, REPORT)}
    for file_id, name in ((video.face_id, video.face_name), (video.audio_id, video.audio_name)):
        file = store.file(file_id)
        if file is not None:
            names[os.fspath(store.content(file))] = name
    if checkpoints is not None:
        names[os.path.join(checkpoints, video.model)] = video.model
    return names


def _content_of(file_id: str, store: Store) -> str:
    file = store.file(file_id)
    if file is None:
        raise MediaError(f"the file {file_id} was deleted. Upload it again.")
    return os.fspath(store.content(file))
