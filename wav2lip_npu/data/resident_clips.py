"""The faces and mels of all clips of a set in the memory of one device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wav2lip_npu.data.clip import Clip, ClipError, Faces, Indices
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import MAX_UNREADABLE
from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import DataError
from wav2lip_npu.mel import DEFAULT_MEL, Mel
from wav2lip_npu.parallel.threads import map_in_threads

log = logging.getLogger(__name__)

_COLUMN_BYTES = DEFAULT_MEL.n_mels * 4
_PART = 512
"""Faces that a thread reads at once, 14 MB."""


class _Part(NamedTuple):
    """Consecutive faces of a clip, with the first ones its mel; or the error of reading them."""

    clip: int
    position: int
    faces: Faces | None = None
    mel: Mel | None = None
    error: Exception | None = None


class ResidentClips:
    """Clips on a device. The clips of a set follow each other in two tensors."""

    def __init__(self, clips: Sequence[Clip], reader: FaceReader, device: torch.device) -> None:
        """Load the clips. Unreadable ones are skipped with a warning.

        Raises `DataError` if no clip or none of 100 consecutive ones can be read.
        """
        begun = monotonic()
        frames, columns = (
            np.array(counts, np.int64)
            for counts in ([len(clip.frames) for clip in clips], [clip.columns for clip in clips])
        )
        self.first_face: Indices = np.cumsum(frames) - frames
        """First face of each clip, [C]."""
        self.first_column: Indices = np.cumsum(columns) - columns
        """First mel column of each clip, [C]."""
        self.is_readable: NDArray[np.bool_] = np.ones(len(clips), bool)
        """Whether each clip could be read, [C]."""
        self.device = device
        self.faces = torch.empty(
            (int(frames.sum()), reader.face_size, reader.face_size, 3), dtype=torch.uint8, device=device
        )
        """uint8 [frames, S, S, 3]"""
        self.mel = torch.empty((int(columns.sum()), DEFAULT_MEL.n_mels), device=device)
        """float32 [columns, 80]"""
        self._in_window = torch.arange(WINDOW, device=device)
        self._in_mel = torch.arange(DEFAULT_MEL.columns_per_window, device=device)
        self._load(clips, reader)
        log.info(
            "%d clips with %d frames are in the memory of %s: %.2f GB, loaded in %.1f s",
            self.is_readable.sum(), len(self.faces), device, size_of(clips, reader.face_size) / 1e9,
            monotonic() - begun,
        )  # fmt: skip

    def windows(self, first: Tensor, top_row: int = 0) -> Tensor:
        """Return the rows from `top_row` of windows at faces [N]: uint8 [N, 5, S - top_row, S, 3]."""
        chosen = (first[:, None] + self._in_window).flatten()
        faces = self.faces[:, top_row:].index_select(0, chosen)
        return faces.view(-1, WINDOW, *faces.shape[1:])

    def mels(self, first: Tensor) -> Tensor:
        """Return the mel windows that begin with columns [...]: float32 [..., 80, 16]."""
        columns = self.mel.index_select(0, (first[..., None] + self._in_mel).flatten())
        return columns.view(*first.shape, len(self._in_mel), -1).transpose(-1, -2).contiguous()

    def _load(self, clips: Sequence[Clip], reader: FaceReader) -> None:
        consecutive, last_error = 0, None
        parts = (
            (number, at) for number, clip in enumerate(clips) for at in range(0, len(clip.frames), _PART)
        )
        for part in map_in_threads(lambda it: _read(clips, reader, *it), parts, devices.cpu_count()):
            number = part.clip
            if part.error is not None:
                if self.is_readable[number]:
                    log.warning("%s is skipped: %s", clips[number].name, part.error)
                    consecutive, last_error = consecutive + 1, part.error
                self.is_readable[number] = False
                if consecutive >= min(len(clips), MAX_UNREADABLE):
                    raise DataError(f"no clip can be read. Last error: {last_error} Check the disk.")
                continue
            assert part.faces is not None
            _copy(self.faces, int(self.first_face[number]) + part.position, part.faces)
            if part.mel is not None:
                consecutive = 0
                _copy(self.mel, int(self.first_column[number]), np.ascontiguousarray(part.mel.T))


def size_of(clips: Sequence[Clip], face_size: int = FACE_SIZE) -> int:
    """Return the bytes that clips take in device memory, 28.7 kB per frame with its mel at 96 px."""
    return sum(len(clip.frames) * 3 * face_size**2 + clip.columns * _COLUMN_BYTES for clip in clips)


def _read(clips: Sequence[Clip], reader: FaceReader, number: int, position: int) -> _Part:
    clip = clips[number]
    try:
        faces = reader(clip, position, _PART)
        return _Part(number, position, faces, None if position else _checked_mel(clip))
    except (ClipError, OSError) as error:
        return _Part(number, position, error=error)


def _checked_mel(clip: Clip) -> Mel:
    mel = clip.mel()
    if not np.abs(mel).max() <= DEFAULT_MEL.max_abs:  # also true for NaN
        raise ClipError("damaged mel", f"the mel of {clip.folder} is out of range. Delete its mel.npy.")
    return mel


def _copy(target: Tensor, first: int, rows: NDArray[np.uint8] | Mel) -> None:
    target[first : first + len(rows)].copy_(torch.from_numpy(rows))


def substitutes(order: Indices, is_readable: NDArray[np.bool_]) -> Indices:
    """Return an order of clips in which the next readable clip replaces each unreadable one.

    Raises `DataError` if 100 consecutive clips are unreadable.
    """
    readable = is_readable[order]
    if readable.all():
        return order
    count = len(order)
    places = np.where(np.tile(readable, 2), np.arange(2 * count), 2 * count + MAX_UNREADABLE)
    following = np.minimum.accumulate(places[::-1])[::-1][:count]
    if (following - np.arange(count)).max() >= min(count, MAX_UNREADABLE):
        raise DataError(f"no clip can be read in {MAX_UNREADABLE} consecutive ones. Check the disk.")
    replaced: Indices = order[following % count]
    return replaced
