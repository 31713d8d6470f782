"""Evidence by Light-ASD: the score of each frame of a face with the audio, above 0 if the face speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from wav2lip_npu.devices import device as devices
from wav2lip_npu.evaluation.mfcc import SAMPLE_RATE, mfcc_windows
from wav2lip_npu.faces.shot_faces import ShotFrame
from wav2lip_npu.media.audio_reader import AudioInfo, read_mono
from wav2lip_npu.media.yuv_image import Box, Image, YuvImage
from wav2lip_npu.models.light_asd import COLUMNS_PER_FRAME, SIZE, LightAsd
from wav2lip_npu.speaking.evidence import Evidence, Threshold

_CHUNK = 100
"""Frames of a track that are judged together; 4 s of its demo's 1 to 6."""


@dataclass
class _Track:
    first: int
    faces: list[Image] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)


class AsdJudge:
    """Judges the faces of a film with its audio, in parts of up to four seconds."""

    threshold = Threshold(0.0, 0.5)

    def __init__(self, network: LightAsd, name: str, audio: AudioInfo, first: int = 0) -> None:
        self.name = f"Light-ASD {name}"
        self._network, self._device = network, next(network.parameters()).device
        self._audio = _Columns(mfcc_windows(read_mono(audio, SAMPLE_RATE)), first)
        self._open: dict[int, _Track] = {}
        self._ended: dict[int, _Track] = {}

    def add(self, shown: ShotFrame) -> None:
        """Add the next frame at 25 per second."""
        number = shown.frame.index
        for track in [track for track in self._open if track not in shown.boxes]:
            self._end(track)
        for track, box in shown.boxes.items():
            state = self._open.setdefault(track, _Track(number))
            state.faces.append(grey_crop(shown.frame.yuv, box))
            if len(state.faces) == _CHUNK:
                self._run(state)

    def finish(self) -> dict[int, Evidence]:
        """Return the evidence by the numbers of the tracks."""
        for track in list(self._open):
            self._end(track)
        return {
            track: Evidence(state.first, torch.cat(state.scores).numpy())
            for track, state in self._ended.items()
            if state.scores
        }

    def close(self) -> None:
        """Close the audio."""
        self._audio.close()

    def _end(self, track: int) -> None:
        state = self._open.pop(track)
        self._run(state)
        self._ended[track] = state

    @torch.inference_mode()
    def _run(self, state: _Track) -> None:
        """Judge the faces that wait."""
        begin = state.first + sum(len(scores) for scores in state.scores)
        faces, state.faces = state.faces, []
        columns = self._audio.between(begin, begin + len(faces))
        if not len(columns):
            return
        devices.activate(self._device)
        audio = self._network.encode_audio(columns.flatten(0, 1)[None].to(self._device))
        seen = torch.from_numpy(np.stack(faces[: len(columns)])[None]).to(self._device)
        state.scores.append(self._network.scores(self._network.encode_faces(seen), audio)[0].float().cpu())


class _Columns:
    """MFCC columns of consecutive frames, float32 [N, 4, 13], from a stream of windows [m, 13, 20].

    Those of the last 200 ms are missing, as their windows reach beyond the end. The last 16 s are held.
    """

    _HELD = 4 * _CHUNK

    def __init__(
        self, windows: Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], first: int
    ) -> None:
        self._windows, self._begin = windows, -first
        self._held = torch.empty(0, COLUMNS_PER_FRAME, 13)

    def between(self, first: int, end: int) -> Tensor:
        """Return the columns of frames; fewer at the end of the audio."""
        while self._begin + len(self._held) < end and (windows := next(self._windows, None)) is not None:
            added = torch.from_numpy(windows[:, :, :COLUMNS_PER_FRAME]).transpose(1, 2)
            self._held = torch.cat([self._held, added])
            dropped = max(0, min(len(self._held), end - self._begin - self._HELD))
            self._held, self._begin = self._held[dropped:], self._begin + dropped
        return self._held[max(0, first - self._begin) : max(0, end - self._begin)]

    def close(self) -> None:
        """Close the stream and the file that it reads."""
        self._windows.close()  # type: ignore[attr-defined]


def grey_crop(yuv: YuvImage, box: Box) -> Image:
    """Return the middle of the crop of the published evaluation, uint8 [112, 112], from nose to chin."""
    half, (x, y) = float(np.max(box[2:] - box[:2])) / 2, (box[:2] + box[2:]) / 2
    corners = np.array([x - 0.7 * half, y - 0.3 * half, x + 0.7 * half, y + 1.1 * half], np.float32)
    return np.asarray(cv2.cvtColor(yuv.crop(corners, SIZE), cv2.COLOR_BGR2GRAY), np.uint8)
