"""Cache of the faces detected in videos, in a folder that several processes may share.

Each file holds the boxes and landmarks of one video for one set of options, see `FaceMemory`. When the folder
exceeds its limit, the least recently used files are removed.
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
from wav2lip_npu.batch.job_keys import json_sha256
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.faces.memory import COLUMNS, FaceMemory
from wav2lip_npu.faces.speaker_tracks import Rows
from wav2lip_npu.storage.atomic import remove_all_stale_parts, replacing
from wav2lip_npu.storage.regular_files import read_limited

log = logging.getLogger(__name__)

OFF = "off"
MAX_BYTES = 256 << 20
"""About 3000 hours of video."""
_SUFFIX = ".faces"
_FORMAT = 2
"""Number of the file format, part of the key; 2 added landmarks."""
_WITHOUT_EFFECT = ("detector", "no_face", "face_det_batch_size")
"""Fields of `FaceOptions` that do not change the boxes; the detector has its own entry in the key."""


class FaceCache:
    """Cache of the faces found in videos, in a folder that several processes may share.

    A second dub of a video with the same options of faces and geometry skips detection. When the folder
    exceeds its limit, the least recently used files are removed.

    Args:
        folder: Folder of the cache, created when it is first needed; `None` stores nothing.
        max_bytes: Limit of the folder in bytes.

    Example:
        >>> from wav2lip_npu import FaceCache, load_models, run_jobs
        >>> results = run_jobs(jobs, load_models("starter"), cache=FaceCache.at("faces"))

    """

    def __init__(self, folder: str | os.PathLike[str] | None, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = None if folder is None else Path(folder), max_bytes

    @classmethod
    def at(cls, folder: str | os.PathLike[str] | None) -> FaceCache:
        """Return the cache in a folder, named as `--cache` does.

        Args:
            folder: A folder; `None` is `wav2lip-npu/faces` in the user's cache folder, `$XDG_CACHE_HOME` or
                `~/.cache`; `off` is no cache.

        Returns:
            The cache, of at most 256 MiB.

        """
        if folder == OFF:
            return cls(None)
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return cls(Path(folder or os.path.join(home, "wav2lip-npu", "faces")))

    def read(self, key: str) -> FaceMemory:
        """Return the stored faces; an empty memory if there are none or the file is damaged."""
        if self._folder is None:
            return FaceMemory()
        path = self._path(key)
        try:
            memory = _decode(read_limited(path, self._max_bytes))
            os.utime(path)
        except FileNotFoundError:
            return FaceMemory()
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s is ignored: %s", path, error)
            return FaceMemory()
        return memory

    def write(self, key: str, memory: FaceMemory) -> None:
        """Store the faces if a dub added new ones. Disk errors are logged, not raised."""
        if memory.has_grown:
            self.store(key, memory)

    def store(self, key: str, memory: FaceMemory) -> None:
        """Store faces. Disk errors are logged, not raised."""
        if self._folder is None:
            return
        path = self._path(key)
        try:
            with replacing(path) as part:
                part.write_bytes(_encode(memory))
            self._remove_oldest(self._folder)
        except OSError as error:
            log.warning("cannot store faces in %s: %s", self._folder, error.strerror or error)

    def remove_partial_files(self) -> None:
        """Remove the partial files of processes that were killed while writing to the cache."""
        if self._folder is not None:
            remove_all_stale_parts(self._folder)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}{_SUFFIX}"

    def _remove_oldest(self, folder: Path) -> None:
        """Remove the least recently used files until the rest fits; other processes may do the same."""
        files = []
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                status = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    files.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


class SpeakerCache:
    """The part of a cache with the faces of several speakers in one video (a `TrackStore`).

    Args:
        cache: The cache.
        faces: `faces_key` of the video.
        speakers: Number of speakers who are seen.

    """

    def __init__(self, cache: FaceCache, faces: str, speakers: int) -> None:
        self._cache, self._faces, self._speakers = cache, faces, speakers

    def read(self, details: Any) -> Rows | None:
        """Return the faces of an earlier dub with equal details; None if there are none."""
        rows = self._cache.read(self._key(details)).to_array()
        return rows.reshape(-1, self._speakers, COLUMNS) if len(rows) else None

    def write(self, details: Any, rows: Rows) -> None:
        """Store the faces of a dub."""
        self._cache.store(self._key(details), FaceMemory(rows.reshape(-1, COLUMNS)))

    def _key(self, details: Any) -> str:
        return json_sha256({"faces": self._faces, "speakers": details})


def faces_key(video_sha256: str, detector: str, options: DubOptions) -> str:
    """Return the key of a video's faces: a hash of its content, the detector and the relevant options."""
    sources: dict[str, Any] = {
        "content": video_sha256,
        "detector": detector,
        "version": __version__,
        "format": _FORMAT,
        "static": options.static,
        "fps": options.fps,
        "geometry": asdict(options.geometry),
        "faces": {
            name: value for name, value in asdict(options.faces).items() if name not in _WITHOUT_EFFECT
        },
    }
    return json_sha256(sources)


def _encode(memory: FaceMemory) -> bytes:
    rows = memory.to_array().tobytes()
    header = {"whole": memory.is_complete, "crc32": zlib.crc32(rows)}
    return json.dumps(header).encode() + b"\n" + rows


def _decode(content: bytes) -> FaceMemory:
    """Return the memory. Raises `ValueError` if the content is damaged."""
    head, _, rows = content.partition(b"\n")
    header = json.loads(head)
    if not isinstance(header, dict) or header.get("crc32") != zlib.crc32(rows):
        raise ValueError("it is damaged")
    return FaceMemory(
        np.frombuffer(rows, np.float32).reshape(-1, COLUMNS), is_complete=bool(header.get("whole"))
    )
