"""The generator of Wav2Lip, built from a plan: the paper's for 96 px, or a larger one.

It follows Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in the Wild" (arXiv
2008.10010). Parameter names match the published checkpoints and must not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.models.blocks import FULL_WIDTH, ConvBlock, UpBlock, audio_encoder, residuals, scaled
from wav2lip_npu.models.plans import PLAN_96, Plan

_CONVOLUTIONS = 2
"""3x3 convolutions of a decoder stage after its up-sampling, at most. The output block has one more."""


class Wav2Lip(nn.Module):
    """The generator: generates a face from a masked face, a reference face and 200 ms of audio."""

    def __init__(self, width: int = FULL_WIDTH, plan: Plan = PLAN_96) -> None:
        super().__init__()
        self.width, self.plan = width, plan
        self.sam = SpatialAttention() if plan.attention else None
        self.face_encoder_blocks = nn.ModuleList(_encoder_blocks(plan, width))
        self.audio_encoder = audio_encoder(
            width, 2 if plan.long_audio else 1, is_long=plan.long_audio, activation=plan.activation
        )
        embedding = scaled(plan.encoder[-1].channels, width)
        if plan.audio_refine is not None:
            self.audio_refine = nn.Sequential(
                *(ConvBlock(embedding, embedding, 1, 1, 0, activation=plan.activation) for _ in range(2))
            )
        self.face_decoder_blocks = nn.ModuleList(_decoder_blocks(plan, width))
        hidden, last = scaled(plan.hidden, width), plan.decoder[-1].channels + plan.encoder[0].channels
        self.output_block = nn.Sequential(
            ConvBlock(scaled(last, width), hidden, 3, activation=plan.activation),
            nn.Conv2d(hidden, 3, 1),
            nn.Tanh() if plan.tanh else nn.Sigmoid(),
        )

    @property
    def face_size(self) -> int:
        """Rows and columns `S` of the faces."""
        return self.plan.size

    def encode_faces(self, faces: Tensor) -> list[Tensor]:
        """Return features of faces [B, 6, S, S], finest first: [B, c, S, S] to [B, 16 * width, 1, 1].

        Channels 0-2 are the target with a black lower half, 3-5 the reference. All frames of a still image
        share their features. With attention, the factor for the pixels of each size follow, [B, 1, S, S] to
        [B, 1, 1, 1].
        """
        features = []
        for block in self.face_encoder_blocks:
            faces = block(faces)
            features.append(faces)
        return features if self.sam is None else features + [self.sam(feature) for feature in features]

    def decode(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """Return faces [B, 3, S, S] in [0, 1] for mels [B, 1, 80, 16]; features may be of one face for all B.

        With `top_row` the result is [B, 3, S - top_row, S], the rows from `top_row`. Blending discards the
        rows above the mouth, and not computing them saves a quarter of the work.
        """
        x = self.encode_audio(mels)
        levels = len(self.face_decoder_blocks)
        weights: Sequence[Tensor | None] = features[levels:] or [None] * levels
        starts = first_rows(top_row, [len(feature[0, 0]) for feature in features[:levels]]) if top_row else []
        start = 0
        for level, block in zip(reversed(range(levels)), self.face_decoder_blocks, strict=True):
            first = starts[level] if top_row else 0
            x = block(x[:, :, first // 2 - start :])
            start = first
            if (weight := weights[level]) is not None:
                x = x * weight[:, :, start:]
            rows = features[level][:, :, start:]
            if len(rows) != len(x):
                rows = rows.expand(len(x), -1, -1, -1)
            x = torch.cat([x, rows], dim=1)
        block, last, activation = self.output_block
        x = block(x)
        if x.dtype != last.bias.dtype:
            x = x.to(last.bias.dtype)
        y: Tensor = activation(last(x))
        if self.plan.tanh:
            y = functional.relu(y)
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

    def encode_audio(self, mels: Tensor) -> Tensor:
        """Return the input of the decoder [B, 16 * width, 1, 1] for mels [B, 1, 80, 16]."""
        x: Tensor = self.audio_encoder(mels)
        if self.plan.audio_refine in ("plain", "normalized"):
            x = self.audio_refine(x)
        return self.unit(x) if self.plan.audio_refine == "normalized" else x

    @staticmethod
    def unit(x: Tensor) -> Tensor:
        """Divide vectors along dimension 1 by their length."""
        return functional.normalize(x)


class SpatialAttention(nn.Module):
    """Weights the pixels of the decoder by mean and maximum of the features of the face."""

    def __init__(self) -> None:
        super().__init__()
        self.sa = nn.Sequential()
        self.sa.add_module("conv1", nn.Conv2d(2, 1, 7, padding=3, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """Return factors [B, 1, H, W], from 1 to 2, for features [B, c, H, W]."""
        maps = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        factors: Tensor = 1 + self.sa(maps).sigmoid()
        return factors


def _encoder_blocks(plan: Plan, width: int) -> Iterator[nn.Module]:
    before = 6
    for stage in plan.encoder:
        channels = scaled(stage.channels, width)
        yield nn.Sequential(
            ConvBlock(
                before, channels, stage.kernel, stage.stride, stage.padding, activation=plan.activation
            ),
            *residuals(channels, stage.residuals, plan.activation),
            *(
                ConvBlock(channels, channels, 1, 1, 0, activation=plan.activation)
                for _ in range(stage.pointwise)
            ),
        )
        before = channels


def _decoder_blocks(plan: Plan, width: int) -> Iterator[nn.Module]:
    features = [scaled(stage.channels, width) for stage in reversed(plan.encoder)]
    channels = features[0]
    yield nn.Sequential(ConvBlock(channels, channels, 1, 1, 0, activation=plan.activation))
    for stage, appended in zip(plan.decoder, features, strict=False):
        before, channels = channels + appended, scaled(stage.channels, width)
        yield nn.Sequential(
            UpBlock(
                before,
                channels,
                stage.kernel,
                stage.stride,
                stage.padding,
                stage.output_padding,
                activation=plan.activation,
            ),
            *residuals(channels, stage.residuals, plan.activation),
        )


def first_rows(top_row: int, heights: Sequence[int]) -> list[int]:
    """Return the first row of each size that must be computed so that the rows from `top_row` are exact.

    Each 3x3 convolution makes one more row at the cut inexact. An up-sampling stage that starts at an even
    row 2i needs its input from row i. `heights` are those of the features, finest first.
    """
    rows, convolutions = [], _CONVOLUTIONS + 1
    for height, coarser in zip(heights, [*heights[1:], 0], strict=True):
        if (height + 1) // 2 != coarser:  # the stages from here on do not double the size
            break
        rows.append(max(0, top_row - convolutions) // 2 * 2)
        top_row, convolutions = rows[-1] // 2, _CONVOLUTIONS
    return rows + [0] * (len(heights) - len(rows))
