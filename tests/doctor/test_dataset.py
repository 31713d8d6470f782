"""The doctor: each thing that hurts is found once, offsets are measured and mended, the command tells it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from support.clip_folders import CodeReader, speech, write_clip, write_original
from support.networks import golden_weights
from wav2lip_npu.cli import main
from wav2lip_npu.data.clip_index import ClipIndex
from wav2lip_npu.data.file_lists import Entry, read_list
from wav2lip_npu.doctor.clip_stats import Looked, inspect
from wav2lip_npu.doctor.dataset import examine, judge_with
from wav2lip_npu.doctor.find_clips import find_clips, look_up
from wav2lip_npu.doctor.fix_offsets import resync
from wav2lip_npu.doctor.loader_speed import Pace
from wav2lip_npu.doctor.rules import Seen, Severity, findings_of
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.preprocessing.report import REPORT_FILE

CPU = torch.device("cpu")
GOOD = Looked(
    name="a/1", held_out=False, seconds=3.0, pictures=75, missing=0, source_fps=25.0, face_px=140.0,
    level_db=-12.0, clipped=0.0, speech=0.5, sound="s", picture="p",
)  # fmt: skip


TIMED = Pace(device="npu", width=32, batch=64, threads=2, first_pass=50, loader=400, step=1000)


def seen(*odd: Looked, **options: object) -> Seen:
    """A large good set, of which some clips are odd."""
    usual = {
        "looked": [*odd, *[GOOD] * (100 - len(odd))], "clips": 20_000, "val_clips": 100, "hours": 30.0,
        "speakers": frozenset("abc"), "val_speakers": frozenset("d"), "rejected": Counter(), "shared": [],
    }  # fmt: skip
    return Seen(**(usual | options))


def bad(count: int, **fields: object) -> list[Looked]:
    return [dataclasses.replace(GOOD, **fields)] * count


def index_of(root: Path, *names: str) -> ClipIndex:
    return look_up(root, map(Entry, names or find_clips(root))).usable


def test_a_good_set_has_no_findings():
    assert findings_of(seen()) == []
    judged = [dataclasses.replace(GOOD, offset=0, sure_offset=0, confidence=0.5)] * 100
    assert findings_of(seen(looked=judged)) == []
    rates = [dataclasses.replace(GOOD, source_fps=rate) for rate in (25.0, 50.0, 24.999, 100.0)] * 25
    assert findings_of(seen(looked=rates)) == []


NOTE, HARMS, BREAKS = Severity.NOTE, Severity.HARMS, Severity.BREAKS


@pytest.mark.parametrize(
    ("kind", "severity", "what", "given"),
    [
        ("few_minutes", BREAKS, "6 minutes", seen(hours=0.1)),
        ("few_minutes", HARMS, "60 minutes", seen(hours=1.0)),
        ("few_minutes", NOTE, "300 minutes", seen(hours=5.0)),
        ("few_clips", BREAKS, "12 clips", seen(clips=12)),
        ("one_speaker", NOTE, "'anna'", seen(speakers=frozenset(["anna"]))),
        ("rejected", NOTE, "2 no sound", seen(rejected=Counter({"no sound": 2}))),
        ("rejected", BREAKS, "99999 of", seen(rejected=Counter({"no sound": 99_999}))),
        ("failed_videos", HARMS, "30 of 100 videos", seen(failed=Counter({"no face": 30}), videos=100)),
        ("no_validation", HARMS, "no clips for validation", seen(val_clips=0, val_speakers=frozenset())),
        ("duplicates", HARMS, "1 clips", seen(shared=[("a/1", "d/9")])),
        ("shared_speakers", NOTE, "1 of 2 folders", seen(val_speakers=frozenset("ad"))),
        ("unlisted", NOTE, "7 clip folders", seen(unlisted=7)),
        ("odd_source", NOTE, "29.97 fps", seen(*bad(60, source_fps=29.97))),
        ("odd_source", NOTE, "23.976 fps", seen(*bad(60, source_fps=23.976))),
        ("slow_source", HARMS, "12 fps", seen(*bad(20, source_fps=12.0))),
        ("small_faces", HARMS, "30 of 100 clips (30%)", seen(*bad(30, face_px=60.0))),
        ("gaps", HARMS, "25%", seen(looked=bad(100, missing=25))),
        ("short", NOTE, "10 of 100", seen(*bad(10, seconds=0.8))),
        ("no_speech", HARMS, "6 of 100", seen(*bad(6, speech=0.01))),
        ("no_speech", BREAKS, "60 of 100", seen(*bad(60, speech=0.01, level_db=-90.0))),
        ("quiet", HARMS, "20 of 100", seen(*bad(20, level_db=-55.0))),
        ("clipped", NOTE, "5 of 100", seen(*bad(5, clipped=0.02))),
        ("unreadable", NOTE, "cannot read x.jpg", seen(*bad(1, problem="cannot read x.jpg"))),
        ("low_confidence", BREAKS, "70 of 70", seen(*bad(70, offset=2, sure_offset=2, confidence=0.02))),
        ("common_offset", BREAKS, "late by the same 3 frames (120 ms)", seen(*bad(70, offset=3, sure_offset=3, confidence=0.4))),
        ("common_offset", HARMS, "early by the same 1 frames", seen(*bad(70, offset=-1, sure_offset=-1, confidence=0.4))),
        (
            "out_of_sync", HARMS, "5 of 65 clips",
            seen(*bad(5, offset=-4, sure_offset=-4, confidence=0.4), *bad(20, offset=1, sure_offset=1, confidence=0.4), *bad(40, offset=0, sure_offset=0, confidence=0.4)),
        ),
    ],
)  # fmt: skip
def test_each_finding_comes_once(kind, severity, what, given):
    (finding,) = findings_of(given)
    assert (finding.kind, finding.severity) == (kind, severity)
    assert what in finding.what
    assert "\n" not in str(finding)
    assert str(finding).endswith(".")


def test_the_worst_comes_first():
    given = seen(*bad(60, source_fps=29.97), clips=3, hours=0.01, val_clips=0, speakers=frozenset("a"))
    severities = [finding.severity for finding in findings_of(given)]
    assert severities == sorted(severities, reverse=True)
    assert severities[0] is BREAKS


def test_a_slow_loader_is_a_finding():
    (finding,) = TIMED.findings()
    assert finding.kind == "slow_loader"
    assert "60%" in finding.what
    assert finding.severity is HARMS
    assert "the loader is the limit" in str(TIMED)
    assert not list(dataclasses.replace(TIMED, loader=4000).findings())


def test_what_a_clip_shows(tmp_path):
    loud = np.clip(4 * speech(3), -1, 1)
    write_clip(tmp_path / "a" / "1", gaps=(10, 11, 30), fps="30000/1001", face_px=80, wav=loud)
    write_original(tmp_path / "a" / "2", side=70, wav=speech(3, 0.003))
    write_original(tmp_path / "a" / "3", wav=np.zeros(48_000))
    ours, original, silent = (inspect(clip, False) for clip in index_of(tmp_path).clips)
    assert (ours.pictures, ours.missing, ours.seconds) == (72, 3, 72 / 25)
    assert ours.source_fps == pytest.approx(29.97)
    assert ours.face_px == 80
    assert ours.level_db > -6
    assert ours.clipped > 0.01
    assert ours.speaker == "a"
    assert (original.source_fps, original.face_px) == (None, 70)
    assert original.level_db < -50
    assert original.speech > 0.3
    assert (silent.speech, silent.sound) == (0, None)
    assert silent.level_db < -90
    assert [each.problem for each in (ours, original, silent)] == [None] * 3


def test_what_cannot_be_read_is_told(tmp_path):
    folder = write_clip(tmp_path / "1")
    (clip,) = index_of(tmp_path).clips
    (folder / "audio.wav").unlink()
    assert "audio.wav" in inspect(clip, False).problem
    write_original(tmp_path / "2")
    (tmp_path / "2" / "37.jpg").write_bytes(b"")
    found = examine(index_of(tmp_path), judge=judge_with(CodeReader(), CPU))
    assert [each.problem is None for each in found.clips] == [False, False]
    assert "unreadable" in {finding.kind for finding in found.findings}


def test_duplicates_are_found_by_content(tmp_path):
    for name in ("t/1", "t/2", "t/3", "v/1", "v/2"):
        write_clip(tmp_path / name)
    shutil.copytree(tmp_path / "v" / "1", tmp_path / "t" / "whole")
    shutil.copytree(tmp_path / "v" / "1", tmp_path / "t" / "sound")
    for picture in (tmp_path / "t" / "sound").glob("*.jpg"):
        shutil.copy(tmp_path / "t" / "1" / picture.name, picture)
    shutil.copytree(tmp_path / "v" / "2", tmp_path / "t" / "pictures")
    shutil.copy(tmp_path / "t" / "2" / "mel.npy", tmp_path / "t" / "pictures" / "mel.npy")
    train = index_of(tmp_path, *(f"t/{name}" for name in ("1", "2", "3", "whole", "sound", "pictures")))
    found = examine(train, index_of(tmp_path, "v/1", "v/2"), limit=6)
    assert found.shared == [("t/whole", "v/1"), ("t/sound", "v/1"), ("t/pictures", "v/2")]


def test_silence_is_no_duplicate(tmp_path):
    for name in ("t/1", "v/1"):
        write_original(tmp_path / name, wav=np.zeros(48_000))
    assert examine(index_of(tmp_path, "t/1"), index_of(tmp_path, "v/1")).shared == []


def test_only_so_many_clips_are_looked_at(tmp_path):
    for number in range(9):
        write_clip(tmp_path / f"{number}", 40)
    told = []
    index = index_of(tmp_path)
    found = examine(index, index, limit=4, progress=lambda done, total: told.append((done, total)))
    assert [each.held_out for each in found.clips] == [True, True, False, False]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.figures["looked_at"] == 4
    again = examine(index, index, limit=4)
    assert [each.name for each in again.clips] == [each.name for each in found.clips]
    assert not list(tmp_path.rglob("faces96.npy"))


def test_offsets_are_measured_and_mended(tmp_path):
    late = {"0": 0, "1": 3, "2": -2, "3": 1}
    for name, offset in late.items():
        write_clip(tmp_path / name, late=offset)
    write_clip(tmp_path / "short", 30, late=3)
    judge = judge_with(CodeReader(), CPU)
    found = examine(index_of(tmp_path), judge=judge)
    offsets = {each.name: each.offset for each in found.clips}
    assert offsets == late | {"short": None}
    assert "out_of_sync" in {finding.kind for finding in found.findings}
    looked = {each.name: each for each in found.clips}
    entries = [*map(Entry, looked), Entry("gone")]
    new = resync(entries, looked, fix_offset=True, min_confidence=None)
    assert new.entries == [*(Entry(name, k) for name, k in late.items()), Entry("short"), Entry("gone")]
    assert (new.shifted, new.dropped, new.unjudged) == (3, 0, 2)
    mended = examine(look_up(tmp_path, new.entries).usable, judge=judge)
    assert {each.name: each.offset for each in mended.clips} == dict.fromkeys(late, 0) | {"short": None}
    looked = {each.name: each for each in mended.clips}
    again = resync(new.entries, looked, fix_offset=True, min_confidence=None)
    assert again.entries == new.entries
    assert again.shifted == 0


def test_doubtful_clips_are_dropped_and_not_shifted():
    looked = {
        name: dataclasses.replace(GOOD, name=name, offset=2, sure_offset=2, confidence=confidence)
        for name, confidence in (("sure", 0.4), ("doubtful", 0.2), ("noise", 0.01))
    }
    entries = [Entry(name, 1) for name in looked]
    new = resync(entries, looked, fix_offset=True, min_confidence=0.3)
    assert new.entries == [Entry("sure", 3)]
    assert new.dropped == 2
    new = resync(entries, looked, fix_offset=True, min_confidence=None)
    assert new.entries == [Entry("sure", 3), Entry("doubtful", 3), Entry("noise", 1)]
    new = resync(entries, looked, fix_offset=False, min_confidence=0.1)
    assert new.entries == [Entry("sure", 1), Entry("doubtful", 1)]


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """Two clips to train on, one for validation, one in no list and a broken one."""
    root = tmp_path / "data set"
    for name in ("a/1", "a/2 x", "b/1", "b/unlisted"):
        write_clip(root / name, 45, late=2 if name == "a/1" else 0)
    (root / "b" / "2.partial").mkdir()
    (root / "b" / "2.partial" / "audio.wav").touch()
    (root / "a" / "broken").mkdir()
    (root / "a" / "broken" / "clip.json").write_text("{")
    lists = tmp_path / "filelists"
    lists.mkdir()
    (lists / "train.txt").write_text('a/1\n"a/2 x"\na/broken\n')
    (lists / "val.txt").write_text("b/1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wav2lip_npu.doctor.loader_speed._TIMED_S", 0)
    monkeypatch.setattr("wav2lip_npu.doctor.loader_speed.BATCH", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where other tests run too
    yield root
    torch.set_num_threads(threads)


def test_the_command_tells_and_writes_json(data_set, tmp_path, capsys, caplog):
    record = {
        "video": "x.mp4", "clip": "x", "status": "failed", "reason": "no face", "source": None, "options": {},
    }  # fmt: skip
    (data_set / REPORT_FILE).write_text(json.dumps(record) + "\n")
    words = ["doctor", str(data_set), "--width", "2", "--device", "cpu", "--json", "out/all.json"]
    assert main.main(words) == 0
    assert capsys.readouterr().out == ""
    lines = caplog.messages
    assert any("findings, worst first" in line for line in lines)
    assert lines[-1] == "everything that was found: out/all.json"
    found = json.loads((tmp_path / "out" / "all.json").read_text())
    assert [clip["name"] for clip in found["clips"]] == ["b/1", "a/1", "a/2 x"]
    assert found["rejected"] == {"train.txt": {"a/broken": "damaged"}, "val.txt": {}}
    assert found["figures"]["unlisted"] == 1
    assert found["pace"]["loader"] > 0
    assert found["pace"]["step"] > 0
    kinds = [finding["kind"] for finding in found["findings"]]
    assert {"few_minutes", "few_clips", "rejected", "unlisted", "failed_videos"} <= set(kinds)
    assert len(kinds) == len(set(kinds))


def test_the_command_mends_file_lists(data_set, tmp_path, monkeypatch, caplog):
    checkpoint.save(tmp_path / "syncnet.pth", golden_weights(SyncNet(width=2)))
    monkeypatch.setattr("wav2lip_npu.doctor.loader_speed.measure", lambda *_, **__: TIMED)
    monkeypatch.setattr("wav2lip_npu.doctor.dataset.judge_with", lambda *_: judge_with(CodeReader(), CPU))
    words = ["doctor", str(data_set), "--width=2", "--device=cpu", "--syncnet_checkpoint_path", "syncnet.pth"]
    before = {path: path.stat().st_mtime_ns for path in data_set.rglob("*") if path.suffix != ".npy"}
    assert main.main([*words, "--fix_offset", "--min_confidence", "0.2"]) == 0
    train = [Entry("a/1", 2), Entry("a/2 x"), Entry("a/broken")]
    assert read_list("filelists_synced/train.txt") == train
    assert read_list("filelists_synced/val.txt") == [Entry("b/1")]
    assert any("1 shifted" in line for line in caplog.messages)
    caplog.clear()
    words += ["--filelists", "filelists_synced", "--outdir", "again", "--fix_offset"]
    assert main.main(words) == 0
    assert any("0 shifted" in line for line in caplog.messages)
    assert Path("again/train.txt").read_bytes() == Path("filelists_synced/train.txt").read_bytes()
    folders = {path.parent for path in data_set.rglob("faces96.npy")}
    after = {path: path.stat().st_mtime_ns for path in before if path not in folders}
    assert after == {path: before[path] for path in after}


def test_without_lists_all_clips_are_looked_at(data_set, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("wav2lip_npu.doctor.loader_speed.measure", lambda *_, **__: TIMED)
    shutil.rmtree(tmp_path / "filelists")
    assert main.main(["doctor", str(data_set), "--width=2", "--device=cpu", "--json=all.json"]) == 0
    assert any("no train.txt or val.txt" in line for line in caplog.messages)
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["figures"]["clips"] == 4
    assert found["figures"]["unlisted"] == 0


def test_a_set_of_nothing_but_broken_clips_is_looked_at(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "1").mkdir(parents=True)
    (tmp_path / "data" / "1" / "clip.json").write_text("{}")
    assert main.main(["doctor", "data", "--device=cpu"]) == 0
    assert any("1 of 1 clips cannot be used (100%): 1 other format" in line for line in caplog.messages)


def test_links_that_go_round_are_followed_once(tmp_path):
    write_original(tmp_path / "a" / "1", 1)
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert find_clips(tmp_path) == ["a/1"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere"], ["nowhere is not a folder"]),
        (["."], ["no clip is under ."]),
        ([".", "--fix_offset"], ["--syncnet_checkpoint_path"]),
        ([".", "--min_confidence", "2", "--syncnet_checkpoint_path", "x"], ["--min_confidence 2 is out of range"]),
        ([".", "--fix_offset", "--syncnet_checkpoint_path", "x", "--outdir", "filelists"], ["--outdir"]),
        ([".", "--num_clips", "0"], ["--num_clips 0"]),
        ([".", "--width", "3"], ["--width 3"]),
        ([".", "--filelists", "lists"], ["no train.txt or val.txt in lists"]),
        ([".", "--device", "tpu"], ["unknown device 'tpu'"]),
        ([".", "--syncnet_checkpoint_path", "x"], ["cannot read weights", "x"]),
    ],
)  # fmt: skip
def test_bad_usage(tmp_path, monkeypatch, capsys, words, parts):
    monkeypatch.chdir(tmp_path)
    assert main.main(["doctor", *words]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("wav2lip-npu: ")]
    for part in parts:
        assert part in line
