"""The frames of one output: its audio, its length, and its mouths in the frames of the face video."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from wav2lip_npu.devices import device
from wav2lip_npu.dubbing.blend import composite, load_mask
from wav2lip_npu.dubbing.enhance import Enhancement, EnhanceOptions, Enhancer
from wav2lip_npu.dubbing.extent import Extent
from wav2lip_npu.dubbing.mel_stream import MelStream
from wav2lip_npu.dubbing.mouths import DubbedFrame
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pauses import Pauses
from wav2lip_npu.dubbing.report import FrameRecorder
from wav2lip_npu.dubbing.selection import SelectedFrame, select_frames
from wav2lip_npu.dubbing.temporal_smoothing import SilenceDamper
from wav2lip_npu.dubbing.watched import WatchedFilm, marked_unsure
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.faces.find_faces import SPEAKING, find_faces
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.media.audio_reader import AudioInfo, AudioSource, measure_audio
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.mel import Mel

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

Mouth = Image | None
_CORES_PER_BLEND_LANE, _MAX_BLEND_LANES = 4, 4
"""The other cores encode, track and run the generator."""


def blend_lanes() -> int:
    """Return the number of threads that blend frames."""
    return max(1, min(_MAX_BLEND_LANES, device.cpu_count() // _CORES_PER_BLEND_LANE))


class OutputFrames:
    """The frames of one output of a pass over a face video.

    Raises `MediaError` if the audio cannot be read.
    """

    faces = 1
    """Faces per frame."""

    def __init__(
        self,
        audio: AudioSource,
        voice: AudioSource | None,
        info: VideoInfo,
        models: Models,
        options: DubOptions,
        pool: Executor,
        watched: WatchedFilm | None = None,
    ) -> None:
        follows_speech = options.faces.face_select == SPEAKING and not options.faces.has_constant_box
        self._watched = watched if follows_speech else None
        self._info, self._options = info, options
        self._closed = threading.Event()
        self._mask = load_mask(options.blend, models.face_size)
        self.fps = options.output_fps(info)
        self.audio = _measured(audio, options.audio_track)
        separate = None if voice is None else _measured(voice)
        self.voice = separate or self.audio
        self.voices = [self.voice]
        """For each face, the audio that drives the mouth."""
        shift = models.mel_shift if options.mel_shift is None else options.mel_shift
        self.extent = Extent.of(options, info, self.audio.duration, self.audio.path)
        if self._watched is not None:
            self._watched.expect(self.extent)
        self._mel = MelStream(
            self.voice,
            self.fps,
            shift,
            pool,
            pause_threshold=options.pause_threshold,
            is_endless=separate is not None or self.extent.follows_video,
        )

    def close(self) -> None:
        """Close the audio. All stages of the pass must have ended."""
        self._mel.close()

    def selected(
        self, frames: Iterator[Frame], models: Models, memory: FaceMemory | None
    ) -> Iterator[SelectedFrame]:
        """Yield the frames with their faces."""
        options = self._options
        plan = None if self._watched is None else self._watched.plan()
        tracked = find_faces(frames, models.detector, options.faces, memory, plan)
        skipped, occlusion = options.skipped_frames(self._info), options.load_occlusion()
        selected = select_frames(tracked, options.limits, skipped, self.fps, models.face_size, occlusion)
        return selected if plan is None else marked_unsure(selected, plan)

    def mel_window(self, index: int) -> Mel | Wav2LipError | None:
        """Return the mel window of a frame, or the error of its audio.

        Returns None after the last frame and after the output has failed. Call it in one thread, with frames
        in order.
        """
        if self.extent.has_ended(index) or self._closed.is_set():
            return None
        try:
            return self._mel.window(self.extent.first + index)
        except Wav2LipError as error:
            self._closed.set()
            return error

    def recorder(self) -> FrameRecorder:
        """Return what records the frames of `damped`."""
        must_have_face = self._options.faces.no_face == "error"
        return FrameRecorder(self._info.path, self.fps, must_have_face, start=self.extent.first)

    def damped(
        self, dubbed: Iterator[DubbedFrame], number: int, recorder: FrameRecorder
    ) -> Iterator[tuple[SelectedFrame, Mouth]]:
        """Yield the frames of the output with the mouths at position `number`, damped in pauses.

        Raises `FaceError`, and the error of the audio.
        """
        damper: SilenceDamper | None = None
        for item in recorder.record(itertools.islice(self._needed(dubbed), self.extent.limit)):
            selected, mouth = item.selected, item.mouths[number]
            tracked = selected.tracked
            if isinstance(mouth, Wav2LipError):
                raise mouth
            if self._options.pause_threshold is not None:
                damper = damper or SilenceDamper(self._mel.pauses(), self.fps, self._mel.shift)
                mouth = damper(self.extent.first + tracked.frame.index, mouth, tracked.cut)
            yield selected, mouth
            del item, selected, tracked, mouth  # the consumer decides how long a frame is held

    def show(self, frame: tuple[SelectedFrame, Mouth]) -> tuple[SelectedFrame, YuvImage]:
        """Return a frame, and its image with the mouth."""
        selected, mouth = frame
        return selected, composite(selected, mouth, self._mask)

    def pasted(self, yuv: YuvImage, selected: SelectedFrame, mouth: Mouth) -> YuvImage:
        """Return an image of a frame, such as one with the mouth of another face, with a mouth."""
        return composite(selected, mouth, self._mask, yuv)

    def enhancement(self, enhancer: Enhancer, options: EnhanceOptions) -> Enhancement:
        """Return what enhances the frames of `show`."""
        return Enhancement(enhancer, options)

    def report(self) -> dict[str, Any]:
        """Return further fields of the report."""
        watched = self._watched
        return {} if watched is None else {"spoken": watched.spans(), "speech_judge": watched.film.judge}

    def pauses(self) -> Pauses | None:
        """Wait for the pauses of the voice, see `MelStream`; None if they are not detected."""
        return None if self._options.pause_threshold is None else self._mel.pauses()

    def cancel(self) -> None:
        """Cancel the search for pauses."""
        self._mel.cancel()

    @contextlib.contextmanager
    def cancelling(self) -> Iterator[None]:
        """After the block, give no more mel windows. If it fails, cancel the search for pauses, too.

        The blending stage may be waiting for it.
        """
        try:
            yield
        except BaseException:
            self.cancel()
            raise
        finally:
            self._closed.set()

    def _needed(self, dubbed: Iterable[DubbedFrame]) -> Iterator[DubbedFrame]:
        """Yield the frames up to the end of the output."""
        for item in dubbed:
            if self.extent.is_after_both(item.selected.tracked.frame):
                return
            yield item
            del item


def _measured(audio: AudioSource, track: int | None = None) -> AudioInfo:
    return audio if isinstance(audio, AudioInfo) else measure_audio(audio, track)
