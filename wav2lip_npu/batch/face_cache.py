"""The faces of videos that were found before, in a folder that several processes may share.

Each file holds those of one video under one set of options, as `FaceMemory` tells them. When the folder
becomes too large, those go that were of no use for the longest time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wav2lip_npu import __version__
from wav2lip_npu.batch.job_keys import digest
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.storage.atomic import remove_stale_parts, replacing

log = logging.getLogger(__name__)

OFF = "off"
MOST_BYTES = 256 << 20
"""Some 3000 hours of video."""
_SUFFIX = ".faces"
_OF_NO_EFFECT = ("detector", "no_face", "face_det_batch_size")


class FaceCache:
    """Keeps faces in a folder; without a folder it knows nothing and keeps nothing."""

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes

    @classmethod
    def at(cls, place: str | None) -> FaceCache:
        """In a folder that the user names, in that of the user's caches, or nowhere when it is `off`."""
        if place == OFF:
            return cls(None)
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return cls(Path(place or os.path.join(home, "wav2lip-npu", "faces")))

    def read(self, key: str) -> FaceMemory:
        """What is known, which may be nothing."""
        if self._folder is None:
            return FaceMemory()
        path = self._path(key)
        try:
            found = _parsed(path.read_bytes())
            os.utime(path)
        except FileNotFoundError:
            return FaceMemory()
        except (OSError, ValueError) as error:
            log.warning("%s is not used: %s", path, error)
            return FaceMemory()
        return found

    def write(self, key: str, memory: FaceMemory) -> None:
        """Keep what a dub has learnt. A disk that is full or read-only harms nothing but the next search."""
        if self._folder is None or not memory.has_grown:
            return
        path = self._path(key)
        try:
            remove_stale_parts(path)
            with replacing(path) as part:
                part.write_bytes(_written(memory))
            self._make_room(self._folder)
        except OSError as error:
            log.warning("the faces found are not kept in %s: %s", self._folder, error.strerror or error)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}{_SUFFIX}"

    def _make_room(self, folder: Path) -> None:
        """Remove the oldest until the rest fits; others may do the same at the same time."""
        ages = []
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    ages.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in ages)
        for _, size, path in sorted(ages):
            if total <= self._most_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def faces_key(content: str, detector: str, options: DubOptions) -> str:
    """Hex digits for a video of this content, whose faces this detector finds."""
    found_by: dict[str, Any] = {
        "content": content,
        "detector": detector,
        "version": __version__,
        "static": options.static,
        "geometry": asdict(options.geometry),
        "faces": {name: each for name, each in asdict(options.faces).items() if name not in _OF_NO_EFFECT},
    }
    return digest(found_by)


def _written(memory: FaceMemory) -> bytes:
    rows = memory.to_array().tobytes()
    about = {"whole": memory.is_complete, "crc32": zlib.crc32(rows)}
    return json.dumps(about).encode() + b"\n" + rows


def _parsed(content: bytes) -> FaceMemory:
    """Raises `ValueError` when the content is damaged."""
    head, _, rows = content.partition(b"\n")
    about = json.loads(head)
    if not isinstance(about, dict) or about.get("crc32") != zlib.crc32(rows):
        raise ValueError("it is damaged")
    return FaceMemory(np.frombuffer(rows, np.float32).reshape(-1, 5), is_complete=bool(about.get("whole")))
