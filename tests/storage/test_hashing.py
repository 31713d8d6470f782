"""SHA-256 of files: computed once per process, and again after a change."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from wav2lip_npu.storage import hashing


@pytest.fixture
def reads(monkeypatch):
    """Paths that were read, in order."""
    paths = []
    read = hashing._read

    def counted(path):
        paths.append(os.fspath(path))
        return read(path)

    monkeypatch.setattr(hashing, "_read", counted)
    return paths


def test_hash_is_sha256_and_the_file_is_read_once(tmp_path, reads):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x" * 3_000_000)
    link = tmp_path / "link.pth"
    link.symlink_to(path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [hashing.sha256_of(name) for name in (path, str(path), link)] == [expected] * 3
    assert len(reads) == 1


def test_changed_file_is_read_again(tmp_path, reads):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = hashing.sha256_of(path)
    os.utime(path, ns=(1, 1))
    assert hashing.sha256_of(path) == first
    path.write_bytes(b"other")
    assert hashing.sha256_of(path) == hashlib.sha256(b"other").hexdigest()
    assert len(reads) == 3


def test_file_that_changes_during_the_read_is_not_remembered(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    read = hashing._read

    def slow(name):
        digest = read(name)
        os.utime(name, ns=(5, 5))
        return digest

    monkeypatch.setattr(hashing, "_read", slow)
    state = hashing.state_of(path)
    hashing.sha256_of(path)
    assert state not in hashing._hashes


def test_threads_share_one_read(tmp_path, reads):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1_000_000)
    threads = [threading.Thread(target=hashing.sha256_of, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1


def test_remembered_hash_is_used_without_reading(tmp_path, reads):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    hashing.remember(hashing.state_of(path), "ab" * 32)
    assert hashing.sha256_of(path) == "ab" * 32 and reads == []


def test_missing_file_raises_oserror(tmp_path):
    with pytest.raises(OSError):
        hashing.sha256_of(tmp_path / "none")
