"""Write one output of a dub: the video file with its frames and its audio."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wav2lip_npu import __version__
from wav2lip_npu.devices import device, device_memory
from wav2lip_npu.dubbing.enhance import load_enhancer
from wav2lip_npu.dubbing.mouths import DubbedFrame
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.output_frames import OutputFrames, blend_lanes
from wav2lip_npu.dubbing.report import DubReport, FrameRecorder
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.dubbing.stopwatch import StageTime, Stopwatch, bound_by
from wav2lip_npu.media.audio_track import Soundtrack
from wav2lip_npu.media.container import VideoInfo, open_media
from wav2lip_npu.media.streams import audio_stream
from wav2lip_npu.media.video_writer import VideoTags, check_target, video_output, write_video
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.options import path_text
from wav2lip_npu.parallel.log_lines import one_line
from wav2lip_npu.parallel.threads import map_in_threads, prefetch
from wav2lip_npu.storage.outputs import InputPath, check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models
    from wav2lip_npu.dubbing.speakers_frames import SpeakersFrames
    from wav2lip_npu.evaluation.output_check import OutputCheck

Progress = Callable[[int, int], None]
"""Called with the number of frames written so far and the total."""


@dataclass(frozen=True)
class Output:
    """An audio file and the video file to write for it."""

    audio: str | os.PathLike[str]
    """Audio file, or a video with audio."""
    outfile: str | os.PathLike[str]
    """Video to write: .mp4, .mov, .mkv or .avi."""
    comment: str = ""
    """Text appended to the comment in the metadata of the video."""
    progress: Progress | None = None
    on_done: Callable[[DubReport], None] | None = None
    """Called when the video is complete, even if other outputs of the same pass are not."""
    voice: str | os.PathLike[str] | None = None
    """Audio that drives the mouth instead of `audio`. None: `audio`."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if a file is not a path."""
        for name in ("audio", "outfile", "voice"):
            if (path := getattr(self, name)) is not None or name != "voice":
                path_text(path, f"the {name}")

    def check(self, inputs: Iterable[InputPath], *, audio_track: int | None = None) -> None:
        """Raise `MediaError` if a file cannot be opened or written, or if the output is also an input."""
        check_target(self.outfile, inputs)
        with open_media(self.audio) as container:
            audio_stream(container, self.audio, audio_track)
        if self.voice is not None:
            with open_media(self.voice) as container:
                audio_stream(container, self.voice)


class OutputWriter:
    """Writes one output of a pass over a face video: the frames that `frames` gives, with its audio.

    `stopwatch` holds the times of the stages that all outputs share. Raises `MediaError` if the output is the
    weights file.
    """

    def __init__(
        self,
        output: Output,
        frames: OutputFrames | SpeakersFrames,
        info: VideoInfo,
        models: Models,
        options: DubOptions,
        stopwatch: Stopwatch,
    ) -> None:
        check_outputs([video_output(output.outfile)], [InputPath("the weights", models.weights)])
        self.frames = frames
        self._output, self._models, self._stopwatch = output, models, stopwatch
        self._info, self._options = info, options
        self._start = perf_counter()
        has_box = options.faces.has_constant_box
        self._enhancer = load_enhancer(options.enhancement, models, has_constant_box=has_box)

    def write(self, dubbed: Iterator[DubbedFrame], number: int, num_outputs: int, depth: int) -> DubReport:
        """Write the video with the mouths at position `number`, that of this output in the pass.

        At most `depth` frames wait for the encoder. Raises `MediaError` and `FaceError`; the output file is
        then unchanged.
        """
        stopwatch = Stopwatch()
        frames, recorder = self.frames, self.frames.recorder()
        lanes = max(1, blend_lanes() // num_outputs)
        show: Any = stopwatch.lane("blend", frames.show, lanes)
        pasted: Any = map_in_threads(show, frames.damped(dubbed, number, recorder), lanes)
        checks = self._new_checks() if self._options.checks_output else []
        blended: Any = stopwatch.work("blend", pasted)
        if self._enhancer is not None:
            enhance: Any = frames.enhancement(self._enhancer, self._options.enhancement)
            waiting = stopwatch.wait("enhance", prefetch(blended, depth))
            blended = stopwatch.work("enhance", enhance(waiting))
        images = blended = prefetch(blended if checks else _images(blended), depth)
        if checks:
            from wav2lip_npu.evaluation.output_check import watched

            judged = watched(stopwatch.wait("check", blended), checks)
            images = prefetch(stopwatch.work("check", judged), depth)
        start = perf_counter()
        with contextlib.closing(blended), contextlib.closing(images), frames.cancelling():
            write_video(
                self._with_progress(stopwatch.wait("encode", images)),
                self._output.outfile,
                fps=frames.fps,
                audio=Soundtrack(
                    source=frames.audio,
                    start=frames.extent.first / frames.fps,
                    fit=self._options.fits_audio,
                ),
                options=self._options.encode,
                tags=VideoTags(
                    comment=self._comment(),
                    pixel_aspect=self._info.pixel_aspect,
                    source=self._info.path,
                ),
            )
        stopwatch.add("encode", perf_counter() - start)
        stages = {**self._stopwatch.times, **stopwatch.times}
        report = self._report(recorder, stages, num_outputs)
        if checks:
            report = self._with_checks(report, checks)
        if self._output.on_done is not None:
            self._output.on_done(report)
        return report

    def _new_checks(self) -> list[OutputCheck]:
        """Return what judges each face with its voice."""
        from wav2lip_npu.evaluation.output_check import OutputCheck

        frames, device = self.frames, str(self._models.device)
        start = frames.extent.first / frames.fps
        return [OutputCheck(voice, frames.fps, start, self._options.faces, device) for voice in frames.voices]

    def _with_checks(self, report: DubReport, checks: Sequence[OutputCheck]) -> DubReport:
        from wav2lip_npu.evaluation.output_check import worst

        results = [check.result(self._output.outfile, self._options.min_confidence) for check in checks]
        if report.speakers is None:
            return replace(report, check=results[0])
        seen = iter(results)
        speakers = [one if one.face is None else replace(one, check=next(seen)) for one in report.speakers]
        return replace(report, check=worst(results), speakers=speakers)

    def _with_progress(self, images: Iterable[YuvImage]) -> Iterator[YuvImage]:
        progress = self._output.progress
        for count, yuv in enumerate(images, start=1):
            yield yuv
            del yuv
            if progress is not None:
                progress(count, max(count, self.frames.extent.expected))

    def _comment(self) -> str:
        """Return the comment for the metadata of the video."""
        models = self._models
        name = one_line(models.weights.name)
        about = f"wav2lip-npu {__version__}, weights {name} (sha256 {models.digest})"
        comment = f", {self._output.comment}" if self._output.comment else ""
        return f"Lips synchronised to the sound by {about}{comment}"

    def _report(self, recorder: FrameRecorder, stages: dict[str, StageTime], num_outputs: int) -> DubReport:
        models, options = self._models, self._options.enhancement
        seconds = perf_counter() - self._start
        return DubReport(
            outfile=os.fspath(self._output.outfile),
            face=self._info.path,
            audio=os.fspath(self._output.audio),
            audio_track=self.frames.audio.track,
            voice=None if self._output.voice is None else os.fspath(self._output.voice),
            checkpoint=os.fspath(models.weights),
            checkpoint_sha256=models.digest,
            detector=models.detector.name,
            device=device.describe(models.device),
            engine=models.engine,
            enhancer=None if self._enhancer is None else options.enhance or "of models",
            precision=str(models.precision).removeprefix("torch."),
            face_size=models.face_size,
            width=recorder.width,
            height=recorder.height,
            fps=str(self.frames.fps),
            frames=recorder.frames,
            dubbed_frames=recorder.dubbed_frames,
            faceless_spans=recorder.faceless_spans,
            unchanged_spans=recorder.unchanged_spans,
            cuts=recorder.cuts,
            takes=num_outputs,
            seconds=round(seconds, 3),
            seconds_per_stage={name: stage.busy for name, stage in stages.items()},
            stages=stages,
            bound_by=bound_by(stages),
            frames_per_second=round(recorder.frames / seconds, 2),
            peak_memory_bytes=device_memory.peak_memory(),
            device_peak_memory_bytes=device_memory.device_peak_memory(models.device),
            **self.frames.report(),
        )


def _images(frames: Iterable[tuple[SelectedFrame, YuvImage]]) -> Generator[YuvImage, None, None]:
    """Yield the images, without the filmed frames, which would wait in memory for the encoder."""
    for selected, yuv in frames:
        del selected
        yield yuv
        del yuv
