"""A moving face, audio, and a detector for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.media.yuv_image import Colour, Image, YuvImage

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write_audio(path: Path, seconds: float, rate: int = 16_000) -> Path:
    """Write a WAV file of a buzz with syllables."""
    import soundfile

    time = np.arange(round(seconds * rate)) / rate
    buzz = np.sign(np.sin(2 * np.pi * 120 * time)) * (0.2 + 0.2 * np.sin(2 * np.pi * 4 * time))
    soundfile.write(path, buzz, rate)
    return path


def face_frames(count: int) -> Iterator[YuvImage]:
    """Yield frames of a face of about 110 px that moves to the right, 2 px per frame."""
    import skimage.data

    face = np.ascontiguousarray(skimage.data.astronaut()[20:200, 130:310, ::-1])
    for number in range(count):
        image = np.full((240, 320, 3), 110, np.uint8)
        left = 20 + 2 * number
        image[30:210, left : left + 180] = face[:, : 320 - left]
        yield YuvImage.from_image(image, Colour())


class SquareDetector:
    """Detects the bounding box of all pixels that differ from the grey background."""

    name = "square"
    short_side = 240
    face_side = 96
    views = cell = 1

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Return one face per image, or none for a plain image."""
        self.calls += 1
        return [self._find(image) for image in images]

    @staticmethod
    def _find(image: Image) -> list[Detection]:
        rows, columns = np.nonzero(np.abs(image[:, :, 1].astype(int) - 110) > 12)
        if len(rows) < 100:
            return []
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        return [Detection(box, 1.0)]
