"""The check of all outputs: obstacles and collisions are detected before any work, and nothing is changed."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from support.special_files import make_special
from wav2lip_npu.errors import MediaError, OutputError
from wav2lip_npu.storage import outputs
from wav2lip_npu.storage.atomic import replacing
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs, output_problems
from wav2lip_npu.storage.regular_files import open_regular


def refused(*written: OutputPath, inputs: tuple[InputPath, ...] = ()) -> str:
    with pytest.raises(OutputError) as error:
        check_outputs(written, inputs)
    assert not isinstance(error.value, MediaError)
    return str(error.value)


def special(folder: Path, kind: str) -> Path:
    """Return a path of this kind that is not a regular file."""
    path = folder / kind
    if kind == "device":
        path = Path("/dev/null")
    elif kind == "link":
        os.mkfifo(folder / "pipe")
        path.symlink_to(folder / "pipe")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        make_special(path, kind)
    return path


KINDS = ["folder", "fifo", "socket", "device", "link", "loop"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_replaced(tmp_path, kind):
    """A4: a FIFO, socket, device or folder is refused, also behind a link."""
    path = special(tmp_path, kind)
    before = os.lstat(path)
    assert str(path) in (text := refused(OutputPath("--report", path))) and "--report" in text
    with pytest.raises(OSError), replacing(path) as part:
        part.write_text("x")
    assert os.lstat(path).st_mode == before.st_mode
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_opened(tmp_path, kind):
    """A9: reading a FIFO, socket, device or folder raises at once."""
    with pytest.raises(OSError):
        open_regular(special(tmp_path, kind))


def test_file_that_becomes_a_fifo_is_not_replaced(tmp_path):
    """A4: also if this happens while the output is written."""
    path = tmp_path / "out.mp4"
    with pytest.raises(OSError), replacing(path) as part:
        part.write_text("x")
        os.mkfifo(path)
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert path.is_fifo()


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/new.json", "/proc/self/x", "/dev/fd/1", "/sys/x"])
def test_folders_of_devices_are_refused(path):
    """A3: /dev/stdout may link to a regular file, but renaming to it would replace the link."""
    assert path in refused(OutputPath("--report", path))


@pytest.mark.parametrize(
    "path", ["", "a\0b", "x" * 300, "new/" + "x" * 300 + "/y", "file/x", "r.json/", "\ud800"]
)
def test_impossible_names_are_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert "--report" in refused(OutputPath("--report", path))
    assert os.listdir(tmp_path) == ["file"]


def test_folders_are_not_created(tmp_path):
    written = [OutputPath("a", tmp_path / "x/y/z.json"), OutputPath("b", tmp_path / "x/w", is_folder=True)]
    check_outputs(written)
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """A11: the error names a folder without permission or on a full disk."""
    real = os.open

    def denied(path, *rest, **options):
        if str(path).endswith(".part"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **options)

    monkeypatch.setattr(outputs.os, "open", denied)
    for output in (OutputPath("-o", tmp_path / "x" / "y"), OutputPath("-o", tmp_path, is_folder=True)):
        assert "Permission denied" in refused(output)


def test_folder_outputs_must_be_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for name in ("file", "link", "file/below"):
        assert name in refused(OutputPath("--outdir", tmp_path / name, is_folder=True))


@pytest.mark.parametrize("how", ["name", "dots", "link", "hard link", "folder link", "dangling", "relative"])
def test_any_name_of_an_input_is_refused(tmp_path, monkeypatch, how):
    """A3: the check follows links to the file and to its folders, also if the input does not exist yet."""
    monkeypatch.chdir(tmp_path)
    used = tmp_path / "sub" / "used.mp4"
    used.parent.mkdir()
    used.write_bytes(b"precious")
    name = tmp_path / "other"
    if how == "name":
        name = used
    elif how == "dots":
        name = tmp_path / "sub" / ".." / "sub" / "." / "used.mp4"
    elif how == "link":
        name.symlink_to(used)
    elif how == "hard link":
        os.link(used, name)
    elif how == "folder link":
        name.symlink_to(used.parent)
        name = name / "used.mp4"
    elif how == "dangling":
        name.symlink_to(used)
        used.unlink()
    else:
        name = Path("sub/used.mp4")
    text = refused(OutputPath("--report", name), inputs=(InputPath("--face", used),))
    assert "--face" in text and str(name) in text
    assert how == "dangling" or used.read_bytes() == b"precious"


def test_outputs_differ_from_each_other(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out.mp4")
    one = OutputPath("--outfile", tmp_path / "out.mp4", error=MediaError)
    for name in ("out.mp4", "link", "./out.mp4", "out.mp4/report.json"):
        assert "--outfile" in refused(one, OutputPath("--report", tmp_path / name))
    parent = OutputPath("--report", tmp_path / "out.mp4" / "r.json")
    first, second = output_problems([parent, one])
    assert first is None
    assert type(second) is MediaError and "--report" in str(second)
    assert os.listdir(tmp_path) == ["link"]


def test_files_in_input_and_output_folders(tmp_path):
    clips, folder = tmp_path / "clips", tmp_path / "checkpoints"
    for path in (clips / "a" / "clip.json", clips / "notes.json", folder / "step1.pth", folder / "x.pth"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    data = InputPath("--data_root", clips, re.compile(r"clip\.json"))
    assert "--data_root" in refused(OutputPath("--json", clips / "a" / "clip.json"), inputs=(data,))
    check_outputs([OutputPath("--json", clips / name) for name in ("notes.json", "new.json")], [data])
    output = OutputPath("--dir", folder, is_folder=True, files=re.compile(r"step\d\.pth"))
    assert "--weights" in refused(output, inputs=(InputPath("--weights", folder / "step1.pth"),))
    check_outputs([output], [InputPath("--weights", folder / "x.pth")])


def test_check_of_many_outputs_looks_up_each_folder_once(tmp_path, monkeypatch):
    looked_up: list[str] = []
    real = os.path.realpath
    monkeypatch.setattr(outputs.os.path, "realpath", lambda path: looked_up.append(path) or real(path))
    jobs = [OutputPath("outfile", tmp_path / f"{number}.mp4") for number in range(500)]
    assert output_problems(jobs) == [None] * 500
    assert len(looked_up) <= 2
    assert os.listdir(tmp_path) == []


def test_full_disk_is_an_output_error(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        with pytest.raises(OutputError, match="Too many open files"):
            outputs.write_output(tmp_path / "x", "content")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.listdir(tmp_path) == []


def test_special_file_among_the_files_of_a_folder(tmp_path):
    """A4: a FIFO with the name of a file that will be written into a folder is refused before any work."""
    written = OutputPath("--checkpoint_dir", tmp_path, is_folder=True, files=re.compile(r"step\d\.pth"))
    (tmp_path / "step1.pth").symlink_to("missing")
    os.mkfifo(tmp_path / "other.pth")
    check_outputs([written])
    os.mkfifo(tmp_path / "step2.pth")
    assert "step2.pth" in (text := refused(written)) and "--checkpoint_dir" in text


def test_empty_path_is_named_by_its_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = refused(OutputPath("--outfile", tmp_path / "o.mp4"), OutputPath("--report", ""))
    assert "--report" in text and "empty" in text


def test_deleted_working_directory(tmp_path, monkeypatch):
    """A11: relative paths in a folder that no longer exists are refused."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert "o.mp4" in refused(OutputPath("--outfile", "o.mp4"), inputs=(InputPath("--face", "f.mp4"),))
