"""Make wav2lip_npu/weights/calibration.mp4, the clip of `export --int8` for users without one of their own.

The astronaut photo of scikit-image (NASA, public domain) under a moving camera and changing light, with the
sentence of the demo, which a speech synthesiser spoke.

    python recipes/calibration_clip.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage.data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes import demo
from wav2lip_npu.export.calibration import BUNDLED_CLIP
from wav2lip_npu.media.audio_reader import measure_audio
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import SCREEN, Image, YuvImage

SIDE = 160
FRAMES = 100


def main() -> None:
    """Write the clip."""
    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    images = (YuvImage.from_image(image, SCREEN) for image in shots(photo, FRAMES))
    options = EncodeOptions(crf=22, preset="veryslow")
    write_video(images, BUNDLED_CLIP, fps=demo.FPS, audio=measure_audio(demo.SENTENCE), options=options)


def shots(photo: Image, count: int) -> Iterator[Image]:
    """Yield `count` images [SIDE, SIDE, 3]: dark to bright, warm to cold."""
    for number, shot in enumerate(demo.camera(photo, count)):
        phase = 2 * math.pi * number / count
        light = 0.75 - 0.4 * math.cos(2 * phase)
        tint = np.float32([1 + 0.2 * math.sin(phase), 1, 1 - 0.2 * math.sin(phase)])
        small = cv2.resize(shot, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        yield np.clip(small * light * tint, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
