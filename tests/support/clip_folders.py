"""Small preprocessed clips whose faces and audio carry a code that shows which belong together."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import soundfile
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.mel import DEFAULT_MEL

CODES = 8
LOUD = "loud"


def write_clip(
    folder: Path,
    count: int = 75,
    *,
    late: int = 0,
    seed: int | None = None,
    fps: str = "25",
    face_px: int = 120,
    gaps: tuple[int, ...] = (),
    wav: np.ndarray | None = None,
) -> Path:
    """Write a folder like preprocess: face n shows the code in the audio of frame n + late."""
    random = np.random.default_rng(_seed(folder) if seed is None else seed)
    folder.mkdir(parents=True)
    brow = random.integers(255, size=(16, 96, 3), dtype=np.uint8)
    codes = random.integers(CODES, size=count + 2 * 40)
    frames = [n for n in range(count) if n not in gaps]
    for number in frames:
        face = np.full((96, 96, 3), 15 + 30 * codes[40 + number], np.uint8)
        face[:16] = brow  # not in SyncNet's input
        cv2.imwrite(str(folder / f"{number}.jpg"), face)
    columns = 1 + count * 640 // DEFAULT_MEL.hop
    audio_codes = codes[40 + np.arange(columns) * 25 // 80 - late]
    mel = np.tile((audio_codes - CODES / 2).astype(np.float32), (80, 1))
    np.save(folder / "mel.npy", mel)
    write_wav(folder, random.uniform(-0.3, 0.3, count * 640) if wav is None else wav)
    source = {
        "name": f"{folder.name}.mp4",
        "bytes": 1,
        "mtime_ns": 1,
        "width": 640,
        "height": 480,
        "fps": fps,
    }
    content = {
        "format": 1, "fps": 25, "frames": frames, "boxes": [[10, 10, 10 + face_px, 10 + face_px]] * len(frames),
        "cuts": [], "face_px": max(96, face_px), "samples": count * 640, "source": source,
        "mel": asdict(DEFAULT_MEL), "options": {}, "detector": "hog", "versions": {},
    }  # fmt: skip
    (folder / "clip.json").write_text(json.dumps(content))
    return folder


def write_original(folder: Path, count: int = 75, side: int = 120, wav: np.ndarray | None = None) -> Path:
    """Write a folder like the original's preprocess: JPEGs and audio only."""
    random = np.random.default_rng(_seed(folder))
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.jpg"), random.integers(255, size=(side, side, 3), dtype=np.uint8))
    write_wav(folder, random.uniform(-0.3, 0.3, count * 640) if wav is None else wav)
    return folder


def _seed(folder: Path) -> int:
    return zlib.crc32(f"{folder.parent.name}/{folder.name}".encode())


def write_wav(folder: Path, wav: np.ndarray) -> None:
    soundfile.write(folder / "audio.wav", wav, 16_000, subtype="PCM_16")


def speech(seconds: float, level: float = 0.3, seed: int = 0) -> np.ndarray:
    """Return noise in syllables of 125 ms."""
    samples = np.arange(round(seconds * 16_000))
    syllables = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 4 * samples / 16_000))
    return level * syllables * np.random.default_rng(seed).uniform(-1, 1, len(samples))


class CodeReader(nn.Module):
    """Replacement for SyncNet that reads the codes of five faces and of their audio."""

    def forward(self, mels: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit embeddings, like SyncNet."""
        middles = [round(3.2 * k + 1.6) for k in range(5)]
        audio_codes = (mels[:, 0].mean(dim=1)[:, middles] + CODES / 2).round().long()
        face_codes = ((mouths.unflatten(1, (5, 3)).mean(dim=(2, 3, 4)) * 255 - 15) / 30).round().long()
        return tuple(
            functional.normalize(functional.one_hot(code.clamp(0, CODES - 1), CODES).flatten(1).float())
            for code in (audio_codes, face_codes)
        )
