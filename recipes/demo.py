"""`make demo`: the astronaut photo of scikit-image speaks a sentence made by a speech synthesiser.

Until the project ships starter weights the network is untrained (seeded, narrow): the demo shows the
whole way from a photo and a sound to a video, the box, the blending and the timing, but its mouth is noise.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from wav2lip_npu import checkpoint, cli, media
from wav2lip_npu.models import Wav2Lip
from wav2lip_npu.sound import read_audio

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
SHOWN = 5
SIDE = 160


def main() -> int:
    """Write results/demo.mp4 and results/demo.png."""
    out = RESULTS / "demo.mp4"
    sentence = HERE / "hello.flac"
    with tempfile.TemporaryDirectory() as folder:
        photo = os.path.join(folder, "astronaut.png")
        weights = os.path.join(folder, "untrained.pth")
        cv2.imwrite(photo, skimage.data.astronaut()[:, :, ::-1])
        torch.manual_seed(0)
        checkpoint.save(weights, Wav2Lip(width=8))
        sys.stdout.write(
            "This network is UNTRAINED: the mouth will be noise. Pass trained weights to `dub`.\n"
        )
        words = ["dub", "--face", photo, "--audio", str(sentence), "--checkpoint_path", weights]
        code = cli.main([*words, "--outfile", str(out)])
    if code:
        return code
    sheet = contact_sheet(skimage.data.astronaut()[:, :, ::-1], out, sentence)
    cv2.imwrite(str(out.with_suffix(".png")), sheet)
    sys.stdout.write(f"{out}\n{out.with_suffix('.png')}\n")
    return 0


def contact_sheet(source: np.ndarray, dubbed: Path, sound: Path) -> np.ndarray:
    """Source above dubbed frames, evenly spread, above the envelope of the sound; BGR uint8."""
    frames = [frame.image for frame in media.read_frames(dubbed)]
    chosen = [frames[round(at)] for at in np.linspace(0, len(frames) - 1, SHOWN)]
    rows = [
        np.hstack([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in row])
        for row in ([source] * SHOWN, chosen)
    ]
    return np.vstack([*rows, envelope(read_audio(sound), rows[0].shape[1], SIDE // 3)])


def envelope(wav: np.ndarray, width: int, height: int) -> np.ndarray:
    """Loudness over time as a picture, BGR uint8 [height, width, 3]."""
    peaks = [float(np.abs(part).max()) for part in np.array_split(wav, width)]
    picture = np.full((height, width, 3), 255, np.uint8)
    for column, peak in zip(itertools.count(), peaks, strict=False):
        half = int(peak * (height // 2 - 2))
        picture[height // 2 - half : height // 2 + half + 1, column] = (160, 90, 30)
    return picture


if __name__ == "__main__":
    sys.exit(main())
