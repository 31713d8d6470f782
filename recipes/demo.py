"""`make demo`: dub the astronaut photo of scikit-image with a sentence from a speech synthesiser.

It dubs the photo, and a video of it in which a slow camera pans and zooms. The weights are the bundled ones;
nothing is downloaded.
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
COLUMNS = 6
FACE = (224, 115)
"""Centre of the face in the photo, x and y."""


def main() -> int:
    """Write results/demo_photo.mp4, results/demo.mp4 and results/demo.png."""
    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    seconds = len(read_audio(SENTENCE)) / 16_000
    still, moving, sheet = (RESULTS / name for name in ("demo_photo.mp4", "demo.mp4", "demo.png"))
    with tempfile.TemporaryDirectory() as folder:
        image, video = Path(folder, "astronaut.png"), Path(folder, "camera.mp4")
        cv2.imwrite(str(image), photo)
        shots = (YuvImage.from_image(shot, SCREEN) for shot in camera(photo, math.ceil(seconds * FPS)))
        write_video(shots, video, fps=FPS, options=EncodeOptions(crf=12))
        for face, out in ((image, still), (video, moving)):
            words = ["dub", "--face", face, "--audio", SENTENCE, "--outfile", out]
            if code := cli.main([str(word) for word in words]):
                return code
        cv2.imwrite(str(sheet), contact_sheet(video, moving, SENTENCE))
    sys.stdout.write(f"{still}\n{moving}\n{sheet}\n")
    return 0


def camera(photo: Image, count: int) -> Iterator[Image]:
    """Yield `count` images [SIDE, SIDE, 3] from a camera that circles the face and zooms in and out."""
    for number in range(count):
        phase = number / count
        width = 300 - 130 * math.sin(math.pi * phase)
        x = FACE[0] + 22 * math.sin(2 * math.pi * phase)
        y = max(FACE[1] + 14 * math.cos(2 * math.pi * phase), width / 2)
        zoom = SIDE / width
        transform = np.array([[zoom, 0, SIDE / 2 - zoom * x], [0, zoom, SIDE / 2 - zoom * y]])
        yield cv2.warpAffine(
            photo, transform, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )


def contact_sheet(source: Path, dubbed: Path, audio: Path) -> Image:
    """Return a sheet of evenly spaced frames, source, dubbed, and the envelope of the audio; BGR uint8."""
    rows = []
    for path in (source, dubbed):
        frames = [frame.image for frame in video_reader.read_frames(path)]
        chosen = [frames[round(index)] for index in np.linspace(0, len(frames) - 1, 2 * COLUMNS + 1)[1::2]]
        rows.append(
            np.hstack(
                [cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for frame in chosen]
            )
        )
    return np.vstack([*rows, envelope(read_audio(audio), rows[0].shape[1], SIDE // 6)])


def envelope(wav: np.ndarray, width: int, height: int) -> Image:
    """Return the loudness over time as an image, BGR uint8 [height, width, 3]."""
    image = np.full((height, width, 3), 255, np.uint8)
    for column, samples in enumerate(np.array_split(wav, width)):
        half = int(np.abs(samples).max() * (height // 2 - 2))
        image[height // 2 - half : height // 2 + half + 1, column] = (160, 90, 30)
    return image


if __name__ == "__main__":
    sys.exit(main())
