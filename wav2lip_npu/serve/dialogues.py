"""Several speakers of a stored job: checked when the job is created, and as arguments of a batch job.

A job keeps them as JSON: `speakers` with name, audio_id, face and photo_id, `turns` with who, start, end,
audio_id and offset, or None, the `audio_id` that is heard, or None, and `listeners`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wav2lip_npu.dubbing.dialogue import Dialogue, Speaker, Turn
from wav2lip_npu.dubbing.dialogue_files import dialogue_of
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.turn_files import read_rttm
from wav2lip_npu.errors import NoAudioError, UsageError
from wav2lip_npu.serve.dialogue_fields import (
    MAX_TURNS,
    DialogueFields,
    FrameFace,
    Photo,
    Reference,
    is_printed,
)
from wav2lip_npu.serve.problems import Problem
from wav2lip_npu.serve.records import StoredFile
from wav2lip_npu.storage.outputs import write_output

TURNS = "turns.json"
"""File in the folder of a video with its turns, in the form that `batch` reads."""
Files = Mapping[Reference, StoredFile]
_TOLERANCE_S = 1.0
"""Seconds by which the length of an upload may differ from that of its decoded audio."""


def stored_dialogue(
    fields: DialogueFields,
    face: StoredFile,
    audio: StoredFile | None,
    files: Files,
    content: Callable[[StoredFile], Path],
) -> dict[str, Any]:
    """Return the dialogue of a request as JSON. `files` are those of its references.

    Raises `UsageError`, and `Problem` for a file of the wrong kind.
    """
    speakers = []
    for one in fields.speakers:
        rule = one.face.at(face.media["fps"]) if isinstance(one.face, FrameFace) else one.face
        photo = files[Reference("photo_id", rule.photo_id)] if isinstance(rule, Photo) else None
        if photo is not None and photo.media["kind"] != "image":
            raise Problem(422, f"the photo {photo.name} of {one.name} is no image. Pass a photo.", "media")
        speakers.append(
            {
                "name": one.name,
                "audio_id": _audio_id(one.audio, files),
                "face": None if isinstance(rule, Photo) else rule,
                "photo_id": photo and photo.id,
            }
        )
    turns = None
    if fields.turns is not None:
        turns = [
            {
                "who": turn.who,
                "start": turn.start,
                "end": turn.end,
                "audio_id": _audio_id(turn.audio, files),
                "offset": turn.offset,
            }
            for turn in fields.turns
        ]
    elif fields.rttm is not None:
        turns = _rttm_turns(files[fields.rttm], content)
    heard = audio and audio.id
    return {"speakers": speakers, "turns": turns, "audio_id": heard, "listeners": fields.listeners}


def _audio_id(reference: Reference | None, files: Files) -> str | None:
    if reference is None:
        return None
    file = files[reference]
    if not file.media["has_audio"]:
        raise NoAudioError(f"the audio {file.name} has no audio track. Pass another file.")
    return file.id


def _rttm_turns(file: StoredFile, content: Callable[[StoredFile], Path]) -> list[dict[str, Any]]:
    if file.media["kind"] != "rttm":
        raise UsageError(f"{file.name} is not an RTTM file. Upload one with a line SPEAKER for each turn.")
    path = os.fspath(content(file))
    try:
        turns = read_rttm(path)
    except UsageError as error:
        raise UsageError(str(error).replace(path, file.name)) from None
    if len(turns) > MAX_TURNS:
        raise UsageError(
            f"{file.name} has {len(turns)} turns, and {MAX_TURNS} is the limit. Split the video."
        )
    for turn in turns:
        if not is_printed(turn.who):
            raise UsageError(f"{file.name}: {turn.who!r:.80} is no name: it is not printable, or too long.")
    return [
        {"who": turn.who, "start": turn.start, "end": turn.end, "audio_id": None, "offset": 0.0}
        for turn in turns
    ]


def check_dialogue(
    stored: Mapping[str, Any],
    files: Mapping[str, StoredFile],
    dub: DubOptions,
    max_speakers: int,
    max_seconds: float,
) -> float:
    """Return the seconds that the speakers of a new job are heard. `files` are those of the job by ID.

    A film lasts at most `max_seconds`, and all audio files together so often as there may be speakers.
    Raises `UsageError`.
    """
    dialogue = dialogue_as_paths(stored, lambda file_id: f"/{file_id}", dub)
    if len(dialogue.names) > max_speakers:
        raise UsageError(f"{len(dialogue.names)} speakers are too many. Pass at most {max_speakers}.")
    lengths = {f"/{file.id}": float(file.media["seconds"] or 0) for file in files.values()}
    total, limit = sum(lengths[path] for path in dialogue.audio_files), max_speakers * max_seconds
    if total > limit:
        raise UsageError(
            f"the audio files of the speakers last {total:.0f} s, and {limit:g} s is the limit. "
            "Pass fewer or shorter ones."
        )
    own = {speaker.name: speaker.audio or dialogue.audio for speaker in dialogue.speakers}
    ends = [lengths[path] for path in own.values() if path is not None and dialogue.turns is None]
    for turn in dialogue.turns or ():
        path = turn.audio or own.get(turn.who) or dialogue.audio
        assert path is not None
        begin = 0.0 if turn.audio is None else turn.start - turn.offset
        last = begin + lengths[path]
        if turn.start > last + _TOLERANCE_S:
            raise UsageError(
                f"the turn of {turn.who} at {turn.start:g} s begins after the end of "
                f"{files[path[1:]].name}, which lasts {lengths[path]:.2f} s. Correct its times."
            )
        ends.append(last if turn.end is None else min(last, turn.end))
    end = max(ends)
    if end > max_seconds + _TOLERANCE_S:
        raise UsageError(
            f"the last turn ends at {end:.0f} s, and {max_seconds:g} s is the limit. Correct its times."
        )
    return end if dialogue.audio is None else lengths[dialogue.audio]


def dialogue_as_paths(stored: Mapping[str, Any], path_of: Callable[[str], str], dub: DubOptions) -> Dialogue:
    """Return a stored dialogue with the path of each file. Raises `UsageError` if it is contradictory."""

    def path(file_id: str | None) -> str | None:
        return None if file_id is None else path_of(file_id)

    speakers = [
        Speaker(one["name"], path(one["audio_id"]), path(one["photo_id"]) or one["face"])
        for one in stored["speakers"]
    ]
    turns = stored["turns"] and [
        Turn(turn["who"], turn["start"], turn["end"], path(turn["audio_id"]), turn["offset"])
        for turn in stored["turns"]
    ]
    return dialogue_of(speakers, path(stored["audio_id"]), turns, None, stored["listeners"], dub)


def job_fields(dialogue: Dialogue, folder: Path) -> dict[str, Any]:
    """Return the fields of a batch job; its turns are written to the folder of the video."""
    turns = None
    if dialogue.turns is not None:
        turns = os.fspath(folder / TURNS)
        folder.mkdir(exist_ok=True)
        write_output(folder / TURNS, json.dumps([asdict(turn) for turn in dialogue.turns]))
    return {
        "audio": dialogue.audio or "",
        "speakers": tuple(speaker.text for speaker in dialogue.speakers),
        "turns": turns,
        "listeners": dialogue.listeners,
    }
