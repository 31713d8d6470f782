"""Figures that compare generated faces with the original ones: PSNR, SSIM, colour error."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.media.yuv_image import Image

_PEAK = 255.0
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
MOUTH_ROW = FACE_SIZE // 2
"""First row of the mouth half of a face."""
Plane = NDArray[np.float32]


def region(x1: float, x2: float, y1: float, y2: float) -> NDArray[np.bool_]:
    """Return a rectangle of a face, in fractions of it, as a mask bool [96, 96]."""
    y, x = (np.mgrid[0:FACE_SIZE, 0:FACE_SIZE] + 0.5) / FACE_SIZE
    return np.asarray((x > x1) & (x < x2) & (y > y1) & (y < y2))


LIPS = region(0.3, 0.7, 0.65, 0.92)


def squared_error(a: Image, b: Image) -> float:
    """Return the mean squared error of two images."""
    return float(np.square(a.astype(np.float32) - b).mean())


def psnr(mean_squared_error: float) -> float:
    """Return the PSNR in dB of 8-bit images; infinity for equal ones."""
    return float("inf") if mean_squared_error == 0 else 10 * float(np.log10(_PEAK**2 / mean_squared_error))


def ssim(a: Image, b: Image) -> float:
    """Return the SSIM of two images uint8 [H, W, 3], the mean over their channels.

    Wang et al. (2004): windows of 11 x 11 pixels with Gaussian weights, sigma 1.5, as in torchmetrics and as
    in scikit-image with `gaussian_weights=True, use_sample_covariance=False`. torchmetrics is not a
    dependency, and scikit-image needs 20 times as long.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    scores = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    scores /= (mean_x**2 + mean_y**2 + _C1) * (variances + _C2)
    margin = _SSIM_WINDOW // 2
    return float(scores[margin:-margin, margin:-margin].mean())


def _blurred(image: NDArray[np.float64]) -> NDArray[Any]:
    size = (_SSIM_WINDOW, _SSIM_WINDOW)
    return np.asarray(cv2.GaussianBlur(image, size, _SSIM_SIGMA, borderType=cv2.BORDER_REFLECT))


def colour_error(a: Image, b: Image, where: NDArray[np.bool_]) -> float:
    """Return the mean distance in CIELAB, dE, of two faces in a region, without their detail."""
    labs = [_lab(cv2.GaussianBlur(image, (0, 0), 3)) for image in (a, b)]
    return float(np.linalg.norm(labs[0] - labs[1], axis=2)[where].mean())


def _lab(image: Any) -> Plane:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / np.float32(_PEAK), cv2.COLOR_BGR2LAB))


class PictureMeasure:
    """PSNR, SSIM and colour error of the crops at the box of the original face."""

    def __init__(self) -> None:
        self._errors = np.zeros(2)
        self._ssim = np.zeros(2)
        self._colour = 0.0
        self._count = 0
        self.mouth_psnr: list[float] = []
        """PSNR of the mouth half of each frame with a face, for the curve; at most 100 dB."""
        self.frames: list[int] = []

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        if pair.faces is None:
            return
        generated, truth = pair.faces
        mouths = generated[MOUTH_ROW:], truth[MOUTH_ROW:]
        errors = np.array([squared_error(generated, truth), squared_error(*mouths)])
        self._errors += errors
        self._ssim += [ssim(generated, truth), ssim(*mouths)]
        self._colour += colour_error(generated, truth, LIPS)
        self._count += 1
        self.frames.append(pair.index)
        self.mouth_psnr.append(round(min(100.0, psnr(float(errors[1]))), 2))

    def figures(self) -> dict[str, Figure]:
        """Return the figures. PSNR is that of the mean squared error over all frames."""
        if not self._count:
            return {}
        (face_error, mouth_error), (face_ssim, mouth_ssim) = (
            sums / self._count for sums in (self._errors, self._ssim)
        )
        return {
            "psnr_face": Figure(psnr(float(face_error))),
            "psnr_mouth": Figure(psnr(float(mouth_error))),
            "ssim_face": Figure(float(face_ssim)),
            "ssim_mouth": Figure(float(mouth_ssim)),
            "colour_error": Figure(self._colour / self._count),
        }
