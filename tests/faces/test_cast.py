"""Which face is whose: by place in a shot, by look after a cut, and never one face for two."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from support.media_files import write_frames
from support.two_people import PeopleDetector
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces.appearance import Appearance
from wav2lip_npu.faces.cast import Cast
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.face_rules import FaceRule, KnownFace, known_faces
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage

ANNA, BEN, OTHER = np.eye(3)


class Looks(Appearance):
    """Looks that the test gives: one for each left edge of a face."""

    def look(self, yuv, face):
        return self.given[float(face.box[0])]


def looks_of(given: dict[float, np.ndarray]) -> Looks:
    looks = Looks("likeness", None, sure=0.7, possible=0.4, margin=0.1)
    object.__setattr__(looks, "given", given)
    return looks


def cast_of(given: dict[float, np.ndarray], *boxes: list[float] | None) -> Cast:
    looks = looks_of(given)
    known = [
        KnownFace([look], None if box is None else face(*box).box, None if box is None else 0)
        for look, box in zip((ANNA, BEN), boxes, strict=True)
    ]
    return Cast(known, lambda images: [[]], looks)


def face(left: float, side: float = 40.0) -> Detection:
    return Detection(np.array([left, 20, left + side, 20 + side], np.float32), 1.0)


def frame(index: int, level: int = 100) -> Frame:
    image = np.random.default_rng(level).integers(0, 255, (120, 300, 3)).astype(np.uint8)
    return Frame(index, YuvImage.from_image(image, Colour()), index)


def chosen(cast: Cast, at: Frame, *faces: Detection) -> list[float | None]:
    """Return the left edge of the face of each speaker."""
    found = (cast.select(number)(faces, at.yuv) for number in range(2))
    return [float(some[0].box[0]) if some else None for some in found]


def test_looks_decide_after_a_cut():
    cast = cast_of({10: BEN, 100: OTHER, 200: ANNA}, [10], [200])
    first, second = frame(0, 1), frame(1, 2)
    cast.begin(first)
    assert cast.begin(second)
    assert chosen(cast, second, face(10), face(100), face(200)) == [200, 10]


def test_places_decide_within_a_shot():
    """People who look alike, or whose looks are unknown, are told by their places."""
    cast = cast_of({12: OTHER, 100: OTHER, 198: OTHER}, [10], [200])
    first = frame(0)
    cast.begin(first)
    assert chosen(cast, first, face(12), face(100), face(198)) == [12, 198]


def test_uncertain_faces_are_nobodys():
    between = 0.5 * ANNA + 0.45 * BEN
    cast = cast_of({10: OTHER, 100: between}, None, None)
    only = frame(0)
    cast.begin(only)
    assert chosen(cast, only, face(10), face(100)) == [None, None]


def test_two_speakers_do_not_share_a_face():
    cast = cast_of({50: BEN, 52: BEN}, [10], [200])
    now = frame(0)
    cast.begin(now)
    tracked = [TrackedFrame(now, face(left).box, False) for left in (52, 50)]
    assert cast.without_shared(tracked) == [False, True]
    assert cast.without_shared([tracked[0], TrackedFrame(now, None, False)]) == [True, True]


def test_point_is_on_the_nearest_of_two_faces(tmp_path):
    """The centre of a small face is within a side of a large one beside it."""
    film = write_frames(tmp_path / "film.mp4", [np.zeros((144, 300, 3), np.uint8)] * 3)
    small, large = face(130), face(10, 90)

    class TwoFaces(PeopleDetector):
        def __call__(self, images):
            return [[large, small]]

    looks = looks_of({130: ANNA, 10: BEN})

    def boxes(*points: str) -> list[float]:
        rules = [FaceRule(f"{point}@0") for point in points]
        known = known_faces(rules, probe(film), Geometry(), TwoFaces(), looks, (0, Fraction(25)))
        return [one.box[0] for one in known]

    assert boxes("150,40", "60,60") == [130, 10]
    with pytest.raises(FaceError, match=r"150,40@0 and 140,50@0 .*film\.mp4"):
        boxes("150,40", "140,50")


@pytest.mark.parametrize("text", ["top", "1,2", "1,2@", "a.txt", "-1,2@3"])
def test_rules_that_name_no_face(text):
    with pytest.raises(UsageError, match="X,Y@SECONDS"):
        FaceRule(text)
