"""The command line for users: bad input, unusual names, signals, the original's flags."""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.faces import write_audio
from wav2lip_npu.cli import main
from wav2lip_npu.cli.doctor import DoctorCommand
from wav2lip_npu.cli.dub import DubCommand
from wav2lip_npu.cli.preprocess import PreprocessCommand
from wav2lip_npu.cli.serve import ServeCommand
from wav2lip_npu.media import container, video_reader

ROOT = Path(__file__).resolve().parents[2]
BOX = ["--box", "40", "200", "60", "220"]


@pytest.fixture
def run(capsys, tiny_checkpoint, face_video, speech, tmp_path):
    """Run `dub` in this process with valid inputs, some of which a test replaces."""

    def command(*extra: object, **files: object) -> tuple[int, str]:
        flags = {"checkpoint_path": tiny_checkpoint, "face": face_video, "audio": speech}
        flags |= {"outfile": tmp_path / "out.mp4"} | files
        arguments = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
        try:
            code = main.main(["dub", *arguments, *map(str, extra)])
        except SystemExit as stop:  # a value that the parser rejects
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return command


def assert_refused(result: tuple[int, str], *parts: str) -> None:
    """Assert exit code 2 and one line that contains all parts: the file, the value, the flag."""
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


@pytest.mark.parametrize("flag", ["face", "audio"])
def test_non_media_file_is_named(run, tmp_path, face_video, flag):
    assert_refused(run(**{flag: tmp_path / "none.mp4"}), "none.mp4", "No such file")
    assert_refused(run(**{flag: write(tmp_path / "empty.mp4", b"")}), "empty.mp4")
    assert_refused(run(**{flag: write(tmp_path / "text.mp4", b"hello " * 500)}), "text.mp4")
    noise = write(tmp_path / "noise.wav", np.random.default_rng(0).bytes(50_000))
    assert_refused(run(**{flag: noise}), "noise.wav")
    assert_refused(run(**{flag: tmp_path}), str(tmp_path), "directory")
    half = write(tmp_path / "half.mp4", face_video.read_bytes()[: face_video.stat().st_size // 2])
    assert_refused(run(**{flag: half}), "half.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_truncated_file_is_named_as_truncated(run, tmp_path, face_video, speech):
    cut = write(tmp_path / "cut.wav", speech.read_bytes()[: speech.stat().st_size // 2])
    assert_refused(run(audio=cut), "cut.wav", "truncated")
    cut = write(tmp_path / "cut.mp4", face_video.read_bytes()[: face_video.stat().st_size // 2])
    assert_refused(run(face=cut), "cut.mp4", "truncated")


def test_face_and_audio_swapped(run, face_video, speech):
    assert_refused(run(face=speech), "speech.wav")
    assert_refused(run(audio=face_video), "face.mp4")


def test_audio_without_finite_samples(run, tmp_path):
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    assert_refused(run(audio=tmp_path / "nothing.wav"), "nothing.wav")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    assert_refused(run(audio=tmp_path / "nan.wav"), "nan.wav", "NaN")


def test_very_short_audio_is_dubbed(run, tmp_path):
    code, _ = run(*BOX, audio=write_audio(tmp_path / "short.wav", 0.05))
    assert code == 0
    assert len(list(video_reader.read_frames(tmp_path / "out.mp4"))) == 1


def test_video_without_a_face(run, faceless_video, tmp_path):
    assert_refused(run(face=faceless_video), "no face", "nobody.mp4", "frames 0-14", "--box")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("box", [(0, 500, 0, 100), (10, 100, 0, 321)])
def test_box_outside_the_frame(run, box):
    assert_refused(run("--box", *box), " ".join(map(str, box)), "320x240")


@pytest.mark.parametrize("box", [(50, 50, 0, 100), (100, 20, 0, 100)])
def test_empty_box(run, box):
    assert_refused(run("--box", *box), "--box", " ".join(map(str, box)))


def test_device_or_weights_that_are_missing(run):
    assert_refused(run("--device", "tpu"), "'tpu'", "--device")
    assert_refused(run("--device", "npu"), "'npu'", "--device")
    assert_refused(run("--detector", "s3fd"), "s3fd.pth")
    assert_refused(run("--face_select", "tallest"), "tallest")


@pytest.mark.parametrize("flag", ["detector", "precision", "engine", "no_face", "blend", "extend"])
def test_unknown_choice_names_flag_and_choices(run, flag):
    assert_refused(run(f"--{flag}", "magic"), "magic", f"--{flag}")


def test_unknown_and_missing_flags_are_one_line(run, capsys):
    assert_refused(run("--fase", "x.mp4"), "--fase")
    assert main.main(["dub", "--face", "x.mp4"]) == 2
    assert_refused((2, capsys.readouterr().err), "--audio")
    assert_refused(run("--crf", "high"), "--crf", "high")


def test_wrong_checkpoints(run, tmp_path, speech):
    assert_refused(run(checkpoint_path=tmp_path / "none.pth"), "none.pth")
    page = write(tmp_path / "page.pth", b"<!DOCTYPE html><html>Sign in</html>")
    assert_refused(run(checkpoint_path=page), "page.pth", "HTML")
    assert_refused(run(checkpoint_path=speech), "speech.wav")


def test_output_folder_is_created(run, tmp_path):
    out = tmp_path / "a" / "b c" / "out.mp4"
    assert run(*BOX, outfile=out)[0] == 0
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_output_that_cannot_be_written(run, tmp_path):
    blocker = write(tmp_path / "file", b"")
    assert_refused(run(outfile=blocker / "out.mp4"), "cannot write", str(blocker))
    assert_refused(run(outfile="/proc/none/out.mp4"), "cannot write", "/proc/none")
    assert_refused(run(outfile=tmp_path / "out.xyz"), "out.xyz", ".mp4")
    assert_refused(run(outfile=tmp_path), "cannot write", str(tmp_path))
    if os.getuid():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        assert_refused(run(outfile=locked / "out.mp4"), "cannot write", "Permission denied")


def test_output_equal_to_an_input(run, tmp_path, face_video):
    copy = tmp_path / "copy.mp4"
    shutil.copy(face_video, copy)
    before = copy.read_bytes()
    assert_refused(run(face=copy, outfile=copy), "copy.mp4", "--outfile")
    assert_refused(run(face=copy, outfile=tmp_path / "." / "copy.mp4"), "copy.mp4", "--outfile")
    os.symlink(copy, tmp_path / "link.mp4")
    assert_refused(run(face=copy, outfile=tmp_path / "link.mp4"), "link.mp4", "--outfile")
    assert copy.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["a\nb", "ünïcödé 你好 🎬", '-dash it\'s "so"; $(touch x)', "100%03d", "c:d a&b|c"]
)
def test_any_file_name_works(run, tmp_path, face_video, name):
    folder = tmp_path / name
    folder.mkdir()
    face, audio = folder / f"{name}.mp4", folder / f"{name}.wav"
    shutil.copy(face_video, face)
    write_audio(audio, 0.2)
    out = folder / f"{name} out.mp4"
    assert run(*BOX, face=face, audio=audio, outfile=out)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted([face.name, audio.name, out.name])
    assert len(list(video_reader.read_frames(out))) == 5


def test_error_with_a_newline_in_a_name_is_one_line(run, tmp_path):
    assert_refused(run(face=tmp_path / "a\nb.mp4"), "a\\nb.mp4")


def test_value_that_begins_with_a_dash(run, tmp_path, monkeypatch):
    """D: `--outfile -x.mp4` is a name, `--outfile --crf` a missing value in one line."""
    monkeypatch.chdir(tmp_path)
    code, text = run(*BOX, "--report", "-x.json", outfile="-x.mp4")
    assert code == 0, text
    assert (tmp_path / "-x.mp4").is_file() and (tmp_path / "-x.json").is_file()
    for flag in ("--outfile", "--report"):
        assert_refused(run(flag, "--crf", "20"), flag)
        assert_refused(run(flag), flag)


@pytest.mark.parametrize("command", list(main.COMMANDS))
def test_help_shows_optional_values_like_others(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([command, "--help"])
    assert stop.value.code == 0
    assert "None}" not in capsys.readouterr().out


def test_optional_value_may_be_none_or_wrong(run):
    assert run(*BOX, "--mel_shift", "None", "--fps", "None")[0] == 0
    assert_refused(run("--mel_shift", "much"), "--mel_shift", "much")


def test_log_line_with_control_characters_is_one_line(run, tmp_path, monkeypatch):
    """A15: the name of an output does not split or hide a log line."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest
    out = tmp_path / "a\nfake line\x1b[2J\u202e.mp4"
    code, text = run(*BOX, outfile=out)
    assert code == 0
    last = text.splitlines()[-1]
    assert "a\\nfake line\\x1b[2J\\u202e.mp4" in last
    assert out.is_file()


def test_error_of_an_option_is_one_line(run):
    """Options check themselves inside the parser, which would print a box."""
    assert_refused(run("--crf", 99), "--crf", "99")
    assert_refused(run("--resize_factor", 0), "--resize_factor", "0")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("mel_shift", "nan"), ("mel_shift", "inf"), ("mel_shift", "-100"), ("fps", "0.0001"), ("fps", "nan")],
)
def test_number_out_of_range_names_flag_and_value(run, flag, value):
    assert_refused(run(f"--{flag}", value), f"--{flag} {value}")


@pytest.mark.parametrize("word", ["--static=banana", "--static=", "--rotate=2"])
def test_unknown_value_of_a_switch_is_refused(run, word):
    flag, _, value = word.partition("=")
    assert_refused(run(word), f"{flag} {value!r}", "true or false")


def test_bug_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr("wav2lip_npu.dubbing.blend.paste", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*BOX)


def test_debug_raises_the_error(run, tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        run("--debug", face=tmp_path / "none.mp4")


def test_flags_of_the_original(run, tmp_path):
    code, text = run(
        "--pads", 0, 20, 0, 0, "--face_det_batch_size", 4, "--wav2lip_batch_size", 16, "--resize_factor", 2,
        "--crop", 0, -1, 0, -1, "--box", -1, -1, -1, -1, "--nosmooth", "--rotate", "--fps", 25, "--static", "False",
        *("--box", 10, 100, 10, 100),
    )  # fmt: skip
    assert code == 0, text
    info = container.probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == (120, 160)


@pytest.mark.parametrize(
    ("words", "static"),
    [
        (["--static"], True),
        (["--static", "True"], True),
        (["--static=true"], True),
        (["--static", "False"], False),
        (["--static=False"], False),
        (["--static=YES"], True),
        (["--static", "0"], False),
        ([], False),
    ],
)
def test_static_takes_an_optional_value(monkeypatch, words, static):
    commands = []
    monkeypatch.setattr(DubCommand, "run", lambda self: commands.append(self))
    base = ["dub", "--checkpoint_path", "c", "--face", "f", "--audio", "a"]
    assert main.main([*base, *words, "--nosmooth"]) == 0
    assert commands[0].dub.static is static
    assert commands[0].dub.faces.nosmooth is True


def test_flags_are_listed_here():
    """A new flag must be added to this list and to the docs."""

    def names(options: type) -> set[str]:
        flags: set[str] = set()
        for field in dataclasses.fields(options):
            inner = field.default_factory
            flags |= names(inner) if dataclasses.is_dataclass(inner) else {field.name}
        return flags

    original = (
        "checkpoint_path face audio outfile static fps pads face_det_batch_size wav2lip_batch_size "
        "resize_factor crop box rotate nosmooth"
    )
    added = (
        "device precision engine detector face_select no_face blend extend mel_shift crf preset report "
        "voice audio_track start duration skip rest rest_threshold max_yaw max_pitch max_roll min_face"
        " occlusion occlusion_mask encoder check min_confidence speaker turns rttm listeners compile"
        " enhance enhance_region enhance_blend enhance_weight face_size audio_refine hwaccel asd"
    )
    assert names(DubCommand) == set(original.split()) | set(added.split())
    original = "data_root preprocessed_root batch_size ngpu"
    added = "workers device detector several_people min_face_px min_face_share face_size filelists seed"
    assert names(PreprocessCommand) == set(original.split()) | set(added.split())
    doctor = (
        "data_root filelists syncnet_checkpoint_path fix_offset min_confidence outdir num_clips num_workers "
        "width device json"
    )
    assert names(DoctorCommand) == set(doctor.split())
    serve = (
        "host port data devices checkpoints token_file max_upload max_seconds max_pixels max_queue "
        "max_per_client timeout keep disk_floor allow_urls webhook_hosts webhook_secret_file max_speakers "
        "max_streams max_streams_per_client max_stream_seconds max_silent_seconds ice_file"
    )
    assert names(ServeCommand) == set(serve.split())


def test_overview_lists_each_command(capsys):
    assert main.main(["--help"]) == 0
    lines = [line.strip().split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    for name, command in main.COMMANDS.items():
        assert [name, command.summary] in lines


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_shows_one_default_per_option_and_titles_in_words(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([command, "--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    option, text = "", {}
    for line in output.splitlines():
        words = line.strip("│| ").split()
        option = words[0] if line[1:4] == " --" else option
        text[option] = text.get(option, "") + " " + " ".join(words)
    assert not {flag: words for flag, words in text.items() if words.count("(default:") > 1}
    assert not [line for line in output.splitlines() if line[:1] in "╭+" and "." in line]


@pytest.mark.parametrize("columns", ["1", "2", "-5", "x"])
def test_help_in_narrow_terminals(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stop:
        main.main(["dub", "--help"])
    assert stop.value.code == 0 and "--audio_track" in capsys.readouterr().out
    assert os.environ["COLUMNS"] == columns
    assert main.main(["dub", "--face", "a"]) == 2
    assert "--audio" in capsys.readouterr().err.splitlines()[-1]


def test_unknown_and_missing_command(capsys):
    assert main.main(["dubb"]) == 2
    assert "'dubb'" in capsys.readouterr().err
    assert main.main([]) == 2
    assert main.main(["--version"]) == 0


def process(*words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.alone
@pytest.mark.parametrize(("number", "code"), [
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143),
])  # fmt: skip
def test_signal_leaves_nothing_behind(tiny_checkpoint, face_video, tmp_path, number, code):
    audio = write_audio(tmp_path / "long.wav", 120)
    out = tmp_path / "out" / "out.mp4"
    words = ["--checkpoint_path", tiny_checkpoint, "--face", face_video, "--audio", audio, "--outfile", out]
    # A shell starts background commands with SIGINT ignored. That may apply to the test, but not to the child.
    child = process(
        "inference.py", *words, *BOX, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    while not any(path.stat().st_size for path in out.parent.glob("*.part")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    child.send_signal(number)
    _, text = child.communicate(timeout=60)
    assert child.returncode == code, text
    assert "nothing was written" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert list(out.parent.iterdir()) == []


@pytest.mark.alone
def test_closed_terminal_leaves_nothing_behind(tiny_checkpoint, face_video, tmp_path):
    """A7: SIGHUP is handled like SIGTERM, even if standard streams can no longer be written."""
    audio = write_audio(tmp_path / "long.wav", 120)
    out = tmp_path / "out" / "out.mp4"
    words = ["--checkpoint_path", tiny_checkpoint, "--face", face_video, "--audio", audio, "--outfile", out]
    terminal, end = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(
        [sys.executable, "inference.py", *map(str, words), *BOX],
        cwd=ROOT,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(end)
    while not any(path.stat().st_size for path in out.parent.glob("*.part")):
        assert child.poll() is None, os.read(terminal, 9999)
        time.sleep(0.05)
    os.close(terminal)
    assert child.wait(60) == 129
    assert list(out.parent.iterdir()) == []


def test_full_disk(run, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        result = run(*BOX)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_refused(result, "cannot write", "File too large")
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
