"""LPIPS and FID of face crops, by networks whose weights the user provides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.models.inception import FEATURES

_BATCH = 16
MIN_IMAGES = FEATURES
"""Images below which FID is not reliable, because the covariances are singular."""
Matrix = NDArray[np.float64]


class FaceBatches:
    """Collects pairs of face crops and hands them to a function in batches."""

    def __init__(self, function: Callable[[Tensor, Tensor], None]) -> None:
        self._function = function
        self._pending: list[tuple[Image, Image]] = []

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        if pair.faces is not None:
            self._pending.append(pair.faces)
        if len(self._pending) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand over the pairs of an incomplete batch."""
        if self._pending:
            sides = zip(*self._pending, strict=True)
            generated, truth = (torch.from_numpy(np.stack(images)) for images in sides)
            self._function(generated, truth)
            self._pending = []


class LpipsMeasure:
    """Mean LPIPS of the face crops."""

    def __init__(self, lpips: Callable[[Tensor, Tensor], list[float]]) -> None:
        self._lpips = lpips
        self._batches = FaceBatches(self._run)
        self._sum, self._count = 0.0, 0

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        self._batches.add(pair)

    def _run(self, generated: Tensor, truth: Tensor) -> None:
        values = self._lpips(generated, truth)
        self._sum += sum(values)
        self._count += len(values)

    def figures(self) -> dict[str, Figure]:
        """Return the mean."""
        self._batches.flush()
        return {"lpips": Figure(self._sum / self._count)} if self._count else {}


class Gaussian:
    """Mean and covariance of features, from a stream of batches."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Matrix | None = None
        self._products: Matrix | None = None

    def add(self, features: Matrix) -> None:
        """Add features [B, D]."""
        if self._sum is None or self._products is None:
            size = features.shape[1]
            self._sum, self._products = np.zeros(size), np.zeros((size, size))
        self._sum += features.sum(axis=0)
        self._products += features.T @ features
        self.count += len(features)

    def moments(self) -> tuple[Matrix, Matrix]:
        """Return mean [D] and covariance [D, D] of at least two features."""
        assert self._sum is not None and self._products is not None and self.count > 1
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, covariance


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return the Frechet distance of two Gaussians (Heusel et al., 2017)."""
    (mean, covariance), (other_mean, other_covariance) = one.moments(), other.moments()
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    distance = np.square(mean - other_mean).sum()
    distance += np.trace(covariance) + np.trace(other_covariance) - 2 * common
    return float(max(distance, 0.0))


class Fid:
    """FID of all face crops of all videos against those of their originals."""

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self._features = features
        self._generated, self._truth = Gaussian(), Gaussian()
        self._batches = FaceBatches(self._run)

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        self._batches.add(pair)

    def _run(self, generated: Tensor, truth: Tensor) -> None:
        self._generated.add(self._features(generated).numpy())
        self._truth.add(self._features(truth).numpy())

    def figures(self) -> dict[str, Figure]:
        """Return nothing: FID belongs to the set of videos, see `value`."""
        return {}

    def value(self) -> tuple[float, int] | None:
        """Return FID and the number of images; None with fewer than two."""
        self._batches.flush()
        if self._generated.count < 2:
            return None
        return frechet_distance(self._generated, self._truth), self._generated.count
