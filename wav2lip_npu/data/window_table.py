"""All windows of a set of clips as arrays, so that the windows of a whole batch are drawn at once.

`C` clips, `W` windows of all clips, `B` clips of a batch. Random numbers are in [0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Clip, Indices
from wav2lip_npu.data.clip_layout import WINDOW

Uniforms = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Consecutive entries of an array, a group per clip."""

    first: Indices
    """First entry of each clip, [C]."""
    count: Indices
    """Entries of each clip, [C]."""

    def pick(self, clips: Indices, random: Uniforms) -> Indices:
        """Return a random entry of each of the clips [B], for random numbers of the same shape."""
        return self.first[clips] + (random * self.count[clips]).astype(np.int64)


@dataclass(frozen=True)
class WindowTable:
    """The windows of clips, in the order of the clips and their frames."""

    positions: Indices
    """Position of the first face of each window in its clip, [W]."""
    frames: Indices
    """First frame of each window, [W]."""
    of_clip: Groups
    """The windows of each clip."""
    targets: Indices
    """Windows with at least one other window in their shot."""
    targets_of_clip: Groups
    """Entries of `targets`."""
    shot: NDArray[np.int64]
    """First window, and window after the last, of the shot of each window, [2, W]."""
    near: NDArray[np.int64]
    """First window, and window after the last, too near to each window to be its reference, [2, W]."""

    @classmethod
    def of(cls, clips: Sequence[Clip], shift: int, reference_distance: int = 0) -> WindowTable:
        """Return the windows of clips with this mel shift, see `Clip.windows`.

        At least `reference_distance` frames lie between a target and its reference in long enough shots.
        """
        each = [clip.windows(shift) for clip in clips]
        counts = np.array([len(positions) for positions in each], np.int64)
        frames = np.concatenate([c.frames[positions] for c, positions in zip(clips, each, strict=True)])
        shots = np.concatenate([c.shots[positions] for c, positions in zip(clips, each, strict=True)])
        owners = np.repeat(np.arange(len(clips)), counts)
        first, after = _runs(shots, owners)
        targets = np.flatnonzero(after - first > 1)
        target_counts = np.bincount(owners[targets], minlength=len(clips))
        return cls(
            positions=np.concatenate(each),
            frames=frames,
            of_clip=Groups(np.cumsum(counts) - counts, counts),
            targets=targets,
            targets_of_clip=Groups(np.cumsum(target_counts) - target_counts, target_counts),
            shot=np.stack([first, after]),
            near=_near(frames, first, after, reference_distance),
        )

    def pick_different(self, clips: Indices, random: Uniforms) -> Indices:
        """Return K different windows of each clip [B, K], for random numbers [B, K].

        A clip with fewer than K windows repeats some.
        """
        count = self.of_clip.count[clips]
        chosen = np.empty(random.shape, np.int64)
        for k in range(random.shape[1]):
            # The number of a window among those that remain, then its number among all.
            rank = (random[:, k] * np.maximum(count - k, 1)).astype(np.int64)
            for earlier in np.sort(chosen[:, :k], axis=1).T:
                rank += rank >= earlier
            chosen[:, k] = rank
        repeated = (random * count[:, None]).astype(np.int64)
        chosen = np.where((count >= random.shape[1])[:, None], chosen, repeated)
        return self.of_clip.first[clips][:, None] + chosen

    def pick_target(self, clips: Indices, random: Uniforms) -> tuple[Indices, Indices]:
        """Return a target window and a reference window of each clip, [B] each, for random numbers [B, 2]."""
        targets = self.targets[self.targets_of_clip.pick(clips, random[:, 0])]
        (first, after), (near, far) = self.shot[:, targets], self.near[:, targets]
        before = near - first
        rank = (random[:, 1] * (before + after - far)).astype(np.int64)
        return targets, np.where(rank < before, first + rank, far + rank - before)


def _runs(shots: Indices, owners: Indices) -> tuple[Indices, Indices]:
    """Return the first window of the shot of each window, and the window after its last."""
    if not len(shots):
        return shots, shots
    begins = np.flatnonzero(np.diff(shots, prepend=-1) | np.diff(owners, prepend=-1))
    lengths = np.diff(begins, append=len(shots))
    return np.repeat(begins, lengths), np.repeat(begins + lengths, lengths)


def _near(frames: Indices, first: Indices, after: Indices, distance: int) -> NDArray[np.int64]:
    """Return the range of windows around each window that are too near to be its reference."""
    own = np.arange(len(frames))
    near = np.stack([own, own + 1])
    if not distance:
        return near
    farthest = np.maximum(frames - frames[first], frames[after - 1] - frames)
    gap = np.minimum(distance + WINDOW, farthest)
    for begin, end in {(int(a), int(b)) for a, b in zip(first, after, strict=True) if b - a > 1}:
        part = slice(begin, end)
        near[0, part] = begin + np.searchsorted(frames[part], frames[part] - gap[part], side="right")
        near[1, part] = begin + np.searchsorted(frames[part], frames[part] + gap[part], side="left")
    return near
