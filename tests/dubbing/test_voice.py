"""B7: a voice drives the mouth while other audio is heard."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from support.batch_jobs import job_folder as job_folder
from support.batch_jobs import read_report, workers_here, write_table
from support.devices import DEVICE
from support.faces import write_audio
from support.media_files import chirp, write_wav
from wav2lip_npu.batch.run import run_batch
from wav2lip_npu.cli import main
from wav2lip_npu.dubbing import pipeline
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.errors import MediaError, UsageError
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.video_reader import read_frames

OPTIONS = {"crf": 0, "preset": "ultrafast", "box": (40, 200, 60, 220)}
__all__ = ["workers_here"]


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """0.6 s of a chirp, like `speech`."""
    return write_wav(tmp_path_factory.mktemp("music") / "mix.wav", chirp(0.6))


def luma(path: Path) -> list[np.ndarray]:
    return [frame.yuv.y.astype(int) for frame in read_frames(path)]


def largest_change(one: Path, other: Path) -> float:
    return max(np.abs(a - b).max() for a, b in zip(luma(one), luma(other), strict=True))


def test_voice_drives_the_mouth_and_audio_is_written(models, face_video, speech, music, tmp_path):
    """B7"""
    out, spoken, sung = (tmp_path / f"{name}.avi" for name in ("out", "spoken", "sung"))
    report = pipeline.dub(face_video, music, out, voice=speech, models=models, **OPTIONS)
    pipeline.dub(face_video, speech, spoken, models=models, **OPTIONS)
    pipeline.dub(face_video, music, sung, models=models, **OPTIONS)
    assert (report.frames, report.voice, report.audio) == (15, str(speech), str(music))
    np.testing.assert_allclose(read_audio(out), read_audio(music), atol=1e-3)
    assert largest_change(out, sung) > 3
    # Up to the last frames, whose windows reach beyond the end of the voice.
    changes = [np.abs(a - b).max() for a, b in zip(luma(out), luma(spoken), strict=True)]
    assert max(changes[:8]) <= 1


@pytest.mark.parametrize("seconds", [0.05, 0.2, 2.0])
def test_audio_determines_the_length(models, face_video, music, tmp_path, seconds):
    """B7: the mouth stays closed after a shorter voice; a longer one is cut off."""
    voice = write_audio(tmp_path / "voice.wav", seconds)
    out = tmp_path / "out.avi"
    report = pipeline.dub(face_video, music, out, voice=voice, models=models, static=True, **OPTIONS)
    assert report.frames == 15
    assert len(read_audio(out)) == len(read_audio(music))
    frames = luma(out)
    still = [np.abs(a - b).max() for a, b in itertools.pairwise(frames)]
    if seconds < 1:
        rest = round((seconds + 0.12) * 25)
        assert max(still[rest:]) <= 2
    else:
        assert max(still[5:]) > 3


def test_voice_of_each_output(models, face_video, speech, music, tmp_path):
    """B7: outputs of a pass, with or without a voice, equal single dubs."""
    outputs = [Output(music, tmp_path / "a.mp4", voice=speech), Output(music, tmp_path / "b.mp4")]
    reports = pipeline.dub_many(face_video, outputs, models=models, **OPTIONS)
    assert [report.voice for report in reports] == [str(speech), None]
    pipeline.dub(face_video, music, tmp_path / "c.mp4", voice=speech, models=models, **OPTIONS)
    assert (tmp_path / "c.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
    assert (tmp_path / "b.mp4").read_bytes() != (tmp_path / "a.mp4").read_bytes()


def test_bad_voices_are_named(models, face_video, speech, faceless_video, tmp_path):
    """B7: a missing voice, a file without audio, and a voice that is also the output."""
    for voice, message in ((tmp_path / "none.wav", r"none\.wav"), (faceless_video, r"nobody\.mp4")):
        with pytest.raises(MediaError, match=message):
            pipeline.dub(face_video, speech, tmp_path / "out.mp4", voice=voice, models=models)
    voice = tmp_path / "voice.mp4"
    pipeline.dub(face_video, speech, voice, models=models, **OPTIONS)
    before = voice.read_bytes()
    with pytest.raises(MediaError, match=r"voice\.mp4"):
        pipeline.dub(face_video, speech, voice, voice=voice, models=models)
    assert voice.read_bytes() == before


def test_voice_on_the_command_line(face_video, speech, music, tmp_path, tiny_checkpoint, capsys):
    """B7"""
    report = tmp_path / "report.json"
    flags = {
        "checkpoint_path": tiny_checkpoint, "face": face_video, "audio": music, "voice": speech, "device": DEVICE,
        "outfile": tmp_path / "out.mp4", "report": report,
    }  # fmt: skip
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    words += ["--box", "40", "200", "60", "220", "--start", "0.2", "--duration", "0.4", "--skip", "0.3-0.4"]
    assert main.main(["dub", *words]) == 0
    written = json.loads(report.read_text())
    assert (written["voice"], written["frames"]) == (str(speech), 10)
    assert written["unchanged_spans"] == [[3, 4, "skip"]]
    capsys.readouterr()
    speech_before = speech.read_bytes()
    assert main.main(["dub", *words, "--report", str(speech)]) == 2
    assert str(speech) in capsys.readouterr().err
    assert speech.read_bytes() == speech_before


@pytest.mark.usefixtures("workers_here")
def test_voice_and_spans_in_a_table(job_folder, tiny_checkpoint):
    """B7: columns of the table. A changed cell makes a new job."""
    columns = ("voice", "start", "duration", "skip", "extend", "fps", "rest", "rest_threshold")
    rows = [
        ("talk.mp4", "0.wav", "out/plain.mp4", *[""] * 8),
        ("talk.mp4", "0.wav", "out/voice.mp4", "1.wav", *[""] * 7),
        (
            "talk.mp4",
            "0.wav",
            "out/all.mp4",
            "1.wav",
            "0.1",
            "0.2",
            "0.2-0.24",
            "silence",
            "50",
            "auto",
            "20",
        ),
    ]
    write_table("jobs.csv", rows, *columns)
    options = {"checkpoint_path": str(tiny_checkpoint), "devices": "cpu", "box": (40, 200, 60, 220)}
    results = run_batch("jobs.csv", **options)
    assert [result.status for result in results] == ["ok"] * 3
    plain, voice, everything = results
    assert (plain.voice, voice.voice) == (None, "1.wav")
    assert set(voice.inputs) == {"face", "audio", "weights", "voice"}
    assert set(plain.inputs) == {"face", "audio", "weights"}
    assert (plain.frames, voice.frames, everything.frames) == (10, 10, 10)
    assert everything.unchanged_spans == [(5, 6, "skip")]
    assert len({result.key for result in results}) == 3
    keys = {Path(result.job).name: result.key for result in results}
    rows[2] = (*rows[2][:6], "0.2-0.22", *rows[2][7:])
    write_table("jobs.csv", rows, *columns)
    again = {Path(result.job).name: result.key for result in run_batch("jobs.csv", **options)}
    assert [name for name, key in again.items() if keys[name] != key] == ["all.mp4"]
    assert read_report()["all.mp4"]["unchanged_spans"] == [[5, 5, "skip"]]
    voices = {
        Path(result.job).name: result.voice for result in run_batch("jobs.csv", voice="2.wav", **options)
    }
    assert voices == {"plain.mp4": "2.wav", "voice.mp4": "1.wav", "all.mp4": "1.wav"}


@pytest.mark.usefixtures("workers_here")
def test_bad_cells_are_named(job_folder, caplog):
    """B7: problems of the new columns name the row and the value."""
    rows = [
        ("talk.mp4", "0.wav", "out/a.mp4", "none.wav", "", ""),
        ("talk.mp4", "0.wav", "out/b.mp4", "", "5-3", ""),
        ("talk.mp4", "0.wav", "out/c.mp4", "", "", "soon"),
        ("talk.mp4", "0.wav", "1.wav", "1.wav", "", ""),
    ]
    write_table("jobs.csv", rows, "voice", "skip", "start")
    with pytest.raises(UsageError, match="jobs.csv"):
        run_batch("jobs.csv", devices="cpu")
    text = caplog.text
    for row, part in ((2, "none.wav"), (3, "5-3"), (4, "soon"), (5, "1.wav")):
        assert any(f"row {row}" in line and part in line for line in text.splitlines()), text
    assert not Path("out").exists()
