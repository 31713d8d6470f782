"""Decide who speaks when, from the evidence for each face of a film."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.speaking.evidence import Evidence, Threshold

FPS = 25
"""Frames per second of all numbers here."""
_MIN_FRAMES = 12
"""Frames that a change of the speaker must last."""
Speech = NDArray[np.bool_]
"""bool [N]: the frames of a film in which somebody is heard."""


@dataclass(frozen=True)
class Choice:
    """A time with the face that speaks, or with nobody who speaks for certain."""

    first: int
    end: int
    """Number of the frame after the last."""
    track: int | None
    score: float | None
    """Mean evidence for that face, or for the best one of those that are refused; None without any."""
    threshold: float
    """What the score must reach."""


@dataclass(frozen=True)
class Shot:
    """A time between two cuts, and the evidence for each face in it."""

    first: int
    end: int
    tracks: dict[int, Evidence]


def choose_for_turn(
    first: int, end: int, shots: Sequence[Shot], speech: Speech, threshold: Threshold
) -> list[Choice]:
    """Return for each shot of a turn, in which one person speaks, the face that fits best."""
    choices = []
    for shot in shots:
        low, high = max(first, shot.first), min(end, shot.end)
        if low < high:
            choices.append(_best(low, high, shot, speech, threshold))
    return choices


def choose_without_turns(shot: Shot, speech: Speech, threshold: Threshold) -> list[Choice]:
    """Return the times of a shot in which somebody is heard, with the faces that speak.

    They are those of the most likely sequence of speakers: the evidence above the threshold counts for a face
    in each frame, and each change costs as much as the threshold adds for a short time.
    """
    tracks = list(shot.tracks)
    heard = speech[shot.first : shot.end]
    if not heard.any():
        return []
    gains = np.zeros((len(heard), len(tracks) + 1))
    for column, track in enumerate(tracks, start=1):
        values = shot.tracks[track].of(shot.first, shot.end)[: len(heard)] - threshold.least
        gains[:, column] = np.where(heard, np.where(np.isnan(values), -threshold.least, values), 0)
    path = _path(gains, threshold.per_second * FPS / 2)
    choices = []
    for low, high in _runs(path):
        while low < high and not heard[low]:
            low += 1
        while high > low and not heard[high - 1]:
            high -= 1
        if high - low < _MIN_FRAMES:
            continue
        span = shot.first + low, shot.first + high
        column = int(path[low])
        if column:
            track = tracks[column - 1]
            score = _mean(shot.tracks[track], *span, speech)
            choices.append(Choice(*span, track, score, threshold.of(int(heard[low:high].sum()) / FPS)))
        else:
            choices.append(_best(*span, shot, speech, threshold, refused=True))
    return choices


def _best(
    first: int, end: int, shot: Shot, speech: Speech, threshold: Threshold, *, refused: bool = False
) -> Choice:
    """Return the face with the highest mean evidence, if it reaches the threshold."""
    scores = {
        track: score
        for track, evidence in shot.tracks.items()
        if (score := _mean(evidence, first, end, speech)) is not None
    }
    needed = threshold.of(max(1, int(speech[first:end].sum())) / FPS)
    if not scores:
        return Choice(first, end, None, None, needed)
    best = max(scores, key=lambda track: scores[track])
    is_sure = scores[best] >= needed and not refused
    return Choice(first, end, best if is_sure else None, scores[best], needed)


def _mean(evidence: Evidence, first: int, end: int, speech: Speech) -> float | None:
    """Return the mean evidence while somebody is heard; unknown evidence counts as none."""
    values = evidence.of(first, end)
    heard = speech[first:end]
    values = values[: len(heard)][heard] if heard.any() else values
    if np.isnan(values).all():
        return None
    return float(np.where(np.isnan(values), 0, values).mean())


def _path(gains: NDArray[np.float64], change: float) -> NDArray[np.int64]:
    """Return the best column of each row; a change costs, also from nobody, column 0, at both ends."""
    count = gains.shape[1]
    total = np.where(np.arange(count) == 0, 0.0, -change)
    before = np.empty(gains.shape, np.int64)
    for row, gain in enumerate(gains):
        best = int(total.argmax())
        changes = total[best] - change > total
        before[row] = np.where(changes, best, np.arange(count))
        total = np.where(changes, total[best] - change, total) + gain
    total[1:] -= change
    path = np.empty(len(gains), np.int64)
    column = int(total.argmax())
    for row in range(len(gains) - 1, -1, -1):
        path[row] = column
        column = int(before[row, column])
    return path


def _runs(path: NDArray[np.int64]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return list(itertools.pairwise(edges))
