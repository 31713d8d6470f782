"""Dub: a face video or photo and speech in, a lip-synced video out; or several sounds in one pass.

Constant memory, stages overlapping: decoder, face finder, generator, blending, encoder. A frame without
a face is a value on the stream (`box` is None) and passes through unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeVar

import cv2

from wav2lip_npu import mel
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.mouths import FACE_SIZE, generate
from wav2lip_npu.dubbing.outputs import Output, OutputWriter, Progress, Scene
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.dubbing.temporal_smoothing import ReferenceSmoother
from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.container import VideoInfo, probe, probed
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.parallel.threads import fan_out, prefetch

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

Item = TypeVar("Item")

_QUEUE_BYTES = 24 << 20
"""Bytes of pictures that may wait between two stages."""


@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """How one video is dubbed."""

    faces: FaceOptions = field(default_factory=FaceOptions)
    geometry: Geometry = field(default_factory=Geometry)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    blend: str = "soft"
    """How the mouth is put back: soft (lower face, feathered edge) or hard (whole box, as the original)."""
    extend: Literal["loop", "pingpong", "hold"] = "loop"
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
        load_mask(self.blend, FACE_SIZE)
        if self.extend not in video_reader.LOOPS[1:]:
            raise UsageError(f"unknown --extend {self.extend!r}. Pass {', '.join(video_reader.LOOPS[1:])}.")
        if self.wav2lip_batch_size is not None and self.wav2lip_batch_size < 1:
            raise UsageError(f"--wav2lip_batch_size {self.wav2lip_batch_size} is not at least 1.")
        if not 0 < self.fps <= 1000:
            raise UsageError(f"--fps {self.fps:g} is out of range. Pass a rate above 0, at most 1000.")


def check_files(
    face: str | os.PathLike[str], audio: str | os.PathLike[str], out: str | os.PathLike[str]
) -> VideoInfo:
    """What the face video is. Raises `MediaError` when a file cannot be opened or `out` is an input."""
    info = probe(face)
    Output(audio, out).check(face)
    return info


def dub(
    face: VideoInfo | str | os.PathLike[str],
    audio: str | os.PathLike[str],
    outfile: str | os.PathLike[str],
    *,
    models: Models,
    options: DubOptions = DubOptions(),
    progress: Progress | None = None,
) -> DubReport:
    """Write `outfile`: the face video or image speaking `audio`, as long as the sound.

    Raises `MediaError`, `FaceError` or `UsageError`; then `outfile` is as it was before.
    """
    (made,) = dub_many(face, [Output(audio, outfile, progress=progress)], models=models, options=options)
    if isinstance(made, Exception):
        raise made
    return made


def dub_many(
    face: VideoInfo | str | os.PathLike[str],
    takes: Sequence[Output],
    *,
    models: Models,
    options: DubOptions = DubOptions(),
    memory: FaceMemory | None = None,
) -> list[DubReport | Exception]:
    """Several sounds for one face video in one pass: it is decoded, searched and encoded by the network once.

    For each take its report, or the exception that it failed of, which leaves the others alone; each output
    is what it is without the others, to the byte. `memory` knows the faces of the video, or learns them.
    Raises `UsageError` when the options are wrong and `MediaError` when the face video is.
    """
    options.check()
    mel.preload()
    info = probed(face)
    scene = Scene(
        face=info.path,
        info=info,
        fps=Fraction(options.fps).limit_denominator(1001) if info.is_image else info.fps,
        models=models,
        mask=load_mask(options.blend, FACE_SIZE),
        mel_shift=models.mel_shift if options.mel_shift is None else options.mel_shift,
        encode=options.encode,
        must_have_face=options.faces.no_face == "error",
    )
    made: dict[int, DubReport | Exception] = {}
    making: dict[int, OutputWriter] = {}
    for number, take in enumerate(takes):
        try:
            take.check(info.path)
            making[number] = OutputWriter(scene, take)
        except Wav2LipError as error:
            made[number] = error
    if making:
        made |= zip(making, _made(scene, list(making.values()), options, memory), strict=True)
    return [made[number] for number in range(len(takes))]


def _made(
    scene: Scene, making: Sequence[OutputWriter], options: DubOptions, memory: FaceMemory | None
) -> list[DubReport | Exception]:
    """All takes, made at the same time."""
    from wav2lip_npu.dubbing.inference import GeneratorRunner

    models, info, watch = scene.models, scene.info, scene.watch
    speaker = GeneratorRunner(models, options.wav2lip_batch_size, scene.mask)
    depth = min(16, max(2, _QUEUE_BYTES * 2 // (3 * info.width * info.height)))
    voices = [each.voice for each in making]
    longest = max(voice.frames for voice in voices)
    if memory is not None:
        memory.expect_frames(longest)
    still = info.is_image or options.static
    steady = ReferenceSmoother(scene.fps) if models.is_ours and not (scene.mask.exact or still) else None

    with contextlib.ExitStack() as stack:
        stack.enter_context(_opencv_in_one_thread())

        def ahead(stage: str, items: Iterator[Item]) -> Iterator[Item]:
            """The stage in a thread of its own, which ends with this function at the latest."""
            running = prefetch(watch.work(stage, items), depth)
            stack.callback(running.close)
            return running

        frames = ahead("decode", pictures(info, options))
        found = find_faces(watch.wait("faces", frames), models.detector, options.faces, memory)
        # Not fewer frames than there are: the boxes of the last ones depend on those that follow, so that
        # they are the same for every sound.
        faced = ahead("faces", itertools.islice(found, longest))
        spoken = ahead(
            "generate",
            generate(watch.wait("generate", faced), voices, scene.fps, speaker, scene.mel_shift, steady),
        )
        room = max(2, depth // len(making))
        writers = [
            functools.partial(each.write, number, len(making), room) for number, each in enumerate(making)
        ]
        return fan_out(spoken, writers, room)


def pictures(info: VideoInfo, options: DubOptions) -> Iterator[video_reader.Frame]:
    """Frames without end: the video extended as asked, or its first frame, or the image."""
    if info.is_image or not options.static:
        yield from video_reader.read_frames(info, loop=options.extend, geometry=options.geometry)
        return
    first = next(video_reader.read_frames(info, geometry=options.geometry))
    yield from (video_reader.Frame(index, first.yuv, first.source) for index in itertools.count())


@contextlib.contextmanager
def _opencv_in_one_thread() -> Iterator[None]:
    """The stages already fill the cores; OpenCV's own threads would only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
