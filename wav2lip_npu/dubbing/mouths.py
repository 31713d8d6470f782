"""Give the faces of a video mouths that speak: one sound, or several at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from wav2lip_npu import device
from wav2lip_npu.dubbing.temporal_smoothing import ReferenceSmoother
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.mel import Mel, mel_window
from wav2lip_npu.parallel.threads import map_in_threads

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import GeneratorRunner

FACE_SIZE = 96  # that of models.py, which would cost a second to import here


@dataclass
class Voice:
    """A sound that the faces are to speak."""

    mel: Mel
    frames: int
    """Frames of the video for which it lasts."""
    has_left: bool = False
    """Whether nobody waits for its mouths any more."""

    def speaks(self, frame: int) -> bool:
        """Whether its mouth is wanted in the frame of this number."""
        return frame < self.frames and not self.has_left


@dataclass(frozen=True)
class DubbedFrame:
    """A frame with a new mouth for each voice, if it has a face and the voice speaks."""

    faced: TrackedFrame
    mouths: tuple[Image | None, ...]


def generate(
    faced: Iterable[TrackedFrame],
    voices: Sequence[Voice],
    fps: Fraction,
    speaker: GeneratorRunner,
    mel_shift: float = 0,
    steady: ReferenceSmoother | None = None,
) -> Iterator[DubbedFrame]:
    """Give each frame that has a face the mouths that say its part of each mel, batch by batch."""

    def work(batch: _Batch) -> list[DubbedFrame]:
        places = [item.frame.index for item in batch.items if item.box is not None]
        mels = [
            [mel_window(voice.mel, place, fps, mel_shift) for place in places if voice.speaks(place)]
            for voice in voices
        ]
        made = [iter(mouths) for mouths in speaker.run_many(batch.faces, mels, batch.references or None)]
        return [
            DubbedFrame(item, tuple(None if item.box is None else next(mouths, None) for mouths in made))
            for item in batch.items
        ]

    with device.shared_cores(speaker.device) as prepare:
        for spoken in map_in_threads(work, _batches(faced, speaker.batch, steady), speaker.lanes, prepare):
            spoken.reverse()
            while spoken:  # a picture that was handed on must not be held here
                yield spoken.pop()


@dataclass(frozen=True)
class _Batch:
    """Consecutive frames, and the face and the reference, if it is another, of those that have a face."""

    items: list[TrackedFrame] = field(default_factory=list)
    faces: list[Image] = field(default_factory=list)
    references: list[Image] = field(default_factory=list)


def _batches(faced: Iterable[TrackedFrame], size: int, steady: ReferenceSmoother | None) -> Iterator[_Batch]:
    batch = _Batch()
    shown: YuvImage | None = None
    failure: Exception | None = None
    try:
        for item in faced:
            batch.items.append(item)
            if item.box is not None:
                if item.frame.yuv is not shown:  # a still picture is cut once
                    shown = item.frame.yuv
                    face = shown.crop(item.box, FACE_SIZE)
                batch.faces.append(face)
                if steady is not None:
                    batch.references.append(steady(face, item.cut))
            if len(batch.faces) == size or len(batch.items) == 2 * size:
                yield batch
                batch = _Batch()
    except Exception as error:  # a sound that ends before has no need to know
        failure = error
    if batch.items:
        yield batch
    if failure is not None:
        raise failure
