"""Counter-based random numbers: number `k` of sample `i` of epoch `e` is a function of (seed, e, i, k).

Unlike a generator per sample, one call computes the numbers of a whole batch, without a loop over its
samples. The numbers are computed on the host in integers, so every device gets the same ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Indices

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_UNIT = 2.0**-53


def uniforms(seed: int, epochs: Indices, numbers: Indices, count: int) -> NDArray[np.float64]:
    """Return `count` numbers in [0, 1) for each sample of `epochs` and `numbers` [B]: [B, count].

    This is SplitMix64 (Steele, Lea and Flood, 2014) with the sample as its seed.
    """
    key = _mixed(np.full(len(epochs), seed, np.uint64))
    for part in (epochs, numbers):
        key = _mixed(key + _STEP * (part.astype(np.uint64) + np.uint64(1)))
    bits = _mixed(key[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))
    random: NDArray[np.float64] = (bits >> np.uint64(11)) * _UNIT
    return random


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the bits, mixed so that each output bit depends on each input bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * _FACTORS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _FACTORS[1]
    mixed: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return mixed
