"""Reads the faces of clips through a cache of network-sized faces beside the pictures of each clip.

A training sample so costs one read instead of ten decoded JPEGs.
"""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np

from wav2lip_npu.data.clip import Clip, ClipError, Faces, Numbers
from wav2lip_npu.data.clip_layout import FACE_SIZE, FACES_FILE, WINDOW
from wav2lip_npu.storage import npy
from wav2lip_npu.storage.atomic import remove_stale_parts, replacing

log = logging.getLogger(__name__)

_FACE_SHAPE = (FACE_SIZE, FACE_SIZE, 3)
_FACE_BYTES = FACE_SIZE * FACE_SIZE * 3
_SPARE_BYTES = 1 << 30
"""A cache leaves at least so much of the disk free: checkpoints need it more."""
_ALIKE = 2
"""Mean difference of pixel values up to which a cached face is taken for that of its JPEG, which another
decoder may read a little differently."""


class FaceReader:
    """Reads faces of clips, and keeps those of each clip that it meets in one file beside the pictures.

    A clip whose cache cannot be written (a full or read-only disk, a broken picture) is read picture by
    picture, with the same result. Threads may share a reader.
    """

    def __init__(self, *, cache: bool = True) -> None:
        self._reads = self._writes = cache
        self._starts: dict[Clip, int | None] = {}
        """Where the faces begin in the cache of a clip; `None` for a clip without one."""

    def __call__(self, clip: Clip, at: int, count: int = WINDOW) -> Faces:
        """Faces [count, S, S, 3] from position `at` of `clip.frames` on. Raises `ClipError`."""
        return self.pick(clip, np.arange(len(clip.frames))[at : at + count])

    def pick(self, clip: Clip, positions: Numbers, top_row: int = 0) -> Faces:
        """Faces [..., S - top_row, S, 3], less the rows above, at positions [...]. Raises `ClipError`."""
        faces = np.empty((positions.size, FACE_SIZE - top_row, FACE_SIZE, 3), np.uint8)
        if not self._read(clip, positions.ravel(), top_row, faces):
            for face, number in zip(faces, clip.frames[positions.ravel()], strict=True):
                face[:] = clip.face(int(number))[top_row:]
        return faces.reshape(*positions.shape, *faces.shape[1:])

    def _read(self, clip: Clip, positions: Numbers, top_row: int, faces: Faces) -> bool:
        """Fill `faces` from the cache of the clip; false when it has none."""
        if not self._reads:
            return False
        if clip not in self._starts:
            self._starts[clip] = self._start(clip)
        start = self._starts[clip]
        if start is None:
            return False
        try:
            _read_faces(clip, start, positions, top_row, faces)
        except (OSError, ValueError) as error:
            self._starts[clip] = None
            log.warning("faces of %s are read one by one from now on: %s", clip.folder, error)
            return False
        return True

    def _start(self, clip: Clip) -> int | None:
        try:
            return _check_cache(clip)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s is not used (%s)", clip.folder / FACES_FILE, error)
        if not self._writes:
            return None
        try:
            return _write_cache(clip)
        except (ClipError, FileNotFoundError) as error:
            # Whoever asks for the broken picture is told; or another machine wrote at the same time.
            log.debug("%s", error)
        except OSError as error:
            self._writes = False
            log.warning("no more faces are kept, which makes training slower: %s", error)
        return None


def _read_faces(clip: Clip, start: int, positions: Numbers, top_row: int, faces: Faces) -> None:
    """Fill `faces` from the cache, which begins at byte `start`. Raises `OSError` and `ValueError`."""
    file = os.open(clip.folder / FACES_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start += top_row * FACE_SIZE * 3
        for position, face in zip(positions.tolist(), faces, strict=True):
            if os.preadv(file, [face], start + position * _FACE_BYTES) != face.nbytes:
                raise ValueError(f"{FACES_FILE} has become shorter")
    finally:
        os.close(file)


def _check_cache(clip: Clip) -> int:
    """Where the faces begin in the cache of a clip. Raises `OSError` and `ValueError`.

    That it is of these pictures, and not of those that were here before, one picture tells.
    """
    start = npy.data_offset(clip.folder / FACES_FILE, np.uint8, (len(clip.frames), *_FACE_SHAPE))
    middle = len(clip.frames) // 2
    kept = np.empty((1, *_FACE_SHAPE), np.uint8)
    _read_faces(clip, start, np.array([middle]), 0, kept)
    if np.abs(kept[0].astype(np.int16) - clip.face(int(clip.frames[middle]))).mean() > _ALIKE:
        raise ValueError("it is of other pictures")
    return start


def _write_cache(clip: Clip) -> int:
    """Make the cache of a clip, and return where the faces begin. Raises `OSError` and `ClipError`."""
    path = clip.folder / FACES_FILE
    clip.face(int(clip.frames[0]))  # or a folder that has vanished would be made again
    begin = npy.make_header((len(clip.frames), *_FACE_SHAPE))
    if shutil.disk_usage(clip.folder).free < _SPARE_BYTES + len(clip.frames) * _FACE_BYTES:
        raise OSError(f"the disk of {clip.folder} is almost full")
    remove_stale_parts(path)
    with replacing(path) as part, part.open("wb") as file:
        file.write(begin)
        for number in clip.frames:
            file.write(clip.face(int(number)).tobytes())
    return len(begin)
