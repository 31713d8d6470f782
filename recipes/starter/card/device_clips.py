"""Clips in device memory, and random windows of them: nothing is loaded or uploaded during training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu.data.clip import Clip, first_column
from wav2lip_npu.data.clip_index import index_clips
from wav2lip_npu.data.clip_layout import WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.resident_clips import ResidentClips
from wav2lip_npu.data.samples import MEL_SHIFT
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS

_COLUMNS = DEFAULT_MEL.columns_per_window
_MOST_SECONDS = 60
"""Seconds of a speaker above which more material does not increase the sampling weight."""
_LOUD_PERCENTILE = 95


class DeviceClips:
    """Faces and mels of clips on a device. A speaker is the folder of a clip.

    `B` clips are drawn with replacement. A frame is a position in its clip; windows have `T` = 5 frames.
    """

    def __init__(self, clips: list[Clip], device: torch.device) -> None:
        self._resident = ResidentClips(clips, FaceReader(), device)
        if not self._resident.is_readable.all():
            raise ValueError("a clip is unreadable. Remove it from the list.")
        frames = np.array([len(clip.frames) for clip in clips])
        columns = np.array([clip.columns for clip in clips])
        offsets = np.array([clip.frames[0] for clip in clips])
        first = np.maximum(0, -MEL_SHIFT - offsets)
        last = (
            np.minimum(
                frames, (columns - _COLUMNS) * TRAINING_FPS // int(DEFAULT_MEL.columns_per_second) - offsets
            )
            - WINDOW
        )
        if (last <= first).any():
            raise ValueError(
                f"{clips[int(np.argmin(last - first))].name} is too short. Remove it from the list."
            )

        def column(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        self._first_face = column(self._resident.first_face)
        self._first_column = column(self._resident.first_column)
        self._offset, self.first, self.last = column(offsets), column(first), column(last)
        self._shares = column(np.cumsum(_weights(clips, frames)).astype(np.float32))
        levels = np.split(self._resident.mel.mean(1).cpu().numpy(), np.cumsum(columns)[:-1])
        self._loud = column(
            np.array([np.percentile(level, _LOUD_PERCENTILE) for level in levels], np.float32)
        )
        self._window = torch.arange(WINDOW, device=device)
        self.device = device

    def __len__(self) -> int:
        return len(self.first)

    def draw(self, count: int) -> Tensor:
        """Return random clips [count], balanced over speakers."""
        values = torch.rand(count, device=self.device)
        return torch.searchsorted(self._shares, values).clamp(max=len(self) - 1)

    def draw_frames(self, clips: Tensor, count: int) -> Tensor:
        """Return random first frames of windows [B, count] in clips [B]."""
        values = torch.rand(len(clips), count, device=self.device)
        return (self.first[clips][:, None] + values * (self.last - self.first)[clips][:, None]).long()

    def windows(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Return faces uint8 [B, T, S, S, 3] of windows that begin with frames [B]."""
        return self._resident.windows(self._first_face[clips] + frames)

    def window_mels(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Return the mels [B, 80, 16] of windows that begin with frames [B], for SyncNet."""
        return self._mels(clips, frames[:, None])[:, 0]

    def frame_mels(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Return the mels [B, T, 80, 16] of each frame of windows, for the generator."""
        return self._mels(clips, frames[:, None] + MEL_SHIFT + self._window)

    def are_quiet(self, clips: Tensor, mels: Tensor, below: float) -> Tensor:
        """Return which mels [B, T, 80, 16] are `below` mel units below the loud parts of their clips."""
        return mels.mean((2, 3)) < self._loud[clips][:, None] - below

    def identities(self, clips: Tensor) -> Tensor:
        """Return a unique number for each clip [B]."""
        return self._first_face[clips]

    def _mels(self, clips: Tensor, frames: Tensor) -> Tensor:
        first = self._first_column[clips][:, None] + first_column(frames + self._offset[clips][:, None])
        return self._resident.mels(first)


def read_clips(root: Path, names: Path, device: torch.device) -> DeviceClips:
    """Load the clips of a file list onto a device, except those with missing frames."""
    clips = index_clips(root, names, MEL_SHIFT).clips
    return DeviceClips([clip for clip in clips if np.ptp(clip.frames) + 1 == len(clip.frames)], device)


def _weights(clips: list[Clip], frames: np.ndarray) -> np.ndarray:
    """Return the share of each clip in the samples, from the square root of the time of its speaker."""
    speakers = np.array([str(Path(clip.name).parent) for clip in clips])
    weights = np.zeros(len(clips))
    for speaker in np.unique(speakers):
        own = speakers == speaker
        seconds = frames[own].sum() / 25
        weights[own] = frames[own] / frames[own].sum() * min(seconds, _MOST_SECONDS) ** 0.5
    return weights / weights.sum()
