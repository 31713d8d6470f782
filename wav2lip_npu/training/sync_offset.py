"""What an expert thinks of a clip: every sound window against every picture window.

The offset search follows Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), with
the cosine of the embeddings in place of their distance: the offset is where the mean over the clip is
best, the confidence how far that best stands above the median of the offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu.data.clip import Clip, Faces, Numbers, mel_columns
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.mel import Mel
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training.losses import cosines

MAX_OFFSET = 15
"""Frames of 40 ms by which the sound is moved either way in search of the best match."""
_OFFSETS = torch.arange(-MAX_OFFSET, MAX_OFFSET + 1)
_TIE = 1e-6
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Similarities:
    """Cosines of all windows of one clip."""

    frames: Numbers
    """First picture of each window, [N]."""
    cosines: Tensor
    """float32 [N, N], rows are sounds, columns pictures; on the CPU."""

    def in_sync(self) -> Tensor:
        """Cosines [N] of each picture window with its own sound."""
        return self.cosines.diagonal()

    def out_of_sync(self) -> Tensor:
        """Cosines of each picture window with every other sound of the clip."""
        count = len(self.frames)
        return self.cosines[~torch.eye(count, dtype=torch.bool)]

    def by_offset(self) -> Tensor:
        """Cosines [M, 31] of picture windows with the sound from -15 to +15 frames away.

        Only windows whose sound is there at all 31 places are in it.
        """
        wanted = self.frames[:, None] + _OFFSETS.numpy()
        places = np.searchsorted(self.frames, wanted).clip(max=len(self.frames) - 1)
        whole = np.flatnonzero((self.frames[places] == wanted).all(axis=1))
        return self.cosines[places[whole], whole[:, None]]

    def offset(self) -> tuple[int, float]:
        """Frames by which the sound is late against the picture, and the confidence of that.

        Positive: the sound that fits a picture comes later in the file. (0, 0.0) when the clip is too short
        to be moved so far: it needs 35 pictures in a row. Of equals the offset nearest to 0 is taken.
        """
        table = self.by_offset()
        if not len(table):
            return 0, 0.0
        mean = table.mean(dim=0)
        best = int((mean - _TIE * _OFFSETS.abs()).argmax())
        return int(_OFFSETS[best]), float(mean[best] - mean.median())

    def significant_offset(self) -> int:
        """As `offset`, but 0 unless the windows agree that it is better than 0.

        The mean gain must be more than its standard error, for a single frame more than twice that; five
        windows in a row overlap and count as one. On clips of known offset this kept all that were late by
        two frames or more and none that was not (an expert of width 4, 60 clips of GRID).
        """
        offset, _ = self.offset()
        if not offset:
            return 0
        table = self.by_offset()
        gain = table[:, MAX_OFFSET + offset] - table[:, MAX_OFFSET]
        error = gain.std() / (len(gain) / WINDOW) ** 0.5
        return offset if gain.mean() > (2 if abs(offset) == 1 else 1) * error else 0


def similarities(
    syncnet: SyncNet, clip: Clip, reader: FaceReader, device: torch.device, at: Numbers | None = None
) -> Similarities:
    """Cosines of all windows of a clip, or of those at the given ascending positions. Raises `ClipError`.

    The expert is on the device and in eval mode. Memory grows with the square of the windows.
    """
    positions = clip.windows() if at is None else at
    if not len(positions):
        return Similarities(clip.frames[:0], torch.empty(0, 0))
    mel = clip.mel()
    earliest = int(positions[0])
    faces = reader(clip, earliest, int(positions[-1]) + WINDOW - earliest)[:, FACE_SIZE // 2 :]
    sounds, pictures = [], []
    for first in range(0, len(positions), _BATCH):
        chosen = positions[first : first + _BATCH]
        mels = np.stack([mel_columns(mel, int(clip.frames[p])) for p in chosen])
        windows = np.stack([faces[p : p + WINDOW] for p in chosen - earliest])
        sound, picture = embed(syncnet, mels, windows, device)
        sounds.append(sound)
        pictures.append(picture)
    table = cosines(torch.cat(sounds), torch.cat(pictures)).cpu()
    return Similarities(clip.frames[positions], table)


@torch.inference_mode()
def embed(
    syncnet: SyncNet, mels: Mel | Sequence[Mel], faces: Faces, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Unit embeddings [B, D] of sounds [B, 80, 16] and of lower faces uint8 [B, 5, S/2, S, 3]."""
    sound, picture = syncnet(
        torch.from_numpy(np.asarray(mels)).to(device)[:, None],
        syncnet_input_of_images(torch.from_numpy(faces).to(device)),
    )
    return sound.float(), picture.float()
