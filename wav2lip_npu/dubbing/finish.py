"""Finish generated mouths: sharpen them, and add the opacity with which they cover the filmed face.

Sharpness: a generator is more blurred than the film. How much is measured on nose and cheeks, which both
images show alike; the mouths of the bundled weights are about twice as blurred again.

Opacity: the generated mouth is visible where the two images differ. Lips and chin are compared in detail.
Nose and cheeks do not take part in speech: they are compared under a wider blur and otherwise stay as
filmed, sharp. Background, hair and collar next to the face also stay as filmed. Their chromaticity, which
does not depend on shading, differs from that of the nose.

The generator's colours are not corrected. A correction fitted at the rim of the mask also picked up wall,
hair and collar: on 15 held-out speakers, the colour error of the lips was 6.8 dE with it and 4.5 dE without.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wav2lip_npu.devices.number_formats import without_tails
from wav2lip_npu.dubbing.blend import Mask

_DETAIL_BLUR = 0.02
"""Standard deviation, as a fraction of the face, of the blur before lips are compared: it removes skin
texture. What it removes is also the detail that is sharpened."""
_WIDE_BLUR = 0.05
"""The same for nose and cheeks: only changes of shape and shade are left, not of sharpness."""
_LIPS_DIFFER = (0.01, 0.035)
_FACES_DIFFER = (0.03, 0.07)
"""Differences as fractions of white between which the opacity rises from 0 to 1."""
_MOUTH = (0.5, 0.76)
_WIDTH, _HEIGHT_ABOVE, _HEIGHT_BELOW = 0.27, 0.13, 0.2
"""Centre of the lips and radii of an ellipse around lips and chin, in fractions of the face. Its rim is 40 %
of the radii wide."""
_SHARPENING = 2.0
"""Gain of the detail per excess of filmed over generated detail on nose and cheeks."""
_MAX_GAIN = 1.5
_NO_SKIN = (0.05, 0.1)
"""Distances of chromaticity from the nose between which a pixel turns from skin to background."""
_BLACK = 0.06
"""Sum of B, G and R below which chromaticity tends to 0, so that black does not count as skin."""
_SIDES = (0.2, 0.32)
"""Distances from the centre line as fractions of the width. Up to the first, every pixel is face; above the
second, any pixel may be background."""
_SPREAD = 2 / 96
"""Radius of the maximum filter that spreads differences, as a fraction of the face."""
_LEAST_DETAIL = 1e-3
"""Detail, as a fraction of white, that counts as none."""


class MouthFinish:
    """Sharpens mouths under a soft mask and adds their opacity as a fourth channel."""

    def __init__(self, mask: Mask, device: torch.device) -> None:
        weights = torch.from_numpy(mask.weights).to(device)
        size = weights.shape[1]
        self._spread = round(_SPREAD * size)
        self._detail_blur, self._wide_blur = _Blur(weights, _DETAIL_BLUR), _Blur(weights, _WIDE_BLUR)
        x = (torch.arange(size, device=device) + 0.5) / size - _MOUTH[0]
        y = (torch.arange(mask.top_row, size, device=device)[:, None] + 0.5) / size - _MOUTH[1]
        height = torch.where(y < 0, _HEIGHT_ABOVE, _HEIGHT_BELOW)
        reach = ((x / _WIDTH).square() + (y / height).square()).sqrt()  # torch_npu has no hypot
        self._lips = _ramp(1.4 - reach, (0, 0.4))
        self._above = torch.where(y < 0, (1 - self._lips) * weights, 0.0)
        self._least = _LEAST_DETAIL * self._above.sum().sqrt()
        self._sides = _ramp(x.abs(), _SIDES)

    def __call__(self, mouths: Tensor, faces: Tensor) -> Tensor:
        """Return [B, 4, S - top_row, S]: BGR and opacity.

        `mouths` and `faces` are [B, 3, S - top_row, S] in [0, 1]: the same rows, generated and filmed.
        """
        faces, mouths = faces.float(), mouths.float()
        coarse, filmed = self._detail_blur(mouths), self._detail_blur(faces)
        detail = mouths - coarse
        gain = self._gain(detail, faces - filmed)
        opacity = self._opacity(coarse - filmed, mouths - faces) * (1 - self._background(faces))
        return torch.cat([(mouths + gain * detail).clamp(0, 1), opacity], dim=1)

    def _gain(self, generated: Tensor, filmed: Tensor) -> Tensor:
        """Return the gain of the generated detail, [B, 1, 1, 1], from both details of nose and cheeks."""
        made, wanted = (
            (detail.square() * self._above).sum(dim=(1, 2, 3), keepdim=True).sqrt()
            for detail in (generated, filmed)
        )
        return (_SHARPENING * (wanted / (made + self._least) - 1)).clamp(0, _MAX_GAIN)

    def _opacity(self, of_detail: Tensor, difference: Tensor) -> Tensor:
        """Return [B, 1, rows, columns] from the difference of the images, blurred (`of_detail`) and not."""
        lips = _ramp(of_detail.abs().amax(dim=1, keepdim=True), _LIPS_DIFFER) * self._lips
        face = _ramp(self._wide_blur(difference).abs().amax(dim=1, keepdim=True), _FACES_DIFFER)
        opacity = torch.maximum(lips, face)
        spread = functional.max_pool2d(opacity, 2 * self._spread + 1, stride=1, padding=self._spread)
        return self._detail_blur(spread)

    def _background(self, faces: Tensor) -> Tensor:
        """Return a score for each pixel, 0 (face) to 1 (background), [B, 1, rows, columns]."""
        chromaticity = faces / (faces.sum(dim=1, keepdim=True) + _BLACK)
        rows, columns = faces.shape[2:]
        nose = chromaticity[:, :, : rows // 3, columns * 3 // 8 : columns * 5 // 8]
        skin = nose.mean(dim=(2, 3), keepdim=True)
        distance = (chromaticity - skin).square().sum(dim=1, keepdim=True).sqrt()
        return self._detail_blur(_ramp(distance, _NO_SKIN) * self._sides)


class _Blur:
    """Gaussian blur of images [..., rows, columns], normalised at the borders.

    `part` is its standard deviation over their width.
    """

    def __init__(self, like: Tensor, part: float) -> None:
        sigma = part * like.shape[1]
        self._down, self._across = (_gaussian(length, sigma).to(like.device) for length in like.shape)

    def __call__(self, values: Tensor) -> Tensor:
        return self._down @ values @ self._across.T


def _gaussian(length: int, sigma: float) -> Tensor:
    """Return the matrix [length, length] of a Gaussian blur; its rows sum to 1."""
    position = torch.arange(length, dtype=torch.float32)
    weights = without_tails(torch.exp(-((position[:, None] - position) ** 2) / (2 * sigma**2)))
    return weights / weights.sum(dim=1, keepdim=True)


def _ramp(values: Tensor, ends: tuple[float, float]) -> Tensor:
    """Return 0 up to the first end, 1 above the second, and a line between them."""
    low, high = ends
    return ((values - low) / (high - low)).clamp(0, 1)
