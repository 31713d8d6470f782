"""Weights files: all forms are read, errors identify wrong files, and no code in a file is run."""

from __future__ import annotations

import os
import pickle
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from support.networks import golden_weights
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.models import weight_formats
from wav2lip_npu.models.checkpoint import Checkpoint, check_finite, load, load_tensors, save
from wav2lip_npu.models.networks import NETWORKS, Wav2Lip, fold_norms

Weights = dict[str, Tensor]
WAY_OUT = r" (Download|Pass|Unpack|Open|Run|Check) [^\n]+\.$"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return golden_weights(Wav2Lip(2))


@pytest.fixture(scope="module")
def weights(network: nn.Module) -> Weights:
    return network.state_dict()


@pytest.fixture(scope="module")
def traced(network: nn.Module) -> torch.jit.ScriptModule:
    """A TorchScript module like the published Wav2Lip-SD-GAN.pt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)
        return torch.jit.trace(network, example, check_trace=False)


def adam_state(network: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.state_dict()


def refused(path: Path, message: str, kind: str = "generator") -> str:
    """Return the one-line error of `load`, which has the file, its content and a fix."""
    with pytest.raises(CheckpointError, match=WAY_OUT) as caught:
        load(path, kind)
    text = str(caught.value)
    assert str(path) in text
    assert message in text
    assert "\n" not in text
    assert "weights_only" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


def equal(ours: Weights, theirs: Weights) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


# Supported files


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", ["dict", "dict with Adam", "bare", "module.", "half"])
def test_pytorch_file(form: str, zip_format: bool, weights: Weights, tmp_path: Path) -> None:
    expected = weights
    content: dict[str, Any] = {"state_dict": expected, "optimizer": None, "global_step": 7, "global_epoch": 1}
    if form == "dict with Adam":
        content["optimizer"] = adam_state(golden_weights(Wav2Lip(2)))
    elif form == "bare":
        content = dict(expected)
    elif form == "module.":
        content["state_dict"] = {f"module.{key}": value for key, value in expected.items()}
    elif form == "half":
        expected = {
            key: value.half() if value.is_floating_point() else value for key, value in expected.items()
        }
        content["state_dict"] = expected
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zip_format)
    loaded = load(tmp_path / "x.pth", "generator")
    assert equal(loaded.weights, expected)
    assert (loaded.kind, loaded.width, loaded.source) == ("generator", 2, tmp_path / "x.pth")
    if form == "bare":
        assert loaded.training is None
    else:
        assert loaded.training is not None
        assert loaded.training["global_step"] == 7
        assert (loaded.training["optimizer"] is not None) == (form == "dict with Adam")
    assert {parameter.dtype for parameter in loaded.network().parameters()} == {torch.float32}


@pytest.mark.parametrize("half", [False, True])
def test_safetensors(half: bool, weights: Weights, tmp_path: Path) -> None:
    stored = {
        key: value.half() if half and value.is_floating_point() else value for key, value in weights.items()
    }
    save_file(stored, tmp_path / "x.safetensors", metadata={"format": "pt"})
    loaded = load(tmp_path / "x.safetensors", "generator")
    assert equal(loaded.weights, stored)
    assert loaded.training is None
    loaded.network()


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
def test_torchscript(traced: torch.jit.ScriptModule, weights: Weights, tmp_path: Path) -> None:
    traced.save(str(tmp_path / "x.pt"))
    loaded = load(tmp_path / "x.pt", "generator")
    assert equal(loaded.weights, weights)
    assert list(loaded.weights) == list(torch.jit.load(str(tmp_path / "x.pt")).state_dict())
    loaded.network()


def test_torchscript_that_is_not_a_network(tmp_path: Path) -> None:
    """Read a scripted module with float16, a shared storage, a stride, and lists in addition to tensors."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, padding_mode="reflect").half()
            self.second = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
            self.sizes = [1, 2, 3]
            self.register_buffer("whole", torch.arange(12.0).reshape(3, 4))
            self.register_buffer("turned", self.whole.t()[1:])
            self.register_buffer("count", torch.tensor(5))

        def forward(self, x: Tensor) -> Tensor:
            return (
                self.second(self.first(x)) * self.sizes[0] + self.turned.sum() + self.whole.sum() + self.count
            )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Module()).save(str(tmp_path / "x.pt"))
        expected = torch.jit.load(str(tmp_path / "x.pt")).state_dict()
    assert equal(load_tensors(tmp_path / "x.pt"), dict(expected))


@pytest.mark.parametrize("width", [2, 32])
@pytest.mark.parametrize("kind", NETWORKS)
def test_width_follows_from_the_shapes(kind: str, width: int, tmp_path: Path) -> None:
    with torch.device("meta"):
        expected = NETWORKS[kind](width).state_dict()
    light = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in expected.items()}
    torch.save(light, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", kind)
    assert loaded.width == width
    network = loaded.network()
    assert type(network) is NETWORKS[kind]
    assert network.width == width
    assert equal(network.state_dict(), light)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("tag", [b"npu:0", b"cuda:0"])
def test_weights_saved_on_a_missing_device(
    tag: bytes, zip_format: bool, weights: Weights, tmp_path: Path
) -> None:
    plain, tagged = tmp_path / "plain.pth", tmp_path / "tagged.pth"
    torch.save({"state_dict": weights}, plain, _use_new_zipfile_serialization=zip_format)

    def retag(pickled: bytes) -> bytes:
        assert pickled.count(b"X\3\0\0\0cpu") == 1
        return pickled.replace(b"X\3\0\0\0cpu", b"X" + len(tag).to_bytes(4, "little") + tag)

    if zip_format:
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tagged, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                new.writestr(name, retag(data) if name.endswith("data.pkl") else data)
    else:
        tagged.write_bytes(retag(plain.read_bytes()))
    with pytest.raises(RuntimeError):
        torch.load(tagged, weights_only=True)
    assert equal(load(tagged, "generator").weights, weights)


def test_weights_saved_by_torch_npu_before_2_1(weights: Weights, tmp_path: Path) -> None:
    """Such files refer to a function of torch_npu, with the NPU layout as last argument."""
    torch.save(weights, tmp_path / "new.pth")
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    with zipfile.ZipFile(tmp_path / "new.pth") as old, zipfile.ZipFile(tmp_path / "old.pth", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert data.count(function) == 1
                data = data.replace(function, b"ctorch_npu.utils.storage\n_rebuild_npu_tensor\n")
            new.writestr(name, data)
    assert equal(load(tmp_path / "old.pth", "generator").weights, weights)


def test_compressed_zip(weights: Weights, tmp_path: Path) -> None:
    """If a recompressed zip file were memory-mapped, the weights would be noise."""
    torch.save(weights, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert (tmp_path / "small.pth").stat().st_size < (tmp_path / "x.pth").stat().st_size
    assert equal(load(tmp_path / "small.pth", "generator").weights, weights)


def test_load_tensors(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "x.pth")
    assert equal(load_tensors(tmp_path / "x.pth"), {"a.weight": torch.ones(2)})


# Loaded checkpoints


def test_network_is_in_eval_mode_and_independent_of_the_file(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save(path, network)
    before = path.read_bytes()
    loaded = load(path, "generator")
    ready = loaded.network()
    assert not any(module.training for module in ready.modules())
    assert all(tensor.device.type == "cpu" for tensor in ready.state_dict().values())
    mel, face = torch.rand(1, 1, 80, 16), torch.rand(1, 6, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ready(mel, face), network(mel, face), rtol=0, atol=1e-6)
        for parameter in ready.parameters():
            parameter.fill_(7)
    fold_norms(ready)
    assert path.read_bytes() == before


def test_digest(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save(path, network)
    assert load(path, "generator").digest() == sha256(path.read_bytes()).hexdigest()[:12]


# Rejected files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Download it again."),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is an HTML or XML page"),
        (b"\xef\xbb\xbf\r\n <HTML lang=en>", "is an HTML or XML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(100), "is a video, audio or image file"),
        (b"\x1f\x8b\x08\x00" + bytes(100), "is a compressed archive. Unpack it"),
        (b'{"error": "quota exceeded"}', "is not a weights file (it starts with b'{\"error\"')"),
        (random.Random(0).randbytes(4000), "is not a weights file"),
        (b"\0" * 4000, "is not a weights file"),
        (pickle.dumps({"state_dict": {}}), "is a Python pickle, not PyTorch weights, and was not opened"),
    ],
    ids=["empty", "HTML", "HTML with BOM", "XML", "LFS", "mp4", "gzip", "JSON", "noise", "zeros", "pickle"],
)
def test_other_file_formats_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "wav2lip.pth").write_bytes(content)
    refused(tmp_path / "wav2lip.pth", message)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "no.pth", "cannot read weights")
    assert "Is a directory. Check its path." in refused(tmp_path, "cannot read weights")


def test_other_archives(weights: Weights, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("wav2lip/wav2lip.pth", b"weights")
    refused(tmp_path / "x.zip", "is a zip archive without PyTorch weights. Unpack it")
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    refused(tmp_path / "none.zip", "is a zip archive without PyTorch weights")
    torch.save(weights, tmp_path / "x.pth")
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        packed.add(tmp_path / "x.pth", "x.pth")
    refused(tmp_path / "x.tar", "is a compressed archive. Unpack it")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "TorchScript"])
def test_truncated_file(form: str, weights: Weights, traced: torch.jit.ScriptModule, tmp_path: Path) -> None:
    complete, cut = tmp_path / "whole", tmp_path / "cut.pth"
    if form == "safetensors":
        save_file(weights, complete)
    elif form == "TorchScript":
        traced.save(str(complete))
    else:
        torch.save(weights, complete, _use_new_zipfile_serialization=form == "zip")
    content = complete.read_bytes()
    for size in (20, 200, 1000, len(content) // 3, len(content) // 2, len(content) - 1000, len(content) - 1):
        cut.write_bytes(content[:size])
        refused(cut, f"is truncated at {size:,} bytes")
    for size in random.Random(0).sample(range(len(content) - 1), 15):
        cut.write_bytes(content[:size])
        refused(cut, "")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "TorchScript"])
def test_damaged_file(form: str, weights: Weights, traced: torch.jit.ScriptModule, tmp_path: Path) -> None:
    """Wrong bytes are either undetectable or reported in one line, without any other exception."""
    complete, damaged = tmp_path / "whole", tmp_path / "hurt.pth"
    if form == "safetensors":
        save_file(weights, complete)
    elif form == "TorchScript":
        traced.save(str(complete))
    else:
        torch.save(weights, complete, _use_new_zipfile_serialization=form == "zip")
    content = complete.read_bytes()
    draw = random.Random(form)
    refusals = 0
    for attempt in range(20):
        broken = bytearray(content)
        last = len(content) if attempt % 2 else 6000  # the pickle or header is at the start
        for _ in range(draw.choice((1, 3, 30))):
            broken[draw.randrange(last)] = draw.randrange(256)
        damaged.write_bytes(broken)
        try:
            load(damaged, "generator").network()
        except CheckpointError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert "weights_only" not in str(error)
    assert refusals > 2


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        (
            "syncnet",
            "generator",
            "is a SyncNet, not a Wav2Lip generator. Pass the file of a generator.",
        ),
        ("discriminator", "generator", "is a quality discriminator, not a Wav2Lip generator."),
        ("generator", "syncnet", "is a Wav2Lip generator, not a SyncNet."),
        ("generator", "discriminator", "is a Wav2Lip generator, not a quality discriminator."),
    ],
)
def test_other_network_is_refused(kind: str, wanted: str, message: str, tmp_path: Path) -> None:
    save(tmp_path / "x.pth", NETWORKS[kind](2))
    refused(tmp_path / "x.pth", message, wanted)


def test_face_detector_and_unknown_network(tmp_path: Path) -> None:
    torch.save(
        {"conv1_1.weight": torch.zeros(64, 3, 3, 3), "conv3_3_norm.weight": torch.zeros(256)},
        tmp_path / "s3fd.pth",
    )
    refused(tmp_path / "s3fd.pth", "is an S3FD face detector, not a Wav2Lip generator.")
    torch.save({"conv1.weight": torch.zeros(64)}, tmp_path / "resnet.pth")
    refused(
        tmp_path / "resnet.pth",
        "is an unknown network with tensors such as 'conv1.weight', not a Wav2Lip generator.",
    )


ANOTHER_DESIGN: dict[str, Callable[[Weights], Any]] = {
    "extra layer": lambda w: w | {"face_encoder_blocks.7.0.conv_block.0.weight": torch.zeros(32, 32, 3, 3)},
    "missing layer": lambda w: {key: value for key, value in w.items() if "blocks.6" not in key},
    "other kernel": lambda w: w | {"face_encoder_blocks.1.0.conv_block.0.weight": torch.zeros(2, 1, 5, 5)},
    "15 channels in": lambda w: w | {"face_encoder_blocks.0.0.conv_block.0.weight": torch.zeros(1, 15, 7, 7)},
    "odd width": lambda w: w | {"face_encoder_blocks.0.0.conv_block.0.weight": torch.zeros(0, 6, 7, 7)},
    "no first layer": lambda w: {key: value for key, value in w.items() if "encoder_blocks.0" not in key},
    "a number": lambda w: w | {"face_encoder_blocks.0.0.conv_block.0.weight": torch.tensor(1.0)},
}


@pytest.mark.parametrize("change", ANOTHER_DESIGN)
def test_other_architecture_is_refused(change: str, weights: Weights, tmp_path: Path) -> None:
    torch.save(ANOTHER_DESIGN[change](weights), tmp_path / "x.pth")
    text = refused(tmp_path / "x.pth", "is a Wav2Lip generator with another architecture")
    assert "docs/hd.md" in text


UNFIT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sparse": (lambda t: t.to_sparse(), "float32, sparse_coo, cpu"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "qint8, strided, cpu"),
    "int8": (lambda t: t.to(torch.int8), "int8, strided, cpu"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn, strided, cpu"),
    "complex": (lambda t: t.to(torch.complex64), "complex64, strided, cpu"),
    "meta": (lambda t: t.to("meta"), "float32, strided, meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", UNFIT)
def test_unsupported_tensors_are_refused(form: str, weights: Weights, tmp_path: Path) -> None:
    change, name = UNFIT[form]
    changed = weights | {"output_block.1.weight": change(weights["output_block.1.weight"])}
    torch.save({"state_dict": changed}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", f"in an unsupported form ({name}).")


def test_file_without_weights_is_refused(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content, message in (
        (
            {"optimizer": {"state": {0: {"step": torch.ones(1)}}}, "global_step": 3},
            "has no weights (keys: global_step",
        ),
        ({"state_dict": {}}, "has no weights (keys: none)"),
        ({}, "has no weights (keys: none)"),
        ({"model": {"weights": weights}}, "has no weights (keys: model). Pass a file with a state dict."),
        ([weights], "contains a list, not a dict of weights. Pass a file with a state dict."),
        (torch.zeros(3), "contains a Tensor, not a dict of weights."),
        (dict(enumerate(weights.values())), "is an unknown network"),
        ({("a", 1): torch.zeros(1)}, "is an unknown network"),
    ):
        torch.save(content, path)
        refused(path, message)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_weights_are_refused(value: float, weights: Weights, tmp_path: Path) -> None:
    broken = {key: tensor.clone() for key, tensor in weights.items()}
    broken["output_block.1.bias"][1] = value
    torch.save(broken, tmp_path / "x.pth")
    refused(
        tmp_path / "x.pth",
        "has NaN or infinite weights, first in 'output_block.1.bias'",
    )


def test_weights_whose_sum_overflows_are_finite() -> None:
    check_finite({"a": torch.full((4,), 3e38), "b": torch.tensor([2, 3])}, Path("x.pth"), "")
    with pytest.raises(CheckpointError, match="'b'"):
        check_finite({"a": torch.full((4,), 3e38), "b": torch.tensor([1, torch.nan])}, Path("x.pth"), "")


# Code in files


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", ["whole file", "state_dict", "tensor", "optimizer"])
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pytorch_file_is_not_run(
    place: str, zip_format: bool, weights: Weights, tmp_path: Path
) -> None:
    bomb = Bomb(tmp_path / "marker")
    content: Any = {
        "whole file": bomb,
        "state_dict": {"state_dict": bomb},
        "tensor": {"state_dict": weights | {"output_block.1.weight": bomb}},
        "optimizer": {"state_dict": weights, "optimizer": {"state": {0: {"exp_avg": bomb}}}},
    }[place]
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    refused(path, f"contains code ({os.system.__module__}.system) and was not opened.")
    assert not bomb.marker.exists()
    torch.load(path, weights_only=False)
    assert bomb.marker.exists(), "the test itself must be able to run it"


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_not_run(protocol: int, tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "marker")
    (tmp_path / "x.pth").write_bytes(pickle.dumps(bomb, protocol))
    refused(tmp_path / "x.pth", "not a weights file" if protocol < 2 else "is a Python pickle")
    assert not bomb.marker.exists()


def test_pickled_module_is_not_run(tmp_path: Path) -> None:
    torch.save(Wav2Lip(2), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "contains code (wav2lip_npu.models.generator.Wav2Lip) and was not opened.")


def test_tar_disguised_as_legacy_file_is_not_run(tmp_path: Path) -> None:
    """PyTorch 2.5 unpickles such a file without restrictions (CVE-2025-32434)."""
    bomb = Bomb(tmp_path / "marker")
    (tmp_path / "member").write_bytes(pickle.dumps(bomb))
    member = tarfile.TarInfo((b"\x80\2" + weight_formats._LEGACY_MAGIC).decode("latin-1"))
    member.size = (tmp_path / "member").stat().st_size
    with tarfile.open(tmp_path / "x.pth", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(member, (tmp_path / "member").open("rb"))
    assert (tmp_path / "x.pth").read_bytes()[2:15] == weight_formats._LEGACY_MAGIC
    refused(tmp_path / "x.pth", "is a compressed archive")
    assert not bomb.marker.exists()


class WritesWhenLoaded(nn.Module):
    """A module whose `__setstate__` `torch.jit.load` runs; TorchScript can write files."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        torch.save(state[0], "marker")


@pytest.mark.filterwarnings("ignore")
def test_code_in_torchscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(WritesWhenLoaded()).save("x.pt")
    refused(tmp_path / "x.pt", "has no weights")
    assert not (tmp_path / "marker").exists()
    torch.jit.load("x.pt")
    assert (tmp_path / "marker").exists(), "the test itself must be able to run it"


def test_pickle_in_torchscript_is_not_run(traced: torch.jit.ScriptModule, tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "marker")
    traced.save(str(tmp_path / "good.pt"))
    with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps({"a": bomb}, 2) if name.endswith("/data.pkl") else old.read(name))
    refused(tmp_path / "x.pt", "is damaged")
    assert not bomb.marker.exists()


# Written files


def test_saved_file_has_the_format_of_the_original(tmp_path: Path) -> None:
    network = golden_weights(Wav2Lip(2))
    training = {"optimizer": adam_state(network), "global_step": 12, "global_epoch": 3}
    path = tmp_path / "new" / "folder" / "x.pth"
    save(path, network, training)
    plain = torch.load(path, weights_only=True)
    assert list(plain) == ["state_dict", "optimizer", "global_step", "global_epoch"]
    other = Wav2Lip(2)
    other.load_state_dict(plain["state_dict"], strict=True)
    assert equal(other.state_dict(), network.state_dict())
    assert all(not tensor.requires_grad for tensor in plain["state_dict"].values())
    torch.optim.Adam(other.parameters()).load_state_dict(plain["optimizer"])
    loaded = load(path, "generator")
    assert isinstance(loaded, Checkpoint)
    assert loaded.training is not None
    assert (loaded.training["global_step"], loaded.training["global_epoch"]) == (12, 3)
    assert equal(loaded.network().state_dict(), network.state_dict())
    assert os.listdir(path.parent) == ["x.pth"]


def test_save_without_training_state(network: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "x.pth", network)
    assert load(tmp_path / "x.pth", "generator").training == {
        "optimizer": None,
        "global_step": 0,
        "global_epoch": 0,
    }


def test_failed_save_keeps_the_old_file(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save(path, network)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save(path, network, {"optimizer": lambda: None})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.pth"]


def test_save_over_a_loaded_file(network: nn.Module, tmp_path: Path) -> None:
    """The weights are mapped from the file, so writing to it in place would change them."""
    path = tmp_path / "x.pth"
    save(path, network)
    used = load(path, "generator").network()
    save(path, Wav2Lip(2))
    assert equal(used.state_dict(), network.state_dict())
