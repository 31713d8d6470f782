"""Landmarks along the path of a face."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from skimage import data

from support.marks import slow
from support.moving_photo import moving_photo
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.faces.track import Sighting, Track

PHOTO = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
BOX = np.array([-0.45, -0.5, 0.45, 0.5], np.float32)
POINTS = np.array([[-0.2, -0.1], [0.2, -0.1], [0, 0.1], [-0.15, 0.3], [0.15, 0.3]])


def sightings(shift: Callable[[int], float], every: int, count: int) -> list[Sighting]:
    """Return detections of a face whose landmarks move inside its box."""
    still = Pose(0, 0, 1)
    return [
        Sighting(i, still.relative(BOX), 1.0, POINTS + np.array([shift(i), 0]))
        for i in range(0, count, every)
    ]


def test_points_relative_to_a_pose_are_restored() -> None:
    pose = Pose(120.5, 80.25, 77, 0.3)
    points = np.random.default_rng(0).uniform(0, 200, (5, 2)).astype(np.float32)
    np.testing.assert_allclose(pose.absolute_points(pose.relative_points(points)), points, atol=1e-3)
    right = Pose(100, 50, 10, math.pi / 2).absolute_points(np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(right, [[100, 60]], atol=1e-4)


def test_landmarks_follow_a_turning_head_within_a_few_frames() -> None:
    """The nose moves by 0.3 of the face in 10 frames, as when a head turns by 45 degrees."""

    def shift(i: int) -> float:
        return 0.3 * min(max((i - 40) / 10, 0), 1)

    track = Track(0, sightings(shift, 5, 100))
    lag = [abs(track.landmarks(i, Pose(0, 0, 1))[2, 0] - shift(i)) for i in range(90)]
    assert max(lag) < 0.06 and np.mean(lag) < 0.006


def test_landmarks_of_a_still_head_are_smoothed() -> None:
    rng = np.random.default_rng(0)
    track = Track(0, sightings(lambda i: rng.normal(0, 0.01), 5, 100))
    nose = [track.landmarks(i, Pose(0, 0, 1))[2, 0] for i in range(90)]
    assert np.std(nose) < 0.009 and np.abs(np.diff(nose)).max() < 0.006


def test_tracks_without_landmarks_have_none() -> None:
    still = Pose(0, 0, 1)
    track = Track(0, [Sighting(0, still.relative(BOX), 1.0)])
    assert track.landmarks(0, still) is None and track.box(0, still) is not None


@pytest.mark.parametrize("nosmooth", [False, slow(True)])
def test_landmarks_of_a_photo_along_a_known_path(nosmooth: bool) -> None:
    detector = load_detector("retinaface")
    (photo,) = (face for face in detector([PHOTO])[0] if face.score > 0.5)
    frames, true = moving_photo(
        PHOTO,
        photo.box,
        lambda i: (320 + 60 * np.sin(i / 8), 180, 1.5 * 1.2 ** np.sin(i / 9), 12 * np.sin(i / 7)),
        40,
        points=photo.landmarks,
    )
    options = FaceOptions(nosmooth=nosmooth)
    tracked = list(find_faces(iter(frames), detector, options))
    side = 1.5 * np.sqrt(np.prod(photo.box[2:] - photo.box[:2]))
    error = [
        np.linalg.norm(item.landmarks - points, axis=1).max()
        for item, points in zip(tracked, true, strict=True)
    ]
    assert max(error) < 0.06 * side and np.mean(error) < 0.03 * side
