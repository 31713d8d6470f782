"""Fits a generated mouth to its face before blending: its tone, and how much of it is to be seen.

A network that does not know a face gets its colours a little wrong and its skin too smooth. The difference
of tone is known on the rim of the mask, where face and generated mouth both show. It is carried inwards by
normalised convolution (Knutsson and Westin, 1993), a smooth stand-in for the membrane of Poisson image
editing (Perez, Gangnet and Blake, 2003). After that the two are alike where nothing moves; there the face
stays as it was filmed, as sharp as it was, and the generated mouth shows where it moves. What is beside the
face, be it background, hair or a collar, stays as well: its chromaticity, which shading leaves alone, is not
that of the nose.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wav2lip_npu.dubbing.blend import Mask

_REACH = 0.1
"""Standard deviation of the blur that carries the tone inwards, in parts of the face."""
_DETAIL = 0.02
"""The same of the blur under which face and generated mouth are compared: skin is finer, lips are not."""
_ALIKE, _OTHER = 0.01, 0.035
"""Differences up to which the face shows, and from which on the generated mouth does, in parts of white."""
_SKIN, _OTHER_THING = 0.05, 0.1
"""Distances of chromaticity up to which it is skin, and from which on it is not."""
_BLACK = 0.06
"""Sum of colours below which chromaticity is taken towards 0: black is no skin."""
_MOUTH, _SIDE = 0.2, 0.32
"""Distances from the middle, in parts of the width: up to the first nothing is beside the face, from the
second on all may be."""
_MARGIN = 5
"""Pixels across which what moved spreads."""
_LEAST = 1e-4


class ColourMatcher:
    """Fits mouths to faces under a soft mask."""

    def __init__(self, mask: Mask, device: torch.device) -> None:
        weights = torch.from_numpy(mask.weights).to(device)
        self._rim = 4 * weights * (1 - weights)
        self._far, self._near = (_Blur(weights, part) for part in (_REACH, _DETAIL))
        self._reached = self._far(self._rim) + _LEAST
        self._whole = self._near(torch.ones_like(weights))
        columns = weights.shape[1]
        off = ((torch.arange(columns, device=device) + 0.5) / columns - 0.5).abs()
        self._side = ((off - _MOUTH) / (_SIDE - _MOUTH)).clamp(0, 1)

    def __call__(self, mouths: Tensor, faces: Tensor) -> Tensor:
        """[B, 4, S - top_row, S]: mouths in the tone of faces, and how much of each pixel is to be seen.

        Both are [B, 3, S - top_row, S] in [0, 1], the same rows of generated and of filmed faces.
        """
        faces, mouths = faces.float(), mouths.float()
        mouths = mouths + self._far((faces - mouths) * self._rim) / self._reached
        moved = self._even(mouths - faces).abs().amax(dim=1, keepdim=True)
        shown = ((moved - _ALIKE) / (_OTHER - _ALIKE)).clamp(0, 1)
        spread = functional.max_pool2d(shown, _MARGIN, stride=1, padding=_MARGIN // 2)
        seen = self._even(spread) * (1 - self._even(self._beside(faces)))
        return torch.cat([mouths, seen], dim=1)

    def _even(self, values: Tensor) -> Tensor:
        """Blurred as skin is for comparing, at the borders as everywhere."""
        return self._near(values) / self._whole

    def _beside(self, faces: Tensor) -> Tensor:
        """How sure it is that a pixel is beside the face: [B, 1, rows, columns]."""
        chromaticity = faces / (faces.sum(dim=1, keepdim=True) + _BLACK)
        rows, columns = faces.shape[2:]
        nose = chromaticity[:, :, : rows // 3, columns * 3 // 8 : columns * 5 // 8]
        skin = nose.mean(dim=(2, 3), keepdim=True)
        distance = (chromaticity - skin).square().sum(dim=1, keepdim=True).sqrt()
        return ((distance - _SKIN) / (_OTHER_THING - _SKIN)).clamp(0, 1) * self._side


class _Blur:
    """Gaussian blur of pictures [..., rows, columns] with `part` of their width as standard deviation."""

    def __init__(self, like: Tensor, part: float) -> None:
        sigma = part * like.shape[1]
        self._down, self._across = (_gaussian(length, sigma).to(like.device) for length in like.shape)

    def __call__(self, values: Tensor) -> Tensor:
        return self._down @ values @ self._across


def _gaussian(length: int, sigma: float) -> Tensor:
    """Symmetric matrix [length, length], not normalised."""
    place = torch.arange(length, dtype=torch.float32)
    return torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
