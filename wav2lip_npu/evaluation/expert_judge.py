"""Offset and confidence by a SyncNet of this package: the judge where the published weights are absent.

The bundled one was trained on about 160 people. Its cosines depend on the speaker, so a score means something
only beside that of the original recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.devices import device as devices
from wav2lip_npu.evaluation.offset_scores import OffsetScores, dot_products
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.audio_reader import AudioInfo, read_mono
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS, Mel, MelReader, columns_of, mel_blocks, window_start
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training.sync_offset import MAX_OFFSET, MIN_WINDOWS, best_offset

_BATCH = 64
_FPS = Fraction(TRAINING_FPS)


@dataclass(frozen=True)
class ExpertScore:
    """The score of the faces of a video with its audio."""

    offset: int
    """Frames of 1/25 s by which the audio is early: the sign of the published evaluation."""
    confidence: float
    """Mean cosine at that offset minus the median over all offsets, 0 to 1: higher is better."""
    cosine: float
    """Mean cosine at offset 0."""
    windows: int
    frames: list[int] = field(repr=False)
    """First frame of each window, at 25 per second."""
    cosines: list[float] = field(repr=False)
    """Cosine of each window at offset 0."""


@dataclass(frozen=True)
class Expert:
    """A SyncNet on a device."""

    network: SyncNet
    device: torch.device
    name: str
    """`starter` or a path, and the first digits of its SHA-256."""

    @torch.inference_mode()
    def faces(self, mouths: list[Image]) -> Tensor:
        """Return unit embeddings [B, D] of windows of lower faces uint8 [5, S/2, S, 3]."""
        devices.activate(self.device)
        images = torch.from_numpy(np.stack(mouths)).to(self.device)
        return self.network.encode_faces(syncnet_input_of_images(images)).float()

    def audio(self, info: AudioInfo) -> Iterator[Tensor]:
        """Yield unit embeddings [up to 64, D] of the mel windows of consecutive frames at 25 per second."""
        last = columns_of(int(info.duration * DEFAULT_MEL.sample_rate)) - DEFAULT_MEL.columns_per_window
        reader = MelReader(mel_blocks(read_mono(info)))
        first = 0
        while True:
            numbers: list[int] = []
            while len(numbers) < _BATCH and window_start(first, _FPS) <= last:
                numbers.append(first)
                first += 1
            if not numbers:
                return
            yield self._embed(np.stack([reader.window(number, _FPS) for number in numbers]))

    @torch.inference_mode()
    def _embed(self, mels: Mel) -> Tensor:
        devices.activate(self.device)
        return self.network.encode_audio(torch.from_numpy(mels).to(self.device)[:, None]).float()


def load_expert(path: str = STARTER, device: str = devices.HOST) -> Expert:
    """Load a SyncNet, the bundled one by default. Raises `CheckpointError` and `DeviceError`."""
    return _load_expert(path, str(devices.resolve(device)))


@lru_cache(maxsize=4)
def _load_expert(path: str, name: str) -> Expert:
    device = devices.resolve(name)
    devices.activate(device)
    loaded = checkpoint.load(path, "syncnet")
    network = loaded.network()
    assert isinstance(network, SyncNet)
    network.requires_grad_(False).to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    return Expert(network, device, f"{path} (sha256 {loaded.digest()})")


class ExpertJudge:
    """Scores the faces of one video with its audio. Add all frames at 25 per second, then `finish`."""

    def __init__(self, expert: Expert, audio: AudioInfo) -> None:
        self._expert = expert
        self._scores = OffsetScores(expert.audio(audio), dot_products)
        self._recent: list[Image] = []
        self._last = -2
        self._starts: list[int] = []
        self._windows: list[Image] = []

    def add(self, tracked: TrackedFrame) -> None:
        """Add the next frame."""
        self.add_face(tracked.frame.index, tracked.frame.yuv, tracked.box, tracked.cut)

    def add_face(self, number: int, yuv: YuvImage, box: Box | None, cut: bool) -> None:
        """Add frame `number` at 25 per second, with the unpadded box of its face."""
        if box is None or cut or number != self._last + 1:
            self._recent = []
        self._last = number
        if box is None:
            return
        self._recent.append(yuv.crop(box, FACE_SIZE)[FACE_SIZE // 2 :])
        if len(self._recent) == WINDOW:
            self._starts.append(number - WINDOW + 1)
            self._windows.append(np.stack(self._recent))
            del self._recent[0]
        if len(self._windows) == _BATCH:
            self._run()

    def finish(self) -> ExpertScore | None:
        """Return the score; None if fewer than 15 windows have audio at all offsets."""
        self._run()
        numbers, table, complete = self._scores.finish()
        self._scores.close()
        if complete.sum() < MIN_WINDOWS:
            return None
        late, confidence = best_offset(torch.from_numpy(table[complete]))
        in_sync = table[:, MAX_OFFSET]
        return ExpertScore(
            offset=-late,
            confidence=confidence,
            cosine=float(in_sync[complete].mean()),
            windows=int(complete.sum()),
            frames=numbers.tolist(),
            cosines=[round(float(value), 3) for value in in_sync],
        )

    def _run(self) -> None:
        if self._windows:
            self._scores.add(self._starts, self._expert.faces(self._windows))
            self._starts, self._windows = [], []
