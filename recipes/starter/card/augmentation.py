"""Augmentation on the device, with tensor operations only, so that a step can be captured and compiled.

`B` windows, `T` frames of a window, `S` = 96. Positions in a face are in [-1, 1], as for `grid_sample`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from wav2lip_npu.models.networks import FACE_SIZE as S

_MOUTH = 0.54
"""Vertical position of the mouth."""
_SILENCE = -4.0
"""Mel of digital silence."""


class Changed(NamedTuple):
    """Augmented windows."""

    faces: Tensor
    """float32 [B, T, 3, S, S] in [0, 1]"""
    references: Tensor | None
    """References with changed mouths, of the same shape; `None` if none were given."""
    was_changed: Tensor
    """1 for changed windows, else 0, float32 [B]."""


class Augmentation:
    """Random changes of faces, mouths of references, and audio."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        axis = (torch.arange(S, device=device) + 0.5) / S * 2 - 1
        self.y, self.x = axis.view(S, 1).expand(S, S).contiguous(), axis.expand(S, S).contiguous()
        self.warped = self._bump(0.38, 0.3)
        """Weight of the mouth warp at each pixel."""
        self.swapped = 1 - (1.8 * self._bump(0.34, 0.26)).clamp(max=1)
        """Mask of the target frame that is pasted into a reference: 0 at the mouth, 1 elsewhere."""
        self.bands = torch.arange(80, device=device).view(1, 80, 1)
        self.tilt = torch.linspace(-1, 1, 80, device=device).view(1, 80, 1)

    def faces(
        self, windows: Tensor, share: float | Tensor, references: Tensor | None = None, *, grey: float = 0
    ) -> Changed:
        """Change geometry and colours in a share of windows uint8 [B, T, S, S, 3], and equally in references.

        The mouths of all references are stretched, squeezed and shifted at random, so that they contain no
        information about the mouth to generate. A third of the references are the target with the mouth of
        the reference. A fraction `grey` of the changed windows becomes grey.
        """
        b = len(windows)
        changed = (self._uniform(b) < share).float()
        place = _Placement(self, b, changed)
        shape = (b, 1, 1, 1, 1)

        def amount(size: float) -> Tensor:
            return ((self._uniform(*shape) * 2 - 1) * size) * changed.view(shape)

        gains = (1 + (self._uniform(b, 1, 3, 1, 1) - 0.5) * 0.5 * changed.view(shape)) * (1 + amount(0.25))
        gamma, saturation = torch.exp(amount(0.4)), 1 + amount(0.5)
        saturation = saturation * (self._uniform(*shape) >= grey * changed.view(shape))

        def colours(faces: Tensor) -> Tensor:
            luma = faces.mean(2, keepdim=True)
            return ((luma + (faces - luma) * saturation) * gains).clamp(1e-4, 1) ** gamma

        targets = _floats(windows)
        result = colours(_sampled(targets, place(self.x, self.y)))
        if references is None:
            return Changed(result, None, changed)
        paste = (self._uniform(*shape) < 0.35).float() * self.swapped
        others = torch.lerp(_floats(references), targets, paste)
        high, wide = self._uniform(b, 1, 1) - 0.52, (self._uniform(b, 1, 1) - 0.5) * 0.4
        right, down = (self._uniform(b, 1, 1) - 0.5) * 0.06, (self._uniform(b, 1, 1) - 0.5) * 0.08
        x = self.x + (self.x * wide + right) * self.warped
        y = self.y + ((self.y - _MOUTH) * high + down) * self.warped
        return Changed(result, colours(_sampled(others, place(x, y))), changed)

    def mouths(self, mouths: Tensor, share: float = 0.3) -> Tensor:
        """Return mouths [B, 3T, S/2, S] with a grey patch in a share of them."""
        b, rows, columns = len(mouths), *mouths.shape[2:]
        y = (torch.arange(rows, device=self.device) / rows).view(1, -1, 1)
        x = (torch.arange(columns, device=self.device) / columns).view(1, 1, -1)
        patch = ((y - self._uniform(b, 1, 1)).abs() < 0.14) & ((x - self._uniform(b, 1, 1)).abs() < 0.12)
        return mouths.masked_fill((patch & (self._uniform(b, 1, 1) < share))[:, None], 0.5)

    def audio(self, mels: Tensor, share: float | Tensor) -> Tensor:
        """Change a share of mels [B, 80, 16] for SyncNet: formants, level, tilt, noise, a hidden band."""
        b = len(mels)
        changed = (self._uniform(b, 1, 1) < share).float()
        moved = (self._uniform(b, 1, 1) - 0.5) * 8 + (self.bands - 40) * (self._uniform(b, 1, 1) - 0.5) * 0.12
        bands = (self.bands + changed * moved).clamp(0, 79).round().long()
        mels = mels.gather(1, bands.expand(-1, -1, mels.shape[2]))
        level = (self._uniform(b, 1, 1) - 0.5) + (self._uniform(b, 1, 1) - 0.5) * 0.8 * self.tilt
        mels = mels + changed * (level + 0.08 * torch.randn_like(mels))
        hidden = (self.bands - self._uniform(b, 1, 1) * 80).abs() < 5
        return mels.masked_fill(hidden & (self._uniform(b, 1, 1) < 0.3 * changed), -2).clamp(-4, 4)

    def silence(self, mels: Tensor, quiet: Tensor, changed: Tensor) -> Tensor:
        """Replace half of the quiet mels [B, T, 80, 16] by silence; change the level of changed windows."""
        replaced = quiet & (self._uniform(len(mels), 1) < 0.5)
        mels = torch.where(replaced[..., None, None], _SILENCE + 0.1 * torch.rand_like(mels), mels)
        level = (self._uniform(len(mels), 1, 1, 1) - 0.5) * 0.8 * changed.view(-1, 1, 1, 1)
        return (mels + level).clamp(-4, 4)

    def _bump(self, wide: float, high: float) -> Tensor:
        return torch.exp(-(self.x**2 / (2 * wide**2) + (self.y - _MOUTH) ** 2 / (2 * high**2)))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device)


class _Placement:
    """A random affine map and smooth distortion of each window, from output to input positions."""

    def __init__(self, augmentation: Augmentation, b: int, changed: Tensor) -> None:
        def amount(size: float) -> Tensor:
            return ((augmentation._uniform(b) * 2 - 1) * size * changed).view(b, 1, 1)

        angle, mirror = amount(0.14), 1 - 2 * (changed * (augmentation._uniform(b) < 0.5)).view(b, 1, 1)
        wide, high = (1 + amount(0.11)) * mirror, 1 + amount(0.11)
        self._across = (torch.cos(angle) * wide, amount(0.05) - torch.sin(angle), amount(0.07))
        self._down = (torch.sin(angle), torch.cos(angle) * high, amount(0.07))
        coarse = (augmentation._uniform(b, 2, 4, 4) - 0.5) * 0.1 * changed.view(b, 1, 1, 1)
        self._bend = functional.interpolate(coarse, size=(S, S), mode="bilinear", align_corners=True)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the grid [B, S, S, 2] of positions x and y [S, S] or [B, S, S]."""
        return torch.stack(
            [a * x + b * y + c + self._bend[:, k] for k, (a, b, c) in enumerate((self._across, self._down))],
            -1,
        )


def _floats(windows: Tensor) -> Tensor:
    return windows.permute(0, 1, 4, 2, 3).float() / 255


def _sampled(faces: Tensor, grid: Tensor) -> Tensor:
    flat = faces.flatten(1, 2)
    return functional.grid_sample(flat, grid, padding_mode="border", align_corners=False).view(faces.shape)
