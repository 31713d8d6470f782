"""The tone of a generated mouth: what is left of a wrong colour or light is taken out before blending.

The difference between the face and the generated one is known on the rim of the mask, where both show. It
is carried inwards by normalised convolution (Knutsson and Westin, 1993), a smooth stand-in for the
membrane of Poisson image editing (Perez, Gangnet and Blake, 2003): no seam, and the mouth itself stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wav2lip_npu.blend import Mask

_REACH = 0.1
"""Standard deviation of the blur that carries the difference inwards, in parts of the face."""
_LEAST = 1e-4


class Tone:
    """Takes over the tone of faces at the rim of a mask."""

    def __init__(self, mask: Mask, device: torch.device) -> None:
        weights = torch.from_numpy(mask.weights)
        rows, size = weights.shape
        self._rim = (4 * weights * (1 - weights)).to(device)
        self._down, self._across = (_blur(length, _REACH * size).to(device) for length in (rows, size))
        self._reached = self._carry(self._rim) + _LEAST

    def __call__(self, mouths: Tensor, faces: Tensor) -> Tensor:
        """Mouths [B, 3, S - top_row, S] in the tone of the same rows of faces, both in [0, 1]."""
        wrong = (faces.float() - mouths.float()) * self._rim
        return mouths + self._carry(wrong) / self._reached

    def _carry(self, values: Tensor) -> Tensor:
        return self._down @ values @ self._across


def _blur(length: int, sigma: float) -> Tensor:
    """Symmetric matrix [length, length] that blurs by a Gaussian."""
    place = torch.arange(length, dtype=torch.float32)
    return torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
