"""Damaged and random files of every format: readers raise only `Wav2LipError`.

The examples are the same in each run: 25 for each of the 14 readers, or 1000 with `-m slow`, which takes about
ten minutes.
"""

from __future__ import annotations

import json
import random
import resource
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from support.clip_folders import write_clip
from support.networks import golden_weights
from wav2lip_npu.batch.job_table import read_rows
from wav2lip_npu.batch.jobs import Job, read_jobs
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.clip_index import index_clips
from wav2lip_npu.data.clip_writer import read_description
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.doctor.clip_stats import measure_clip
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.preprocessing.report import open_report
from wav2lip_npu.storage.json_lines import JsonLines
from wav2lip_npu.training.checkpoints import newest

MAX_GROWTH = 1 << 20
"""Limit in kB of the memory that reading small files takes."""
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Intact files of each kind, by name."""
    folder = tmp_path_factory.mktemp("seeds")
    network = golden_weights(SyncNet(2))
    weights = network.state_dict()
    optimizer = torch.optim.Adam(network.parameters())
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    content = {
        "state_dict": weights, "optimizer": optimizer.state_dict(), "global_step": 3, "global_epoch": 0,
        "wav2lip_npu": {"version": "0.7.0", "position": 3, "best": 0.5, "rng": [{"cpu": torch.get_rng_state()}]},
    }  # fmt: skip
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "x.safetensors", {"wav2lip_npu": json.dumps({"width": 2, "mel_shift": -1})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 1, 80, 16), torch.zeros(1, 15, 48, 96)
        torch.jit.trace(network, example, check_trace=False).save(str(folder / "script.pt"))
    job = {
        "job": "/x/o.mp4", "row": 2, "status": "ok", "face": "f.mp4", "audio": "a.wav", "finished": "2026-01-01",
        "inputs": [], "key": "k", "settings": {},
    }  # fmt: skip
    video = {
        "video": "x.mp4",
        "clip": "x",
        "status": "ok",
        "source": {"bytes": 1, "mtime_ns": 2},
        "options": {},
    }
    (folder / "report.jsonl").write_text(f"{json.dumps(job)}\n{json.dumps(job)}\n")
    (folder / "videos.jsonl").write_text(f"{json.dumps(video)}\n{json.dumps(video)}\n")
    (folder / "jobs.csv").write_text(
        'face,audio,outfile,crf,box\na.mp4,b.wav,"c ""1"".mp4",18,1 2 3 4\nd,e,f,,\n'
    )
    rows = [{"face": "a.mp4", "audio": "b.wav", "outfile": "c.mp4", "crf": 18, "box": [1, 2, 3, 4]}] * 2
    (folder / "jobs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "jobs.json").write_text(json.dumps(rows))
    (folder / "train.txt").write_text('clip\nclip NF\n"clip" offset=+3\nmy clip\n.\\clip\n')
    clip = write_clip(folder / "clip", 24)
    for path in clip.iterdir():
        if path.suffix != ".jpg" or path.name == "12.jpg":
            path.rename(folder / f"clip-{path.name}")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# Readers. Each writes the content to its file and uses it like a command.


def read_weights(folder: Path, content: bytes) -> None:
    path = folder / "checkpoint_step000000003.pth"
    path.write_bytes(content)
    newest(folder, ["syncnet"])
    checkpoint.load(path, "syncnet").network()


def read_file_list(folder: Path, content: bytes) -> None:
    (folder / "train.txt").write_bytes(content)
    index_clips(folder, folder / "train.txt")


def clip_reader(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        path = folder / "clip" / name
        intact = path.read_bytes()
        path.write_bytes(content)
        try:
            (folder / "clip" / "faces96.npy").unlink(missing_ok=True)
            if name == "audio.wav":
                (folder / "clip" / "mel.npy").unlink(missing_ok=True)
            read_description(folder / "clip")
            clip = read_clip("clip", folder / "clip")
            measure_clip(clip, False)
            clip.mel()
            FaceReader()(clip, len(clip.frames) // 2)
        finally:
            path.write_bytes(intact)

    return read


def read_table(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        path = folder / f"jobs{suffix}"
        path.write_bytes(content)
        list(read_rows(path, ("face", "audio", "outfile", "crf"), ("face", "audio", "outfile")))
        read_jobs(path, Job(face="", audio="", outfile=""))

    return read


def read_job_report(folder: Path, content: bytes) -> None:
    (folder / "report.jsonl").write_bytes(content)
    JsonLines(folder / "report.jsonl", JobResult, "job", "Move it.").read()


def read_video_report(folder: Path, content: bytes) -> None:
    (folder / "report.jsonl").write_bytes(content)
    open_report(folder).read()


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "zip.pth": read_weights,
    "legacy.pth": read_weights,
    "script.pt": read_weights,
    "x.safetensors": read_weights,
    "train.txt": read_file_list,
    "jobs.csv": read_table(".csv"),
    "jobs.jsonl": read_table(".jsonl"),
    "jobs.json": read_table(".json"),
    "report.jsonl": read_job_report,
    "videos.jsonl": read_video_report,
    **{f"clip-{name}": clip_reader(name) for name in ("clip.json", "12.jpg", "mel.npy", "audio.wav")},
}

NEVER_REFUSED = ("report.jsonl", "videos.jsonl", "clip-mel.npy")
"""Lines of a report are skipped, and a mel is computed again."""

# Damage


VALUES = [
    b"", b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\n", b'"', b"\\", b",", b"[" * 5000,
    b"{" * 5000, b"null", b"-1", b"1e999", b"9" * 5000, b"NaN", b"[]", b"{}", b'"\\ud800"', b"true", b"0.5", b"}", b"]",
    b".", b"0", b"(", b"t", b"}q\0h\0h\0", b"Q", b"R", b"\x85", b"\x86", b"h\0", b"r\xff\xff\xff\xff", b"PK\1\2", b"../..",
]  # fmt: skip


def damaged(intact: bytes, draw: random.Random) -> bytes:
    """Return a copy with bytes replaced, removed, inserted or repeated, mostly near an end of the file."""
    content = bytearray(intact)
    for _ in range(draw.choice((1, 1, 2, 5, 40))):
        size = len(content)
        if not size:
            break
        last = draw.choice((min(size, 400), min(size, 6000), size))
        at = draw.randrange(last) if draw.random() < 0.7 else size - 1 - draw.randrange(last)
        length = draw.choice((1, 1, 4, 8, 50, 1000))
        action = draw.randrange(6)
        if action == 0:
            content[at] ^= 1 << draw.randrange(8)
        elif action == 1:
            content[at] = draw.randrange(256)
        elif action == 2:
            del content[at : at + length]
        elif action == 3:
            content[at:at] = draw.choice(VALUES)
        elif action == 4:
            value = draw.choice(VALUES)
            content[at : at + max(1, len(value))] = value
        else:
            other = draw.randrange(size)
            content[at:at] = content[other : other + length]
    return bytes(content)


def repacked(intact: bytes, folder: Path, draw: random.Random) -> bytes:
    """Return an archive with a damaged member and valid checksums, so that the damage passes the first check."""
    (folder / "old").write_bytes(intact)
    with (
        zipfile.ZipFile(folder / "old") as old,
        zipfile.ZipFile(folder / "new", "w", draw.choice((0, 8))) as new,
    ):
        names = old.namelist()
        victim = draw.choice((next(name for name in names if name.endswith("/data.pkl")), draw.choice(names)))
        for name in names:
            content = old.read(name)
            new.writestr(name, damaged(content, draw) if name == victim else content)
    return (folder / "new").read_bytes()


def fuzz(name: str, seeds: Files, folder: Path, examples: int) -> None:
    write_clip(folder / "clip", 24)
    read, intact, refused = READERS[name], seeds[name], []
    read(folder, intact)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.one_of(st.integers(0, 2**64), st.binary(max_size=200)))
    def run(choice: int | bytes) -> None:
        if isinstance(choice, bytes):
            content = choice
        else:
            draw = random.Random(choice)
            is_archive = name in ("zip.pth", "script.pt")
            repack = is_archive and draw.random() < 0.6
            content = repacked(intact, folder, draw) if repack else damaged(intact, draw)
        try:
            read(folder, content)
        except Wav2LipError as error:
            refused.append(str(error))  # not the error, whose traceback holds the content
            assert "\n" not in str(error)
            assert len(str(error)) < 2000

    run()
    assert refused or name in NEVER_REFUSED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, seeds: Files, tmp_path: Path) -> None:
    fuzz(name, seeds, tmp_path, 25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_a_thousand_damaged_files(name: str, seeds: Files, tmp_path: Path) -> None:
    fuzz(name, seeds, tmp_path, 1000)


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def with_any_value(row: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows in which some values are replaced by arbitrary JSON values."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(row, Json)).map(lambda changes: row | changes)


@pytest.mark.parametrize("name", ["report.jsonl", "videos.jsonl", "jobs.jsonl", "clip-clip.json"])
def test_any_json_value_in_any_field(name: str, seeds: Files, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", 24)
    row = json.loads(seeds[name].splitlines()[0])

    @hypothesis.settings(max_examples=50, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(with_any_value(row) | Json)
    def run(value: Any) -> None:
        try:
            READERS[name](tmp_path, json.dumps(value).encode() + b"\n")
        except Wav2LipError as error:
            assert "\n" not in str(error)

    run()
