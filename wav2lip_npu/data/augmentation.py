"""Augmentation of training samples, so that a network trained on few speakers generalizes to others.

The face of each sample changes in shape, colour and light, and its voice in pitch and level. All faces of a
sample change identically, so the motion of the mouth is kept. Shifting the formants is vocal tract length
perturbation (Jaitly and Hinton, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Faces
from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.errors import UsageError
from wav2lip_npu.mel import DEFAULT_MEL, Mel
from wav2lip_npu.options import check_types, nested_by_name

BENDS = 4
"""Number of random displacements across a face, which are interpolated smoothly."""
LUMA = np.array([0.114, 0.587, 0.299])
"""Weights of B, G and R."""
BEST_JPEG = 95
WORST_JPEG = 5
LEVEL_PER_DB = 2 * DEFAULT_MEL.max_abs / -DEFAULT_MEL.min_level_db
_MAXIMA = {"turn": 45, "blur": 10, "noise": 64, "loudness": 40, "tilt": 40}
_SIZES = ("stretch", "shift", "bend", "formants")
_MAX_SIZE = 0.5
_MAX_MEL_NOISE = 4


def _check_ranges(options: Any, maxima: Mapping[str, float]) -> None:
    check_types(options)
    for option in fields(options):
        value, limit = getattr(options, option.name), maxima.get(option.name, 1)
        if not 0 <= value <= limit:
            raise UsageError(f"--{option.name} {value:g} is out of range. Pass 0 to {limit:g}.")


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Largest changes of a sample. The amounts are drawn per sample; 0 turns a change off."""

    flip: float = 0.0
    """Share of samples with mirrored faces."""
    stretch: float = 0.0
    """Horizontal and vertical scaling of the face, 0.1 for up to 10 %."""
    shift: float = 0.0
    """Shift of the face, as a share of its size."""
    turn: float = 0.0
    """Rotation of the face, in degrees."""
    bend: float = 0.0
    """Smooth local displacement of the face, as a share of its size."""
    colour: float = 0.0
    """Gain of each colour channel and of the saturation, 0.3 for up to 30 %."""
    gamma: float = 0.0
    """Gamma correction, 0.3 for exponents from 1 / 1.3 to 1.3."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur, in pixels of a 96-pixel face."""
    noise: float = 0.0
    """Standard deviation of noise on the network's input, in grey levels. Targets get none."""
    jpeg: float = 0.0
    """JPEG compression of the network's input, 1 for quality down to 5. Targets get none."""
    formants: float = 0.0
    """Shift of the formants, 0.1 for up to 10 %."""
    loudness: float = 0.0
    """Change of the audio level, in dB."""
    tilt: float = 0.0
    """Gain of high relative to low frequencies, in dB."""

    untouched: float = 0.0
    """Share of unchanged samples. If above 0, SyncNet judges only those."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if an amount is out of range."""
        _check_ranges(self, {**dict.fromkeys(_SIZES, _MAX_SIZE), **_MAXIMA})

    def drawn(self, random: Generator) -> Augmentation:
        """Return the augmentation of one sample: this one, or `UNCHANGED` for a share of `untouched`."""
        return UNCHANGED if self.untouched and random.random() < self.untouched else self

    def faces(self, random: Generator, *stacks: Faces) -> list[Faces]:
        """Return stacks of faces uint8 [..., S, S, 3] with one random change of shape and light."""
        changes: list[Callable[[Any], Any]] = []
        size = stacks[0].shape[-2]
        if source := self._source_pixels(random, size):
            x, y = source
            changes.append(lambda face: cv2.remap(face, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT))
        if self.colour or self.gamma:
            table, mix = self._light(random)
            changes.append(lambda face: cv2.transform(cv2.LUT(face, table), mix))
        if self.blur and (sigma := _half_the_time(random, self.blur)):
            changes.append(lambda face: cv2.GaussianBlur(face, (0, 0), sigma * size / FACE_SIZE))
        return [_apply(changes, stack) for stack in stacks]

    def degrade(self, random: Generator, stack: Faces) -> Faces:
        """Return faces uint8 [..., S, S, 3] with the noise and compression of a worse camera and codec."""
        if self.noise and (level := _half_the_time(random, self.noise)):
            grain = random.normal(0, level, stack.shape)
            stack = np.clip(np.rint(stack + grain), 0, 255).astype(np.uint8)
        if self.jpeg and (share := _half_the_time(random, self.jpeg)):
            quality = [cv2.IMWRITE_JPEG_QUALITY, round(BEST_JPEG - share * (BEST_JPEG - WORST_JPEG))]

            def compress(face: Any) -> Any:
                return cv2.imdecode(cv2.imencode(".jpg", face, quality)[1], cv2.IMREAD_COLOR)

            stack = _apply([compress], stack)
        return stack

    def mels(self, random: Generator, mels: Mel) -> Mel:
        """Return mels float32 [..., 80, T] with a random change of voice and level."""
        bands = mels.shape[-2]
        if self.formants:
            rows = np.clip(np.arange(bands) * math.exp(random.uniform(-1, 1) * self.formants), 0, bands - 1)
            below = np.minimum(rows.astype(int), bands - 2)
            above = (rows - below)[:, None].astype(np.float32)
            mels = mels[..., below, :] * (1 - above) + mels[..., below + 1, :] * above
        if self.loudness or self.tilt:
            level, slope = random.uniform(-1, 1, 2) * (self.loudness, self.tilt)
            gain = (level + slope * np.linspace(-0.5, 0.5, bands)) * LEVEL_PER_DB
            mels = np.clip(mels + gain[:, None].astype(np.float32), -DEFAULT_MEL.max_abs, DEFAULT_MEL.max_abs)
        return mels

    def _source_pixels(self, random: Generator, size: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return the source x and y of each pixel, or `None` without a geometric change."""
        if not (self.flip or self.stretch or self.shift or self.turn or self.bend):
            return None
        mirrored = random.random() < self.flip
        across, down = np.exp(random.uniform(-1, 1, 2) * self.stretch)
        angle = math.radians(random.uniform(-1, 1) * self.turn)
        offset = random.uniform(-1, 1, 2) * self.shift
        bends = (random.uniform(-1, 1, (BENDS, BENDS, 2)) * self.bend).astype(np.float32)
        y, x = np.mgrid[:size, :size].astype(np.float32) / (size - 1) - 0.5
        bent = cv2.resize(bends, (size, size), interpolation=cv2.INTER_CUBIC)
        cos, sin = math.cos(angle), math.sin(angle)
        x = -x if mirrored else x
        from_x = (cos * x - sin * y) * across + offset[0] + bent[..., 0]
        from_y = (sin * x + cos * y) * down + offset[1] + bent[..., 1]
        pixels = [((axis + 0.5) * (size - 1)).astype(np.float32) for axis in (from_x, from_y)]
        return pixels[0], pixels[1]

    def _light(self, random: Generator) -> tuple[Faces, NDArray[Any]]:
        """Return a lookup table [256, 1, 3] of pixel values and a saturation matrix [3, 3]."""
        gains = np.exp(random.uniform(-1, 1, 4) * self.colour)
        power = math.exp(random.uniform(-1, 1) * math.log1p(self.gamma))
        values = (np.arange(256) / 255)[:, None] ** power * gains[:3] * 255
        mix = gains[3] * np.eye(3) + (1 - gains[3]) * LUMA
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)[:, None], mix


UNCHANGED = Augmentation()


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class WindowChanges:
    """Changes of SyncNet's windows on the device, so that it judges the motion of the lips."""

    grey: float = 0.0
    """Share of windows whose faces become grey."""
    hide_patch: float = 0.0
    """Share of windows in which a patch of the mouth region is hidden."""
    hide_band: float = 0.0
    """Share of windows in which ten neighbouring mel bands are hidden."""
    mel_noise: float = 0.0
    """Standard deviation of noise on the mels, whose values are -4 to 4."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if an amount is out of range."""
        _check_ranges(self, {"mel_noise": _MAX_MEL_NOISE})


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class TargetChanges:
    """Changes of the generator's samples on the device, so that the mouth comes from the audio alone."""

    reference_mouth_warp: float = 0.0
    """Random change of the mouth of the reference, so that it does not show the mouth to generate; 1 for 0.5
    to 1.5 times its height and 0.8 to 1.2 times its width."""
    reference_paste: float = 0.0
    """Share of samples whose reference is the target with the mouth of the reference."""
    silence: float = 0.0
    """Share of samples in which the audio of frames without speech becomes silence, so that silence closes
    the mouth."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if an amount is out of range."""
        _check_ranges(self, {})


def _half_the_time(random: Generator, maximum: float) -> float:
    """Return a random amount up to `maximum`, or 0 half of the time."""
    return max(0.0, random.uniform(-maximum, maximum))


def _apply(changes: list[Callable[[Any], Any]], stack: Faces) -> Faces:
    """Return a new stack with the changes applied to each face, or the stack itself without changes."""
    if not changes:
        return stack
    changed = np.empty_like(stack)
    shape = stack.shape[-3:]
    for face, result in zip(stack.reshape(-1, *shape), changed.reshape(-1, *shape), strict=True):
        for change in changes:
            face = change(face)
        result[:] = face
    return changed
