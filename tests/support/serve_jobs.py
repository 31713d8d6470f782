"""Jobs of the service."""

from __future__ import annotations

import hashlib
from typing import Any

from support.batch_jobs import wait_for
from wav2lip_npu.serve.records import StoredFile, Video
from wav2lip_npu.serve.store import Store


def upload(store: Store, content: bytes, name: str = "speech.wav") -> StoredFile:
    """Store a file."""
    path = store.upload_path()
    path.write_bytes(content)
    return store.add_file(path, sha256=hashlib.sha256(content).hexdigest(), name=name, media={})


def queue_job(store: Store, script: str, face: str = "face", **values: Any) -> Video:
    """Queue a job that goes as the script says, see `ScriptedWorker`."""
    face_id = upload(store, face.encode(), "talk.mp4").id
    audio_id = upload(store, script.encode()).id
    values = {"model": "starter", "options": {}, **values}
    return store.create(face_id=face_id, audio_id=audio_id, **values)


def wait_until_ended(store: Store, *ids: str) -> list[Video]:
    """Wait until jobs have ended, and return them."""

    def videos() -> list[Video]:
        return [video for name in ids if (video := store.video(name)) is not None]

    wait_for(lambda: all(video.is_final for video in videos()))
    return videos()
