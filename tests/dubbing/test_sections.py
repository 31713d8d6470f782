"""Parts of a dub, and its length: --start, --duration, --extend, --skip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from support.faces import face_frames, write_audio
from support.marks import slow
from wav2lip_npu.dubbing import pipeline
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage

LOSSLESS = {"crf": 0, "preset": "ultrafast"}
BOX = {"box": (40, 200, 60, 220)}


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """1.5 s, 38 frames at 25 fps."""
    return write_audio(tmp_path_factory.mktemp("audio") / "speech.wav", 1.5)


@pytest.fixture(scope="module")
def short_video(tmp_path_factory) -> Path:
    """20 frames, 0.8 s."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    write_video(face_frames(20), path, fps=Fraction(25), options=EncodeOptions(**LOSSLESS))
    return path


def luma(path: Path) -> list[np.ndarray]:
    return [frame.yuv.y for frame in read_frames(path)]


def differences(one: list[np.ndarray], other: list[np.ndarray]) -> list[float]:
    return [float(np.abs(a.astype(int) - b).max()) for a, b in zip(one, other, strict=True)]


@pytest.fixture(scope="module")
def whole_of(models, short_video, speech, tmp_path_factory) -> Callable[[str], Path]:
    """A function that returns the dub of the whole audio for a value of `extend`."""

    @functools.cache
    def dub(extend: str) -> Path:
        out = tmp_path_factory.mktemp("whole") / "whole.avi"
        pipeline.dub(short_video, speech, out, models=models, extend=extend, blend="hard", **BOX, **LOSSLESS)
        return out

    return dub


@pytest.mark.parametrize(
    ("extend", "start", "duration"),
    [
        ("loop", 0, 0.5),
        ("loop", 0.72, 0.5),
        ("pingpong", 0.4, 0.4),
        ("pingpong", 0.72, 0.5),
        ("pingpong", 1.0, None),
        ("hold", 0.72, 0.5),
        ("hold", 1.2, 9),
    ],
)
def test_part_equals_the_same_frames_of_the_whole(
    models, short_video, speech, tmp_path, whole_of, extend, start, duration
):
    whole = whole_of(extend)
    options = {"models": models, "extend": extend, "blend": "hard", **BOX, **LOSSLESS}
    part = tmp_path / "part.avi"
    report = pipeline.dub(short_video, speech, part, start=start, duration=duration, **options)
    first = round(start * 25)
    stop = min(38, 38 if duration is None else round((start + duration) * 25))
    assert report.frames == stop - first
    assert max(differences(luma(part), luma(whole)[first:stop])) <= 1  # batches of other sizes
    heard, everything = read_audio(part), read_audio(whole)
    end = len(everything) if duration is None or stop == 38 else round(stop * 640)
    assert abs(len(heard) - (end - first * 640)) <= 320
    count = min(len(heard), len(everything) - first * 640)
    np.testing.assert_allclose(heard[:count], everything[first * 640 :][:count], atol=1e-3)


@pytest.mark.parametrize(
    ("fps", "seconds"), [("24000/1001", 1), ("30000/1001", 0.001), ("50", 0.3), slow("30000/1001", 1)]
)
def test_duration_gives_an_exact_number_of_frames(models, speech, tmp_path, fps, seconds):
    fps = Fraction(fps)
    face = tmp_path / "face.mp4"
    write_video(face_frames(30), face, fps=fps, options=EncodeOptions(**LOSSLESS))
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face, speech, out, models=models, duration=seconds, start=0.2, preset="ultrafast")
    first = round(Fraction("0.2") * fps)
    count = max(1, round((Fraction("0.2") + Fraction(str(seconds))) * fps) - first)
    assert report.frames == count == len(luma(out))
    assert abs(len(read_audio(out)) / 16_000 - count / fps) <= 1 / fps / 2


def test_start_of_a_photo_cuts_the_audio(models, tmp_path, short_video, speech):
    options = {"models": models, "blend": "hard", "static": True, **BOX, **LOSSLESS}
    pipeline.dub(short_video, speech, tmp_path / "whole.mp4", **options)
    report = pipeline.dub(short_video, speech, tmp_path / "part.mp4", start=0.4, **options)
    assert report.frames == 28
    assert max(differences(luma(tmp_path / "part.mp4"), luma(tmp_path / "whole.mp4")[10:])) <= 1


@pytest.mark.parametrize(("values", "files"), [
    ({"start": 1.5}, "speech.wav"), ({"start": 60.0}, "speech.wav"), ({"start": 60, "duration": 1}, "speech.wav"),
    ({"start": 1.2, "extend": "cut_off"}, "short.mp4"),
        ({"start": 60, "extend": "silence"}, "short.mp4"),
])  # fmt: skip
def test_start_after_the_end_is_an_error(models, short_video, speech, tmp_path, values, files):
    with pytest.raises(UsageError, match=f"--start {values['start']:g} .*{files}"):
        pipeline.dub(short_video, speech, tmp_path / "out.mp4", models=models, **values)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [
    {"start": -1}, {"start": float("inf")}, {"start": float("nan")}, {"duration": 0}, {"duration": -2},
    {"duration": float("inf")}, {"start": "1"}, {"extend": "remap"},
])  # fmt: skip
def test_wrong_values_are_refused(models, short_video, speech, tmp_path, values):
    (name,) = values
    with pytest.raises(UsageError, match=f"--{name}"):
        pipeline.dub(short_video, speech, tmp_path / "out.mp4", models=models, **values)


def test_faces_of_a_part_are_not_stored(models, short_video, speech, tmp_path):
    memory = FaceMemory()
    pair = [Output(speech, tmp_path / "out.mp4")]
    (report,) = pipeline.dub_many(short_video, pair, models=models, memory=memory, start=0.2)
    assert report.frames == 33
    assert not memory.has_grown


# Extension


@pytest.mark.parametrize("extend", ["cut_off", "silence"])
@pytest.mark.parametrize("seconds", [0.3, slow(0.8), 1.2])
def test_length_by_audio_and_video(models, short_video, tmp_path, extend, seconds):
    audio = write_audio(tmp_path / "speech.wav", seconds)
    out = tmp_path / "out.avi"
    seen: list[tuple[int, int]] = []
    report = pipeline.dub(
        short_video,
        audio,
        out,
        models=models,
        extend=extend,
        progress=lambda *now: seen.append(now),
        **LOSSLESS,
    )
    frames = round(25 * (min if extend == "cut_off" else max)(seconds, 0.8))
    assert report.frames == report.dubbed_frames == frames == len(luma(out))
    assert seen == [(number, frames) for number in range(1, frames + 1)]
    heard = read_audio(out)
    assert abs(len(heard) - frames * 640) <= 320
    spoken = min(round(seconds * 16_000), len(heard))
    np.testing.assert_allclose(heard[:spoken], read_audio(audio)[:spoken], atol=1e-3)
    assert not heard[spoken:].any()
    above = [image[:60] for image in luma(out)]
    filmed = [image[:60] for image in luma(short_video)]
    assert differences(above[:20], filmed[: len(above[:20])]) == [0] * min(20, frames)


@pytest.mark.parametrize("extend", ["cut_off", "silence"])
def test_outputs_of_a_pass_have_their_own_length(models, short_video, tmp_path, extend):
    audios = [write_audio(tmp_path / f"{seconds}.wav", seconds) for seconds in (0.3, 1.2)]
    alone = [tmp_path / f"alone{number}.mp4" for number in range(2)]
    together = [tmp_path / f"together{number}.mp4" for number in range(2)]
    options = {"models": models, "extend": extend, **LOSSLESS}
    for audio, out in zip(audios, alone, strict=True):
        pipeline.dub(short_video, audio, out, **options)
    memory = FaceMemory()
    reports = pipeline.dub_many(short_video, [*zip(audios, together, strict=True)], memory=memory, **options)
    lengths = [8, 20] if extend == "cut_off" else [20, 30]
    assert [report.frames for report in reports] == lengths
    assert [out.read_bytes() for out in together] == [out.read_bytes() for out in alone]
    assert memory.is_complete
    assert len(memory.to_array()) == 20


def test_mouth_after_the_audio_is_silent(models, short_video, tmp_path):
    """After the audio, `silence` gives the same output as a recording that ends with silence."""
    import soundfile

    audio = write_audio(tmp_path / "speech.wav", 0.3)
    padded = tmp_path / "padded.wav"
    soundfile.write(padded, np.concatenate([read_audio(audio), np.zeros(8000, np.float32)]), 16_000)
    options = {"models": models, "rest": "off", **BOX, **LOSSLESS}
    pipeline.dub(short_video, audio, tmp_path / "a.mp4", extend="silence", **options)
    pipeline.dub(short_video, padded, tmp_path / "b.mp4", **options)
    assert max(differences(luma(tmp_path / "a.mp4"), luma(tmp_path / "b.mp4"))) <= 2


@pytest.mark.parametrize(("extend", "static"), [("cut_off", False), ("silence", True)])
def test_still_faces_last_as_long_as_the_audio(models, short_video, speech, tmp_path, extend, static):
    face = short_video
    if not static:
        import cv2

        face = tmp_path / "photo.png"
        cv2.imwrite(str(face), next(face_frames(1)).to_image())
    report = pipeline.dub(
        face, speech, tmp_path / "out.mp4", models=models, extend=extend, static=static, **LOSSLESS
    )
    assert report.frames == 38


# Spans that stay as filmed


@pytest.mark.parametrize("blend", ["soft", slow("hard")])
def test_skipped_frames_are_as_filmed(models, face_video, speech, tmp_path, blend):
    out, plain = tmp_path / "out.mp4", tmp_path / "plain.mp4"
    options = {"models": models, "blend": blend, **LOSSLESS}
    pipeline.dub(face_video, speech, plain, **options)
    report = pipeline.dub(face_video, speech, out, skip="0.4-0.6,1.2-", **options)
    assert report.unchanged_spans == [(10, 14, "skip"), (30, 37, "skip")]
    assert (report.frames, report.dubbed_frames, report.faceless_spans) == (38, 25, [])
    skipped = [*range(10, 15), *range(30, 38)]
    changes = differences(luma(out), luma(face_video)[:38])
    assert [number for number, change in enumerate(changes) if change == 0] == skipped
    filmed, dubbed, faded = luma(face_video), luma(plain), luma(out)
    for number, opacity in [(7, 0.75), (8, 0.5), (9, 0.25), (27, 0.75), (29, 0.25)]:
        expected = filmed[number] + opacity * (dubbed[number].astype(float) - filmed[number])
        assert np.abs(expected - faded[number]).max() <= 1
    assert max(differences(faded[:7] + faded[18:27], dubbed[:7] + dubbed[18:27])) <= 1


def test_skipped_frames_are_not_generated(models, face_video, speech, tmp_path, monkeypatch):
    seen = []
    encode = models.generator.encode_faces
    monkeypatch.setattr(
        models.generator, "encode_faces", lambda faces: seen.append(len(faces)) or encode(faces)
    )
    pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, skip=[(0.2, None)])
    assert sum(seen) == 8, "5 frames, in full batches of 4"


def test_skip_counts_from_the_beginning_of_the_video(models, face_video, speech, tmp_path):
    report = pipeline.dub(
        face_video, speech, tmp_path / "out.mp4", models=models, start=0.4, duration=0.6, skip="0.6-0.8,5-6"
    )
    assert report.unchanged_spans == [(5, 9, "skip")]
    assert report.frames == 15


def test_skipped_frames_need_no_face(models, speech, tmp_path):
    grey = YuvImage.from_image(np.full((240, 320, 3), 110, np.uint8), Colour())
    face = tmp_path / "face.mp4"
    shown = [*face_frames(12), *[grey] * 20, *face_frames(12)]
    write_video(shown, face, fps=Fraction(25), options=EncodeOptions(**LOSSLESS))
    options = {"models": models, "no_face": "error", **LOSSLESS}
    report = pipeline.dub(face, speech, tmp_path / "out.mp4", skip="0.48-1.28", **options)
    assert report.unchanged_spans == [(12, 31, "skip")]
    for start in (0, 0.4):  # the error counts from the beginning of the video
        with pytest.raises(FaceError, match=r"frames 30-31 \(1.2-1.3 s\)"):
            pipeline.dub(face, speech, tmp_path / "out.mp4", skip="0.48-1.2", start=start, **options)
    kept = pipeline.dub(face, speech, tmp_path / "out.mp4", skip="0.2-0.8", models=models)
    assert kept.unchanged_spans == [(5, 19, "skip"), (20, 31, "no_face")]
    assert kept.faceless_spans == [(20, 31)]


def test_everything_may_be_skipped(models, faceless_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    report = pipeline.dub(faceless_video, speech, out, models=models, skip="0-", **LOSSLESS)
    assert report.unchanged_spans == [(0, 37, "skip")]
    assert report.dubbed_frames == 0
