"""Decide which frames are dubbed, and fade the mouth in and out next to those that stay as filmed."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache
from typing import Literal, NamedTuple

from wav2lip_npu.dubbing.occlusion import NOTHING, Front, Occlusion, Weights
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.detectors import WITHOUT_LANDMARKS
from wav2lip_npu.faces.head_pose import HeadPose, head_pose
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.options import check_range, check_types, nested_by_name

log = logging.getLogger(__name__)

Reason = Literal["skip", "listening", "unsure", "no_face", "turned", "small", "covered"]
"""Why a frame stays as filmed: `--skip`, a speaker who does not speak, nobody who speaks for certain, no
face, one that is turned away or too small, or a mouth that is covered by a hand or an object."""
_IN_WORDS: dict[Reason, str] = {
    "no_face": "without a face",
    "turned": "turned away",
    "small": "too small",
    "covered": "with a covered mouth",
    "listening": "listening",
    "unsure": "without a sure speaker",
    "skip": "skipped",
}
_FADE_S = 0.12
"""Seconds of the cross-fade at each end of a span. With a shorter one, the mouth visibly jumps."""
_MAX_FADE = 25
"""Frames of the cross-fade, which are held in memory."""
_RETURN_DEGREES, _RETURN_S = 5.0, 0.2
"""A face has turned back when it has stayed this much below the limit for this long. A covered mouth is free
after the same time."""
_MAX_DEGREES = 180
_MAX_PIXELS = 10_000


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class FaceLimits:
    """Limits beyond which a face stays as filmed. They apply to faces with landmarks.

    Raises:
        UsageError: A value is out of range.

    """

    max_yaw: float = 50
    """Faces turned to the side by more degrees stay as filmed. 180: no limit. All limits need the detector
    retinaface."""
    max_pitch: float = 45
    """The same for faces that look up or down."""
    max_roll: float = 30
    """The same for heads that are tilted, and for faces in a video that lies on its side."""
    min_face: float = 24
    """Faces narrower than this, in pixels, stay as filmed. 0: no limit."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        for name in ("max_yaw", "max_pitch", "max_roll"):
            if not 0 < (value := getattr(self, name)) <= _MAX_DEGREES:
                raise UsageError(
                    f"--{name} {value:g} is out of range. Pass degrees above 0, up to {_MAX_DEGREES}."
                )
        check_range(self, "min_face", 0, _MAX_PIXELS)

    def excess(self, pose: HeadPose) -> float:
        """Return by how many degrees a face is beyond a limit; a negative number within the limits."""
        return max(
            abs(pose.yaw) - self.max_yaw, abs(pose.pitch) - self.max_pitch, abs(pose.roll) - self.max_roll
        )

    def warn_if_unused(self, detector: str, *, has_constant_box: bool = False) -> None:
        """Log a warning, once per process, about limits that have no effect without landmarks."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        given = ", ".join(f"--{name} {value:g}" for name, value, default in values if value != default)
        if given and has_constant_box:
            _warn_once(f"{given}: no effect with --box, whose face has no landmarks. Remove one of them.")
        elif given and detector in WITHOUT_LANDMARKS:
            _warn_once(
                f"{given}: no effect with --detector {detector}, which gives no landmarks. "
                "Pass --detector retinaface."
            )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def count_text(spans: Iterable[tuple[int, int, Reason]]) -> str:
    """Return the numbers of frames that stay as filmed, such as `12 without a face, 3 turned away`."""
    counts: Counter[Reason] = Counter()
    for first, last, reason in spans:
        counts[reason] += last - first + 1
    return ", ".join(f"{counts[reason]} {_IN_WORDS[reason]}" for reason in _IN_WORDS if reason in counts)


@dataclass(frozen=True)
class SelectedFrame:
    """A tracked frame, and what happens to its mouth."""

    tracked: TrackedFrame
    reason: Reason | None
    """Why the frame stays as filmed; None if it gets a mouth."""
    opacity: float
    """Opacity of the mouth: 0 in a span that stays as filmed, a ramp next to it, 1 elsewhere."""
    face: Image | None
    """The face, BGR uint8 [S, S, 3]: one object for all frames of a still image. None without a face."""
    front: Weights | None = None
    """Opacity of what is in front of the mouth, see `Front`."""


def num_fade_frames(fps: Fraction) -> int:
    """Return the number of frames of a cross-fade."""
    return min(round(_FADE_S * fps), _MAX_FADE)


def select_frames(
    frames: Iterable[TrackedFrame],
    limits: FaceLimits,
    skipped: Container[int],
    fps: Fraction,
    face_size: int,
    occlusion: Occlusion | None = None,
    listening: Container[int] = (),
) -> Iterator[SelectedFrame]:
    """Yield each frame with the reason why it stays as filmed, or the opacity of its mouth.

    Holds the frames of one cross-fade and one more: the mouth fades out before a span begins, and whether a
    mouth is covered is decided with the next frame. There is no cross-fade over a cut.

    Args:
        frames: Tracked frames, in order.
        limits: Limits of size and direction of the face.
        skipped: Indices of the frames of `--skip`.
        fps: Frames per second.
        face_size: Rows and columns of the faces to crop.
        occlusion: Finds what is in front of a mouth; None: nothing is.
        listening: Indices of the frames in which this person does not speak.

    """
    fade = num_fade_frames(fps)
    judge = _Judge(limits, skipped, listening, fps)
    pending: deque[_Judged] = deque()
    since = fade + 1

    def pop() -> SelectedFrame:
        """Return the oldest pending frame; `since` is its distance to the last frame as filmed."""
        nonlocal since
        tracked, reason, face, weights = pending.popleft()
        since = 0 if reason else fade + 1 if tracked.cut else since + 1
        distance = min(since, _distance_to_kept(pending, fade))
        return SelectedFrame(tracked, reason, min(1.0, distance / (fade + 1)), face, weights)

    last: tuple[YuvImage, bool] | None = None
    face: Image | None = None
    front = NOTHING
    for frame in frames:
        yuv, has_face = frame.frame.yuv, frame.box is not None
        if last is None or yuv is not last[0] or has_face != last[1]:  # a still image is examined once
            last = yuv, has_face
            face = None if frame.box is None else yuv.crop(frame.box, face_size)
            front = NOTHING if occlusion is None else occlusion(frame, face)
        reason = judge(frame, front)
        if reason == "covered" and pending and pending[-1].reason is None:
            pending[-1] = pending[-1]._replace(reason=reason)  # the first of two frames with a covered mouth
        pending.append(_Judged(frame, reason, face, front.weights))
        del frame, yuv
        if len(pending) > fade + 1:
            yield pop()
    while pending:
        yield pop()


class _Judged(NamedTuple):
    tracked: TrackedFrame
    reason: Reason | None
    face: Image | None
    front: Weights | None


def _distance_to_kept(later: Iterable[_Judged], fade: int) -> int:
    """Return the distance to the next frame that stays as filmed; `fade` + 1 if it is far or after a cut."""
    for distance, (tracked, reason, *_) in enumerate(later, start=1):
        if tracked.cut:
            break
        if reason:
            return distance
    return fade + 1


class _Judge:
    """Returns the reason why each frame stays as filmed, in order."""

    def __init__(
        self, limits: FaceLimits, skipped: Container[int], listening: Container[int], fps: Fraction
    ) -> None:
        self._limits, self._skipped, self._listening = limits, skipped, listening
        self._wait = max(1, round(_RETURN_S * fps))
        self._turned = self._covered = 0
        """Frames until a face that turns back, or a mouth that is free again, is dubbed; 0 if it is now."""
        self._was_hidden = False
        """Whether the mouth of the last frame seemed to be covered. A single such frame is noise."""

    def __call__(self, frame: TrackedFrame, front: Front) -> Reason | None:
        is_turned, is_covered = self._is_turned(frame), self._is_covered(frame, front)
        if frame.frame.index in self._skipped:
            return "skip"
        if frame.frame.index in self._listening:
            return "listening"
        if frame.box is None:
            return "no_face"
        if is_turned:
            return "turned"
        if frame.landmarks is not None and frame.box[2] - frame.box[0] < self._limits.min_face:
            return "small"
        return "covered" if is_covered else None

    def _is_covered(self, frame: TrackedFrame, front: Front) -> bool:
        self._covered = 0 if frame.cut else max(0, self._covered - 1)
        if front.hides_mouth and self._was_hidden and not frame.cut:
            self._covered = self._wait + 1
        self._was_hidden = front.hides_mouth
        return self._covered > 0

    def _is_turned(self, frame: TrackedFrame) -> bool:
        if frame.cut or frame.box is None:
            self._turned = 0
        if frame.box is None or frame.landmarks is None:
            return False
        excess = self._limits.excess(head_pose(frame.landmarks))
        if excess > 0 or (self._turned and excess > -_RETURN_DEGREES):
            self._turned = self._wait
        elif self._turned:
            self._turned -= 1
        return self._turned > 0
