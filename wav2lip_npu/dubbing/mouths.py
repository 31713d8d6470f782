"""Generate the mouths of a stream of tracked frames, for one or several outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wav2lip_npu import device
from wav2lip_npu.dubbing.temporal_smoothing import ReferenceSmoother
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.mel import Mel
from wav2lip_npu.parallel.threads import map_in_threads

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import GeneratorRunner

FACE_SIZE = 96
"""Same as in `models.networks`, whose import would load torch."""
MelWindows = Callable[[int], Mel | None]
"""Returns the mel window float32 [80, 16] of a frame index; None from the first frame that needs no mouth."""


@dataclass(frozen=True)
class DubbedFrame:
    """A frame and a mouth per output; None without a face, and for outputs that have ended."""

    tracked: TrackedFrame
    mouths: tuple[Image | None, ...]


def generate(
    tracked: Iterable[TrackedFrame],
    outputs: Sequence[MelWindows],
    runner: GeneratorRunner,
    smoother: ReferenceSmoother | None = None,
) -> Iterator[DubbedFrame]:
    """Yield each frame with its mouths, generated batch by batch.

    The reference of a face is the face itself, or the result of `smoother`.
    """

    def run(batch: _Batch) -> list[DubbedFrame]:
        indices = [item.frame.index for item in batch.frames if item.box is not None]
        mels = [[mel for index in indices if (mel := windows(index)) is not None] for windows in outputs]
        mouths = [iter(images) for images in runner.run_many(batch.faces, mels, batch.references or None)]
        return [
            DubbedFrame(item, tuple(None if item.box is None else next(images, None) for images in mouths))
            for item in batch.frames
        ]

    with device.shared_cores(runner.device) as prepare:
        for dubbed in map_in_threads(run, _batches(tracked, runner.batch, smoother), runner.lanes, prepare):
            dubbed.reverse()
            while dubbed:  # pop: the list would keep frames alive that the consumer has released
                yield dubbed.pop()


@dataclass(frozen=True)
class _Batch:
    """Consecutive frames, with the faces, and references if they differ, of the frames that have a face."""

    frames: list[TrackedFrame] = field(default_factory=list)
    faces: list[Image] = field(default_factory=list)
    references: list[Image] = field(default_factory=list)


def _batches(
    tracked: Iterable[TrackedFrame], size: int, smoother: ReferenceSmoother | None
) -> Iterator[_Batch]:
    batch = _Batch()
    last: YuvImage | None = None
    failure: Exception | None = None
    try:
        for item in tracked:
            batch.frames.append(item)
            if item.box is not None:
                if item.frame.yuv is not last:  # a still image is cropped once
                    last = item.frame.yuv
                    face = last.crop(item.box, FACE_SIZE)
                batch.faces.append(face)
                if smoother is not None:
                    batch.references.append(smoother(face, item.cut))
            if len(batch.faces) == size or len(batch.frames) == 2 * size:
                yield batch
                batch = _Batch()
    except Exception as error:  # raised later: a short output may need only the frames before it
        failure = error
    if batch.frames:
        yield batch
    if failure is not None:
        raise failure
