"""Resource errors are one line with exit code 2; bugs keep their traceback."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from wav2lip_npu.cli import main
from wav2lip_npu.cli.doctor import DoctorCommand
from wav2lip_npu.cli.resource_errors import resource_problem

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = [
    (OSError(errno.EMFILE, "Too many open files", "a.py"), "a.py"),
    (PermissionError(errno.EACCES, "Permission denied", "clips"), "clips"),
    (OSError(errno.ENOSPC, "No space left on device"), "disk"),
    (MemoryError(), "memory"),
    (
        ImportError("long text\nlibx.so: failed to map segment from shared object\nmore"),
        "libx.so: failed to map",
    ),
    (ImportError("libx.so: cannot open shared object file: Too many open files"), "ulimit -n"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "ulimit -v"),
    (RuntimeError("std::bad_alloc"), "ulimit -v"),
]


@pytest.mark.parametrize(("error", "part"), PROBLEMS, ids=lambda value: type(value).__name__)
def test_resource_errors_are_one_line(monkeypatch, capsys, error, part):
    """A11: memory, open files, threads, permissions and disk space."""

    def fail(self: DoctorCommand) -> None:
        raise error

    monkeypatch.setattr(DoctorCommand, "run", fail)
    assert main.main(["doctor"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wav2lip-npu: ") and part in line
    with pytest.raises(type(error)):
        main.main(["doctor", "--debug"])


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "No such file", "x"), KeyError("x"), RuntimeError("shape mismatch")],
)
def test_bugs_are_not_resource_problems(error):
    assert resource_problem(error) is None


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (resource.RLIMIT_NOFILE, 5),
        pytest.param(resource.RLIMIT_NOFILE, 8, marks=pytest.mark.slow),
        (resource.RLIMIT_AS, 200 << 20),
        pytest.param(resource.RLIMIT_AS, 400 << 20, marks=pytest.mark.slow),
        pytest.param(resource.RLIMIT_AS, 800 << 20, marks=pytest.mark.slow),
        pytest.param(resource.RLIMIT_AS, 1500 << 20, marks=pytest.mark.slow),
    ],
)
def test_command_under_a_limit(face_video, speech, tmp_path, kind, limit):
    """A11: a command under ulimit -n or -v ends with one line, wherever it reaches the limit."""
    done = subprocess.run(
        [sys.executable, "-m", "wav2lip_npu", "dub", "--face", face_video, "--audio", speech, "--detector", "hog"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)), check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("wav2lip-npu: ")
    assert os.listdir(tmp_path) in ([], ["results"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", ["batch jobs.csv --report locked/report.jsonl", "batch --watch locked",
    "train_syncnet --data_root locked --checkpoint_dir locked", "preprocess --data_root locked --preprocessed_root o",
    "preprocess --data_root videos --preprocessed_root locked", "doctor locked", "dub --face locked/a --audio b",
    "dub --face a --audio a --outfile locked/o.mp4"])  # fmt: skip
@pytest.mark.parametrize("mode", [0o333, 0o444, 0o000])
def test_folder_without_permission(tmp_path, monkeypatch, capsys, command, mode):
    """A11: a folder that is writable but not readable, readable but not searchable, or neither."""
    monkeypatch.chdir(tmp_path)
    Path("locked").mkdir()
    Path("videos").mkdir()
    Path("videos/a.mp4").touch()
    Path("jobs.csv").write_text("face,audio,outfile\na,b,c.mp4\n")
    tmp_path.chmod(0o777)
    Path("locked").chmod(mode)
    os.seteuid(65534)
    try:
        monkeypatch.setattr("wav2lip_npu.faces.detectors.find_weights", lambda: None)
        assert main.main(command.split()) == 2
    finally:
        os.seteuid(0)
    text = capsys.readouterr().err
    assert text.splitlines()[-1].startswith("wav2lip-npu: ")
    assert "Traceback" not in text
