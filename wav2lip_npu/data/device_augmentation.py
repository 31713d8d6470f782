"""Augmentation of a whole batch on a device, with the changes of `Augmentation` as tensor operations.

Blur, smooth displacements and JPEG compression are matrix products, which every device computes fast. Results
differ from OpenCV's by rounding, at most a few grey levels. Unchanged rows keep their bits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wav2lip_npu.data.amounts import FACE_PARTS, NOISE_ROWS, bend_curves
from wav2lip_npu.data.augmentation import BENDS, LEVEL_PER_DB, LUMA, Augmentation
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.devices.number_formats import without_tails
from wav2lip_npu.mel import DEFAULT_MEL

_SHARP = 1e-3
"""Standard deviation of a blur that changes nothing, which avoids a division by 0."""
_LUMA_STEPS = """
    16 11 10 16 24 40 51 61    12 12 14 19 26 58 60 55    14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62    18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
_CHROMA_STEPS = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66" + 38 * " 99"
"""Quantization tables of JPEG (ITU T.81, annex K)."""
_YCC_OF_BGR = np.array([[0.114, 0.587, 0.299], [0.5, -0.331264, -0.168736], [-0.081312, -0.418688, 0.5]])
"""Y, Cb and Cr of blue, green and red (JFIF)."""


class DeviceAugmentation:
    """Changes faces and mels on a device by the amounts of `amounts.face_amounts` and `mel_amounts`."""

    def __init__(self, options: Augmentation, device: torch.device, face_size: int = FACE_SIZE) -> None:
        self._options, self._size = options, face_size
        centred = torch.arange(face_size, device=device) / (face_size - 1) - 0.5
        self._y, self._x = centred[:, None], centred[None]
        self._curves = torch.from_numpy(bend_curves(face_size)).to(device)
        self._luma = _tensor(LUMA, device).view(1, 1, 3, 1, 1)
        self._bands = torch.arange(DEFAULT_MEL.n_mels, device=device).view(-1, 1)
        self._slope = torch.linspace(-0.5, 0.5, DEFAULT_MEL.n_mels, device=device).view(-1, 1)
        self._jpeg = _Jpeg(device, face_size) if options.jpeg else None
        if options.noise:
            noise = np.random.default_rng(0).standard_normal((NOISE_ROWS + WINDOW * face_size, 3 * face_size))
            self._noise = _tensor(noise, device)
            self._noise_rows = torch.arange(WINDOW * face_size, device=device)
        self._pixel = torch.arange(face_size, device=device, dtype=torch.float32)

    def faces(self, windows: Tensor, amounts: Tensor, degraded: int = 0) -> Tensor:
        """Return windows uint8 [R, T, S, S, 3], each with one change of shape and light.

        Five faces from number `degraded` also get the noise and compression of a worse camera and codec.
        """
        options = self._options
        part = dict(zip(FACE_PARTS, torch.split(amounts, list(FACE_PARTS.values()), dim=1), strict=True))
        faces = windows.permute(0, 1, 4, 2, 3).float()
        if options.flip or options.stretch or options.shift or options.turn or options.bend:
            grid = self._source_pixels(part["affine"], part["bends"])
            moved = functional.grid_sample(
                faces.flatten(1, 2), grid, mode="bilinear", padding_mode="reflection", align_corners=False
            )
            faces = moved.view(faces.shape)
        if options.colour or options.gamma:
            power = part["power"].view(-1, 1, 1, 1, 1)
            faces = ((faces / 255) ** power * part["gains"].view(-1, 1, 3, 1, 1) * 255).clamp(0, 255)
            grey = (faces * self._luma).sum(2, keepdim=True)
            faces = grey + part["saturation"].view(-1, 1, 1, 1, 1) * (faces - grey)
        if options.blur:
            kernel = self._blur(part["sigma"] * (self._size / FACE_SIZE))[:, None, None]
            faces = kernel @ faces @ kernel.transpose(-1, -2)
        faces = faces.round().clamp(0, 255)
        if options.noise or self._jpeg is not None:
            worse = faces[:, degraded : degraded + WINDOW]
            if options.noise:
                grain = self._grain(part["noise_row"]) * part["noise"].view(-1, 1, 1, 1, 1)
                worse = (worse + grain).round().clamp(0, 255)
            if self._jpeg is not None:
                scale = part["jpeg"].view(-1, 1, 1, 1)
                worse = torch.where(scale[..., None] > 0, self._jpeg(worse, scale), worse)
            faces = torch.cat([faces[:, :degraded], worse, faces[:, degraded + WINDOW :]], dim=1)
        return faces.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()

    def mels(self, mels: Tensor, amounts: Tensor) -> Tensor:
        """Return mels float32 [R, N, 80, 16], each row with one change of voice and level."""
        options, last = self._options, DEFAULT_MEL.n_mels - 1
        factor, level, slope = amounts.view(-1, 1, 3, 1).unbind(2)
        if options.formants:
            rows = (self._bands * factor[..., None]).clamp(0, last)
            below = rows.long().clamp(max=last - 1)
            share = rows - below
            lower = below.expand(-1, mels.shape[1], -1, mels.shape[3])
            mels = mels.gather(2, lower) * (1 - share) + mels.gather(2, lower + 1) * share
        if options.loudness or options.tilt:
            gain = (level[..., None] + slope[..., None] * self._slope) * LEVEL_PER_DB
            mels = (mels + gain).clamp(-DEFAULT_MEL.max_abs, DEFAULT_MEL.max_abs)
        return mels

    def _source_pixels(self, affine: Tensor, bends: Tensor) -> Tensor:
        """Return the source of each pixel as a grid [R, S, S, 2] for `grid_sample`."""
        a, b, c, d, e, f = affine.view(-1, 6, 1, 1).unbind(1)
        coarse = bends.view(-1, BENDS, BENDS, 2).permute(3, 0, 1, 2)
        bent = self._curves @ coarse @ self._curves.T
        x = a * self._x + b * self._y + c + bent[0]
        y = d * self._x + e * self._y + f + bent[1]
        pixels = (torch.stack([x, y], dim=-1) + 0.5) * (self._size - 1)
        return (2 * pixels + 1) / self._size - 1

    def _blur(self, sigma: Tensor) -> Tensor:
        """Return matrices [R, S, S] of Gaussian blurs, mirrored at the first and last pixel."""
        to, source, last = self._pixel[:, None], self._pixel, self._size - 1
        scale = -0.5 / sigma.clamp(min=_SHARP).view(-1, 1, 1) ** 2
        kernel = torch.exp((to - source) ** 2 * scale)
        kernel = kernel + torch.exp((to + source) ** 2 * scale) * (source > 0)
        kernel = kernel + torch.exp((to + source - 2 * last) ** 2 * scale) * (source < last)
        kernel = without_tails(kernel)
        return kernel / kernel.sum(-1, keepdim=True)

    def _grain(self, first: Tensor) -> Tensor:
        """Return standard normal noise [R, 5, 3, S, S], consecutive rows of a fixed table."""
        rows = self._noise.index_select(0, (first.long() + self._noise_rows).flatten())
        return rows.view(len(first), WINDOW, 3, self._size, self._size)


class _Jpeg:
    """JPEG compression with halved chroma and libjpeg's tables, without the lossless coding."""

    def __init__(self, device: torch.device, face_size: int) -> None:
        half = face_size // 2
        self._to_ycc = _tensor(_YCC_OF_BGR, device)
        self._to_bgr = _tensor(np.linalg.inv(_YCC_OF_BGR), device)
        self._cosines = {size: _tensor(_block_cosines(size), device) for size in (face_size, half)}
        self._steps = {
            size: _tensor(
                np.tile(np.array(table.split(), float).reshape(8, 8), (size // 8, size // 8)), device
            )
            for size, table in ((face_size, _LUMA_STEPS), (half, _CHROMA_STEPS))
        }
        wide = np.repeat(np.eye(half), 2, axis=0)
        self._mean = _tensor(wide.T / 2, device)
        neighbour = wide.copy()
        neighbour[2::2], neighbour[1:-1:2] = np.eye(half)[:-1], np.eye(half)[1:]
        self._enlarge = _tensor(0.75 * wide + 0.25 * neighbour, device)

    def __call__(self, faces: Tensor, scale: Tensor) -> Tensor:
        """Return faces float [R, T, 3, S, S] of 0 to 255, compressed with tables scaled by [R, 1, 1, 1] %."""
        ycc = torch.einsum("kc,rtchw->rtkhw", self._to_ycc, faces)
        luma = self._quantized(ycc[:, :, 0] - 128, scale) + 128
        chroma = self._mean @ ycc[:, :, 1:] @ self._mean.T
        chroma = self._quantized(chroma, scale[..., None])
        chroma = self._enlarge @ chroma @ self._enlarge.T
        bgr = torch.einsum("ck,rtkhw->rtchw", self._to_bgr, torch.cat([luma[:, :, None], chroma], dim=2))
        return bgr.round().clamp(0, 255)

    def _quantized(self, planes: Tensor, scale: Tensor) -> Tensor:
        size = planes.shape[-1]
        cosines = self._cosines[size]
        steps = torch.floor((self._steps[size] * scale + 50) / 100).clamp(1, 255)
        coefficients = torch.round(cosines @ planes @ cosines.T / steps) * steps
        return (cosines.T @ coefficients @ cosines).round()


def _block_cosines(size: int) -> NDArray[np.float64]:
    """Return the matrix [size, size] of the cosine transforms of consecutive blocks of eight."""
    frequency, place = np.mgrid[:8, :8]
    cosines = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    return np.kron(np.eye(size // 8), cosines)


def _tensor(values: NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
