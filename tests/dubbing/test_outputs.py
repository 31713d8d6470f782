"""Several outputs in one pass over a face video: each equals the output of a single dub."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from support.faces import face_frames, write_audio
from support.marks import slow
from wav2lip_npu.dubbing import blend, output_frames, outputs, pipeline
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.pipeline import dub_many
from wav2lip_npu.errors import FaceError, MediaError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.faces.memory import FaceMemory
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage

FAST = EncodeOptions(preset="ultrafast")
OPTIONS = DubOptions(encode=FAST)


@pytest.fixture(scope="module")
def face_video(tmp_path_factory) -> Path:
    """25 frames, 1 s: longer than some audio files, shorter than others."""
    path = tmp_path_factory.mktemp("face") / "face.mp4"
    write_video(face_frames(25), path, fps=Fraction(25), options=FAST)
    return path


@pytest.fixture(scope="module")
def audio_files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return [write_audio(folder / f"{seconds}.wav", seconds) for seconds in (0.6, 0.05, 1.6, 1.2)]


def alone(models, face, audio_files, folder, options=OPTIONS) -> list[bytes]:
    folder.mkdir()
    outs = [folder / f"{number}.mp4" for number in range(len(audio_files))]
    for audio, out in zip(audio_files, outs, strict=True):
        pipeline.dub(face, audio, out, models=models, options=options)
    return [out.read_bytes() for out in outs]


def together(models, face, audio_files, folder, options=OPTIONS, memory=None) -> list[bytes]:
    folder.mkdir()
    outs = [folder / f"{number}.mp4" for number in range(len(audio_files))]
    results = dub_many(
        face,
        [Output(*item) for item in zip(audio_files, outs, strict=True)],
        models=models,
        options=options,
        memory=memory,
    )
    assert [item.takes for item in results] == [len(audio_files)] * len(audio_files)
    return [out.read_bytes() for out in outs]


@pytest.mark.parametrize("extend", [slow("loop"), "pingpong", slow("hold")])
def test_outputs_equal_single_dubs(models, tmp_path, extend):
    """With audio that is shorter and longer than the video."""
    face = tmp_path / "face.mp4"
    write_video(face_frames(12), face, fps=Fraction(25), options=FAST)
    audio = [write_audio(tmp_path / f"{seconds}.wav", seconds) for seconds in (0.32, 0.05, 1.2, 0.8)]
    options = replace(OPTIONS, extend=extend)
    expected = alone(models, face, audio, tmp_path / "alone", options)
    assert together(models, face, audio, tmp_path / "together", options) == expected
    assert len(set(expected)) == 4


@pytest.mark.parametrize(
    "options",
    [replace(OPTIONS, blend="hard"), slow(replace(OPTIONS, static=True)), slow(replace(OPTIONS, fps=30))],
)
def test_outputs_equal_single_dubs_for_images_and_options(models, face_video, audio_files, tmp_path, options):
    expected = alone(models, face_video, audio_files[:2], tmp_path / "alone", options)
    assert together(models, face_video, audio_files[:2], tmp_path / "together", options) == expected


def test_faces_are_encoded_once(models, face_video, audio_files, tmp_path, monkeypatch):
    seen = []
    encode = models.generator.encode_faces
    monkeypatch.setattr(
        models.generator, "encode_faces", lambda images: seen.append(len(images)) or encode(images)
    )
    models.detector.calls = 0
    together(models, face_video, [audio_files[3]] * 3, tmp_path / "three")
    calls, images = models.detector.calls, sum(seen)
    seen.clear()
    models.detector.calls = 0
    together(models, face_video, [audio_files[3]], tmp_path / "one")
    assert (calls, images) == (models.detector.calls, sum(seen))


def test_failed_output_does_not_affect_others(models, face_video, audio_files, tmp_path, monkeypatch):
    (expected,) = alone(models, face_video, audio_files[3:], tmp_path / "alone")
    silent = tmp_path / "nan.wav"
    soundfile.write(silent, np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    real = outputs.write_video

    def full(images, out, **options):
        if "full" not in str(out):
            return real(images, out, **options)
        for _, _ in zip(images, range(20), strict=False):
            pass
        raise MediaError("the disk is full")

    monkeypatch.setattr(outputs, "write_video", full)
    results = dub_many(
        face_video,
        [
            Output(tmp_path / "none.wav", tmp_path / "a.mp4"),
            Output(audio_files[3], tmp_path / "full.mp4"),
            Output(audio_files[3], tmp_path / "good.mp4"),
            Output(silent, tmp_path / "b.mp4"),
            Output(audio_files[0], face_video),
        ],
        models=models,
        options=OPTIONS,
    )
    assert "none.wav" in str(results[0])
    assert str(results[1]) == "the disk is full"
    assert "nan.wav" in str(results[3])
    assert "is also an input" in str(results[4])
    assert (tmp_path / "good.mp4").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.glob("*.mp4*")) == ["good.mp4"]
    assert not [thread for thread in threading.enumerate() if thread.name in ("prefetch", "hand")]


def test_truncated_video_fails_only_long_outputs(models, face_video, audio_files, tmp_path):
    """An output that ends before the truncation is dubbed."""
    complete = tmp_path / "whole.mp4"
    write_video(face_frames(100), complete, fps=Fraction(25), options=FAST)
    cut = tmp_path / "cut.mp4"
    content = complete.read_bytes()
    cut.write_bytes(content[: len(content) * 9 // 10])
    outs = [tmp_path / "long.mp4", tmp_path / "short.mp4"]
    long, short = dub_many(
        cut,
        [Output(audio_files[2], outs[0]), Output(audio_files[1], outs[1])],
        models=models,
        options=OPTIONS,
    )
    assert "truncated" in str(long)
    assert short.frames == 1
    assert not outs[0].exists()
    assert outs[1].exists()


def test_video_without_face_fails_all_outputs(models, faceless_video, audio_files, tmp_path):
    results = dub_many(
        faceless_video,
        [Output(item, tmp_path / f"{item.stem}.mp4") for item in audio_files],
        models=models,
        options=OPTIONS,
    )
    assert all(isinstance(item, FaceError) for item in results)


def test_bug_is_returned_with_its_traceback(models, face_video, audio_files, tmp_path, monkeypatch):
    monkeypatch.setattr(blend, "paste", lambda *_: 1 / 0)
    results = dub_many(
        face_video,
        [Output(audio_files[0], tmp_path / f"{i}.mp4") for i in "ab"],
        models=models,
        options=OPTIONS,
    )
    assert [type(item) for item in results] == [ZeroDivisionError] * 2
    assert results[0].__traceback__ is not None


def test_ctrl_c_stops_all_outputs(models, face_video, audio_files, tmp_path, monkeypatch):
    real = output_frames.find_faces

    def interrupted(*arguments):
        for number, item in enumerate(real(*arguments)):
            if number == 15:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(output_frames, "find_faces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dub_many(
            face_video,
            [Output(audio_files[2], tmp_path / f"{i}.mp4") for i in "ab"],
            models=models,
            options=OPTIONS,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("extend", "nosmooth"), [("loop", False), ("pingpong", True), ("hold", False)])
def test_known_faces_are_not_detected_again(models, audio_files, tmp_path, extend, nosmooth):
    video = tmp_path / "two_scenes.mp4"
    grey = YuvImage.from_image(np.full((240, 320, 3), 110, np.uint8), Colour())
    write_video([*face_frames(20), *[grey] * 8, *face_frames(12)], video, fps=Fraction(25), options=FAST)
    options = replace(OPTIONS, extend=extend, faces=FaceOptions(nosmooth=nosmooth))
    memory = FaceMemory()
    (expected,) = together(models, video, [audio_files[2]], tmp_path / "found", options, memory)
    assert memory.is_complete
    assert len(memory.to_array()) == 40
    assert np.isnan(memory.to_array()[22:26, 0]).all()
    models.detector.calls = 0
    known = FaceMemory(memory.to_array(), is_complete=True)
    assert together(models, video, [audio_files[2]], tmp_path / "known", options, known) == [expected]
    assert models.detector.calls == 0
    assert known.is_complete


def test_memory_of_short_audio_is_a_prefix(models, face_video, audio_files, tmp_path):
    long, short = FaceMemory(), FaceMemory()
    together(models, face_video, [audio_files[2]], tmp_path / "long", OPTIONS, long)
    (expected,) = together(models, face_video, [audio_files[0]], tmp_path / "short", OPTIONS, short)
    assert not short.is_complete
    count = len(short.to_array())
    assert 15 <= count < 25
    np.testing.assert_array_equal(short.to_array(), long.to_array()[:count])
    known = FaceMemory(long.to_array())
    assert together(models, face_video, [audio_files[0]], tmp_path / "again", OPTIONS, known) == [expected]


def test_comment_is_in_the_metadata(models, face_video, audio_files, tmp_path):
    outs = [tmp_path / f"out.{kind}" for kind in ("mp4", "mov", "mkv", "avi")]
    dub_many(
        face_video,
        [Output(audio_files[1], out, comment=f"mark {out.suffix}") for out in outs],
        models=models,
        options=OPTIONS,
    )
    for out in outs:
        with av.open(str(out)) as container:
            tags = {name.lower(): text for name, text in container.metadata.items()}
        assert tags["comment"].endswith(f", mark {out.suffix}")


def test_progress_per_output(models, face_video, audio_files, tmp_path):
    seen: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    dub_many(
        face_video,
        [
            Output(audio, tmp_path / f"{name}.mp4", progress=lambda *now, name=name: seen[name].append(now))
            for name, audio in zip(seen, (audio_files[0], audio_files[3]), strict=True)
        ],
        models=models,
        options=OPTIONS,
    )
    assert seen["a"] == [(number, 15) for number in range(1, 16)]
    assert seen["b"][-1] == (30, 30)
