"""Put a generated mouth back into its frame.

The mouth is blended in the frame's own planes: where the mask is 0 not a bit of the frame changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.yuv_image import Array, Box, Image, YuvImage, grid_to_box, to_yuv

BLENDS = ("soft", "hard")
_BGRA = 4
# The soft mask, in parts of the face box: a superellipse from under the eyes to the chin whose rim fades
# out inwards. Its top lies just above the middle, where the picture that the network was given ends.
_CENTRE = (0.5, 0.725)
_RADII = (0.48, 0.265)
_POWER = 3.5
_RIM = 0.2


@dataclass(frozen=True)
class Mask:
    """How much of the generated face shows: `weights` float32 [S - top_row, S] of its lower rows."""

    top_row: int
    weights: NDArray[np.float32]
    exact: bool
    """Whole pixels, as the original pastes, instead of fractions of them."""


@cache
def load_mask(blend: str, size: int) -> Mask:
    """The mask of `soft` (lower face, feathered) or `hard` (the whole box). Raises `UsageError` else."""
    if blend not in BLENDS:
        raise UsageError(f"unknown --blend {blend!r}. Pass {' or '.join(BLENDS)}.")
    if blend == "hard":
        return Mask(0, np.ones((size, size), np.float32), exact=True)
    x, y = (np.abs((np.arange(size) + 0.5) / size - c) / r for c, r in zip(_CENTRE, _RADII, strict=True))
    reach = (x[None, :] ** _POWER + y[:, None] ** _POWER) ** (1 / _POWER)
    depth = np.clip((1 - reach) / _RIM, 0, 1)
    weights = (depth * depth * (3 - 2 * depth)).astype(np.float32)
    top_row = int(np.flatnonzero(weights.any(axis=1))[0])
    return Mask(top_row, weights[top_row:], exact=False)


def paste(planes: YuvImage, mouth: Image, box: Box, mask: Mask) -> YuvImage:
    """The picture with a mouth in the lower part of a face box; the input picture is not touched.

    `mouth` is uint8 [S - top_row, S, 3 or 4]: the rows of the generated face from `mask.top_row` on, BGR or
    BGRA, where A says how much of what the mask lets through is to be seen.
    """
    rows, size = mask.weights.shape
    x1, y1, x2, y2 = np.round(box) if mask.exact else box
    below = np.array([x1, y1 + (y2 - y1) * (size - rows) / size, x2, y2], np.float32)
    if below[2] <= below[0] or below[3] <= below[1]:
        return planes
    if mouth.shape[2] == _BGRA:
        mask = replace(mask, weights=mask.weights * (mouth[:, :, 3] / np.float32(255)))
        mouth = mouth[:, :, :3]
    y, u, v = cv2.split(to_yuv(mouth.astype(np.float32), planes.colour))
    half = below * np.float32(0.5)
    half = np.round(half) if mask.exact else half
    return replace(
        planes,
        y=_blend(planes.y, y, below, mask),
        u=_blend(planes.u, u, half, mask),
        v=_blend(planes.v, v, half, mask),
    )


def _blend(plane: NDArray[np.uint8], patch: Array, box: Box, mask: Mask) -> NDArray[np.uint8]:
    """The plane with `patch` float32 [rows, columns] over the box, weighted by the mask."""
    height, width = plane.shape
    left, top = np.maximum(np.floor(box[:2]).astype(int), 0)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int), (width, height))
    if right <= left or bottom <= top:
        return plane
    size = (int(right - left), int(bottom - top))
    inside = box - np.array([left, top, left, top], np.float32)
    placed = _place(patch, inside, size, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)
    result: NDArray[np.uint8] = plane.copy()
    under = result[top:bottom, left:right]
    if not mask.exact:
        # cubic weights would swing below 0, and the picture change where the mouth does not reach
        weights = _place(mask.weights, inside, size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        placed = under + weights * (placed - under)
    under[:] = np.clip(np.rint(placed), 0, 255)
    return result


def _place(patch: Array, box: Box, size: tuple[int, int], stretch: int, border: int) -> Array:
    """The patch stretched over the box on a canvas of `size` (width, height)."""
    rows, columns = patch.shape
    across, down = (box[2] - box[0]) / columns, (box[3] - box[1]) / rows
    if min(across, down) < 1:  # shrinking needs the mean of what a pixel covers
        smaller = max(1, round(columns * min(across, 1))), max(1, round(rows * min(down, 1)))
        patch = cv2.resize(patch, smaller, interpolation=cv2.INTER_AREA)
        rows, columns = patch.shape
    to_canvas = grid_to_box(box, columns, rows)
    placed: Array = cv2.warpAffine(patch, to_canvas, size, flags=stretch, borderMode=border)
    return placed
