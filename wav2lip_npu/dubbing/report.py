"""The report of a dub: files, frames, faces, and seconds per stage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction

from wav2lip_npu.dubbing.mouths import DubbedFrame
from wav2lip_npu.dubbing.selection import Reason
from wav2lip_npu.dubbing.stopwatch import StageTime
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.speaking.film import SpokenSpan
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs, write_output
from wav2lip_npu.versions import versions


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Figures of an output, by the bundled SyncNet and from its time stamps. See docs/evaluate.md."""

    confidence: float | None
    """Confidence of the bundled SyncNet that mouth and audio match; None if too few frames are dubbed."""
    cosine: float | None
    """Its mean cosine of mouth and audio at offset 0."""
    offset: int | None
    """Frames of 1/25 s by which the audio is early."""
    windows: int
    """Windows of five frames that were judged."""
    jitter: float | None
    """Jitter of the face box in percent of its height."""
    audio_start: float
    """Seconds by which the audio starts late."""
    tail: float
    """Seconds by which the audio ends after the video."""
    suspect: bool
    """Whether the confidence is below `min_confidence`, or unknown."""
    judge: str
    """The SyncNet and the first digits of its SHA-256."""


@dataclass(frozen=True, kw_only=True)
class SpeakerReport:
    """One speaker of a dub with several."""

    name: str
    audio: list[str]
    """Audio files that drive the mouth."""
    face: str | None
    """How the face was told: `left`, `right`, `X,Y@SECONDS`, a photo, or nothing: by the order of the
    speakers. None: the speaker is only heard."""
    turns: list[tuple[float, float]]
    """Seconds in which the speaker speaks."""
    dubbed_frames: int
    """Frames in which this mouth is generated."""
    unchanged_spans: list[tuple[int, int, Reason]]
    """First and last frame of each span in which this face stays as filmed, and the reason."""
    check: CheckResult | None = None
    """Result of the option `check` for this face and its voice."""


@dataclass(frozen=True, kw_only=True)
class DubReport:
    """One dubbed video, as returned by `dub` and written by `--report`."""

    outfile: str
    face: str
    audio: str
    audio_track: int
    """Number of the track in the audio file, from 0."""
    voice: str | None
    """Audio that drives the mouth, if it is not `audio`."""
    checkpoint: str
    """File of the generator's weights."""
    checkpoint_sha256: str
    """First 12 hex digits."""
    detector: str
    device: str
    engine: str
    """Runtime of the generator: torch, onnx, or om with its NPU."""
    precision: str
    face_size: int
    """Rows and columns of the faces of the generator."""
    width: int
    """Pixels of the output."""
    height: int
    fps: str
    """Frame rate of the output as a fraction, "25" or "30000/1001"."""
    frames: int
    """Frames of the output."""
    dubbed_frames: int
    """Frames with a generated mouth."""
    faceless_spans: list[tuple[int, int]]
    """First and last frame of each span without a face, whose frames stay unchanged."""
    unchanged_spans: list[tuple[int, int, Reason]]
    """First and last frame of each span that stays as filmed, and the reason: `no_face`, `turned` (away from
    the camera), `small` (the face), `covered` (the mouth), `skip`, `listening`, or `unsure` (nobody visible
    speaks for certain). Of several speakers: in which no mouth is generated."""
    cuts: list[int]
    """Frames that start a new scene, or a new pass of a looped video."""
    takes: int
    """Outputs that were dubbed from the face video in the same pass, including this one."""
    seconds: float
    """Wall time."""
    seconds_per_stage: dict[str, float]
    """Time of each stage, excluding the time it waits for other stages. The stages run concurrently."""
    stages: dict[str, StageTime]
    """Seconds that each stage worked, and waited for the previous and for the next one."""
    bound_by: str
    """The stage that worked longest: `decode`, `faces`, `generate`, `blend` or `encode`."""
    frames_per_second: float
    """Frames of the output per second of wall time."""
    peak_memory_bytes: int
    """Peak memory of the process."""
    device_peak_memory_bytes: int | None
    """Peak memory on the device, None on a CPU."""
    enhancer: str | None = None
    """File of the network that restored the mouths, or "of models"; None: none did."""
    speakers: list[SpeakerReport] | None = None
    """The speakers of `dub_speakers`; None of other dubs."""
    told_apart_by: str | None = None
    """How their faces are told apart after a cut: `dlib`, its descriptor, or `likeness` and place."""
    spoken: list[SpokenSpan] | None = None
    """Who speaks when in the film, if that was looked for."""
    speech_judge: str | None = None
    """The network that judged it."""
    check: CheckResult | None = None
    """Result of the option `check`; None without it. Of several speakers, that of the least confidence."""
    versions: dict[str, str] = field(default_factory=versions)
    """Versions of wav2lip-npu, Python and the libraries."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON; `path` is replaced atomically.

        Raises `OutputError` if `path` cannot be written or is one of the files of this dub.
        """
        files = {name: getattr(self, name) for name in ("face", "audio", "voice", "checkpoint", "outfile")}
        inputs = [InputPath(name, file) for name, file in files.items() if file is not None]
        check_outputs([OutputPath("report", path)], inputs)
        write_output(path, json.dumps(asdict(self), indent=2, ensure_ascii=True) + "\n")


class FrameRecorder:
    """Records frames as filmed and cuts for the report, and stops the dub if no frame can be dubbed.

    `must_have_face` makes every frame without a face an error. `start` is the number of frames that the dub
    skips at the beginning; frame numbers in errors include them. A face that `is_optional` need not be seen.
    `speakers` are the names of several people who are seen.
    """

    def __init__(
        self,
        face: str,
        fps: Fraction,
        must_have_face: bool,
        start: int = 0,
        *,
        is_optional: bool = False,
        speakers: Sequence[str] = (),
    ) -> None:
        self.frames = self.dubbed_frames = self.width = self.height = 0
        self.unchanged_spans: list[tuple[int, int, Reason]] = []
        self.cuts: list[int] = []
        self._face = face
        self._fps = fps
        self._must_have_face = must_have_face
        self._start = start
        self._is_optional = is_optional
        self._speakers = speakers

    @property
    def faceless_spans(self) -> list[tuple[int, int]]:
        """First and last frame of each span without a face."""
        return [(first, last) for first, last, reason in self.unchanged_spans if reason == "no_face"]

    def record(self, frames: Iterable[DubbedFrame]) -> Iterator[DubbedFrame]:
        """Yield the frames of the output. Raises `FaceError`."""
        index = first = last = source = -1
        is_usable = is_second_pass = is_waiting = False
        for item in frames:
            selected = item.selected
            frame, cut = selected.tracked.frame, selected.tracked.cut
            index = frame.index
            self.width, self.height = frame.yuv.width, frame.yuv.height
            if cut and index:
                self.cuts.append(index)
            is_second_pass = is_second_pass or frame.source <= source
            source = frame.source
            first, last = source if first < 0 else first, max(last, source)
            if is_second_pass and source >= first and not is_usable and not is_waiting:
                break  # no frame can be dubbed
            is_usable = is_usable or selected.reason in (None, "skip")
            is_waiting = self._is_optional or is_waiting or selected.reason == "listening"
            if selected.reason is not None:
                self._add_unchanged(index, selected.reason)
            else:
                self.dubbed_frames += 1
                self._check_span(index)
            self.frames += 1
            del frame, selected
            yield item
            del item  # the consumer decides how long a frame is held
        if index < 0:
            start = float(self._start / self._fps)
            raise UsageError(f"--start {start:g} is after the end of {self._face}. Pass fewer seconds.")
        is_silent = all(reason == "listening" for _, _, reason in self.unchanged_spans)
        if not is_usable and not is_silent and not self._is_optional:
            raise FaceError(self._nothing_to_dub(f", frames {first}-{last}" if last else ""))
        self._check_span(index + 1)

    def _nothing_to_dub(self, span: str) -> str:
        reasons = {reason for _, _, reason in self.unchanged_spans}
        if "unsure" in reasons:
            name = "--speaker NAME@left" if self._speakers else "--face_select left"
            return (
                f"nobody visible in {self._face}{span} speaks for certain in its own sound. "
                f"Name the face, such as {name}, or pass --asd."
            )
        if "turned" in reasons:
            return (
                f"the face in {self._face}{span}{',' if span else ''} is turned or tilted too far. "
                "Pass --max_yaw, --max_pitch or --max_roll with more degrees, --rotate for a video that lies "
                "on its side, or another video."
            )
        if "small" in reasons:
            return f"the face in {self._face}{span} is too small. Pass --min_face with fewer pixels."
        if "covered" in reasons:
            return f"the mouth in {self._face}{span} is covered. Pass --occlusion off, or another video."
        if self._speakers:
            return (
                f"no face in {self._face}{span} is for certain that of {' or '.join(self._speakers):.200}. "
                "Name the faces by X,Y@SECONDS, or pass other photos."
            )
        return (
            f"no face in {self._face}{span}. "
            "Pass --box TOP BOTTOM LEFT RIGHT, another --detector, or a video with a face."
        )

    def _add_unchanged(self, index: int, reason: Reason) -> None:
        continues = self.unchanged_spans and self.unchanged_spans[-1][1:] == (index - 1, reason)
        if not continues:
            self._check_span(index)
        first = self.unchanged_spans.pop()[0] if continues else index
        self.unchanged_spans.append((first, index, reason))

    def _check_span(self, index: int) -> None:
        """Raise `FaceError` if `must_have_face` is set and a span without a face ends before this frame."""
        first, last, reason = self.unchanged_spans[-1] if self.unchanged_spans else (0, 0, None)
        if self._must_have_face and (last, reason) == (index - 1, "no_face"):
            first, last = self._start + first, self._start + last
            raise FaceError(
                f"no face in {self._face}, frames {first}-{last} "
                f"({float(first / self._fps):.1f}-{float((last + 1) / self._fps):.1f} s). "
                "Pass --no_face keep to leave those frames unchanged."
            )
