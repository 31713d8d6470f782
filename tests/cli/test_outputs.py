"""Every command first checks that none of its outputs is also an input or another output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.special_files import make_special
from wav2lip_npu.cli import main

DUB = "dub --face face.mp4 --audio a.wav --checkpoint_path w.om"
BATCH = "batch jobs.csv"
PREPROCESS = "preprocess --data_root videos --detector hog"
SYNCNET = "train_syncnet --data_root clips --device cpu"
TRAIN = f"{SYNCNET.replace('train_syncnet', 'train')} --syncnet_checkpoint_path checkpoint_step000000100.pth"
DOCTOR = "doctor clips --syncnet_checkpoint_path w.pth --min_confidence 0.1"
EXPORT = "export --checkpoint_path exported/generator_b8.onnx --batch 8 --chip Ascend310P3"
COMPARE = "compare cpu w.om --checkpoint_path w.pth"
CHECKPOINTS = "--checkpoint_dir {} curves.jsonl"
OUTPUTS = [
    (DUB, "--outfile {}.mp4"),
    (f"{DUB} --outfile new.mp4", "--report {}"),
    (BATCH, "--report {}"),
    (PREPROCESS, "--preprocessed_root {} report.jsonl"),
    (SYNCNET, CHECKPOINTS),
    (TRAIN, CHECKPOINTS),
    (DOCTOR, "--json {}"),
    (DOCTOR, "--outdir {} val.txt"),
    ("doctor", "--json {}"),
    (EXPORT, "--outdir {} generator_b8.onnx"),
    (EXPORT, "--outdir {} generator_b8.json"),
    (COMPARE, "--json {}"),
]
INPUTS = {
    DUB: ["face.mp4", "a.wav", "w.om", "w.json", "s3fd.pth"],
    f"{DUB} --outfile new.mp4": ["face.mp4", "a.wav", "w.om", "w.json", "new.mp4", "s3fd.pth"],
    BATCH: ["jobs.csv", "face.mp4", "a.wav", "s3fd.pth"],
    PREPROCESS: ["videos/a.mp4"],
    SYNCNET: ["clips/a/clip.json", "filelists/val.txt"],
    TRAIN: ["clips/a/audio.wav", "filelists/train.txt"],
    DOCTOR: ["clips/a/clip.json", "clips/a/0.jpg", "filelists/train.txt", "w.pth", "s3fd.pth"],
    "doctor": ["s3fd.pth"],
    EXPORT: ["exported/generator_b8.onnx", "s3fd.pth"],
    COMPARE: ["w.om", "w.json", "w.pth", "s3fd.pth"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory with the inputs of all commands, which are never read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wav2lip_npu.faces.detectors.find_weights", lambda: tmp_path / "s3fd.pth")
    for name in {name for names in INPUTS.values() for name in names} - {"new.mp4"}:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    Path("filelists/train.txt").write_text("a\n")
    Path("jobs.csv").write_text("face,audio,outfile\nface.mp4,a.wav,new.mp4\n")
    Path("checkpoint_step000000100.pth").write_text("weights")
    return tmp_path


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = sorted(path for path in folder.rglob("*"))
    return {str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in paths}


def assert_refused(folder: Path, capsys: pytest.CaptureFixture[str], command: str, *parts: str) -> None:
    """Assert exit code 2, a one-line message, and that no file was changed or created."""
    before = state(folder)
    code = main.main(command.split())
    text = capsys.readouterr().err
    line = text.splitlines()[-1]
    assert code == 2, text
    assert line.startswith("wav2lip-npu: ") and "Traceback" not in text
    assert all(part in line for part in parts), line
    assert state(folder) == before


def target_of(words: str) -> tuple[str, Path]:
    """Return the flag, and the path in a new folder `outputs` to which the command writes."""
    flag, value, file = [*words.split(" "), ""][:3]
    Path("outputs").mkdir()
    return flag, Path("outputs", file or value.format("out"))


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "device"])
@pytest.mark.parametrize(("command", "flag"), OUTPUTS)
def test_outputs_that_are_not_regular_files(folder, capsys, command, flag, kind):
    """A3, A4: a FIFO, socket, device or folder is refused before any work."""
    has_file = flag.count(" ") == 2
    flag, target = target_of(flag)
    if kind == "device":
        target.symlink_to("/dev/null")
    else:
        make_special(target, kind)
    assert_refused(folder, capsys, f"{command} {flag} {target.parent if has_file else target}", str(target))


@pytest.mark.parametrize(
    ("command", "flag", "used"),
    [(command, flag, used) for command, flag in OUTPUTS for used in INPUTS[command]],
)
def test_outputs_that_are_links_to_inputs(folder, capsys, command, flag, used):
    """A3: an output that is a link to an input or to another output is refused."""
    has_file = flag.count(" ") == 2
    flag, target = target_of(flag)
    target.symlink_to(folder / used)
    assert_refused(folder, capsys, f"{command} {flag} {target.parent if has_file else target}", str(target))


@pytest.mark.parametrize(
    ("command", "flag", "used"),
    [(command, flag, used) for command, flag in OUTPUTS if flag.endswith(" {}") for used in INPUTS[command]],
)
def test_outputs_that_are_inputs(folder, capsys, command, flag, used):
    """A3: no output replaces an input or another output."""
    assert_refused(folder, capsys, f"{command} {flag.format(used)}", used)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.txt", "val.txt"])
def test_existing_file_lists_are_not_changed(folder, capsys, name):
    """A4: a special file in place of a list is not replaced and does not stop preprocess."""
    Path("lists").mkdir()
    os.mkfifo(Path("lists", name))
    words = f"{PREPROCESS} --preprocessed_root new --filelists lists"
    assert main.main(words.split()) in (1, 2)  # the video is unreadable
    assert Path("lists", name).is_fifo()
    assert "Traceback" not in capsys.readouterr().err


def test_weights_of_another_training_are_not_replaced(folder, capsys):
    """A3: a generator is not trained into the folder of its SyncNet, whose checkpoints have the same names."""
    assert_refused(folder, capsys, f"{TRAIN} --checkpoint_dir .", "--syncnet_checkpoint_path")
