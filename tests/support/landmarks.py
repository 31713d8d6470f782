"""Landmarks of a mean face at known angles."""

import numpy as np

from wav2lip_npu.faces.head_pose import MEAN_FACE


def projected(yaw: float, pitch: float, roll: float, scale: float = 30, noise: float = 0):
    """Return the landmarks, float32 [5, 2], after rotations about x, then y, then z in degrees."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned = MEAN_FACE @ (about_z @ about_y @ about_x).T
    random = np.random.default_rng(0).normal(0, noise, (5, 2))
    return ((turned[:, :2] + random) * scale + [400, 300]).astype(np.float32)
