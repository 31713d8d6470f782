"""Tell the faces of several speakers apart, frame by frame: by their places in a shot, and by their looks.

A face has at most one speaker, and a speaker at most one face; other faces have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wav2lip_npu.faces.appearance import Appearance, Look
from wav2lip_npu.faces.detection import MIN_SCORE, Detection, Detector, overlap
from wav2lip_npu.faces.face_rules import SHARED, KnownFace, certain_faces
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, YuvImage

_NEAR = 1.0
"""Distance to the last place in the shot, in sides of the face, within which a face may be the same."""
_PLACE, _EARLIER_PLACE = 1.0, 0.15
"""Weights of the place in this shot, and of that in an earlier one, relative to the similarity."""
_LEARN_EVERY = 25
"""Frames between two looks that are remembered of a tracked face."""
_MAX_LOOKS = 12


@dataclass
class _Member:
    """What is known of the face of one speaker."""

    looks: list[Look]
    box: Box | None
    """Its last place."""
    in_shot: bool = False
    """Whether that is a place in the current shot."""
    first_looks: int = field(init=False)

    def __post_init__(self) -> None:
        self.first_looks = len(self.looks)

    def learn(self, look: Look) -> None:
        """Remember a look; the oldest of the learned ones is forgotten."""
        self.looks.append(look)
        if len(self.looks) > self.first_looks + _MAX_LOOKS:
            del self.looks[self.first_looks]

    def closeness(self, box: Box) -> float:
        """Return how near a box is to the last place, 0 to 1."""
        if self.box is None:
            return 0.0
        old, new = Pose.of_box(self.box), Pose.of_box(box)
        distance = math.hypot(new.x - old.x, new.y - old.y) / old.side
        return math.exp(-distance - abs(math.log(new.side / old.side)))


class Cast:
    """The faces of the speakers of one video. Call `begin` with each frame, then the other methods."""

    def __init__(self, known: Sequence[KnownFace], detector: Detector, appearance: Appearance) -> None:
        self._detector, self._appearance = detector, appearance
        self._members = [_Member(list(one.looks), one.box) for one in known]
        self._known = known
        self._cuts = SceneCuts()
        self._last: YuvImage | None = None
        self._shot = 0
        """Index of the first frame of the shot."""
        self._faces: tuple[YuvImage, list[Detection], list[Look]] | None = None
        self._losers: dict[tuple[int, int], int] = {}
        """Of two speakers whose boxes overlap, the one who does not get the face."""

    def begin(self, frame: Frame) -> bool:
        """Go on to the next frame; return whether it starts a scene."""
        is_cut = frame.yuv is not self._last and self._cuts.is_cut(frame.yuv)
        self._last = frame.yuv
        if is_cut:
            self._shot = frame.index
            for member in self._members:
                member.in_shot = False
        for number, one in enumerate(self._known):
            if one.box is not None and one.frame == frame.index:
                self._place(number, one.box)
        return is_cut

    def search(self, yuv: YuvImage) -> list[Detection]:
        """Return the faces of the current frame, which are detected once for all speakers."""
        if self._faces is None or self._faces[0] is not yuv:
            self._examine(yuv, certain_faces(yuv, self._detector))
        assert self._faces is not None
        return self._faces[1]

    def select(self, number: int) -> Callable[[Sequence[Detection], YuvImage], list[Detection]]:
        """Return a function that returns the face of a speaker, or nothing, for `FaceFinder`."""

        def face_of(detections: Sequence[Detection], yuv: YuvImage) -> list[Detection]:
            if self._faces is None or self._faces[0] is not yuv:
                self._examine(yuv, [face for face in detections if face.score >= MIN_SCORE])
            assert self._faces is not None
            _, faces, looks = self._faces
            assigned = self._assigned(faces, looks)
            for member, index in assigned.items():
                self._place(member, faces[index].box)
            return [faces[assigned[number]]] if number in assigned else []

        return face_of

    def _examine(self, yuv: YuvImage, faces: list[Detection]) -> None:
        self._faces = yuv, faces, [self._appearance.look(yuv, face) for face in faces]

    def see(self, number: int, tracked: TrackedFrame) -> None:
        """Note where a speaker's face is tracked, and now and then how it looks."""
        index, box = tracked.frame.index, tracked.box
        if box is None or index < self._shot:
            return
        self._place(number, box)
        if index % _LEARN_EVERY == 0:
            face = Detection(box, 1.0, tracked.landmarks)
            look = self._appearance.look(tracked.frame.yuv, face)
            similar = self._similarities(look)
            if look is not None and similar[number] >= max(similar):
                self._members[number].learn(look)

    def without_shared(self, tracked: Sequence[TrackedFrame]) -> list[bool]:
        """Return for each speaker whether the face is really theirs: of two with one face, one keeps it."""
        keeps = [True] * len(tracked)
        overlapping = {}
        for a, one in enumerate(tracked):
            for b, other in enumerate(tracked[:a]):
                if one.box is None or other.box is None or overlap(one.box, other.box) < SHARED:
                    continue
                pair = (b, a)
                loser = self._losers.get(pair)
                overlapping[pair] = self._loser(pair, one) if loser is None else loser
                keeps[overlapping[pair]] = False
        self._losers = overlapping
        return keeps

    def _loser(self, pair: tuple[int, int], tracked: TrackedFrame) -> int:
        """Return the speaker who looks less like the face."""
        assert tracked.box is not None
        face = Detection(tracked.box, 1.0, tracked.landmarks)
        similar = self._similarities(self._appearance.look(tracked.frame.yuv, face))
        return min(pair, key=lambda number: (similar[number], -number))

    def _place(self, number: int, box: Box) -> None:
        self._members[number].box, self._members[number].in_shot = box, True

    def _similarities(self, look: Look) -> list[float]:
        return [self._appearance.similarity(member.looks, look) for member in self._members]

    def _assigned(self, faces: Sequence[Detection], looks: Sequence[Look]) -> dict[int, int]:
        """Return the index of the face of each speaker who has one, the clearest case first."""
        similar = [self._similarities(look) for look in looks]
        scores = sorted(
            (
                (self._score(member, face.box, similar[index][number]), number, index)
                for index, face in enumerate(faces)
                for number, member in enumerate(self._members)
            ),
            reverse=True,
        )
        assigned: dict[int, int] = {}
        for _, number, index in scores:
            if number in assigned or index in assigned.values():
                continue
            rivals = [similar[index][other] for other in range(len(self._members)) if other not in assigned]
            rivals.remove(similar[index][number])
            if self._is_same(number, faces[index].box, similar[index][number], max(rivals, default=-1.0)):
                assigned[number] = index
        return assigned

    @staticmethod
    def _score(member: _Member, box: Box, similarity: float) -> float:
        return similarity + member.closeness(box) * (_PLACE if member.in_shot else _EARLIER_PLACE)

    def _is_same(self, number: int, box: Box, similarity: float, rival: float) -> bool:
        """Return whether a face is that of a speaker; `rival` is its similarity to another without a face."""
        member, measure = self._members[number], self._appearance
        is_near = member.closeness(box) > math.exp(-_NEAR)
        if member.in_shot and is_near:
            return similarity > rival - measure.margin
        if similarity < measure.possible:
            return False
        return (similarity >= measure.sure and similarity > rival) or similarity >= rival + measure.margin
