"""The frames of an output with several speakers: the mouth of each, by their own audio, in one frame."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from wav2lip_npu.dubbing.dialogue import Dialogue
from wav2lip_npu.dubbing.enhance import Enhancement, EnhanceOptions, Enhancer
from wav2lip_npu.dubbing.mouths import DubbedFrame
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.output_frames import Mouth, OutputFrames
from wav2lip_npu.dubbing.report import FrameRecorder, SpeakerReport
from wav2lip_npu.dubbing.selection import Reason, SelectedFrame, num_fade_frames, select_frames
from wav2lip_npu.dubbing.speaker_faces import SpeakerFaces
from wav2lip_npu.dubbing.turns import Turns, turns_of
from wav2lip_npu.dubbing.voices import Voices
from wav2lip_npu.dubbing.watched import WatchedFilm, marked_unsure
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.faces.appearance import load_appearance
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.faces.speaker_tracks import TrackStore
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.mel import Mel

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

log = logging.getLogger(__name__)
Item = TypeVar("Item")
_LEAD = 3
"""Frames before and after a dubbed span in which the face is tracked, too. Tracking looks ahead, so more are
not needed."""


class SpeakersFrames:
    """The frames of one output in which several people speak.

    The faces of a frame follow each other through the generator: face `k` of frame `i` has the number
    `i * faces + k` there.

    Raises `MediaError` if audio cannot be read.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        voices: Voices,
        info: VideoInfo,
        models: Models,
        options: DubOptions,
        pool: Executor,
        tracks: TrackStore | None = None,
    ) -> None:
        self._watched = WatchedFilm(info, models, options)
        self._dialogue, self._voices, self._info, self._options = dialogue, voices, info, options
        self._rules = dialogue.faces
        self.faces = len(self._rules)
        self.audio = voices.mix
        self.voices = [voices.voices[name].audio for name in self._rules]
        self._speakers: list[OutputFrames] = []
        for voice in self.voices:
            self._speakers.append(OutputFrames(voices.mix, voice, info, models, options, pool))
        self.fps, self.extent = self._speakers[0].fps, self._speakers[0].extent
        if any(rule.is_auto for rule in self._rules.values()):
            self._watched.expect(self.extent)
        self._faces = SpeakerFaces(list(self._rules.values()), info, options, self.fps, self.extent, tracks)
        self._recorders: list[FrameRecorder] = []

    def close(self) -> None:
        """Close the audio. All stages of the pass must have ended."""
        for speaker in self._speakers:
            speaker.close()

    @functools.cached_property
    def _turns(self) -> dict[str, Turns]:
        """Turns of all who are seen. Waits for the pauses of their audio."""
        pauses = [speaker.pauses() for speaker in self._speakers]
        voices = [self._voices.voices[name] for name in self._rules]
        return dict(zip(self._rules, turns_of(voices, pauses), strict=True))

    def selected(
        self, frames: Iterator[Frame], models: Models, memory: FaceMemory | None
    ) -> Iterator[SelectedFrame]:
        """Yield each frame as often as there are speakers, with the face of each."""
        options, fps, fade = self._options, self.fps, num_fade_frames(self.fps)
        if self._dialogue.listeners == "still":
            spoken = [Turns.always()] * self.faces
        else:
            spoken = [self._turns[name].frames(fps, self.extent.first, fade) for name in self._rules]
        wanted = [turns.widened(_LEAD) for turns in spoken]
        plans = [
            self._watched.plan_of(self._turns[name].seconds) if rule.is_auto else None
            for name, rule in self._rules.items()
        ]
        tracked = self._faces.tracked(frames, models, wanted, plans)
        skipped = options.skipped_frames(self._info)
        streams = unzipped(tracked, self.faces)
        selected = [
            select_frames(
                stream, options.limits, skipped, fps, models.face_size, options.load_occlusion(), turns.others
            )
            for stream, turns in zip(streams, spoken, strict=True)
        ]
        selected = [
            frames if plan is None else marked_unsure(frames, plan)
            for frames, plan in zip(selected, plans, strict=True)
        ]
        for same in zip(*selected, strict=True):
            for number, item in enumerate(same):
                yield _numbered(item, item.tracked.frame.index * self.faces + number)
            del same, item

    def keep_faces(self) -> None:
        """Keep the faces for further dubs, after the output was written."""
        self._faces.keep()

    def mel_window(self, index: int) -> Mel | Wav2LipError | None:
        """Return the mel window of a face, see `OutputFrames`."""
        return self._speakers[index % self.faces].mel_window(index // self.faces)

    def recorder(self) -> FrameRecorder:
        """Return what records the frames of `damped`."""
        must_have_face = self._options.faces.no_face == "error"
        names = list(self._rules)
        return FrameRecorder(self._info.path, self.fps, must_have_face, self.extent.first, speakers=names)

    def damped(
        self, dubbed: Iterator[DubbedFrame], number: int, recorder: FrameRecorder
    ) -> Iterator[list[tuple[SelectedFrame, Mouth]]]:
        """Yield the frames of the output with the faces and mouths of all speakers."""
        same = (_of_frame(items, self.faces) for items in _groups(dubbed, self.faces))
        fed = self._recorded(same, recorder)
        streams = unzipped(fed, self.faces)
        must_have_face = self._options.faces.no_face == "error"
        self._recorders = [
            FrameRecorder(self._info.path, self.fps, must_have_face, self.extent.first, is_optional=True)
            for _ in self._speakers
        ]
        damped = [
            speaker.damped(stream, number, own)
            for speaker, stream, own in zip(self._speakers, streams, self._recorders, strict=True)
        ]
        for items in zip(*damped, strict=True):
            yield list(items)
            del items
        next(streams[0], None)  # ends `recorder`, which raises an error if nobody was dubbed

    def _recorded(
        self, frames: Iterable[tuple[DubbedFrame, ...]], recorder: FrameRecorder
    ) -> Iterator[tuple[DubbedFrame, ...]]:
        """Yield the frames, and record each as one that is dubbed if one of its faces is."""
        held: deque[tuple[DubbedFrame, ...]] = deque()

        def all_faces() -> Iterator[DubbedFrame]:
            for items in itertools.islice(frames, self.extent.limit):
                if self.extent.is_after_both(items[0].selected.tracked.frame):
                    return
                reasons = [item.selected.reason for item in items]
                listening: Reason = "listening"
                reason = next((reason for reason in reasons if reason != listening), listening)
                selected = replace(items[0].selected, reason=None if None in reasons else reason)
                held.append(items)
                del items
                yield DubbedFrame(selected, ())
                del selected

        for item in recorder.record(all_faces()):
            del item
            yield held.popleft()

    def show(
        self, faces: Sequence[tuple[SelectedFrame, Mouth]]
    ) -> tuple[tuple[SelectedFrame, ...], YuvImage]:
        """Return the faces of a frame, and its image with all mouths."""
        yuv = faces[0][0].tracked.frame.yuv
        for speaker, (selected, mouth) in zip(self._speakers, faces, strict=True):
            yuv = speaker.pasted(yuv, selected, mouth)
        return tuple(selected for selected, _ in faces), yuv

    def enhancement(self, enhancer: Enhancer, options: EnhanceOptions) -> Any:
        """Return what enhances the frames of `show`."""
        each = [Enhancement(enhancer, options) for _ in self._speakers]

        def enhance(
            frames: Iterable[tuple[tuple[SelectedFrame, ...], YuvImage]],
        ) -> Iterator[tuple[tuple[SelectedFrame, ...], YuvImage]]:
            for faces, yuv in frames:
                for enhancement, selected in zip(each, faces, strict=True):
                    yuv = enhancement.enhanced(selected, yuv)
                yield faces, yuv
                del faces, yuv

        return enhance

    @contextlib.contextmanager
    def cancelling(self) -> Iterator[None]:
        """See `OutputFrames`."""
        with contextlib.ExitStack() as stack:
            for speaker in self._speakers:
                stack.enter_context(speaker.cancelling())
            yield

    def report(self) -> dict[str, Any]:
        """Return further fields of the report; log the names of speakers who are never seen."""
        recorders = dict(zip(self._rules, self._recorders, strict=True))
        speakers = []
        for name, voice in self._voices.voices.items():
            own = recorders.get(name)
            turns = self._turns[name] if name in self._rules else turns_of([voice], [None])[0]
            if own is not None and not own.dubbed_frames:
                log.warning("the face of %s is never dubbed. See the report for the reasons.", name)
            speakers.append(
                SpeakerReport(
                    name=name,
                    audio=list(dict.fromkeys(track.source.path for track in voice.audio.tracks)),
                    face=self._rules[name].text if name in self._rules else None,
                    turns=[(round(float(start), 3), round(float(end), 3)) for start, end in turns.seconds],
                    dubbed_frames=0 if own is None else own.dubbed_frames,
                    unchanged_spans=[] if own is None else own.unchanged_spans,
                )
            )
        report: dict[str, Any] = {"speakers": speakers, "told_apart_by": load_appearance().name}
        if turns_of_autos := {name: self._turns[name] for name, rule in self._rules.items() if rule.is_auto}:
            watched = self._watched
            spans = (watched.spans_of(name, turns.seconds) for name, turns in turns_of_autos.items())
            spoken = sorted(itertools.chain(*spans), key=lambda span: span.start)
            report |= {"spoken": spoken, "speech_judge": watched.film.judge}
        return report


def _numbered(item: SelectedFrame, number: int) -> SelectedFrame:
    tracked = item.tracked
    return replace(item, tracked=replace(tracked, frame=replace(tracked.frame, index=number)))


def _of_frame(items: Sequence[DubbedFrame], faces: int) -> tuple[DubbedFrame, ...]:
    """Return the faces of a frame with the number of the frame."""
    return tuple(
        replace(item, selected=_numbered(item.selected, item.selected.tracked.frame.index // faces))
        for item in items
    )


def _groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while group := list(itertools.islice(items, size)):
        yield group
        del group


def unzipped(tuples: Iterable[tuple[Item, ...]], size: int) -> list[Iterator[Item]]:
    """Return an iterator over each element of the tuples, for one thread; they should advance together."""
    source = iter(tuples)
    waiting: list[deque[Item]] = [deque() for _ in range(size)]

    def element(number: int) -> Iterator[Item]:
        while True:
            if not waiting[number]:
                items = next(source, None)
                if items is None:
                    return
                for queue, item in zip(waiting, items, strict=True):
                    queue.append(item)
                del items, item
            yield waiting[number].popleft()

    return [element(number) for number in range(size)]
