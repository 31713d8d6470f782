"""Patch discriminator: judges the sharpness of overlapping patches of the mouth region.

The patches follow Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017),
the spectral norm Miyato et al., "Spectral Normalization for Generative Adversarial Networks" (2018).
"""

from __future__ import annotations

from torch import Tensor, nn

SCALE = 3
"""Channels of the first layer, as a multiple of the width."""


class PatchDiscriminator(nn.Module):
    """Patch discriminator: a score of each patch, above 0 for real ones. Trained with a hinge loss."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width {width} is not an even number of at least 2")
        self.width = width
        c = SCALE * width
        layers: list[nn.Module] = []
        sizes = (3, c, 4, 2), (c, 2 * c, 4, 2), (2 * c, 4 * c, 3, 1), (4 * c, 1, 3, 1)
        for in_, out, kernel, stride in sizes:
            convolution = nn.Conv2d(in_, out, kernel, stride, padding=1)
            layers += [nn.utils.parametrizations.spectral_norm(convolution), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, faces: Tensor) -> Tensor:
        """Return scores [B * T, 1, S/8, S/4] of faces [B, 3, T, S, S]."""
        scores: Tensor = self.layers(lower_halves(faces))
        return scores


def lower_halves(faces: Tensor) -> Tensor:
    """Return the mouth regions [B * T, 3, S/2, S] of faces [B, 3, T, S, S]."""
    return faces[..., faces.shape[-2] // 2 :, :].transpose(1, 2).flatten(0, 1)
