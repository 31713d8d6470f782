"""Choices of the reference: the frame that shows the generator the identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from tracked_clips import Clip, in_crop

from wav2lip_npu.media.yuv_image import Image

_POSE_ROWS = 52


def _current(clip: Clip) -> list[Image]:
    return clip.faces


def _steady(clip: Clip) -> list[Image]:
    """Return the frame whose upper half is nearest to the mean of the clip."""
    upper = _uppers(clip)
    best = int(np.abs(upper - upper.mean(0)).mean(axis=(1, 2)).argmin())
    return [clip.faces[best]] * len(clip.faces)


def _closed(clip: Clip) -> list[Image]:
    """Return for each frame one with a closed mouth and a like pose."""
    return [clip.faces[index] for index in _closed_frames(clip)]


def _pasted(clip: Clip) -> list[Image]:
    """Return each frame with the mouth of a frame with a closed mouth and a like pose."""
    return [_with_mouth(clip, now, other) for now, other in enumerate(_closed_frames(clip))]


def _squeezed(clip: Clip) -> list[Image]:
    """Return each frame with its mouth squeezed to half its height, around the corners of the mouth."""
    y, x = np.mgrid[0:96, 0:96].astype(np.float32)
    result = []
    for face, points, box in zip(clip.faces, clip.landmarks, clip.boxes, strict=True):
        centre = in_crop(points[3:], box).mean(axis=0)
        fall = np.exp(-(((x - centre[0]) / 26) ** 2 + ((y - centre[1] - 4) / 20) ** 2))
        source_y = y + (y - centre[1]) * fall
        result.append(
            np.asarray(
                cv2.remap(
                    face, x, source_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                )
            )
        )
    return result


def _with_mouth(clip: Clip, now: int, other: int) -> Image:
    points = in_crop(clip.landmarks[now], clip.boxes[now])
    warp, _ = cv2.estimateAffinePartial2D(in_crop(clip.landmarks[other][:3], clip.boxes[other]), points[:3])
    face = clip.faces[now].astype(np.float32)
    moved = cv2.warpAffine(
        clip.faces[other], warp, (96, 96), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    centre = points[3:].mean(axis=0)
    y, x = np.mgrid[0:96, 0:96]
    reach = np.sqrt(((x - centre[0]) / 30) ** 2 + ((y - centre[1] - 3) / 22) ** 2)
    weight = np.clip((1 - reach) / 0.35, 0, 1)[..., None]
    return np.asarray((face + weight * (moved - face)).round(), np.uint8)


def _closed_frames(clip: Clip) -> list[int]:
    upper = _uppers(clip)
    opening = np.array([_opening(clip, number) for number in range(len(clip.faces))])
    opening = (opening - opening.min()) / (np.percentile(opening, 90) - opening.min() + 1e-6)
    chosen = []
    for now in upper:
        distance = np.abs(upper - now).mean(axis=(1, 2))
        chosen.append(int((distance / (distance.mean() + 1e-6) + 2 * opening).argmin()))
    return chosen


def _opening(clip: Clip, number: int) -> float:
    """Return the variation of luma across the lips: a closed mouth has a single line."""
    points = in_crop(clip.landmarks[number], clip.boxes[number])
    x, y = points[3:].mean(axis=0)
    green = cv2.getRectSubPix(clip.faces[number][..., 1], (14, 30), (float(x), float(y) + 4))
    profile = cv2.GaussianBlur(green.astype(np.float32), (0, 0), 1).mean(axis=1)
    return float(np.abs(np.diff(profile)).sum())


def _uppers(clip: Clip) -> NDArray[np.float32]:
    return np.array(
        [cv2.resize(face[:_POSE_ROWS, :, 1], (24, 13), interpolation=cv2.INTER_AREA) for face in clip.faces],
        np.float32,
    )


REFERENCES: Mapping[str, Callable[[Clip], list[Image]]] = {
    "current": _current,
    "steady": _steady,
    "closed": _closed,
    "pasted": _pasted,
    "squeezed": _squeezed,
}
