"""The three networks of Wav2Lip: generator, expert (SyncNet) and visual-quality discriminator.

They are those of Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in the
Wild" (arXiv 2008.10010). Parameter names are those of the published checkpoints: never rename one.

Shapes: `B` batch, `T` frames of a window, `S` = `FACE_SIZE`. A face is float32 [3, S, S], BGR in [0, 1];
a mel window is float32 [1, 80, 16] in [-4, 4].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FACE_SIZE = 96
FULL_WIDTH = 32
"""`width` of the published networks: half the channels of the generator's first layer make 16."""

Size = int | tuple[int, int]


def _scaled(channels: int, width: int) -> int:
    """Channels of a network `width` wide where the published one has `channels`."""
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
        """[B, in, h, w] to [B, out, h / stride, w / stride]."""
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
        """[B, in, h, w] to [B, out, h * stride, w * stride]."""
        return functional.relu(self.conv_block(x), inplace=True)


class LeakyBlock(nn.Module):
    """Convolution and leaky ReLU (slope 0.01), without a norm."""

    def __init__(self, in_: int, out: int, kernel: int, stride: Size = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(in_, out, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, h, w] to [B, out, h / stride, w / stride]."""
        return functional.leaky_relu(self.conv_block(x), 0.01, inplace=True)


def _residuals(channels: int, count: int) -> list[nn.Module]:
    return [ConvBlock(channels, channels, 3, residual=True) for _ in range(count)]


def _audio_encoder(width: int, wide_residuals: int) -> nn.Sequential:
    """[B, 1, 80, 16] to [B, 16 * width, 1, 1]; generator and expert differ in one residual block."""
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
    """The generator: a masked face, a reference face and 200 ms of sound in, the speaking face out."""

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
        """Features of faces [B, 6, S, S], finest first: [B, c, S, S] to [B, 16 * width, 1, 1].

        Channels 0-2 are the target with its lower half black, 3-5 the reference. A still picture needs
        them once for all its frames.
        """
        features = []
        for block in self.face_encoder_blocks:
            faces = block(faces)
            features.append(faces)
        return features

    def speak(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """Faces [B, 3, S, S] in [0, 1] that say mels [B, 1, 80, 16]; features of one face serve all B.

        With `top_row` the result is [B, 3, S - top_row, S], the same rows of the same picture: what lies
        above the mouth is thrown away after blending, so a quarter of the work need not be done.
        """
        x: Tensor = self.audio_encoder(mels)
        starts = first_rows(top_row, len(self.face_decoder_blocks))
        start = 0
        for block, feature, first in zip(self.face_decoder_blocks, reversed(features), starts, strict=True):
            x = block(x[:, :, first // 2 - start :])
            start = first
            shown = feature[:, :, start:]
            if len(shown) != len(x):
                shown = shown.expand(len(x), -1, -1, -1)
            x = torch.cat([x, shown], dim=1)
        y: Tensor = self.output_block(x)
        return y[:, :, top_row - start :]

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        """Speaking faces [B, 3, S, S] of mels [B, 1, 80, 16] and faces [B, 6, S, S].

        With a time axis, mels [B, T, 1, 80, 16] and faces [B, 6, T, S, S], it is [B, 3, T, S, S]; frames
        do not see each other.
        """
        if faces.dim() == 4:
            return self.speak(mels, self.encode_faces(faces))
        folded = self.speak(mels.flatten(0, 1), self.encode_faces(faces.transpose(1, 2).flatten(0, 1)))
        return folded.reshape(*mels.shape[:2], *folded.shape[1:]).transpose(1, 2)


def first_rows(top_row: int, blocks: int) -> list[int]:
    """First row that each of the decoder's blocks must put out for the rows from `top_row` to be exact.

    Every 3x3 convolution spoils one more row below a cut; an up-sampling block that starts at an
    even row 2i needs its input from row i.
    """
    spoilers = 3  # two residual blocks and the output block
    rows = []
    for _ in range(3):
        first = max(0, top_row - spoilers) // 2 * 2
        rows.append(first)
        top_row, spoilers = first // 2, 2
    return [0] * (blocks - len(rows)) + rows[::-1]


class SyncNet(nn.Module):
    """The expert: are these five mouths and this sound in sync?"""

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
        """Unit embeddings of sound and picture, [B, 16 * width] each.

        mels [B, 1, 80, 16]; mouths [B, 15, S/2, S]: the lower halves of five faces, frame by frame. Both
        embeddings end in a ReLU, so their cosine lies in [0, 1].
        """
        sound = self.audio_encoder(mels).flatten(1)
        picture = self.face_encoder(mouths).flatten(1)
        return functional.normalize(sound), functional.normalize(picture)


class QualityDiscriminator(nn.Module):
    """Does the lower half of this face look real?"""

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
        """Probability of being real, [B * T, 1] in time-major order, of faces [B, 3, T, S, S]."""
        x = faces.permute(2, 0, 1, 3, 4).flatten(0, 1)
        x = x[:, :, x.shape[2] // 2 :]
        for block in self.face_encoder_blocks:
            x = block(x)
        y: Tensor = self.binary_pred(x)
        return y.flatten(1)


NETWORKS: dict[str, type[Wav2Lip] | type[SyncNet] | type[QualityDiscriminator]] = {
    "generator": Wav2Lip,
    "syncnet": SyncNet,
    "discriminator": QualityDiscriminator,
}


def fold_norms(network: nn.Module) -> None:
    """Merge every batch norm of a network in eval mode into the convolution before it, in place.

    Outputs change by rounding only; the folded network can neither train nor be saved.
    """
    for module in network.modules():
        block = getattr(module, "conv_block", None)
        if not isinstance(block, nn.Sequential) or not isinstance(block[-1], nn.BatchNorm2d):
            continue
        layers: Any = block
        convolution, norm = layers
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        across = (1, -1, 1, 1) if isinstance(convolution, nn.ConvTranspose2d) else (-1, 1, 1, 1)
        with torch.no_grad():
            convolution.weight = nn.Parameter(convolution.weight * scale.view(across))
            convolution.bias = nn.Parameter((convolution.bias - norm.running_mean) * scale + norm.bias)
        module.conv_block = convolution
