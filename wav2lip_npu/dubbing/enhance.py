"""Enhance generated mouths by a network that restores faces.

The face of each frame is aligned by its landmarks, as the network was trained, and restored. What the network
changes about it is added to the frame, so that a network which changes nothing leaves the frame as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.detectors import WITHOUT_LANDMARKS
from wav2lip_npu.media.yuv_image import Array, Image, YuvImage, centred, to_yuv
from wav2lip_npu.options import check_types, nested_by_name

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

Weights = NDArray[np.float32]
Matrix = NDArray[np.float64]
"""float64 [2, 3], affine map from pixels of an aligned face to those of its frame, both between edges."""
Shown = tuple[SelectedFrame, YuvImage]
Region = Literal["mouth", "face"]
_REGIONS: dict[Region, tuple[tuple[float, float], tuple[float, float]]] = {
    "mouth": ((0.5, 0.74), (0.27, 0.21)),
    "face": ((0.5, 0.6), (0.37, 0.42)),
}
"""Centre and radii of a region, as fractions of an aligned face."""
_FEATHER = 0.35
"""Part of a region, from its rim inwards, over which the enhancement fades."""
_STEADINESS = 0.6
"""Weight of the last frame's enhancement where the face does not move."""
_MOTION = 6.0
"""Difference in grey levels from which the face is taken to move."""
_BLUR = 2.0
_LEAST_SHRINK = 0.75
"""Scale below which the enhancement is averaged before it is pasted."""


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class EnhanceOptions:
    """Options of the enhancement.

    Raises:
        UsageError: A value is out of range.

    """

    enhance: str | None = None
    """ONNX file of a network that restores faces: GFPGAN, RestoreFormer++, CodeFormer or GPEN. None: none."""
    enhance_region: Region = "mouth"
    """Part of the face that is enhanced: mouth, with chin and cheeks, or face."""
    enhance_blend: float = 0.8
    """Strength of the enhancement, 0 to 1."""
    enhance_weight: float = 0.5
    """Of CodeFormer: 0 for the best quality to 1 for the greatest likeness."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        for name in ("enhance_blend", "enhance_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name} {getattr(self, name):g} is out of range. Pass 0 to 1.")


@dataclass(frozen=True)
class Enhancer:
    """Restores aligned faces: a network of your own, for `load_models(enhancer=...)`."""

    restore: Callable[[Image], Image]
    """Takes and returns an aligned face, BGR uint8 [S, S, 3]. It is called in one thread per output."""
    template: Array
    """Eyes, nose and corners of the mouth in it, [5, 2] in pixels, those on the left first."""
    size: int
    """S"""


def load_enhancer(options: EnhanceOptions, models: Models, *, has_constant_box: bool) -> Enhancer | None:
    """Return what enhances the mouths of a dub; None if nothing does.

    Raises:
        UsageError: The face has no landmarks, or onnxruntime is missing.
        CheckpointError: The file cannot be used.

    """
    if options.enhance is None and models.enhancer is None:
        return None
    if has_constant_box or models.detector.name in WITHOUT_LANDMARKS:
        with_box = f"--detector {models.detector.name}"
        raise UsageError(
            f"--enhance needs landmarks, which {'--box' if has_constant_box else with_box} does not give. "
            "Pass --detector retinaface without --box."
        )
    if options.enhance is None:
        return models.enhancer
    from wav2lip_npu.dubbing.restoration_file import RestorationFile

    file = RestorationFile(options.enhance, models.device, options.enhance_weight)
    return Enhancer(file, file.template, file.size)


class Enhancement:
    """Enhances the frames of one output, in order."""

    def __init__(self, enhancer: Enhancer, options: EnhanceOptions) -> None:
        self._enhancer, self._options = enhancer, options
        self._mask = region_mask(options.enhance_region, enhancer.size) * np.float32(options.enhance_blend)
        self._last: tuple[Array, Array] | None = None
        """Grey levels of the last aligned face, and its changes."""

    def __call__(self, frames: Iterable[Shown]) -> Iterator[Shown]:
        """Yield the frames, those with a generated mouth enhanced."""
        for selected, yuv in frames:
            yield selected, self.enhanced(selected, yuv)
            del selected, yuv

    def enhanced(self, selected: SelectedFrame, yuv: YuvImage) -> YuvImage:
        """Return the image of the next frame, enhanced."""
        tracked = selected.tracked
        if tracked.cut or tracked.landmarks is None:
            self._last = None
        if tracked.landmarks is None or not selected.opacity:
            return yuv
        size = self._enhancer.size
        to_frame = aligned_to_frame(self._enhancer.template, tracked.landmarks)
        face = yuv.aligned(to_frame, size)
        restored = self._enhancer.restore(face)
        before, after = (to_yuv(image.astype(np.float32), yuv.colour) for image in (face, restored))
        change = self._steady(face, after - before)
        mask = self._mask * np.float32(selected.opacity)
        if selected.front is not None and tracked.box is not None:
            mask = mask * (1 - _over_face(selected.front, tracked.box, to_frame, size))
        return add_change(yuv, change * mask[..., None], to_frame)

    def _steady(self, face: Image, change: Array) -> Array:
        """Return the changes, averaged over time where the face does not move: networks flicker."""
        grey = cv2.GaussianBlur(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), (0, 0), _BLUR).astype(np.float32)
        if self._last is not None:
            before, last = self._last
            still = _STEADINESS * np.exp(-np.square((grey - before) / _MOTION))
            change = change + still[..., None].astype(np.float32) * (last - change)
        self._last = grey, change
        return change


def aligned_to_frame(template: Array, landmarks: Array) -> Matrix:
    """Return the map to a frame that brings the template closest to the landmarks: [5, 2] each, in pixels.

    The least-squares similarity of Umeyama (1991), without reflection.
    """
    source, target = np.asarray(template, np.float64), np.asarray(landmarks, np.float64)
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    energy = np.square(a).sum()
    along = (a * b).sum() / energy
    across = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / energy
    turn = np.array([[along, -across], [across, along]])
    return np.column_stack([turn, target.mean(axis=0) - turn @ source.mean(axis=0)])


@cache
def region_mask(region: Region, size: int) -> Weights:
    """Return the weights of a region of an aligned face, float32 [S, S] in [0, 1]."""
    centre, radii = _REGIONS[region]
    x, y = (
        ((np.arange(size) + 0.5) / size - middle) / radius
        for middle, radius in zip(centre, radii, strict=True)
    )
    depth = np.clip((1 - np.hypot(x[None, :], y[:, None])) / _FEATHER, 0, 1)
    return (depth * depth * (3 - 2 * depth)).astype(np.float32)


def add_change(yuv: YuvImage, change: Array, to_frame: Matrix) -> YuvImage:
    """Return the image with the changes of an aligned face, float32 YUV [S, S, 3], added to it."""
    luma, *chroma = cv2.split(change)
    u, v = (_added(plane, part, to_frame / 2) for plane, part in zip((yuv.u, yuv.v), chroma, strict=True))
    return replace(yuv, y=_added(yuv.y, luma, to_frame), u=u, v=v)


def _added(plane: NDArray[np.uint8], change: Array, to_plane: Matrix) -> NDArray[np.uint8]:
    """Return the plane with the changes [S, S] of an aligned face added to it."""
    scale = float(np.linalg.det(to_plane[:, :2])) ** 0.5
    if scale < _LEAST_SHRINK:
        size = max(1, round(len(change) * scale))
        to_plane = to_plane * (len(change) / size, len(change) / size, 1)
        change = cv2.resize(change, (size, size), interpolation=cv2.INTER_AREA)
    side = len(change)
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ to_plane.T
    height, width = plane.shape
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int), (width, height))
    if right <= left or bottom <= top:
        return plane
    to_part = centred(to_plane) - np.array([[0, 0, left], [0, 0, top]])
    placed = cv2.warpAffine(change, to_part, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
    result: NDArray[np.uint8] = plane.copy()
    part = result[top:bottom, left:right]
    part[:] = np.clip(np.rint(part + placed), 0, 255)
    return result


def _over_face(front: Weights, box: Array, to_frame: Matrix, size: int) -> Weights:
    """Return what is in front of a face, float32 [S, S] over its box, over the aligned face [size, size]."""
    columns, rows = front.shape[1], front.shape[0]
    across, down = columns / (box[2] - box[0]), rows / (box[3] - box[1])
    scale = np.array([[across], [down]])
    to_box = to_frame * scale - np.array([[0, 0, box[0] * across], [0, 0, box[1] * down]])
    moved = cv2.warpAffine(
        front, centred(to_box), (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    return np.asarray(moved, np.float32)
