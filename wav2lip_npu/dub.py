"""Dub one video: a face video or photo and speech in, a lip-synced video out.

Constant memory, stages overlapping: decoder, face finder, generator, blending, encoder. A frame without
a face is a value on the stream (`box` is None) and passes through unchanged.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from wav2lip_npu import __version__, device, media
from wav2lip_npu.blend import Mask, load_mask, paste
from wav2lip_npu.encode import EncodeOptions, check_target, write_video
from wav2lip_npu.errors import MediaError, UsageError
from wav2lip_npu.faces import Faced, FaceOptions, find_faces
from wav2lip_npu.mel import DEFAULT_MEL, Mel, log_mel, mel_window
from wav2lip_npu.overlap import in_lanes, prefetch
from wav2lip_npu.planes import Image, Planes
from wav2lip_npu.report import DubReport, Notes, Stopwatch
from wav2lip_npu.rest import Rest, Steady
from wav2lip_npu.sound import Samples, Sound, load_sound

if TYPE_CHECKING:
    from wav2lip_npu.generate import Models, Speaker

Item = TypeVar("Item")

FACE_SIZE = 96  # that of models.py, which would cost a second to import here
_QUEUE_BYTES = 24 << 20
"""Bytes of pictures that may wait between two stages."""


@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """How one video is dubbed."""

    faces: FaceOptions = field(default_factory=FaceOptions)
    geometry: media.Geometry = field(default_factory=media.Geometry)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    blend: str = "soft"
    """How the mouth is put back: soft (lower face, feathered edge) or hard (whole box, as the original)."""
    extend: str = "loop"
    """When the video is shorter than the sound: loop, pingpong (back and forth) or hold (last picture)."""
    static: bool = False
    """Use only the first frame of the video."""
    fps: float = 25
    """Frames a second for a still image; a video keeps its own rate."""
    mel_shift: float | None = None
    """Frames of 1/25 s by which the sound is moved against the picture: negative makes the mouth later.
    (default: as the checkpoint was trained if it is of this package, else 0)"""
    wav2lip_batch_size: int | None = None
    """Faces that the generator sees at once. (default: what suits the device)"""

    def check(self) -> None:
        """Raise `UsageError` when a value is unknown or out of range."""
        self.faces.check()
        self.encode.check()
        load_mask(self.blend, FACE_SIZE)
        if self.extend not in media.LOOPS[1:]:
            raise UsageError(f"unknown --extend {self.extend!r}. Pass {', '.join(media.LOOPS[1:])}.")
        if not 0 < self.fps <= 1000:
            raise UsageError(f"--fps {self.fps:g} is out of range. Pass a rate above 0, at most 1000.")


@dataclass(frozen=True)
class Spoken:
    """A frame with its new mouth, if it has a face."""

    faced: Faced
    mouth: Image | None


def check_files(
    face: str | os.PathLike[str], audio: str | os.PathLike[str], out: str | os.PathLike[str]
) -> media.VideoInfo:
    """What the face video is. Raises `MediaError` when a file cannot be opened or `out` is an input."""
    for path in (face, audio):
        if os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):
            raise MediaError(f"the output {out} is also an input and would be lost. Pass another --outfile.")
    info = media.probe(face)
    media.open_media(audio).close()
    check_target(out)
    return info


def dub(
    models: Models,
    face: str | os.PathLike[str],
    audio: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: DubOptions = DubOptions(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> DubReport:
    """Write `out`: the face video or image speaking `audio`, as long as the sound.

    `progress` is called with the number of the frame written last and of all frames. Raises `MediaError`,
    `FaceError` or `UsageError`; then `out` is as it was before.
    """
    from wav2lip_npu.generate import Speaker

    started = perf_counter()
    options.check()
    info = check_files(face, audio, out)
    fps = Fraction(options.fps).limit_denominator(1001) if info.is_image else info.fps
    sound = load_sound(audio)
    mel = log_mel(_long_enough(sound))
    count = max(1, round(sound.duration * fps))
    mask = load_mask(options.blend, FACE_SIZE)
    speaker = Speaker(models, options.wav2lip_batch_size, mask)
    mel_shift = models.mel_shift if options.mel_shift is None else options.mel_shift
    notes = Notes(os.fspath(face), fps, options.faces.no_face == "error")
    watch = Stopwatch()
    depth = min(16, max(2, _QUEUE_BYTES * 2 // (3 * info.width * info.height)))

    with contextlib.ExitStack() as stack:
        stack.enter_context(_opencv_in_one_thread())

        def ahead(stage: str, items: Iterator[Item]) -> Iterator[Item]:
            """The stage in a thread of its own, which ends with this function at the latest."""
            running = prefetch(watch.work(stage, items), depth)
            stack.callback(running.close)
            return running

        frames = ahead("decode", itertools.islice(pictures(face, info, options), count))
        faced = ahead("faces", find_faces(watch.wait("faces", frames), models.detector, options.faces))
        noted = notes.take(watch.wait("generate", faced))
        # A mouth that is pasted as the original pastes it is the original's in pauses too.
        rest = None if mask.exact else Rest(mel, fps, mel_shift)
        still = info.is_image or options.static
        steady = Steady(fps) if models.is_ours and not (mask.exact or still) else None
        spoken = ahead("generate", speak(noted, mel, fps, speaker, mel_shift, rest, steady))
        shown = ahead("blend", blend_all(watch.wait("blend", spoken), mask))
        written = watch.wait("encode", _reported(shown, count, progress))
        encoding = perf_counter()
        write_video(
            written,
            out,
            fps=fps,
            audio=audio,
            options=options.encode,
            comment=_comment(models),
            pixel_aspect=info.pixel_aspect,
        )
        watch.seconds["encode"] += perf_counter() - encoding
    seconds = perf_counter() - started
    return DubReport(
        outfile=os.fspath(out),
        face=os.fspath(face),
        audio=os.fspath(audio),
        checkpoint=os.fspath(models.weights),
        checkpoint_sha256=models.digest,
        detector=models.detector.name,
        device=device.describe(models.device),
        precision=str(models.precision).removeprefix("torch."),
        width=notes.width,
        height=notes.height,
        fps=str(fps),
        frames=count,
        dubbed_frames=notes.dubbed,
        faceless_spans=notes.faceless,
        cuts=notes.cuts,
        seconds=round(seconds, 3),
        seconds_per_stage={stage: round(spent, 3) for stage, spent in watch.seconds.items()},
        frames_per_second=round(count / seconds, 2),
        peak_memory_bytes=device.peak_memory(),
        device_peak_memory_bytes=device.device_peak_memory(models.device),
    )


def pictures(
    face: str | os.PathLike[str], info: media.VideoInfo, options: DubOptions
) -> Iterator[media.Frame]:
    """Frames without end: the video extended as asked, or its first frame, or the image."""
    if info.is_image or not options.static:
        yield from media.read_frames(face, fps=info.fps, loop=options.extend, geometry=options.geometry)
        return
    first = next(media.read_frames(face, fps=info.fps, geometry=options.geometry))
    yield from (media.Frame(index, first.planes, first.source) for index in itertools.count())


def speak(
    faced: Iterable[Faced],
    mel: Mel,
    fps: Fraction,
    speaker: Speaker,
    mel_shift: float = 0,
    rest: Rest | None = None,
    steady: Steady | None = None,
) -> Iterator[Spoken]:
    """Give each frame that has a face the mouth that says its part of the mel, batch by batch."""

    def work(batch: _Batch) -> list[Spoken]:
        mouths = iter(speaker(batch.faces, batch.mels, batch.references or None))
        return [Spoken(item, None if item.box is None else next(mouths)) for item in batch.items]

    batches = _batches(faced, mel, fps, speaker.batch, mel_shift, steady)
    with device.shared_cores(speaker.device) as prepare:
        for spoken in in_lanes(work, batches, speaker.lanes, prepare):
            spoken.reverse()
            while spoken:  # a picture that was handed on must not be held here
                yield spoken.pop() if rest is None else _rested(spoken.pop(), rest)


def _rested(spoken: Spoken, rest: Rest) -> Spoken:
    faced = spoken.faced
    return Spoken(faced, rest(faced.frame.index, spoken.mouth, faced.cut))


@dataclass(frozen=True)
class _Batch:
    """Consecutive frames, and face, mel window and reference, if it is another, of those that have a face."""

    items: list[Faced] = field(default_factory=list)
    faces: list[Image] = field(default_factory=list)
    mels: list[Mel] = field(default_factory=list)
    references: list[Image] = field(default_factory=list)


def _batches(
    faced: Iterable[Faced], mel: Mel, fps: Fraction, size: int, mel_shift: float, steady: Steady | None
) -> Iterator[_Batch]:
    batch = _Batch()
    shown: Planes | None = None
    for item in faced:
        batch.items.append(item)
        if item.box is not None:
            if item.frame.planes is not shown:  # a still picture is cut once
                shown = item.frame.planes
                face = shown.cut(item.box, FACE_SIZE)
            batch.faces.append(face)
            batch.mels.append(mel_window(mel, item.frame.index, fps, mel_shift))
            if steady is not None:
                batch.references.append(steady(face, item.cut))
        if len(batch.faces) == size or len(batch.items) == 2 * size:
            yield batch
            batch = _Batch()
    if batch.items:
        yield batch


def blend_all(spoken: Iterable[Spoken], mask: Mask) -> Iterator[Planes]:
    """Pictures with their mouths in; those without a face are the very ones that were decoded."""
    for item in spoken:
        planes, box = item.faced.frame.planes, item.faced.box
        yield planes if box is None or item.mouth is None else paste(planes, item.mouth, box, mask)


@contextlib.contextmanager
def _opencv_in_one_thread() -> Iterator[None]:
    """The stages already fill the cores; OpenCV's own threads would only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _long_enough(sound: Sound) -> Samples:
    """The sound, padded with silence to the shortest piece that makes a mel window."""
    shortest = DEFAULT_MEL.hop * DEFAULT_MEL.columns_per_window
    return np.pad(sound.wav, (0, max(0, shortest - len(sound.wav))))


def _reported(
    shown: Iterable[Planes], count: int, progress: Callable[[int, int], None] | None
) -> Iterator[Planes]:
    for number, planes in enumerate(shown, start=1):
        yield planes
        if progress is not None:
            progress(number, count)


def _comment(models: Models) -> str:
    """What the file says of itself to whoever looks."""
    name = models.weights.name.encode("utf-8", "replace").decode()
    weights = f"{name} (sha256 {models.digest})"
    return f"Lips synchronised to the sound by wav2lip-npu {__version__}, weights {weights}"
