"""Check chunks of pushed audio, and convert them to mono floating point."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.options import MAX_RATE, MIN_RATE

Samples = NDArray[np.float32]
Pcm = bytes | bytearray | memoryview | NDArray[np.int16] | NDArray[np.float32]
"""Audio: interleaved 16-bit little-endian integers, or int16 or float [samples] or [samples, channels]."""
_FULL_SCALE = 32768
_LOUDEST = 1000
"""60 dB above full scale: integers that were stored as floating point are louder."""
_MAX_CHANNELS = 64


def channels_of(pcm: Pcm, rate: int, channels: int) -> Samples:
    """Return a chunk as float32 [channels, samples], full scale 1.

    Raises:
        UsageError: The chunk, its sample rate or its number of channels is invalid.

    """
    if not isinstance(rate, (int, np.integer)) or not MIN_RATE <= rate <= MAX_RATE:
        raise UsageError(f"rate {rate!r:.40} is invalid. Pass samples per second, {MIN_RATE} to {MAX_RATE}.")
    if not isinstance(channels, (int, np.integer)) or not 1 <= channels <= _MAX_CHANNELS:
        raise UsageError(f"channels {channels!r:.40} is invalid. Pass 1 to {_MAX_CHANNELS}.")
    if isinstance(pcm, (bytes, bytearray, memoryview)):
        size = memoryview(pcm).nbytes
        if size % (2 * channels):
            raise UsageError(
                f"a chunk of {size} bytes does not hold whole samples of {channels} times 2 bytes. "
                "Pass int16 samples of all channels."
            )
        block: Any = np.frombuffer(pcm, "<i2").reshape(-1, channels)
    elif isinstance(pcm, np.ndarray) and pcm.ndim in (1, 2):
        block = pcm.reshape(-1, channels) if pcm.ndim == 1 and not pcm.size % channels else pcm
        if block.ndim != 2 or not 1 <= block.shape[1] <= _MAX_CHANNELS:
            raise UsageError(
                f"a chunk of shape {pcm.shape} is invalid. Pass [samples] or [samples, channels]."
            )
    else:
        kind = f"array of shape {pcm.shape}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise UsageError(f"a chunk of type {kind:.60} is invalid. Pass bytes, or an array of int16 or float.")
    if block.dtype == np.int16 or block.dtype == np.dtype("<i2"):
        scaled: Samples = np.ascontiguousarray(block.T, np.float32) / np.float32(_FULL_SCALE)
        return scaled
    if block.dtype.kind != "f":
        raise UsageError(f"a chunk of {block.dtype} is invalid. Pass int16, or float with full scale 1.")
    samples: Samples = np.ascontiguousarray(block.T, np.float32)
    loudest = float(np.abs(samples).max(initial=0))
    if not loudest <= _LOUDEST:  # NaN is not either
        raise UsageError(f"a chunk reaches {loudest:g}; full scale is 1. Pass finite samples.")
    return samples


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Return samples as 16-bit integers, clipped at full scale."""
    scaled = np.rint(samples * _FULL_SCALE)
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
