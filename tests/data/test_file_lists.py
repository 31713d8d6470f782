"""File lists: read as the original reads them, with any name that a file system allows."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wav2lip_npu.data.clip_index import clip_folder, is_clip_folder
from wav2lip_npu.data.file_lists import (
    Entry,
    missing_entries,
    read_list,
    read_names,
    split_names,
    write_list,
    write_split,
)
from wav2lip_npu.errors import DataError

# File systems allow any bytes but 0 and the slash between folders.
part = (
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: os.fsdecode(raw.replace(b"\0", b"_").replace(b"/", b" ")))
    .filter(lambda text: text not in (".", ".."))
)
awkward = st.sampled_from(
    ['a "b"', "it's", "a\nb", "a;b", " lead", "\u2028", "\ufeff", '"', "ünï", "\udcff", "#a", "\\"]
)
file_name = st.lists(part | awkward, min_size=1, max_size=3).map("/".join)


@given(st.lists(file_name, min_size=2, max_size=20, unique=True))
def test_any_file_name_round_trips(names):
    with tempfile.TemporaryDirectory() as folder:
        write_split(folder, names)
        train, val = (read_names(Path(folder) / name) for name in ("train.txt", "val.txt"))
        assert sorted(train + val) == sorted(names)
        for text in (Path(folder) / "train.txt", Path(folder) / "val.txt"):
            text.read_bytes().decode("utf-8")


speaker = st.integers(1, 40)


@given(st.lists(speaker, min_size=2, max_size=30), st.integers(0, 9))
def test_speakers_are_not_split_between_lists(sizes, seed):
    names = [f"main/{who:03}/{i:05}" for who, size in enumerate(sizes) for i in range(size)]
    train, val = split_names(names, seed)
    assert sorted(train + val) == names
    assert train
    assert 1 <= len(val) <= max(0.05 * len(names), min(sizes))
    assert not {name.rpartition("/")[0] for name in train} & {name.rpartition("/")[0] for name in val}


@given(st.integers(0, 400), st.integers(0, 9))
def test_one_folder_is_split_by_clip(count, seed):
    names = [f"main/{i:05}" for i in range(count)]
    train, val = split_names(names, seed)
    assert sorted(train + val) == names
    assert len(val) == (max(1, round(count * 0.05)) if count > 1 else 0)


def test_split_depends_on_the_seed_and_not_on_the_order():
    names = [f"s/{i}" for i in range(100)]
    assert split_names(names, 1) == split_names(names[::-1], 1)
    assert split_names(names, 1) != split_names(names, 2)


def test_lists_of_the_original_are_read(tmp_path):
    path = tmp_path / "test.txt"
    path.write_bytes(b'\xef\xbb\xbf6330/00011 NF\r\n\r\n  \n6330/00012\tMV 3\n"a b/1" NF\nunquoted\xff/2')
    assert read_names(path) == ["6330/00011", "6330/00012", "a b/1", "unquoted\udcff/2"]


def test_names_are_quoted_only_where_needed(tmp_path):
    write_split(tmp_path, ["a/1", "ü/2", "a b/3", 'say "hi"/4'])
    text = (tmp_path / "train.txt").read_text() + (tmp_path / "val.txt").read_text()
    assert sorted(text.splitlines()) == sorted(["a/1", "ü/2", '"a b/3"', '"say \\"hi\\"/4"'])


def test_missing_or_damaged_list(tmp_path):
    with pytest.raises(DataError, match="no file list .*train.txt.*preprocess"):
        read_names(tmp_path / "train.txt")
    with pytest.raises(DataError, match="cannot read"):
        read_names(tmp_path)
    (tmp_path / "bad.txt").write_text('fine\n"no end')
    with pytest.raises(DataError, match="bad.txt, line 2"):
        read_names(tmp_path / "bad.txt")


def test_existing_lists_are_not_overwritten(tmp_path):
    names = [f"s/{i:02}" for i in range(40)]
    assert [path.name for path in write_split(tmp_path, names)] == ["train.txt", "val.txt"]
    both = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert write_split(tmp_path, [*names, "s/new"]) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == both
    for name in both:
        (tmp_path / name).unlink()
        assert [path.name for path in write_split(tmp_path, names)] == [name]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == both


def test_new_list_shares_no_clip_with_an_existing_one(tmp_path):
    names = [f"s/{i:02}" for i in range(40)]
    (tmp_path / "val.txt").write_text("s/00 note\ns/39\n")
    write_split(tmp_path, names)
    assert read_names(tmp_path / "train.txt") == names[1:-1]
    (tmp_path / "val.txt").unlink()
    (tmp_path / "train.txt").write_text("\n".join(names))
    assert write_split(tmp_path, names) == []


def test_lists_of_no_clip_and_of_one_clip(tmp_path):
    assert write_split(tmp_path, []) == []
    assert [path.name for path in write_split(tmp_path, ["a"])] == ["train.txt"]


def test_missing_entries_are_reported(tmp_path):
    write_split(tmp_path, ["a"])
    assert [line.split()[0] for line in missing_entries(tmp_path, ["a"])] == [f"{tmp_path / 'val.txt'}"]
    (tmp_path / "val.txt").write_text("b\n")
    assert missing_entries(tmp_path, ["a", "b"]) == []
    assert [line[:42] for line in missing_entries(tmp_path, ["a", "c", "d"])] == [
        f"2 of 3 clips are in no list in {tmp_path}"[:42]
    ]
    (tmp_path / "val.txt").write_text('"b\n')
    assert "line 1" in missing_entries(tmp_path, ["a"])[0]


def test_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_split(tmp_path / "file" / "lists", ["a", "b"])


def test_audio_offsets_round_trip(tmp_path):
    path = tmp_path / "train.txt"
    entries = [Entry("main/00001", 3), Entry("main/00002"), Entry('a "b" offset=7', -2)]
    write_list(path, entries)
    assert read_list(path) == entries
    assert path.read_text().splitlines()[:2] == ["main/00001 offset=+3", "main/00002"]
    path.write_text('a MV offset=4\nb myoffset=4\nc offset=4x\nd offset=-1 NF\n"e f"offset=5\n')
    assert [entry.audio_offset for entry in read_list(path)] == [4, 0, 0, -1, 5]


@pytest.fixture
def root(tmp_path):
    """A data root with clips that have unusual names."""
    for name in ("main/00001", "my videos/talk 1", "s1/a", "müller/1", "back/slash"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "audio.wav").touch()
    return tmp_path / "data"


def found(root: Path, content: str | bytes) -> list[str | None]:
    """Return the clips that the lines of a list refer to, None for a clip that does not exist."""
    path = root.parent / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    entries = read_list(path, functools.partial(is_clip_folder, root))
    folders = [clip_folder(root, entry.name) for entry in entries]
    return [os.path.relpath(folder, root) if folder.is_dir() else None for folder in folders]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("main/00001 NF", "main/00001"),
        ("my videos/talk 1", "my videos/talk 1"),
        ("  my videos/talk 1  NF offset=3 ", "my videos/talk 1"),
        ('"my videos/talk 1" MV', "my videos/talk 1"),
        ("main\\00001", "main/00001"),
        ("my videos\\talk 1 NF", "my videos/talk 1"),
        ('"my videos\\talk 1"', "my videos/talk 1"),
        ('"my videos\\\\talk 1"', "my videos/talk 1"),
        (".\\main\\00001", "main/00001"),
        ("./main//00001/", "main/00001"),
        ("s1/../main/00001", "main/00001"),
        ("s1/a", "s1/a"),
        ("nobody/1 NF", None),
    ],
)
def test_names_of_other_programs_are_read(root, line, name):
    """D: unquoted names with blanks, and backslashes from Windows."""
    assert found(root, f"s1/a\r\n{line}\r\n") == ["s1/a", name]


def test_windows_code_page(root):
    assert found(root, "müller\\1\r\n".encode("cp1252")) == ["müller/1"]


def test_absolute_names_inside_the_root(root, tmp_path, monkeypatch):
    """D: absolute paths are accepted inside the data root, also through links."""
    (tmp_path / "link").symlink_to(root)
    (root / "linked").symlink_to(root / "main")
    lines = [
        root / "main/00001",
        tmp_path / "link/main/00001",
        root / "x/../s1/a",
        f'"{root}/my videos/talk 1"',
    ]
    lines += [f"{root}/my videos/talk 1", root / "linked/00001"]
    expected = ["main/00001", "main/00001", "s1/a", "my videos/talk 1", "my videos/talk 1", "linked/00001"]
    text = "".join(f"{line}\n" for line in lines)
    assert found(root, text) == expected
    monkeypatch.chdir(tmp_path)
    assert found(Path("data"), "\n".join(map(str, lines[:3]))) == expected[:3]
    assert [clip_folder(tmp_path / "link", str(line)).is_dir() for line in lines[:3]] == [True] * 3
    for outside in (tmp_path, tmp_path / "list.txt", root, Path("/etc"), f"{root}x/main", f"{root}/../other"):
        with pytest.raises(DataError, match="outside --data_root"):
            clip_folder(root, str(outside))


def test_offsets_belong_to_the_rest_of_the_line(root):
    path = root.parent / "list.txt"
    path.write_text("my videos/talk 1 offset=-2\nmain/00001 offset=+3\n")
    entries = read_list(path, functools.partial(is_clip_folder, root))
    assert entries == [Entry("my videos/talk 1", -2), Entry("main/00001", 3)]


def test_new_list_reads_a_list_from_windows(tmp_path):
    names = [f"my videos/{n:02}" for n in range(40)]
    (tmp_path / "val.txt").write_bytes(b"my videos\\00\r\nmy videos\\39 MV\r\n")
    write_split(tmp_path, names)
    assert read_names(tmp_path / "train.txt") == names[1:-1]
    assert missing_entries(tmp_path, names) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("main/00001\n".encode("utf-16"), "line 1 is not UTF-8 text"),
        (b"main/00001\nPK\3\4\0\0", "line 2 is not UTF-8 text"),
        (b"a" * 70_000, "line 1 is not UTF-8 text"),
        (b"fine\nmac/1\rmac/2\rmac/3\r", "line 2 has carriage returns"),
        (b'fine\n"no end', "line 2 begins with a quote"),
        (b'"' + b"[" * 50_000, "line 1 begins with a quote"),
    ],
)
def test_files_that_are_not_lists(content, words, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_list(path, lambda name: False)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_list_that_is_not_a_regular_or_small_file(tmp_path):
    """A9: a FIFO as file list; a file of a terabyte."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    for name, words in (("fifo", "FIFO"), ("large", "bytes")):
        with pytest.raises(DataError, match=words):
            read_list(tmp_path / name)
