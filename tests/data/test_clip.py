"""Clips on disk: their windows, and damaged, malicious or read-only folders."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.clip_folders import write_original
from wav2lip_npu.data import clip as clips
from wav2lip_npu.data import face_reader
from wav2lip_npu.data.clip import Clip, ClipError, first_column, read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.mel import log_mel
from wav2lip_npu.storage import npy

NAME = 'speaker 1/it\'s "good" & 100 %'


def write_preprocessed(folder: Path, **changes) -> Path:
    """Write a folder with a clip.json, like `preprocess`."""
    write_original(folder, 30, side=100)
    content = {"format": 1, "frames": [*range(30)], "cuts": [], "mel": clips._MEL_SETTINGS} | changes
    (folder / "clip.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_original(tmp_path / NAME, 20, side=130)


def a_clip(frames, cuts=(), columns=1000, offset=0) -> Clip:
    return Clip("clip", Path(), np.array(frames, np.int64), np.array(cuts, np.int64), columns, offset)


def windows_by_hand(frames: list[int], cuts: list[int], columns: int, shift: int) -> list[int]:
    """Return the windows by the original's rules, frame by frame; with a shift, also those of each frame."""
    found = []
    for at, f in enumerate(frames):
        window = range(f, f + 5)
        if not all(n in frames for n in window):
            continue
        if any(f < cut <= f + 4 for cut in cuts):
            continue
        begins = [int(80.0 * (f / 25.0))]
        if shift:
            begins += [int(80.0 * ((n + shift) / 25.0)) if n + shift >= 0 else -1 for n in window]
        if all(begin >= 0 and begin + 16 <= columns for begin in begins):
            found.append(at)
    return found


@settings(max_examples=300, deadline=None)
@given(
    frames=st.lists(st.integers(0, 60), unique=True).map(sorted)
    | st.sets(st.integers(0, 60), max_size=6).map(lambda gone: [n for n in range(61) if n not in gone]),
    cuts=st.sets(st.integers(1, 60), max_size=4).map(sorted),
    columns=st.integers(0, 220),
    shift=st.sampled_from([0, -1, -1, -2, 1, 7]),
)
def test_windows_follow_the_rules_of_the_original(frames, cuts, columns, shift):
    found = a_clip(frames, cuts, columns).windows(shift)
    assert found.tolist() == windows_by_hand(frames, cuts, columns, shift)


@given(st.integers(0, 200_000))
def test_first_column_matches_the_float_formula_of_the_original(frame):
    assert first_column(frame) == int(80.0 * (frame / 25.0))


def test_windows_before_the_audio_are_left_out():
    clip = a_clip(range(-3, 30), offset=-3)
    assert clip.frames[clip.windows()].min() == 0
    assert clip.frames[clip.windows(-1)].min() == 1


def test_windows_are_computed_once_and_read_only():
    clip = a_clip(range(30))
    assert clip.windows(-1) is clip.windows(-1)
    assert len(clip.windows(0)) == len(clip.windows(-1)) + 1
    with pytest.raises(ValueError):
        clip.windows(0)[0] = 5


# Content of a folder


def test_folder_written_by_the_original_is_a_clip(folder):
    for gone in ("3", "11"):
        (folder / f"{gone}.jpg").unlink()
    for other in ("007.jpg", "x.jpg", "-1.jpg", "1.jpeg", "2.jpg.part", "٣.jpg"):
        (folder / other).write_bytes(b"not a frame of the clip")
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2))
    soundfile.write(folder / "audio.wav", stereo, 44_100)
    clip = read_clip(NAME, folder)
    assert clip.frames.tolist() == [n for n in range(20) if n not in (3, 11)]
    assert clip.columns == 81
    expected = log_mel(read_audio(folder / "audio.wav"))
    np.testing.assert_array_equal(clip.mel(), expected)
    np.testing.assert_array_equal(np.load(folder / "mel.npy"), expected)
    assert clip.held_mel is None
    (folder / "audio.wav").unlink()  # not needed again
    np.testing.assert_array_equal(read_clip(NAME, folder).mel(), expected)


def test_clip_json_lists_frames_and_cuts(tmp_path):
    frames = [*range(3, 12), *range(14, 30)]
    clip = read_clip("clip", write_preprocessed(tmp_path / "clip", frames=frames, cuts=[20]))
    assert clip.frames.tolist() == frames
    assert clip.shots.tolist() == [0] * 15 + [1] * 10
    assert clip.seconds == pytest.approx(30 / 25, abs=0.02)


def rejected(folder: Path) -> str:
    with pytest.raises(ClipError) as caught:
        read_clip("clip", folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(("frames_written", "usable"), [(0, False), (15, False), (16, True)])
def test_clips_need_16_frames(tmp_path, frames_written, usable):
    folder = write_original(tmp_path / "clip", frames_written)
    soundfile.write(folder / "audio.wav", np.zeros(16_000), 16_000)
    if usable:
        assert len(read_clip("clip", folder).frames) == frames_written
    else:
        assert rejected(folder) == "too few pictures"


def test_missing_folder(tmp_path):
    assert rejected(tmp_path / "nothing") == "no such file or directory"
    assert rejected(tmp_path / ("long" * 100)) == "file name too long"


def test_missing_or_damaged_audio(folder):
    (folder / "audio.wav").write_bytes(b"RIFF no audio")
    assert rejected(folder) == "unreadable sound"
    soundfile.write(folder / "audio.wav", np.zeros(300), 16_000)
    assert rejected(folder) == "too little sound"
    (folder / "audio.wav").unlink()
    assert rejected(folder) == "no sound"
    assert not list(folder.glob("mel.npy*"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "other format"),
        ({"mel": {}}, "other mel settings"),
        ({"mel": None}, "other mel settings"),
        ({"frames": None}, "damaged"),
        ({"frames": [*range(16), 3]}, "damaged"),
        ({"frames": [*range(16), 16]}, None),
        ({"frames": [-1, *range(16)]}, "damaged"),
        ({"frames": [*range(16), 10**40]}, "damaged"),
        ({"frames": [True, *range(2, 20)]}, "damaged"),
        ({"frames": [*range(16), 17.0]}, "damaged"),
        ({"frames": [[1]] * 20}, "damaged"),
        ({"frames": {"0": 1}}, "damaged"),
        ({"cuts": "none"}, "damaged"),
        ({"cuts": [3, 3]}, "damaged"),
    ],
)
def test_clip_json_is_not_trusted(tmp_path, changes, reason):
    folder = write_preprocessed(tmp_path / "clip", **changes)
    if reason is None:
        assert len(read_clip("clip", folder).frames) == 17
    else:
        assert rejected(folder) == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"format": ' + b"9" * 10_000 + b"}", "damaged"),
        (b"[]", "other format"),
        (b"null", "other format"),
    ],
)
def test_clip_json_of_any_bytes(tmp_path, content, reason):
    folder = write_preprocessed(tmp_path / "clip")
    (folder / "clip.json").write_bytes(content)
    assert rejected(folder) == reason


# Arrays on disk


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def with_header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode() + data


def saved(array: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def hostile(good: np.ndarray) -> dict[str, bytes]:
    """Return damaged versions of a valid array file, by defect."""
    shape = good.shape
    return {
        "empty": b"",
        "text": b"hello",
        "cut off": saved(good)[:-1],
        "longer": saved(good) + b"\0",
        "header only": saved(good)[:128],
        "another shape": saved(good[:, :-1]),
        "no numbers": saved(np.full(shape, np.nan)),
        "turned": saved(np.asfortranarray(good)),
        "big-endian": saved(good.astype(">f4")),
        "pickle": pickle.dumps(Bomb()),
        "pickled objects": saved(np.array([Bomb()] * 3, object)),
        "zip": b"PK\x03\x04" + saved(good),
        "huge": with_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**9}, {10**9}), }}\n"),
        "huge header": with_header("{" * 60_000, bytes(60_000)),
        "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(1000),
        "code": with_header("{'descr': __import__('os').system('touch exploded')}\n"),
        "negative": with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 96, 96, 3), }\n"),
    }


KINDS = sorted(hostile(np.zeros((2, 3))))


@settings(max_examples=60, deadline=None)
@example(shape=(80, 4000), kind="<f4")
@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple), kind=st.sampled_from(["u1", "<f4"])
)
def test_saved_arrays_are_read(tmp_path_factory, shape, kind):
    path = tmp_path_factory.getbasetemp() / "array.npy"
    array = np.random.default_rng(0).integers(255, size=shape).astype(kind)
    path.write_bytes(saved(array))
    found = npy.read(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert npy.data_offset(path, kind, shape) == len(saved(array)) - array.nbytes
    if kind == "u1":
        assert saved(array).startswith(npy.make_header(shape))
    with pytest.raises(ValueError):
        npy.data_offset(path, kind, (*shape, 1))


@settings(max_examples=200, deadline=None)
@given(byte_offset=st.integers(0, 135), byte=st.integers(0, 255))
def test_any_byte_of_a_header_may_be_damaged(tmp_path_factory, byte_offset, byte):
    path = tmp_path_factory.getbasetemp() / "changed.npy"
    content = bytearray(saved(np.zeros((4, 6), np.float32)))
    content[byte_offset] = byte
    path.write_bytes(content)
    try:
        found = npy.read(path)
    except ValueError:
        return
    assert found.nbytes == 96


# Faces


def faces_of(folder: Path) -> np.ndarray:
    """Decode all faces of a clip."""
    clip = read_clip("clip", folder)
    return FaceReader(cache=False)(clip, 0, len(clip.frames))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("side", [(96, 96), (130, 130), (61, 75), (96, 200), (1, 1)])
def test_jpegs_of_any_size_become_96_px_faces(folder, side):
    image = np.random.default_rng(1).integers(255, size=(*side, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "4.jpg"), image)
    face = read_clip("clip", folder).face(4)
    assert face.shape == (96, 96, 3) and face.dtype == np.uint8
    if side == (96, 96):
        np.testing.assert_array_equal(face, cv2.imread(str(folder / "4.jpg")))


def test_cache_holds_the_faces_of_the_jpegs(folder, caplog):
    expected = faces_of(folder)
    clip, reader = read_clip("clip", folder), FaceReader()
    np.testing.assert_array_equal(reader(clip, 3), expected[3:8])
    np.testing.assert_array_equal(np.load(folder / "faces96.npy"), expected)
    (folder / "5.jpg").write_bytes(b"broken later")
    np.testing.assert_array_equal(reader(clip, 3), expected[3:8])
    np.testing.assert_array_equal(FaceReader()(clip, 18, 5), expected[18:])
    at = np.array([[4, 5], [0, 19], [4, 4]])
    np.testing.assert_array_equal(reader.pick(clip, at), expected[at])
    np.testing.assert_array_equal(reader.pick(clip, at, 48), expected[at][..., 48:, :, :])
    assert not warnings_of(caplog) and not list(folder.glob("*.part"))


def test_without_a_cache_nothing_is_written(folder):
    clip = read_clip("clip", folder)
    before = sorted(os.listdir(folder))
    FaceReader(cache=False)(clip, 0)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("kind", [*KINDS, "another count", "other faces"])
def test_damaged_cache_is_replaced(folder, kind, caplog, monkeypatch):
    monkeypatch.chdir(folder)
    expected = faces_of(folder)
    wrong = hostile(expected) | {
        "another count": saved(expected[1:]),
        "other faces": saved(255 - expected),
    }
    (folder / "faces96.npy").write_bytes(wrong[kind])
    reader = FaceReader()
    for _ in range(2):
        np.testing.assert_array_equal(reader(read_clip("clip", folder), 7), expected[7:12])
    np.testing.assert_array_equal(np.load(folder / "faces96.npy"), expected)
    assert len(warnings_of(caplog)) == 1
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize("how", ["cut off", "removed"])
def test_cache_may_be_removed_while_in_use(folder, how, caplog):
    expected = faces_of(folder)
    clip, reader = read_clip("clip", folder), FaceReader()
    reader(clip, 0)
    if how == "removed":
        (folder / "faces96.npy").unlink()
    else:
        os.truncate(folder / "faces96.npy", 300_000)
    for _ in range(3):
        np.testing.assert_array_equal(reader(clip, 9), expected[9:14])
    assert len(warnings_of(caplog)) == 1


def forbid(*_args, **_options):
    raise PermissionError(30, "Read-only file system", "part")


def test_read_only_folders_are_read_without_a_cache(tmp_path, caplog, monkeypatch):
    folders = [write_original(tmp_path / name, 16) for name in "abc"]
    expected = [faces_of(folder)[2:7] for folder in folders]
    FaceReader()(read_clip("c", folders[2]), 0)
    monkeypatch.setattr(face_reader, "replacing", forbid)
    reader = FaceReader()
    for folder, faces in zip(folders, expected, strict=True):
        np.testing.assert_array_equal(reader(read_clip("clip", folder), 2), faces)
    assert len(warnings_of(caplog)) == 1  # not one per clip
    assert [(folder / "faces96.npy").exists() for folder in folders] == [False, False, True]


def test_cache_leaves_disk_space_free(folder, caplog, monkeypatch):
    expected = faces_of(folder)
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    np.testing.assert_array_equal(FaceReader()(read_clip("clip", folder), 2), expected[2:7])
    assert not (folder / "faces96.npy").exists()
    assert "almost full" in warnings_of(caplog)[0]


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


@pytest.mark.parametrize("how", [Path.unlink, cut_off, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\xff\xd8\xff\xd9")])  # fmt: skip
@pytest.mark.parametrize("cache", [True, False])
def test_damaged_jpeg_affects_only_its_windows(folder, how, cache, caplog):
    expected = faces_of(folder)
    clip = read_clip("clip", folder)
    how(folder / "8.jpg")
    reader = FaceReader(cache=cache)
    for at in range(16):
        if at <= 8 < at + 5:
            with pytest.raises(ClipError, match=r"8\.jpg") as caught:
                reader(clip, at)
            assert caught.value.reason == "unreadable picture"
        else:
            np.testing.assert_array_equal(reader(clip, at), expected[at : at + 5])
    assert not warnings_of(caplog)  # the caller got the error
    assert not list(folder.glob("faces96*"))


def test_removed_folder_is_not_recreated(folder):
    clip = read_clip("clip", folder)
    shutil.rmtree(folder)
    with pytest.raises(ClipError):
        FaceReader()(clip, 0)
    assert not folder.exists()


def test_threads_may_share_a_reader(folder):
    expected = faces_of(folder)
    clip, reader = read_clip("clip", folder), FaceReader()
    with ThreadPoolExecutor(8) as pool:
        for at, faces in zip(range(16), pool.map(lambda at: reader(clip, at), range(16)), strict=True):
            np.testing.assert_array_equal(faces, expected[at : at + 5])
    assert not list(folder.glob("*.part"))


# Mels


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_mel_is_computed_in_memory(folder, kind, caplog, monkeypatch):
    monkeypatch.chdir(folder)
    expected = log_mel(read_audio(folder / "audio.wav"))
    wrong = hostile(expected)[kind]
    if kind == "another shape":
        wrong = saved(expected[1:])  # any number of columns is valid
    (folder / "mel.npy").write_bytes(wrong)
    clip = read_clip("clip", folder)
    np.testing.assert_array_equal(clip.mel(), expected)
    assert (folder / "mel.npy").read_bytes() == wrong, "it may be a foreign file"
    assert len(warnings_of(caplog)) == 1
    assert not (folder / "exploded").exists()


def test_mel_that_cannot_be_saved_is_held_in_memory(folder, monkeypatch):
    monkeypatch.setattr(clips, "replacing", forbid)
    clip = read_clip("clip", folder)
    assert clip.held_mel is not None
    np.testing.assert_array_equal(clip.mel(), log_mel(read_audio(folder / "audio.wav")))
    assert not (folder / "mel.npy").exists()


@pytest.mark.parametrize("how", ["cut off", "removed", "shorter"])
def test_mel_that_is_removed_later_raises(folder, how):
    clip = read_clip("clip", folder)
    mel = np.load(folder / "mel.npy")
    if how == "shorter":
        np.save(folder / "mel.npy", mel[:, :-1])
    elif how == "removed":
        (folder / "mel.npy").unlink()
    else:
        os.truncate(folder / "mel.npy", 5000)
    with pytest.raises(ClipError, match=r"mel\.npy"):
        clip.mel()
