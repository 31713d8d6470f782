"""Audio offset of a clip: SyncNet's cosines of every mel window with every face window.

The offset search follows Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), with the
cosine of the embeddings instead of their distance. The offset is the one with the highest mean cosine over
the clip; its confidence is the difference between that mean and the median over all offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu import signals
from wav2lip_npu.data.clip import Clip, Faces, Indices, mel_columns
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.mel import Mel
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training.losses import cosines

MAX_OFFSET = 15
"""Largest offset searched in either direction, in frames of 40 ms."""
MIN_WINDOWS = 15
"""Minimum number of face windows with audio at all offsets. With two, any offset can be the best by chance.
Five consecutive windows overlap, so 15 windows count as three."""
_OFFSETS = torch.arange(-MAX_OFFSET, MAX_OFFSET + 1)
_TIE = 1e-6
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Similarities:
    """Cosines of all windows of one clip."""

    frames: Indices
    """First frame of each window, [N]."""
    cosines: Tensor
    """float32 [N, N] on the CPU; rows are audio, columns faces."""

    def in_sync(self) -> Tensor:
        """Return the cosines [N] of each face window with its own audio."""
        return self.cosines.diagonal()

    def out_of_sync(self) -> Tensor:
        """Return the cosines of each face window with the audio of every other window."""
        count = len(self.frames)
        return self.cosines[~torch.eye(count, dtype=torch.bool)]

    def by_offset(self) -> Tensor:
        """Return the cosines [M, 31] of face windows with the audio from -15 to +15 frames away.

        Only the M windows with audio at all 31 offsets are included.
        """
        wanted = self.frames[:, None] + _OFFSETS.numpy()
        rows = np.searchsorted(self.frames, wanted).clip(max=len(self.frames) - 1)
        complete = np.flatnonzero((self.frames[rows] == wanted).all(axis=1))
        return self.cosines[rows[complete], complete[:, None]]

    def offset(self) -> tuple[int, float]:
        """Return `best_offset` of the clip; (0, 0.0) if it has fewer than 35 consecutive frames."""
        return best_offset(self.by_offset())

    def significant_offset(self) -> int:
        """Return the offset if it is significantly better than 0, else 0.

        An offset at the end of the search is not significant: the best one may be further away. The mean
        gain must exceed its standard error, or twice that for an offset of one frame; windows overlap, so
        five consecutive ones count as one. On 60 clips of GRID with known offsets and a SyncNet of width 4,
        this kept every offset of two frames or more and reported none for clips in sync.
        """
        offset, _ = self.offset()
        table = self.by_offset()
        if not offset or abs(offset) == MAX_OFFSET or len(table) < MIN_WINDOWS:
            return 0
        gain = table[:, MAX_OFFSET + offset] - table[:, MAX_OFFSET]
        error = gain.std() / (len(gain) / WINDOW) ** 0.5
        return offset if gain.mean() > (2 if abs(offset) == 1 else 1) * error else 0


def best_offset(table: Tensor) -> tuple[int, float]:
    """Return the frames by which the audio is late, and the confidence, of cosines [M, 31] by offset.

    A positive offset means that the matching audio comes later in the file. Among equally good offsets, the
    smallest is chosen. The result is (0, 0.0) without a window.
    """
    if not len(table):
        return 0, 0.0
    mean = table.mean(dim=0)
    best = int((mean - _TIE * _OFFSETS.abs()).argmax())
    return int(_OFFSETS[best]), float(mean[best] - mean.median())


def similarities(
    syncnet: SyncNet, clip: Clip, reader: FaceReader, device: torch.device, positions: Indices | None = None
) -> Similarities:
    """Return the cosines of all windows of a clip, or of those at the given ascending positions.

    SyncNet must be on the device and in eval mode. Memory grows with the square of the number of windows.
    Raises `ClipError`.
    """
    positions = clip.windows() if positions is None else positions
    if not len(positions):
        return Similarities(clip.frames[:0], torch.empty(0, 0))
    mel = clip.mel()
    earliest = int(positions[0])
    mouths = reader(clip, earliest, int(positions[-1]) + WINDOW - earliest)[:, FACE_SIZE // 2 :]
    audio_parts, face_parts = [], []
    for first in range(0, len(positions), _BATCH):
        signals.check()
        chosen = positions[first : first + _BATCH]
        mels = np.stack([mel_columns(mel, int(clip.frames[position])) for position in chosen])
        windows = np.stack([mouths[start : start + WINDOW] for start in chosen - earliest])
        audio, faces = embed(syncnet, mels, windows, device)
        audio_parts.append(audio)
        face_parts.append(faces)
    table = cosines(torch.cat(audio_parts), torch.cat(face_parts)).cpu()
    return Similarities(clip.frames[positions], table)


@torch.inference_mode()
def embed(
    syncnet: SyncNet, mels: Mel | Sequence[Mel], mouths: Faces, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return unit embeddings [B, D] of mel windows [B, 80, 16] and of lower faces uint8 [B, 5, S/2, S, 3]."""
    audio, faces = syncnet(
        torch.from_numpy(np.asarray(mels)).to(device)[:, None],
        syncnet_input_of_images(torch.from_numpy(mouths).to(device)),
    )
    return audio.float(), faces.float()
