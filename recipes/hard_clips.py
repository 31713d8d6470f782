"""Create a hard set of clips from a clean one, with the defects of training data from the internet.

    python recipes/hard_clips.py --data_root clean --names filelists/train.txt --out hard

Crops jitter, light and contrast vary, the audio gets noise 5 to 15 dB below its level, and in 30 % of clips
it is shifted by 2 to 8 frames. The changes depend only on the seed and the clip's name.
"""

from __future__ import annotations

import argparse
import wave
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip import Clip, read_clip
from wav2lip_npu.data.clip_layout import AUDIO_FILE
from wav2lip_npu.data.file_lists import read_names

SHIFTED = 0.3
SHIFT_FRAMES = (2, 8)
NOISE_DB = (5.0, 15.0)
JITTER = 0.02
"""Standard deviation of position and size of a crop per frame, relative to the face."""
SAMPLES_PER_FRAME = 640


def harden(clip: Clip, folder: Path, seed: int) -> int:
    """Write the changed clip in the original's format, and return its shift in frames."""
    random = np.random.default_rng((seed, zlib.crc32(clip.name.encode())))
    size = int(random.integers(SHIFT_FRAMES[0], SHIFT_FRAMES[1] + 1))
    shift = int(random.choice([-size, size])) if random.random() < SHIFTED else 0
    folder.mkdir(parents=True, exist_ok=True)
    wav = noisy(clip.audio(), random)
    if shift > 0:  # late audio: drop the first frames
        wav = wav[: max(0, len(wav) - shift * SAMPLES_PER_FRAME)]
    else:
        wav = wav[-shift * SAMPLES_PER_FRAME :]
    contrast, brightness = random.uniform(0.6, 1.4), random.uniform(-40, 40)
    for number in clip.frames:
        if number - shift < 0 and shift > 0:
            continue
        path = folder / f"{number - max(shift, 0)}.jpg"
        cv2.imwrite(str(path), changed(clip.face(int(number)), contrast, brightness, random))
    write_wav(folder / AUDIO_FILE, wav)
    return shift


def noisy(wav: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the audio with pink noise 5 to 15 dB below its level."""
    spectrum = np.fft.rfft(random.standard_normal(len(wav)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), len(wav))
    level = np.sqrt(np.mean(np.square(wav))) * 10 ** (-random.uniform(*NOISE_DB) / 20)
    mixed: NDArray[np.float32] = (wav + noise * level / noise.std()).astype(np.float32)
    return mixed


def changed(
    face: NDArray[np.uint8], contrast: float, brightness: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the face with changed contrast and brightness, and a jittered crop."""
    side = face.shape[0]
    scale = 1 + random.normal(0, JITTER)
    across, down = random.normal(0, JITTER * side, 2)
    transform = np.array([[scale, 0, across], [0, scale, down]]) + np.array([[0, 0, 1], [0, 0, 1]]) * (
        (1 - scale) * side / 2
    )
    moved = cv2.warpAffine(face, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
    lit: NDArray[np.uint8] = np.clip((moved - 128.0) * contrast + 128 + brightness, 0, 255).astype(np.uint8)
    return lit


def write_wav(path: Path, wav: NDArray[np.float32]) -> None:
    """Write a WAV file: mono, 16 kHz, 16 bit."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(wav, -1, 1) * 32767).round().astype("<i2").tobytes())


def main() -> None:
    """Change each clip of a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="folder of clean clips")
    parser.add_argument("--names", required=True, type=Path, help="file list of the clips to change")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shifts = []
    for name in read_names(arguments.names):
        clip = read_clip(name, arguments.data_root / name)
        shifts.append(harden(clip, arguments.out / name, arguments.seed))
    print(f"{len(shifts)} clips in {arguments.out}, {sum(map(bool, shifts))} of them out of sync")


if __name__ == "__main__":
    main()
