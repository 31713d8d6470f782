"""`make demo`: the astronaut photo of scikit-image speaks a sentence made by a speech synthesiser.

First the photo, then a real moving video: the same picture panned and zoomed by a slow camera, encoded,
and dubbed like any other. The weights are those of the package; nothing is downloaded.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from wav2lip_npu.cli import main as cli
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import SCREEN, Image, YuvImage

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
SENTENCE = HERE / "hello.flac"
FPS = Fraction(25)
SIDE = 384
SHOWN = 6
FACE = (224, 115)
"""Where the face is in the photo, x and y."""


def main() -> int:
    """Write results/demo_photo.mp4, results/demo.mp4 and results/demo.png."""
    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    seconds = len(read_audio(SENTENCE)) / 16_000
    still, moving, sheet = (RESULTS / name for name in ("demo_photo.mp4", "demo.mp4", "demo.png"))
    with tempfile.TemporaryDirectory() as folder:
        picture, video = Path(folder, "astronaut.png"), Path(folder, "camera.mp4")
        cv2.imwrite(str(picture), photo)
        shots = (YuvImage.from_image(shot, SCREEN) for shot in camera(photo, math.ceil(seconds * FPS)))
        write_video(shots, video, fps=FPS, options=EncodeOptions(crf=12))
        for face, out in ((picture, still), (video, moving)):
            words = ["dub", "--face", face, "--audio", SENTENCE, "--outfile", out]
            if code := cli.main([str(word) for word in words]):
                return code
        cv2.imwrite(str(sheet), contact_sheet(video, moving, SENTENCE))
    sys.stdout.write(f"{still}\n{moving}\n{sheet}\n")
    return 0


def camera(photo: Image, count: int) -> Iterator[Image]:
    """`count` pictures [SIDE, SIDE, 3] of a camera that circles the face and comes nearer."""
    for number in range(count):
        part = number / count
        seen = 300 - 130 * math.sin(math.pi * part)
        x = FACE[0] + 22 * math.sin(2 * math.pi * part)
        y = max(FACE[1] + 14 * math.cos(2 * math.pi * part), seen / 2)
        zoom = SIDE / seen
        where = np.array([[zoom, 0, SIDE / 2 - zoom * x], [0, zoom, SIDE / 2 - zoom * y]])
        yield cv2.warpAffine(photo, where, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def contact_sheet(source: Path, dubbed: Path, sound: Path) -> Image:
    """Source above dubbed frames, evenly spread, above the envelope of the sound; BGR uint8."""
    rows = []
    for path in (source, dubbed):
        frames = [frame.image for frame in video_reader.read_frames(path)]
        chosen = [frames[round(at)] for at in np.linspace(0, len(frames) - 1, 2 * SHOWN + 1)[1::2]]
        rows.append(
            np.hstack(
                [cv2.resize(each, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for each in chosen]
            )
        )
    return np.vstack([*rows, envelope(read_audio(sound), rows[0].shape[1], SIDE // 6)])


def envelope(wav: np.ndarray, width: int, height: int) -> Image:
    """Loudness over time as a picture, BGR uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), 255, np.uint8)
    for column, part in enumerate(np.array_split(wav, width)):
        half = int(np.abs(part).max() * (height // 2 - 2))
        picture[height // 2 - half : height // 2 + half + 1, column] = (160, 90, 30)
    return picture


if __name__ == "__main__":
    sys.exit(main())
