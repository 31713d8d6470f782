"""Options of one dub."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

import tyro

from wav2lip_npu.dubbing.blend import Blend
from wav2lip_npu.dubbing.enhance import EnhanceOptions
from wav2lip_npu.dubbing.occlusion import Occlusion, load_occlusion
from wav2lip_npu.dubbing.selection import FaceLimits
from wav2lip_npu.dubbing.spans import SkippedFrames, canonical_spans, section
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.frame_rate import exact_fps
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.hardware_decoding import Hardware
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.options import check_range, check_types, group, nested_by_name

_MIN_FPS, _MAX_FPS = 0.001, 240
_MAX_SECONDS = 10_000_000
_MAX_DB = 100
_MAX_TRACK = 1000
_MAX_BATCH = 4096
"""The frames of a batch are in memory at the same time."""
_MAX_MEL_SHIFT = 100


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """Options for dubbing one video.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    faces: Annotated[FaceOptions, group("face")] = field(default_factory=FaceOptions)
    """Detection and tracking of the face."""
    limits: Annotated[FaceLimits, group("faces that stay as filmed")] = field(default_factory=FaceLimits)
    """Limits of size and direction beyond which a face stays as filmed."""
    geometry: Annotated[Geometry, group("frame geometry")] = field(default_factory=Geometry)
    """Changes to the size and orientation of each frame."""
    encode: Annotated[EncodeOptions, group("encoder")] = field(default_factory=EncodeOptions)
    """Compression of the output."""
    enhancement: Annotated[EnhanceOptions, group("enhancement")] = field(default_factory=EnhanceOptions)
    """Restoration of the generated mouth by a network of your own."""
    blend: Blend = "soft"
    """How the mouth is pasted: soft (lower face, feathered edge) or hard (whole box, like the original)."""
    extend: Literal["loop", "pingpong", "hold", "cut_off", "silence"] = "loop"
    """If the audio is longer than the video: loop, pingpong (back and forth), hold (the last frame), cut_off
    (end with the video), or silence (loop; a video longer than the audio is shown to its end in silence)."""
    start: float = 0
    """Seconds to skip at the beginning of both the face video and the audio."""
    duration: float | None = None
    """Seconds to dub after --start. None: to the end."""
    static: bool = False
    """Use only the first frame of the video."""
    fps: float | None = None
    """Frames per second of the output. None: the rate of the video, or 25 for a still image. 23.976,
    29.97 and 59.94 mean the exact NTSC rates, such as 30000/1001."""
    hwaccel: Hardware = "none"
    """Hardware that decodes the face video: cuda (NVIDIA), vaapi or videotoolbox, if its frames are those of
    the CPU; auto: the first of them that is also faster; none: the CPU."""
    skip: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: no span)")] = ""
    """Spans that stay as filmed, in seconds from the beginning: 3.2-5.0,7-8, or 7- (to the end)."""
    rest: Literal["auto", "off"] = "auto"
    """auto: close the mouth in pauses of at least 0.2 s, except with --blend hard. off: never."""
    rest_threshold: float = 16
    """Audio this many dB below the loud parts of the recording counts as a pause."""
    occlusion: Literal["auto", "off"] = "auto"
    """auto: keep recognised objects in front of the mouth, such as a hand or a microphone, except with
    --blend hard. off: the mouth is generated over it."""
    occlusion_mask: str | None = None
    """ONNX file of a network that masks faces, such as XSeg, used for --occlusion. None: the bundled one."""
    asd: str | None = None
    """Weights of Light-ASD, which judge who speaks for --face_select speaking and --speaker NAME@auto. None:
    the bundled SyncNet."""
    mel_shift: float | None = None
    """Frames of 1/25 s by which to shift the audio relative to the video; negative values delay the mouth.
    None: the shift that the checkpoint was trained with."""
    audio_track: int | None = None
    """Audio track to use if --audio has several, from 0 as in FFmpeg's 0:a:N. None: the track that
    FFmpeg prefers, usually the one flagged as default."""
    check: bool = False
    """Judge the output as it is written: lip-sync by the bundled SyncNet, jitter and timing, for --report."""
    min_confidence: float | None = None
    """Like --check, and mark outputs below this confidence, 0 to 1, as suspect in the report. None: none."""
    wav2lip_batch_size: int | None = None
    """Faces per generator batch of an accelerator. None: chosen for the device. On a CPU it has no effect."""

    def __post_init__(self) -> None:
        """Check the values, and convert pairs of numbers in `skip` to text."""
        object.__setattr__(self, "skip", canonical_spans(self.skip))
        check_types(self)
        for name, minimum, maximum in (
            ("wav2lip_batch_size", 1, _MAX_BATCH),
            ("start", 0, _MAX_SECONDS),
            ("duration", 0, _MAX_SECONDS),
            ("min_confidence", 0, 1),
            ("audio_track", 0, _MAX_TRACK),
            ("fps", _MIN_FPS, _MAX_FPS),
        ):
            check_range(self, name, minimum, maximum)
        if self.duration == 0:
            raise UsageError("--duration 0 is out of range. Pass more than 0 seconds.")
        if not 0 < self.rest_threshold <= _MAX_DB:
            raise UsageError(
                f"--rest_threshold {self.rest_threshold:g} is out of range. Pass dB above 0, up to {_MAX_DB}."
            )
        if self.mel_shift is not None and not abs(self.mel_shift) < _MAX_MEL_SHIFT:
            raise UsageError(
                f"--mel_shift {self.mel_shift:g} is out of range. Pass a number between -{_MAX_MEL_SHIFT} "
                f"and {_MAX_MEL_SHIFT}."
            )

    @property
    def fits_audio(self) -> bool:
        """Whether the audio is cut or padded at the end of the video."""
        return self.duration is not None or self.extend in ("cut_off", "silence")

    @property
    def pause_threshold(self) -> float | None:
        """Level of a pause below the loud parts, in dB; None if pauses are not detected."""
        return None if self.rest == "off" or self.blend == "hard" else self.rest_threshold

    @property
    def checks_output(self) -> bool:
        """Whether outputs are judged as they are written."""
        return self.check or self.min_confidence is not None

    @property
    def network_files(self) -> dict[str, str]:
        """Files of networks that the options name, by option."""
        named = {
            "occlusion_mask": self.occlusion_mask,
            "asd": self.asd,
            "enhance": self.enhancement.enhance,
        }
        return {name: path for name, path in named.items() if path is not None}

    def load_occlusion(self) -> Occlusion | None:
        """Return what finds objects in front of the mouth of one video; None if they are not looked for."""
        if self.occlusion == "off" or self.blend == "hard":
            return None
        return load_occlusion(self.occlusion_mask)

    def section(self, info: VideoInfo) -> tuple[int, int | None]:
        """Return the first frame to write and the frame after the last, see `spans.section`."""
        return section(self.start, self.duration, self.output_fps(info))

    def skipped_frames(self, info: VideoInfo) -> SkippedFrames:
        """Return the frames of `skip`, by their indices in the output."""
        return SkippedFrames.of(self.skip, self.output_fps(info), self.section(info)[0])

    def output_fps(self, info: VideoInfo) -> Fraction:
        """Return the frame rate of the output for a face video or image."""
        return info.fps if self.fps is None else exact_fps(self.fps)
