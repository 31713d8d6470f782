"""What files hold, by their SHA-256: whether a video was made of these files, in this way."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.container import open_media
from wav2lip_npu.models.bundled import weights_path
from wav2lip_npu.options import fields_of
from wav2lip_npu.storage.hashing import sha256_of

_MARK = re.compile(r"\bjob ([0-9a-f]{32})\b")
_OF_NO_EFFECT = {"wav2lip_batch_size", "face_det_batch_size"}


class Contents:
    """SHA-256 of files; each is read once while its size and time stay the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def __call__(self, path: str | os.PathLike[str]) -> str:
        """Hex digits. Raises `MediaError` when the file cannot be read."""
        try:
            place = _place(path)
            if place not in self._known:
                self._known[place] = sha256_of(Path(path))
            return self._known[place]
        except OSError as error:
            raise MediaError(f"cannot read {path}: {error.strerror or error}.") from None

    def about(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """`path`, `bytes`, `mtime_ns` and `sha256` of a file, for a report. Raises `MediaError`."""
        content = self(path)
        name, size, time = _place(path)
        return {"path": name, "bytes": size, "mtime_ns": time, "sha256": content}

    def learn(self, about: Any) -> None:
        """Take the word of a report, as far as it has one."""
        try:
            self._known[about["path"], about["bytes"], about["mtime_ns"]] = about["sha256"]
        except (KeyError, TypeError):
            return

    def inputs(self, job: Job) -> dict[str, dict[str, Any]]:
        """`about` what a job reads. Raises `MediaError`."""
        return {
            "face": self.about(job.face),
            "audio": self.about(job.audio),
            "weights": self.about(weights_path(job.checkpoint_path, "generator")),
        }

    def key(self, job: Job) -> str:
        """32 hex digits that tell what a job makes: of which files, with which weights and settings.

        Raises `MediaError` when one of the files cannot be read.
        """
        made_of = {
            **{name: about["sha256"] for name, about in self.inputs(job).items()},
            "kind": os.path.splitext(job.outfile)[1].lower(),
            "settings": settings(job),
        }
        return digest(made_of)[:32]


def settings(job: Job) -> dict[str, Any]:
    """The options of a job that its video depends on."""
    options = {"precision": job.precision, **dict(fields_of(job.dub))}
    return {name: value for name, value in options.items() if name not in _OF_NO_EFFECT}


def digest(content: Any) -> str:
    """Hex digits of what can be said in JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def mark(key: str) -> str:
    """What a video says of the job that made it."""
    return f"job {key}"


def key_of(path: str | os.PathLike[str]) -> str | None:
    """The key of the job that made a video, `None` for any other file."""
    try:
        with open_media(path) as container:
            tags = [text for name, text in container.metadata.items() if name.lower() == "comment"]
    except MediaError:
        return None
    found = _MARK.search(tags[0]) if tags else None
    return found and found[1]


def _place(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    status = os.stat(path)
    return os.path.realpath(path), status.st_size, status.st_mtime_ns
