"""Inputs of a generator from a clip: they set the ranges of a quantised network, and compare it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wav2lip_npu import signals
from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.media import container, video_reader
from wav2lip_npu.media.audio_reader import measure_audio, read_mono
from wav2lip_npu.mel import TRAINING_FPS, Mel, MelReader, mel_blocks
from wav2lip_npu.models.inputs import face_batch, generator_input
from wav2lip_npu.models.networks import FACE_SIZE
from wav2lip_npu.training.sync_offset import MAX_OFFSET, MIN_WINDOWS

BUNDLED_CLIP = Path(__file__).resolve().parents[1] / "weights" / "calibration.mp4"
"""Clip for users without one of their own, see recipes/calibration_clip.py."""
_MAX_FRAMES = 200
"""8 s."""
_MIN_FRAMES = MIN_WINDOWS + 2 * MAX_OFFSET + 4
"""Frames for which SyncNet can judge an offset."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The frames of a clip that have a face, at 25 per second."""

    frames: NDArray[np.int64]
    """Frame numbers [N], ascending."""
    faces: NDArray[np.uint8]
    """BGR [N, S, S, 3]."""
    mels: Mel
    """Mel windows [N, 80, 16]."""

    def batches(self, size: int, step: int = 1) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield the inputs `mel` and `face` of a generator for each `step`th frame.

        The last frame is repeated to fill the last batch.
        """
        chosen = np.arange(0, len(self.frames), step)
        for first in range(0, len(chosen), size):
            signals.check()
            rows = chosen[np.arange(first, first + size).clip(max=len(chosen) - 1)]
            faces = face_batch(torch.from_numpy(self.faces[rows]))
            stacked = generator_input(faces, faces).contiguous().numpy()
            yield {"mel": self.mels[rows][:, None], "face": stacked}


def read_samples(
    face: str | os.PathLike[str],
    audio: str | os.PathLike[str],
    mel_shift: float,
    face_size: int = FACE_SIZE,
) -> Samples:
    """Read up to 8 s of a face video or image with an audio file.

    Raises `MediaError`, or `UsageError` if fewer than 49 frames (2 s) have a face.
    """
    fps = Fraction(TRAINING_FPS)
    sound = measure_audio(audio)
    video = video_reader.read_frames(container.probe(face), fps=fps, loop="loop")
    wanted = itertools.islice(video, min(_MAX_FRAMES, int(sound.duration * fps)))
    frames, faces, mels = [], [], []
    with closing(read_mono(sound)) as chunks:
        reader = MelReader(mel_blocks(chunks))
        for tracked in find_faces(wanted, load_detector("auto", devices.HOST), FaceOptions()):
            signals.check()
            if tracked.box is not None:
                frames.append(tracked.frame.index)
                faces.append(tracked.frame.yuv.crop(tracked.box, face_size))
                mels.append(reader.window(tracked.frame.index, fps, mel_shift))
    if len(frames) < _MIN_FRAMES:
        raise UsageError(
            f"{os.fspath(face)} with {os.fspath(audio)} has {len(frames)} frames with a face, at {fps} per "
            f"second, and at least {_MIN_FRAMES} are needed. Pass longer files as --calibration_face and "
            "--calibration_audio."
        )
    return Samples(np.array(frames), np.stack(faces), np.stack(mels))
