"""List the people of a video: when they are seen, how large, and from which side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from wav2lip_npu import signals
from wav2lip_npu.faces.detection import MIN_SCORE, Detection, Detector, Landmarks, search_frames
from wav2lip_npu.faces.head_pose import HeadPose, head_pose
from wav2lip_npu.faces.likeness import Look, likeness, look
from wav2lip_npu.faces.scene_cuts import SceneCuts
from wav2lip_npu.faces.shot_faces import MAX_GAP_S, PER_SECOND, matches
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage

_MIN_SIGHTINGS = 3
"""Sightings of a track that shows a person, in a video with at least as many examined frames."""
VIEW_SIDE = 128
"""Pixels of a view of a face."""
_MAX_VIEWS = 12
_WIDER = 1.5
"""Side of a view relative to that of the box."""
_MIN_LIKENESS = 0.92
"""Correlation of the most similar views above which two tracks show the same person."""
# Of a face whose detector gives none: eyes, nose and corners of the mouth as fractions of the box.
_LANDMARKS = np.array([[0.3, 0.36], [0.7, 0.36], [0.5, 0.55], [0.35, 0.74], [0.65, 0.74]], np.float32)


@dataclass(frozen=True)
class Sighting:
    """A face in one examined frame."""

    frame: int
    box: Box
    pose: HeadPose | None
    """None if the detector gives no landmarks."""


@dataclass(frozen=True)
class View:
    """A picture of a face: BGR uint8 [VIEW_SIDE, VIEW_SIDE, 3]."""

    frame: int
    image: Image
    look: Look | None


@dataclass
class Person:
    """A person, in all shots in which they were recognised."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    """First and last examined frame of each span in which the person is seen."""
    sightings: list[Sighting] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    """Up to 12 views, evenly spaced over the sightings of each shot."""

    @property
    def point(self) -> tuple[int, int]:
        """A point for `--face_select`, in pixels: the median of the centres of the face."""
        boxes = np.array([sighting.box for sighting in self.sightings])
        x, y = np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)
        return round(float(x)), round(float(y))


class _Track:
    """The sightings of one face in one shot."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self.views: list[View] = []
        self._stride = 1

    def add(self, number: int, detection: Detection, planes: YuvImage) -> None:
        """Add a sighting; every `_stride`-th has a view."""
        if len(self.sightings) % self._stride == 0:
            self.views.append(view_of(number, detection, planes))
            if len(self.views) > _MAX_VIEWS:
                self.views, self._stride = self.views[::2], 2 * self._stride
        pose = None if detection.landmarks is None else head_pose(detection.landmarks)
        self.sightings.append(Sighting(number, detection.box, pose))


def find_people(
    frames: Iterable[Frame],
    detector: Detector,
    fps: Fraction,
    progress: Callable[[int], None] | None = None,
) -> list[Person]:
    """Return the people of a video, the one seen most first.

    Faces are detected five times per second and connected by their places within a shot. Shots are connected
    by the appearance of the faces, if it is very similar, so one person may be listed several times.

    Args:
        frames: Frames of the video.
        detector: A face detector.
        fps: Frames per second.
        progress: Called with the number of frames read so far.

    """
    tracks, examined = _tracks(frames, detector, fps, progress)
    needed = min(_MIN_SIGHTINGS, examined)
    people: list[Person] = []
    for track in tracks:
        if len(track.sightings) < needed:
            continue
        person = _most_similar(people, track)
        if person is None:
            person = Person()
            people.append(person)
        person.spans.append((track.sightings[0].frame, track.sightings[-1].frame))
        person.sightings += track.sightings
        person.views += track.views
    return sorted(people, key=lambda person: -len(person.sightings))


def _tracks(
    frames: Iterable[Frame], detector: Detector, fps: Fraction, progress: Callable[[int], None] | None
) -> tuple[list[_Track], int]:
    """Return all tracks in the order of their first frames, and the number of examined frames."""
    step, max_gap = max(1, round(fps / PER_SECOND)), round(MAX_GAP_S * fps)
    cuts = SceneCuts()
    tracks: list[_Track] = []
    open_tracks: list[_Track] = []
    examined, due = 0, 0
    for frame in frames:
        signals.check()
        if cuts.is_cut(frame.yuv):
            open_tracks, due = [], frame.index
        if frame.index >= due:
            found = [item for item in search_frames([frame.yuv], detector)[0] if item.score >= MIN_SCORE]
            open_tracks = [
                track for track in open_tracks if frame.index - track.sightings[-1].frame <= max_gap
            ]
            for track, detection in _matched(open_tracks, found):
                if not track.sightings:
                    tracks.append(track)
                    open_tracks.append(track)
                track.add(frame.index, detection, frame.yuv)
            examined, due = examined + 1, frame.index + step
        if progress is not None:
            progress(frame.index + 1)
    return tracks, examined


def _matched(tracks: Sequence[_Track], found: Sequence[Detection]) -> Iterator[tuple[_Track, Detection]]:
    """Yield each detection with the track that it continues, or a new one."""
    last = [track.sightings[-1].box for track in tracks]
    continued = matches(last, [detection.box for detection in found])
    for row, detection in enumerate(found):
        yield (tracks[continued[row]] if row in continued else _Track()), detection


def _most_similar(people: Sequence[Person], track: _Track) -> Person | None:
    """Return the person that the track shows; None for a new one."""
    first, last = track.sightings[0].frame, track.sightings[-1].frame
    others = [person for person in people if all(last < start or first > end for start, end in person.spans)]
    if not others:
        return None
    best = max(others, key=lambda person: similarity(person.views, track.views))
    return best if similarity(best.views, track.views) >= _MIN_LIKENESS else None


def similarity(a: Sequence[View], b: Sequence[View]) -> float:
    """Return the likeness of the two most similar views, -1 to 1."""
    pairs = itertools.product((view.look for view in a), (view.look for view in b))
    return max(
        (likeness(one, other) for one, other in pairs if one is not None and other is not None), default=-1.0
    )


def view_of(number: int, detection: Detection, planes: YuvImage) -> View:
    """Return the view of a face in frame `number`."""
    x1, y1, x2, y2 = detection.box
    half = _WIDER * max(x2 - x1, y2 - y1) / 2
    corner = np.array([(x1 + x2) / 2 - half, (y1 + y2) / 2 - half], np.float32)
    image = planes.crop(np.concatenate([corner, corner + 2 * half]), VIEW_SIDE)
    points = (landmarks_of(detection) - corner) * (VIEW_SIDE / (2 * half))
    return View(number, image, look(image, points))


def landmarks_of(detection: Detection) -> Landmarks:
    """Return the landmarks of a face; for a detector that gives none, where they usually are in a box."""
    if detection.landmarks is not None:
        return detection.landmarks
    points: Landmarks = detection.box[:2] + _LANDMARKS * (detection.box[2:] - detection.box[:2])
    return points
