"""Untrusted files: FIFOs and devices are not opened, large files are not read."""

from __future__ import annotations

import os

import pytest

from wav2lip_npu.storage.regular_files import descriptor_of, open_regular, read_limited


def test_regular_file_and_link(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc"
        assert read_limited(tmp_path / name, 3) == b"abc"


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "link to a FIFO"])
def test_other_types_are_refused(kind, tmp_path):
    """A9: a FIFO is refused at once."""
    path = tmp_path / "x"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link to a FIFO":
        os.mkfifo(tmp_path / "y")
        path.symlink_to("y")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for call in (open_regular, descriptor_of, lambda path: read_limited(path, 10)):
        with pytest.raises(OSError, match="directory" if kind == "folder" else kind.split()[-1]) as caught:
            call(path)
        assert caught.value.filename == str(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_size_is_checked_before_reading(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes"):
        read_limited(tmp_path / "x", 1000)
