"""Tables of turns, RTTM files, and the turns that follow from pauses."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from support.media_files import chirp, write_wav
from wav2lip_npu.dubbing.dialogue import Dialogue, Speaker, Turn
from wav2lip_npu.dubbing.pauses import find_pauses
from wav2lip_npu.dubbing.turn_files import read_rttm, read_turns
from wav2lip_npu.dubbing.turns import FrameSpans, turns_of
from wav2lip_npu.dubbing.voices import measure_voices
from wav2lip_npu.errors import UsageError


@pytest.mark.parametrize(
    "text",
    [
        "who,start,end,audio\nanna,0.5,2,a.wav\nben,3,,\n",
        "\ufeffstart;who;end;audio\n0.5;anna;2;a.wav\n3;ben\n",
        '[{"who": "anna", "start": 0.5, "end": 2, "audio": "a.wav"}, {"who": "ben", "start": 3}]',
    ],
)
def test_tables(tmp_path, text):
    path = tmp_path / "turns.csv"
    path.write_text(text)
    assert read_turns(path) == (Turn("anna", 0.5, 2, str(tmp_path / "a.wav")), Turn("ben", 3))


def test_segments_of_sync(tmp_path):
    path = tmp_path / "segments.json"
    path.write_text(
        '{"input": [{"type": "video", "url": "v.mp4"}, {"type": "audio", "url": "a.wav", "refId": "anna"}],'
        ' "segments": [{"startTime": 1, "endTime": 4, "audioInput": {"refId": "anna", "startTime": 2}},'
        ' {"startTime": 5, "endTime": 6, "audioInput": {"refId": "ben"}}]}'
    )
    assert read_turns(path) == (
        Turn("anna", 1, 4, str(tmp_path / "a.wav"), offset=2),
        Turn("ben", 5, 6),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("who,begin\nanna,1\n", "start"),
        ("who,start,colour\nanna,1,red\n", "colour"),
        ("who,start\nanna,soon\n", "row 2"),
        ("who,start,end\nanna,3,2\n", "row 2"),
        ("who,start,end\nanna,0,0\n", "row 2"),
        ("who,start,end\nanna,0,inf\n", "row 2"),
        ("who,start,offset\nanna,0,nan\n", "row 2"),
        ("who,start\n", "turns.csv"),
        ('{"segments": 3}', "turns.csv"),
        ("[1]", "turn 1"),
        ("[", "turns.csv"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, named):
    (tmp_path / "turns.csv").write_text(text)
    with pytest.raises(UsageError, match=named):
        read_turns(tmp_path / "turns.csv")


def test_rttm(tmp_path):
    path = tmp_path / "a.rttm"
    line = "SPEAKER a 1 1.5 2.5 <NA> <NA> anna <NA> <NA>\n"
    path.write_text(f"; made by hand\n{line}{line.replace('2.5', '0.000')}")
    assert read_rttm(path) == (Turn("anna", 1.5, 4.0),)
    for times in ("soon 2.5", "0 inf", "0 nan", "0 -1", "1e999 1"):
        path.write_text(f"SPEAKER a 1 {times} <NA> <NA> anna\n")
        with pytest.raises(UsageError, match=r"a\.rttm, line 1"):
            read_rttm(path)
    with pytest.raises(UsageError, match=r"missing\.rttm"):
        read_rttm(tmp_path / "missing.rttm")


@pytest.mark.parametrize(
    ("text", "speaker"),
    [
        ("anna=a.wav@left", Speaker("anna", "a.wav", "left")),
        ("anna=a.wav", Speaker("anna", "a.wav")),
        ("anna@right", Speaker("anna", None, "right")),
        ("anna=a@b.wav@12,30.5@4", Speaker("anna", "a@b.wav", "12,30.5@4")),
        ("anna=a@b.wav", Speaker("anna", "a@b.wav")),
        ("an na=x/a.wav@dir/me@home.jpg", Speaker("an na", "x/a.wav@dir/me", "home.jpg")),
        ("anna=a.wav@me.JPG", Speaker("anna", "a.wav", "me.JPG")),
        ("anna@/data=1/me.jpg", Speaker("anna", None, "/data=1/me.jpg")),
    ],
)
def test_speakers_of_flags(text, speaker):
    assert Speaker.parse(text) == speaker
    assert Speaker.parse(speaker.text) == speaker


def test_turns_of_one_file_are_decoded_once(tmp_path):
    audio = str(write_wav(tmp_path / "a.wav", chirp(3)))
    turns = (Turn("a", 2, 2.5), Turn("a", 0, 1), Turn("a", 0.5, 1.5), Turn("b", 1, 9))
    voices = measure_voices(Dialogue(turns=turns, audio=audio)).voices
    (track,) = voices["a"].audio.tracks
    assert track.spans == voices["a"].turns == ((0, Fraction(3, 2)), (2, Fraction(5, 2)))
    assert voices["b"].turns == ((1, 3),)


def test_frames_of_turns():
    spans = FrameSpans(((2, 4), (7, 9)))
    assert [index in spans for index in range(10)] == [index in (2, 3, 7, 8) for index in range(10)]
    assert spans.widened(2).spans == ((0, 11),)
    assert 5 in spans.others


def test_listening_is_a_long_pause_in_which_another_speaks(tmp_path):
    """A common pause, or a short one, is not listening."""

    def pauses(*spoken: tuple[float, float]) -> np.ndarray:
        columns = np.ones(80 * 12, np.bool_)
        for start, end in spoken:
            columns[round(80 * start) : round(80 * end)] = False
        return columns

    audio = str(write_wav(tmp_path / "a.wav", chirp(12)))
    dialogue = Dialogue(speakers=(Speaker("a", audio), Speaker("b", audio)))
    voices = list(measure_voices(dialogue).voices.values())
    a, b = turns_of(
        voices, [pauses((0, 1), (1.5, 2), (4, 5), (10, 12)), pauses((5.5, 6), (7.5, 8), (9.5, 10.5))]
    )
    assert a.seconds == ((0, 5), (10, 12))
    assert b.seconds == ((Fraction(11, 2), Fraction(21, 2)),)


def test_digital_silence_between_turns_does_not_hide_speech():
    """Speech in 2 % of a track is as loud as the loud parts, not a pause."""
    levels = np.full(1000, -4, np.float32)
    levels[500:520] = 0
    assert find_pauses(levels, 16).all()
    assert np.flatnonzero(~find_pauses(levels, 16, has_gaps=True)).tolist() == list(range(500, 520))
