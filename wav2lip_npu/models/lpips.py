"""LPIPS 0.1 with AlexNet: Zhang et al., "The Unreasonable Effectiveness of Deep Features" (2018).

The weights are the user's: those of torchvision's AlexNet, and the linear layers of the authors' `alex.pth`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from wav2lip_npu.models.inputs import face_batch
from wav2lip_npu.models.user_weights import load_network

ALEXNET_PATHS = (Path("checkpoints/alexnet-owt-7be5be79.pth"), Path("checkpoints/alexnet-owt-4df8aa71.pth"))
LINEAR_PATHS = (Path("checkpoints/lpips_alex.pth"),)
"""Paths at which weights are searched, relative to the working directory."""
_CHANNELS = (64, 192, 384, 256, 256)
_TAPS = (1, 4, 7, 9, 11)
"""Layers of `features` whose outputs are compared."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10
"""Added to lengths. Its square is added below the root, whose gradient at 0 would be infinite."""


class _AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        c64, c192, c384, c256, _ = _CHANNELS
        self.features = nn.Sequential(
            nn.Conv2d(3, c64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(c64, c192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(c192, c384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c384, c256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c256, c256, 3, padding=1),
            nn.ReLU(),
        )


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(_CHANNELS):
            layer = nn.Module()
            layer.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{number}", layer)


class Lpips(nn.Module):
    """Distance of images: a figure, or a loss whose gradient reaches the images."""

    shift: Tensor
    scale: Tensor

    def __init__(self, alexnet: str | os.PathLike[str], linear: str | os.PathLike[str]) -> None:
        """Load the weights. Raises `CheckpointError`."""
        super().__init__()
        self.layers = load_network(alexnet, _AlexNet, "AlexNet", "--alexnet", ignored="classifier.").features
        weights = load_network(linear, _Linear, "the linear layers of LPIPS", "--lpips").state_dict()
        for number in range(len(_CHANNELS)):
            self.register_buffer(f"weight{number}", weights[f"lin{number}.model.1.weight"])
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Return the LPIPS [B] of pairs of images, BGR [B, 3, H, W] in [0, 1], of at least 31 rows."""
        total = images.new_zeros(len(images))
        features = zip(self._features(images), self._features(others), strict=True)
        for number, (one, other) in enumerate(features):
            weighted = (one - other).square() * self.get_buffer(f"weight{number}")
            total = total + weighted.sum(dim=1).mean(dim=(1, 2))
        return total

    @torch.inference_mode()
    def of_images(self, images: Tensor, others: Tensor) -> list[float]:
        """Return the LPIPS of pairs of images, BGR uint8 [B, H, W, 3]."""
        faces = (face_batch(batch.to(self.shift.device)) for batch in (images, others))
        values: list[float] = self(*faces).tolist()
        return values

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the compared layers, float32, of length 1 along the channels."""
        x, taps = (images.flip(1) * 2 - 1 - self.shift) / self.scale, []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in _TAPS:
                y = x.float()
                taps.append(y / ((y.square().sum(dim=1, keepdim=True) + _EPS**2).sqrt() + _EPS))
        return taps
