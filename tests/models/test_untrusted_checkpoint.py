"""Hostile and damaged weights files: sizes, checksums and file types are checked before values are used."""

from __future__ import annotations

import os
import pickle
import random
import resource
import struct
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from support.marks import slow
from support.networks import golden_weights
from wav2lip_npu.cli import main
from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet, Wav2Lip
from wav2lip_npu.models.weight_formats import read

GIB = 1 << 30


def refused(path: Path, *words: str) -> str:
    """Return the one-line error of loading a file, which must take little time and memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, "generator")
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700 + len(str(path))
    for word in (str(path), *words):
        assert word in text
    return text


def saved(path: Path, *, legacy: bool = False, **more: Any) -> Path:
    content = {"state_dict": golden_weights(Wav2Lip(2)).state_dict(), **more}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def rewritten(old: Path, new: Path, change: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """Copy an archive, with members added, or replaced by the end of their names."""
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w", method) as target:
        root = source.namelist()[0].split("/")[0]
        names = {name.removeprefix(root + "/"): name for name in source.namelist()}
        for name in [*names, *(change.keys() - names)]:
            content = change[name] if name in change else source.read(names[name])
            target.writestr(f"{root}/{name}", content)
    return new


@pytest.mark.parametrize("form", ["zip", "TorchScript", "deflated"])
def test_inverted_bytes_in_tensors_are_detected(form, tmp_path):
    """A6: checksums of all members are compared."""
    path, network = tmp_path / "x.pth", golden_weights(Wav2Lip(2))
    if form == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)
            torch.jit.trace(network, example, check_trace=False).save(str(path))
    else:
        saved(path, optimizer={"moments": torch.rand(100_000)})
        if form == "deflated":
            path = rewritten(path, tmp_path / "y.pth", {}, zipfile.ZIP_DEFLATED)
    assert checkpoint.load(path, "generator").width == 2
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(255 - value for value in content[middle : middle + 200])
    path.write_bytes(content)
    refused(path, "is damaged")


def test_archive_without_check_sums(tmp_path):
    """A6: PyTorch can omit checksums; all are then 0."""
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert not any(member.CRC for member in archive.infolist())
    assert checkpoint.load(path, "generator").width == 2


@pytest.mark.parametrize("torchscript", [False, True])
@pytest.mark.parametrize("name", ["data.pkl", slow("data/0"), slow("extra")])
def test_small_file_that_inflates_to_gigabytes(name, torchscript, tmp_path):
    """A8: the directory of the archive contains the sizes."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/version", "3")
        with archive.open(f"a/{name}", "w") as member:
            for _ in range(24):
                member.write(bytes(16 << 20))
        for other in {"data.pkl", "data/0"} - {name}:
            archive.writestr(f"a/{other}", weights_of(tensor(2)) if other == "data.pkl" else bytes(8))
        if torchscript:
            archive.writestr("a/constants.pkl", b"\x80\2).")
    refused(tmp_path / "x.pth", "inflate")


def test_member_larger_than_stated(tmp_path):
    """A8: the directory contains a wrong size."""
    old = saved(tmp_path / "old.pth")
    path = rewritten(old, tmp_path / "x.pth", {"data.pkl": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = content.find(b"old/data.pkl", archive.start_dir) - 46
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    refused(path, "is damaged")


def test_duplicate_and_overlapping_members(tmp_path):
    old = saved(tmp_path / "old.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = rewritten(old, tmp_path / "x.pth", {"DATA/0": b"1234"})
    refused(path, "occurs twice")


def torch_archive(path: Path, pickled: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3")
        archive.writestr("a/byteorder", "little")
        for name, content in members.items():
            archive.writestr(f"a/data/{name.removeprefix('_')}", content)
    return path


def tensor(count: int, size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,)) -> bytes:
    """Return the pickled instructions that restore a float32 tensor from storage 0 with `count` elements."""

    def ints(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    storage = (
        b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + ints((count,))[1:-1] + b"tQ"
    )
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + ints(size) + ints(stride)
    return call + b"\x89ccollections\nOrderedDict\n)RtR"


def weights_of(value: bytes) -> bytes:
    return b"\x80\2}X\1\0\0\0w" + value + b"s."


HOSTILE = {
    "storage larger than its member": weights_of(tensor(1 << 40)),
    "negative storage": weights_of(tensor(-1)),
    "tensor outside its storage": weights_of(tensor(2, (1 << 30,))),
    "expanded tensor": weights_of(tensor(2, (1 << 40, 1 << 20), (0, 0))),
    "memo at 2^32": b"\x80\2}r\xff\xff\xff\x7f.",
    "key that takes for ever to hash": b"\x80\2}" + b")" + b"q\0h\0\x86" * 60 + b"K\1s.",
    "ordered dict of such a key": b"\x80\2ccollections\nOrderedDict\n]]"
    + b")"
    + b"q\0h\0\x86" * 60
    + b"aK\1aa\x85R.",
    "list in itself": b"\x80\2}X\1\0\0\0w]q\0h\0as.",
    "lists that double": b"\x80\2}X\1\0\0\0w]" + b"q\0]h\0ah\0a" * 60 + b"s.",
    "a million containers": b"\x80\2]" + b"(" + b"}" * 1_100_000 + b"e.",
    "byte array of 4 GB": b"\x80\2c__builtin__\nbytearray\n\x8a\5\0\0\0\0\1\x85R.",
    "storage of 4 TB": b"\x80\2ctorch\nFloatStorage\n\x8a\6\0\0\0\0\0\1\x85R.",
    "text of 4 GB": b"\x80\2X\xff\xff\xff\xff.",
    "code": b"\x80\2cos\nsystem\nX\4\0\0\0true\x85R.",
    "item of a tensor": b"\x80\2" + tensor(2) + b"K\0K\1s.",
    "nothing": b"",
    "newer protocol": pickle.dumps({"a": 1}, 5),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "TorchScript"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle(name, form, tmp_path):
    """A8: sizes in a pickle are compared with the file before memory is allocated."""
    path, pickled = tmp_path / "x.pth", HOSTILE[name]
    if form == "legacy":
        system = {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}
        start = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        rest = pickle.dumps(1001, 2) + pickle.dumps(system, 2) + pickled + pickle.dumps(["0"], 2)
        path.write_bytes(start + rest + struct.pack("<q", 2) + bytes(8))
    else:
        torch_archive(path, pickled, _0=bytes(8))
        if form == "TorchScript":
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr("a/constants.pkl", b"\x80\2).")
    refused(path)


def test_torchscript_with_repeated_modules(tmp_path):
    """A8: modules that contain each other twice, sixty levels deep, are refused at once."""
    module = b"c__torch__\nM\n)\x81"
    pickled = b"\x80\2" + module + b"q\0}" + b"X\1\0\0\0wNs" + b"b"
    for _ in range(60):
        pickled += b"q\0" + module + b"}(X\1\0\0\0ah\0X\1\0\0\0bh\0ub"
    path = torch_archive(tmp_path / "x.pth", pickled + b".")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/constants.pkl", b"\x80\2).")
    refused(path)


def test_directory_of_an_archive_is_limited(tmp_path):
    """A8: a sparse file whose end names a directory of 10 GiB."""
    path = tmp_path / "x.pth"
    size = 3 * GIB
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1000, 1000, size - 4, 4, 0))
    refused(path, "directory")


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder"])
def test_file_types_are_checked_before_opening(kind, tmp_path, capsys):
    """A9: every command that reads weights refuses special files at once."""
    path = tmp_path / "x.pth"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    refused(path, "directory" if kind == "folder" else kind)
    for words in (
        ["export", "--checkpoint_path", path, "--outdir", tmp_path / "out"],
        ["compare", "cpu", "cpu", "--network", "generator", "--checkpoint_path", path],
    ):
        assert main.main([str(word) for word in words]) == 2
        assert str(path) in capsys.readouterr().err


def test_truncated_training_checkpoint_is_named(tmp_path):
    """F3: the advice for a training checkpoint is not to download it."""
    network = SyncNet(2)
    for name in ("checkpoint_step000000003.pth", "renamed.pth"):
        path = tmp_path / name
        checkpoint.save(path, network, {"wav2lip_npu": {"width": 2, "rng": torch.rand(100_000)}})
        content = path.read_bytes()
        for size in (len(content) - 1, len(content) - 1000, len(content) // 2):
            path.write_bytes(content[:size])
            text = refused(path, f"training checkpoint cut short at {size:,}", "earlier checkpoint")
            assert "ownload" not in text
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 255
        path.write_bytes(damaged)
        assert "ownload" not in refused(path, "is damaged", "earlier checkpoint")
    for content in (b"", bytes(5000)):  # left by a power failure
        path = tmp_path / "disc_checkpoint_step000000003.pth"
        path.write_bytes(content)
        refused(path, f"training checkpoint cut short at {len(content):,}", "earlier checkpoint")
    path = saved(tmp_path / "wav2lip.pth", optimizer=None, global_step=3)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "is truncated", "Download it again")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("stylegan_decoder.final_linear.weight", "a GFPGAN face restorer"),
        ("decoder.token_embedding.weight", "a Whisper speech recognizer"),
        ("down_blocks.0.resnets.0.conv1.weight", "a diffusion network"),
        ("something.weight", "an unknown network with tensors such as 'something.weight'"),
    ],
)
@pytest.mark.parametrize("key", [None, "params", "params_ema", "model", "g_ema"])
def test_other_networks_are_named(name, what, key, tmp_path):
    """D: a GFPGAN file has its weights under `params` or `params_ema`, not `state_dict`."""
    weights = {name: torch.rand(2)}
    torch.save(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointMismatchError, match=f"is {what}, not a Wav2Lip generator"):
        checkpoint.load(tmp_path / "x.pth", "generator")


def test_weights_under_another_key_are_read(tmp_path):
    weights = golden_weights(Wav2Lip(2)).state_dict()
    torch.save({"model": weights, "epoch": 3}, tmp_path / "x.pth")
    assert checkpoint.load(tmp_path / "x.pth", "generator").width == 2


def test_text_of_a_file_stays_in_one_line(tmp_path):
    long = "a\nb" * 100_000
    for content in (
        {long: 1},
        {long: torch.zeros(1)},
        {"state_dict": {"output_block.1.weight": torch.zeros(1), long: torch.zeros(1)}},
        {"state_dict": golden_weights(Wav2Lip(2)).state_dict(), "wav2lip_npu": {"mel": {"hop": long}}},
    ):
        torch.save(content, tmp_path / "x.pth")
        refused(tmp_path / "x.pth")
    save_file({long: torch.zeros(1)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors")


def test_damage_anywhere_in_an_archive_is_harmless(tmp_path):
    """A6: a changed byte is reported or has no effect."""
    good = saved(tmp_path / "good.pth", global_step=3)
    content, expected = good.read_bytes(), read(good)["state_dict"]
    draw = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        (tmp_path / "x.pth").write_bytes(damaged)
        try:
            loaded = checkpoint.load(tmp_path / "x.pth", "generator")
        except CheckpointError:
            continue
        assert all(torch.equal(loaded.weights[key], expected[key]) for key in expected)
