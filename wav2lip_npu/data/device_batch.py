"""Samples of a batch as tensors on a device."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from wav2lip_npu import device as devices
from wav2lip_npu.data.samples import Batch, PairSample, TargetSample, WindowSample


class WindowBatch(NamedTuple):
    """`WindowSample` rows."""

    mels: Tensor
    faces: Tensor
    frames: Tensor
    clips: Tensor
    """Number of the clip that each row comes from, [B]."""

    @classmethod
    def of(cls, batch: Batch[WindowRows], device: torch.device) -> WindowBatch:
        """Return the rows of a batch, copied to the device unless they are there."""
        if isinstance(batch.samples, cls):
            return batch.samples
        return cls(**devices.upload({**batch.samples._asdict(), "clips": batch.clips}, device))


class PairBatch(NamedTuple):
    """`PairSample` rows."""

    mels: Tensor
    faces: Tensor
    in_sync: Tensor

    @classmethod
    def of(cls, batch: Batch[PairRows], device: torch.device) -> PairBatch:
        """Return the rows of a batch, copied to the device unless they are there."""
        if isinstance(batch.samples, cls):
            return batch.samples
        return cls(**devices.upload(batch.samples._asdict(), device))


class TargetBatch(NamedTuple):
    """`TargetSample` rows."""

    targets: Tensor
    references: Tensor
    frame_mels: Tensor
    mels: Tensor
    judged: Tensor

    @classmethod
    def of(cls, batch: Batch[TargetRows], device: torch.device) -> TargetBatch:
        """Return the rows of a batch, copied to the device unless they are there."""
        if isinstance(batch.samples, cls):
            return batch.samples
        return cls(**devices.upload(batch.samples._asdict(), device))


WindowRows: TypeAlias = WindowSample | WindowBatch
PairRows: TypeAlias = PairSample | PairBatch
TargetRows: TypeAlias = TargetSample | TargetBatch
"""Rows that are still on the host or already on the device."""
