"""Follow all faces of a video through each shot: for analyses that need every face, and no exact boxes.

Faces are detected five times per second, and connected by their places within a shot. Between two detections
a box moves evenly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from wav2lip_npu import signals
from wav2lip_npu.faces.detection import MIN_SCORE, Detector, overlap, search_frames
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box

PER_SECOND = 5
"""Frames per second in which faces are detected."""
MIN_OVERLAP, MAX_GAP_S = 0.3, 1.0
"""A face continues a track if it overlaps the last box, which is at most this old."""


@dataclass(frozen=True)
class ShotFrame:
    """A frame, and the boxes of the faces in it by the numbers of their tracks."""

    frame: Frame
    shot: int
    """Number of the shot."""
    boxes: dict[int, Box]


@dataclass
class _Track:
    box: Box
    frame: int
    """The last examined frame that shows it."""


def follow_faces(frames: Iterable[Frame], detector: Detector, fps: Fraction) -> Iterator[ShotFrame]:
    """Yield each frame with the faces of its shot; a track never goes on after a cut.

    Holds the frames between two detections.
    """
    step, max_gap = max(1, round(fps / PER_SECOND)), round(MAX_GAP_S * fps)
    cuts, shot, count = SceneCuts(), 0, 0
    tracks: dict[int, _Track] = {}
    held: list[Frame] = []

    def examined() -> Iterator[ShotFrame]:
        """Detect the faces of the last frame held, and yield those after the last detection."""
        nonlocal count, tracks
        number = held[-1].index
        found = [face.box for face in search_frames([held[-1].yuv], detector)[0] if face.score >= MIN_SCORE]
        known = {key: track for key, track in tracks.items() if number - track.frame <= max_gap}
        matched = matches([track.box for track in known.values()], found)
        numbers = list(known)
        moved: dict[int, tuple[_Track, Box]] = {}
        for row, box in enumerate(found):
            if row in matched:
                key = numbers[matched[row]]
                moved[key] = known[key], box
            else:
                key, count = count, count + 1
                moved[key] = _Track(box, number), box
        for frame in held:
            yield ShotFrame(frame, shot, {key: _between(*pair, number, frame) for key, pair in moved.items()})
            del frame
        tracks = known | {key: _Track(box, number) for key, (_, box) in moved.items()}
        held.clear()

    for frame in frames:
        signals.check()
        is_cut = cuts.is_cut(frame.yuv)
        if is_cut:
            if held:
                yield from examined()
            tracks, shot = {}, shot + 1
        held.append(frame)
        is_first = is_cut or frame.index == 0
        del frame
        if is_first or len(held) == step:
            yield from examined()
    if held:
        yield from examined()


def matches(last: Sequence[Box], found: Sequence[Box]) -> dict[int, int]:
    """Return the row of the last box of the track that each box continues, by the row of the box."""
    pairs = [
        (overlap(before, box), row, column)
        for row, box in enumerate(found)
        for column, before in enumerate(last)
    ]
    matched: dict[int, int] = {}
    for fit, row, column in sorted(pairs, reverse=True):
        if fit >= MIN_OVERLAP and row not in matched and column not in matched.values():
            matched[row] = column
    return matched


def _between(track: _Track, box: Box, number: int, frame: Frame) -> Box:
    """Return the box of a frame between the last box of a track and that of frame `number`."""
    if track.frame >= number:
        return box
    share = (frame.index - track.frame) / (number - track.frame)
    moved: Box = track.box + (box - track.box) * min(max(share, 0), 1)
    return moved
