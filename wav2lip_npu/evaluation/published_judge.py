"""LSE-D, LSE-C and offset as in the published evaluation: SyncNet v2, with the weights of the user.

The formulas are those of `SyncNetInstance.evaluate` of github.com/joonson/syncnet_python, which Wav2Lip's
evaluation scripts use. Features are computed once per window, in one pass over the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.evaluation.face_crops import MIN_TRACK, FaceCrops, whole
from wav2lip_npu.evaluation.mfcc import SAMPLE_RATE, SAMPLES_PER_FRAME, mfcc_windows
from wav2lip_npu.evaluation.offset_scores import Delayed, OffsetScores, Table, distances
from wav2lip_npu.evaluation.options import Crop
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.audio_reader import AudioInfo, read_mono
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.models.syncnet_v2 import FRAMES, SyncNetRunner
from wav2lip_npu.training.sync_offset import MAX_OFFSET

_BATCH = 16
"""Windows of faces that are computed at once."""
_SMOOTHED = 9
"""Windows of the median filter over the confidence of each window."""


@dataclass(frozen=True)
class TrackScore:
    """The score of one face in one shot. Frames are counted at 25 per second."""

    first: int
    """First frame of the track."""
    frames: int
    windows: int
    lse_d: float
    """Smallest mean distance, LSE-D: lower is better."""
    lse_c: float
    """Median minus smallest mean distance, LSE-C: higher is better."""
    offset: int
    """Frames by which the audio is early; the published sign."""
    confidences: list[float] = field(repr=False)
    """Confidence of each window at that offset, median filtered over 9 windows."""


class PublishedJudge:
    """Scores the faces of one video with its audio. Add all frames at 25 per second, then `finish`."""

    def __init__(
        self, runner: SyncNetRunner, audio: AudioInfo, crop: Crop = "upstream", min_track: int | None = None
    ) -> None:
        self._runner, self._audio, self._crop = runner, audio, crop
        self._min_track = MIN_TRACK[crop] if min_track is None else min_track
        self._track: _Track | None = None
        self._scores: list[TrackScore] = []
        self.longest_track = 0
        """Frames of the longest track so far, whether it is scored or not."""

    def add(self, tracked: TrackedFrame) -> None:
        """Add the next frame."""
        if self._crop == "whole":
            self._track = self._track or self._begin(0)
            self._track.add(whole(tracked.frame.yuv))
            return
        if tracked.cut or tracked.box is None:
            self._end()
        if tracked.box is not None:
            self._track = self._track or self._begin(tracked.frame.index)
            for image in self._track.crops.push(tracked.frame.yuv, tracked.box):
                self._track.add(image)

    def finish(self) -> list[TrackScore]:
        """Return the scores of the tracks that are long and large enough."""
        self._end()
        return self._scores

    def _begin(self, first: int) -> _Track:
        return _Track(self._runner, self._audio, first, self._min_track)

    def _end(self) -> None:
        track, self._track = self._track, None
        if track is None:
            return
        for image in track.crops.flush():
            track.add(image)
        self.longest_track = max(self.longest_track, track.count)
        is_usable = track.count > self._min_track and (self._crop == "whole" or track.crops.is_large)
        score = track.finish() if is_usable else None
        track.close()
        if score is not None:
            self._scores.append(score)


class _Track:
    """Crops of one face, and their distances to the audio."""

    def __init__(self, runner: SyncNetRunner, audio: AudioInfo, first: int, min_track: int) -> None:
        self.crops = FaceCrops()
        self.count = 0
        self._runner, self._first, self._min_track = runner, first, min_track
        samples = int(audio.duration * SAMPLE_RATE) - first * SAMPLES_PER_FRAME
        self._audio_windows = max(0, samples // SAMPLES_PER_FRAME - FRAMES)
        self._scores = OffsetScores(self._audio_features(audio), distances)
        self._delayed = Delayed(MAX_OFFSET + FRAMES)
        self._pending: list[Image] = []

    def _audio_features(self, audio: AudioInfo) -> Iterator[torch.Tensor]:
        for windows in mfcc_windows(read_mono(audio, SAMPLE_RATE), self._first * SAMPLES_PER_FRAME):
            yield self._runner.audio(torch.from_numpy(windows))

    def add(self, image: Image) -> None:
        """Add the next crop. The network does not run until the track is long enough."""
        self.count += 1
        self._pending.append(image)
        if self.count > self._min_track:
            while len(self._pending) >= _BATCH + FRAMES - 1:
                self._run(_BATCH + FRAMES - 1)

    def finish(self) -> TrackScore | None:
        """Return the score; None if faces or audio are shorter than a window."""
        count = min(self.count - FRAMES, self._audio_windows)
        if count < 1:
            return None
        while len(self._pending) >= FRAMES:
            self._run(min(len(self._pending), _BATCH + FRAMES - 1))
        self._score(self._delayed.rest(count), count - 1)
        _, table, _ = self._scores.finish()
        return score_of(table, self._first, self.count)

    def close(self) -> None:
        """Close the audio, whose generator refers to this track: it would stay open until a collection."""
        self._scores.close()

    def _run(self, size: int) -> None:
        """Compute the windows of the first `size` pending crops."""
        features = self._runner.faces(torch.from_numpy(np.stack(self._pending[:size])))
        number = self.count - len(self._pending)
        del self._pending[: size - FRAMES + 1]
        self._score(self._delayed.push(number, features), self._audio_windows - 1)

    def _score(self, windows: list[tuple[int, torch.Tensor]], last: int) -> None:
        """Add the windows up to number `last`, which is also the last window of the audio."""
        numbers = [number for number, _ in windows if number <= last]
        if numbers:
            faces = torch.stack([features for _, features in windows[: len(numbers)]])
            self._scores.add(numbers, faces, last)


def score_of(table: Table, first: int, frames: int) -> TrackScore:
    """Return the score of a track from its distances [N, 31].

    Raises `CheckpointError` if a distance is not finite.
    """
    mean = table.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise CheckpointError("the weights of SyncNet v2 give infinite distances. Pass others as --syncnet.")
    best = int(mean.argmin())
    median = float(np.median(mean))
    return TrackScore(
        first=first,
        frames=frames,
        windows=len(table),
        lse_d=float(mean[best]),
        lse_c=median - float(mean[best]),
        offset=MAX_OFFSET - best,
        confidences=[round(float(value), 3) for value in _median_filtered(median - table[:, best])],
    )


def _median_filtered(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the running median, with zeros beyond the ends."""
    padded = np.pad(values, _SMOOTHED // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHED)
    return np.asarray(np.median(windows, axis=1), np.float32)
