"""Decide whether the training clips are loaded into device memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.resident_clips import size_of
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import device_memory
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.training import distributed
from wav2lip_npu.training.distributed import Ranks
from wav2lip_npu.training.options import DataPlace

log = logging.getLogger(__name__)

DEVICE, HOST = "device", "host"
_SHARE = 0.5
"""Share of the free device memory that the clips may take. Networks, their gradients and the activations of a
batch need the rest."""


def place_of_data(
    wanted: DataPlace,
    clips: Sequence[Clip],
    face_size: int,
    device: torch.device,
    ranks: Ranks,
    resumed: Checkpoint | None,
) -> str:
    """Return `device` or `host` for --data_on, the same on all ranks.

    With `auto`, a resumed run keeps the place of its checkpoint, so that its samples are the same. Raises
    `UsageError` if the clips do not fit in device memory although this was asked for.
    """
    before = None if resumed is None else str(resumed.more.get("data_on", HOST))
    free, needed = device_memory.memory(device)[0], size_of(clips, face_size)
    fits = needed <= _SHARE * free
    size = f"the training clips take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB of {device} are free"
    if wanted == DEVICE and not fits:
        raise UsageError(f"--data_on device: {size}; at most half of that is used. Pass --data_on host.")
    if wanted == "auto":
        wants_device = before == DEVICE if before is not None else devices.is_accelerator(device)
        place = DEVICE if wants_device and all(distributed.all_gather(fits, ranks)) else HOST
        if wants_device and place == HOST:
            log.info("samples are loaded by the host: %s", size)
    else:
        place = wanted
    if before not in (None, place):
        log.warning(
            "the checkpoint was trained with --data_on %s. With --data_on %s the run continues with other "
            "random samples.",
            before,
            place,
        )
    return place
