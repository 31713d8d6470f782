"""A film of titles without a face: words and signs that spin and grow over plain and textured backgrounds."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, Image, YuvImage

SCENE = 40
"""Frames per title."""
_SIZE = (640, 360)
_TITLES = (
    "TEST FILM",
    "O8O",
    "(o_o)",
    "GOODBYE\nHOLLYWOOD",
    "100 %",
    "Q&A",
    "The End",
    "oOo\n(==)",
    "25 fps",
)


def title_frames(count: int, seed: int = 0) -> Iterator[Frame]:
    """Yield `count` frames of 640x360 at 25 fps, with a little noise."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        number, t = divmod(index, SCENE)
        if t == 0:
            card, background = _card(number, rng), _background(number, rng)
            spin, grow = rng.uniform(-12, 12), rng.uniform(0.98, 1.05)
        centre = (card.shape[1] / 2, card.shape[0] / 2)
        matrix = cv2.getRotationMatrix2D(centre, spin * t, 0.35 * grow**t)
        matrix[:, 2] += (_SIZE[0] / 2 - centre[0], _SIZE[1] / 2 - centre[1])
        layer = cv2.warpAffine(card, matrix, _SIZE, flags=cv2.INTER_LINEAR)
        alpha = layer[:, :, 3:] / 255
        image = layer[:, :, :3] * alpha + background * (1 - alpha) + rng.normal(0, 2, background.shape)
        yield Frame(index, YuvImage.from_image(np.clip(image, 0, 255).astype(np.uint8), Colour()), index)


def _card(number: int, rng: np.random.Generator) -> Image:
    """Return a title as BGRA uint8 [600, 900, 4]; every third one stands on a skin-coloured disc."""
    card = PilImage.new("RGBA", (900, 600))
    draw = ImageDraw.Draw(card)
    if number % 3 == 2:
        draw.ellipse((250, 60, 650, 540), fill=(214, 160, 130, 255))
    red, green, blue = (int(value) for value in rng.integers(60, 256, 3))
    draw.multiline_text(
        (450, 300),
        _TITLES[number % len(_TITLES)],
        fill=(red, green, blue, 255) if number % 2 else (250, 250, 250, 255),
        font=ImageFont.load_default(int(rng.integers(90, 170))),
        anchor="mm",
        align="center",
        stroke_width=int(rng.integers(0, 5)),
        stroke_fill=(20, 20, 20, 255),
    )
    return np.array(card)[:, :, [2, 1, 0, 3]]


def _background(number: int, rng: np.random.Generator) -> Image:
    """Return BGR uint8 [360, 640, 3]: plain, a gradient, or clouds."""
    low, high = rng.uniform(10, 120, 3), rng.uniform(80, 230, 3)
    if number % 3 == 0:
        share = np.zeros(_SIZE[::-1])
    elif number % 3 == 1:
        share = np.tile(np.linspace(0, 1, _SIZE[0]), (_SIZE[1], 1))
    else:
        share = cv2.resize(rng.uniform(0, 1, (9, 16)), _SIZE, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    image: Image = (low + (high - low) * share[:, :, None]).astype(np.uint8)
    return image
