"""The networks of Wav2Lip: generator, SyncNet (the paper's lip-sync expert) and quality discriminator.

They follow Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in the
Wild" (arXiv 2008.10010). Parameter names match the published checkpoints and must not change.

Shapes: `B` batch, `T` frames of a window, `S` = `FACE_SIZE`. A face is float32 [3, S, S], BGR in [0, 1];
a mel window is float32 [1, 80, 16] in [-4, 4].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.models.patch_discriminator import PatchDiscriminator

FACE_SIZE = 96
FULL_WIDTH = 32
"""`width` of the published networks; channel counts scale with it."""

Size = int | tuple[int, int]


def _scaled(channels: int, width: int) -> int:
    """Scale a channel count of the published network to a width."""
    if width < 2 or width % 2:
        raise ValueError(f"width {width} is not an even number of at least 2")
    return channels * width // FULL_WIDTH


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU; with `residual` the input is added before the ReLU."""

    def __init__(
        self, in_: int, out: int, kernel: int, stride: Size = 1, padding: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(in_, out, kernel, stride, padding), nn.BatchNorm2d(out))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H / stride, W / stride]."""
        y: Tensor = self.conv_block(x)
        return functional.relu(y.add_(x) if self.residual else y, inplace=True)


class UpBlock(nn.Module):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(
        self, in_: int, out: int, stride: int = 2, padding: int = 1, output_padding: int = 1
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(in_, out, 3, stride, padding, output_padding), nn.BatchNorm2d(out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H * stride, W * stride]."""
        return functional.relu(self.conv_block(x), inplace=True)


class LeakyBlock(nn.Module):
    """Convolution and leaky ReLU (slope 0.01), without a norm."""

    def __init__(self, in_: int, out: int, kernel: int, stride: Size = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(in_, out, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H / stride, W / stride]."""
        return functional.leaky_relu(self.conv_block(x), 0.01, inplace=True)


def _residuals(channels: int, count: int) -> list[nn.Module]:
    return [ConvBlock(channels, channels, 3, residual=True) for _ in range(count)]


def _audio_encoder(width: int, wide_residuals: int) -> nn.Sequential:
    """Return layers from [B, 1, 80, 16] to [B, 16 * width, 1, 1].

    Generator and SyncNet differ in one residual block.
    """
    c32, c64, c128, c256, c512 = (_scaled(c, width) for c in (32, 64, 128, 256, 512))
    return nn.Sequential(
        ConvBlock(1, c32, 3),
        *_residuals(c32, 2),
        ConvBlock(c32, c64, 3, (3, 1)),
        *_residuals(c64, 2),
        ConvBlock(c64, c128, 3, 3),
        *_residuals(c128, 2),
        ConvBlock(c128, c256, 3, (3, 2)),
        *_residuals(c256, wide_residuals),
        ConvBlock(c256, c512, 3, 1, 0),
        ConvBlock(c512, c512, 1, 1, 0),
    )


class Wav2Lip(nn.Module):
    """The generator: generates a face from a masked face, a reference face and 200 ms of audio."""

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        self.width = width
        c16, c32, c64, c80, c128, c160 = (_scaled(c, width) for c in (16, 32, 64, 80, 128, 160))
        c256, c320, c384, c512, c768 = (_scaled(c, width) for c in (256, 320, 384, 512, 768))
        c1024 = 2 * c512
        self.face_encoder_blocks = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                [ConvBlock(6, c16, 7, 1, 3)],
                [ConvBlock(c16, c32, 3, 2), *_residuals(c32, 2)],
                [ConvBlock(c32, c64, 3, 2), *_residuals(c64, 3)],
                [ConvBlock(c64, c128, 3, 2), *_residuals(c128, 2)],
                [ConvBlock(c128, c256, 3, 2), *_residuals(c256, 2)],
                [ConvBlock(c256, c512, 3, 2), *_residuals(c512, 1)],
                [ConvBlock(c512, c512, 3, 1, 0), ConvBlock(c512, c512, 1, 1, 0)],
            )
        )
        self.audio_encoder = _audio_encoder(width, wide_residuals=1)
        self.face_decoder_blocks = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                [ConvBlock(c512, c512, 1, 1, 0)],
                [UpBlock(c1024, c512, 1, 0, 0), *_residuals(c512, 1)],
                [UpBlock(c1024, c512), *_residuals(c512, 2)],
                [UpBlock(c768, c384), *_residuals(c384, 2)],
                [UpBlock(c512, c256), *_residuals(c256, 2)],
                [UpBlock(c320, c128), *_residuals(c128, 2)],
                [UpBlock(c160, c64), *_residuals(c64, 2)],
            )
        )
        self.output_block = nn.Sequential(ConvBlock(c80, c32, 3), nn.Conv2d(c32, 3, 1), nn.Sigmoid())

    def encode_faces(self, faces: Tensor) -> list[Tensor]:
        """Return features of faces [B, 6, S, S], finest first: [B, c, S, S] to [B, 16 * width, 1, 1].

        Channels 0-2 are the target with a black lower half, 3-5 the reference. All frames of a still image
        share their features.
        """
        features = []
        for block in self.face_encoder_blocks:
            faces = block(faces)
            features.append(faces)
        return features

    def decode(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """Return faces [B, 3, S, S] in [0, 1] for mels [B, 1, 80, 16]; features may be of one face for all B.

        With `top_row` the result is [B, 3, S - top_row, S], the rows from `top_row`. Blending discards the
        rows above the mouth, and not computing them saves a quarter of the work.
        """
        x: Tensor = self.audio_encoder(mels)
        starts = first_rows(top_row, len(self.face_decoder_blocks))
        start = 0
        for block, feature, first in zip(self.face_decoder_blocks, reversed(features), starts, strict=True):
            x = block(x[:, :, first // 2 - start :])
            start = first
            rows = feature[:, :, start:]
            if len(rows) != len(x):
                rows = rows.expand(len(x), -1, -1, -1)
            x = torch.cat([x, rows], dim=1)
        y: Tensor = self.output_block(x)
        return y[:, :, top_row - start :]

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        """Return faces [B, 3, S, S] for mels [B, 1, 80, 16] and faces [B, 6, S, S].

        With a time axis, mels [B, T, 1, 80, 16] and faces [B, 6, T, S, S] give [B, 3, T, S, S]. Frames are
        independent of each other.
        """
        if faces.dim() == 4:
            return self.decode(mels, self.encode_faces(faces))
        folded = self.decode(mels.flatten(0, 1), self.encode_faces(faces.transpose(1, 2).flatten(0, 1)))
        return folded.reshape(*mels.shape[:2], *folded.shape[1:]).transpose(1, 2)


def first_rows(top_row: int, blocks: int) -> list[int]:
    """Return the first row that each decoder block must compute so that the rows from `top_row` are exact.

    Each 3x3 convolution makes one more row at the cut inexact. An up-sampling block that starts at an even
    row 2i needs its input from row i.
    """
    convolutions = 3  # two residual blocks and the output block
    rows = []
    for _ in range(3):
        first = max(0, top_row - convolutions) // 2 * 2
        rows.append(first)
        top_row, convolutions = first // 2, 2
    return [0] * (blocks - len(rows)) + rows[::-1]


class SyncNet(nn.Module):
    """SyncNet: embeds audio and mouths so that their cosine measures whether they are in sync."""

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        self.width = width
        c32, c64, c128, c256, c512 = (_scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder = nn.Sequential(
            ConvBlock(15, c32, 7, 1, 3),
            ConvBlock(c32, c64, 5, (1, 2), 1),
            *_residuals(c64, 2),
            ConvBlock(c64, c128, 3, 2),
            *_residuals(c128, 3),
            ConvBlock(c128, c256, 3, 2),
            *_residuals(c256, 2),
            ConvBlock(c256, c512, 3, 2),
            *_residuals(c512, 2),
            ConvBlock(c512, c512, 3, 2),
            ConvBlock(c512, c512, 3, 1, 0),
            ConvBlock(c512, c512, 1, 1, 0),
        )
        self.audio_encoder = _audio_encoder(width, wide_residuals=2)

    def forward(self, mels: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit embeddings [B, 16 * width] of mels [B, 1, 80, 16] and of mouths [B, 15, S/2, S].

        Mouths are the mouth regions of five faces, frame by frame. Both embeddings end in a ReLU, so their
        cosine is in [0, 1].
        """
        return self.encode_audio(mels), self.encode_faces(mouths)

    def encode_audio(self, mels: Tensor) -> Tensor:
        """Return unit embeddings [B, 16 * width] of mels [B, 1, 80, 16]."""
        return functional.normalize(self.audio_encoder(mels).flatten(1))

    def encode_faces(self, mouths: Tensor) -> Tensor:
        """Return unit embeddings [B, 16 * width] of mouths [B, 15, S/2, S]."""
        return functional.normalize(self.face_encoder(mouths).flatten(1))


class QualityDiscriminator(nn.Module):
    """Quality discriminator: the probability that the mouth region of a face is real."""

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        self.width = width
        c32, c64, c128, c256, c512 = (_scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder_blocks = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                [LeakyBlock(3, c32, 7, 1, 3)],
                [LeakyBlock(c32, c64, 5, (1, 2), 2), LeakyBlock(c64, c64, 5, 1, 2)],
                [LeakyBlock(c64, c128, 5, 2, 2), LeakyBlock(c128, c128, 5, 1, 2)],
                [LeakyBlock(c128, c256, 5, 2, 2), LeakyBlock(c256, c256, 5, 1, 2)],
                [LeakyBlock(c256, c512, 3, 2), LeakyBlock(c512, c512, 3)],
                [LeakyBlock(c512, c512, 3, 2), LeakyBlock(c512, c512, 3)],
                [LeakyBlock(c512, c512, 3, 1, 0), LeakyBlock(c512, c512, 1, 1, 0)],
            )
        )
        self.binary_pred = nn.Sequential(nn.Conv2d(c512, 1, 1), nn.Sigmoid())

    def forward(self, faces: Tensor) -> Tensor:
        """Return probabilities [B * T, 1], in time-major order, for faces [B, 3, T, S, S]."""
        x = faces.permute(2, 0, 1, 3, 4).flatten(0, 1)
        x = x[:, :, x.shape[2] // 2 :]
        for block in self.face_encoder_blocks:
            x = block(x)
        y: Tensor = self.binary_pred(x)
        return y.flatten(1)


NETWORKS: dict[str, type[Wav2Lip | SyncNet | QualityDiscriminator | PatchDiscriminator]] = {
    "generator": Wav2Lip,
    "syncnet": SyncNet,
    "discriminator": QualityDiscriminator,
    "patch_discriminator": PatchDiscriminator,
}


def fold_norms(network: nn.Module) -> None:
    """Fold every batch norm of a network in eval mode into the convolution before it, in place.

    Outputs change by rounding only. A folded network cannot be trained or saved.
    """
    for module in network.modules():
        block = getattr(module, "conv_block", None)
        if not isinstance(block, nn.Sequential) or not isinstance(block[-1], nn.BatchNorm2d):
            continue
        layers: Any = block
        convolution, norm = layers
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shape = (1, -1, 1, 1) if isinstance(convolution, nn.ConvTranspose2d) else (-1, 1, 1, 1)
        with torch.no_grad():
            convolution.weight = nn.Parameter(convolution.weight * scale.view(shape))
            convolution.bias = nn.Parameter((convolution.bias - norm.running_mean) * scale + norm.bias)
        module.conv_block = convolution
