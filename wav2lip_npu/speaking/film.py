"""Find who speaks in a film by its own sound: one pass over small crops of all faces, before the dub."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.face_plan import FacePlan, PlannedSpan
from wav2lip_npu.faces.shot_faces import ShotFrame
from wav2lip_npu.speaking.choice import (
    FPS,
    Choice,
    Shot,
    Speech,
    choose_for_turn,
    choose_without_turns,
)
from wav2lip_npu.speaking.evidence import Judge, Threshold

Span = tuple[Fraction, Fraction]
_EXTENDED = FPS // 2
"""Frames that a speaker is followed before and after being heard: dubbed speech need not keep the times."""
_JOINED = 2 * FPS
"""Frames of silence between two times of one face that belong to it."""
_GAP = 2
"""Frames between the times of two faces in a shot, so that one mouth fades out before the next fades in."""


@dataclass(frozen=True, kw_only=True)
class SpokenSpan:
    """A time in which somebody is heard in the film, or a turn."""

    start: float
    """Seconds from the beginning of the film."""
    end: float
    who: str | None
    """Name of the speaker of a turn; None without turns."""
    point: tuple[int, int] | None
    """Centre of the face that speaks, in pixels, at `start`. None: nobody visible speaks for certain, and the
    span stays as filmed."""
    score: float | None
    """How well that face fits the sound, or the best one of those that are refused. None: no face is seen."""
    threshold: float
    """What the score must reach."""


@dataclass(frozen=True)
class Film:
    """The faces of a film, and the evidence that they speak."""

    judge: str
    threshold: Threshold
    first: int
    """Number of the first frame that was watched, at 25 per second."""
    shots: Sequence[Shot]
    speech: Speech
    boxes: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]
    """By track, the numbers of frames and the boxes in them."""

    def choices(self) -> list[Choice]:
        """Return who speaks when somebody is heard."""
        found = (choose_without_turns(shot, self.speech, self.threshold) for shot in self.shots)
        return list(itertools.chain.from_iterable(found))

    def choices_of(self, turns: Iterable[Span]) -> list[Choice]:
        """Return who speaks in each turn, in seconds: one face in each shot of the turn."""
        chosen = []
        for start, end in turns:
            span = round(start * FPS) - self.first, round(end * FPS) - self.first
            chosen += choose_for_turn(*span, self.shots, self.speech, self.threshold)
        return chosen

    def plan(self, choices: Sequence[Choice], fps: Fraction) -> FacePlan:
        """Return the faces to dub, also in the silence around the times in which they speak."""
        return FacePlan([self._planned(choice) for choice in self._extended(choices)], fps)

    def spans(self, choices: Iterable[Choice], who: str | None = None) -> list[SpokenSpan]:
        """Return who speaks when, for the report."""
        return [
            SpokenSpan(
                start=self._seconds(choice.first),
                end=self._seconds(choice.end),
                who=who,
                point=self._point(choice),
                score=None if choice.score is None else round(choice.score, 3),
                threshold=round(float(choice.threshold), 3),
            )
            for choice in choices
        ]

    def _extended(self, choices: Iterable[Choice]) -> list[Choice]:
        """Return the times of faces, which reach into the silence around them, at most to its middle."""
        joined: list[Choice] = []
        for choice in choices:
            last = joined[-1] if joined else None
            is_same = last is not None and choice.track is not None and last.track == choice.track
            if last is not None and is_same and choice.first - last.end <= _JOINED:
                joined[-1] = replace(last, end=choice.end)
            else:
                joined.append(choice)
        extended: list[Choice] = []
        for before, choice, after in zip([None, *joined[:-1]], joined, [*joined[1:], None], strict=True):
            if choice.track is None:
                continue
            shot = next(shot for shot in self.shots if shot.first <= choice.first < shot.end)
            first = max(shot.first, choice.first - _EXTENDED)
            end = min(shot.end, choice.end + _EXTENDED)
            if before is not None and before.end > shot.first:
                first = max(first, (before.end + choice.first) // 2)
            if after is not None and after.first < shot.end:
                end = min(end, (choice.end + after.first) // 2)
            if extended and first > shot.first:
                first = max(first, extended[-1].end + _GAP)
            extended.append(replace(choice, first=first, end=max(first, end)))
        return extended

    def _planned(self, choice: Choice) -> PlannedSpan:
        assert choice.track is not None
        numbers, boxes = self.boxes[choice.track]
        near = slice(*np.searchsorted(numbers, (choice.first, choice.end)))
        if near.start == near.stop:
            near = slice(0, len(numbers))
        seconds = (numbers[near] + self.first) / FPS
        return PlannedSpan(*self._times(choice), seconds, boxes[near])

    def _times(self, choice: Choice) -> Span:
        return Fraction(self.first + choice.first, FPS), Fraction(self.first + choice.end, FPS)

    def _seconds(self, number: int) -> float:
        return round((self.first + number) / FPS, 3)

    def _point(self, choice: Choice) -> tuple[int, int] | None:
        if choice.track is None:
            return None
        numbers, boxes = self.boxes[choice.track]
        x1, y1, x2, y2 = boxes[min(int(np.searchsorted(numbers, choice.first)), len(boxes) - 1)]
        return round(float(x1 + x2) / 2), round(float(y1 + y2) / 2)


def watch(frames: Iterable[ShotFrame], judge: Judge, speech: Speech, first: int) -> Film:
    """Return the evidence for all faces of a film.

    Args:
        frames: The frames at 25 per second, with their faces.
        judge: Compares them with the sound of the film. It is closed at the end.
        speech: The frames in which somebody is heard.
        first: Number of the first frame in the film.

    """
    shots: list[tuple[int, set[int]]] = []
    boxes: dict[int, tuple[array[int], array[float]]] = {}
    end = 0
    try:
        for shown in frames:
            judge.add(shown)
            if shown.shot == len(shots):
                shots.append((shown.frame.index, set()))
            for track, box in shown.boxes.items():
                shots[-1][1].add(track)
                numbers, sides = boxes.setdefault(track, (array("q"), array("f")))
                numbers.append(shown.frame.index)
                sides.extend(box)
            end = shown.frame.index + 1
            del shown
        evidence = judge.finish()
    finally:
        judge.close()
    speech = np.concatenate([speech, np.zeros(max(0, end - len(speech)), np.bool_)])[:end]
    ends = [begin for begin, _ in shots[1:]] + [end]
    return Film(
        judge.name,
        judge.threshold,
        first,
        [
            Shot(begin, stop, {track: evidence[track] for track in sorted(tracks) if track in evidence})
            for (begin, tracks), stop in zip(shots, ends, strict=True)
        ],
        speech,
        {
            track: (np.array(numbers, np.int64), np.array(sides, np.float32).reshape(-1, 4))
            for track, (numbers, sides) in boxes.items()
        },
    )
