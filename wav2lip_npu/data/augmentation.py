"""Changes to what is learnt from, so that few speakers teach a network what holds for all.

A network that has seen one face and one voice knows that face and voice. Each sample therefore gets a
face of another shape, colour and light, and a voice of another pitch and level; all pictures of a sample
get the same ones, so that what moves is still the mouth. Moving the formants is vocal tract length
perturbation (Jaitly and Hinton, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from wav2lip_npu.data.clip import Faces
from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.yuv_image import Array
from wav2lip_npu.mel import DEFAULT_MEL, Mel

_BENDS = 4
"""Random displacements across a face; between them it bends smoothly."""
_LUMA = np.array([0.114, 0.587, 0.299])
"""Of B, G and R."""
_BEST_JPEG = 95
_WORST_JPEG = 5
_LEVEL_PER_DB = 2 * DEFAULT_MEL.max_abs / -DEFAULT_MEL.min_level_db


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far samples may be changed; each sample draws its own amounts. 0 leaves a change out.

    Faces uint8 [..., S, S, 3]; mels float32 [..., 80, 16].
    """

    flip: float = 0.0
    """Share of the samples whose faces are mirrored."""
    stretch: float = 0.0
    """Faces get larger or smaller, across and down on their own: 0.1 by up to a tenth."""
    shift: float = 0.0
    """Faces move aside, up or down by up to this part of their size."""
    turn: float = 0.0
    """Faces tilt by up to so many degrees."""
    bend: float = 0.0
    """Faces change their shape: places move by up to this part of its size, their neighbours with them."""
    colour: float = 0.0
    """Each colour gets stronger or weaker, and all more or less alike: 0.3 by up to 30 %."""
    gamma: float = 0.0
    """Dark and light move: 0.3 takes a power from 1 / 1.3 to 1.3."""
    blur: float = 0.0
    """Gaussian blur of up to so many pixels of 96."""
    noise: float = 0.0
    """Noise of up to so many grey levels on what a network is given, not on what it is to make."""
    jpeg: float = 0.0
    """Compression of the same: 0 none, 1 down to quality 5."""
    formants: float = 0.0
    """The voice gets lighter or darker: 0.1 by up to a tenth."""
    loudness: float = 0.0
    """The sound gets louder or softer by up to so many dB."""
    tilt: float = 0.0
    """High tones gain or lose up to so many dB against low ones."""

    untouched: float = 0.0
    """Share of the samples that are left as they are; if any, an expert judges those only."""

    def drawn(self, random: Generator) -> Augmentation:
        """What is done to one sample: nothing, or what is asked for."""
        return UNCHANGED if self.untouched and random.random() < self.untouched else self

    def check(self) -> None:
        """Raise `UsageError` when an amount is out of range."""
        most = {"turn": 45, "blur": 10, "noise": 64, "loudness": 40, "tilt": 40}
        for each in fields(self):
            value, limit = getattr(self, each.name), most.get(each.name, 1 if each.name in _SHARES else 0.5)
            if not 0 <= value <= limit:
                raise UsageError(f"--{each.name} {value:g} is out of range. Pass 0 to {limit:g}.")

    def faces(self, random: Generator, *stacks: Faces) -> list[Faces]:
        """The stacks as the faces of somebody else, in another light; all change alike."""
        changes: list[Callable[[Any], Any]] = []
        if where := self._places(random):
            x, y = where
            changes.append(lambda face: cv2.remap(face, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT))
        if self.colour or self.gamma:
            table, mix = self._light(random)
            changes.append(lambda face: cv2.transform(cv2.LUT(face, table), mix))
        if self.blur and (sigma := _half_the_time(random, self.blur)):
            changes.append(lambda face: cv2.GaussianBlur(face, (0, 0), sigma))
        return [_each(stack, changes) for stack in stacks]

    def worsen(self, random: Generator, stack: Faces) -> Faces:
        """The stack as a worse camera or codec would give it."""
        if self.noise and (level := _half_the_time(random, self.noise)):
            grain = random.normal(0, level, stack.shape)
            stack = np.clip(np.rint(stack + grain), 0, 255).astype(np.uint8)
        if self.jpeg and (share := _half_the_time(random, self.jpeg)):
            quality = [cv2.IMWRITE_JPEG_QUALITY, round(_BEST_JPEG - share * (_BEST_JPEG - _WORST_JPEG))]

            def through_a_file(face: Any) -> Any:
                return cv2.imdecode(cv2.imencode(".jpg", face, quality)[1], cv2.IMREAD_COLOR)

            stack = _each(stack, [through_a_file])
        return stack

    def sounds(self, random: Generator, mels: Mel) -> Mel:
        """The mels of somebody else's voice, nearer or farther."""
        bands = mels.shape[-2]
        if self.formants:
            rows = np.clip(np.arange(bands) * math.exp(random.uniform(-1, 1) * self.formants), 0, bands - 1)
            below = np.minimum(rows.astype(int), bands - 2)
            above = (rows - below)[:, None].astype(np.float32)
            mels = mels[..., below, :] * (1 - above) + mels[..., below + 1, :] * above
        if self.loudness or self.tilt:
            level, slope = random.uniform(-1, 1, 2) * (self.loudness, self.tilt)
            gain = (level + slope * np.linspace(-0.5, 0.5, bands)) * _LEVEL_PER_DB
            mels = np.clip(mels + gain[:, None].astype(np.float32), -DEFAULT_MEL.max_abs, DEFAULT_MEL.max_abs)
        return mels

    def _places(self, random: Generator) -> tuple[Array, Array] | None:
        """Where each pixel comes from, x and y; none if it stays."""
        if not (self.flip or self.stretch or self.shift or self.turn or self.bend):
            return None
        mirrored = random.random() < self.flip
        across, down = np.exp(random.uniform(-1, 1, 2) * self.stretch)
        angle = math.radians(random.uniform(-1, 1) * self.turn)
        aside = random.uniform(-1, 1, 2) * self.shift
        bends = (random.uniform(-1, 1, (_BENDS, _BENDS, 2)) * self.bend).astype(np.float32)
        y, x = np.mgrid[:FACE_SIZE, :FACE_SIZE].astype(np.float32) / (FACE_SIZE - 1) - 0.5
        bent = cv2.resize(bends, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_CUBIC)
        cos, sin = math.cos(angle), math.sin(angle)
        x = -x if mirrored else x
        from_x = (cos * x - sin * y) * across + aside[0] + bent[..., 0]
        from_y = (sin * x + cos * y) * down + aside[1] + bent[..., 1]
        to_pixels = [((each + 0.5) * (FACE_SIZE - 1)).astype(np.float32) for each in (from_x, from_y)]
        return to_pixels[0], to_pixels[1]

    def _light(self, random: Generator) -> tuple[Faces, Array]:
        """A table of new values [256, 1, 3] and a matrix [3, 3] that makes colours more or less alike."""
        gains = np.exp(random.uniform(-1, 1, 4) * self.colour)
        power = math.exp(random.uniform(-1, 1) * math.log1p(self.gamma))
        values = (np.arange(256) / 255)[:, None] ** power * gains[:3] * 255
        mix = gains[3] * np.eye(3) + (1 - gains[3]) * _LUMA
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)[:, None], mix


UNCHANGED = Augmentation()
_SHARES = ("flip", "jpeg", "colour", "gamma", "untouched")


def _half_the_time(random: Generator, most: float) -> float:
    """An amount up to `most`, or 0."""
    return max(0.0, random.uniform(-most, most))


def _each(stack: Faces, changes: list[Callable[[Any], Any]]) -> Faces:
    """A new stack with each of the faces changed."""
    changed = np.empty_like(stack)
    faces = zip(stack.reshape(-1, *stack.shape[-3:]), changed.reshape(-1, *stack.shape[-3:]), strict=True)
    for face, place in faces:
        for change in changes:
            face = change(face)
        place[:] = face
    return changed
