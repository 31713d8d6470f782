"""Untrusted clips: file types and sizes are checked before a file is opened, read or decoded."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from support.clip_folders import write_clip, write_original
from wav2lip_npu.data.clip import Clip, ClipError, read_clip
from wav2lip_npu.data.clip_files import read_face
from wav2lip_npu.data.clip_writer import read_description
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.doctor.clip_stats import measure_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip", 24)


def use(folder: Path) -> Clip:
    """Use a clip as training and doctor do. Raises `ClipError`."""
    clip = read_clip("clip", folder)
    clip.mel()
    clip.face(12)
    FaceReader()(clip, 3)
    return clip


def replaced(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "terabyte"])
@pytest.mark.parametrize("name", ["clip.json", "12.jpg", "mel.npy", "audio.wav", "faces96.npy"])
def test_other_file_types_in_a_clip(folder, name, kind):
    """A9: special or oversized files are never read."""
    use(folder)
    (folder / "audio.wav").touch()
    replaced(folder / name, kind)
    if name in ("clip.json", "12.jpg"):
        with pytest.raises(ClipError) as caught:
            use(folder)
        assert str(folder / name) in str(caught.value)
    elif name == "mel.npy":  # it is computed from the audio
        with pytest.raises(ClipError):
            (folder / "audio.wav").unlink()
            use(folder)
    else:
        use(folder)
    if name == "12.jpg":
        assert measure_clip(read_clip("clip", folder), False).error is not None
    if name == "clip.json":
        assert read_description(folder) is None


def bomb(size: tuple[int, int]) -> bytes:
    """Return a small JPEG whose header claims a large image."""
    _, encoded = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))
    content = bytearray(encoded.tobytes())
    start = content.find(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", *size)
    return bytes(content)


@pytest.mark.parametrize("size", [(65_500, 65_500), (60_000, 2_000), (0, 16)])
def test_face_that_claims_a_large_size(folder, size):
    """A8: sizes are checked before memory is allocated."""
    (folder / "12.jpg").write_bytes(bomb(size))
    with pytest.raises(ClipError, match=r"12\.jpg: it has [\d,]+ pixels"):
        read_clip("clip", folder).face(12)


def test_png_bomb_and_other_formats_as_face(folder):
    _, png = cv2.imencode(".png", np.full((120, 120, 3), 77, np.uint8))
    (folder / "12.jpg").write_bytes(png.tobytes())
    assert (read_clip("clip", folder).face(12) == 77).all()
    large = bytearray(png.tobytes())
    large[16:24] = struct.pack(">II", 50_000, 50_000)
    for content in (
        bytes(large),
        b"",
        b"GIF89a",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff" * 100 + b"\xff\xd9",
    ):
        (folder / "12.jpg").write_bytes(content)
        with pytest.raises(ClipError):
            read_clip("clip", folder).face(12)


def test_size_of_a_jpeg_with_all_kinds_of_segments(tmp_path):
    for flags in (
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        [cv2.IMWRITE_JPEG_QUALITY, 3],
    ):
        cv2.imwrite(str(tmp_path / "x.jpg"), np.full((40, 30, 3), 99, np.uint8), flags)
        content = (tmp_path / "x.jpg").read_bytes()
        comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xc0ab"
        (tmp_path / "x.jpg").write_bytes(content[:2] + comment + b"\xff" + content[2:])
        assert read_face(tmp_path / "x.jpg").shape == (40, 30, 3)


HOSTILE = {
    "nested": b"[" * 200_000,
    "nested in frames": b'{"format": 1, "frames": ' + b"[" * 200_000,
    "number of a million digits": b'{"format": ' + b"9" * 1_000_000 + b"}",
    "bytes": b"\xff\xfe\0",
    "null": b"null",
    "infinity": b'{"format": 1e999}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_description(folder, name):
    (folder / "clip.json").write_bytes(HOSTILE[name])
    with pytest.raises(ClipError, match=r"clip\.json") as caught:
        read_clip("clip", folder)
    assert len(str(caught.value)) < 300 + len(str(folder))
    assert read_description(folder) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": {"a": 1}},
        {"boxes": [[1, 2], [3]]},
        {"boxes": "x"},
        {"boxes": [[1e308, -1e308, 1e308, 1e308]] * 3},
        {"source": []},
        {"source": {"fps": "1/0"}},
        {"source": {"fps": "1e999999999"}},
        {"source": {"fps": [1]}},
        {"source": None, "options": None, "fps": 0},
        {"options": [1]},
    ],
)
def test_other_entries_of_a_description_are_ignored(folder, changes):
    content = json.loads((folder / "clip.json").read_text()) | changes
    (folder / "clip.json").write_text(json.dumps(content))
    stats = measure_clip(read_clip("clip", folder), False)
    assert stats.frames == 24
    read_description(folder)


def test_folder_without_permission_is_reported(tmp_path, monkeypatch):
    """A11: an unreadable folder is a `ClipError`, not a traceback."""
    folder = write_original(tmp_path / "clip", 20)
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(denied))
    with pytest.raises(ClipError, match="permission denied"):
        read_clip("clip", folder)
