"""Judge an output while it is written: the cheap part of an evaluation, for the option `check` of a dub.

The frames are those that the encoder gets, with the boxes that the dub has tracked, so nothing is decoded or
detected again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from wav2lip_npu.dubbing.report import CheckResult
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.evaluation.expert_judge import ExpertJudge, load_expert
from wav2lip_npu.evaluation.timing import measure_timing
from wav2lip_npu.evaluation.track_figures import Jitter
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.audio_reader import AudioInfo
from wav2lip_npu.media.yuv_image import Box, YuvImage
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.models.bundled import STARTER

_HALF = Fraction(1, 2)
_Shown = tuple[SelectedFrame | tuple[SelectedFrame, ...], YuvImage]
"""A frame, or one for each of several speakers, and its image with the generated mouths."""


class OutputCheck:
    """Judges one face in the frames of an output, with the audio that drives the mouth."""

    def __init__(
        self, audio: AudioInfo, fps: Fraction, start: Fraction, faces: FaceOptions, device: str
    ) -> None:
        self._expert = load_expert(STARTER, device)
        self._judge = ExpertJudge(self._expert, audio)
        self._jitter = Jitter()
        self._fps, self._faces = fps, faces
        self._start = int(start * TRAINING_FPS + _HALF)
        self._next = 0
        """Next frame at 25 per second."""

    def add(self, selected: SelectedFrame, yuv: YuvImage) -> None:
        """Judge the next frame."""
        tracked = selected.tracked
        box = None if tracked.box is None or selected.reason else self._unpadded(tracked.box)
        self._jitter.add(box, cut=tracked.cut)
        self._add(tracked.frame.index, yuv, box, tracked.cut)

    def _add(self, index: int, yuv: YuvImage, box: Box | None, cut: bool) -> None:
        """Add a frame as often as it is the nearest one at 25 frames per second."""
        while (nearest := int(self._next * self._fps / TRAINING_FPS + _HALF)) <= index:
            if nearest == index:
                self._judge.add_face(self._start + self._next, yuv, box, cut)
                cut = False
            self._next += 1

    def _unpadded(self, box: Box) -> Box:
        """Return the box as SyncNet was trained on it."""
        if self._faces.has_constant_box:
            return box
        top, bottom, left, right = self._faces.pads
        return box + np.array([left, top, -right, -bottom], np.float32)

    def result(self, outfile: str | os.PathLike[str], min_confidence: float | None) -> CheckResult:
        """Return the result for the written file. Raises `MediaError`."""
        score, timing = self._judge.finish(), measure_timing(outfile)
        confidence = None if score is None else round(score.confidence, 4)
        is_low = confidence is None or (min_confidence is not None and confidence < min_confidence)
        return CheckResult(
            confidence=confidence,
            cosine=None if score is None else round(score.cosine, 4),
            offset=None if score is None else score.offset,
            windows=0 if score is None else score.windows,
            jitter=self._jitter.value,
            audio_start=round(timing.start_s, 4),
            tail=round(timing.tail_s, 4),
            suspect=min_confidence is not None and is_low,
            judge=self._expert.name,
        )


def watched(frames: Iterable[_Shown], checks: Sequence[OutputCheck]) -> Iterator[YuvImage]:
    """Yield the images unchanged; each check judges its face."""
    for shown, yuv in frames:
        faces = shown if isinstance(shown, tuple) else (shown,)
        for check, selected in zip(checks, faces, strict=True):
            check.add(selected, yuv)
        del shown, faces, selected
        yield yuv
        del yuv


def worst(results: Sequence[CheckResult]) -> CheckResult:
    """Return the result with the lowest confidence; one without any is lower still."""
    return min(results, key=lambda one: -1.0 if one.confidence is None else one.confidence)
