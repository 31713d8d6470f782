"""The stages of a pass that all its outputs share, each in its thread: decode, track, generate."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.extent import face_frames
from wav2lip_npu.dubbing.mouths import DubbedFrame, generate
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.output_frames import OutputFrames
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.dubbing.stopwatch import Stopwatch
from wav2lip_npu.faces.find_faces import SPEAKING
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.parallel.thread_counts import one_core_each, opencv_threads
from wav2lip_npu.parallel.threads import prefetch

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models
    from wav2lip_npu.dubbing.speakers_frames import SpeakersFrames

Item = TypeVar("Item")

_QUEUE_BYTES = 10 << 20
"""Bytes of frames that may wait between two stages."""
_MAX_QUEUE = 16
_LARGE_DETECTORS = ("s3fd",)
"""Networks that several cores make faster. The others are small, and give the same results on one core."""


@contextlib.contextmanager
def mouths_of(
    info: VideoInfo,
    outputs: Sequence[OutputFrames | SpeakersFrames],
    models: Models,
    options: DubOptions,
    stopwatch: Stopwatch,
    memory: FaceMemory | None = None,
) -> Iterator[tuple[Iterator[DubbedFrame], int]]:
    """Yield the frames with the mouths of all outputs, and how many frames may wait for each output.

    The first output selects the faces: one per frame, which all outputs share, or those of its speakers.

    The threads of the stages end with the block.
    """
    from wav2lip_npu.dubbing.inference import GeneratorRunner

    options.limits.warn_if_unused(models.detector.name, has_constant_box=options.faces.has_constant_box)
    depth = min(_MAX_QUEUE, max(2, _QUEUE_BYTES * 2 // (3 * info.width * info.height)))
    limits = [output.extent.limit for output in outputs]
    faces = outputs[0].faces
    longest = max(sys.maxsize if limit is None else limit for limit in limits)
    if options.section(info)[0] or options.faces.face_select == SPEAKING:
        memory = None  # its frames count from the beginning; who speaks depends on the part that is watched
    if memory is not None:
        memory.expect_frames(longest)
    runner = GeneratorRunner(models, options.wav2lip_batch_size, load_mask(options.blend, models.face_size))
    with contextlib.ExitStack() as stack:
        stack.enter_context(opencv_threads().borrowed(1))  # the stages already use all cores

        def stage(name: str, items: Iterator[Item]) -> Iterator[Item]:
            """Run a stage in its own thread, which ends with this function at the latest."""
            running = prefetch(stopwatch.work(name, items), depth)
            stack.callback(running.close)
            return running

        audio_frames = max(output.extent.audio_frames for output in outputs)
        frames = stopwatch.wait("faces", stage("decode", face_frames(info, options, audio_frames)))
        # Cut off after tracking, not before: the last boxes depend on later frames, and must not depend on
        # the length of the audio.
        selected: Iterator[SelectedFrame] = itertools.islice(
            outputs[0].selected(frames, models, memory), min(longest * faces, sys.maxsize)
        )
        if models.detector.name not in _LARGE_DETECTORS:
            prepare = stack.enter_context(one_core_each(models.device))
            selected = _prepared(prepare, selected)
        selected = stage("faces", selected)
        windows = [output.mel_window for output in outputs]
        dubbed = stage("generate", generate(selected, windows, runner, stopwatch))
        yield dubbed, max(2, depth // len(outputs))


def _prepared(prepare: Callable[[], None], items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items, after a call of `prepare` in the thread that asks for them."""
    prepare()
    yield from items
