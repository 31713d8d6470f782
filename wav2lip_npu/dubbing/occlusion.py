"""Find what is in front of a mouth: hands, microphones, cups.

A small network compares each face with the mean and the deviation of the same face in earlier frames of the
shot. What is in front stays as filmed; if it covers the mouth, or cannot be separated from it, so does the
whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Image

Weights = NDArray[np.float32]
Network = Callable[[NDArray[np.float32]], Weights]
"""Takes float32 [48, 48, 7]; returns the probability [48, 48] that a pixel is in front of the face."""


@dataclass(frozen=True)
class Front:
    """What is in front of a face."""

    weights: Weights | None
    """Opacity of what is in front, float32 [S, S] in [0, 1] over the box of the face; None: nothing."""
    hides_mouth: bool
    """Whether the mouth is mostly covered, or cannot be separated from what covers it."""


class Occlusion(Protocol):
    """Finds what is in front of the face in each frame of a video, in order."""

    def __call__(self, frame: TrackedFrame, face: Image | None) -> Front:
        """Return what is in front of the face of the next frame, cropped: BGR uint8 [S, S, 3]."""
        ...


NOTHING = Front(None, hides_mouth=False)
_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "occlusion.safetensors"
_GRID = 48
"""Rows and columns of the images of the network."""
_FASTEST, _SLOWEST = 0.5, 0.03
"""Weights of a new frame in the mean, at the beginning of a shot and after about a second."""
_BESIDE = np.float32(0.25)
"""Factor of these weights while something is in front."""
_PERSISTENCE = np.float32(0.75)
"""Factor of a probability from one frame to the next: fills gaps in a part that is otherwise certain."""
_SEEN = 0.5
"""Probability from which a pixel is in front."""
_SURE = 0.85
"""Probability that a connected part must reach somewhere."""
_SMALLEST = 0.012
"""Smallest connected part, as a fraction of the box."""
_GUIDE, _GUIDE_NOISE = 1 / 24, 1e-3
"""Of the filter that moves edges to those of the image: radius as a fraction of the face, and the variance
that is flat."""
_UNCLEAR = 0.25
"""Probabilities this far from 0 and 1 are not clear."""
_COVERED, _DOUBTFUL = 0.6, 0.35
"""Shares of the mouth: covered by what is in front, and neither clearly free nor clearly covered. Above
either, the frame stays as filmed."""
_MOUTH_CENTRE, _MOUTH_RADII = (0.5, 0.78), (0.22, 0.13)
"""The mouth, as fractions of the box."""


class LearnedOcclusion:
    """Finds what is in front by the network, for one video."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._restart()

    def _restart(self) -> None:
        self._mean: Weights | None = None
        self._variance: Weights = np.zeros((_GRID, _GRID), np.float32)
        self._shown: Weights = np.zeros((_GRID, _GRID), np.float32)
        self._count = 0

    def __call__(self, frame: TrackedFrame, face: Image | None) -> Front:
        """See `Occlusion`."""
        if frame.cut:
            self._restart()
        return NOTHING if face is None else self.look(face)

    def look(self, face: Image) -> Front:
        """Return what is in front of the next face of the shot, BGR uint8 [S, S, 3]."""
        small = cv2.resize(face, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
        now = small.astype(np.float32) / np.float32(255)
        mean = now if self._mean is None else self._mean
        deviation = np.sqrt(self._variance)
        found = self._network(np.dstack([now, mean, 4 * deviation]))
        self._shown = np.maximum(found, _PERSISTENCE * self._shown)
        shown = _parts(self._shown)
        self._learn(now, found, is_free=not shown.any())
        if not shown.any():
            return NOTHING
        large = cv2.resize(shown, face.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
        return front_of(_guided(large, face[..., 1].astype(np.float32) / np.float32(255)).clip(0, 1))

    def _learn(self, now: Weights, found: Weights, *, is_free: bool) -> None:
        """Update mean and variance; not with what is in front, and slowly next to it, as masks have gaps."""
        self._count += 1
        if self._mean is None:
            self._mean = now
            return
        rate = np.float32(max(_SLOWEST, min(_FASTEST, 1 / self._count))) * (1 - found)
        rate = rate if is_free else _BESIDE * rate
        change = now - self._mean
        self._mean = self._mean + rate[..., None] * change
        self._variance = (1 - rate) * (self._variance + rate * np.square(change).mean(axis=2))


def front_of(shown: Weights) -> Front:
    """Return the front for the probabilities that pixels of a face are covered, float32 [S, S]."""
    if shown.max() <= _SEEN:
        return NOTHING
    mouth = shown[_mouth(len(shown))]
    covered = float((mouth > _SEEN).mean())
    doubtful = float((np.minimum(mouth, 1 - mouth) > _UNCLEAR).mean())
    return Front(shown, hides_mouth=covered > _COVERED or doubtful > _DOUBTFUL)


def load_occlusion(mask_file: str | None) -> Occlusion:
    """Return a finder for one video: a mask file, or the bundled network.

    Raises what `MaskFileOcclusion` raises.
    """
    if mask_file is None:
        return LearnedOcclusion(load_network())
    from wav2lip_npu.dubbing.occlusion_file import MaskFileOcclusion

    return MaskFileOcclusion(mask_file)


@cache
def load_network() -> Network:
    """Return the bundled network, on the CPU: one for all dubs of a process."""
    import torch

    from wav2lip_npu.models.occlusion import load_occlusion

    network = load_occlusion(_WEIGHTS)

    def run(images: NDArray[np.float32]) -> Weights:
        with torch.inference_mode():
            logits = network(torch.from_numpy(images)[None].permute(0, 3, 1, 2))
            return np.asarray(logits[0, 0].sigmoid().numpy())

    return run


def _parts(shown: Weights) -> Weights:
    """Return the probabilities of the connected parts that are large and certain, 0 elsewhere."""
    count, labels, areas, _ = cv2.connectedComponentsWithStats((shown > _SEEN).astype(np.uint8))
    kept = np.zeros(shown.shape, np.uint8)
    for number in range(1, count):
        part = labels == number
        if areas[number, cv2.CC_STAT_AREA] >= _SMALLEST * shown.size and shown[part].max() >= _SURE:
            kept |= part
    return shown * cv2.dilate(kept, np.ones((3, 3), np.uint8))


def _guided(weights: Weights, guide: Weights) -> Weights:
    """Return weights whose edges follow those of the guide (He, Sun, Tang 2010)."""
    radius = round(_GUIDE * len(guide))
    size = (2 * radius + 1, 2 * radius + 1)

    def mean(values: Weights) -> Weights:
        return np.asarray(cv2.blur(values, size))

    mean_guide, mean_weights = mean(guide), mean(weights)
    variance = mean(guide * guide) - mean_guide**2
    slope = (mean(guide * weights) - mean_guide * mean_weights) / (variance + _GUIDE_NOISE)
    offset = mean_weights - slope * mean_guide
    return mean(slope) * guide + mean(offset)


@cache
def _mouth(size: int) -> NDArray[np.bool_]:
    """Return the pixels of the mouth, bool [S, S]."""
    pixels = (np.arange(size) + 0.5) / size
    x, y = ((pixels - centre) / radius for centre, radius in zip(_MOUTH_CENTRE, _MOUTH_RADII, strict=True))
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 < 1)
