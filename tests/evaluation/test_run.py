"""The command and the function `evaluate` on small videos."""

from __future__ import annotations

import json
import math
import shutil
from fractions import Fraction
from pathlib import Path

import cv2
import pytest
import torch

import wav2lip_npu
from support.devices import DEVICE
from support.networks import golden_weights
from support.talk import face, write_talk
from wav2lip_npu.cli.main import main
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.evaluation.inputs import Pair, pair_videos, read_original_list
from wav2lip_npu.evaluation.listed_frames import find_report, read_kept_spans
from wav2lip_npu.models.syncnet_v2 import SyncNetV2


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Path:
    """A video of 2.2 s with a face of about 110 px and audio."""
    return write_talk(tmp_path_factory.mktemp("talk") / "talk.mp4", 2.2)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder with tiny weights of SyncNet v2 in checkpoints/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save(golden_weights(SyncNetV2(2)).state_dict(), tmp_path / "checkpoints" / "syncnet_v2.model")
    return tmp_path


@pytest.mark.any_device
def test_same_file_in_all_figures(talk, folder, capsys, caplog):
    files = ["--report", "out/eval.json", "--page", "out/eval.html"]
    words = ["--truth", str(talk), "--silent", str(talk), "--min_track", "20", "--device", str(DEVICE)]
    assert main(["evaluate", str(talk), *words, *files]) == 0
    assert "lse_d" in capsys.readouterr().out and "checkpoints/syncnet_v2.model" in caplog.text
    report = json.loads((folder / "out" / "eval.json").read_text())
    (video,) = report["videos"]
    figures = video["figures"]
    assert video["frames"] == 55 and video["faces"] > 45
    for name in ("lse_d", "lse_c", "lse_offset", "expert_confidence", "expert_offset", "jitter", "sharpness"):
        assert figures[name]["generated"] == figures[name]["truth"]
    assert figures["psnr_face"]["generated"] == figures["outside_psnr"]["generated"] == "inf"
    assert figures["ssim_mouth"]["generated"] == pytest.approx(1)
    assert figures["lmd"]["generated"] == figures["seam"]["generated"] == 0
    assert figures["leak"]["generated"] == pytest.approx(1)
    assert abs(figures["tail"]["generated"]) < 0.05
    assert "upstream" in report["judges"]["crop"] and "not the published" in report["judges"]["syncnet"]
    assert "--reports" in report["skipped"]["frames"]
    assert {"lpips", "fid", "identity"} <= report["skipped"].keys()
    page = (folder / "out" / "eval.html").read_text()
    assert "data:image/jpeg" in page and "<polyline" in page and "talk.mp4" in page
    assert "http" not in page and "<script" not in page


def test_figures_of_both_are_of_the_frames_that_both_have(talk, tmp_path):
    short = write_talk(tmp_path / "short.mp4", 1)
    counts: list[tuple[int, int]] = []
    report = wav2lip_npu.evaluate(
        talk,
        truth=short,
        device="cpu",
        metrics=("mouth", "skin", "track"),
        frame_progress=lambda *count: counts.append(count),
    )
    assert counts == [(number, 55) for number in range(1, 56)]
    for name in ("motion", "sharpness", "flicker"):
        assert report.figures[name].generated == pytest.approx(report.figures[name].truth, rel=0.05)


def test_photo_is_no_original(talk, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), face())
    report = wav2lip_npu.evaluate(
        talk, truth=tmp_path / "photo.png", device="cpu", metrics=("mouth", "picture")
    )
    assert report.videos[0].truth is None and "picture" in report.skipped
    assert report.figures["motion"].generated > 0 and report.figures["motion"].truth is None


def test_missing_weights_and_audio_are_skipped(talk, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    silent = write_talk(tmp_path / "silent.mkv", 1, audio=None)
    report = wav2lip_npu.evaluate([talk, silent], device="cpu", metrics=("sync", "expert", "timing"))
    assert "--syncnet" in report.skipped["sync"] and "expert" not in report.skipped
    by_name = {Path(video.video).name: video for video in report.videos}
    assert "no audio" in by_name["silent.mkv"].skipped["expert"]
    assert report.videos[0] is by_name["talk.mp4"]  # unknown scores come last
    assert report.figures["tail"].truth is None


def test_broken_video_does_not_stop_the_others(talk, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(talk, videos / "b.mp4")
    (videos / "a.mp4").write_bytes(b"no video")
    assert (
        main(
            [
                "evaluate",
                str(videos),
                "--metrics",
                "timing",
                "--device",
                "cpu",
                "--report",
                str(tmp_path / "r"),
            ]
        )
        == 1
    )
    report = json.loads((tmp_path / "r").read_text())
    assert list(report["failed"]) == [str(videos / "a.mp4")] and len(report["videos"]) == 1


def test_table_of_a_batch(talk, tmp_path, capsys):
    shutil.copy(talk, tmp_path / "out.mp4")
    (tmp_path / "jobs.csv").write_text(f"face,audio,outfile\n{talk},{talk},out.mp4\n")
    words = ["--metrics", "timing", "--device", "cpu", "--report", str(tmp_path / "r.json")]
    assert main(["evaluate", str(tmp_path / "jobs.csv"), *words]) == 0
    (video,) = json.loads((tmp_path / "r.json").read_text())["videos"]
    assert (video["video"], video["truth"]) == (str(tmp_path / "out.mp4"), str(talk))


def test_truth_of_the_command_line_replaces_that_of_a_table(talk, tmp_path, capsys):
    for name in ("out.mp4", "other.mp4"):
        shutil.copy(talk, tmp_path / name)
    (tmp_path / "jobs.csv").write_text(f"face,audio,outfile\n{talk},{talk},out.mp4\n{talk},,out.mp4\n")
    words = ["--truth", str(tmp_path / "other.mp4"), "--silent", str(talk), "--metrics", "mouth"]
    code = main(
        [
            "evaluate",
            str(tmp_path / "jobs.csv"),
            *words,
            "--device",
            "cpu",
            "--report",
            str(tmp_path / "r.json"),
        ]
    )
    (video,) = json.loads((tmp_path / "r.json").read_text())["videos"]
    assert code == 1 and video["truth"] == str(tmp_path / "other.mp4")  # the second row has no audio
    assert video["figures"]["leak"]["generated"] == pytest.approx(1)


@pytest.mark.parametrize("place", ["file", "folder", "table"])
def test_report_must_not_replace_a_video(talk, tmp_path, place, capsys):
    video = Path(shutil.copy(talk, tmp_path / "a.mp4"))
    (tmp_path / "jobs.csv").write_text("face,audio,outfile\na.mp4,a.mp4,b.mp4\n")
    given = {"file": video, "folder": tmp_path, "table": tmp_path / "jobs.csv"}[place]
    assert main(["evaluate", str(given), "--report", str(video), "--device", "cpu"]) == 2
    assert "--report" in capsys.readouterr().err and video.read_bytes() == talk.read_bytes()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        ([], "videos"),
        (["{talk}", "--min_track", "-1"], "--min_track"),
        (["{talk}", "--truth", "nowhere"], "--truth"),
        (["{talk}", "--data_root", "x"], "--data_root"),
        (["{talk}", "--filelist", "x"], "--filelist"),
        (["{talk}", "{talk}", "--filelist", "x", "--data_root", "."], "--filelist"),
        (["{talk}", "--filelist", "{talk}", "--data_root", "nowhere"], "--data_root nowhere"),
        (["{talk}", "--face_select", "tallest"], "--face_select"),
        (["{talk}", "--syncnet", "nowhere.model"], "nowhere.model"),
    ],
)
def test_bad_flags(talk, words, named, capsys):
    assert main(["evaluate", *(word.format(talk=talk) for word in words), "--device", "cpu"]) == 2
    assert named in capsys.readouterr().err


def test_videos_belong_to_originals_of_the_same_name(tmp_path):
    for name in (
        "dubbed/a.mp4",
        "dubbed/b__es.mp4",
        "dubbed/c.mp4",
        "dubbed/notes.txt",
        "talks/a.mkv",
        "talks/b.mp4",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    pairs = pair_videos(tmp_path / "dubbed", tmp_path / "talks", tmp_path / "talks" / "a.mkv")
    assert [Path(pair.generated).name for pair in pairs] == ["a.mp4", "b__es.mp4", "c.mp4"]
    assert [pair.truth and Path(pair.truth).name for pair in pairs] == ["a.mkv", "b.mp4", None]
    assert {pair.silent for pair in pairs} == {str(tmp_path / "talks" / "a.mkv")}
    assert pair_videos(pairs[0]) == pairs[:1]
    assert (
        pair_videos(Pair(generated="x__my__es.mp4", truth="y"), tmp_path / "talks" / "b.mp4")[0].truth == "y"
    )
    (tmp_path / "dubbed" / "a__my__es.mp4").touch()
    assert pair_videos(tmp_path / "dubbed" / "a__my__es.mp4", tmp_path / "talks")[0].truth == pairs[0].truth
    with pytest.raises(UsageError, match=r"--truth.*c\.mp4"):
        pair_videos(tmp_path / "dubbed" / "c.mp4", tmp_path / "talks")
    with pytest.raises(UsageError):
        pair_videos(tmp_path)
    with pytest.raises(UsageError):
        Pair(generated="")


def test_lists_of_the_original(tmp_path):
    root, results = tmp_path / "lrs2", tmp_path / "results"
    for path in (root / "63/2.mp4", root / "c.mp4", results / "1.mp4", results / "2.mp4"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    lists = tmp_path / "lrs2.txt", tmp_path / "random_pairs.txt"
    lists[0].write_text("63/1 64/1\n63/1 63/2\n63/3 64/4\n")
    lists[1].write_text("a.mp4 b.mp4\nc.mp4 b.wav\nb.mp4 c.mp4\n")
    for filelist, truth in zip(lists, (root / "63/2.mp4", root / "c.mp4"), strict=True):
        pairs, missing = read_original_list(filelist, root, results)
        assert missing == [str(results / "0.mp4")]
        assert [pair.truth for pair in pairs] == [str(truth), None]
    (tmp_path / "bad.txt").write_text("63/1\n")
    with pytest.raises(UsageError, match="line 1"):
        read_original_list(tmp_path / "bad.txt", root, results)
    with pytest.raises(UsageError, match="no video"):
        read_original_list(lists[0], root, tmp_path)


def test_list_of_the_original_is_evaluated(talk, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    shutil.copy(talk, tmp_path / "results" / "1.mp4")
    (tmp_path / "lrs2.txt").write_text(f"a b\na {talk.stem}\n")
    words = ["--filelist", str(tmp_path / "lrs2.txt"), "--data_root", str(talk.parent), "--metrics", "timing"]
    code = main(
        ["evaluate", str(tmp_path / "results"), *words, "--device", "cpu", "--report", str(tmp_path / "r")]
    )
    report = json.loads((tmp_path / "r").read_text())
    assert code == 1 and report["missing"] == [str(tmp_path / "results" / "0.mp4")]
    assert report["videos"][0]["truth"] == str(talk)


def test_spans_of_a_batch_report_count_at_the_rate_of_the_video(tmp_path):
    rows = [
        {"job": str(tmp_path / name), "status": "ok", "unchanged_spans": [[15, 29, "skip"]]} for name in "ab"
    ]
    (tmp_path / "report.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = find_report(str(tmp_path), str(tmp_path / "b"))
    assert report is not None
    assert read_kept_spans(report, str(tmp_path / "b"), Fraction(30)) == [(0.5, 1.0)]
    assert read_kept_spans(report, str(tmp_path / "c"), Fraction(30)) is None
    (tmp_path / "c.json").write_text('{"outfile": "c", "fps": "25", "unchanged_spans": [[0, 24, "no_face"]]}')
    assert read_kept_spans(find_report(str(tmp_path), "c.mp4"), "c.mp4", Fraction(30)) == [(0.0, 1.0)]
    for text in (
        "no report",
        '{"outfile": "c", "fps": 0, "unchanged_spans": [[0, 24]]}',
        '{"outfile": "c", "fps": null, "unchanged_spans": [[0, 24]]}',
        '{"outfile": "c", "unchanged_spans": [[0], 1]}',
        "[" * 100_000,
    ):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(DataError, match=r"c\.json"):
            read_kept_spans(tmp_path / "c.json", "c.mp4", Fraction(30))


def test_means_of_lse_are_over_tracks():
    from wav2lip_npu.evaluation.frame_pair import Figure
    from wav2lip_npu.evaluation.published_judge import TrackScore
    from wav2lip_npu.evaluation.report import VideoEvaluation, figure_as_dict, mean_figures, shown

    def video(*scores):
        tracks = [TrackScore(0, 100, 95, d, 1, 0, []) for d in scores]
        return VideoEvaluation(
            video="a", truth=None, frames=1, faces=1, figures={}, skipped={}, tracks={"generated": tracks}
        )

    assert mean_figures([video(6, 8, 10), video(4)])["lse_d"].generated == 7
    assert shown(math.inf, 2) == "inf"
    assert figure_as_dict(Figure(math.inf, math.nan)) == {"generated": "inf", "truth": None}
