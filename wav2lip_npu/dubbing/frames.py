"""Dub frames in memory: arrays in, arrays out, with the mask of the mouth."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu import signals
from wav2lip_npu.dubbing.blend import coverage
from wav2lip_npu.dubbing.mouths import DubbedFrame
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.output_frames import Mouth, OutputFrames, blend_lanes
from wav2lip_npu.dubbing.outputs import Progress
from wav2lip_npu.dubbing.pipeline import loaded_models, with_dub_options
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.dubbing.stages import mouths_of
from wav2lip_npu.dubbing.stopwatch import Stopwatch
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.frame_rate import exact_fps
from wav2lip_npu.media.frame_sequence import FrameSequence
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.options import path_text
from wav2lip_npu.parallel.threads import map_in_threads, prefetch

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

_OF_FILES = ("fps", "geometry", "encode", "enhancement", "check", "min_confidence", "hwaccel")
"""Options that need a video file."""


@dataclass(frozen=True)
class DubbedImage:
    """A frame of `dub_frames`."""

    index: int
    """Number of the frame in the output, from 0."""
    source: int
    """Number of the frame that it shows in `frames`; it repeats when they are looped or held."""
    image: Image
    """uint8 [H, W, 3] in RGB order. Where `mask` is 0, the pixels are those of the source."""
    mask: NDArray[np.float32]
    """Opacity of the generated mouth, float32 [H, W], 0 to 1. All 0 in a frame that stays as filmed."""


def dub_frames(
    frames: Sequence[Image],
    audio: str | os.PathLike[str],
    *,
    fps: float = 25,
    voice: str | os.PathLike[str] | None = None,
    models: Models | Callable[[], Models] | None = None,
    options: DubOptions | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> Iterator[DubbedImage]:
    """Lip-sync frames in memory to an audio file. No video file is read or written.

    The output lasts as long as the audio, as with `dub`; a single frame is a photo.

    Args:
        frames: Frames uint8 [H, W, 3] in RGB order, of one size: an array, or any sequence that returns them.
        audio: Audio file, or a video with audio, in any format.
        fps: Frames per second of `frames` and of the output.
        voice: See `dub`.
        models: See `dub`.
        options: Options of the dub, without those of video files: geometry, encoder, enhancement, check.
        progress: Called with the number of frames yielded so far and the total.
        **values: See `dub`.

    Returns:
        An iterator over the frames of the output, which are computed as it is consumed.

    Raises:
        MediaError: The audio cannot be read.
        FaceError: No frame has a face, or one has none with `no_face="error"`.
        UsageError: An option is unknown or out of range, or a frame is not an image of the size of the first.
        CheckpointError, DeviceError: The models cannot be loaded.

    Example:
        >>> import cv2
        >>> import wav2lip_npu
        >>> photo = cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB)
        >>> for frame in wav2lip_npu.dub_frames([photo], "speech.wav", fps=25):
        ...     print(frame.index, frame.image.shape, frame.mask.max())

    """
    if voice is not None:
        path_text(voice, "the voice")
    options = with_dub_options(options, values)
    default = DubOptions()
    for name in _OF_FILES:
        if getattr(options, name) != getattr(default, name):
            raise UsageError(f"the options of {name} are for video files. Remove them, or use dub.")
    DubOptions(fps=fps)  # checks the value
    info = FrameSequence.of(frames, exact_fps(fps))
    return _dubbed(info, path_text(audio, "the audio"), voice, models, options, progress)


def _dubbed(
    info: FrameSequence,
    audio: str | os.PathLike[str],
    voice: str | os.PathLike[str] | None,
    models: Models | Callable[[], Models] | None,
    options: DubOptions,
    progress: Progress | None,
) -> Iterator[DubbedImage]:
    with signals.deferred() as pause, contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(1, thread_name_prefix="mel")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        loaded = loaded_models(models, options)
        output = _ImageOutput(audio, voice, info, loaded, options, pool)
        stack.callback(output.close)
        dubbed, depth = stack.enter_context(mouths_of(info, [output], loaded, options, Stopwatch()))
        images = prefetch(output.images(dubbed), depth)
        stack.enter_context(contextlib.closing(images))
        stack.enter_context(output.cancelling())
        for count, image in enumerate(images, start=1):
            with pause():
                yield image
            del image
            if progress is not None:
                progress(count, max(count, output.extent.expected))


class _ImageOutput(OutputFrames):
    """Frames with their mouths as RGB images."""

    def images(self, dubbed: Iterator[DubbedFrame]) -> Iterator[DubbedImage]:
        """Yield the frames of the output."""
        return map_in_threads(self._image, self.damped(dubbed, 0, self.recorder()), blend_lanes())

    def _image(self, frame: tuple[SelectedFrame, Mouth]) -> DubbedImage:
        """Return a frame of the sequence, changed by as much as its YUV image.

        The conversion to YUV and back so changes no pixel outside the mouth, and keeps the detail of colour.
        """
        info = self._info
        assert isinstance(info, FrameSequence)
        selected, mouth = frame
        tracked = selected.tracked
        image = info.image(tracked.frame.source)
        if tracked.box is None or mouth is None or not selected.opacity:
            mask = np.zeros(image.shape[:2], np.float32)
            return DubbedImage(tracked.frame.index, tracked.frame.source, image.copy(), mask)
        _, shown = self.show(frame)
        height, width = image.shape[:2]
        mask = coverage(height, width, mouth, tracked.box, self._mask, selected.front)
        changed = image.copy()
        part = _part_of(mask)
        inside = mask[part] > 0
        difference = _rgb(shown, part)[: len(inside), : inside.shape[1]]
        difference -= _rgb(tracked.frame.yuv, part)[: len(inside), : inside.shape[1]]
        changed[part][inside] = np.clip(image[part] + difference, 0, 255).astype(np.uint8)[inside]
        return DubbedImage(tracked.frame.index, tracked.frame.source, changed, mask * selected.opacity)


def _part_of(mask: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return rows and columns around the mouth, with even beginnings and ends, as YUV images need."""
    ends = []
    for axis in (1, 0):
        used = np.flatnonzero(mask.any(axis=axis))
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        ends.append(slice(max(0, first - 4) & ~1, last + 6 & ~1))
    return ends[0], ends[1]


def _rgb(yuv: YuvImage, part: tuple[slice, slice]) -> NDArray[np.int16]:
    """Return a part of an image as RGB int16 [H, W, 3]."""
    half = tuple(slice(side.start // 2, side.stop // 2) for side in part)
    bgr = replace(yuv, y=yuv.y[part], u=yuv.u[half], v=yuv.v[half]).to_image()
    return bgr[:, :, ::-1].astype(np.int16)
