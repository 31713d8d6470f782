"""Options of one dub."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

from wav2lip_npu.dubbing.blend import Blend
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.frame_rate import exact_fps
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.options import check_types, group

_MIN_FPS, _MAX_FPS = 0.001, 1000
_MAX_MEL_SHIFT = 100


@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """Options for dubbing one video.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    faces: Annotated[FaceOptions, group("face")] = field(default_factory=FaceOptions)
    """Detection and tracking of the face."""
    geometry: Annotated[Geometry, group("frame geometry")] = field(default_factory=Geometry)
    """Changes to the size and orientation of each frame."""
    encode: Annotated[EncodeOptions, group("encoder")] = field(default_factory=EncodeOptions)
    """Compression of the output."""
    blend: Blend = "soft"
    """How the mouth is pasted: soft (lower face, feathered edge) or hard (whole box, like the original)."""
    extend: Literal["loop", "pingpong", "hold"] = "loop"
    """If the audio is longer than the video: loop, pingpong (back and forth) or hold (the last frame)."""
    static: bool = False
    """Use only the first frame of the video."""
    fps: float | None = None
    """Frames per second of the output. None: those of the video, and 25 for a still image. 23.976, 29.97 and
    59.94 are exact NTSC rates, such as 30000/1001."""
    mel_shift: float | None = None
    """Frames of 1/25 s by which to shift the audio relative to the video; negative values delay the mouth.
    None: the shift that the checkpoint was trained with."""
    wav2lip_batch_size: int | None = None
    """Faces per generator batch. None: chosen for the device."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        if self.wav2lip_batch_size is not None and self.wav2lip_batch_size < 1:
            raise UsageError(
                f"--wav2lip_batch_size {self.wav2lip_batch_size} is out of range. Pass at least 1."
            )
        if self.fps is not None and not _MIN_FPS <= self.fps <= _MAX_FPS:
            raise UsageError(f"--fps {self.fps:g} is out of range. Pass {_MIN_FPS} to {_MAX_FPS}.")
        if self.mel_shift is not None and not abs(self.mel_shift) < _MAX_MEL_SHIFT:
            raise UsageError(
                f"--mel_shift {self.mel_shift:g} is out of range. Pass a number between -{_MAX_MEL_SHIFT} "
                f"and {_MAX_MEL_SHIFT}."
            )

    def output_fps(self, info: VideoInfo) -> Fraction:
        """Return the frame rate of the output for a face video or image."""
        return info.fps if self.fps is None else exact_fps(self.fps)
