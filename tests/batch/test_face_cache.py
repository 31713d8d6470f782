"""The face cache: keys by content and settings, sharing between processes, size limit."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wav2lip_npu.batch.face_cache import FaceCache, faces_key
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.faces.memory import COLUMNS, FaceMemory
from wav2lip_npu.media.geometry import Geometry


def memory_of(count: int, *, is_complete: bool = True) -> FaceMemory:
    """Return a memory with new faces, frames without a face and cuts."""
    rows = np.random.default_rng(count).uniform(0, 900, (count, COLUMNS)).astype(np.float32)
    rows[:, 4] = np.arange(count) % 7 == 0
    rows[::5, :4] = rows[::5, 5:] = np.nan
    memory = FaceMemory(rows, is_complete=is_complete)
    memory._at_start = (0, False)
    return memory


def test_stored_faces_are_read_back(tmp_path):
    cache = FaceCache(tmp_path / "created")
    for count, is_complete in ((1, True), (50, True), (30, False)):
        cache.write(f"k{count}", memory_of(count, is_complete=is_complete))
        back = cache.read(f"k{count}")
        np.testing.assert_array_equal(back.to_array(), memory_of(count).to_array())
        assert back.is_complete is is_complete
        assert not back.has_grown
    assert len(cache.read("other").to_array()) == 0


def test_cache_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    off = FaceCache.at("off")
    off.write("k", memory_of(3))
    assert len(off.read("k").to_array()) == 0
    assert not list(tmp_path.iterdir())
    FaceCache.at(None).write("k", memory_of(3))
    assert [path.name for path in tmp_path.glob("wav2lip-npu/faces/*")] == ["k.faces"]
    FaceCache.at(str(tmp_path / "here")).write("k", memory_of(3))
    assert (tmp_path / "here" / "k.faces").exists()


def test_unchanged_memory_is_not_written(tmp_path):
    cache = FaceCache(tmp_path)
    cache.write("k", FaceMemory())
    cache.write("k", FaceMemory(memory_of(5).to_array(), is_complete=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"text", b'{"crc32": 0}\nabc', b"[1]\n", b'{"crc32"\xff'])
def test_damaged_files_are_ignored_and_replaced(tmp_path, caplog, damage):
    cache = FaceCache(tmp_path)
    (tmp_path / "k.faces").write_bytes(damage)
    assert len(cache.read("k").to_array()) == 0
    assert "k.faces is ignored" in caplog.text
    cache.write("k", memory_of(4))
    assert len(cache.read("k").to_array()) == 4


def test_flipped_bits_are_detected(tmp_path):
    cache = FaceCache(tmp_path)
    cache.write("k", memory_of(20))
    content = bytearray((tmp_path / "k.faces").read_bytes())
    content[-3] ^= 4
    (tmp_path / "k.faces").write_bytes(content)
    assert len(cache.read("k").to_array()) == 0


def test_least_recently_used_files_are_removed(tmp_path):
    cache = FaceCache(tmp_path, max_bytes=3 * 6050)
    for number in range(3):
        cache.write(f"k{number}", memory_of(100))
        os.utime(tmp_path / f"k{number}.faces", (number, number))
    (tmp_path / "foreign file").write_bytes(b"x" * 10_000)
    cache.read("k0")  # used again
    cache.write("k3", memory_of(100))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"k0.faces", "k2.faces", "k3.faces", "foreign file"}


def test_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = FaceCache(tmp_path / "file")
    cache.write("k", memory_of(3))
    assert "cannot store faces" in caplog.text
    assert len(cache.read("k").to_array()) == 0


def write_many(folder: Path, seed: int) -> None:
    cache = FaceCache(folder, max_bytes=10_000)
    for number in range(60):
        count = 50 + (number + seed) % 3
        cache.write(f"k{count}", memory_of(count))
        assert len(cache.read(f"k{50 + number % 3}").to_array()) in (0, 50 + number % 3)


def test_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(tmp_path, seed)) for seed in (1,)]
    for process in processes:
        process.start()
    write_many(tmp_path, 0)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert all(path.suffix == ".faces" for path in tmp_path.iterdir())


def test_key_depends_on_everything_that_changes_boxes():
    plain = DubOptions()
    same = [
        replace(plain, blend="hard"),
        replace(plain, extend="hold", mel_shift=2.0),
        replace(plain, faces=FaceOptions(no_face="error", face_det_batch_size=2)),
    ]
    others = [
        replace(plain, static=True),
        replace(plain, faces=FaceOptions(pads=(0, 0, 0, 0))),
        replace(plain, faces=FaceOptions(face_select="left")),
        replace(plain, faces=FaceOptions(nosmooth=True)),
        replace(plain, geometry=Geometry(rotate=True)),
        replace(plain, geometry=Geometry(crop=(0, 100, 0, 100))),
    ]
    wanted = faces_key("a", "hog", plain)
    assert {faces_key("a", "hog", options) for options in same} == {wanted}
    keys = {faces_key("a", "hog", options) for options in others}
    keys |= {faces_key("b", "hog", plain), faces_key("a", "s3fd", plain), wanted}
    assert len(keys) == len(others) + 3
