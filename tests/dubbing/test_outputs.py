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

from support.devices import DEVICE
from support.faces import SquareDetector, face_frames, write_audio
from wav2lip_npu.dubbing import inference, outputs, pipeline
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
def models(tiny_checkpoint) -> inference.Models:
    """A tiny generator, marked as trained by wav2lip-npu, so that references are smoothed."""
    loaded = inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE))
    return replace(loaded, detector=SquareDetector(), is_ours=True)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return [write_audio(folder / f"{seconds}.wav", seconds) for seconds in (1.3, 0.05, 3.0, 2.4)]


def alone(models, face, sounds, folder, options=OPTIONS) -> list[bytes]:
    folder.mkdir()
    outs = [folder / f"{number}.mp4" for number in range(len(sounds))]
    for sound, out in zip(sounds, outs, strict=True):
        pipeline.dub(face, sound, out, models=models, options=options)
    return [out.read_bytes() for out in outs]


def together(models, face, sounds, folder, options=OPTIONS, memory=None) -> list[bytes]:
    folder.mkdir()
    outs = [folder / f"{number}.mp4" for number in range(len(sounds))]
    made = dub_many(
        face,
        [Output(*each) for each in zip(sounds, outs, strict=True)],
        models=models,
        options=options,
        memory=memory,
    )
    assert [each.takes for each in made] == [len(sounds)] * len(sounds)
    return [out.read_bytes() for out in outs]


@pytest.mark.any_device
@pytest.mark.parametrize("extend", ["loop", "pingpong", "hold"])
def test_outputs_equal_single_dubs(models, face_video, sounds, tmp_path, extend):
    options = replace(OPTIONS, extend=extend)
    wanted = alone(models, face_video, sounds, tmp_path / "alone", options)
    assert together(models, face_video, sounds, tmp_path / "together", options) == wanted
    assert len(set(wanted)) == 4


@pytest.mark.parametrize(
    "options", [replace(OPTIONS, blend="hard"), replace(OPTIONS, static=True), replace(OPTIONS, fps=30)]
)
def test_outputs_equal_single_dubs_for_images_and_options(models, face_video, sounds, tmp_path, options):
    wanted = alone(models, face_video, sounds[:2], tmp_path / "alone", options)
    assert together(models, face_video, sounds[:2], tmp_path / "together", options) == wanted


def test_faces_are_encoded_once(models, face_video, sounds, tmp_path, monkeypatch):
    seen = []
    encode = models.generator.encode_faces
    monkeypatch.setattr(
        models.generator, "encode_faces", lambda pictures: seen.append(len(pictures)) or encode(pictures)
    )
    models.detector.calls = 0
    together(models, face_video, [sounds[3]] * 3, tmp_path / "three")
    calls, pictures = models.detector.calls, sum(seen)
    seen.clear()
    models.detector.calls = 0
    together(models, face_video, [sounds[3]], tmp_path / "one")
    assert (calls, pictures) == (models.detector.calls, sum(seen))


def test_failed_output_does_not_affect_others(models, face_video, sounds, tmp_path, monkeypatch):
    (wanted,) = alone(models, face_video, sounds[3:], tmp_path / "alone")
    silent = tmp_path / "nan.wav"
    soundfile.write(silent, np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    real = outputs.write_video

    def full(pictures, out, **options):
        if "full" not in str(out):
            return real(pictures, out, **options)
        for _, _ in zip(pictures, range(20), strict=False):
            pass
        raise MediaError("the disk is full")

    monkeypatch.setattr(outputs, "write_video", full)
    made = dub_many(
        face_video,
        [
            Output(tmp_path / "none.wav", tmp_path / "a.mp4"),
            Output(sounds[3], tmp_path / "full.mp4"),
            Output(sounds[3], tmp_path / "good.mp4"),
            Output(silent, tmp_path / "b.mp4"),
            Output(sounds[0], face_video),
        ],
        models=models,
        options=OPTIONS,
    )
    assert "none.wav" in str(made[0])
    assert str(made[1]) == "the disk is full"
    assert "nan.wav" in str(made[3])
    assert "is also an input" in str(made[4])
    assert (tmp_path / "good.mp4").read_bytes() == wanted
    assert sorted(path.name for path in tmp_path.glob("*.mp4*")) == ["good.mp4"]
    assert not [thread for thread in threading.enumerate() if thread.name in ("prefetch", "hand")]


def test_truncated_video_fails_only_long_outputs(models, face_video, sounds, tmp_path):
    """An output that ends before the truncation is dubbed."""
    whole = tmp_path / "whole.mp4"
    write_video(face_frames(130), whole, fps=Fraction(25), options=FAST)
    cut = tmp_path / "cut.mp4"
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 9 // 10])
    outs = [tmp_path / "long.mp4", tmp_path / "short.mp4"]
    long, short = dub_many(
        cut, [Output(sounds[2], outs[0]), Output(sounds[1], outs[1])], models=models, options=OPTIONS
    )
    assert "truncated" in str(long)
    assert short.frames == 1
    assert not outs[0].exists()
    assert outs[1].exists()


def test_video_without_face_fails_all_outputs(models, faceless_video, sounds, tmp_path):
    made = dub_many(
        faceless_video,
        [Output(each, tmp_path / f"{each.stem}.mp4") for each in sounds],
        models=models,
        options=OPTIONS,
    )
    assert all(isinstance(each, FaceError) for each in made)


def test_bug_is_returned_with_its_traceback(models, face_video, sounds, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "paste", lambda *_: 1 / 0)
    made = dub_many(
        face_video, [Output(sounds[0], tmp_path / f"{i}.mp4") for i in "ab"], models=models, options=OPTIONS
    )
    assert [type(each) for each in made] == [ZeroDivisionError] * 2
    assert made[0].__traceback__ is not None


def test_ctrl_c_stops_all_outputs(models, face_video, sounds, tmp_path, monkeypatch):
    real = pipeline.find_faces

    def interrupted(*arguments):
        for number, each in enumerate(real(*arguments)):
            if number == 30:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(pipeline, "find_faces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dub_many(
            face_video,
            [Output(sounds[2], tmp_path / f"{i}.mp4") for i in "ab"],
            models=models,
            options=OPTIONS,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extend", ["loop", "pingpong", "hold"])
@pytest.mark.parametrize("nosmooth", [False, True])
def test_known_faces_are_not_detected_again(models, sounds, tmp_path, extend, nosmooth):
    video = tmp_path / "two_scenes.mp4"
    grey = YuvImage.from_image(np.full((240, 320, 3), 110, np.uint8), Colour())
    write_video([*face_frames(20), *[grey] * 8, *face_frames(12)], video, fps=Fraction(25), options=FAST)
    options = replace(OPTIONS, extend=extend, faces=FaceOptions(nosmooth=nosmooth))
    memory = FaceMemory()
    (wanted,) = together(models, video, [sounds[2]], tmp_path / "found", options, memory)
    assert memory.is_complete
    assert memory.to_array().shape == (40, 5)
    assert np.isnan(memory.to_array()[22:26, 0]).all()
    models.detector.calls = 0
    known = FaceMemory(memory.to_array(), is_complete=True)
    assert together(models, video, [sounds[2]], tmp_path / "known", options, known) == [wanted]
    assert models.detector.calls == 0
    assert known.is_complete


def test_memory_of_short_audio_is_a_prefix(models, face_video, sounds, tmp_path):
    long, short = FaceMemory(), FaceMemory()
    together(models, face_video, [sounds[2]], tmp_path / "long", OPTIONS, long)
    (wanted,) = together(models, face_video, [sounds[0]], tmp_path / "short", OPTIONS, short)
    assert not short.is_complete
    count = len(short.to_array())
    assert 32 <= count < 50
    np.testing.assert_array_equal(short.to_array(), long.to_array()[:count])
    known = FaceMemory(long.to_array())
    assert together(models, face_video, [sounds[0]], tmp_path / "again", OPTIONS, known) == [wanted]


def test_comment_is_in_the_metadata(models, face_video, sounds, tmp_path):
    outs = [tmp_path / f"out.{kind}" for kind in ("mp4", "mov", "mkv", "avi")]
    dub_many(
        face_video,
        [Output(sounds[1], out, comment=f"mark {out.suffix}") for out in outs],
        models=models,
        options=OPTIONS,
    )
    for out in outs:
        with av.open(str(out)) as container:
            tags = {name.lower(): text for name, text in container.metadata.items()}
        assert tags["comment"].endswith(f", mark {out.suffix}")


def test_progress_per_output(models, face_video, sounds, tmp_path):
    seen: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    dub_many(
        face_video,
        [
            Output(sound, tmp_path / f"{name}.mp4", progress=lambda *now, name=name: seen[name].append(now))
            for name, sound in zip(seen, (sounds[0], sounds[3]), strict=True)
        ],
        models=models,
        options=OPTIONS,
    )
    assert seen["a"] == [(number, 32) for number in range(1, 33)]
    assert seen["b"][-1] == (60, 60)
