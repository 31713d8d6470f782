"""The Inception network of FID (Heusel et al., 2017), ported from TensorFlow by pytorch-fid.

The weights, `pt_inception-2015-12-05-6726825d.pth`, are the user's. Module names match that file. It differs
from torchvision's Inception v3 in its average pooling, which does not count the padding, and in the last
block, which has a maximum pooling.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.models.user_weights import load_network

PATHS = (Path("checkpoints/pt_inception-2015-12-05-6726825d.pth"),)
"""Paths at which weights are searched, relative to the working directory."""
FEATURES = 2048
_SIZE = 299
_CLASSES = 1008
Kernel = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU; with stride 1 the size is kept, unless `shrink`."""

    def __init__(self, in_: int, out: int, kernel: Kernel, stride: int = 1, *, shrink: bool = False) -> None:
        super().__init__()
        down, across = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (0, 0) if shrink or stride > 1 else (down // 2, across // 2)
        self.conv = nn.Conv2d(in_, out, (down, across), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _BlockA(nn.Module):
    def __init__(self, in_: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(in_, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Conv(in_, 48, 1), _Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(in_, 64, 1), _Conv(64, 96, 3)
        self.branch3x3dbl_3, self.branch_pool = _Conv(96, 96, 3), _Conv(in_, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        parts = (
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            double,
            self.branch_pool(_average(x)),
        )
        return torch.cat(parts, 1)


class _BlockB(nn.Module):
    def __init__(self, in_: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(in_, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(in_, 64, 1), _Conv(64, 96, 3)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)), 1)


class _BlockC(nn.Module):
    def __init__(self, in_: int, c7: int) -> None:
        super().__init__()
        across, down = (1, 7), (7, 1)
        self.branch1x1 = _Conv(in_, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = _Conv(in_, c7, 1), _Conv(c7, c7, across)
        self.branch7x7_3 = _Conv(c7, 192, down)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = _Conv(in_, c7, 1), _Conv(c7, c7, down)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _Conv(c7, c7, across), _Conv(c7, c7, down)
        self.branch7x7dbl_5, self.branch_pool = _Conv(c7, 192, across), _Conv(in_, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat((self.branch1x1(x), single, double, self.branch_pool(_average(x))), 1)


class _BlockD(nn.Module):
    def __init__(self, in_: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Conv(in_, 192, 1), _Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _Conv(in_, 192, 1), _Conv(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = (
            _Conv(192, 192, (7, 1)),
            _Conv(192, 192, 3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat((self.branch3x3_2(self.branch3x3_1(x)), seven, functional.max_pool2d(x, 3, 2)), 1)


class _BlockE(nn.Module):
    def __init__(self, in_: int, *, maximum: bool) -> None:
        super().__init__()
        self._maximum = maximum
        across, down = (1, 3), (3, 1)
        self.branch1x1, self.branch3x3_1 = _Conv(in_, 320, 1), _Conv(in_, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _Conv(384, 384, across), _Conv(384, 384, down)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(in_, 448, 1), _Conv(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _Conv(384, 384, across), _Conv(384, 384, down)
        self.branch_pool = _Conv(in_, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, 1, 1) if self._maximum else _average(x)
        singles = self.branch3x3_2a(single), self.branch3x3_2b(single)
        doubles = self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)
        return torch.cat((self.branch1x1(x), *singles, *doubles, self.branch_pool(pooled)), 1)


class Inception(nn.Module):
    """Features of images."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, 2), _Conv(32, 32, 3, shrink=True)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = _Conv(64, 80, 1), _Conv(80, 192, 3, shrink=True)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
        self.Mixed_6a, self.Mixed_6b = _BlockB(288), _BlockC(768, 128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_BlockC(768, c7) for c7 in (160, 160, 192))
        self.Mixed_7a, self.Mixed_7b = _BlockD(768), _BlockE(1280, maximum=False)
        self.Mixed_7c = _BlockE(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, _CLASSES)  # not used; the file has its weights

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 2048] of images RGB in [0, 1], [B, 3, H, W]."""
        x = functional.interpolate(images, (_SIZE, _SIZE), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(functional.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features: Tensor = x.mean(dim=(2, 3))
        return features


class InceptionFeatures:
    """Features of face images on a device."""

    def __init__(self, path: str | os.PathLike[str], device: torch.device) -> None:
        """Load the weights. Raises `CheckpointError`."""
        network: Inception = load_network(path, Inception, "the Inception network of FID", "--inception")
        self._network, self._device = network.to(device), device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features float64 [B, 2048], on the CPU, of images BGR uint8 [B, H, W, 3]."""
        rgb = images.to(self._device).flip(-1).permute(0, 3, 1, 2).contiguous().float() / 255
        features: Tensor = self._network(rgb)
        return features.cpu().double()
