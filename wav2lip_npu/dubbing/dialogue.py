"""Who speaks when, with which audio, and with whose face: flags, tables of turns, and RTTM files."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from typing import Literal

from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.face_rules import FaceRule
from wav2lip_npu.options import check_types
from wav2lip_npu.storage.outputs import InputPath

Listeners = Literal["filmed", "still"]


@dataclass(frozen=True)
class Speaker:
    """A person in the video who speaks.

    Raises:
        UsageError: The face is no rule, or the name is empty.

    """

    name: str
    audio: str | None = None
    """Audio that drives the mouth, from the beginning of the video on. None: that of the turns."""
    face: str | None = None
    """`left`, `right`, `auto`, `X,Y@SECONDS` or the path of a photo. None: see `Dialogue`."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        if not self.name.strip():
            raise UsageError("--speaker: a name is empty. Pass NAME=AUDIO@FACE.")
        if self.face is not None:
            FaceRule(self.face)

    def within(self, folder: str) -> Speaker:
        """Return the speaker with files relative to a folder."""
        audio, face = self.audio, self.face
        if face is not None and FaceRule(face).photo is not None:
            face = os.path.join(folder, face)
        return Speaker(self.name, audio and os.path.join(folder, audio), face)

    @property
    def text(self) -> str:
        """The speaker as `NAME=AUDIO@FACE`."""
        return self.name + (f"={self.audio}" if self.audio else "") + (f"@{self.face}" if self.face else "")

    @classmethod
    def parse(cls, text: str) -> Speaker:
        """Return the speaker of `NAME=AUDIO@FACE`, where `=AUDIO` or `@FACE` may be missing."""
        name, _, path = text.partition("@")
        if os.path.isabs(path) and "=" not in name:  # the folder of the photo may have a =
            return cls(name, None, path)
        before, equals, rest = text.partition("=")
        if not equals:
            name, _, face = text.partition("@")
            return cls(name, None, face or None)
        if os.path.exists(rest):
            return cls(before, rest)
        # A point has an @ of its own, and file names may have some.
        parts = rest.split("@")
        pairs = [("@".join(parts[:-count]), "@".join(parts[-count:])) for count in range(1, len(parts))]
        pairs = [(audio, face) for audio, face in pairs if face and FaceRule.is_rule(face)]
        for audio, face in [pair for pair in pairs if os.path.exists(pair[0])] or pairs:
            return cls(before, audio or None, face)
        return cls(before, rest or None)


@dataclass(frozen=True)
class Turn:
    """A time in which a speaker speaks.

    Raises:
        UsageError: The times are not in order.

    """

    who: str
    start: float
    """Seconds from the beginning of the video."""
    end: float | None = None
    """None: the end of the audio."""
    audio: str | None = None
    """Audio that begins with the turn. None: that of the speaker, or the mixed one, at this time."""
    offset: float = 0
    """Seconds of `audio` that are left out at its beginning."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        if not self.who.strip():
            raise UsageError(f"a turn at {self.start:g} s has no name. Write who speaks.")
        last = sys.float_info.max if self.end is None else self.end
        end = "" if self.end is None else f"-{self.end:g}"
        if not all(math.isfinite(value) for value in (self.start, last, self.offset)):
            raise UsageError(f"a time of the turn of {self.who} at {self.start:g}{end} s is no number.")
        if not 0 <= self.start < last or self.offset < 0:
            raise UsageError(f"the turn of {self.who} at {self.start:g}{end} s is empty. Correct its times.")


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Who speaks when, with which audio, and with whose face.

    If no speaker has a face, the faces from left to right are those of the speakers in their order. Otherwise
    a speaker without a face has the `default_face`, or is only heard.
    """

    speakers: tuple[Speaker, ...] = ()
    turns: tuple[Turn, ...] | None = None
    """None: the speakers' audio tells when they speak."""
    audio: str | None = None
    """Audio that is heard. None: the sum of the audio of all speakers."""
    audio_track: int | None = None
    listeners: Listeners = "filmed"
    """Mouths of speakers who do not speak: as filmed, or still."""
    default_face: Literal["auto"] | None = None
    """The face of each speaker without one."""

    def __post_init__(self) -> None:
        """Check that each speaker and turn has audio, each speaker a turn, and that the names are unique."""
        check_types(self)
        named = [speaker.name for speaker in self.speakers]
        for name in named:
            if named.count(name) > 1:
                raise UsageError(f"--speaker {name} is passed {named.count(name)} times. Pass it once.")
        owners: dict[str, str] = {}
        for name, rule in self.faces.items():
            if (rule.point or rule.photo) and owners.setdefault(rule.text, name) != name:
                raise UsageError(
                    f"--speaker {owners[rule.text]} and --speaker {name} have the same face, {rule.text}. "
                    "Pass another one, or make their turns those of one speaker."
                )
        own = {speaker.name for speaker in self.speakers if speaker.audio is not None}
        if self.turns is None:
            for name in named:
                if name not in own:
                    raise UsageError(f"--speaker {name} has no audio. Pass {name}=AUDIO, --turns or --rttm.")
        for turn in self.turns or ():
            if turn.audio is None and turn.who not in own and self.audio is None:
                raise UsageError(
                    f"the turn of {turn.who} at {turn.start:g} s has no audio. "
                    f"Pass --audio with the mixed audio, or --speaker {turn.who}=AUDIO."
                )
        speaking = {turn.who for turn in self.turns or ()}
        for name in named if self.turns is not None else ():
            if name not in speaking:
                raise UsageError(f"--speaker {name} has no turn. Remove it, or write its turns.")
        if not self.names:
            raise UsageError("nobody speaks: there is no --speaker and no turn.")

    @property
    def names(self) -> list[str]:
        """The names of the speakers, and then those that only the turns have."""
        turns = (turn.who for turn in self.turns or ())
        return list(dict.fromkeys([*(speaker.name for speaker in self.speakers), *turns]))

    @property
    def faces(self) -> dict[str, FaceRule]:
        """The rule for the face of each speaker who is seen."""
        told = {speaker.name: FaceRule(speaker.face) for speaker in self.speakers if speaker.face is not None}
        if self.default_face is not None:
            return {name: told.get(name, FaceRule(self.default_face)) for name in self.names}
        return told or {name: FaceRule() for name in self.names}

    @property
    def audio_files(self) -> list[str]:
        """The audio files, each once; the first is that which is heard, if it is one file."""
        own = [speaker.audio for speaker in self.speakers] + [turn.audio for turn in self.turns or ()]
        return list(dict.fromkeys(path for path in (self.audio, *own) if path is not None))

    @property
    def files(self) -> list[InputPath]:
        """The audio files and photos, each once."""
        photos = [rule.photo for rule in self.faces.values()]
        paths = dict.fromkeys(path for path in (*self.audio_files, *photos) if path is not None)
        return [InputPath("--audio" if path == self.audio else "--speaker", path) for path in paths]
