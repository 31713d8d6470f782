"""Generate the mouths of a stream of tracked frames, for one or several outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wav2lip_npu.devices import device as devices
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.dubbing.stopwatch import Stopwatch
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.mel import Mel
from wav2lip_npu.parallel.thread_counts import one_core_each
from wav2lip_npu.parallel.threads import map_in_threads

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import GeneratorRunner

MelWindows = Callable[[int], Mel | Wav2LipError | None]
"""Returns the mel window float32 [80, 16] of a frame index. It is called in one thread, with frames in order.
After the end of the output it returns None; if the audio cannot be read, it returns the error."""


@dataclass(frozen=True)
class DubbedFrame:
    """A frame and one mouth per output: None if the frame stays as filmed or the output has ended.

    If the audio of an output cannot be read, the error takes the place of its mouth.
    """

    selected: SelectedFrame
    mouths: tuple[Image | Wav2LipError | None, ...]


def generate(
    selected: Iterable[SelectedFrame],
    outputs: Sequence[MelWindows],
    runner: GeneratorRunner,
    stopwatch: Stopwatch,
) -> Iterator[DubbedFrame]:
    """Yield each frame with its mouths, generated batch by batch. Frames that stay as filmed get none."""

    def run(batch: _Batch) -> list[DubbedFrame]:
        images = runner.run_many(batch.faces, batch.mels)
        mouths = [
            itertools.chain(some, itertools.repeat(end)) for some, end in zip(images, batch.ends, strict=True)
        ]
        return [
            DubbedFrame(item, tuple(None if item.reason else next(some) for some in mouths))
            for item in batch.frames
        ]

    with one_core_each(runner.device) as prepare:
        batches = _batches(selected, outputs, runner.batch)
        run_measured = stopwatch.lane("generate", run, runner.lanes)
        # On a CPU, other stages use the time in which a lane waits, and each batch that waits takes memory.
        ahead = int(devices.is_accelerator(runner.device))
        for dubbed in map_in_threads(run_measured, batches, runner.lanes, prepare, ahead):
            dubbed.reverse()
            while dubbed:  # pop: the list would keep frames alive that the consumer has released
                yield dubbed.pop()


class _Batch:
    """Consecutive frames, with the faces and mel windows of those that get mouths."""

    def __init__(self, outputs: Sequence[MelWindows]) -> None:
        self.frames: list[SelectedFrame] = []
        self.faces: list[Image] = []
        self.mels: list[list[Mel]] = [[] for _ in outputs]
        """Mel windows of the faces for each output; fewer than faces if the output ends in the batch."""
        self.ends: list[Wav2LipError | None] = [None] * len(outputs)
        """Value that replaces the missing mouths of each output that ends."""
        self._outputs = outputs

    def add_face(self, face: Image, index: int) -> None:
        """Add the face of a frame, and its mel windows."""
        self.faces.append(face)
        for number, windows in enumerate(self._outputs):
            if self.ends[number] is not None:
                continue
            window = windows(index)
            if window is None or isinstance(window, Wav2LipError):
                self.ends[number] = window
            else:
                self.mels[number].append(window)


def _batches(selected: Iterable[SelectedFrame], outputs: Sequence[MelWindows], size: int) -> Iterator[_Batch]:
    batch = _Batch(outputs)
    failure: Exception | None = None
    try:
        for item in selected:
            batch.frames.append(item)
            if item.face is not None and not item.reason:
                batch.add_face(item.face, item.tracked.frame.index)
            if len(batch.faces) == size or len(batch.frames) == 2 * size:
                yield batch
                batch = _Batch(outputs)
    except Exception as error:  # raised later: a short output may need only the frames before it
        failure = error
    if batch.frames:
        yield batch
    if failure is not None:
        raise failure
