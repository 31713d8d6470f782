"""From videos to a dub with newly trained networks, on a few seconds of synthetic video."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from support.talk import write_talk
from support.trainings import read
from wav2lip_npu.cli.main import main
from wav2lip_npu.media import video_reader

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_videos_to_dub(tmp_path, face_video, speech, monkeypatch, caplog, capsys, one_thread):
    """Run the scripts of the original in one folder: clips, SyncNet, generator with discriminator, resume, dub."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)

    def run(script: str, *words: str, **flags: Any) -> str:
        caplog.clear()
        flag_words = (str(word) for name, value in flags.items() for word in (f"--{name}", value))
        arguments = [*words, *flag_words]
        if script.endswith(".py"):
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            with pytest.raises(SystemExit) as stop:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            code = stop.value.code
        else:
            code = main([script, *arguments])
        output = caplog.text + "".join(capsys.readouterr())
        assert code == 0, output
        return output

    first = write_talk(tmp_path / "LRS2_partly/main/1/00001.mp4", 1.2, fps=Fraction(30))
    for name in ("1/00002", "2/00001", "3/00001"):
        path = tmp_path / f"LRS2_partly/main/{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(first, path)
    run("preprocess.py", data_root="./LRS2_partly", preprocessed_root="./lrs2_preprocessed", workers=1)
    lists = [(tmp_path / "filelists" / name).read_text().split() for name in ("train.txt", "val.txt")]
    assert sorted(lists[0] + lists[1]) == ["main/1/00001", "main/1/00002", "main/2/00001", "main/3/00001"]
    assert len(lists[0]) >= 2
    output = run("doctor", "lrs2_preprocessed", width=2, num_clips=2, json="found.json")
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert "duplicates" in {finding["kind"] for finding in findings}
    tiny = {"width": 2, "eval_interval": 2, "log_interval": 1}
    output = run(
        "color_syncnet_train.py",
        data_root="./lrs2_preprocessed/main/",
        checkpoint_dir="./savedmodel/syncnet_model/",
        syncnet_batch_size=16,
        steps=4,
        **tiny,
    )
    syncnet = tmp_path / "savedmodel/syncnet_model/checkpoint_step000000004.pth"
    assert str(syncnet.relative_to(tmp_path)) in output
    output = run("doctor", "lrs2_preprocessed", "--fix_offset", syncnet_checkpoint_path=syncnet, width=2)
    assert "--filelists filelists_synced" in output
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
    output = run("hq_wav2lip_train.py", steps=4, **training)
    assert "step 2" in output
    out = tmp_path / "savedmodel/wav2lip"
    assert read(out / "checkpoint_step000000004.pth")["global_step"] == 4
    assert (out / "disc_checkpoint_step000000004.pth").exists()
    assert (out / "samples_step000000004.jpg").exists()
    steps = [json.loads(line)["step"] for line in (out / "curves.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 4, 4]
    output = run(
        "inference.py",
        checkpoint_path=out / "checkpoint_step000000004.pth",
        face=face_video,
        audio=speech,
        outfile="results/talk.mp4",
        report="report.json",
    )
    assert "mel_shift=-1" in output
    assert len(list(video_reader.read_frames(tmp_path / "results/talk.mp4"))) == 15
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["dubbed_frames"] == report["frames"] == 15
