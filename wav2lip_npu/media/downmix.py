"""Mix audio channels to mono without cancelling channels in antiphase."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_WINDOW_S = 0.2
"""Time constant in seconds of the covariance that determines the signs."""
_FADE_S = 0.02
"""Seconds of the cross-fade when signs change."""
_CANCELS, _ADDS = 0.25, 0.5
"""Power of the sum of the channels, relative to the sum of their powers: 1 for independent channels, N for N
equal ones, 0 for stereo in antiphase. Below the first (-6 dB), channels cancel out; above the second, they no
longer do."""


class Downmix:
    """Mixes blocks of one track, in order.

    The result is the mean of the channels. While they cancel out, as in stereo with one channel inverted,
    each channel gets the sign of its correlation with the loudest one.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._covariance: NDArray[np.float64] | None = None
        self._signs: NDArray[np.float32] | None = None

    def __call__(self, block: Samples) -> Samples:
        """Return a block float32 [channels, samples] as [samples]."""
        channels, samples = block.shape
        mean: Samples = block.mean(axis=0)
        if channels == 1 or not samples:
            return mean
        before = self._signs
        after = self._next_signs(block, np.ones(channels, np.float32) if before is None else before)
        self._signs = after
        before = after if before is None else before
        if (before > 0).all() and (after > 0).all():
            return mean
        # Cross-fade, to avoid clicks when signs change.
        ramp = np.minimum(np.arange(samples, dtype=np.float32) / (_FADE_S * self._rate), 1)
        signs = before[:, None] * (1 - ramp) + after[:, None] * ramp
        mixed: Samples = (block * signs).mean(axis=0)
        return mixed

    def _next_signs(self, block: Samples, signs: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = block.astype(np.float64)
        covariance = wide @ wide.T
        if self._covariance is not None:
            covariance += self._covariance * math.exp(-block.shape[1] / (_WINDOW_S * self._rate))
        self._covariance = covariance
        power = covariance.trace()
        if not power:
            return signs
        ratio = covariance.sum() / power
        if ratio > _ADDS:
            return np.ones_like(signs)
        if ratio > _CANCELS:
            return signs
        powers = covariance.diagonal()
        opposite = np.where(covariance[int(powers.argmax())] < 0, -1, 1).astype(np.float32)
        # Both polarities are valid. Keep the previous one, in case two channels are equally loud.
        return -opposite if (opposite * signs * powers).sum() < 0 else opposite
