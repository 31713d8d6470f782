"""Runs of `preprocess`: written files, resuming, and protection of user files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.faces import SquareDetector
from support.media_files import write_frames
from support.talk import FAST, write_talk
from wav2lip_npu.cli import main
from wav2lip_npu.data.file_lists import read_names
from wav2lip_npu.errors import DeviceError, UsageError
from wav2lip_npu.preprocessing import run as preprocessing
from wav2lip_npu.preprocessing.clip_options import ClipOptions
from wav2lip_npu.preprocessing.find_videos import Video
from wav2lip_npu.preprocessing.limited_detector import LimitedDetector
from wav2lip_npu.preprocessing.make_clip import REASONS
from wav2lip_npu.preprocessing.run import PreprocessOptions, preprocess

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "main/00001",
    "main/6330/00011",
    'main/6330/a "b" it\'s',
    "main/6331/a;b c",
    "main/6331/a\nb",
    "main/6331/" + os.fsdecode(b"\xff"),
]
BAD = {
    "main/text": "unreadable",
    "main/6330/silent": "no sound",
    "main/6331/nobody": "no face",
    "main/6331/short": "too short",
}

_MAX_UNDISTURBED_S = 2.5
_HANGS_S = 120
"""Maximum time to wait for a process."""


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos that become clips and four that fail."""
    root = tmp_path_factory.mktemp("videos")
    first = write_talk(root / f"{NAMES[0]}.mp4", 0.64)
    for name in NAMES[1:]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first, root / f"{name}.MP4")
    (root / "main" / "text.mp4").write_bytes(b"hello " * 500)
    write_talk(root / "main/6330/silent.avi", 0.8, silent=True)
    grey = [np.full((240, 320, 3), 110, np.uint8)] * 20
    write_frames(root / "main/6331/nobody.mkv", grey, audio=np.sin(np.arange(12_800.0)), options=FAST)
    write_talk(root / "main/6331/short.mp4", 0.4)
    return root


@pytest.fixture
def run(videos, tmp_path, monkeypatch, capsys, caplog):
    """Run `preprocess` in this process and an empty folder, with one worker."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def command(*extra: object, data: Path = videos, out: str = "out") -> int:
        words = ["preprocess", "--data_root", data, "--preprocessed_root", out, "--workers", 1, *extra]
        caplog.clear()
        code = main.main([str(word) for word in words])
        command.output = caplog.text + capsys.readouterr().err
        return code

    return command


@pytest.fixture(scope="session")
def finished(videos, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    working = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working)
        words = ["--data_root", str(videos), "--preprocessed_root", "out", "--workers", "1"]
        assert main.main(["preprocess", *words]) == 1
    return working


@pytest.fixture(scope="session")
def whole(finished) -> dict[str, bytes]:
    """Files of an uninterrupted run."""
    return tree(finished)


@pytest.fixture(scope="session")
def undisturbed_s(videos, whole, tmp_path_factory) -> float:
    """Seconds of an uninterrupted run with two worker processes, limited: on a busy machine, they only start later."""
    working = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    assert process(videos, working).wait(_HANGS_S) == 1
    assert tree(working) == whole
    return min(time.monotonic() - start, _MAX_UNDISTURBED_S)


def process(videos: Path, working: Path, *extra: object, workers: int = 2) -> subprocess.Popen[str]:
    words = ["--data_root", videos, "--preprocessed_root", "out", "--workers", workers, *extra]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "preprocess.py"), *map(str, words)],
        cwd=working,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files and folders below a folder."""
    return {
        os.path.relpath(path, folder): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def report(folder: Path = Path("out")) -> dict[str, dict]:
    lines = (folder / "report.jsonl").read_text().splitlines()
    return {record["clip"]: record for record in map(json.loads, lines)}


def test_clips_mirror_the_videos_and_failures_have_reasons(run, videos, whole):
    assert run("--ngpu", 4, "--batch_size", 1) == 1
    assert tree(Path()) == whole
    records = report()
    assert {name: record["reason"] for name, record in records.items()} == dict.fromkeys(NAMES) | BAD
    assert set(BAD.values()) <= set(REASONS)
    for name, record in records.items():
        assert record["status"] == ("failed" if name in BAD else "ok")
        assert record["source"] == {
            "bytes": (videos / record["video"]).stat().st_size,
            "mtime_ns": (videos / record["video"]).stat().st_mtime_ns,
        }
        assert bool(record["detail"]) == (name in BAD)
        assert (Path("out") / name).is_dir() == (name not in BAD)
    assert (records[NAMES[0]]["frames"], records[NAMES[0]]["seconds"]) == (16, 0.64)
    for part in (
        "10 videos: 6 ok, 0 kept, 4 failed",
        "1 no face",
        "1 no sound",
        "1 too short",
        "1 unreadable",
    ):
        assert part in run.output
    assert list(records) == sorted(records, key=lambda name: records[name]["video"])
    train, val = read_names("filelists/train.txt"), read_names("filelists/val.txt")
    assert sorted(train + val) == sorted(NAMES)
    assert all((Path("out") / name / "clip.json").is_file() for name in train + val)
    assert not {os.path.dirname(name) for name in train} & {os.path.dirname(name) for name in val}


def test_existing_file_lists_are_kept(run, videos, finished):
    shutil.copytree(finished / "out", "out")
    Path("filelists").mkdir()
    Path("filelists/train.txt").write_text("mine\n")
    run()
    assert Path("filelists/train.txt").read_text() == "mine\n"
    assert len(read_names("filelists/val.txt")) >= 1
    assert "clips are in no list in filelists" in run.output
    run("--seed", 5, "--filelists", "other")
    assert Path("filelists/train.txt").read_text() == "mine\n"
    assert len(read_names("other/train.txt") + read_names("other/val.txt")) == 6


def test_unwritable_file_lists_are_reported_first(run, monkeypatch):
    monkeypatch.setattr(preprocessing, "make_clip", lambda *_: pytest.fail("made a clip"))
    Path("mine.txt").write_text("no folder")
    assert run("--filelists", "mine.txt") == 2
    assert "mine.txt/train.txt" in run.output


def test_second_run_creates_nothing(run, monkeypatch, finished, whole):
    shutil.copytree(finished, ".", dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in Path("out/main").rglob("*")}
    monkeypatch.setattr(preprocessing, "make_clip", lambda *_: pytest.fail("made a clip again"))
    assert run() == 1
    assert tree(Path()) == whole
    assert {path: path.stat().st_mtime_ns for path in Path("out/main").rglob("*")} == before


def test_resume_after_torn_report_and_partial_clips(run, finished, whole):
    shutil.copytree(finished, ".", dirs_exist_ok=True)
    with open("out/report.jsonl", "ab") as file:
        file.write(b'{"video": "main/te')
    shutil.move(f"out/{NAMES[0]}", f"out/{NAMES[0]}.partial")
    os.mkdir("out/main/gone.partial")
    Path("out/main/gone.partial/clip.json.part").touch()
    Path("out/main/gone.partial/0.jpg").touch()
    os.mkdir("out/main/mine.partial")
    Path("out/main/mine.partial/notes.txt").touch()
    shutil.copytree(f"out/{NAMES[1]}", f"out/{NAMES[1]}.old.partial")
    shutil.move(f"out/{NAMES[2]}", f"out/{NAMES[2]}.old.partial")
    run()
    assert tree(Path()) == whole | {"out/main/mine.partial": b"", "out/main/mine.partial/notes.txt": b""}


def copy_of(videos: Path, to: Path, *names: str) -> Path:
    for name in names:
        source = next(
            path
            for path in videos.rglob("*")
            if path.is_file() and str(path.relative_to(videos)).startswith(name)
        )
        (to / source.relative_to(videos)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to / source.relative_to(videos))
    return to


@pytest.mark.slow
def test_changed_videos_and_options_create_new_clips(run, videos, tmp_path):
    data = copy_of(videos, tmp_path / "data", NAMES[0], "main/text")
    assert run(data=data) == 1
    Path(f"out/{NAMES[0]}/notes.txt").write_text("mine")
    Path(f"out/{NAMES[0]}/faces96.npy").write_text("stale")
    shutil.copyfile(videos / "main/6331/a;b c.MP4", data / "main/text.mp4")
    write_talk(data / f"{NAMES[0]}.mp4", 1.0)
    assert run(data=data) == 0
    assert report()[NAMES[0]]["frames"] == 25
    assert report()["main/text"]["status"] == "ok"
    assert Path(f"out/{NAMES[0]}/notes.txt").read_text() == "mine"
    assert not Path(f"out/{NAMES[0]}/faces96.npy").exists()
    assert run("--min_face_px", 500, data=data) == 1
    assert report()["main/text"]["reason"] == "face too small"
    assert Path("out/main/text/clip.json").exists()
    assert not list(Path("out").rglob("*.partial"))


def test_clips_of_the_original_are_kept(run, videos, tmp_path):
    data = copy_of(videos, tmp_path / "data", *NAMES[:3])
    for name in NAMES[:2]:
        os.makedirs(f"out/{name}")
        Path(f"out/{name}/0.jpg").write_text("picture")
    Path(f"out/{NAMES[0]}/audio.wav").write_text("sound")
    before = {name: tree(Path("out") / name) for name in NAMES[:2]}
    assert run(data=data) == 0
    assert {name: tree(Path("out") / name) for name in NAMES[:2]} == before
    assert [report()[name]["status"] for name in NAMES[:3]] == ["kept", "kept", "ok"]
    assert "3 videos: 1 ok, 2 kept, 0 failed" in run.output
    assert sorted(read_names("filelists/train.txt") + read_names("filelists/val.txt")) == sorted(
        [NAMES[0], NAMES[2]]
    )


def test_foreign_partial_folder_is_not_removed(run, videos, tmp_path):
    data = copy_of(videos, tmp_path / "data", NAMES[0])
    os.makedirs(f"out/{NAMES[0]}.partial")
    Path(f"out/{NAMES[0]}.partial/0.jpg").write_text("mine")
    assert run(data=data) == 2
    assert "cannot write" in run.output
    assert Path(f"out/{NAMES[0]}.partial/0.jpg").read_text() == "mine"


def test_foreign_report_is_not_replaced(run, videos, tmp_path):
    data = copy_of(videos, tmp_path / "data", NAMES[0])
    os.mkdir("out")
    for text, code in (('{"job": 1}\n', 2), ("hello\n", 2), ('{"video": "torn', 0)):
        Path("out/report.jsonl").write_text(text)
        assert run(data=data) == code
        assert (Path("out/report.jsonl").read_text() == text) == (code == 2)
    assert report()[NAMES[0]]["status"] == "ok"


def test_workers_use_the_cards_in_turn(monkeypatch):
    import torch  # the spawned workers do not import it

    existing = {f"npu:{number}" for number in range(4)}

    def resolve(spec: str) -> torch.device:
        if spec not in existing | {"npu", "auto", "cpu"}:
            raise DeviceError(f"device {spec!r} is not there")
        return (
            torch.device("cpu") if spec == "cpu" else torch.device("cuda", int(spec.partition(":")[2] or 0))
        )

    monkeypatch.setattr("wav2lip_npu.devices.device.resolve", resolve)
    existing |= {f"cuda:{number}" for number in range(4)}

    def cards(detector: str, **options: object) -> list[str]:
        return preprocessing._devices(detector, PreprocessOptions(**options))

    assert cards("s3fd") == ["cuda:0"]
    assert cards("s3fd", ngpu=3) == ["cuda:0", "cuda:1", "cuda:2"]
    assert cards("s3fd", device="npu:1", ngpu=3) == ["cuda:1", "cuda:2", "cuda:3"]
    assert cards("s3fd", device="cpu", ngpu=3) == ["cpu"]
    assert cards("hog", ngpu=3) == ["cpu"]
    with pytest.raises(DeviceError, match="cuda:4"):
        cards("s3fd", ngpu=5)
    used = []
    monkeypatch.setattr("wav2lip_npu.devices.device.activate", lambda card: used.append(str(card)))
    monkeypatch.setattr(preprocessing, "load_detector", lambda name, card: SquareDetector())
    for number in range(4):
        preprocessing.ClipMaker(Path(), "s3fd", ClipOptions(), 32, ("cuda:0", "cuda:1"), True)(number)
    assert used == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_error_on_a_card_stops_the_run(run, videos, tmp_path, monkeypatch):
    def broken(images: list) -> None:
        raise RuntimeError("NPU out of memory. Tried to allocate 2 GiB\nmore")

    data = copy_of(videos, tmp_path / "data", NAMES[0])
    monkeypatch.setattr(SquareDetector, "__call__", lambda self, images: broken(images))
    detector = LimitedDetector(SquareDetector(), 32, "npu:0")
    monkeypatch.setattr(preprocessing, "LimitedDetector", lambda *_: detector)
    assert run(data=data) == 2
    assert "npu:0: NPU out of memory. Tried to allocate 2 GiB. " in run.output and "--workers" in run.output
    assert not Path("out/report.jsonl").exists()


def test_wrong_folders(run, tmp_path):
    assert run(data=tmp_path / "none") == 2
    assert str(tmp_path / "none") in run.output and "--data_root" in run.output
    (tmp_path / "empty").mkdir()
    assert run(data=tmp_path / "empty") == 2
    assert str(tmp_path / "empty") in run.output and "--data_root" in run.output
    Path("file").touch()
    assert run(out="file/out") == 2
    assert "cannot write file" in run.output


def test_only_one_run_per_folder(run):
    with preprocessing._locked(Path("out")):
        assert run() == 2
    assert "in out" in run.output


def test_broken_videos_do_not_affect_others(run, videos, tmp_path):
    data = tmp_path / "data"
    good = (videos / f"{NAMES[0]}.mp4").read_bytes()
    draw = random.Random(0)
    data.mkdir()
    for number in range(4):
        content = bytearray(good)
        if number == 2:
            for _ in range(200):
                content[draw.randrange(len(content))] = draw.randrange(256)
        (data / f"{number}.mp4").write_bytes(content[: len(content) // 3] if number == 3 else content)
    assert run(data=data) == 1
    assert {name for name, record in report().items() if record["status"] == "ok"} >= set("01")
    assert report()["3"]["reason"] == "unreadable"


class DyingClipMaker(preprocessing.ClipMaker):
    """Create a clip, but kill the process for one video."""

    def __call__(self, number: int) -> Callable[[Video], object]:
        make = super().__call__(number)

        def die(video: Video) -> object:
            if video.name.startswith("main/text"):
                os.kill(os.getpid(), signal.SIGSEGV)
            return make(video)

        return die


@pytest.mark.slow
def test_video_that_kills_its_process_is_unreadable(run, videos, tmp_path, monkeypatch):
    data = copy_of(videos, tmp_path / "data", *NAMES[:3], "main/text")
    monkeypatch.setattr(preprocessing, "ClipMaker", DyingClipMaker)
    assert run("--workers", 2, data=data) == 1
    assert [report()[name]["status"] for name in NAMES[:3]] == ["ok"] * 3
    assert report()["main/text"]["reason"] == "unreadable"
    assert "signal 11" in report()["main/text"]["detail"]


def test_python_call(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, calls = copy_of(videos, tmp_path / "data", NAMES[0], "main/text"), []
    summary = preprocess(
        data, "out", workers=1, min_face_px=30, progress=lambda *counts: calls.append(counts)
    )
    assert [result.status for result in summary.results] == ["ok", "failed"]
    assert summary.reasons == {"unreadable": 1}
    assert summary.results[0].options["min_face_px"] == 30
    assert calls == [(0, 2), (1, 2), (2, 2)]
    again = preprocess(data, "out", workers=1, min_face_px=30, progress=None)
    assert [result.status for result in again.results] == ["ok", "failed"]
    with pytest.raises(UsageError, match="min_face_px"):
        preprocess(data, "out", min_face=30)


def children(process: int) -> set[int]:
    return {
        int(child_id) for child_id in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    }


def lives(process: int) -> bool:
    try:
        return b"Z" not in Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "terminated"),
    ],
)
def test_signal_stops_the_run_and_the_next_one_resumes(run, videos, whole, number, code, word):
    child = process(videos, Path.cwd())
    deadline = time.monotonic() + _HANGS_S
    while not list(Path().glob("out/main/**/clip.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = children(child.pid)
    child.send_signal(number)
    _, text = child.communicate(timeout=_HANGS_S)
    assert child.returncode == code, text
    assert f"{word}, finished clips are kept" in text.splitlines()[-1]
    assert "Traceback" not in text
    wait_until_gone(workers)
    if number == signal.SIGTERM:
        assert run() == 1
        assert tree(Path()) == whole


def wait_until_gone(processes: set[int]) -> None:
    deadline = time.monotonic() + _HANGS_S
    while any(map(lives, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_and_resume(videos: Path, working: Path, moments: list[float], workers: int) -> None:
    """Kill runs after these seconds; then let one finish."""
    for moment in moments:
        child = process(videos, working, workers=workers)
        time.sleep(moment)
        child.kill()
        child.wait()
    assert process(videos, working, workers=workers).wait(_HANGS_S) in (0, 1)


@pytest.mark.slow
def test_killed_and_resumed_runs_give_the_same_files(videos, whole, undisturbed_s, tmp_path):
    draw = random.Random(2)
    moments = [draw.uniform(0.3, 0.9) * undisturbed_s for _ in range(2)]
    kill_and_resume(videos, tmp_path, moments, workers=2)
    assert tree(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_runs_killed_at_any_moment(videos, whole, undisturbed_s, tmp_path, seed):
    draw = random.Random(100 + seed)
    for attempt in range(10):
        working = tmp_path / str(attempt)
        working.mkdir()
        moments = [draw.uniform(0.1, 1.1) * undisturbed_s for _ in range(2)]
        kill_and_resume(videos, working, moments, draw.choice([1, 2, 3]))
        assert tree(working) == whole, (seed, attempt)
