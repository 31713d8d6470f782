"""The layers of all networks: convolutions with batch norm, the audio encoder, and the folding of norms."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

FULL_WIDTH = 32
"""`width` of the published networks; channel counts scale with it."""
Activation = Literal["relu", "leaky", "prelu"]
"""`leaky` has the slope 0.2; `prelu` one learned slope per layer."""
_ACTIVATIONS: dict[Activation, Any] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.2, inplace=True),
    "prelu": nn.PReLU,
}

Size = int | tuple[int, int]


def scaled(channels: int, width: int) -> int:
    """Scale a channel count of the published network to a width."""
    if width < 2 or width % 2 or channels * width % FULL_WIDTH:
        raise ValueError(f"width {width} is not an even number of at least 2")
    return channels * width // FULL_WIDTH


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation; with `residual` the input is added before the activation."""

    def __init__(
        self,
        in_: int,
        out: int,
        kernel: int,
        stride: Size = 1,
        padding: int = 1,
        residual: bool = False,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(in_, out, kernel, stride, padding), nn.BatchNorm2d(out))
        self.act = _ACTIVATIONS[activation]()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H / stride, W / stride]."""
        y: Tensor = self.conv_block(x)
        y = y.add_(x) if self.residual else y
        activated: Tensor = self.act(y)
        return activated


class UpBlock(nn.Module):
    """Transposed convolution, batch norm, activation."""

    def __init__(
        self,
        in_: int,
        out: int,
        kernel: int = 3,
        stride: int = 2,
        padding: int = 1,
        output_padding: int = 1,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(in_, out, kernel, stride, padding, output_padding), nn.BatchNorm2d(out)
        )
        self.act = _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H * stride, W * stride]."""
        y: Tensor = self.act(self.conv_block(x))
        return y


class LeakyBlock(nn.Module):
    """Convolution and leaky ReLU (slope 0.01), without a norm."""

    def __init__(self, in_: int, out: int, kernel: int, stride: Size = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(in_, out, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H / stride, W / stride]."""
        return functional.leaky_relu(self.conv_block(x), 0.01, inplace=True)


def residuals(channels: int, count: int, activation: Activation = "relu") -> list[nn.Module]:
    """Return blocks of 3x3 convolutions to which their inputs are added."""
    return [ConvBlock(channels, channels, 3, residual=True, activation=activation) for _ in range(count)]


def audio_encoder(
    width: int, wide_residuals: int, *, is_long: bool = False, activation: Activation = "relu"
) -> nn.Sequential:
    """Return layers from [B, 1, 80, 16] to [B, 16 * width, 1, 1]; a long one ends with 32 * width channels.

    The generator of the paper and SyncNet differ in one residual block.
    """
    c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))

    def block(in_: int, out: int, stride: Size = 1, padding: int = 1, kernel: int = 3) -> nn.Module:
        return ConvBlock(in_, out, kernel, stride, padding, activation=activation)

    layers = [
        block(1, c32),
        *residuals(c32, 2, activation),
        block(c32, c64, (3, 1)),
        *residuals(c64, 2, activation),
        block(c64, c128, 3),
        *residuals(c128, 2, activation),
        block(c128, c256, (3, 2)),
        *residuals(c256, wide_residuals, activation),
    ]
    last, end = c256, c512
    if is_long:
        layers += [block(c256, c512), *residuals(c512, 2, activation)]
        last, end = c512, 2 * c512
    if activation == "leaky":  # of a SyncNet, whose embeddings are not negative
        activation = "relu"
    return nn.Sequential(*layers, block(last, end, 1, 0), block(end, end, 1, 0, kernel=1))


def fold_norms(network: nn.Module) -> None:
    """Fold every batch norm of a network in eval mode into the convolution before it, in place.

    Outputs change by rounding only. A folded network cannot be trained or saved.
    """
    for module in network.modules():
        fold_norm(module)


def fold_norm(module: nn.Module) -> None:
    """Fold the batch norm of one block of a network, if it has one, see `fold_norms`."""
    block = getattr(module, "conv_block", None)
    if not isinstance(block, nn.Sequential) or not isinstance(block[-1], nn.BatchNorm2d):
        return
    layers: Any = block
    convolution, norm = layers
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shape = (1, -1, 1, 1) if isinstance(convolution, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    with torch.no_grad():
        convolution.weight = nn.Parameter(convolution.weight * scale.view(shape))
        convolution.bias = nn.Parameter((convolution.bias - norm.running_mean) * scale + norm.bias)
    module.conv_block = convolution
