"""Samples of a batch as tensors on a device."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from wav2lip_npu.data.samples import Batch, PairSample, TargetSample, WindowSample
from wav2lip_npu.devices import transfers


class WindowBatch(NamedTuple):
    """`WindowSample` rows."""

    mels: Tensor
    faces: Tensor
    frames: Tensor
    clips: Tensor
    """Number of the clip that each row comes from, [B]."""


class PairBatch(NamedTuple):
    """`PairSample` rows."""

    mels: Tensor
    faces: Tensor
    in_sync: Tensor


class TargetBatch(NamedTuple):
    """`TargetSample` rows."""

    targets: Tensor
    references: Tensor
    frame_mels: Tensor
    mels: Tensor
    judged: Tensor


WindowRows: TypeAlias = WindowSample | WindowBatch
PairRows: TypeAlias = PairSample | PairBatch
TargetRows: TypeAlias = TargetSample | TargetBatch
"""Rows that are still on the host or already on the device."""
DeviceRows = TypeVar("DeviceRows", WindowBatch, PairBatch, TargetBatch)


def on_device(batch: Batch[Any], kind: type[DeviceRows], device: torch.device) -> DeviceRows:
    """Return the rows of a batch as this kind, copied to the device unless they are there."""
    if isinstance(batch.samples, kind):
        return batch.samples
    arrays = {**batch.samples._asdict(), "clips": batch.clips}
    return kind(**transfers.upload({name: arrays[name] for name in kind._fields}, device))
