"""Network inputs from images, and images from network outputs.

Images are uint8, BGR, channels last. `B` batch, `T` frames of a window, `S` face size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from wav2lip_npu.devices import device as devices
from wav2lip_npu.models.networks import FACE_SIZE


def face_batch(images: Tensor) -> Tensor:
    """Return faces float32 [B, 3, S, S] in [0, 1] of images uint8 [B, S, S, 3], in the device's layout."""
    layout = devices.memory_format(images.device)
    return images.permute(0, 3, 1, 2).contiguous(memory_format=layout).float() / 255


def face_windows(images: Tensor) -> Tensor:
    """Return faces float32 [B, 3, T, S, S] in [0, 1] of windows uint8 [B, T, S, S, 3]."""
    return images.permute(0, 4, 1, 2, 3).contiguous().float() / 255


def generator_input(faces: Tensor, references: Tensor) -> Tensor:
    """Return faces with a black lower half and the references, stacked on channels.

    Args:
        faces: [B, 3, S, S] or [B, 3, T, S, S], unchanged.
        references: The same shape.

    """
    masked = faces.clone()
    masked[..., faces.shape[-2] // 2 :, :] = 0
    return torch.cat([masked, references], dim=1)


def at_syncnet_size(mouths: Tensor) -> Tensor:
    """Return mouths [B, C, S/2, S] at the size of SyncNet's, [B, C, 48, 96]: means of areas."""
    size = mouths.shape[-1]
    if size == FACE_SIZE:
        return mouths
    down = _areas(size // 2, FACE_SIZE // 2, mouths.device)
    return down @ mouths @ _areas(size, FACE_SIZE, mouths.device).T


@lru_cache(maxsize=16)
def _areas(length: int, count: int, device: torch.device) -> Tensor:
    """Return the matrix [count, length] of the means of `count` equal parts of a row of pixels."""
    edges = torch.linspace(0, length, count + 1, dtype=torch.float64)
    pixels = torch.arange(length, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    with torch.inference_mode(False):  # a cached matrix is used with gradients too
        return (inside.clamp(min=0) * count / length).float().to(device)


def syncnet_input(faces: Tensor) -> Tensor:
    """Return SyncNet's input [B, 3 T, 48, 96], the lower halves of windows [B, 3, T, S, S]."""
    mouths = at_syncnet_size(faces[:, :, :, faces.shape[3] // 2 :].transpose(1, 2).flatten(1, 2))
    return mouths.contiguous(memory_format=devices.memory_format(faces.device))


def syncnet_input_of_images(mouths: Tensor) -> Tensor:
    """Return SyncNet's input [B, 3 T, S/2, S] of lower halves uint8 [B, T, S/2, S, 3]."""
    stacked = mouths.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255
    return stacked.contiguous(memory_format=devices.memory_format(mouths.device))


def images_of_faces(faces: Tensor) -> Tensor:
    """Return images uint8 [B, H, W, C] of network outputs [B, C, H, W] in [0, 1]."""
    return (faces.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
