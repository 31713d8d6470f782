"""One of the videos that are made of a face video: its sound, and its way from mouths to a file."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from wav2lip_npu import __version__, device
from wav2lip_npu.dubbing.blend import Mask, paste
from wav2lip_npu.dubbing.mouths import DubbedFrame, Voice
from wav2lip_npu.dubbing.report import DubReport, FaceRecorder, Stopwatch
from wav2lip_npu.dubbing.temporal_smoothing import SilenceDamper
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import container
from wav2lip_npu.media.audio_reader import Audio, Samples, load_audio
from wav2lip_npu.media.video_writer import EncodeOptions, VideoTags, check_target, write_video
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.mel import DEFAULT_MEL, log_mel
from wav2lip_npu.parallel.threads import prefetch

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

Progress = Callable[[int, int], None]
"""Called with the number of the frame written last and of all frames."""


@dataclass(frozen=True)
class Output:
    """A sound, and where the video that speaks it goes."""

    audio: str | os.PathLike[str]
    outfile: str | os.PathLike[str]
    comment: str = ""
    """Text that is added to the comment in the metadata of the video."""
    progress: Progress | None = None
    on_done: Callable[[DubReport], None] | None = None
    """Called when the video is there, before the others of its pass may be."""

    def check(self, face: str | os.PathLike[str]) -> None:
        """Raise `MediaError` when a file cannot be opened or the output is an input."""
        out = self.outfile
        for path in (face, self.audio):
            if os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):
                raise MediaError(
                    f"the output {out} is also an input and would be lost. Pass another --outfile."
                )
        container.open_media(self.audio).close()
        check_target(out)


@dataclass(frozen=True)
class Scene:
    """What all takes of a face video share."""

    face: str
    info: container.VideoInfo
    fps: Fraction
    models: Models
    mask: Mask
    mel_shift: float
    encode: EncodeOptions
    must_have_face: bool
    watch: Stopwatch = field(default_factory=Stopwatch)
    started: float = field(default_factory=perf_counter)


class OutputWriter:
    """A take on its way. Raises `MediaError` when its sound cannot be read."""

    def __init__(self, scene: Scene, take: Output) -> None:
        self._scene, self._take = scene, take
        sound = load_audio(take.audio)
        self.voice = Voice(log_mel(_long_enough(sound)), max(1, round(sound.duration * scene.fps)))

    def write(self, number: int, together: int, depth: int, spoken: Iterator[DubbedFrame]) -> DubReport:
        """Write the video, whose mouths are those of `number`; `depth` pictures may wait to be encoded.

        Raises `MediaError` and `FaceError`; then the output is as it was before.
        """
        scene, count = self._scene, self.voice.frames
        watch = Stopwatch()
        notes = FaceRecorder(scene.face, scene.fps, scene.must_have_face)
        # A mouth that is pasted as the original pastes it is the original's in pauses too.
        rest = None if scene.mask.exact else SilenceDamper(self.voice.mel, scene.fps, scene.mel_shift)
        own = notes.take(itertools.islice(watch.wait("blend", spoken), count))
        blended = prefetch(watch.work("blend", _blended(own, number, rest, scene.mask)), depth)
        encoding = perf_counter()
        with contextlib.closing(blended):
            try:
                write_video(
                    self._reported(watch.wait("encode", blended)),
                    self._take.outfile,
                    fps=scene.fps,
                    audio=self._take.audio,
                    options=scene.encode,
                    tags=VideoTags(comment=self._comment(), pixel_aspect=scene.info.pixel_aspect),
                )
            finally:
                self.voice.has_left = True
        watch.seconds["encode"] += perf_counter() - encoding
        made = self._report(notes, watch, together)
        if self._take.on_done is not None:
            self._take.on_done(made)
        return made

    def _reported(self, pictures: Iterable[YuvImage]) -> Iterator[YuvImage]:
        progress = self._take.progress
        for number, planes in enumerate(pictures, start=1):
            yield planes
            del planes
            if progress is not None:
                progress(number, self.voice.frames)

    def _comment(self) -> str:
        """What the file says of itself to whoever looks."""
        models = self._scene.models
        name = models.weights.name.encode("utf-8", "replace").decode()
        about = f"wav2lip-npu {__version__}, weights {name} (sha256 {models.digest})"
        comment = f", {self._take.comment}" if self._take.comment else ""
        return f"Lips synchronised to the sound by {about}{comment}"

    def _report(self, notes: FaceRecorder, watch: Stopwatch, together: int) -> DubReport:
        scene, models = self._scene, self._scene.models
        seconds = perf_counter() - scene.started
        per_stage = {**scene.watch.seconds, **watch.seconds}
        return DubReport(
            outfile=os.fspath(self._take.outfile),
            face=scene.face,
            audio=os.fspath(self._take.audio),
            checkpoint=os.fspath(models.weights),
            checkpoint_sha256=models.digest,
            detector=models.detector.name,
            device=device.describe(models.device),
            engine=models.engine,
            precision=str(models.precision).removeprefix("torch."),
            width=notes.width,
            height=notes.height,
            fps=str(scene.fps),
            frames=self.voice.frames,
            dubbed_frames=notes.dubbed,
            faceless_spans=notes.faceless,
            cuts=notes.cuts,
            takes=together,
            seconds=round(seconds, 3),
            seconds_per_stage={stage: round(spent, 3) for stage, spent in per_stage.items()},
            frames_per_second=round(self.voice.frames / seconds, 2),
            peak_memory_bytes=device.peak_memory(),
            device_peak_memory_bytes=device.device_peak_memory(models.device),
        )


def _blended(
    spoken: Iterable[DubbedFrame], number: int, rest: SilenceDamper | None, mask: Mask
) -> Iterator[YuvImage]:
    """Pictures with their mouths in; those without a face are the very ones that were decoded."""
    for item in spoken:
        faced, mouth = item.faced, item.mouths[number]
        if rest is not None:
            mouth = rest(faced.frame.index, mouth, faced.cut)
        planes = faced.frame.yuv
        yield planes if faced.box is None or mouth is None else paste(planes, mouth, faced.box, mask)
        del item, faced, planes  # a picture that was handed on must not be held here


def _long_enough(sound: Audio) -> Samples:
    """The sound, padded with silence to the shortest piece that makes a mel window."""
    shortest = DEFAULT_MEL.hop * DEFAULT_MEL.columns_per_window
    return np.pad(sound.wav, (0, max(0, shortest - len(sound.wav))))
