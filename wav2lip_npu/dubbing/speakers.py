"""Dub a video in which several people speak, each with their own audio, in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from wav2lip_npu import signals
from wav2lip_npu.dubbing.dialogue import Dialogue, Listeners, Speaker, Turn
from wav2lip_npu.dubbing.dialogue_files import dialogue_of, heard
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.outputs import Output, Progress
from wav2lip_npu.dubbing.pipeline import dub_all, loaded_models, with_dub_options
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.dubbing.speakers_frames import SpeakersFrames
from wav2lip_npu.dubbing.voices import measure_voices
from wav2lip_npu.faces.speaker_tracks import TrackStore
from wav2lip_npu.media.container import VideoInfo, open_media, probed
from wav2lip_npu.media.streams import audio_stream
from wav2lip_npu.media.video_writer import check_target
from wav2lip_npu.storage.outputs import InputPath

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models


def dub_speakers(
    face: str | os.PathLike[str] | VideoInfo,
    speakers: Sequence[Speaker | str],
    outfile: str | os.PathLike[str],
    *,
    audio: str | os.PathLike[str] | None = None,
    turns: str | os.PathLike[str] | Sequence[Turn] | None = None,
    rttm: str | os.PathLike[str] | None = None,
    listeners: Listeners = "filmed",
    models: Models | Callable[[], Models] | None = None,
    options: DubOptions | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> DubReport:
    """Lip-sync several people in a video, each to their own audio, in one pass.

    Args:
        face: Video or image with the faces, in any format.
        speakers: For each speaker a `Speaker`, or text `NAME=AUDIO@FACE`, where FACE is left, right,
            X,Y@SECONDS, a photo, or auto: whoever speaks in the film in the speaker's turns. Without any
            FACE, the faces from left to right are the speakers in order. With `turns` or `rttm`, `=AUDIO`
            may be missing, and so may speakers.
        outfile: Video to write, see `dub`.
        audio: Audio that is heard, and from which speakers without audio get that of their turns. Default:
            the sum of the audio of all speakers.
        turns: Table of who speaks when, see docs/speakers.md, or a list of `Turn`. Default: each speaker's
            audio lasts from the beginning of the video, and is silent while the speaker listens.
        rttm: The same as an RTTM file of a diarisation.
        listeners: Mouths of those who do not speak: "filmed", or "still".
        models: See `dub`.
        options: Options of the dub.
        progress: See `dub`.
        **values: See `dub`.

    Returns:
        The report, with who spoke when, and the frames of each speaker in which a mouth is generated.

    Raises:
        MediaError: A file cannot be read or written, or the output is also an input.
        FaceError: A face cannot be told from the others, or no frame has one.
        UsageError: An option, a speaker or a turn is invalid.
        CheckpointError, DeviceError: The models cannot be loaded.

    Example:
        >>> import wav2lip_npu
        >>> speakers = ["anna=anna.wav@left", "ben=ben.wav@right"]
        >>> report = wav2lip_npu.dub_speakers("talk.mp4", speakers, "out.mp4")
        >>> [(speaker.name, speaker.turns) for speaker in report.speakers]
        [('anna', [(0.0, 2.1)]), ('ben', [(2.4, 5.0)])]

    """
    options = with_dub_options(options, values)
    dialogue = dialogue_of(speakers, audio, turns, rttm, listeners, options)
    output = Output(heard(dialogue), outfile, progress=progress)
    return dub_dialogue(face, output, dialogue, models=models, options=options)


@signals.deferred()
def dub_dialogue(
    face: str | os.PathLike[str] | VideoInfo,
    output: Output,
    dialogue: Dialogue,
    *,
    models: Models | Callable[[], Models] | None = None,
    options: DubOptions,
    tracks: TrackStore | None = None,
) -> DubReport:
    """Dub a dialogue, with the faces of an earlier dub if `tracks` has them.

    Raises what `dub_speakers` raises.
    """
    info = probed(face)
    networks = [InputPath(f"--{name}", path) for name, path in options.network_files.items()]
    check_target(output.outfile, [InputPath("--face", info.path), *dialogue.files, *networks])
    for path in dialogue.audio_files:
        with open_media(path) as container:
            audio_stream(container, path, options.audio_track if path == dialogue.audio else None)
    signals.check()
    loaded = loaded_models(models, options)

    passes: list[SpeakersFrames] = []

    def frames_of(output: Output, pool: Executor) -> SpeakersFrames:
        voices = measure_voices(dialogue)
        passes.append(SpeakersFrames(dialogue, voices, info, loaded, options, pool, tracks))
        return passes[-1]

    (result,) = dub_all(info, [output], loaded, options, frames_of=frames_of)
    if isinstance(result, Exception):
        raise result
    for done in passes:
        done.keep_faces()
    return result
