"""What detectors that run on torch share: batches of images of one size, on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu import signals
from wav2lip_npu.devices.device import memory_format
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.media.yuv_image import Image

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchDetector(ABC):
    """A network on a torch device. Thread-safe."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self._network = network.to(device)
        self._device = device

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`. Images of one size run as one batch."""
        detections: list[list[Detection]] = [[] for _ in images]
        for shape in dict.fromkeys(image.shape for image in images):
            same = [i for i, image in enumerate(images) if image.shape == shape]
            signals.check()
            outputs = self._forward(np.stack([images[i] for i in same]))
            for i, faces in zip(same, self._faces(outputs), strict=True):
                detections[i] = faces
        return detections

    @abstractmethod
    def _faces(self, outputs: Sequence[NDArray[np.float32]]) -> Iterable[list[Detection]]:
        """Return the faces of each image from the outputs of the network."""

    def _normalised(self, batch: Tensor) -> Tensor:
        """Return the input of the network for images float32 [B, 3, H, W], BGR in [0, 255]."""
        return batch

    def _forward(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs, which leave the device in one copy."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()
            batch = batch.contiguous(memory_format=memory_format(batch.device))
            outputs: Sequence[Tensor] = self._network(self._normalised(batch))
            rows = torch.cat([output.flatten(1) for output in outputs], dim=1).float().cpu().numpy()
        ends = np.cumsum([output[0].numel() for output in outputs])
        parts = np.split(rows, ends[:-1], axis=1)
        return [part.reshape(output.shape) for part, output in zip(parts, outputs, strict=True)]
