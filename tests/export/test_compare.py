"""Comparison of two engines or devices."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from support import fake_cann
from support.devices import DEVICE
from support.exports import export_generator
from support.networks import golden_weights
from wav2lip_npu.cli import main
from wav2lip_npu.export import compare, om_export, onnx_export
from wav2lip_npu.export.engines import Arrays
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet, Wav2Lip

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed: pip install 'wav2lip-npu[export]'", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def syncnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "syncnet.pth"
    checkpoint.save(path, golden_weights(SyncNet(width=2)))
    return path


@pytest.fixture
def command(tmp_path, tiny_checkpoint, syncnet, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        weights = ["--checkpoint_path", tiny_checkpoint, "--syncnet_checkpoint_path", syncnet]
        code = main.main(["compare", *map(str, [*words, *weights, "--runs", 1])])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_checkpoint) -> onnx_export.ExportedFile:
    exported = export_generator(tmp_path_factory.mktemp("files") / "g3.onnx", tiny_checkpoint, batch=3)
    om_export.write_manifest(exported)
    return exported


def test_table_of_each_network(command):
    code, out, _ = command("cpu", "onnx", "--batch", 1, 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("generator: A is cpu (") and lines[0].endswith("fp32, B is onnx fp32")
    assert lines[1].split()[0] == "picture" and "cosine 1.0000000: ok" in lines[1]
    assert lines[2].split() == ["batch", "A,", "ms", "B,", "ms", "B", "/", "A"]
    assert [line.split()[0] for line in lines[3:5]] == ["1", "2"]
    assert all(float(item) > 0 for line in lines[3:5] for item in line.split())
    assert lines[5].startswith("syncnet: ")
    assert [line.split()[0] for line in lines[6:8]] == ["sound", "picture"]


@pytest.mark.any_device
def test_device_is_compared_with_the_cpu(command):
    code, out, _ = command("cpu", str(DEVICE), "--batch", 2, "--precision", "fp32_strict")
    assert code == 0, out
    assert f"B is {DEVICE.type}" in out
    code, out, _ = command("onnx", str(DEVICE), "--batch", 2, "--network", "generator")
    assert code == 0, out


def test_json_holds_the_same_figures(command, tmp_path):
    code, out, _ = command("cpu", "onnx", "--batch", 2, "--network", "syncnet", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["ok"] and (found["a"], found["b"]) == ("cpu", "onnx")
    (network,) = found["networks"]
    assert network["network"] == "expert"
    for item in network["differences"]:
        assert 0 <= item["mean"] <= item["largest"] < 1e-5 and item["cosine"] > 0.9999999 and item["ok"]
    ((pace),) = network["seconds"]
    assert pace["batch"] == 2 and len(pace["seconds"]) == 2
    code, out, _ = command("cpu", "onnx", "--batch", 2, "--network", "syncnet", "--json", tmp_path / "f.json")
    assert out.startswith("syncnet: ") and json.loads((tmp_path / "f.json").read_text())["ok"]


def test_exported_file_is_compared_at_its_batch_size(command, exported):
    code, out, _ = command(exported.path, "cpu", "--batch", 1, 7)
    assert code == 0
    assert out.startswith("generator: A is g3.onnx fp32 b3, B is cpu (")
    assert "syncnet" not in out


def test_om_file_is_compared(command, exported, monkeypatch):
    fake_cann.install_bench(monkeypatch, [])
    shutil.copy(exported.path, exported.path.with_suffix(".om"))
    code, out, _ = command("cpu", exported.path.with_suffix(".om"), "--batch", 4)
    assert code == 0 and "B is g3.om fp32 b3" in out


@pytest.mark.slow
def test_om_file_is_compiled_for_the_comparison(command, monkeypatch):
    fake_cann.install_bench(monkeypatch, [])

    def compiler(words: list[str], target: Path) -> bool:
        (model,) = (item.partition("=")[2] for item in words if item.startswith("--model="))
        target.write_bytes(Path(model).read_bytes())
        return True

    monkeypatch.setattr(compare.tools, "run_atc", compiler)
    code, out, _ = command("cpu", "om", "--chip", "Ascend310P3", "--batch", 2, "--network", "generator")
    assert code == 0 and "B is om fp32 b2" in out
    assert "om needs a chip. Pass --chip" in command("cpu", "om")[2]
    monkeypatch.setattr(compare.tools, "run_atc", lambda words, target: False)
    assert "om needs atc on the PATH" in command("cpu", "om", "--chip", "Ascend310P3")[2]


@pytest.mark.slow
def test_fp16_and_bf16_are_within_tolerance(command):
    assert command("cpu", "onnx", "--precision", "fp16", "--batch", 1)[0] == 0
    code, out, _ = command("cpu", "cpu", "--precision", "bf16", "--batch", 1)
    assert code == 0 and "largest 0.00e+00" in out


def test_difference_above_rounding_is_exit_code_1(command, monkeypatch):
    real = compare.run_module
    monkeypatch.setattr(compare, "run_module", lambda *given: [item + 0.01 for item in real(*given)])
    code, out, _ = command("cpu", "onnx", "--batch", 1, "--network", "generator")
    assert code == 1 and "exceeds" in out and "largest 1.00e-02, mean 1.00e-02" in out


@pytest.mark.slow
def test_s3fd_is_compared_if_its_weights_are_installed(command, tmp_path):
    from face_alignment.detection.sfd.net_s3fd import s3fd

    (tmp_path / "checkpoints").mkdir()
    torch.save(s3fd().state_dict(), tmp_path / "checkpoints/s3fd.pth")
    code, out, _ = command("cpu", "onnx", "--batch", 1)
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines() if ": A is" in line] == [
        "generator",
        "syncnet",
        "s3fd",
    ]
    assert "offsets_5" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cpu", "tpu"], "unknown device 'tpu'"),
        (["cpu", "npu"], "device 'npu' is not available"),
        (["cpu", "none.onnx"], "cannot read none.onnx"),
        (["cpu", "onnx", "--batch", "0"], "--batch 0: pass sizes of 1 to 256"),
        (["cpu", "onnx", "--json", "/proc/none/x.json"], "cannot write"),
    ],
)
@pytest.mark.skipif(DEVICE.type != "cpu", reason="asks for a device that is not there")
def test_bad_input_is_one_line(command, words, message):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_file_of_other_weights_or_another_network_is_refused(command, exported, tmp_path, capsys):
    checkpoint.save(tmp_path / "other.pth", Wav2Lip(2))
    words = ["compare", "cpu", str(exported.path), "--checkpoint_path", str(tmp_path / "other.pth")]
    assert main.main(words) == 2
    assert "was exported from tiny.pth (sha256 " in capsys.readouterr().err
    assert "Remove --network" in command("cpu", exported.path, "--network", "syncnet")[2]


def test_sides_are_timed_in_alternation(monkeypatch):
    turns = []

    def side(name: str) -> compare.Side:
        def run(arrays: Arrays) -> list[np.ndarray]:
            turns.append((name, len(arrays["mel"])))
            return [np.zeros((len(arrays["mel"]), 3, 96, 96), np.float32)]

        return compare.Side(name, run, "off")

    weights = onnx_export.LoadedNetwork("generator", torch.nn.Identity(), Path("x"), "", None)
    found = compare.compare(weights, side("a"), side("b"), batches=[2], runs=2)
    assert turns[4:] == [("a", 2), ("b", 2)] * 3
    assert found.is_small and found.timings[0].batch == 2
