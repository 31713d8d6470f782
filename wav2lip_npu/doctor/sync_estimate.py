"""Measure the audio offset of a clip with SyncNet."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.devices import device as devices

if TYPE_CHECKING:
    import torch

    from wav2lip_npu.models.networks import SyncNet

_MAX_WINDOWS = 256
"""Windows measured per clip, from its middle."""


class SyncEstimate(NamedTuple):
    """Offset of a clip; the fields are the same as in `ClipStats`."""

    offset: int
    confidence: float
    significant_offset: int


SyncEstimator = Callable[[Clip], SyncEstimate | None]
"""Returns None for a clip that is too short to measure."""


def load_estimator(path: str | os.PathLike[str], device: torch.device) -> SyncEstimator:
    """Return an estimator with the SyncNet weights of a file. Raises `CheckpointError`."""
    from wav2lip_npu.models import checkpoint
    from wav2lip_npu.models.networks import SyncNet

    syncnet = checkpoint.load(path, "syncnet").network()
    assert isinstance(syncnet, SyncNet)
    devices.activate(device)
    syncnet.to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    return sync_estimator(syncnet, device)


def sync_estimator(syncnet: SyncNet, device: torch.device) -> SyncEstimator:
    """Return an estimator with a SyncNet that is on the device and in eval mode."""
    from wav2lip_npu.training.sync_offset import MIN_WINDOWS, similarities

    reader = FaceReader(cache=False)

    def estimate(clip: Clip) -> SyncEstimate | None:
        positions = clip.windows()
        first = max(0, len(positions) - _MAX_WINDOWS) // 2
        cosines = similarities(syncnet, clip, reader, device, positions[first : first + _MAX_WINDOWS])
        if len(cosines.by_offset()) < MIN_WINDOWS:
            return None
        return SyncEstimate(*cosines.offset(), cosines.significant_offset())

    return estimate
