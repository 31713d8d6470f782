"""Checks of the machine and its device."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from wav2lip_npu.cli import main
from wav2lip_npu.devices import device
from wav2lip_npu.doctor import device_check

CPU = torch.device("cpu")
needs_bare_machine = pytest.mark.skipif(
    torch.cuda.is_available() or device.count_available("npu")[0] > 0,
    reason="this machine has an accelerator",
)
pytestmark = needs_bare_machine


def test_command_checks_the_machine(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/own.pth").write_bytes(b"some weights")
    assert main.main(["doctor", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["ascend"]["state"] == "no plugin" and not found["missing_codecs"]
    assert found["packages"]["torch"] == version("torch")
    assert found["weights"]["checkpoints/own.pth"]["bytes"] == 12
    assert len([path for path in found["weights"] if path.endswith(".safetensors")]) == 2
    assert found["free_bytes"] > 1 << 20
    for words in (
        "Ascend: no plugin",
        "to use an NPU: pip install",
        "device: cpu (",
        "hog: ready",
        "sha256 ",
    ):
        assert words in caplog.text


def test_missing_device_is_reported_with_exit_code_1(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert main.main(["doctor", "--device", "npu", "--json", "found.json"]) == 1
    assert "device 'npu' is not available" in caplog.text
    assert json.loads(Path("found.json").read_text())["ok"] is False


def test_clip_flags_require_a_path(capsys):
    assert main.main(["doctor", "--fix_offset"]) == 2
    assert "--fix_offset" in capsys.readouterr().err


@pytest.mark.slow
def test_bf16_is_within_tolerance_and_a_wrong_network_is_not(monkeypatch):
    found = device_check.compare_with_cpu(CPU, "bf16")
    assert len(found) == 8
    assert all(difference.is_small for difference in found), "\n".join(map(str, found))
    assert max(difference.largest for difference in found) > 1e-3
    real = device_check._outputs

    def wrong_in_bf16(networks, inputs, device, amp):
        outputs = real(networks, inputs, device, amp)
        return {**outputs, "generator": outputs["generator"] + (0.2 if amp == "bf16" else 0)}

    monkeypatch.setattr(device_check, "_outputs", wrong_in_bf16)
    monkeypatch.setattr(device_check, "_training_step", lambda *_: {})
    wrong = [
        difference.what
        for difference in device_check.compare_with_cpu(CPU, "bf16")
        if not difference.is_small
    ]
    assert wrong == ["generator"]
