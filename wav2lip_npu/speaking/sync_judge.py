"""Evidence by a SyncNet: the cosine of mouth and audio at the best offset, minus the mean of all offsets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.evaluation.expert_judge import Expert
from wav2lip_npu.evaluation.offset_scores import AudioStrip, Table, dot_products
from wav2lip_npu.faces.shot_faces import ShotFrame
from wav2lip_npu.media.audio_reader import AudioInfo
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.speaking.evidence import Evidence, Threshold
from wav2lip_npu.training.sync_offset import MAX_OFFSET

Numbers = NDArray[np.int64]
_BATCH = 64
_MAX_OFFSET = 3
"""Frames of 1/25 s by which audio and video of a film may differ: people differ by that much, too."""


class SyncJudge:
    """Compares the mouths of a film with its audio.

    Each track has its own offset, at which its whole time fits best.
    """

    threshold = Threshold(0.08, 0.1)
    """Measured on films of two people, see docs/speakers.md."""

    def __init__(self, expert: Expert, audio: AudioInfo, first: int = 0) -> None:
        self.name = f"SyncNet {expert.name}"
        self._expert, self._first = expert, first
        self._audio = AudioStrip(expert.audio(audio))
        self._recent: dict[int, list[Image]] = {}
        self._pending: list[tuple[int, int, Image]] = []
        """Track, first frame and mouths of windows that wait for the network."""
        self._rows: dict[int, list[tuple[Numbers, Table]]] = {}
        """By track: numbers of windows [n], and their cosines [n, 31]."""
        self._evidence: dict[int, Evidence] = {}

    def add(self, shown: ShotFrame) -> None:
        """Add the next frame at 25 per second."""
        number, yuv = shown.frame.index, shown.frame.yuv
        recent = {}
        for track, box in shown.boxes.items():
            mouths = self._recent.get(track, [])[1 - WINDOW :]
            mouths.append(yuv.crop(box, FACE_SIZE)[FACE_SIZE // 2 :])
            if len(mouths) == WINDOW:
                self._pending.append((track, number - WINDOW + 1, np.stack(mouths)))
            recent[track] = mouths
        self._recent = recent
        if len(self._pending) >= _BATCH:
            self._run()

    def finish(self) -> dict[int, Evidence]:
        """Return the evidence by the numbers of the tracks."""
        self._run()
        return {track: _evidence(rows) for track, rows in self._rows.items()}

    def close(self) -> None:
        """Close the audio."""
        self._audio.close()

    def _run(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        numbers = [self._first + number for _, number, _ in pending]
        around = self._audio.around(numbers)
        if around is None:
            return
        audio, exists = around
        faces = self._expert.faces([mouths for _, _, mouths in pending])
        table = dot_products(faces[:, None], audio).float().cpu().numpy()
        table[~exists] = np.nan
        tracks, windows = np.array([(track, number) for track, number, _ in pending]).T
        for track in np.unique(tracks):
            own = tracks == track
            self._rows.setdefault(int(track), []).append((windows[own], table[own]))


def _evidence(rows: list[tuple[Numbers, Table]]) -> Evidence:
    numbers = np.concatenate([windows for windows, _ in rows])
    first, last = int(numbers[0]), int(numbers[-1])
    table = np.full((last - first + 1, 2 * MAX_OFFSET + 1), np.nan, np.float32)
    table[numbers - first] = np.concatenate([cosines for _, cosines in rows])
    known = ~np.isnan(table)
    counts, sums = known.sum(axis=1), np.where(known, table, 0).sum(axis=1)
    above = table - (sums / np.maximum(counts, 1))[:, None]
    near = above[:, MAX_OFFSET - _MAX_OFFSET : MAX_OFFSET + _MAX_OFFSET + 1]
    best = int(np.where(np.isnan(near), 0, near).sum(axis=0).argmax())
    half = WINDOW // 2  # the first and last frames are the middle of no window
    return Evidence(first, np.pad(near[:, best], half, mode="edge"))
