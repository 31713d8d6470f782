"""The dialogue of flags, of the arguments of `dub_speakers`, and of the columns of a job table."""

from __future__ import annotations

import os
from collections.abc import Sequence

from wav2lip_npu.dubbing.dialogue import Dialogue, Listeners, Speaker, Turn
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.turn_files import read_rttm, read_turns
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.find_faces import SPEAKING
from wav2lip_npu.options import path_text


def dialogue_of(
    speakers: Sequence[Speaker | str],
    audio: str | os.PathLike[str] | None,
    turns: str | os.PathLike[str] | Sequence[Turn] | None,
    rttm: str | os.PathLike[str] | None,
    listeners: Listeners,
    options: DubOptions,
) -> Dialogue:
    """Return the dialogue of the arguments of `dub_speakers`. Raises `UsageError`."""
    if turns is not None and rttm is not None:
        raise UsageError("--turns and --rttm both tell who speaks when. Pass one of them.")
    if rttm is not None and audio is None:
        raise UsageError("--rttm needs --audio, the recording that it describes.")
    if isinstance(turns, (str, os.PathLike)):
        turns = read_turns(path_text(turns, "--turns"))
    elif rttm is not None:
        turns = read_rttm(path_text(rttm, "--rttm"))
    if isinstance(speakers, (str, Speaker)):
        raise UsageError("speakers is one speaker. Pass a list of them.")
    _check_options(options)
    given = tuple(one if isinstance(one, Speaker) else Speaker.parse(one) for one in speakers)
    return Dialogue(
        speakers=given,
        default_face="auto" if options.faces.face_select == SPEAKING else None,
        turns=None if turns is None else tuple(turns),
        audio=None if audio is None else path_text(audio, "--audio"),
        audio_track=options.audio_track,
        listeners=listeners,
    )


def heard(dialogue: Dialogue) -> str:
    """Return the audio file for the report: the mixed one, or the first."""
    return dialogue.audio_files[0]


def _check_options(options: DubOptions) -> None:
    """Raise `UsageError` for options of a single face."""
    if options.faces.has_constant_box:
        raise UsageError(
            "--box is one place, and several speakers have several. "
            "Tell each speaker's face: --speaker NAME=AUDIO@X,Y@SECONDS."
        )
    if options.faces.face_select not in ("largest", SPEAKING):
        raise UsageError(
            f"--face_select {options.faces.face_select} is one face. Tell each speaker's: --speaker "
            f"NAME=AUDIO@FACE, or pass {SPEAKING}: whoever speaks in the film in the speaker's turns."
        )
