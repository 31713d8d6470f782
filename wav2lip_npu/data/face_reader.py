"""Face reader with a cache of network-sized faces next to the JPEGs of each clip.

With the cache, a training sample costs two reads instead of ten decoded JPEGs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from wav2lip_npu.data.clip import Clip, ClipError, Faces, Indices
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW, faces_file
from wav2lip_npu.mel import Mel
from wav2lip_npu.storage import npy
from wav2lip_npu.storage.atomic import remove_stale_parts, replacing

log = logging.getLogger(__name__)

_SPARE_BYTES = 1 << 30
"""Disk space that the cache leaves for checkpoints."""
_CHECKED = 100
"""Clips of which the size of a crop is checked."""
_RUN = 256
"""Maximum number of faces per read, far below the limits of `preadv`."""
_MEL_BYTES = 1 << 28
"""Memory for mels that are kept, those of 2.9 hours."""
_MAX_DIFFERENCE = 2
"""Mean difference of pixel values up to which a cached face matches its JPEG. Decoders differ slightly."""


class FaceReader:
    """Reads faces of clips, and caches the faces of each clip in one file next to the JPEGs.

    If the cache cannot be written (a full or read-only disk, a damaged JPEG), faces are decoded, with the
    same result. Threads may share a reader.
    """

    def __init__(self, *, cache: bool = True, face_size: int = FACE_SIZE) -> None:
        self.face_size = face_size
        """Rows and columns of the faces."""
        self._reads = cache
        self._lock = threading.Lock()
        """Guards writes to the fields below."""
        self._writes = cache
        self._starts: dict[Clip, int | None] = {}
        """Byte at which the faces begin in the cache of a clip; `None` for a clip without a cache."""
        self._mels: dict[Clip, Mel] = {}
        self._free_bytes = _MEL_BYTES

    def __call__(self, clip: Clip, position: int, count: int = WINDOW) -> Faces:
        """Return faces [count, S, S, 3] from a position in `clip.frames`. Raises `ClipError`."""
        return self.pick(clip, np.arange(len(clip.frames))[position : position + count])

    def pick(self, clip: Clip, positions: Indices, top_row: int = 0) -> Faces:
        """Return the rows from `top_row` of the faces at positions [...]: [..., S - top_row, S, 3].

        Raises `ClipError`.
        """
        faces = np.empty((positions.size, self.face_size - top_row, self.face_size, 3), np.uint8)
        if not self._read(clip, positions.ravel(), top_row, faces):
            for face, number in zip(faces, clip.frames[positions.ravel()], strict=True):
                face[:] = clip.face(int(number), self.face_size)[top_row:]
        return faces.reshape(*positions.shape, *faces.shape[1:])

    def mel(self, clip: Clip) -> Mel:
        """Return the whole mel of a clip, which is kept in memory while there is room. Raises `ClipError`."""
        mel = self._mels.get(clip)
        if mel is None:
            mel = clip.mel()
            with self._lock:
                if mel.nbytes <= self._free_bytes and clip not in self._mels:
                    self._free_bytes -= mel.nbytes
                    self._mels[clip] = mel
        return mel

    def is_cached(self, clip: Clip) -> bool:
        """Return whether the faces of a clip are known to be in its cache."""
        return self._starts.get(clip) is not None

    def _read(self, clip: Clip, positions: Indices, top_row: int, faces: Faces) -> bool:
        """Fill `faces` from the cache and return whether that succeeded."""
        if not self._reads:
            return False
        with self._lock:
            known, start = clip in self._starts, self._starts.get(clip)
        if not known:
            start = self._open(clip)
            self._set_start(clip, start)
        if start is None:
            return False
        try:
            _read_faces(clip, self.face_size, start, positions, top_row, faces)
        except (OSError, ValueError) as error:
            self._set_start(clip, None)
            log.warning("%s: faces are read from the JPEGs from now on (%s)", clip.folder, error)
            return False
        return True

    def _set_start(self, clip: Clip, start: int | None) -> None:
        with self._lock:
            self._starts[clip] = start

    def _open(self, clip: Clip) -> int | None:
        """Check or write the cache of a clip, and return where its faces begin."""
        try:
            return _check_cache(clip, self.face_size)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s is not used (%s)", clip.folder / faces_file(self.face_size), error)
        with self._lock:
            writes = self._writes
        if not writes:
            return None
        try:
            return _write_cache(clip, self.face_size)
        except (ClipError, FileNotFoundError) as error:
            # Reading the damaged JPEG itself raises the error. Or another machine was writing concurrently.
            log.debug("%s", error)
        except OSError as error:
            with self._lock:
                self._writes = False
            log.warning("faces are no longer cached, which makes training slower: %s", error)
        return None


def warn_of_small_crops(clips: Sequence[Clip], face_size: int) -> None:
    """Log once that crops have to be enlarged to a face size of more than 96 px. Up to 100 clips are read."""
    if face_size == FACE_SIZE:
        return
    sides = []
    for clip in clips[:: max(1, len(clips) // _CHECKED)]:
        with contextlib.suppress(ClipError):  # reported when the clip is read
            sides.append(min(clip.crop(int(clip.frames[0])).shape[:2]))
    small = [side for side in sides if side < face_size]
    if small:
        log.warning(
            "%d of %d clips have faces of less than %d px, down to %d px. They are enlarged, which adds no "
            "detail. Preprocess larger videos with --face_size %d.",
            len(small), len(sides), face_size, min(small), face_size,
        )  # fmt: skip


def _read_faces(clip: Clip, size: int, start: int, positions: Indices, top_row: int, faces: Faces) -> None:
    """Fill `faces` from the cache, whose faces begin at byte `start`. Raises `OSError` and `ValueError`."""
    ends = np.flatnonzero((np.diff(positions) != 1) | (np.arange(1, len(positions)) % _RUN == 0)) + 1
    file = os.open(clip.folder / faces_file(size), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # never block
    try:
        row_bytes = size * 3
        start += top_row * row_bytes
        for run in np.split(np.arange(len(positions)), ends):
            first = start + int(positions[run[0]]) * size * row_bytes
            _read_run(file, first, faces[run[0] : run[-1] + 1], top_row * row_bytes)
    finally:
        os.close(file)


def _read_run(file: int, start: int, faces: Faces, between: int) -> None:
    """Fill consecutive faces with one read. The bytes between them are read into an unused buffer."""
    skipped = bytearray(between)
    buffers: list[Any] = [faces] if not between else [part for face in faces for part in (face, skipped)][:-1]
    wanted = faces.nbytes + (len(faces) - 1) * len(skipped)
    if os.preadv(file, buffers, start) != wanted:
        raise ValueError("the face cache is truncated")


def _check_cache(clip: Clip, size: int) -> int:
    """Return where the faces begin in the cache of a clip. Raises `OSError` and `ValueError`.

    One face is compared with its JPEG, to detect the cache of an earlier version of the clip.
    """
    start = npy.data_offset(clip.folder / faces_file(size), np.uint8, (len(clip.frames), size, size, 3))
    middle = len(clip.frames) // 2
    cached = np.empty((1, size, size, 3), np.uint8)
    _read_faces(clip, size, start, np.array([middle]), 0, cached)
    face = clip.face(int(clip.frames[middle]), size)
    if np.abs(cached[0].astype(np.int16) - face).mean() > _MAX_DIFFERENCE:
        raise ValueError("its faces differ from the JPEGs")
    return start


def _write_cache(clip: Clip, size: int) -> int:
    """Write the cache of a clip, and return where the faces begin. Raises `OSError` and `ClipError`."""
    path = clip.folder / faces_file(size)
    clip.face(int(clip.frames[0]), size)  # otherwise a removed folder would be recreated
    header = npy.make_header((len(clip.frames), size, size, 3))
    if shutil.disk_usage(clip.folder).free < _SPARE_BYTES + len(clip.frames) * 3 * size**2:
        raise OSError(f"the disk of {clip.folder} is almost full")
    remove_stale_parts(path)
    with replacing(path) as part, part.open("wb") as file:
        file.write(header)
        for number in clip.frames:
            file.write(clip.face(int(number), size).tobytes())
    return len(header)
