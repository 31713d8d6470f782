"""LPIPS 0.1 with AlexNet: Zhang et al., "The Unreasonable Effectiveness of Deep Features" (2018).

The weights are the user's: those of torchvision's AlexNet, and the linear layers of the authors' `alex.pth`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.models.user_weights import load_network

ALEXNET_PATHS = (Path("checkpoints/alexnet-owt-7be5be79.pth"), Path("checkpoints/alexnet-owt-4df8aa71.pth"))
LINEAR_PATHS = (Path("checkpoints/lpips_alex.pth"),)
"""Paths at which weights are searched, relative to the working directory."""
_CHANNELS = (64, 192, 384, 256, 256)
_TAPS = (1, 4, 7, 9, 11)
"""Layers of `features` whose outputs are compared."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10


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


class Lpips:
    """Distance of images."""

    def __init__(
        self, alexnet: str | os.PathLike[str], linear: str | os.PathLike[str], device: torch.device
    ) -> None:
        """Load the weights. Raises `CheckpointError`."""
        layers = load_network(alexnet, _AlexNet, "AlexNet", "--alexnet", ignored="classifier.")
        self._layers = layers.features.to(device)
        weights = load_network(linear, _Linear, "the linear layers of LPIPS", "--lpips").state_dict()
        self._weights = [
            weights[f"lin{number}.model.1.weight"].to(device) for number in range(len(_CHANNELS))
        ]
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor, others: Tensor) -> list[float]:
        """Return the LPIPS of pairs of images, BGR uint8 [B, H, W, 3]."""
        features = [self._features(batch) for batch in (images, others)]
        total = torch.zeros(len(images), device=self._device)
        for one, other, weight in zip(*features, self._weights, strict=True):
            total += functional.conv2d((one - other) ** 2, weight).mean(dim=(1, 2, 3))
        values: list[float] = total.cpu().tolist()
        return values

    def _features(self, images: Tensor) -> list[Tensor]:
        rgb = images.to(self._device).flip(-1).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        shift, scale = (rgb.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        x, taps = (rgb - shift) / scale, []
        for number, layer in enumerate(self._layers):
            x = layer(x)
            if number in _TAPS:
                taps.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + _EPS))
        return taps
