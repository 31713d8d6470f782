"""The network that finds what is in front of a face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wav2lip_npu.devices import device as devices
from wav2lip_npu.models import weight_formats

SIZE = 48
"""Rows and columns of its images."""
CHANNELS = 7
"""The face (3), the mean of the face in earlier frames (3) and its deviation (1)."""


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class OcclusionNet(nn.Module):
    """A U-Net: 24 MMAC, 0.13 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.at_1 = _block(CHANNELS + 2, 16)
        self.at_2 = nn.Sequential(_block(16, 32, 2), _block(32, 32))
        self.at_4 = nn.Sequential(_block(32, 48, 2), _block(48, 48))
        self.at_8 = nn.Sequential(_block(48, 64, 2), _block(64, 64))
        self.to_4, self.again_4 = nn.Conv2d(64, 48, 1), _block(48, 48)
        self.to_2, self.again_2 = nn.Conv2d(48, 32, 1), _block(32, 32)
        self.to_1, self.output = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 1, 1)
        grid = torch.linspace(-0.5, 0.5, SIZE)
        self.position: Tensor
        position = torch.stack(torch.meshgrid(grid, grid, indexing="ij"))
        self.register_buffer("position", position, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 1, 48, 48], positive in front of the face, for [B, 7, 48, 48] in [0, 1]."""
        position = self.position.expand(len(images), -1, -1, -1)
        fine = self.at_1(torch.cat([images - 0.5, position], dim=1))
        half = self.at_2(fine)
        quarter = self.at_4(half)
        quarter = self.again_4(quarter + self.to_4(_double(self.at_8(quarter))))
        half = self.again_2(half + self.to_2(_double(quarter)))
        result: Tensor = self.output(functional.relu(fine + self.to_1(_double(half))))
        return result


def load_occlusion(path: Path) -> OcclusionNet:
    """Return the network with the weights of a file, in eval mode, its batch norms folded."""
    network: Any = OcclusionNet()
    network.load_state_dict({name: value.float() for name, value in weight_formats.read(path).items()})
    network.eval()
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        convolution, norm = module[0], module[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0], module[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    layout = devices.memory_format(torch.device(devices.HOST))
    ready: OcclusionNet = network.requires_grad_(False).to(memory_format=layout)
    return ready


def _double(values: Tensor) -> Tensor:
    return functional.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)
