"""Videos below a folder, and names of their clips."""

from __future__ import annotations

import os

import pytest

from wav2lip_npu.errors import DataError
from wav2lip_npu.preprocessing.find_videos import find_videos


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def clips(root, out="out"):
    return {video.name: video.clip for video in find_videos(root, root / out)}


def test_clips_mirror_paths_at_any_depth(tmp_path):
    touch(
        tmp_path,
        "main/00001.mp4",
        "main/6330/00011.mp4",
        "x.MOV",
        "a/b/c/d.MpG",
        "main/6330/00011.txt",
        "a/._b.mp4",
        "c.jpg",
    )
    assert clips(tmp_path) == {
        "main/00001.mp4": "main/00001",
        "main/6330/00011.mp4": "main/6330/00011",
        "x.MOV": "x",
        "a/b/c/d.MpG": "a/b/c/d",
    }


def test_ambiguous_names_keep_their_suffix(tmp_path):
    touch(
        tmp_path,
        "a.mp4",
        "a.avi",
        "a.mp4.mkv",
        "b.mp4",
        "b/c.mp4",
        "d.mp4",
        "d.partial.mp4",
        "s/a.mp4",
        "e.f.mp4",
        "g.mp4",
        "g/h/i.mp4",
    )
    found = clips(tmp_path)
    assert found == {
        "a.mp4": "a.mp4",
        "a.avi": "a.avi",
        "a.mp4.mkv": "a.mp4.mkv",
        "b.mp4": "b.mp4",
        "b/c.mp4": "b/c",
        "d.mp4": "d",
        "d.partial.mp4": "d.partial.mp4",
        "s/a.mp4": "s/a",
        "e.f.mp4": "e.f",
        "g.mp4": "g.mp4",
        "g/h/i.mp4": "g/h/i",
    }


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "data/real/a.mp4", "elsewhere/b.mp4", "elsewhere/deep/c.mp4")
    data = tmp_path / "data"
    os.symlink(data, data / "real" / "loop")
    os.symlink(tmp_path / "elsewhere", data / "linked")
    os.symlink(tmp_path / "elsewhere", data / "linked again")
    os.symlink(data / "real", data / "aaa")
    os.symlink(data / "nowhere", data / "broken")
    os.symlink(data / "real" / "a.mp4", data / "file.mp4")
    assert sorted(clips(data)) == ["file.mp4", "linked/b.mp4", "linked/deep/c.mp4", "real/a.mp4"]


def test_link_to_itself_is_a_video_that_cannot_be_read(tmp_path):
    """A10: it is listed and fails with a reason; the other videos are processed."""
    touch(tmp_path, "a.mp4")
    os.symlink("self.mp4", tmp_path / "self.mp4")
    os.symlink("folder", tmp_path / "folder")
    assert list(clips(tmp_path)) == ["a.mp4", "self.mp4"]


def test_folder_of_the_clips_is_skipped(tmp_path):
    touch(tmp_path, "a.mp4", "out/x/b.mp4")
    assert list(clips(tmp_path)) == ["a.mp4"]
    assert list(clips(tmp_path, ".")) == ["a.mp4", "out/x/b.mp4"]


def test_undecodable_names(tmp_path):
    name = os.fsdecode(b"\xff\xfe.mp4")
    touch(tmp_path, name)
    assert clips(tmp_path) == {name: os.fsdecode(b"\xff\xfe")}


def test_no_folder_and_no_video(tmp_path):
    with pytest.raises(DataError, match=r"none is not a folder.*--data_root"):
        find_videos(tmp_path / "none", tmp_path / "out")
    touch(tmp_path, "a.txt")
    with pytest.raises(DataError, match="--data_root"):
        find_videos(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="is not a folder"):
        find_videos(tmp_path / "a.txt", tmp_path / "out")
