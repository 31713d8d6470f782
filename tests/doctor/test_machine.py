"""Machine checks: each state of an Ascend machine, and the command that fixes it."""

from __future__ import annotations

import json
import os
import stat
import sys
import types
from pathlib import Path

import pytest
import torch

from wav2lip_npu import device
from wav2lip_npu.ascend import installation
from wav2lip_npu.cli import main
from wav2lip_npu.doctor import device_check

CPU = torch.device("cpu")
BASE = str(torch.__version__).partition("+")[0]
LACKS_CANN = "raise ImportError('libhccl.so: cannot open shared object file: No such file or directory')"
TWO = "raise RuntimeError('Two accelerators cannot be used at the same time in PyTorch: npu and cuda.')"
NPU_SMI = """#!/bin/sh
cat <<'END'
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1                 Version: 25.0.rc1                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 91.3        43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3359 / 65536         |
+===========================+===============+====================================================+
| 1     310P3               | Alarm         | NA          50                0    / 0             |
| 0     1                   | 0000:01:00.0  | 0           1578 / 21527                           |
+---------------------------+---------------+----------------------------------------------------+
END
"""
needs_bare_machine = pytest.mark.skipif(
    torch.cuda.is_available() or device.count_available("npu")[0] > 0,
    reason="this machine has an accelerator",
)
pytestmark = needs_bare_machine


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a torch_npu of some version that runs `code` when it is imported."""

    def install(code: str, version: str = BASE) -> None:
        site = tmp_path / "site"
        told = site / f"torch_npu-{version}.dist-info"
        told.mkdir(parents=True)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n")
        (site / "torch_npu.py").write_text(code)
        monkeypatch.syspath_prepend(site)

    monkeypatch.setattr(installation, "_PLACES", (str(tmp_path / "no CANN" / "latest"),))
    for name in installation._TOOLKITS:
        monkeypatch.delenv(name, raising=False)
    yield install
    sys.modules.pop("torch_npu", None)


def no_cards(monkeypatch, count=0):
    """Let torch.npu report this number of cards."""
    found = types.SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
    monkeypatch.setattr(torch, "npu", found, raising=False)


def test_no_plugin(plugin):
    found = installation.examine()
    assert found.state == "no plugin"
    assert found.fits.cann == "9.1.0"
    assert found.mend.startswith(f"pip install torch-npu=={BASE} pyyaml")


def test_torch_without_a_matching_plugin(plugin, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "3.1.4+cpu")
    found = installation.examine()
    assert found.fits is None
    assert found.mend.startswith("pip install torch==2.13.0 --index-url ")
    assert "pip install torch-npu==2.13.0" in found.mend


def test_plugin_of_another_torch(plugin):
    plugin("raise ImportError('undefined symbol: _ZN5torch3jit')", "2.7.1.post8")
    found = installation.examine()
    assert (found.state, found.plugin) == ("plugin of another torch", "2.7.1.post8")
    assert found.mend.startswith(f"pip install torch-npu=={BASE} ")


def test_two_accelerators(plugin):
    plugin(TWO)
    found = installation.examine()
    assert found.state == "two accelerators"
    assert found.mend.startswith(f"pip install --force-reinstall torch=={BASE} --index-url ")


def test_cuda_torch_with_a_failing_plugin(plugin, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    plugin("raise RuntimeError('anything')")
    assert installation.examine().state == "two accelerators"


def test_no_cann(plugin):
    plugin(LACKS_CANN)
    found = installation.examine()
    assert found.state == "plugin but no CANN"
    assert "libhccl.so" in found.reason
    assert found.mend.startswith("install CANN 9.1.0 (toolkit and kernels of your chip")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("version.cfg", "toolkit_running_version=[9.1.0:9.1.0.B030]\n"),
        ("aarch64-linux/ascend_toolkit_install.info", "package_name=Ascend-cann-toolkit\nversion=9.1.0\n"),
    ],
)
def test_cann_outside_the_path(plugin, tmp_path, monkeypatch, file, content):
    folder = tmp_path / "Ascend" / "ascend-toolkit" / "latest"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text(content)
    monkeypatch.setattr(installation, "_PLACES", (str(folder),))
    plugin(LACKS_CANN)
    found = installation.examine()
    assert (found.state, found.cann) == ("plugin but no CANN", "9.1.0")
    assert found.mend.startswith(f"source {folder.parent}/set_env.sh")


def test_no_card(plugin, tmp_path, monkeypatch):
    plugin("")
    no_cards(monkeypatch)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(installation, "_CARDS", str(tmp_path / "davinci[0-9]*"))
    found = installation.examine()
    assert found.state == "no card"
    assert "--device /dev/davinci0" in found.mend
    (tmp_path / "davinci0").touch(mode=0o600)
    assert installation.examine().mend.startswith("npu-smi info")
    if os.geteuid() != 0:
        (tmp_path / "davinci0").chmod(0)
        assert installation.examine().mend.startswith("sudo usermod -aG HwHiAiUser")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "")
    assert installation.examine().mend.startswith("unset ASCEND_RT_VISIBLE_DEVICES")


def test_ready_machine(plugin, monkeypatch):
    plugin("")
    no_cards(monkeypatch, count=2)
    found = installation.examine()
    assert (found.state, found.mend) == ("ready", "")


def test_cards_listed_by_npu_smi(tmp_path, monkeypatch):
    program = tmp_path / "npu-smi"
    program.write_text(NPU_SMI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = installation.examine()
    assert [tuple(card.values()) for card in found.cards] == [("0", "910B3", "OK"), ("1", "310P3", "Alarm")]
    assert found.driver == "25.0.rc1"
    program.write_text("#!/bin/sh\necho 'dcmi model initialized failed' >&2\nexit 1\n")
    assert installation.examine().cards[-1]["health"] == "dcmi model initialized failed"


def test_command_checks_the_machine(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/mine.pth").write_bytes(b"some weights")
    assert main.main(["doctor", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["ascend"]["state"] == "no plugin" and not found["missing_codecs"]
    assert found["packages"]["torch"] == torch.__version__
    assert found["weights"]["checkpoints/mine.pth"]["bytes"] == 12
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


def test_flags_of_clips_need_clips(capsys):
    assert main.main(["doctor", "--fix_offset"]) == 2
    assert "--fix_offset" in capsys.readouterr().err


def test_bf16_is_within_tolerance_and_a_wrong_network_is_not(monkeypatch):
    found = device_check.compare_with_cpu(CPU, "bf16")
    assert len(found) == 8
    assert all(each.is_small for each in found), "\n".join(map(str, found))
    assert max(each.largest for each in found) > 1e-3
    real = device_check._outputs

    def wrong_in_bf16(networks, inputs, device, amp):
        outputs = real(networks, inputs, device, amp)
        return {**outputs, "generator": outputs["generator"] + (0.2 if amp == "bf16" else 0)}

    monkeypatch.setattr(device_check, "_outputs", wrong_in_bf16)
    monkeypatch.setattr(device_check, "_training_step", lambda *_: {})
    wrong = [each.what for each in device_check.compare_with_cpu(CPU, "bf16") if not each.is_small]
    assert wrong == ["generator"]
