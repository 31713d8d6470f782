"""Which face is whose: the rule by which a user names a face, and the looks that follow from it."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wav2lip_npu import signals
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces.appearance import Appearance, Look
from wav2lip_npu.faces.detection import MIN_SCORE, Detection, Detector, overlap, search_frames
from wav2lip_npu.media.container import VideoInfo, probe
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_reader import Frame, frame_at, read_frames
from wav2lip_npu.media.yuv_image import Box, YuvImage

_SIDES = ("left", "right")
_AUTO = "auto"
_POINT = re.compile(r"(\d+(?:\.\d*)?),(\d+(?:\.\d*)?)@(\d+(?:\.\d*)?)")
_PHOTO = re.compile(r".+\.(jpe?g|png|webp|bmp|tiff?|heic|heif|avif)", re.IGNORECASE | re.DOTALL)
SHARED = 0.3
"""Overlap from which two boxes are of one face."""
_PER_SECOND, _SEARCH_S = 2, 60
"""Frames per second in which all faces are searched, and the seconds after which the search is given up."""


@dataclass(frozen=True)
class FaceRule:
    """How the face of a speaker is told: by a side, a point at a time, a photo, or the sound of the film."""

    text: str = ""
    """`left`, `right`, `X,Y@SECONDS`, the path of a photo, `auto`: that which speaks in the film in each
    turn; or nothing: the next face from left to right."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if the text is no rule."""
        if not self.is_rule(self.text):
            raise UsageError(
                f"{self.text!r:.80} names no face. Pass left, right, auto, X,Y@SECONDS (a point in pixels, "
                "and a time), or a photo."
            )

    @staticmethod
    def is_rule(text: str) -> bool:
        """Return whether a text is a rule. An absolute path needs no suffix of a photo."""
        is_form = any(form.fullmatch(text) for form in (_POINT, _PHOTO))
        return text in ("", _AUTO, *_SIDES) or is_form or os.path.isabs(text)

    @property
    def is_auto(self) -> bool:
        """Whether the sound of the film tells."""
        return self.text == _AUTO

    @property
    def point(self) -> tuple[float, float, float] | None:
        """X, Y and seconds."""
        match = _POINT.fullmatch(self.text)
        return None if match is None else (float(match[1]), float(match[2]), float(match[3]))

    @property
    def photo(self) -> str | None:
        """Path of the photo."""
        is_photo = bool(self.text) and self.text not in (_AUTO, *_SIDES) and self.point is None
        return self.text if is_photo else None


@dataclass
class KnownFace:
    """What is known of a face before the dub."""

    looks: list[Look]
    box: Box | None = None
    """Its place in the frame in which it was told; None for a photo."""
    frame: int | None = None
    """Index of that frame in the dub."""


def known_faces(
    rules: Sequence[FaceRule],
    info: VideoInfo,
    geometry: Geometry,
    detector: Detector,
    appearance: Appearance,
    section: tuple[float, Fraction],
) -> list[KnownFace]:
    """Return what each rule tells about a face, from the frames that it names.

    Sides are told apart in the first frame that shows as many faces as there are rules other than `auto`, of
    which nothing is known. `section` is the time
    of the first frame of the dub, and its frames per second.

    Raises:
        FaceError: A photo or the frame of a point shows no face, or no frame shows enough faces.
        MediaError: A file cannot be read.

    """
    found: dict[int, KnownFace] = {}
    start, fps = section
    for number, rule in enumerate(rules):
        if rule.is_auto:
            found[number] = KnownFace([])
        elif rule.photo is not None:
            found[number] = KnownFace([_look_of_photo(rule.photo, detector, appearance)])
        elif rule.point is not None:
            found[number] = _face_at(rule.point, info, geometry, detector, appearance)
            found[number].frame = round((rule.point[2] - start) * float(fps))
            _check_differs(number, found, rules, info)
    if by_place := [number for number in range(len(rules)) if number not in found]:
        seen = sum(not rule.is_auto for rule in rules)
        seconds, yuv, faces = _first_with(seen, info, geometry, detector, start)
        others = _others(faces, list(found.values()), yuv, appearance)
        for number in sorted(by_place, key=lambda number: rules[number].text == ""):
            text = rules[number].text
            face = others.pop(-1 if text == "right" else 0)
            found[number] = KnownFace([appearance.look(yuv, face)], face.box, round(seconds * fps))
    return [found[number] for number in range(len(rules))]


def certain_faces(yuv: YuvImage, detector: Detector) -> list[Detection]:
    """Return the faces of a frame from left to right."""
    faces = [face for face in search_frames([yuv], detector)[0] if face.score >= MIN_SCORE]
    return sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))


def _look_of_photo(path: str, detector: Detector, appearance: Appearance) -> Look:
    frame = next(iter(read_frames(probe(path))))
    faces = certain_faces(frame.yuv, detector)
    if not faces:
        raise FaceError(f"no face in the photo {path}. Pass one that shows the face from the front.")
    largest = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
    return appearance.look(frame.yuv, largest)


def _face_at(
    point: tuple[float, float, float],
    info: VideoInfo,
    geometry: Geometry,
    detector: Detector,
    appearance: Appearance,
) -> KnownFace:
    x, y, seconds = point
    yuv = geometry.apply(frame_at(info, seconds))
    faces = certain_faces(yuv, detector)
    distances = [_distance(face.box, x, y) for face in faces]
    if distances and min(distances) <= 1:
        face = faces[distances.index(min(distances))]
        return KnownFace([appearance.look(yuv, face)], face.box)
    raise FaceError(
        f"no face at {x:g},{y:g} in {info.path} at {seconds:g} s. "
        "Pass another point or time; wav2lip-npu faces lists them."
    )


def _check_differs(
    number: int, found: Mapping[int, KnownFace], rules: Sequence[FaceRule], info: VideoInfo
) -> None:
    """Raise `FaceError` if the face of a rule is that of an earlier rule in the same frame."""
    new = found[number]
    for other in range(number):
        old = found.get(other)
        if old is None or old.box is None or new.box is None or old.frame != new.frame:
            continue
        if overlap(old.box, new.box) > SHARED:
            raise FaceError(
                f"{rules[other].text} and {rules[number].text} are the same face in {info.path}. "
                "Pass a point on another face, or make the turns those of one speaker."
            )


def _distance(box: Box, x: float, y: float) -> float:
    """Return how far a point is from the centre of a box, in sides of the box."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return max(abs(x - (x1 + x2) / 2) / (x2 - x1), abs(y - (y1 + y2) / 2) / (y2 - y1))


def _first_with(
    count: int, info: VideoInfo, geometry: Geometry, detector: Detector, start: float
) -> tuple[Fraction, YuvImage, list[Detection]]:
    """Return the first frame with at least `count` faces: seconds after `start`, image, and faces."""
    for number, yuv in enumerate(_sampled(info, geometry, start)):
        signals.check()
        faces = certain_faces(yuv, detector)
        if len(faces) >= count:
            return Fraction(number, _PER_SECOND), yuv, faces
    named = "a face" if count == 1 else f"{count} faces at once"
    raise FaceError(
        f"no frame of {info.path} from {start:g} to {start + _SEARCH_S:g} s shows {named}. "
        "Tell each speaker's face by X,Y@SECONDS or a photo."
    )


def _sampled(info: VideoInfo, geometry: Geometry, start: float) -> Iterable[YuvImage]:
    count = 1 if info.is_image else _PER_SECOND * _SEARCH_S
    frames: Iterable[Frame] = read_frames(
        info, fps=Fraction(_PER_SECOND), geometry=geometry, start=math.floor(start * _PER_SECOND)
    )
    return (frame.yuv for frame in itertools.islice(frames, count))


def _others(
    faces: list[Detection], known: Sequence[KnownFace], yuv: YuvImage, appearance: Appearance
) -> list[Detection]:
    """Return the faces without those that are most similar to the known ones."""
    looks = [appearance.look(yuv, face) for face in faces]
    left = list(range(len(faces)))
    for one in filter(lambda one: one.looks, known):
        left.remove(max(left, key=lambda index: appearance.similarity(one.looks, looks[index])))
    return [faces[index] for index in left]
