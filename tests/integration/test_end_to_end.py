"""From videos to a dub with networks of one's own, through the command lines, on a few seconds of made video."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from support.talk import write_talk
from support.trainings import read
from wav2lip_npu.media import video_reader

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(240)
def test_videos_to_dub(tmp_path, face_video, speech):
    """Videos, clips, doctor, expert, generator with discriminator, resume, dub; run from one folder, as a user does."""

    def run(script: str, *more: str, **flags: Any) -> str:
        program = [str(ROOT / script)] if script.endswith(".py") else ["-m", "wav2lip_npu", script]
        words = [*more, *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
        done = subprocess.run(
            [sys.executable, *program, *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    first = write_talk(tmp_path / "LRS2_partly/main/1/00001.mp4", 1.2, fps=Fraction(30))
    for name in ("1/00002", "2/00001", "3/00001"):
        path = tmp_path / f"LRS2_partly/main/{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(first, path)
    run("preprocess.py", data_root="./LRS2_partly", preprocessed_root="./lrs2_preprocessed", workers=1)
    lists = [(tmp_path / "filelists" / name).read_text().split() for name in ("train.txt", "val.txt")]
    assert sorted(lists[0] + lists[1]) == ["main/1/00001", "main/1/00002", "main/2/00001", "main/3/00001"]
    assert len(lists[0]) >= 2
    said = run("doctor", "lrs2_preprocessed", width=2, num_clips=2, json="found.json")
    assert "findings, worst first" in said
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert "duplicates" in {each["kind"] for each in found}
    tiny = {"width": 2, "eval_interval": 2, "log_interval": 1}
    said = run(
        "color_syncnet_train.py",
        data_root="./lrs2_preprocessed/main/",
        checkpoint_dir="./savedmodel/syncnet_model/",
        syncnet_batch_size=16,
        steps=4,
        **tiny,
    )
    syncnet = tmp_path / "savedmodel/syncnet_model/checkpoint_step000000004.pth"
    assert f"step 4 saved: {syncnet.relative_to(tmp_path)}" in said
    said = run("doctor", "lrs2_preprocessed", "--fix_offset", syncnet_checkpoint_path=syncnet, width=2)
    assert "train with --filelists filelists_synced" in said
    synced = [(tmp_path / "filelists_synced" / name).read_text() for name in ("train.txt", "val.txt")]
    assert [text.count("\n") for text in synced] == [len(names) for names in lists]
    training = {
        "filelists": "filelists_synced",
        "data_root": "./lrs2_preprocessed/main/",
        "checkpoint_dir": "./savedmodel/wav2lip/",
        "syncnet_checkpoint_path": syncnet,
        "batch_size": 2,
        "eval_batches": 1,
        **tiny,
    }
    run("hq_wav2lip_train.py", steps=2, **training)
    said = run("hq_wav2lip_train.py", steps=4, **training)
    assert "going on at step 2" in said
    out = tmp_path / "savedmodel/wav2lip"
    assert read(out / "checkpoint_step000000004.pth")["global_step"] == 4
    assert (out / "disc_checkpoint_step000000004.pth").exists()
    assert (out / "samples_step000000004.jpg").exists()
    steps = [json.loads(line)["step"] for line in (out / "curves.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 4, 4]
    said = run(
        "inference.py",
        checkpoint_path=out / "checkpoint_step000000004.pth",
        face=face_video,
        audio=speech,
        outfile="results/talk.mp4",
        report="report.json",
    )
    assert "mel_shift=-1" in said
    assert len(list(video_reader.read_frames(tmp_path / "results/talk.mp4"))) == 38
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dubbed_frames"] == report["frames"] == 38
