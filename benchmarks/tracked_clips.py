"""Tracked frames of real clips, with landmarks, for benchmarks of the composite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.media.container import probed
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage

Array = NDArray[Any]
_CROP = 1.7


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one shot of a clip, with the boxes, crops and landmarks of a face."""

    name: str
    frames: list[YuvImage]
    boxes: list[Box]
    faces: list[Image]
    """The crops that the generator gets, uint8 [96, 96, 3]."""
    landmarks: NDArray[np.float32]
    """[N, 5, 2], smoothed over five frames."""

    def first(self, count: int) -> Clip:
        """Return the clip without the frames after the first `count`."""
        return Clip(
            self.name,
            self.frames[:count],
            self.boxes[:count],
            self.faces[:count],
            self.landmarks[:count],
        )


def clips(folder: Path, detector: Detector, num_frames: int) -> Iterator[Clip]:
    """Yield the longest part with a face of the first shot of each clip that has one."""
    for path in sorted(folder.iterdir()):
        try:
            clip = _clip(path, detector, num_frames)
        except Wav2LipError:
            continue
        if clip is not None:
            yield clip


def _clip(path: Path, detector: Detector, num_frames: int) -> Clip | None:
    frames, boxes = [], []
    for item in find_faces(
        itertools.islice(read_frames(probed(path)), 2 * num_frames), detector, FaceOptions()
    ):
        if len(frames) == num_frames or ((item.box is None or item.cut) and len(frames) >= num_frames / 2):
            break
        if item.cut or item.box is None:
            frames, boxes = [], []
        if item.box is not None:
            frames.append(item.frame.yuv)
            boxes.append(item.box)
    if len(frames) < num_frames / 3:
        return None
    faces = [frame.crop(box, FACE_SIZE) for frame, box in zip(frames, boxes, strict=True)]
    return Clip(path.name, frames, boxes, faces, find_landmarks(frames, boxes, detector))


def find_landmarks(
    frames: Sequence[YuvImage], boxes: Sequence[Box], detector: Detector
) -> NDArray[np.float32]:
    """Return the landmarks of tracked faces, smoothed over five frames."""
    rows: list[Array | None] = []
    for frame, box in zip(frames, boxes, strict=True):
        centre, half = (box[:2] + box[2:]) / 2, _CROP * float((box[2:] - box[:2]).max()) / 2
        crop = np.concatenate([centre - half, centre + half]).astype(np.float32)
        size = round(_CROP * detector.face_side)
        (faces,) = detector([frame.crop(crop, size)])
        best = max(faces, key=lambda face: face.score, default=None)
        known = best is not None and best.landmarks is not None
        rows.append(crop[:2] + best.landmarks * (2 * half / size) if known and best is not None else None)
    first = next(row for row in rows if row is not None)
    filled = np.array(
        list(itertools.accumulate(rows, lambda last, row: last if row is None else row, initial=first))[1:]
    )
    padded = np.pad(filled, ((2, 2), (0, 0), (0, 0)), "edge")
    return np.mean([padded[i : i + len(filled)] for i in range(5)], axis=0).astype(np.float32)


def in_crop(points: NDArray[np.float32], box: Box, size: int = FACE_SIZE) -> NDArray[np.float32]:
    """Return points of a frame in the pixels of a crop."""
    scaled: NDArray[np.float32] = (points - box[:2]) / (box[2:] - box[:2]) * size - 0.5
    return scaled


def sheet(rows: Sequence[Sequence[Image]], path: Path, size: int = 160) -> None:
    """Write images as a contact sheet, each `size` pixels high and wide."""
    tiles = [
        np.hstack([cv2.resize(tile, (size, size), interpolation=cv2.INTER_CUBIC) for tile in row])
        for row in rows
    ]
    width = max(tile.shape[1] for tile in tiles)
    padded = [np.pad(tile, ((0, 0), (0, width - tile.shape[1]), (0, 0))) for tile in tiles]
    cv2.imwrite(str(path), np.vstack(padded))
