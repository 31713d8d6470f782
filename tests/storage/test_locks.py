"""Locks of folders."""

from __future__ import annotations

import pytest

from wav2lip_npu.errors import OutputError
from wav2lip_npu.storage.locks import lock_folder


def test_second_lock_fails_until_the_first_is_released(tmp_path):
    with lock_folder(tmp_path) as first:
        assert first
        with lock_folder(tmp_path) as second:
            assert not second
    with lock_folder(tmp_path) as third:
        assert third


def test_missing_folder_is_created(tmp_path):
    with lock_folder(tmp_path / "new" / "deep") as is_locked:
        assert is_locked


def test_folder_that_cannot_be_used_raises(tmp_path):
    """A11: the error names a folder that cannot be created or read."""
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with pytest.raises(OutputError, match=name), lock_folder(tmp_path / name):
            pass
