"""States of the Ascend installation, and the command that fixes each."""

from __future__ import annotations

import os
import sys
import types

import pytest
import torch

from wav2lip_npu.ascend import installation
from wav2lip_npu.devices import device

BASE = "2.13.0"
NO_CANN = "raise ImportError('libhccl.so: cannot open shared object file: No such file or directory')"
TWO_ACCELERATORS = (
    "raise RuntimeError('Two accelerators cannot be used at the same time in PyTorch: npu and cuda.')"
)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or device.count_available("npu")[0] > 0,
    reason="this machine has an accelerator",
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a plugin of a version, with code that runs at its import; remove it after the test."""

    def install(code: str, version: str = BASE) -> None:
        site = tmp_path / "site"
        metadata = site / f"torch_npu-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n")
        (site / "torch_npu.py").write_text(code)
        monkeypatch.syspath_prepend(site)

    monkeypatch.setattr(torch, "__version__", f"{BASE}+cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(installation, "_CANN_FOLDERS", (str(tmp_path / "no CANN" / "latest"),))
    for name in installation._TOOLKITS:
        monkeypatch.delenv(name, raising=False)
    yield install
    sys.modules.pop("torch_npu", None)


def set_card_count(monkeypatch, count):
    """Let the loaded plugin report `count` cards."""
    module = types.SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
    monkeypatch.setattr(torch, "npu", module, raising=False)


def test_no_plugin(plugin):
    ascend = installation.examine()
    assert ascend.state == "no plugin"
    assert ascend.fits.cann == "9.1.0"
    assert ascend.fix.startswith(f"pip install torch-npu=={BASE} pyyaml")


def test_torch_without_a_matching_plugin(plugin, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "3.1.4+cpu")
    ascend = installation.examine()
    assert ascend.fits is None
    assert ascend.fix.startswith("pip install torch==2.13.0 --index-url ")
    assert "pip install torch-npu==2.13.0" in ascend.fix


def test_plugin_for_another_torch(plugin):
    plugin("raise ImportError('undefined symbol: _ZN5torch3jit')", "2.7.1.post8")
    ascend = installation.examine()
    assert (ascend.state, ascend.plugin) == ("plugin of another torch", "2.7.1.post8")
    assert ascend.fix.startswith(f"pip install torch-npu=={BASE} ")


def test_two_accelerators(plugin):
    plugin(TWO_ACCELERATORS)
    ascend = installation.examine()
    assert ascend.state == "two accelerators"
    assert ascend.fix.startswith(f"pip install --force-reinstall torch=={BASE} --index-url ")


def test_cuda_build_of_torch_with_a_failing_plugin(plugin, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    plugin("raise RuntimeError('anything')")
    assert installation.examine().state == "two accelerators"


def test_no_cann(plugin):
    plugin(NO_CANN)
    ascend = installation.examine()
    assert ascend.state == "plugin but no CANN"
    assert "libhccl.so" in ascend.reason
    assert ascend.fix.startswith("install CANN 9.1.0 (toolkit and kernels for your chip")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("version.cfg", "toolkit_running_version=[9.1.0:9.1.0.B030]\n"),
        ("aarch64-linux/ascend_toolkit_install.info", "package_name=Ascend-cann-toolkit\nversion=9.1.0\n"),
    ],
)
def test_cann_is_installed_but_not_on_the_path(plugin, tmp_path, monkeypatch, file, content):
    folder = tmp_path / "Ascend" / "ascend-toolkit" / "latest"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text(content)
    monkeypatch.setattr(installation, "_CANN_FOLDERS", (str(folder),))
    plugin(NO_CANN)
    ascend = installation.examine()
    assert (ascend.state, ascend.cann) == ("plugin but no CANN", "9.1.0")
    assert ascend.fix.startswith(f"source {folder.parent}/set_env.sh")


def test_no_card(plugin, tmp_path, monkeypatch):
    plugin("")
    set_card_count(monkeypatch, 0)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(installation, "_DEVICE_FILES", str(tmp_path / "davinci[0-9]*"))
    ascend = installation.examine()
    assert ascend.state == "no card"
    assert "--device /dev/davinci0" in ascend.fix
    (tmp_path / "davinci0").touch(mode=0o600)
    assert installation.examine().fix.startswith("npu-smi info")
    if os.geteuid() != 0:
        (tmp_path / "davinci0").chmod(0)
        assert installation.examine().fix.startswith("sudo usermod -aG HwHiAiUser")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "")
    assert installation.examine().fix.startswith("unset ASCEND_RT_VISIBLE_DEVICES")


def test_ready_machine(plugin, monkeypatch):
    plugin("")
    set_card_count(monkeypatch, 2)
    ascend = installation.examine()
    assert (ascend.state, ascend.fix) == ("ready", "")
