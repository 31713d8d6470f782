"""A plan of faces: which face is wanted when, and its tracking."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.face_plan import FacePlan, PlannedFaces, PlannedSpan
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage

LEFT, RIGHT = (np.array([x, 20, x + 40, 60], np.float32) for x in (10, 200))


def span(start: float, end: float, *boxes: np.ndarray) -> PlannedSpan:
    seconds = np.linspace(start, end, len(boxes))
    return PlannedSpan(Fraction(str(start)), Fraction(str(end)), seconds, np.stack(boxes))


def frame(index: int, scene: int = 0, source: int | None = None) -> Frame:
    image = np.random.default_rng(scene).integers(0, 255, (120, 300, 3)).astype(np.uint8)
    return Frame(index, YuvImage.from_image(image, Colour()), index if source is None else source)


class Picker:
    """Stands for a tracker: picks the selected one of two faces, one frame late."""

    def __init__(self, select):
        self._select, self._held = select, []

    def push(self, item):
        yield from self.flush()
        chosen = self._select(
            [Detection(RIGHT, 0.9), Detection(LEFT + 3, 0.9), Detection(LEFT, 0.3)], item.yuv
        )
        self._held = [TrackedFrame(item, chosen[0].box if chosen else None, cut=False)]

    def flush(self):
        held, self._held = self._held, []
        yield from held


def followed(plan: FacePlan, frames: list[Frame]) -> list[TrackedFrame]:
    faces = PlannedFaces(plan, Picker)
    items = [item for one in frames for item in faces.push(one)] + [*faces.flush()]
    assert [item.frame.index for item in items] == [one.index for one in frames]
    return items


def edges(items: list[TrackedFrame]) -> list[int | None]:
    return [None if item.box is None else int(item.box[0]) for item in items]


def test_each_span_has_its_face():
    plan = FacePlan([span(0, 0.12, LEFT), span(0.2, 0.4, RIGHT)], Fraction(25))
    assert (
        edges(followed(plan, [frame(n) for n in range(12)])) == [13] * 3 + [None] * 2 + [200] * 5 + [None] * 2
    )


def test_place_is_that_of_the_time():
    plan = FacePlan([span(0, 1, LEFT, LEFT + 100, LEFT + 200)], Fraction(10))
    assert [float(plan.box(n)[0]) for n in (0, 2, 3, 7, 8, 9)] == [10, 10, 110, 110, 210, 210]
    assert plan.box(10) is None


def test_face_that_is_not_there_is_not_replaced_by_another():
    plan = FacePlan([span(0, 1, LEFT + 90)], Fraction(25))
    assert edges(followed(plan, [frame(0), frame(1)])) == [None, None]


def test_time_is_that_of_the_film_even_if_it_is_repeated():
    plan = FacePlan([span(0, 0.08, LEFT)], Fraction(25))
    sources = [0, 1, 2, 3, 0, 1, 2]
    items = followed(plan, [frame(n, source=source) for n, source in enumerate(sources)])
    assert edges(items) == [13, 13, None, None, 13, 13, None]


def test_face_is_not_wanted_after_a_cut_between_two_frames_of_the_plan():
    plan = FacePlan([span(0, 0.08, LEFT), span(0.08, 1, RIGHT)], Fraction(50))
    sources = [0, 1, 2, 3, 4, 5, 0, 1]
    items = followed(plan, [frame(n, source > 2, source) for n, source in enumerate(sources)])
    assert edges(items) == [13, 13, 13, None, 200, 200, 13, 13]
    assert [item.cut for item in items][2:5] == [False, True, False]


def test_scene_begins_with_a_new_face_at_a_cut():
    plan = FacePlan([span(0, 0.08, LEFT), span(0.08, 1, RIGHT)], Fraction(25))
    items = followed(plan, [frame(n, scene=n > 1) for n in range(4)])
    assert (edges(items), [item.cut for item in items]) == ([13, 13, 200, 200], [False, False, True, False])
