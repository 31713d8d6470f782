"""Clips: content, alignment of frames and audio, and reasons why videos are dropped."""

from __future__ import annotations

import json
import wave
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from support.marks import slow
from support.media_files import chirp, lag_of, write_frames
from support.talk import FAST, SPEED, face_images, write_talk
from wav2lip_npu.cli import main
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.media import video_reader
from wav2lip_npu.mel import DEFAULT_MEL, log_mel
from wav2lip_npu.preprocessing import make_clip as module
from wav2lip_npu.preprocessing.clip_options import ClipOptions
from wav2lip_npu.preprocessing.find_videos import Video
from wav2lip_npu.preprocessing.limited_detector import LimitedDetector
from wav2lip_npu.preprocessing.make_clip import DroppedError, make_clip
from wav2lip_npu.versions import versions


@pytest.fixture(scope="module")
def detector():
    return LimitedDetector(load_detector("hog"), 32, "cpu")


@pytest.fixture
def make(tmp_path, detector):
    """Create the clip of a file; return its folder and the content of its clip.json."""

    def make_one(path: Path, **options: object):
        video = Video(path, path.name, path.stem)
        make_clip(video, tmp_path / "out", detector, ClipOptions(**options))
        folder = tmp_path / "out" / path.stem
        return folder, json.loads((folder / "clip.json").read_text())

    return make_one


def read_samples(folder: Path) -> np.ndarray:
    with wave.open(str(folder / "audio.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def speed_of(content: dict) -> tuple[float, float]:
    """Return the speed of the face in pixels per second, and its position at time 0."""
    left = np.array(content["boxes"])[:, 0]
    slope, start = np.polyfit(np.array(content["frames"]) / 25, left, 1)
    return slope, start


def test_content_of_a_clip(tmp_path, make):
    path = write_talk(tmp_path / "talk.mp4", 1.2)
    folder, content = make(path)
    frames = content["frames"]
    assert frames == list(range(30))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{n}.jpg" for n in frames), "audio.wav", "mel.npy", "clip.json"]
    )
    samples = read_samples(folder)
    mel = np.load(folder / "mel.npy")
    assert np.array_equal(mel, log_mel(samples.astype(np.float32) / 32768))
    assert mel.dtype == np.float32
    assert lag_of(samples / 32768, chirp(1.2)) == 0
    status = path.stat()
    boxes = content.pop("boxes")
    assert content == {
        "format": 1,
        "fps": 25,
        "frames": frames,
        "cuts": [],
        "face_px": round(np.median([np.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes])),
        "samples": len(samples),
        "source": {"name": "talk.mp4", "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "width": 320, "height": 240, "fps": "25"},
        "mel": asdict(DEFAULT_MEL),
        "options": {"several_people": "drop", "min_face_px": 48, "min_face_share": 0.75},
        "detector": "hog",
        "versions": versions(),
    }  # fmt: skip
    for frame, box in zip(video_reader.read_frames(path), boxes, strict=True):
        crop = cv2.imread(str(folder / f"{frame.index}.jpg"))
        wanted = frame.yuv.crop(np.array(box, np.float32), content["face_px"])
        assert crop.shape == wanted.shape
        assert np.abs(crop.astype(int) - wanted).mean() < 2


def test_second_pass_over_a_long_video_gives_the_same_bytes(tmp_path, make, monkeypatch):
    path = write_talk(tmp_path / "talk.mp4")
    folder, _ = make(path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(module, "_MAX_HELD_BYTES", 0)
    folder, _ = make(path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("fps", [slow("30"), "24000/1001", slow("50"), "12"])
def test_any_fps_becomes_25(tmp_path, make, fps):
    _, content = make(write_talk(tmp_path / "a.mp4", 1.2, fps=Fraction(fps)))
    assert len(content["frames"]) in (29, 30)
    speed, start = speed_of(content)
    assert abs(speed - SPEED) < 2.5
    _, still = make(write_talk(tmp_path / "b.mp4", 1.2))
    assert abs(start - speed_of(still)[1]) < 2  # 40 ms


def test_variable_fps_becomes_constant(tmp_path, make):
    stamps = [
        0,
        33,
        70,
        95,
        160,
        170,
        250,
        280,
        300,
        390,
        400,
        430,
        500,
        540,
        555,
        640,
        660,
        720,
        760,
        800,
        850,
        900,
        930,
        980,
    ]
    shown = face_images([stamp / 1000 for stamp in stamps])
    path = write_frames(
        tmp_path / "vfr.mkv",
        shown,
        stamps=stamps,
        time_base=Fraction(1, 1000),
        audio=chirp(1.0),
        options=FAST,
    )
    folder, content = make(path)
    assert len(content["frames"]) in (24, 25)
    assert abs(speed_of(content)[0] - SPEED) < 4
    assert abs(lag_of(read_samples(folder) / 32768, chirp(1.0))) <= 16


@pytest.mark.parametrize("late", [0.2, -0.2])
def test_late_and_early_audio_is_aligned(tmp_path, make, late):
    sent = chirp(1.2)
    stamps = None if late > 0 else [number + 5 for number in range(30)]
    path = write_talk(
        tmp_path / "a.mkv", 1.2, audio=sent, audio_start=max(late, 0), stamps=stamps, audio_codec="pcm_s16le"
    )
    folder, content = make(path)
    samples = read_samples(folder) / 32768
    assert abs(lag_of(samples, sent) - late * 16_000) <= 16
    assert content["frames"][-1] == min(29, len(samples) // 640 - 1)


def test_frames_after_the_end_of_the_audio_are_left_out(tmp_path, make):
    folder, content = make(write_talk(tmp_path / "a.mp4", 1.6, audio=chirp(1.0)))
    assert content["frames"] == list(range(len(read_samples(folder)) // 640))
    assert len(content["frames"]) in (25, 26)


def test_cuts_are_stored_and_small_faces_cropped_at_96_px(tmp_path, make):
    times = [number / 25 for number in range(20)]
    dark = [cv2.flip(255 - face // 4, -1) for face in face_images(times[:4], side=90)]
    shown = [*face_images(times, side=90), *dark, *face_images(times, side=90)]
    path = write_frames(tmp_path / "a.mp4", shown, audio=chirp(44 / 25), options=FAST)
    folder, content = make(path)
    assert content["cuts"] == [20, 24]
    assert not {20, 21, 22, 23} & set(content["frames"])
    assert content["face_px"] == 96
    assert cv2.imread(str(folder / "0.jpg")).shape == (96, 96, 3)


def dropped(make, path: Path, reason: str, **options: object) -> str:
    with pytest.raises(DroppedError) as caught:
        make(path, **options)
    assert caught.value.reason == reason
    assert not list(path.parent.glob("out/*"))
    return caught.value.detail


def test_unreadable(tmp_path, make):
    good = write_talk(tmp_path / "good.mp4").read_bytes()
    noise = np.random.default_rng(0).bytes(len(good) // 2)
    for name, content in {
        "text": b"hello " * 500,
        "empty": b"",
        "half": good[: len(good) // 2],
        "noise": noise,
    }.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
        detail = dropped(make, tmp_path / f"{name}.mp4", "unreadable")
        assert name in detail
        assert str(tmp_path) not in detail
    dropped(make, tmp_path / "none.mp4", "unreadable")


def test_no_sound(tmp_path, make):
    write_frames(tmp_path / "a.mp4", face_images([n / 25 for n in range(25)]), options=FAST)
    assert "track" in dropped(make, tmp_path / "a.mp4", "no sound")
    assert "silent" in dropped(make, write_talk(tmp_path / "b.mp4", silent=True), "no sound")
    assert "empty" in dropped(make, write_empty_track(tmp_path / "c.mkv"), "no sound")


def write_empty_track(path: Path) -> Path:
    """Write a video whose audio track has no packets."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        video.width, video.height = 320, 240
        for image in face_images([number / 25 for number in range(25)]):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(video.encode(None))
    return path


def test_no_face_and_face_gaps(tmp_path, make):
    times = [number / 25 for number in range(25)]
    empty = [np.full((240, 320, 3), 110, np.uint8)] * 25
    path = write_frames(tmp_path / "a.mp4", empty, audio=chirp(1.0), options=FAST)
    assert dropped(make, path, "no face") == "none in 25 frames"
    path = write_frames(tmp_path / "b.mp4", [*empty, *face_images(times)], audio=chirp(2.0), options=FAST)
    assert "25 of 50 frames" in dropped(make, path, "face gaps")
    _, content = make(path, min_face_share=0.4)
    assert len(content["frames"]) in (24, 25, 26)


def test_face_too_small(tmp_path, make):
    path = write_talk(tmp_path / "a.mp4", side=66)
    assert "48" in dropped(make, path, "face too small")
    _, content = make(path, min_face_px=30)
    assert content["face_px"] == 96


def test_too_short(tmp_path, make):
    assert "15 frames" in dropped(make, write_talk(tmp_path / "a.mp4", 0.6, audio=chirp(1.0)), "too short")
    assert "frames with audio" in dropped(
        make, write_talk(tmp_path / "b.mp4", 1.0, audio=chirp(0.5)), "too short"
    )
    assert make(write_talk(tmp_path / "c.mp4", 0.64, audio=chirp(1.0)))[1]["frames"] == list(range(16))


def test_several_people(tmp_path, make):
    path = write_talk(tmp_path / "a.mp4", 1.6, faces=2)
    assert "2 of 2 frames" in dropped(make, path, "several people")
    assert len(make(path, several_people="keep")[1]["frames"]) == 40


def test_brief_second_face_is_accepted(tmp_path, make):
    times = [number / 25 for number in range(75)]
    shown = [*face_images(times[:60])]
    alone = [np.pad(path_, ((0, 0), (0, 180), (0, 0)), constant_values=110) for path_ in shown]
    both = list(face_images(times[60:], faces=2))
    path = write_frames(tmp_path / "a.mp4", [*alone, *both], audio=chirp(3.0), options=FAST)
    assert len(make(path)[1]["frames"]) > 56


@pytest.mark.parametrize("words", [["--several_people", "some"], ["--min_face_px", "0"], ["--min_face_share", "2"], ["--workers", "0"], ["--ngpu", "0"], ["--batch_size", "0"], ["--device", "tpu"], ["--detector", "magic"], ["--device", "npu"]])  # fmt: skip
def test_bad_options_fail_before_any_work(tmp_path, capsys, words):
    (tmp_path / "a.mp4").touch()
    arguments = ["--data_root", str(tmp_path), "--preprocessed_root", str(tmp_path / "out"), *words]
    try:
        code = main.main(["preprocess", *arguments])
    except SystemExit as stop:  # a value that the parser rejects
        code = stop.code
    assert code == 2
    assert words[1] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
