"""Locks of folders."""

from __future__ import annotations

import pytest

from wav2lip_npu.storage.locks import lock_folder


def test_second_lock_fails_until_the_first_is_released(tmp_path):
    with lock_folder(tmp_path) as first:
        assert first
        with lock_folder(tmp_path) as second:
            assert not second
    with lock_folder(tmp_path) as third:
        assert third


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError), lock_folder(tmp_path / "none"):
        pass
