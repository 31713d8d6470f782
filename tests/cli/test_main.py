"""The command line as a user meets it: bad input, odd names, signals, the original's flags."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.faces import write_sound
from wav2lip_npu.cli import main
from wav2lip_npu.cli.doctor import DoctorCommand
from wav2lip_npu.cli.dub import DubCommand
from wav2lip_npu.cli.preprocess import PreprocessCommand
from wav2lip_npu.media import video_reader

ROOT = Path(__file__).resolve().parents[2]
BOX = ["--box", "40", "200", "60", "220"]


@pytest.fixture
def run(capsys, tiny_checkpoint, face_video, speech, tmp_path):
    """Run `dub` in this process with good inputs except for what a test replaces."""

    def command(*extra: object, **files: object) -> tuple[int, str]:
        words = {"checkpoint_path": tiny_checkpoint, "face": face_video, "audio": speech}
        words |= {"outfile": tmp_path / "out.mp4"} | files
        arguments = [str(part) for name, value in words.items() for part in (f"--{name}", value)]
        code = main.main(["dub", *arguments, *map(str, extra)])
        return code, capsys.readouterr().err

    return command


def refused(result: tuple[int, str], *parts: str) -> None:
    """Exit code 2 and one line that holds all parts."""
    code, text = result
    lines = [line for line in text.splitlines() if line.startswith("wav2lip-npu: ")]
    assert code == 2, text
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert text.rstrip().endswith(lines[0]), text
    for part in parts:
        assert part in lines[0], lines[0]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("which", ["face", "audio"])
def test_files_that_are_no_media(run, tmp_path, face_video, which):
    refused(run(**{which: tmp_path / "none.mp4"}), "cannot read", "none.mp4", "No such file")
    refused(run(**{which: write(tmp_path / "empty.mp4", b"")}), "empty.mp4 is empty")
    refused(run(**{which: write(tmp_path / "text.mp4", b"hello " * 500)}), "text.mp4 is not a media file")
    refused(
        run(**{which: write(tmp_path / "noise.wav", np.random.default_rng(0).bytes(50_000))}),
        "noise.wav is not a media file",
    )
    refused(run(**{which: tmp_path}), "is a directory")
    half = write(tmp_path / "half.mp4", face_video.read_bytes()[: face_video.stat().st_size // 2])
    refused(run(**{which: half}), "half.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_truncated_files_are_called_so(run, tmp_path, face_video, speech):
    cut = write(tmp_path / "cut.wav", speech.read_bytes()[: speech.stat().st_size // 2])
    refused(run(audio=cut), "cut.wav is truncated", "Copy the file again")
    cut = write(tmp_path / "cut.mp4", face_video.read_bytes()[: face_video.stat().st_size // 2])
    refused(run(face=cut), "cut.mp4", "truncated")


def test_sound_where_a_face_is_wanted_and_the_reverse(run, face_video, speech):
    refused(run(face=speech), "speech.wav holds sound but no picture")
    refused(run(audio=face_video), "face.mp4 holds no sound")


def test_sound_that_is_empty_or_not_a_number(run, tmp_path):
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    refused(run(audio=tmp_path / "nothing.wav"), "nothing.wav", "no sound")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    refused(run(audio=tmp_path / "nan.wav"), "nan.wav holds sound that is NaN or infinite")


def test_very_short_sound_is_dubbed(run, tmp_path):
    code, _ = run(*BOX, audio=write_sound(tmp_path / "short.wav", 0.05))
    assert code == 0
    assert len(list(video_reader.read_frames(tmp_path / "out.mp4"))) == 1


def test_no_face(run, faceless_video, tmp_path):
    refused(run(face=faceless_video), "no face in", "nobody.mp4", "25 frames looked at", "--box")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("box", [(0, 500, 0, 100), (50, 50, 0, 100), (100, 20, 0, 100), (10, 100, 0, 321)])
def test_box_outside_the_frame(run, box):
    refused(run("--box", *box), " ".join(map(str, box)), "320x240")


def test_unknown_device_detector_precision(run):
    refused(run("--device", "tpu"), "unknown device 'tpu'", "--device auto")
    refused(run("--device", "npu"), "device 'npu' is not there")
    refused(run("--detector", "magic"), "unknown face detector 'magic'", "hog")
    refused(run("--detector", "s3fd"), "s3fd.pth")
    refused(run("--precision", "int4"), "unknown precision 'int4'")
    refused(run("--face_select", "tallest"), "tallest")
    refused(run("--no_face", "maybe"), "maybe")


def test_wrong_checkpoints(run, tmp_path, speech):
    refused(run(checkpoint_path=tmp_path / "none.pth"), "cannot read weights", "none.pth")
    page = write(tmp_path / "page.pth", b"<!DOCTYPE html><html>Sign in</html>")
    refused(run(checkpoint_path=page), "page.pth is an HTML or XML page")
    refused(run(checkpoint_path=speech), "speech.wav is a video, sound or picture, not weights")


def test_output_folder_is_made(run, tmp_path):
    out = tmp_path / "a" / "b c" / "out.mp4"
    assert run(*BOX, outfile=out)[0] == 0
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_output_that_cannot_be_written(run, tmp_path):
    blocker = write(tmp_path / "file", b"")
    refused(run(outfile=blocker / "out.mp4"), "cannot write", "is not a folder")
    refused(run(outfile="/proc/none/out.mp4"), "cannot write")
    refused(run(outfile=tmp_path / "out.xyz"), "unknown kind of video", ".mp4")
    refused(run(outfile=tmp_path), "cannot write")
    if os.getuid():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        refused(run(outfile=locked / "out.mp4"), "cannot write", "Permission denied")


def test_output_equal_to_an_input(run, tmp_path, face_video, speech):
    copy = tmp_path / "copy.mp4"
    shutil.copy(face_video, copy)
    before = copy.read_bytes()
    refused(run(face=copy, outfile=copy), "is also an input")
    refused(run(face=copy, outfile=tmp_path / "." / "copy.mp4"), "is also an input")
    os.symlink(copy, tmp_path / "link.mp4")
    refused(run(face=copy, outfile=tmp_path / "link.mp4"), "is also an input")
    assert copy.read_bytes() == before


NAMES = [
    "a b",
    "it's",
    'say "hi"',
    "a;b",
    "a\nb",
    "ünïcödé 你好 🎬",
    "$(touch x)",
    "-dash",
    "100%03d",
    "c:d",
    "a&b|c",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(run, tmp_path, face_video, speech, name):
    folder = tmp_path / name
    folder.mkdir()
    face, audio = folder / f"{name}.mp4", folder / f"{name}.wav"
    shutil.copy(face_video, face)
    shutil.copy(speech, audio)
    out = folder / f"{name} out.mp4"
    assert run(*BOX, face=face, audio=audio, outfile=out)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted([face.name, audio.name, out.name])
    assert len(list(video_reader.read_frames(out))) == 38


def test_a_name_with_a_newline_stays_on_one_line(run, tmp_path):
    refused(run(face=tmp_path / "a\nb.mp4"), "a\\nb.mp4")


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr("wav2lip_npu.dubbing.outputs.paste", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*BOX)


def test_debug_shows_where_an_error_comes_from(run, tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        run("--debug", face=tmp_path / "none.mp4")


def test_flags_of_the_original(run, tmp_path):
    code, text = run(
        "--pads", 0, 20, 0, 0, "--face_det_batch_size", 4, "--wav2lip_batch_size", 16, "--resize_factor", 2,
        "--crop", 0, -1, 0, -1, "--box", -1, -1, -1, -1, "--nosmooth", "--rotate", "--fps", 25, "--static", "False",
        *("--box", 10, 100, 10, 100),
    )  # fmt: skip
    assert code == 0, text
    info = video_reader.probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == (120, 160)


@pytest.mark.parametrize(
    ("words", "static"),
    [
        (["--static"], True),
        (["--static", "True"], True),
        (["--static=true"], True),
        (["--static", "False"], False),
        (["--static=False"], False),
        (["--static", "0"], False),
        ([], False),
    ],
)
def test_static_is_a_real_switch(monkeypatch, words, static):
    seen = []
    monkeypatch.setattr(DubCommand, "run", lambda self: seen.append(self))
    base = ["dub", "--checkpoint_path", "c", "--face", "f", "--audio", "a"]
    assert main.main([*base, *words, "--nosmooth"]) == 0
    assert seen[0].dub.static is static
    assert seen[0].dub.faces.nosmooth is True


def test_every_flag_is_known():
    """A new flag is a decision: it belongs in this list and in the docs."""

    def names(options: type) -> set[str]:
        found: set[str] = set()
        for field in dataclasses.fields(options):
            inner = field.default_factory
            found |= names(inner) if dataclasses.is_dataclass(inner) else {field.name}
        return found

    original = (
        "checkpoint_path face audio outfile static fps pads face_det_batch_size wav2lip_batch_size "
        "resize_factor crop box rotate nosmooth"
    )
    ours = "device precision engine detector face_select no_face blend extend mel_shift crf preset report"
    assert names(DubCommand) == set(original.split()) | set(ours.split())
    original = "data_root preprocessed_root batch_size ngpu"
    ours = "workers device detector several_people min_face_px min_face_share filelists seed"
    assert names(PreprocessCommand) == set(original.split()) | set(ours.split())
    doctor = (
        "data_root filelists syncnet_checkpoint_path fix_offset min_confidence outdir num_clips num_workers "
        "width device json"
    )
    assert names(DoctorCommand) == set(doctor.split())


def process(*words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_overview_keeps_names_and_texts_apart(capsys):
    assert main.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, _, text) in main.COMMANDS.items():
        assert [name, text] in [line.strip().split(maxsplit=1) for line in lines]


@pytest.mark.parametrize("words", [["--help"], ["dub", "--help"], ["preprocess", "--help"]])
def test_help_is_quick(words):
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = process("-m", "wav2lip_npu", *words)
        text, _ = child.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert child.returncode == 0
        assert words[0].strip("-") in text or "dub" in text
    assert min(times) < 1  # of the processor: what else runs on the machine does not count


def test_unknown_command_and_none(capsys):
    assert main.main(["dubb"]) == 2
    assert "unknown command 'dubb'" in capsys.readouterr().err
    assert main.main([]) == 2
    assert main.main(["--version"]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(tiny_checkpoint, face_video, tmp_path, number, code):
    audio = write_sound(tmp_path / "long.wav", 600)
    out = tmp_path / "out" / "out.mp4"
    words = ["--checkpoint_path", tiny_checkpoint, "--face", face_video, "--audio", audio, "--outfile", out]
    # A shell starts what runs in its background with SIGINT ignored: the test may run so, the child not.
    child = process(
        "inference.py", *words, *BOX, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    deadline = time.monotonic() + 60
    while not (
        list(out.parent.glob("*.part")) and max(p.stat().st_size for p in out.parent.glob("*.part")) > 0
    ):
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    start = time.monotonic()
    child.send_signal(number)
    _, text = child.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert child.returncode == code, text
    assert "nothing was written" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert list(out.parent.iterdir()) == []


def test_full_disk(tiny_checkpoint, face_video, speech, tmp_path):
    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    words = ["--checkpoint_path", tiny_checkpoint, "--face", face_video, "--audio", speech, "--outfile", out]
    child = process("inference.py", *words, *BOX, preexec_fn=small_disk)
    _, text = child.communicate()
    refused((child.returncode, text), "cannot write", "the disk is full")
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
