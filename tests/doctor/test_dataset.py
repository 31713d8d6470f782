"""Data set checks: each problem is reported once, offsets are measured and corrected; the command."""

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
from wav2lip_npu.doctor.clip_stats import ClipStats, measure_clip
from wav2lip_npu.doctor.dataset import check_clips
from wav2lip_npu.doctor.dataset_stats import DatasetStats
from wav2lip_npu.doctor.find_clips import find_clips, look_up
from wav2lip_npu.doctor.fix_offsets import check_syncnet, fix_list, write_fixed_lists
from wav2lip_npu.doctor.loader_speed import LoaderSpeed
from wav2lip_npu.doctor.rules import Severity, find_problems
from wav2lip_npu.doctor.sync_estimate import sync_estimator
from wav2lip_npu.errors import DataError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.preprocessing.report import REPORT_FILE

CPU = torch.device("cpu")
GOOD = ClipStats(
    name="a/1", held_out=False, seconds=3.0, frames=75, missing_frames=0, source_fps=25.0, face_px=140.0,
    level_db=-12.0, clipped_share=0.0, speech_share=0.5, audio_hash="s", frame_hash="p",
)  # fmt: skip


SPEED = LoaderSpeed(device="npu", width=32, batch=64, threads=2, first_pass=50, loader=400, step=1000)


def stats(*odd: ClipStats, **options: object) -> DatasetStats:
    """Return statistics of a large data set without problems, except for some clips."""
    usual = {
        "measured": [*odd, *[GOOD] * (100 - len(odd))], "clips": 20_000, "val_clips": 100, "hours": 30.0,
        "speakers": frozenset("abc"), "val_speakers": frozenset("d"), "rejected": Counter(), "duplicates": [],
    }  # fmt: skip
    return DatasetStats(**(usual | options))


def bad(count: int, **fields: object) -> list[ClipStats]:
    return [dataclasses.replace(GOOD, **fields)] * count


def index_of(root: Path, *names: str) -> ClipIndex:
    return look_up(root, map(Entry, names or find_clips(root))).usable


def test_good_data_set_has_no_problems():
    assert find_problems(stats()) == []
    estimated = [dataclasses.replace(GOOD, offset=0, significant_offset=0, confidence=0.5)] * 100
    assert find_problems(stats(measured=estimated)) == []
    rates = [dataclasses.replace(GOOD, source_fps=rate) for rate in (25.0, 50.0, 24.999, 100.0)] * 25
    assert find_problems(stats(measured=rates)) == []


NOTE, HARMS, BREAKS = Severity.NOTE, Severity.HARMS, Severity.BREAKS


@pytest.mark.parametrize(
    ("kind", "severity", "what", "data_set"),
    [
        ("few_minutes", BREAKS, "6 minutes", stats(hours=0.1)),
        ("few_minutes", HARMS, "60 minutes", stats(hours=1.0)),
        ("few_minutes", NOTE, "300 minutes", stats(hours=5.0)),
        ("few_clips", BREAKS, "12 clips", stats(clips=12)),
        ("one_speaker", NOTE, "'anna'", stats(speakers=frozenset(["anna"]))),
        ("rejected", NOTE, "2 no sound", stats(rejected=Counter({"no sound": 2}))),
        ("rejected", BREAKS, "99999 of", stats(rejected=Counter({"no sound": 99_999}))),
        ("failed_videos", HARMS, "30 of 100 videos", stats(failed=Counter({"no face": 30}), videos=100)),
        ("no_validation", HARMS, "no validation clips", stats(val_clips=0, val_speakers=frozenset())),
        ("duplicates", HARMS, "1 of 20000 training clips", stats(duplicates=[("a/1", "d/9")])),
        ("shared_speakers", NOTE, "1 of 2 validation folders", stats(val_speakers=frozenset("ad"))),
        ("unlisted", NOTE, "7 clip folders", stats(unlisted=7)),
        ("odd_source", NOTE, "29.97 fps", stats(*bad(60, source_fps=29.97))),
        ("odd_source", NOTE, "23.976 fps", stats(*bad(60, source_fps=23.976))),
        ("slow_source", HARMS, "12 fps", stats(*bad(20, source_fps=12.0))),
        ("small_faces", HARMS, "30 of 100 clips (30%)", stats(*bad(30, face_px=60.0))),
        ("gaps", HARMS, "25%", stats(measured=bad(100, missing_frames=25))),
        ("short", NOTE, "10 of 100", stats(*bad(10, seconds=0.8))),
        ("no_speech", HARMS, "6 of 100", stats(*bad(6, speech_share=0.01))),
        ("no_speech", BREAKS, "60 of 100", stats(*bad(60, speech_share=0.01, level_db=-90.0))),
        ("quiet", HARMS, "20 of 100", stats(*bad(20, level_db=-55.0))),
        ("clipped", NOTE, "5 of 100", stats(*bad(5, clipped_share=0.02))),
        ("unreadable", NOTE, "cannot read x.jpg", stats(*bad(1, error="cannot read x.jpg"))),
        ("low_confidence", BREAKS, "70 of 70", stats(*bad(70, offset=2, significant_offset=2, confidence=0.02))),
        ("common_offset", BREAKS, "late by the same 3 frames (120 ms)", stats(*bad(70, offset=3, significant_offset=3, confidence=0.4))),
        ("common_offset", HARMS, "early by the same 1 frame ", stats(*bad(70, offset=-1, significant_offset=-1, confidence=0.4))),
        (
            "out_of_sync", HARMS, "5 of 65 clips",
            stats(*bad(5, offset=-4, significant_offset=-4, confidence=0.4), *bad(20, offset=1, significant_offset=1, confidence=0.4), *bad(40, offset=0, significant_offset=0, confidence=0.4)),
        ),
    ],
)  # fmt: skip
def test_each_problem_is_reported_once(kind, severity, what, data_set):
    (problem,) = find_problems(data_set)
    assert (problem.kind, problem.severity) == (kind, severity)
    assert what in problem.what
    assert "\n" not in str(problem)
    assert str(problem).endswith(".")


def test_worst_problem_comes_first():
    data_set = stats(*bad(60, source_fps=29.97), clips=3, hours=0.01, val_clips=0, speakers=frozenset("a"))
    severities = [problem.severity for problem in find_problems(data_set)]
    assert severities == sorted(severities, reverse=True)
    assert severities[0] is BREAKS


def test_slow_loader_is_a_problem():
    (problem,) = SPEED.problems()
    assert problem.kind == "slow_loader"
    assert "60%" in problem.what
    assert problem.severity is HARMS
    assert "The loader is the bottleneck" in str(SPEED)
    assert not list(dataclasses.replace(SPEED, loader=4000).problems())


def test_statistics_of_clips(tmp_path):
    loud = np.clip(4 * speech(3), -1, 1)
    write_clip(tmp_path / "a" / "1", gaps=(10, 11, 30), fps="30000/1001", face_px=80, wav=loud)
    write_original(tmp_path / "a" / "2", side=70, wav=speech(3, 0.003))
    write_original(tmp_path / "a" / "3", wav=np.zeros(48_000))
    ours, original, silent = (measure_clip(clip, False) for clip in index_of(tmp_path).clips)
    assert (ours.frames, ours.missing_frames, ours.seconds) == (72, 3, 72 / 25)
    assert ours.source_fps == pytest.approx(29.97)
    assert ours.face_px == 80
    assert ours.level_db > -6
    assert ours.clipped_share > 0.01
    assert ours.speaker == "a"
    assert (original.source_fps, original.face_px) == (None, 70)
    assert original.level_db < -50
    assert original.speech_share > 0.3
    assert (silent.speech_share, silent.audio_hash) == (0, None)
    assert silent.level_db < -90
    assert [item.error for item in (ours, original, silent)] == [None] * 3


def test_unreadable_clips_are_reported(tmp_path):
    folder = write_clip(tmp_path / "1")
    (clip,) = index_of(tmp_path).clips
    (folder / "audio.wav").unlink()
    assert "audio.wav" in measure_clip(clip, False).error
    write_original(tmp_path / "2")
    (tmp_path / "2" / "37.jpg").write_bytes(b"")
    report = check_clips(index_of(tmp_path), estimate_sync=sync_estimator(CodeReader(), CPU), progress=None)
    assert [clip.error is None for clip in report.stats.measured] == [False, False]
    assert "unreadable" in {problem.kind for problem in report.problems}


def test_duplicates_are_detected_by_content(tmp_path):
    for name in ("t/1", "t/2", "t/3", "v/1", "v/2"):
        write_clip(tmp_path / name)
    shutil.copytree(tmp_path / "v" / "1", tmp_path / "t" / "whole")
    shutil.copytree(tmp_path / "v" / "1", tmp_path / "t" / "audio")
    for image in (tmp_path / "t" / "audio").glob("*.jpg"):
        shutil.copy(tmp_path / "t" / "1" / image.name, image)
    shutil.copytree(tmp_path / "v" / "2", tmp_path / "t" / "frames")
    shutil.copy(tmp_path / "t" / "2" / "mel.npy", tmp_path / "t" / "frames" / "mel.npy")
    train = index_of(tmp_path, *(f"t/{name}" for name in ("1", "2", "3", "whole", "audio", "frames")))
    report = check_clips(train, index_of(tmp_path, "v/1", "v/2"), max_clips=6)
    assert report.stats.duplicates == [("t/whole", "v/1"), ("t/audio", "v/1"), ("t/frames", "v/2")]


def test_silent_clips_are_not_duplicates(tmp_path):
    for name in ("t/1", "v/1"):
        write_original(tmp_path / name, wav=np.zeros(48_000))
    assert check_clips(index_of(tmp_path, "t/1"), index_of(tmp_path, "v/1")).stats.duplicates == []


def test_sample_of_clips(tmp_path):
    for number in range(9):
        write_clip(tmp_path / f"{number}", 40)
    calls = []
    index = index_of(tmp_path)
    report = check_clips(index, index, max_clips=4, progress=lambda *counts: calls.append(counts))
    assert [clip.held_out for clip in report.stats.measured] == [True, True, False, False]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.as_dict()["figures"]["looked_at"] == 4
    again = check_clips(index, index, max_clips=4)
    assert [clip.name for clip in again.stats.measured] == [clip.name for clip in report.stats.measured]
    assert not list(tmp_path.rglob("faces96.npy"))


def test_offsets_are_measured_and_corrected(tmp_path):
    late = {"0": 0, "1": 3, "2": -2, "3": 1}
    for name, offset in late.items():
        write_clip(tmp_path / name, late=offset)
    write_clip(tmp_path / "short", 30, late=3)
    estimate_sync = sync_estimator(CodeReader(), CPU)
    report = check_clips(index_of(tmp_path), estimate_sync=estimate_sync)
    clips = {clip.name: clip for clip in report.stats.measured}
    assert {name: clip.offset for name, clip in clips.items()} == late | {"short": None}
    assert "out_of_sync" in {problem.kind for problem in report.problems}
    entries = [*map(Entry, clips), Entry("gone")]
    new = fix_list(entries, clips, fix_offset=True, min_confidence=None)
    assert new.entries == [*(Entry(name, k) for name, k in late.items()), Entry("short"), Entry("gone")]
    assert (new.shifted, new.dropped, new.unmeasured) == (3, 0, 2)
    corrected = check_clips(look_up(tmp_path, new.entries).usable, estimate_sync=estimate_sync)
    clips = {clip.name: clip for clip in corrected.stats.measured}
    assert {name: clip.offset for name, clip in clips.items()} == dict.fromkeys(late, 0) | {"short": None}
    again = fix_list(new.entries, clips, fix_offset=True, min_confidence=None)
    assert again.entries == new.entries
    assert again.shifted == 0


def clips_with(offsets: list[int], confidence: float = 0.4) -> list[ClipStats]:
    return [
        dataclasses.replace(GOOD, name=f"{number}", offset=n, significant_offset=n, confidence=confidence)
        for number, n in enumerate(offsets)
    ]


UNSUITABLE = {
    "in 39 of 61 clips": clips_with([0] * 22) + clips_with([3] * 39, 0.05),
    "in 12 of 20 clips": clips_with([0] * 8) + clips_with([15] * 6 + [-15] * 6),
    "scattered": clips_with(list(range(-14, 15))),
}


@pytest.mark.parametrize("case", UNSUITABLE)
def test_unsuitable_syncnet_writes_no_list(case, tmp_path):
    """F2: most clips have no match, a match at the end of the search range, or random offsets."""
    stats = UNSUITABLE[case]
    lists = {"train.txt": [Entry(clip.name) for clip in stats]}
    for fix_offset, min_confidence in ((True, None), (False, 0.1), (True, 0.1)):
        with pytest.raises(
            DataError, match=r"expert\.pth.*No list was written.*--syncnet_checkpoint_path"
        ) as caught:
            write_fixed_lists(
                lists,
                stats,
                tmp_path / "new",
                syncnet="expert.pth",
                fix_offset=fix_offset,
                min_confidence=min_confidence,
            )
        assert case in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "stats",
    [
        [],
        clips_with([3]),
        clips_with([0, 9, -8]),
        clips_with([0] * 7 + [2, -3, 4, 5, 6, -7, 8]),
        clips_with([-4] * 40) + clips_with([0] * 30, 0.05),
    ],
)
def test_suitable_syncnet_is_used(stats):
    """F2: a few clips without a match, or a common offset of all clips, are accepted."""
    check_syncnet(stats, "expert.pth")


def test_doctor_refuses_an_unsuitable_syncnet(data_set, tmp_path, monkeypatch, capsys):
    """F2: the report is written, the lists are not."""
    checkpoint.save(tmp_path / "syncnet.pth", golden_weights(SyncNet(width=2)))
    monkeypatch.setattr("wav2lip_npu.doctor.dataset.measure_loader_speed", lambda *_, **__: SPEED)
    words = ["doctor", data_set, "--device=cpu", "--syncnet_checkpoint_path", "syncnet.pth", "--fix_offset"]
    assert main.main([*map(str, words), "--json", "all.json", "--filelists", "filelists"]) == 2
    assert "syncnet.pth" in capsys.readouterr().err
    assert (tmp_path / "all.json").exists()
    assert not (tmp_path / "filelists_synced").exists()


def test_clips_of_low_confidence_are_dropped_and_not_shifted():
    clips = {
        name: dataclasses.replace(GOOD, name=name, offset=2, significant_offset=2, confidence=confidence)
        for name, confidence in (("sure", 0.4), ("doubtful", 0.2), ("noise", 0.01))
    }
    entries = [Entry(name, 1) for name in clips]
    new = fix_list(entries, clips, fix_offset=True, min_confidence=0.3)
    assert new.entries == [Entry("sure", 3)]
    assert new.dropped == 2
    new = fix_list(entries, clips, fix_offset=True, min_confidence=None)
    assert new.entries == [Entry("sure", 3), Entry("doubtful", 3), Entry("noise", 1)]
    new = fix_list(entries, clips, fix_offset=False, min_confidence=0.1)
    assert new.entries == [Entry("sure", 1), Entry("doubtful", 1)]


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """Two training clips, one validation clip, an unlisted one and a broken one."""
    root = tmp_path / "data set"
    for name in ("a/1", "a/2 x", "b/1", "b/unlisted"):
        write_clip(root / name, 50, late=2 if name == "a/1" else 0)
    (root / "b" / "2.partial").mkdir()
    (root / "b" / "2.partial" / "audio.wav").touch()
    (root / "a" / "broken").mkdir()
    (root / "a" / "broken" / "clip.json").write_text("{")
    lists = tmp_path / "filelists"
    lists.mkdir()
    (lists / "train.txt").write_text('a/1\n"a/2 x"\na/broken\n')
    (lists / "val.txt").write_text("b/1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wav2lip_npu.doctor.loader_speed._MIN_SECONDS", 0)
    monkeypatch.setattr("wav2lip_npu.doctor.loader_speed.BATCH", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads wait for each other while other tests run
    yield root
    torch.set_num_threads(threads)


def test_command_reports_problems_and_writes_json(data_set, tmp_path, capsys, caplog):
    record = {
        "video": "x.mp4", "clip": "x", "status": "failed", "reason": "no face", "source": None, "options": {},
    }  # fmt: skip
    (data_set / REPORT_FILE).write_text(json.dumps(record) + "\n")
    words = ["doctor", str(data_set), "--width", "2", "--device", "cpu", "--json", "out/all.json"]
    assert main.main(words) == 0
    assert capsys.readouterr().out == ""
    lines = caplog.messages
    assert any("worst first" in line for line in lines)
    assert "out/all.json" in lines[-1]
    report = json.loads((tmp_path / "out" / "all.json").read_text())
    assert [clip["name"] for clip in report["clips"]] == ["b/1", "a/1", "a/2 x"]
    assert report["rejected"] == {"train.txt": {"a/broken": "damaged"}, "val.txt": {}}
    assert report["figures"]["unlisted"] == 1
    assert report["pace"]["loader"] > 0
    assert report["pace"]["step"] > 0
    kinds = [problem["kind"] for problem in report["findings"]]
    assert {"few_minutes", "few_clips", "rejected", "unlisted", "failed_videos"} <= set(kinds)
    assert len(kinds) == len(set(kinds))


def test_command_writes_corrected_file_lists(data_set, tmp_path, monkeypatch, caplog):
    checkpoint.save(tmp_path / "syncnet.pth", golden_weights(SyncNet(width=2)))
    monkeypatch.setattr("wav2lip_npu.doctor.dataset.measure_loader_speed", lambda *_, **__: SPEED)
    monkeypatch.setattr(
        "wav2lip_npu.doctor.dataset.load_estimator", lambda *_: sync_estimator(CodeReader(), CPU)
    )
    words = ["doctor", str(data_set), "--width=2", "--device=cpu", "--syncnet_checkpoint_path", "syncnet.pth"]
    before = {path: path.stat().st_mtime_ns for path in data_set.rglob("*") if path.suffix != ".npy"}
    assert main.main([*words, "--fix_offset", "--min_confidence", "0.2"]) == 0
    train = [Entry("a/1", 2), Entry("a/2 x"), Entry("a/broken")]
    assert read_list("filelists_synced/train.txt") == train
    assert read_list("filelists_synced/val.txt") == [Entry("b/1")]
    assert any("1 offsets corrected" in line for line in caplog.messages)
    caplog.clear()
    words += ["--filelists", "filelists_synced", "--outdir", "again", "--fix_offset"]
    assert main.main(words) == 0
    assert any("0 offsets corrected" in line for line in caplog.messages)
    assert Path("again/train.txt").read_bytes() == Path("filelists_synced/train.txt").read_bytes()
    folders = {path.parent for path in data_set.rglob("faces96.npy")}
    after = {path: path.stat().st_mtime_ns for path in before if path not in folders}
    assert after == {path: before[path] for path in after}


def test_without_lists_all_clips_are_checked(data_set, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("wav2lip_npu.doctor.dataset.measure_loader_speed", lambda *_, **__: SPEED)
    shutil.rmtree(tmp_path / "filelists")
    assert main.main(["doctor", str(data_set), "--width=2", "--device=cpu", "--json=all.json"]) == 0
    assert any("no train.txt or val.txt" in line for line in caplog.messages)
    report = json.loads((tmp_path / "all.json").read_text())
    assert report["figures"]["clips"] == 4
    assert report["figures"]["unlisted"] == 0


def test_data_set_with_only_broken_clips(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "1").mkdir(parents=True)
    (tmp_path / "data" / "1" / "clip.json").write_text("{}")
    assert main.main(["doctor", "data", "--device=cpu"]) == 0
    assert any("1 of 1 clips cannot be used (100%): 1 other format" in line for line in caplog.messages)


def test_loops_of_links_are_followed_once(tmp_path):
    write_original(tmp_path / "a" / "1", 1)
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert find_clips(tmp_path) == ["a/1"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere"], ["nowhere is not a folder"]),
        (["."], ["no clips below ."]),
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
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wav2lip-npu: ")]
    for part in parts:
        assert part in line
