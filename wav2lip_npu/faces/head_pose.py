"""Estimate the direction of a face from its five landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Eyes, nose and corners of the mouth in units of half the distance of the eyes: x to the right in the image,
# y down, z towards the camera. The depths are those of a mean head. The other values were fitted together
# with the poses of 1,392 frames of 165 people.
_EYE_TO_NOSE, _NOSE_DEPTH = 0.80, 1.1
_MOUTH_WIDTH, _EYE_TO_MOUTH, _MOUTH_DEPTH = 0.84, 1.77, -0.15
MEAN_FACE = np.array(
    [
        [-1, 0, 0],
        [1, 0, 0],
        [0, _EYE_TO_NOSE, _NOSE_DEPTH],
        [-_MOUTH_WIDTH, _EYE_TO_MOUTH, _MOUTH_DEPTH],
        [_MOUTH_WIDTH, _EYE_TO_MOUTH, _MOUTH_DEPTH],
    ]
)
_CENTRED = MEAN_FACE - MEAN_FACE.mean(axis=0)
_STEPS, _CONVERGED = 8, 1e-3
_MAX_STEP = 0.3
"""Radians that the pose changes in one step."""


@dataclass(frozen=True)
class HeadPose:
    """The direction of a face in degrees; all angles are 0 for a face that looks into the camera."""

    yaw: float
    """Above 0 if the face is turned to the right of the image."""
    pitch: float
    """Above 0 if the face looks down."""
    roll: float
    """Above 0 if the head is tilted clockwise."""


def head_pose(landmarks: NDArray[np.float32]) -> HeadPose:
    """Return the head pose for which a mean face shape best fits the landmarks.

    Fits a scaled orthographic projection with Gauss-Newton steps. Individual shapes of the face cause errors
    of some 10 degrees.

    Args:
        landmarks: Eyes, nose and corners of the mouth, each from left to right in the image, [5, 2], as in
            `Detection.landmarks`.

    """
    points = np.asarray(landmarks, np.float64)
    points = points - points.mean(axis=0)
    right, down = points[1] - points[0], points[3:].sum(axis=0) - points[:2].sum(axis=0)
    roll = np.arctan2(right[1] - down[0], right[0] + down[1])
    # From a face that looks into the camera, so that the steps do not end in the mirrored pose.
    rotation = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    for _ in range(_STEPS):
        before, rotation = rotation, _improved(rotation, points)
        if np.abs(rotation - before).max() < _CONVERGED:
            break
    normal = rotation[:, 2]
    return HeadPose(
        yaw=float(np.degrees(np.arctan2(normal[0], normal[2]))),
        pitch=float(np.degrees(np.arcsin(np.clip(normal[1], -1, 1)))),
        roll=float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))),
    )


def _improved(rotation: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation after one Gauss-Newton step; the scale is the best for the rotation."""
    turned = _CENTRED @ rotation.T
    flat = turned[:, :2]
    scale = max(float((flat * points).sum() / max((flat**2).sum(), 1e-9)), 1e-9)
    x, y, z = turned.T
    zero = np.zeros(len(x))
    # Derivatives of the projected points: rotations about x, y and z, and the logarithm of the scale.
    slopes = np.concatenate([np.stack([zero, z, -y, x], axis=1), np.stack([-z, zero, x, y], axis=1)])
    error = (flat - points / scale).T.ravel()
    step = np.linalg.lstsq(slopes, -error, rcond=None)[0][:3]
    step *= min(1.0, _MAX_STEP / max(float(np.linalg.norm(step)), 1e-9))
    return np.asarray(cv2.Rodrigues(step)[0] @ rotation)
