"""Convolutions for a CPU whose weights are packed once; they also compute the sum and the ReLU of a block.

`nn.Conv2d` brings its weights into the layout of oneDNN's kernels at every call, which takes a fifth of the
time of a small batch. The operators used here are those of `torch.compile`.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from wav2lip_npu.models.blocks import ConvBlock, UpBlock


class PackedConvolution(nn.Module):
    """A convolution of any kind, for inference. Its weights are packed for the first input. Thread-safe."""

    def __init__(
        self, layer: nn.Conv2d | nn.ConvTranspose2d, *, relu: bool = False, residual: bool = False
    ) -> None:
        super().__init__()
        self.weight: Tensor | None = layer.weight
        """`None` once it is packed."""
        self.bias = layer.bias
        self._is_transposed = isinstance(layer, nn.ConvTranspose2d)
        more: Any = (layer.output_padding,) if self._is_transposed else ()
        self._geometry: Any = (layer.padding, *more, layer.stride, layer.dilation, layer.groups)
        self._activation = "relu" if relu else "none"
        self._residual = residual
        self._packed: Tensor | None = None
        self._lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x, plus x if it is residual, after the ReLU if it has one."""
        kernels: Any = torch.ops.mkldnn
        weight, geometry, activation = self._packed_for(x), self._geometry, self._activation
        if self._is_transposed:
            y = kernels._convolution_transpose_pointwise(x, weight, self.bias, *geometry, activation, [], "")
        elif self._residual:
            both = (x, x, weight, self.bias)
            y = kernels._convolution_pointwise(*both, *geometry, "add", 1.0, activation, [], "")
        else:
            y = kernels._convolution_pointwise(x, weight, self.bias, *geometry, activation, [], "")
        result: Tensor = y
        return result

    def _packed_for(self, x: Tensor) -> Tensor:
        if self._packed is None:
            with self._lock:
                if self.weight is not None:
                    kernels: Any = torch.ops.mkldnn
                    pack = kernels._reorder_convolution_weight
                    if self._is_transposed:
                        pack = kernels._reorder_convolution_transpose_weight
                    self._packed = pack(self.weight.detach(), *self._geometry, list(x.shape))
                    self.weight = None
        assert self._packed is not None
        return self._packed


def pack_convolutions(network: nn.Module) -> None:
    """Replace all convolutions of a network, whose norms are folded, in place."""
    for name, child in network.named_children():
        if isinstance(child, (ConvBlock, UpBlock)) and isinstance(child.act, nn.ReLU):
            layer: Any = child.conv_block
            residual = isinstance(child, ConvBlock) and child.residual
            setattr(network, name, PackedConvolution(layer, relu=True, residual=residual))
        elif isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            setattr(network, name, PackedConvolution(child))
        else:
            pack_convolutions(child)
