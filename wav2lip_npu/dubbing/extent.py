"""The extent of an output: its first frame, its length, and how the face video is extended."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.selection import num_fade_frames
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.hardware_decoding import on_hardware
from wav2lip_npu.media.video_reader import Frame, Loop, read_frames

_LOOPS: Mapping[str, Loop] = {
    "loop": "loop",
    "pingpong": "pingpong",
    "hold": "hold",
    "cut_off": "none",
    "silence": "loop",
}
"""`loop` of `read_frames` for each `DubOptions.extend`."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """First frame and length of an output. The length may depend on the end of the face video."""

    first: int
    """Index of the first frame in the dub without `start`."""
    audio_frames: int
    """Frames from the first one to the end of the audio."""
    follows_video: bool
    """Whether a face video that is longer than the audio is shown to its end."""
    limit: int | None
    """Maximum number of frames; None if the output ends with the longer of audio and video."""
    expected: int
    """Expected number of frames, for progress. It may be wrong, like the stated length of the face video."""

    @classmethod
    def of(cls, options: DubOptions, info: VideoInfo, seconds: Fraction, audio: str) -> Extent:
        """Return the extent of an output with `seconds` of audio from the file `audio`.

        Raises:
            UsageError: The audio ends before the first frame.

        """
        fps = options.output_fps(info)
        first, stop = options.section(info)
        audio_frames = max(1, round(seconds * fps)) - first
        is_still = info.is_image or options.static
        follows_video = options.extend == "silence" and not is_still
        if audio_frames < 1 and not follows_video:
            raise UsageError(
                f"--start {options.start:g} is after the end of {audio}, which lasts {float(seconds):.2f} s. "
                "Pass fewer seconds."
            )
        ends = [] if stop is None else [stop - first]
        ends += [] if follows_video else [audio_frames]
        video = round((info.duration or (info.frames or 0) / info.fps) * fps) - first
        expected = [*ends, max(audio_frames, video)]
        if options.extend == "cut_off" and video > 0 and not is_still:
            expected.append(video)
        return cls(
            first=first,
            audio_frames=audio_frames,
            follows_video=follows_video,
            limit=min(ends, default=None),
            expected=min(expected),
        )

    def has_ended(self, index: int) -> bool:
        """Return whether a frame is beyond `limit`."""
        return self.limit is not None and index >= self.limit

    def is_after_both(self, frame: Frame) -> bool:
        """Return whether a frame comes after the end of both audio and video, if `follows_video`."""
        return self.follows_video and frame.is_repeated and frame.index >= self.audio_frames


def face_frames(info: VideoInfo, options: DubOptions, audio_frames: int) -> Iterator[Frame]:
    """Yield the frames of a video as `extend` requires; for `static` and images, one frame endlessly.

    `audio_frames` is the length of the longest audio. The frames of one cross-fade follow, so that the
    opacity of the last mouths does not depend on that length.
    """
    info = on_hardware(info, options.hwaccel)
    if options.static:
        first = next(read_frames(info, geometry=options.geometry))
        yield from (Frame(index, first.yuv, first.source) for index in itertools.count())
    fps = options.output_fps(info)
    end = audio_frames + num_fade_frames(fps)
    for frame in read_frames(
        info,
        fps=fps,
        loop=_LOOPS[options.extend],
        geometry=options.geometry,
        start=options.section(info)[0],
    ):
        if options.extend == "silence" and frame.is_repeated and frame.index >= end:
            return
        yield frame
        del frame
