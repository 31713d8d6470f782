"""Motion of a face between two frames, from their luma.

Pyramidal Lucas-Kanade tracks corners of the upper face (brows, eyes, nose), which speech does not move. A
similarity transform is fitted to the points that pass a forward-backward check. All positions are floats:
nothing is rounded to a pixel.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.media.yuv_image import Box

Luma = NDArray[np.uint8]
Array = NDArray[Any]

_FACE_PX = 90
"""Size to which a face is shrunk for tracking: enough for a precision of 1/50 pixel per point."""
_MAX_POINTS = 60
_MIN_POINTS = 8
_CHANGE_OF_LIGHT = 20
"""Difference of two mean levels above which points cannot be tracked without correction."""
_CORNER_MARGIN = 4
"""Pixels around the upper face that affect its corners."""
_FLOW = {
    "winSize": (17, 17),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01),
}


@dataclass(frozen=True)
class Pose:
    """Position and size of a face in pixels, and its turn in the image."""

    x: float
    y: float
    side: float
    """Geometric mean of width and height."""
    angle: float = 0.0
    """Clockwise turn in radians since the path began. Boxes do not turn; landmarks do."""

    @classmethod
    def of_box(cls, box: Box) -> Pose:
        """Return the pose of a box."""
        x1, y1, x2, y2 = (float(edge) for edge in box)
        return cls((x1 + x2) / 2, (y1 + y2) / 2, math.sqrt(max(1e-6, (x2 - x1) * (y2 - y1))))

    def relative(self, box: Box) -> NDArray[np.float64]:
        """Return a box relative to this pose, [4]: x, y in units of `side`, log width, log height."""
        x1, y1, x2, y2 = (float(edge) for edge in box)
        x, y = (x1 + x2) / 2 - self.x, (y1 + y2) / 2 - self.y
        width, height = (x2 - x1) / self.side, (y2 - y1) / self.side
        return np.array([x / self.side, y / self.side, math.log(width), math.log(height)])

    def absolute(self, relative: NDArray[np.float64]) -> Box:
        """Return the box for a result of `relative`."""
        x, y = self.x + relative[0] * self.side, self.y + relative[1] * self.side
        half_width, half_height = np.exp(relative[2:]) * self.side / 2
        return np.array([x - half_width, y - half_height, x + half_width, y + half_height], np.float32)

    def relative_points(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return points [K, 2] relative to this pose, in units of `side`, turned back by `angle`."""
        return np.asarray((points - [self.x, self.y]) @ self._turn() / self.side, np.float64)

    def absolute_points(self, relative: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the points for a result of `relative_points`."""
        points = relative @ self._turn().T * self.side + [self.x, self.y]
        return np.asarray(points, np.float32)

    def _turn(self) -> NDArray[np.float64]:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])


def move(before: Luma, after: Luma, pose: Pose, velocity: tuple[float, float] = (0.0, 0.0)) -> Pose | None:
    """Return the pose in `after` of the face at `pose` in `before`; None if it cannot be tracked.

    Both are uint8 [H, W]. `velocity` in pixels per frame is the initial guess.
    """
    moved = _by_points(before, after, pose, velocity)
    if moved is None:
        jump = _by_template(before, after, pose)
        if jump is not None:
            moved = _by_points(before, after, pose, jump)
    return moved


def _by_points(before: Luma, after: Luma, pose: Pose, guess: tuple[float, float]) -> Pose | None:
    """Fit a similarity transform to corners of the upper face."""
    step = max(1, round(pose.side / _FACE_PX))
    # Both frames are cropped on the same lattice, so that a still face is sampled identically in both.
    reach = 0.75 * pose.side + 8 * step
    left = _lattice(pose.x - reach + min(0.0, guess[0]), step, before.shape[1])
    right = _lattice(pose.x + reach + max(0.0, guess[0]), step, before.shape[1])
    top = _lattice(pose.y - reach + min(0.0, guess[1]), step, before.shape[0])
    bottom = _lattice(pose.y + reach + max(0.0, guess[1]), step, before.shape[0])
    if min(right - left, bottom - top) < 24 * step:
        return None
    old, new = (_shrink(image[top:bottom, left:right], step) for image in (before, after))
    new = _in_light_of(old, new)
    centre = complex((pose.x - left) / step - 0.5, (pose.y - top) / step - 0.5)
    side = pose.side / step

    start = _corners(old, centre, side)
    if start is None:
        return None
    end, good = track_points(old, new, start, np.array([guess[0] / step, guess[1] / step], np.float32))
    if good.sum() < max(_MIN_POINTS, 0.25 * len(start)):
        return None
    source = _complex(start)[good] - centre
    turn, offset, inliers = _similarity(source, _complex(end)[good] - centre)
    if inliers < _MIN_POINTS or inliers < 0.2 * len(start) or not 0.8 < abs(turn) < 1.25:
        return None
    refined = _refine(old, new, centre, side, turn, offset)
    if refined is None:
        return None
    turn, offset = refined
    return Pose(
        pose.x + offset.real * step,
        pose.y + offset.imag * step,
        pose.side * abs(turn),
        pose.angle + cmath.phase(turn),
    )


def track_points(before: Luma, after: Luma, start: Array, shift: Array) -> tuple[Array, Array]:
    """Return the points float32 [P, 1, 2] of `before` in `after`, and bool [P], whether each is reliable.

    `shift` in pixels is the initial guess for all points. A point is reliable when tracking it back ends
    within half a pixel of its start.
    """
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    end, status, _ = cv2.calcOpticalFlowPyrLK(before, after, start, start + shift, flags=flags, **_FLOW)  # type: ignore[call-overload]
    back, back_status, _ = cv2.calcOpticalFlowPyrLK(after, before, end, start.copy(), flags=flags, **_FLOW)  # type: ignore[call-overload]
    error = np.linalg.norm(back - start, axis=2).ravel()
    return end, (status.ravel() == 1) & (back_status.ravel() == 1) & (error < 0.5)


def _lattice(edge: float, step: int, limit: int) -> int:
    """Return the multiple of `step` nearest to `edge` in 0..limit."""
    return min(max(round(edge / step), 0), limit // step) * step


def _shrink(image: Luma, step: int) -> Luma:
    """Return the means of squares of `step` pixels. OpenCV is several times faster for squares of 2."""
    while step > 1:
        factor = 2 if step % 2 == 0 else step
        size = (image.shape[1] // factor, image.shape[0] // factor)
        image, step = cast(Luma, cv2.resize(image, size, interpolation=cv2.INTER_AREA)), step // factor
    return np.ascontiguousarray(image)


def _in_light_of(old: Luma, new: Luma) -> Luma:
    """Return `new` with the mean and contrast of `old` if its light differs much: a flash or a strobe."""
    mean, new_mean = cv2.mean(old)[0], cv2.mean(new)[0]
    if abs(new_mean - mean) < _CHANGE_OF_LIGHT:
        return new
    spread, new_spread = old.std(), max(1.0, new.std())
    levels = (np.arange(256) - new_mean) * (spread / new_spread) + mean
    return cast(Luma, cv2.LUT(new, np.clip(np.rint(levels), 0, 255).astype(np.uint8)))


def _corners(image: Luma, centre: complex, side: float) -> Array | None:
    """Return corners of the upper face, float32 [P, 1, 2], away from mouth, hair and background."""
    middle = np.array([round(centre.real), round(centre.imag - 0.10 * side)])
    radii = np.array([round(0.36 * side), round(0.30 * side)])
    left, top = (int(edge) for edge in np.maximum(middle - radii - _CORNER_MARGIN, 0))
    right, bottom = (int(edge) for edge in np.maximum(middle + radii + _CORNER_MARGIN, 0))
    part = image[top:bottom, left:right]
    if not part.size:
        return None
    mask = np.zeros_like(part)
    cv2.ellipse(mask, (middle - [left, top]).tolist(), radii.tolist(), 0, 0, 360, 255, -1)
    spacing = max(2.0, side / 22)
    points = cv2.goodFeaturesToTrack(part, _MAX_POINTS, 0.005, spacing, mask=mask, blockSize=5)
    if points is None or len(points) < _MIN_POINTS:
        return None
    return cast(Array, points + np.array([left, top], np.float32))


def _complex(points: Array) -> Array:
    flat = points.reshape(-1, 2).astype(np.float64)
    return cast(Array, flat[:, 0] + 1j * flat[:, 1])


def _similarity(source: Array, target: Array) -> tuple[complex, complex, int]:
    """Return turn, offset, inliers of target = turn * source + offset, by reweighted least squares."""
    flow = target - source
    turn, offset = 1 + 0j, complex(_median(flow.real), _median(flow.imag))
    residual = np.abs(flow - offset)
    for _ in range(4):  # `_refine` does the rest
        width = max(0.15, 1.5 * _median(residual))
        weight = 1 / (1 + (residual / width) ** 2) ** 2
        weight /= weight.sum()
        from_centre, to_centre = (weight * source).sum(), (weight * target).sum()
        away = source - from_centre
        spread = (weight * np.abs(away) ** 2).sum()
        turn = complex((weight * away.conj() * (target - to_centre)).sum() / max(float(spread), 1e-6))
        offset = complex(to_centre - turn * from_centre)
        residual = np.abs(turn * source + offset - target)
    return turn, offset, int((residual < 0.75).sum())


def _median(values: Array) -> float:
    """Return the upper median; `np.median` spends most of its time on checks."""
    half = values.size // 2
    return float(np.partition(values, half)[half])


def _refine(
    old: Luma, new: Luma, centre: complex, side: float, turn: complex, offset: complex
) -> tuple[complex, complex] | None:
    """Return the similarity that aligns all pixels of the upper face; None when the alignment fails.

    Points alone exaggerate a zoom by a sixth, as their windows include strong edges outside the corner.
    Gauss-Newton, inverse compositional (Baker & Matthews 2004), with gain and bias for changes of light and
    robust weights against eyelids and shadows.
    """
    unit = 1.04 * side / _PATCH
    away = -0.13j * side  # from the centre of the box to that of the upper face
    template = _patch(old, centre + away, 1 + 0j, unit)
    down, across = np.gradient(template)
    x, y = _PATCH_X, _PATCH_Y
    columns = [across, down, across * x + down * y, down * x - across * y, template, np.ones_like(template)]
    design = np.stack([column.ravel()[_PATCH_MASK] for column in columns])
    flat = template.ravel()[_PATCH_MASK]
    for _ in range(4):
        difference = _patch(new, centre + turn * away + offset, turn, unit).ravel()[_PATCH_MASK] - flat
        size = np.abs(difference - _median(difference))
        weighted = design / (1 + (size / max(2.0, 2 * _median(size))) ** 2)
        normal = weighted @ design.T
        normal[np.diag_indices(6)] *= 1 + 1e-6
        normal[np.diag_indices(6)] += 1e-3
        dx, dy, grow, spin, _, _ = np.linalg.solve(normal, weighted @ difference)
        # new(z) = old(z + d(z)), so z in `old` corresponds to z - d(z) before this transform.
        step, change = complex(dx, dy) * unit, complex(grow, spin)
        middle = offset + turn * away
        middle -= turn * step
        turn *= 1 - change
        offset = middle - turn * away
        if not 0.8 < abs(turn) < 1.25 or abs(step) > 0.3 * side:
            return None
        if abs(step) < 0.003 and abs(change) < 1e-4:
            break
    now = _patch(new, centre + turn * away + offset, turn, unit).ravel()[_PATCH_MASK]
    flat, now = flat - flat.mean(), now - now.mean()
    norms = float(np.linalg.norm(flat)), float(np.linalg.norm(now))
    is_flat = min(norms) <= 0.5 * math.sqrt(len(flat))
    return None if is_flat or float(flat @ now) <= 0.7 * norms[0] * norms[1] else (turn, offset)


_PATCH = 48
_PATCH_Y, _PATCH_X = np.mgrid[:_PATCH, :_PATCH].astype(np.float32) - (_PATCH - 1) / 2
# From hairline to nostrils and from ear to ear: mostly rigid, unlike the brows alone.
_PATCH_MASK = np.flatnonzero((_PATCH_X / (0.5 * _PATCH)) ** 2 + (_PATCH_Y / (0.35 * _PATCH)) ** 2 < 1)


def _patch(image: Luma, middle: complex, turn: complex, unit: float) -> NDArray[np.float32]:
    """Return float32 [48, 48] around `middle`, one pixel `unit` wide, rotated and zoomed by `turn`."""
    axis = turn * unit
    corner = middle - axis * complex(_PATCH - 1, _PATCH - 1) / 2
    matrix = np.array([[axis.real, -axis.imag, corner.real], [axis.imag, axis.real, corner.imag]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(image, matrix, (_PATCH, _PATCH), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return patch.astype(np.float32)


def _by_template(before: Luma, after: Luma, pose: Pose) -> tuple[float, float] | None:
    """Return an initial guess in pixels for a face that moved further than the points can reach."""
    unit = max(1.0, pose.side / 24)
    half, reach = 0.5 * pose.side, 2.0 * pose.side
    patch, _ = _window(before, pose, half, unit)
    area, corner = _window(after, pose, reach, unit)
    if patch is None or area is None or min(patch.shape) < 12 or corner is None:
        return None
    if area.shape[0] < patch.shape[0] or area.shape[1] < patch.shape[1]:
        return None
    scores = cv2.matchTemplate(area, patch, cv2.TM_CCOEFF_NORMED)
    _, best, _, (column, row) = cv2.minMaxLoc(scores)
    if best < 0.6:
        return None
    origin_x, origin_y = max(0, int(pose.x - half)), max(0, int(pose.y - half))
    return corner[0] + column * unit - origin_x, corner[1] + row * unit - origin_y


def _window(image: Luma, pose: Pose, half: float, unit: float) -> tuple[Luma | None, tuple[int, int] | None]:
    left, top = max(0, int(pose.x - half)), max(0, int(pose.y - half))
    part = image[top : max(top, int(pose.y + half)), left : max(left, int(pose.x + half))]
    size = (int(part.shape[1] / unit), int(part.shape[0] / unit))
    if min(size) < 1:
        return None, None
    return cast(Luma, cv2.resize(part, size, interpolation=cv2.INTER_AREA)), (left, top)
