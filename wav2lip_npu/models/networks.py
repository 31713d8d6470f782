"""The networks of Wav2Lip: generator, SyncNet (the paper's lip-sync expert) and quality discriminator.

They follow Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in the
Wild" (arXiv 2008.10010). Parameter names match the published checkpoints and must not change.

Shapes: `B` batch, `T` frames of a window, `S` = `FACE_SIZE`, or the face size of a generator. A face is
float32 [3, S, S], BGR in [0, 1]; a mel window is float32 [1, 80, 16] in [-4, 4].
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.models.blocks import FULL_WIDTH as FULL_WIDTH
from wav2lip_npu.models.blocks import ConvBlock, LeakyBlock, audio_encoder, residuals, scaled
from wav2lip_npu.models.blocks import fold_norms as fold_norms
from wav2lip_npu.models.generator import Wav2Lip as Wav2Lip
from wav2lip_npu.models.patch_discriminator import PatchDiscriminator

FACE_SIZE = 96
"""Face size of SyncNet and of the paper's generator."""


class SyncNet(nn.Module):
    """SyncNet: embeds audio and mouths so that their cosine measures whether they are in sync."""

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        self.width = width
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder = nn.Sequential(
            ConvBlock(15, c32, 7, 1, 3),
            ConvBlock(c32, c64, 5, (1, 2), 1),
            *residuals(c64, 2),
            ConvBlock(c64, c128, 3, 2),
            *residuals(c128, 3),
            ConvBlock(c128, c256, 3, 2),
            *residuals(c256, 2),
            ConvBlock(c256, c512, 3, 2),
            *residuals(c512, 2),
            ConvBlock(c512, c512, 3, 2),
            ConvBlock(c512, c512, 3, 1, 0),
            ConvBlock(c512, c512, 1, 1, 0),
        )
        self.audio_encoder = audio_encoder(width, wide_residuals=2)

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
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
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
