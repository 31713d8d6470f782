"""Paste a generated mouth into its frame.

The mouth is blended in the YUV planes of the frame: where the mask is 0, the frame keeps its exact values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.dubbing.tint import tint_of
from wav2lip_npu.media.yuv_image import Array, Box, Image, YuvImage, grid_to_box, to_yuv

Blend = Literal["soft", "hard"]
_BGRA = 4
# The soft mask, in fractions of the face box: a superellipse from below the eyes to the chin with a feathered
# rim. Its top lies just above the middle, where the generator's input is cut off.
_CENTRE = (0.5, 0.725)
_RADII = (0.48, 0.265)
_POWER = 3.5
_RIM = 0.2
_LEAST_ENLARGEMENT = 1.2
"""Pixels of the image per pixel of a mouth from which the image has more detail than the mouth."""


@dataclass(frozen=True)
class Mask:
    """Weights of the lower rows of a generated face."""

    top_row: int
    """First row that is visible."""
    weights: NDArray[np.float32]
    """float32 [S - top_row, S] in [0, 1]"""
    exact: bool
    """Whether the box is rounded to whole pixels, as in the original."""


@cache
def load_mask(blend: Blend, size: int) -> Mask:
    """Return the mask of `soft` (lower face, feathered) or `hard` (whole box) for faces of this size."""
    if blend == "hard":
        return Mask(0, np.ones((size, size), np.float32), exact=True)
    x, y = (np.abs((np.arange(size) + 0.5) / size - c) / r for c, r in zip(_CENTRE, _RADII, strict=True))
    reach = (x[None, :] ** _POWER + y[:, None] ** _POWER) ** (1 / _POWER)
    depth = np.clip((1 - reach) / _RIM, 0, 1)
    weights = (depth * depth * (3 - 2 * depth)).astype(np.float32)
    top_row = int(np.flatnonzero(weights.any(axis=1))[0])
    return Mask(top_row, weights[top_row:], exact=False)


def composite(
    selected: SelectedFrame, mouth: Image | None, mask: Mask, onto: YuvImage | None = None
) -> YuvImage:
    """Return the image of a frame, or `onto`, with its mouth; without one it is returned unchanged."""
    yuv, box = selected.tracked.frame.yuv if onto is None else onto, selected.tracked.box
    if box is None or mouth is None:
        return yuv
    pasted = paste(yuv, mouth, box, mask, selected.front)
    return pasted if selected.opacity == 1 else fade(yuv, pasted, selected.opacity)


def paste(
    yuv: YuvImage, mouth: Image, box: Box, mask: Mask, front: NDArray[np.float32] | None = None
) -> YuvImage:
    """Return the image with a mouth pasted into the lower part of a face box.

    `mouth` is uint8 [S - top_row, S, 3 or 4]: the rows of the generated face from `mask.top_row` on, BGR or
    BGRA; the mask is multiplied by A. Where `front`, float32 [S, S] over the box, is 1, the image stays as
    filmed. In tinted film, see `tint_of`, the mouth takes the chroma of the film.
    """
    below, mask = _placed(mouth, box, mask, front)
    if below is None:
        return yuv
    mouth = mouth[:, :, :3]
    luma, *chroma = cv2.split(to_yuv(mouth.astype(np.float32), yuv.colour))
    tint = tint_of(yuv, box)
    if tint is not None:
        if tint.is_constant:
            return replace(yuv, y=_blend(yuv.y, luma, below, mask))
        chroma = tint.apply(luma, chroma)
    half = below * np.float32(0.5)
    half = np.round(half) if mask.exact else half
    return replace(
        yuv,
        y=_blend(yuv.y, luma, below, mask),
        u=_blend(yuv.u, chroma[0], half, mask),
        v=_blend(yuv.v, chroma[1], half, mask),
    )


def coverage(
    height: int, width: int, mouth: Image, box: Box, mask: Mask, front: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return float32 [height, width]: the weight that `paste` gives the mouth in each pixel of an image."""
    weights = np.zeros((height, width), np.float32)
    below, mask = _placed(mouth, box, mask, front)
    part = None if below is None else _part(weights, below)
    if part is not None:
        under, inside = part
        size = (under.shape[1], under.shape[0])
        soft = _resize(mask.weights, inside, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        under[:] = 1 if mask.exact else soft
    return weights


def fade(before: YuvImage, after: YuvImage, opacity: float) -> YuvImage:
    """Return a cross-fade of two images; equal pixels keep their values."""
    y, u, v = (
        cv2.addWeighted(new, opacity, old, 1 - opacity, 0)
        for old, new in ((before.y, after.y), (before.u, after.u), (before.v, after.v))
    )
    return replace(after, y=np.asarray(y, np.uint8), u=np.asarray(u, np.uint8), v=np.asarray(v, np.uint8))


def _placed(mouth: Image, box: Box, mask: Mask, front: NDArray[np.float32] | None) -> tuple[Box | None, Mask]:
    """Return the part of the box below `mask.top_row`, None if it is empty, and the mask of the mouth."""
    rows, size = mask.weights.shape
    x1, y1, x2, y2 = np.round(box) if mask.exact else box
    below = np.array([x1, y1 + (y2 - y1) * (size - rows) / size, x2, y2], np.float32)
    if below[2] <= below[0] or below[3] <= below[1]:
        return None, mask
    if mouth.shape[2] == _BGRA:
        mask = replace(mask, weights=mask.weights * (mouth[:, :, 3] / np.float32(255)))
    if front is not None:
        mask = replace(mask, weights=mask.weights * (1 - front[-rows:]))
    return below, mask


def _part(plane: Array, box: Box) -> tuple[Array, Box] | None:
    """Return the pixels of a plane that a box touches, and the box in them; None if there are none."""
    height, width = plane.shape
    left, top = np.maximum(np.floor(box[:2]).astype(int), 0)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int), (width, height))
    if right <= left or bottom <= top:
        return None
    return plane[top:bottom, left:right], box - np.array([left, top, left, top], np.float32)


def _blend(plane: NDArray[np.uint8], patch: Array, box: Box, mask: Mask) -> NDArray[np.uint8]:
    """Return the plane with `patch` float32 [rows, columns] in the box, weighted by the mask."""
    result: NDArray[np.uint8] = plane.copy()
    part = _part(result, box)
    if part is None:
        return plane
    under, inside = part
    size = (under.shape[1], under.shape[0])
    resized = _resize(patch, inside, size, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)
    if not mask.exact:
        # linear: the overshoot of cubic interpolation would change pixels outside the mask
        weights = _resize(mask.weights, inside, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        detail = np.minimum(weights, 1 - weights) * _detail(under, inside, patch.shape)
        resized = under + weights * (resized - under) + detail
    under[:] = np.clip(np.rint(resized), 0, 255)
    return result


def _detail(under: Array, box: Box, grid: tuple[int, ...]) -> Array:
    """Return the detail of an image that a patch of `grid` (rows, columns) in the box cannot have.

    Blending halves the grain of the skin; adding this detail restores it.
    """
    height, width = under.shape
    down, across = (box[3] - box[1]) / grid[0], (box[2] - box[0]) / grid[1]
    if min(across, down) < _LEAST_ENLARGEMENT:
        return np.zeros(under.shape, np.float32)
    coarse = max(1, round(width / across)), max(1, round(height / down))
    smooth = cv2.resize(cv2.resize(under, coarse, interpolation=cv2.INTER_AREA), (width, height))
    return np.subtract(under, smooth, dtype=np.float32)


def _resize(patch: Array, box: Box, size: tuple[int, int], interpolation: int, border: int) -> Array:
    """Return the patch resized to the box, on a canvas of `size` (width, height)."""
    rows, columns = patch.shape
    across, down = (box[2] - box[0]) / columns, (box[3] - box[1]) / rows
    if min(across, down) < 1:  # average over the area of a pixel when shrinking
        smaller = max(1, round(columns * min(across, 1))), max(1, round(rows * min(down, 1)))
        patch = cv2.resize(patch, smaller, interpolation=cv2.INTER_AREA)
        rows, columns = patch.shape
    to_canvas = grid_to_box(box, columns, rows)
    resized: Array = cv2.warpAffine(patch, to_canvas, size, flags=interpolation, borderMode=border)
    return resized
