"""Opacity of a generated mouth: where it is visible over the filmed face.

Where the two images are equal, the sharper filmed face stays visible; where they differ, the generated mouth
is. Background, hair and collar next to the face also stay visible. Their chromaticity, which does not depend
on shading, differs from that of the nose.

The generator's colours are not corrected. A correction fitted at the rim of the mask also picked up wall,
hair and collar: on 15 held-out speakers, the colour error of the lips was 6.8 dE with it and 4.5 dE without.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wav2lip_npu.dubbing.blend import Mask

_DETAIL_BLUR = 0.02
"""Standard deviation, as a fraction of the face, of the blur before images are compared: it removes skin
texture and keeps lips."""
_EQUAL, _DIFFERENT = 0.01, 0.035
"""Differences as fractions of white. Up to the first, the opacity is 0; above the second, it is 1."""
_SKIN, _NO_SKIN = 0.05, 0.1
"""Distances of chromaticity from the nose. Up to the first, a pixel is skin; above the second, it is not."""
_BLACK = 0.06
"""Sum of B, G and R below which chromaticity tends to 0, so that black does not count as skin."""
_FACE_HALF, _SIDE_HALF = 0.2, 0.32
"""Distances from the centre line as fractions of the width. Up to the first, every pixel is face; above the
second, any pixel may be background."""
_SPREAD = 5
"""Width in pixels of the maximum filter that spreads differences."""


class MouthOpacity:
    """Adds an opacity channel to mouths under a soft mask."""

    def __init__(self, mask: Mask, device: torch.device) -> None:
        weights = torch.from_numpy(mask.weights).to(device)
        self._detail_blur = _Blur(weights, _DETAIL_BLUR)
        self._detail_weight = self._detail_blur(torch.ones_like(weights))
        columns = weights.shape[1]
        distance = ((torch.arange(columns, device=device) + 0.5) / columns - 0.5).abs()
        self._side = ((distance - _FACE_HALF) / (_SIDE_HALF - _FACE_HALF)).clamp(0, 1)

    def __call__(self, mouths: Tensor, faces: Tensor) -> Tensor:
        """Return [B, 4, S - top_row, S]: BGR and opacity.

        `mouths` and `faces` are [B, 3, S - top_row, S] in [0, 1]: the same rows, generated and filmed.
        """
        faces, mouths = faces.float(), mouths.float()
        difference = self._smooth(mouths - faces).abs().amax(dim=1, keepdim=True)
        opacity = ((difference - _EQUAL) / (_DIFFERENT - _EQUAL)).clamp(0, 1)
        opacity = functional.max_pool2d(opacity, _SPREAD, stride=1, padding=_SPREAD // 2)
        opacity = self._smooth(opacity) * (1 - self._smooth(self._background(faces)))
        return torch.cat([mouths, opacity], dim=1)

    def _smooth(self, values: Tensor) -> Tensor:
        """Return values blurred by `_DETAIL_BLUR`, normalised at the borders."""
        return self._detail_blur(values) / self._detail_weight

    def _background(self, faces: Tensor) -> Tensor:
        """Return a score for each pixel, 0 (face) to 1 (background), [B, 1, rows, columns] in [0, 1]."""
        chromaticity = faces / (faces.sum(dim=1, keepdim=True) + _BLACK)
        rows, columns = faces.shape[2:]
        nose = chromaticity[:, :, : rows // 3, columns * 3 // 8 : columns * 5 // 8]
        skin = nose.mean(dim=(2, 3), keepdim=True)
        distance = (chromaticity - skin).square().sum(dim=1, keepdim=True).sqrt()
        return ((distance - _SKIN) / (_NO_SKIN - _SKIN)).clamp(0, 1) * self._side


class _Blur:
    """Gaussian blur of images [..., rows, columns]; `part` is its standard deviation over their width."""

    def __init__(self, like: Tensor, part: float) -> None:
        sigma = part * like.shape[1]
        self._down, self._across = (_gaussian(length, sigma).to(like.device) for length in like.shape)

    def __call__(self, values: Tensor) -> Tensor:
        return self._down @ values @ self._across


def _gaussian(length: int, sigma: float) -> Tensor:
    """Return the matrix [length, length] of a Gaussian blur, not normalised."""
    position = torch.arange(length, dtype=torch.float32)
    return torch.exp(-((position[:, None] - position) ** 2) / (2 * sigma**2))
