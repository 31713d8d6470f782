"""Dub videos: a face video or image and audio in, a lip-synced video out; several audios in one pass.

Memory is constant, and the stages run at the same time: decoder, face tracker, generator, blending, encoder.
A frame without a face is a value on the stream (`box` is None) and passes unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from wav2lip_npu import signals
from wav2lip_npu.dubbing.options import DubOptions as DubOptions
from wav2lip_npu.dubbing.output_frames import OutputFrames
from wav2lip_npu.dubbing.outputs import Output, OutputWriter, Progress
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.dubbing.stages import mouths_of
from wav2lip_npu.dubbing.stopwatch import Stopwatch
from wav2lip_npu.dubbing.watched import WatchedFilm
from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.media.container import VideoInfo, probed
from wav2lip_npu.options import expect, with_values
from wav2lip_npu.parallel.threads import fan_out
from wav2lip_npu.storage.atomic import real_name
from wav2lip_npu.storage.outputs import InputPath

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models
    from wav2lip_npu.dubbing.speakers_frames import SpeakersFrames

_MEL_THREADS = 2
"""Number of recordings whose pauses are computed concurrently."""
_OF_MODELS = ("checkpoint_path", "device", "precision", "engine", "compile", "face_size", "audio_refine")
"""Options of `load_models` that `dub` does not accept."""


@signals.deferred()
def dub(
    face: str | os.PathLike[str] | VideoInfo,
    audio: str | os.PathLike[str],
    outfile: str | os.PathLike[str],
    *,
    voice: str | os.PathLike[str] | None = None,
    models: Models | Callable[[], Models] | None = None,
    options: DubOptions | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> DubReport:
    """Lip-sync a face video or image to an audio file.

    The output lasts as long as the audio, unless `extend`, `start` or `duration` changes its length.

    Args:
        face: Video or image with the face, in any format.
        audio: Audio file, or a video with audio, in any format.
        outfile: Video to write: .mp4, .mov, .mkv or .avi. An existing file is replaced when the new one is
            complete.
        voice: Audio that drives the mouth instead of `audio`, such as a voice without music. Both begin
            at the same time; a shorter voice is followed by silence. Default: `audio`.
        models: Networks from `load_models`, to load them once for several dubs, or a function that returns
            them, called after the files have been checked. Their detector replaces the option `detector`.
            Default: the bundled weights, on the first available of npu, cuda, cpu.
        options: Options of the dub. Default: `DubOptions()`.
        progress: Called with the number of frames written so far and the total.
        **values: Options by name, at any nesting: `resize_factor=2, crf=18, no_face="error"`. They override
            `options`.

    Returns:
        The report: frames, spans without a face, seconds per stage.

    Raises:
        MediaError: A file cannot be read or written, or the output is also an input.
        FaceError: No frame has a face, or one has none with `no_face="error"`.
        UsageError: An option is unknown or out of range.
        CheckpointError, DeviceError: The models cannot be loaded.

    Example:
        >>> import wav2lip_npu
        >>> report = wav2lip_npu.dub("talk.mp4", "speech.wav", "out.mp4", crf=20)
        >>> report.frames, report.faceless_spans
        (150, [])

    """
    output = Output(audio, outfile, progress=progress, voice=voice)
    options = with_dub_options(options, values)
    info = probed(face)
    output.check(_inputs(info, [output], options), audio_track=options.audio_track)
    signals.check()
    (result,) = dub_all(info, [output], loaded_models(models, options), options)
    if isinstance(result, Exception):
        raise result
    return result


@signals.deferred()
def dub_many(
    face: str | os.PathLike[str] | VideoInfo,
    outputs: Sequence[Output | tuple[str | os.PathLike[str], str | os.PathLike[str]]],
    *,
    models: Models | Callable[[], Models] | None = None,
    options: DubOptions | None = None,
    memory: FaceMemory | None = None,
    **values: Any,
) -> list[DubReport | Exception]:
    """Dub a face video with several audios in one pass: its frames are decoded, tracked and encoded once.

    Each output is byte for byte what `dub` writes for its audio alone, and fails without affecting the
    others.

    Args:
        face: Video or image with the face, in any format.
        outputs: Pairs of audio and file to write, or `Output` objects, which may have a progress callback.
        models: See `dub`.
        options: See `dub`.
        memory: Boxes detected earlier in this video, which this dub extends. Not used with `start`.
        **values: See `dub`.

    Returns:
        For each output, in order, its report or the exception that it failed with.

    Raises:
        MediaError: The face video cannot be read.
        UsageError: An option is unknown or out of range, or two outputs have the same file name.
        CheckpointError, DeviceError: The models cannot be loaded.

    Example:
        >>> import wav2lip_npu
        >>> pairs = [("monday.wav", "monday.mp4"), ("tuesday.wav", "tuesday.mp4")]
        >>> for result in wav2lip_npu.dub_many("talk.mp4", pairs):
        ...     print(result if isinstance(result, Exception) else result.outfile)

    """
    options = with_dub_options(options, values)
    wanted = [_output(item) for item in outputs]
    for name, count in Counter(real_name(output.outfile) for output in wanted).items():
        if count > 1:
            raise UsageError(f"{name} is the file of {count} outputs. Pass another name for each.")
    info = probed(face)
    results: dict[int, DubReport | Exception] = {}
    checked: dict[int, Output] = {}
    inputs = _inputs(info, wanted, options)
    for number, output in enumerate(wanted):
        try:
            output.check(inputs, audio_track=options.audio_track)
            checked[number] = output
        except Wav2LipError as error:
            results[number] = error
    if checked:
        dubbed = dub_all(info, list(checked.values()), loaded_models(models, options), options, memory)
        results |= zip(checked, dubbed, strict=True)
    return [results[number] for number in range(len(wanted))]


def _inputs(info: VideoInfo, outputs: Sequence[Output], options: DubOptions) -> list[InputPath]:
    """Return the input files of the outputs."""
    inputs = [InputPath("--face", info.path)]
    inputs += [InputPath(f"--{name}", path) for name, path in options.network_files.items()]
    for output in outputs:
        inputs.append(InputPath("--audio", output.audio))
        if output.voice is not None:
            inputs.append(InputPath("--voice", output.voice))
    return inputs


def _output(item: Output | tuple[str | os.PathLike[str], str | os.PathLike[str]]) -> Output:
    if isinstance(item, Output):
        return item
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UsageError(
            f"{item!r:.80} is not an output. Pass pairs of audio and file to write, or Output(...)."
        )
    return Output(*item)


def with_dub_options(options: DubOptions | None, values: Mapping[str, Any]) -> DubOptions:
    """Return the options with values by name. Raises `UsageError` for an unknown one."""
    for name in values:
        if name in _OF_MODELS:
            raise UsageError(f"{name} is an option of load_models. Pass models=load_models({name}=...).")
    return with_values(expect(options, DubOptions), values)


def loaded_models(models: Models | Callable[[], Models] | None, options: DubOptions) -> Models:
    """Return the argument `models` of a dub, loaded."""
    from wav2lip_npu.dubbing.inference import expect_models, load_models

    if models is None:
        return load_models(detector=options.faces.detector)
    return expect_models(models() if callable(models) else models)


def dub_all(
    info: VideoInfo,
    outputs: Sequence[Output],
    models: Models,
    options: DubOptions,
    memory: FaceMemory | None = None,
    frames_of: Callable[[Output, Executor], OutputFrames | SpeakersFrames] | None = None,
) -> list[DubReport | Exception]:
    """Dub all outputs at the same time; return a report or an exception for each.

    `frames_of` returns the frames of an output, those of one face by default.
    """
    signals.check()

    watched = WatchedFilm(info, models, options)

    def one_face(output: Output, pool: Executor) -> OutputFrames:
        return OutputFrames(output.audio, output.voice, info, models, options, pool, watched)

    frames_of = frames_of or one_face
    stopwatch = Stopwatch()
    results: dict[int, DubReport | Exception] = {}
    writers: dict[int, OutputWriter] = {}
    with contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(_MEL_THREADS, thread_name_prefix="mel")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for number, output in enumerate(outputs):
            try:
                frames = frames_of(output, pool)
                stack.callback(frames.close)
                writers[number] = OutputWriter(output, frames, info, models, options, stopwatch)
            except Wav2LipError as error:
                results[number] = error
        if writers:
            written = _write_all(info, list(writers.values()), models, options, memory, stopwatch)
            results |= zip(writers, written, strict=True)
    pool.shutdown()
    return [results[number] for number in range(len(outputs))]


def _write_all(
    info: VideoInfo,
    writers: Sequence[OutputWriter],
    models: Models,
    options: DubOptions,
    memory: FaceMemory | None,
    stopwatch: Stopwatch,
) -> list[DubReport | Exception]:
    """Run the stages up to the mouths once, and those of each writer: blend and encode."""
    frames = [writer.frames for writer in writers]
    with mouths_of(info, frames, models, options, stopwatch, memory) as (dubbed, depth):
        consumers = [
            functools.partial(writer.write, number=number, num_outputs=len(writers), depth=depth)
            for number, writer in enumerate(writers)
        ]
        return fan_out(dubbed, consumers, depth)
