"""Find the face of each of several speakers in each frame of a video."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from wav2lip_npu.faces.cast import Cast
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.face_plan import FacePlan
from wav2lip_npu.faces.find_faces import FaceFinder, FaceOptions
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.parallel.threads import close_items

Tracked = tuple[TrackedFrame, ...]
"""A frame with the face of each speaker."""


def find_speakers(
    frames: Iterable[Frame],
    cast: Cast,
    detector: Detector,
    options: FaceOptions,
    wanted: Sequence[Container[int]],
    plans: Sequence[FacePlan | None],
) -> Iterator[Tracked]:
    """Yield each frame with the padded box of each speaker's face, or None; all frames are kept, in order.

    Args:
        frames: Frames of the video. They are closed at the end if they have a `close` method.
        cast: The speakers.
        detector: A face detector.
        options: Options of the faces.
        wanted: For each speaker the indices of the frames in which the face is tracked. In others, there is
            no box.
        plans: For each speaker the faces that are wanted; None: those that `cast` tells.

    """
    speakers = [
        _Speaker(FaceFinder(detector, options, FaceMemory(), cast.select(number), cast.search, plan), some)
        for number, (some, plan) in enumerate(zip(wanted, plans, strict=True))
    ]

    def finished() -> Iterator[Tracked]:
        while all(speaker.done for speaker in speakers):
            tracked = [speaker.done.popleft() for speaker in speakers]
            keeps = cast.without_shared(tracked)
            yield tuple(
                item if keep else replace(item, box=None, landmarks=None)
                for item, keep in zip(tracked, keeps, strict=True)
            )
            del tracked

    with contextlib.ExitStack() as stack:
        stack.callback(close_items, frames)
        for frame in frames:
            is_cut = cast.begin(frame)
            for number, speaker in enumerate(speakers):
                for item in speaker.push(frame, is_cut=is_cut):
                    if plans[number] is None:
                        cast.see(number, item)
                    del item
            del frame
            yield from finished()
        for speaker in speakers:
            speaker.end()
        yield from finished()


class _Speaker:
    """One speaker's face: tracked in some frames, and passed over in the others."""

    def __init__(self, finder: FaceFinder, wanted: Container[int]) -> None:
        self.done: deque[TrackedFrame] = deque()
        self._finder, self._wanted = finder, wanted

    def push(self, frame: Frame, *, is_cut: bool) -> list[TrackedFrame]:
        """Add the next frame; return those whose faces were now tracked."""
        if frame.index in self._wanted:
            tracked = [*self._finder.push(frame)]
            self.done += tracked
            return tracked
        tracked = [*self._finder.flush()]
        self.done += [*tracked, TrackedFrame(frame, None, is_cut)]
        return tracked

    def end(self) -> None:
        """Complete the frames that are still tracked."""
        self.done += self._finder.flush()
