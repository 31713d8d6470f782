"""Order of the clips in an epoch: each once, or balanced over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Clip, Indices
from wav2lip_npu.mel import TRAINING_FPS

_ENOUGH_S = 60.0
"""Seconds of a speaker above which more material does not increase the number of samples."""
_EPOCHS = 8


class ClipOrder:
    """The clip of each sample of an epoch: a function of seed and epoch. Threads may share it."""

    def __init__(self, clips: Sequence[Clip], seed: int, *, balance_speakers: bool = False) -> None:
        self._count, self._seed = len(clips), seed
        self._shares = speaker_shares(clips) if balance_speakers else None
        self._of_epoch = lru_cache(maxsize=_EPOCHS)(self._drawn)

    def __call__(self, epoch: int) -> Indices:
        """Return the clips of an epoch, as many as there are clips."""
        return self._of_epoch(epoch)

    def _drawn(self, epoch: int) -> Indices:
        random = np.random.default_rng((self._seed, epoch))
        order: Indices = random.permutation(self._count)
        if self._shares is None:
            return order
        # Evenly spaced places on the line of shares, so that each share is met except for rounding.
        places = (np.arange(self._count) + random.random()) / self._count
        chosen: Indices = np.searchsorted(np.cumsum(self._shares[order]), places)
        return random.permutation(order[np.minimum(chosen, self._count - 1)])


def speaker_shares(clips: Sequence[Clip]) -> NDArray[np.float64]:
    """Return the share of each clip in the samples [C].

    A speaker, which is the folder above a clip, is drawn by the square root of the time of his clips, of at
    most a minute; a clip of a speaker by its time.
    """
    seconds = np.array([len(clip.frames) / TRAINING_FPS for clip in clips])
    _, speakers = np.unique([str(PurePath(clip.name).parent) for clip in clips], return_inverse=True)
    of_speaker = np.bincount(speakers, seconds)
    shares = seconds / of_speaker[speakers] * np.sqrt(np.minimum(of_speaker, _ENOUGH_S))[speakers]
    total: NDArray[np.float64] = shares / shares.sum()
    return total
