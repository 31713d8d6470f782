"""All faces of each shot, with boxes between the detections."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.shot_faces import follow_faces
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage


class Detector:
    """Detects faces at the places that the test gives for each frame, which is told by its brightness."""

    short_side = 120

    def __init__(self, places):
        self._places, self.calls = places, []

    def __call__(self, images):
        numbers = [int(np.rint(image[:8, :8].mean() / 2)) for image in images]
        self.calls += numbers
        return [
            [Detection(np.array([x, 40, x + 40, 80], np.float32), score) for x, score in self._places(number)]
            for number in numbers
        ]


def frames(count: int, cut: int = 1000) -> list[Frame]:
    made = []
    for number in range(count):
        image = np.random.default_rng(number >= cut).integers(0, 255, (120, 300, 3)).astype(np.uint8)
        image[:20, :20] = 2 * number
        made.append(Frame(number, YuvImage.from_image(image, Colour()), number))
    return made


def test_boxes_move_evenly_between_detections():
    detector = Detector(lambda number: [(10 + 2 * number, 0.9), (200, 0.9), (100, 0.4)])
    shown = list(follow_faces(frames(12), detector, Fraction(25)))
    assert [one.frame.index for one in shown] == list(range(12))
    assert detector.calls == [0, 5, 10, 11]
    assert [[round(float(one.boxes[track][0])) for track in (0, 1)] for one in shown] == [
        [10 + 2 * number, 200] for number in range(12)
    ]


def test_face_that_is_missed_once_goes_on():
    detector = Detector(lambda number: [(10, 0.9)] if number != 5 else [])
    shown = list(follow_faces(frames(11), detector, Fraction(25)))
    assert [list(one.boxes) for one in shown] == [[0]] + [[]] * 5 + [[0]] * 5


def test_faces_after_a_cut_are_others():
    detector = Detector(lambda number: [(10, 0.9)])
    shown = list(follow_faces(frames(10, cut=7), detector, Fraction(25)))
    assert [one.shot for one in shown] == [0] * 7 + [1] * 3
    assert [list(one.boxes) for one in shown] == [[0]] * 7 + [[1]] * 3
    assert detector.calls == [0, 5, 6, 7, 9]
