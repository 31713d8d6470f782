"""Dubs of unusual videos, images and audio files: still formats, grey and interlaced film, several audio tracks."""

from __future__ import annotations

import csv
import json
import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from media.test_audio_selection import PITCHES, is_pitch, write_tracks
from media.test_colour import write_raw
from media.test_deinterlace import combing

from support.faces import face_frames
from support.marks import slow
from support.media_files import chirp, save_image, to_pillow, write_frames, write_wav
from wav2lip_npu.batch.job_checks import check_jobs
from wav2lip_npu.batch.jobs import Job, read_jobs
from wav2lip_npu.cli import main
from wav2lip_npu.media.audio_reader import measure_audio, read_audio
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import write_video
from wav2lip_npu.media.yuv_image import Image, YuvImage

BOX = ["--box", "30", "210", "20", "200"]


def images(count: int) -> list[Image]:
    return [yuv.to_image() for yuv in face_frames(count)]


@pytest.fixture
def dub(tiny_checkpoint, tmp_path, capfd):
    """Return a function that runs the command and returns its exit code and what it printed."""

    def run(face: Path, audio: Path, *more: str, out: str = "o.mp4") -> tuple[int, str]:
        paths = ["--face", str(face), "--audio", str(audio), "--outfile", str(tmp_path / out)]
        arguments = [
            "--checkpoint_path",
            str(tiny_checkpoint),
            "--device",
            "cpu",
            "--preset",
            "ultrafast",
            *BOX,
        ]
        code = main.main(["dub", *paths, *arguments, *more])
        return code, "".join(capfd.readouterr()).strip()

    return run


@pytest.mark.parametrize(
    "form",
    ["AVIF", "HEIF-like", *(pytest.param(f, marks=pytest.mark.slow) for f in ("JPEG", "WEBP", "TIFF"))],
)
def test_still_images_have_25_fps(dub, tmp_path, form):
    """B1: 0.6 s of speech give 15 frames at 25 fps for every image format."""
    face = tmp_path / "face.img"
    if form == "HEIF-like":  # FFmpeg reads an AVIF that Pillow does not recognise, like HEIC
        save_image(face, to_pillow(images(1)[0]), "AVIF")
        face.write_bytes(face.read_bytes().replace(b"ftypavif", b"ftypmif1", 1))
    else:
        save_image(face, to_pillow(images(1)[0]), form)
    code, printed = dub(face, write_wav(tmp_path / "a.wav", chirp(0.6)))
    assert code == 0, printed
    info = probe(tmp_path / "o.mp4")
    assert (info.fps, info.frames) == (25, 15)
    assert dub(face, tmp_path / "a.wav", "--fps", "30")[0] == 0
    assert (probe(tmp_path / "o.mp4").fps, probe(tmp_path / "o.mp4").frames) == (30, 18)


@pytest.mark.parametrize("blend", ["soft", slow("hard")])
@pytest.mark.parametrize(
    "codec, pix_fmt", [("libx264", "yuv420p"), ("libx264", "gray"), ("ffv1", "gray10le")]
)
def test_black_and_white_film_stays_grey(dub, tmp_path, blend, codec, pix_fmt):
    """B8: no frame of the output has a tint, with any pixel format."""
    grey = [cv2.cvtColor(cv2.cvtColor(i, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) for i in images(8)]
    face = write_raw(tmp_path / "face.mkv", grey, codec, pix_fmt, "bgr24")
    code, printed = dub(face, write_wav(tmp_path / "a.wav", chirp(0.4)), "--blend", blend)
    assert code == 0, printed
    for frame in read_frames(tmp_path / "o.mp4"):
        assert max(np.abs(plane.astype(int) - 128).max() for plane in (frame.yuv.u, frame.yuv.v)) <= 1


def test_interlaced_film_becomes_progressive(dub, tmp_path, caplog):
    """B3: the output has no combing, and the log says that the film was deinterlaced."""
    moving = images(16)
    woven = [even.copy() for even in moving[::2]]
    for image, odd in zip(woven, moving[1::2], strict=True):
        image[1::2] = odd[1::2]
    face = write_frames(tmp_path / "face.mp4", woven, options={"x264-params": "tff=1"})
    code, printed = dub(face, write_wav(tmp_path / "a.wav", chirp(0.32)))
    assert code == 0, printed
    assert "face.mp4 is interlaced" in caplog.text
    with av.open(str(tmp_path / "o.mp4")) as container:
        frames = list(container.decode(video=0))
    assert not any(frame.interlaced_frame for frame in frames)
    before = combing(cv2.cvtColor(woven[4], cv2.COLOR_BGR2GRAY))
    after = combing(frames[4].to_ndarray(format="gray"))
    assert after < 0.6 * before


@pytest.mark.parametrize(
    "suffix", ["mka", *(pytest.param(s, marks=pytest.mark.slow) for s in ("mkv", "mp4"))]
)
def test_audio_track_is_written(dub, face_video, tmp_path, suffix):
    """B5: the chosen track is in the output, and its number in the report."""
    audio = write_tracks(tmp_path / f"a.{suffix}", PITCHES, 1)
    report = tmp_path / "r.json"
    for number, flags in ((1, []), (0, ["--audio_track", "0"]), (2, ["--audio_track", "2"])):
        code, printed = dub(face_video, audio, "--report", str(report), *flags)
        assert code == 0, printed
        assert is_pitch(read_audio(tmp_path / "o.mp4"), PITCHES[number])
        assert json.loads(report.read_text())["audio_track"] == number


@pytest.mark.parametrize("track", ["3", "-1"])
def test_missing_audio_track_is_an_error(dub, face_video, tmp_path, track):
    """B5: the message names the flag, before the first frame."""
    code, printed = dub(face_video, write_tracks(tmp_path / "a.mka", PITCHES), f"--audio_track={track}")
    assert code == 2 and "--audio_track" in printed
    assert not (tmp_path / "o.mp4").exists()


def test_audio_track_is_a_column_of_job_tables(face_video, tmp_path):
    """B5: a missing track of a row is reported with the other problems."""
    write_tracks(tmp_path / "a.mka")
    table = tmp_path / "jobs.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["face", "audio", "outfile", "audio_track"])
        for number, track in enumerate(("", "0", "1.0", "2")):
            rows.writerow([face_video, "a.mka", f"{number}.mp4", track])
    jobs, problems = read_jobs(table, Job(face="", audio="", outfile=""))
    assert [job.dub.audio_track for job in jobs] == [None, 0, 1, 2] and not problems
    (problem,) = check_jobs(jobs)
    assert problem.row == 5 and "a.mka" in problem.text and "--audio_track" in problem.text


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[tuple[int, float], Path]:
    """Videos of 1 s by the sample rate and the seconds of their audio."""
    folder = tmp_path_factory.mktemp("films")
    images = [np.full((32, 32, 3), 99, np.uint8)] * 25
    return {
        (rate, seconds): write_frames(
            folder / f"{rate} {seconds}.mp4", images, audio=chirp(seconds, rate), rate=rate
        )
        for rate, seconds in ((16_000, 1.04), (48_000, 1.04), (44_100, 1.017), (8_000, 0.983))
    }


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(60)], ids=str)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_audio_and_video_end_together(films, tmp_path, fps, suffix):
    """B14: audio from an MP4 in which it is 40 ms longer than the video ends within half a frame."""
    yuv = YuvImage.from_image(np.full((32, 32, 3), 99, np.uint8), next(face_frames(1)).colour)
    for (_, seconds), source in films.items():
        audio = measure_audio(source)
        assert float(audio.duration) == pytest.approx(seconds, abs=1e-3)
        out = tmp_path / f"o.{suffix}"
        write_video([yuv] * round(audio.duration * fps), out, fps=fps, audio=audio)
        with av.open(str(out)) as container:
            video_end, audio_end = (
                float(((stream.start_time or 0) + stream.duration) * stream.time_base)
                for stream in (container.streams.video[0], container.streams.audio[0])
            )
        assert abs(video_end - audio_end) * fps <= 0.51


def test_errors_name_the_file_at_fault(dub, face_video, speech, tmp_path):
    """B10: an error in the audio or the face video is not reported as an error of the output."""
    soundfile.write(tmp_path / "loud.wav", np.full(16_000, 1e38), 16_000, subtype="FLOAT")
    grey = [np.full((240, 320, 3), 90, np.uint8)] * 2
    icp = write_raw(tmp_path / "icp.mp4", grey, "libx264", "yuv420p10le", "bgr24", colorspace=14)
    wide = write_frames(
        tmp_path / "wide.mkv", [np.zeros((240, 16400, 3), np.uint8)] * 2, codec="mjpeg", pix_fmt="yuvj420p"
    )
    for face, audio, name in (
        (face_video, tmp_path / "loud.wav", "loud.wav"),
        (icp, speech, "icp.mp4"),
        (wide, speech, "wide.mkv"),
    ):
        code, printed = dub(face, audio)
        assert code == 2 and name in printed.splitlines()[-1]
        assert not re.search(r"cannot write|Traceback", printed)
        assert not list(tmp_path.glob("*o.mp4*"))


def test_errors_of_frames_pass_through_the_writer(tmp_path):
    """B10: an exception of the frames passes through the writer unchanged."""

    def frames():
        yield from face_frames(3)
        raise OSError(95, "Operation not supported")

    with pytest.raises(OSError, match="not supported"):
        write_video(frames(), tmp_path / "o.mp4", fps=Fraction(25))
    assert not list(tmp_path.iterdir())
