"""Which detections become a track, and who is tracked when people cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from faces.test_find_faces import HEIGHT, NO_PADS, WIDTH, RedDetector, follow, scene, texture, video
from hypothesis import given
from hypothesis import strategies as st

from support.marks import slow
from support.title_film import SCENE, title_frames
from wav2lip_npu.faces import tracker
from wav2lip_npu.faces.box_limits import is_plausible, within_limits
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.media.yuv_image import Box, Colour, Image, YuvImage

HEAD = (150.0, 90.0, 70.0)
POINTS = np.array([[0.33, 0.4], [0.67, 0.4], [0.5, 0.58], [0.37, 0.76], [0.63, 0.76]], np.float32)
"""Landmarks in fractions of a box."""
ROWS = 10_000
"""Height of a frame that cuts no face off."""


# The start of a track.
@pytest.mark.parametrize("frames", [[12], [10, 11], [0], [10, 20, 30]])
def test_false_faces_of_single_frames_are_ignored(frames: list[int]) -> None:
    tracked = follow(video([scene([(*HEAD, i in frames)]) for i in range(40)]))
    assert all(item.box is None for item in tracked)


def test_false_faces_that_jump_are_ignored() -> None:
    """Moving text looks like a face, now here, now there."""

    class Jumpy(RedDetector):
        rng = np.random.default_rng(0)

        def _detect(self, image: Image) -> list[Detection]:
            side = min(image.shape[:2])
            x, y = 0.5 * np.array(image.shape[1::-1]) + self.rng.uniform(-0.25, 0.25, 2) * side
            half = 0.28 * side
            return [Detection(np.array([x - half, y - half, x + half, y + half], np.float32), 0.9)]

    tracked = follow(video([scene([(*HEAD, True)])] * 60), Jumpy())
    assert all(item.box is None for item in tracked)


@pytest.mark.parametrize("first", [1, 7, 13])
def test_face_is_tracked_from_its_first_frame(first: int) -> None:
    tracked = follow(video([scene([(*HEAD, True)] if i >= first else []) for i in range(50)]))
    assert [item.box is not None for item in tracked] == [i >= first for i in range(50)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_short_shots_keep_their_face(count: int) -> None:
    shots = [scene([], background=2)] * 12 + [scene([(*HEAD, True)], background=3)] * count
    tracked = follow(video([*shots, *[scene([], background=4)] * 12]))
    assert [item.box is not None for item in tracked] == [12 <= i < 12 + count for i in range(24 + count)]


def test_face_in_large_frames_is_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 8K leave the tracker before a new face has been confirmed six frames later."""
    shots = [scene([(*HEAD, True)] if i >= 5 else []) for i in range(30)]
    monkeypatch.setattr(tracker, "LOOK_AHEAD_BYTES", 10.5 * shots[0].nbytes)
    assert [item.box is not None for item in follow(video(shots))] == [i >= 5 for i in range(30)]
    monkeypatch.setattr(tracker, "LOOK_AHEAD_BYTES", 1)
    assert [item.box is not None for item in follow(video(shots))][8:] == [True] * 22


def test_face_is_tracked_under_flashing_light() -> None:
    """The light changes before three detections can agree."""
    bright = scene([(*HEAD, True)])
    dark = replace(bright, y=bright.y // 4)
    tracked = follow(video([bright if i // 3 % 2 else dark for i in range(30)]))
    assert all(item.box is not None for item in tracked)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_spinning_titles_have_no_face(seed: int) -> None:
    """B11"""
    tracked = list(find_faces(title_frames(3 * SCENE, seed), load_detector("auto"), NO_PADS))
    assert len(tracked) == 3 * SCENE and all(item.box is None for item in tracked)


# Two people.
TEXTURES = texture(1, (128, 128)), texture(7, (128, 128))


def crossing(people: Sequence[tuple[float, float]], side: float = 64) -> YuvImage:
    """Draw people at x, y, the later ones in front; the first is red, the second is redder."""
    planes = scene([])
    y, u, v = planes.y.copy(), planes.u.copy(), planes.v.copy()
    for skin, red, (x, top) in zip(TEXTURES, (170, 230), people, strict=True):
        zoom = side / 128
        matrix = np.array([[zoom, 0, x - side / 2], [0, zoom, top - side / 2]])
        inside = cv2.warpAffine(np.full_like(skin, 255), matrix, (WIDTH, HEIGHT)) > 127
        y[inside] = cv2.warpAffine(skin, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)[inside]
        v[inside[::2, ::2]] = red
    return YuvImage(y, u, v, Colour())


class TwoPeople(RedDetector):
    """Detects each of two people unless less than half of the face is visible, with landmarks."""

    def _detect(self, image: Image) -> list[Detection]:
        red = image[:, :, 2].astype(int) - image[:, :, 1]
        found = []
        for low, high in ((35, 105), (105, 300)):
            mask = cv2.morphologyEx(
                ((red > low) & (red < high)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5))
            )
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            for left, top, width, height, area in stats[1:]:
                if area < 100 or not 0.7 < width / height < 1.4:
                    continue
                box = np.array([left, top, left + width, top + height], np.float32)
                found.append(Detection(box, 0.9, box[:2] + POINTS * (box[2:] - box[:2])))
        return found


@pytest.mark.parametrize("speed", [slow(2), 4, slow(7)])
@pytest.mark.parametrize("tracked_in_front", [False, True])
def test_track_does_not_jump_to_another_person(speed: int, tracked_in_front: bool) -> None:
    count = 60 + 200 // speed
    path = [min(max(-100 + speed * (i - 15), -100), 100) for i in range(count)]
    people = [((160 + x, 84.0), (160 - x, 96.0)) for x in path]
    shots = [crossing(pair) for pair in people]
    number = int(tracked_in_front)
    rule = FaceOptions(face_select="right" if tracked_in_front else "left", pads=(0, 0, 0, 0))
    tracked = follow(video(shots), TwoPeople(), rule)
    for item, pair in zip(tracked, people, strict=True):
        if item.box is None:
            continue
        x = (item.box[0] + item.box[2]) / 2
        ours, other = pair[number][0], pair[1 - number][0]
        if abs(ours - other) > 50:
            assert abs(x - ours) < abs(x - other), item.frame.index
    assert all(item.box is not None for item in tracked[:10])
    assert all(item.box is not None for item in tracked[-15:])
    if tracked_in_front:
        assert all(item.box is not None for item in tracked)


# Boxes as in training.
def box_around(points: np.ndarray, width: float, height: float) -> Box:
    x, y = (points[:2].mean(axis=0) + points[3:].mean(axis=0)) / 2
    return np.array([x - width / 2, y - 0.58 * height, x + width / 2, y + 0.42 * height], np.float32)


def test_ordinary_boxes_are_unchanged() -> None:
    points = 100 + 80 * POINTS
    box = box_around(points, 66, 80)
    np.testing.assert_allclose(within_limits(box, points, ROWS), box, atol=1e-3)
    assert is_plausible(box, points)


def test_box_of_a_cut_chin_continues_below_the_frame() -> None:
    """B2: RetinaFace's box of such a face is too short, so the mouth would lie too low in it."""
    points = 100 + 80 * POINTS
    short = box_around(points, 66, 80)
    short[3] -= 7
    limited = [within_limits(short, points, rows) for rows in range(200, 150, -1)]
    heights = np.array([box[3] - box[1] for box in limited])
    assert heights[0] == pytest.approx(73, abs=0.1)
    assert heights[-1] == pytest.approx(80 * 0.58 / 0.55, abs=0.5)
    assert np.diff(heights).min() >= 0 and np.diff(heights).max() < 4, "no jump at the edge"


@given(
    st.floats(0.2, 5),
    st.floats(0.2, 5),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_boxes_are_kept_within_limits(wide: float, high: float, shift: tuple[float, float]) -> None:
    points = 100 + 80 * POINTS
    box = box_around(points, 66 * wide, 80 * high) + np.float32([*shift, *shift]) * 80
    limited = within_limits(box, points, ROWS)
    width, height = limited[2:] - limited[:2]
    assert 0.3 < 0.36 * 80 / height < 0.45 and 0.66 < width / height < 0.98
    middle = (points[:2].mean(axis=0) + points[3:].mean(axis=0)) / 2
    x, y = (middle - limited[:2]) / (width, height)
    assert 0.27 < x < 0.77 and 0.47 < y < 0.63
    np.testing.assert_allclose(within_limits(limited, points, ROWS), limited, atol=0.02)
    assert is_plausible(limited, points)
