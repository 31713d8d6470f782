"""The audio of each speaker of a dialogue, placed at its times, and the sum that is heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from wav2lip_npu.dubbing.dialogue import Dialogue, Turn
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.audio_mix import AudioMix, PlacedAudio, Span
from wav2lip_npu.media.audio_reader import AudioInfo, measure_audio


@dataclass(frozen=True)
class Voice:
    """The audio of one speaker, at its times."""

    name: str
    audio: AudioMix
    turns: tuple[Span, ...] | None
    """Seconds in which the speaker speaks, in order, without overlaps. None: the audio tells."""


@dataclass(frozen=True)
class Voices:
    """The audio of all speakers, by name, and what is heard."""

    mix: AudioInfo
    voices: dict[str, Voice]


def measure_voices(dialogue: Dialogue) -> Voices:
    """Decode and check all audio files of a dialogue. Raises `MediaError` and `UsageError`."""
    measured: dict[str, AudioInfo] = {}

    def info(path: str) -> AudioInfo:
        if path not in measured:
            measured[path] = measure_audio(path)
        return measured[path]

    mixed = None if dialogue.audio is None else measure_audio(dialogue.audio, dialogue.audio_track)
    own = {speaker.name: speaker.audio for speaker in dialogue.speakers}
    voices = {}
    for name in dialogue.names:
        path = own.get(name)
        default = mixed if path is None else info(path)
        if dialogue.turns is None:
            assert default is not None
            tracks, turns = [PlacedAudio(source=default)], None
        else:
            placed = [_placed(turn, default, info) for turn in dialogue.turns if turn.who == name]
            tracks = _joined(placed)
            turns = merged(span for track in tracks for span in track.spans or ())
        voices[name] = Voice(name, AudioMix.of(tracks, f"the audio of {name}"), turns)
    heard = [track for voice in voices.values() for track in voice.audio.tracks]
    return Voices(AudioMix.of(heard, "the audio of the speakers") if mixed is None else mixed, voices)


def _placed(turn: Turn, default: AudioInfo | None, info: Callable[[str], AudioInfo]) -> PlacedAudio:
    start = _exact(turn.start)
    if turn.audio is None:
        assert default is not None
        at, source = Fraction(0), default
    else:
        at, source = start - _exact(turn.offset), info(turn.audio)
    last = at + source.duration
    if start >= last:
        raise UsageError(
            f"the turn of {turn.who} at {turn.start:g} s begins after the end of {source.path}, which lasts "
            f"{float(source.duration):.2f} s. Correct its times."
        )
    end = last if turn.end is None else min(last, _exact(turn.end))
    return PlacedAudio(source=source, start=at, spans=((start, end),))


def _joined(placed: Sequence[PlacedAudio]) -> list[PlacedAudio]:
    """Return the tracks, those of one file at one time as one: it is then decoded once."""
    groups: dict[tuple[str, int, Fraction], list[PlacedAudio]] = {}
    for track in placed:
        groups.setdefault((track.source.path, track.source.track, track.start), []).append(track)
    return [
        replace(group[0], spans=merged(span for track in group for span in track.spans or ()))
        for group in groups.values()
    ]


def merged(spans: Iterable[Span], gap: Fraction = Fraction(0)) -> tuple[Span, ...]:
    """Return spans in order; those at most `gap` apart are one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return tuple(joined)


def _exact(seconds: float) -> Fraction:
    """Return decimal seconds as written: 0.1 is 1/10."""
    return Fraction(seconds).limit_denominator(1_000_000)
