"""Compare a quantised generator with the original one: grey levels in the mouth, and the judged sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import WINDOW
from wav2lip_npu.devices import device as devices
from wav2lip_npu.export.calibration import Samples
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.inputs import at_syncnet_size, images_of_faces
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training.losses import cosines
from wav2lip_npu.training.sync_offset import Similarities, embed

MAX_GREY_LEVELS = 1.5
"""Largest mean difference in the mouth region, of 255."""
MAX_CONFIDENCE_CHANGE = 0.03
"""Largest change of SyncNet's confidence. On real clips it changed by up to 0.011."""
NO_SYNC = 0.02
"""Confidence below which the best offset is chance, and is not compared."""
RANGE_STEP = 4
"""One of this many frames sets the ranges; only the others are compared."""
_BATCH = 64

Run = Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]
"""Returns generated faces [B, 3, S, S] for the inputs `mel` and `face` of a generator."""


@dataclass(frozen=True, kw_only=True)
class Int8Quality:
    """Difference of a quantised generator from the original one on a clip."""

    grey_levels: float
    """Mean absolute difference in the mouth region, of 255."""
    offset: int
    """Offset judged by the bundled SyncNet, in frames of 1/25 s."""
    confidence: float
    """Confidence of the offset, 0 to 1."""
    original_offset: int
    original_confidence: float

    @property
    def is_good(self) -> bool:
        """Whether the difference is small and the judged sync is the same."""
        is_in_sync = max(self.confidence, self.original_confidence) >= NO_SYNC
        return (
            self.grey_levels <= MAX_GREY_LEVELS
            and (self.offset == self.original_offset or not is_in_sync)
            and abs(self.confidence - self.original_confidence) <= MAX_CONFIDENCE_CHANGE
        )

    def __str__(self) -> str:
        return (
            f"{self.grey_levels:.2f} grey levels in the mouth, sync offset {self.offset} with confidence "
            f"{self.confidence:.3f} instead of {self.original_offset} with {self.original_confidence:.3f}"
        )


def measure_quality(samples: Samples, batch: int, original: Run, quantised: Run) -> Int8Quality:
    """Run both generators on the frames of a clip, in batches of one size, and compare them."""
    count, mouths = len(samples.frames), slice(samples.faces.shape[1] // 2, None)
    differences: list[NDArray[np.float32]] = []
    images: tuple[list[NDArray[np.uint8]], ...] = ([], [])
    for arrays in samples.batches(batch):
        results = [run(arrays)[:, :, mouths] for run in (original, quantised)]
        differences.append(np.abs(results[0] - results[1]).mean(axis=(1, 2, 3)))
        for held, result in zip(images, results, strict=True):
            held.append(images_of_faces(at_syncnet_size(torch.from_numpy(result))).numpy())
    is_compared = np.arange(count) % RANGE_STEP > 0
    judged = [_judge(samples, np.concatenate(held)[:count]) for held in images]
    return Int8Quality(
        grey_levels=255 * float(np.concatenate(differences)[:count][is_compared].mean()),
        offset=judged[1][0],
        confidence=judged[1][1],
        original_offset=judged[0][0],
        original_confidence=judged[0][1],
    )


def _judge(samples: Samples, mouths: NDArray[np.uint8]) -> tuple[int, float]:
    """Return the offset of the audio and its confidence for generated mouths [N, 48, 96, 3]."""
    device = torch.device(devices.HOST)
    syncnet = checkpoint.load(STARTER, "syncnet").network()
    assert isinstance(syncnet, SyncNet)
    frames = samples.frames
    starts = np.flatnonzero(frames[WINDOW - 1 :] - frames[: 1 - WINDOW] == WINDOW - 1)
    parts = [starts[first : first + _BATCH] for first in range(0, len(starts), _BATCH)]
    windows = ((part, part[:, None] + np.arange(WINDOW)) for part in parts)
    embeddings = [embed(syncnet, samples.mels[part], mouths[rows], device) for part, rows in windows]
    audio, faces = (torch.cat(side) for side in zip(*embeddings, strict=True))
    return Similarities(frames[starts], cosines(audio, faces)).offset()
