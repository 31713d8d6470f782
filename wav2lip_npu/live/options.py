"""Options of a live stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

from wav2lip_npu.dubbing.blend import Blend
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.selection import FaceLimits
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.frame_rate import exact_fps
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.options import check_types, group, nested_by_name

MIN_RATE, MAX_RATE = 8_000, 192_000
"""Limits of the sample rate of pushed audio."""
_MIN_FPS, _MAX_FPS = 1, 60
_MAX_SECONDS = 60


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Options of a live stream.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    faces: Annotated[FaceOptions, group("face")] = field(default_factory=FaceOptions)
    """Detection and tracking of the face."""
    limits: Annotated[FaceLimits, group("face limits")] = field(default_factory=FaceLimits)
    """Limits beyond which a face stays as filmed."""
    geometry: Annotated[Geometry, group("frame geometry")] = field(default_factory=Geometry)
    """Changes to the size and orientation of each frame."""
    blend: Blend = "soft"
    """How the mouth is pasted: soft (lower face, feathered edge) or hard (whole box, like the original)."""
    fps: float = 25
    """Frames per second of the stream. 29.97 means exactly 30000/1001."""
    rest: Literal["auto", "off"] = "auto"
    """auto: close the mouth in pauses of at least 0.2 s, without the network, except with --blend hard.
    off: never."""
    rest_threshold: float = 16
    """Audio this many dB below the loud parts of the last seconds counts as a pause."""
    occlusion: Literal["auto", "off"] = "auto"
    """auto: keep recognised objects in front of the mouth, such as a microphone. off: the mouth is generated
    over them."""
    mel_shift: float | None = None
    """Frames of 1/25 s by which to shift the audio relative to the video. None: the shift that the checkpoint
    was trained with."""
    sample_rate: int | None = None
    """Sample rate of the audio of the frames. None: that of the first audio that is pushed."""
    avatar_seconds: float = 10
    """Seconds of the face video to use, back and forth. Their frames stay in memory, at most 256 MiB."""
    buffer_seconds: float = 2
    """Seconds of audio that may wait. Beyond it, pushing waits."""
    queue_seconds: float = 0.5
    """Seconds of frames that may wait for the reader. Beyond it, the stream waits."""
    max_delay: float | None = 0.15
    """Seconds that a frame may be late because the device is too slow. A later one repeats the image before.
    None: images are never skipped."""
    max_sessions: int | None = None
    """Streams that the device may hold at the same time. None: measured, see docs/live.md."""

    def __post_init__(self) -> None:
        check_types(self)
        _check("fps", self.fps, _MIN_FPS, _MAX_FPS)
        _check("avatar_seconds", self.avatar_seconds, 0.04, _MAX_SECONDS)
        _check("buffer_seconds", self.buffer_seconds, 0.04, _MAX_SECONDS)
        _check("queue_seconds", self.queue_seconds, 0.04, _MAX_SECONDS)
        if self.sample_rate is not None:
            _check("sample_rate", self.sample_rate, MIN_RATE, MAX_RATE)
        if self.max_delay is not None:
            _check("max_delay", self.max_delay, 0, _MAX_SECONDS)
        if self.max_sessions is not None:
            _check("max_sessions", self.max_sessions, 1, math.inf)
        _ = self.dub  # checks the rest

    @property
    def exact_fps(self) -> Fraction:
        """Frames per second."""
        return exact_fps(self.fps)

    @property
    def dub(self) -> DubOptions:
        """The options of a dub that shows the same frames for the same audio."""
        return DubOptions(
            faces=self.faces,
            limits=self.limits,
            geometry=self.geometry,
            blend=self.blend,
            fps=self.fps,
            extend="pingpong",
            rest=self.rest,
            rest_threshold=self.rest_threshold,
            occlusion=self.occlusion,
            mel_shift=self.mel_shift,
        )


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or not math.isfinite(value):
        limits = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise UsageError(f"--{name} {value!r:.20} is out of range. Pass {limits}.")
