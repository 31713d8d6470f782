"""The device layer on Huawei's torch_npu, without an NPU. `run.py` starts these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.networks import golden_weights
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import device_memory, mixed_precision, random_state, transfers
from wav2lip_npu.errors import DeviceError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip

RUNTIME = os.environ.get("NPU_ADAPTER_RUNTIME")
if not RUNTIME:
    pytest.skip("needs torch_npu on a fake runtime: run tests/npu_adapter/run.py", allow_module_level=True)
ROOT = Path(__file__).resolve().parents[2]
FROM_RUNTIME = ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "LD_LIBRARY_PATH", "TORCH_DEVICE_BACKEND_AUTOLOAD")


@pytest.fixture(scope="module")
def npu() -> torch.device:
    """The first of two devices, activated like in the commands."""
    where = devices.resolve("npu")
    devices.activate(where)
    return where


def python(*words: str | Path, runtime: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a separate process, with the fake runtime or like on a machine with only the wheel."""
    kept = {name: value for name, value in os.environ.items() if runtime or name not in FROM_RUNTIME}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=280,
    )


def facts(code: str, **variables: str) -> Any:
    """Return the JSON output of a process."""
    done = python("-c", code, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- devices


def test_it_is_the_real_adapter(npu):
    plugin = sys.modules["torch_npu"]
    assert plugin.__version__.startswith("2.13.0")
    assert Path(plugin._C.__file__).stat().st_size > 0
    assert (Path(plugin.__file__).parent / "lib" / "libtorch_npu.so").stat().st_size > 50 << 20


def test_resolve(npu):
    assert devices.resolve("auto") == npu == torch.device("npu:0")
    assert devices.resolve("npu:1") == torch.device("npu:1")
    with pytest.raises(
        DeviceError, match=r"^device 'npu:2' is not available, 2 found\. Pass --device npu\.$"
    ):
        devices.resolve("npu:2")
    assert devices.describe(npu) == "npu:0 (Ascend910B3)"
    assert devices.resolve("cpu") == torch.device("cpu")


def test_no_card():
    """Plugin and CANN are installed, but there is no device."""
    done = python("-c", RESOLVE, FAKE_ACL_DEVICES="0")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("device 'npu' is not available, none found. Install CANN"), done.stderr
    assert lines[1] == "cpu"
    warnings = [line for line in done.stderr.splitlines() if "torch_npu is installed" in line]
    assert len(warnings) == 1


RESOLVE = """
from wav2lip_npu.devices import device
try:
    print(device.resolve("npu"))
except device.DeviceError as error:
    print(error)
print(device.resolve("auto"))
"""


def test_threads_compute_on_the_device(npu):
    """A thread has no current device until it calls `activate`, like every stage of a dub."""
    rows = torch.rand(8, 8)
    made = []

    def work() -> None:
        devices.activate(npu)
        made.append((rows.to(npu) @ rows.to(npu)).cpu())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert torch.equal(made[0], rows @ rows)


# ---- chips

CHIP = """
import contextlib, json, torch
from wav2lip_npu.devices import device as devices, device_memory, mixed_precision, number_formats, random_state, transfers
from wav2lip_npu.models.networks import Wav2Lip
where = devices.resolve("npu")
devices.activate(where)
import torch_npu

def formats(network):
    tensors = [*network.parameters(), *network.buffers()]
    return sorted({torch_npu.Format(torch_npu.get_npu_format(each)).name for each in tensors})

def error_of(work):
    try:
        with work():
            return None
    except devices.DeviceError as error:
        return str(error)

scaler = mixed_precision.grad_scaler(where, "fp16", "dynamic")
constant = mixed_precision.grad_scaler(where, "fp16", "1024")
network = Wav2Lip(width=2).to(where, memory_format=devices.memory_format(where))
number_formats.full_float32(where)
print(json.dumps({
    "name": devices.describe(where),
    "bf16": error_of(lambda: mixed_precision.autocast(where, "bf16")),
    "fp16": error_of(lambda: mixed_precision.autocast(where, "fp16")),
    "scaler": type(scaler).__module__,
    "enabled": [scaler.is_enabled(), mixed_precision.grad_scaler(where, "off", "dynamic").is_enabled()],
    "scale": [scaler.get_scale(), constant.get_scale(), constant.get_growth_interval()],
    "formats": formats(network),
}))
"""
TORCHS, HUAWEIS = "torch.amp.grad_scaler", "torch_npu.npu.amp.grad_scaler"


@pytest.mark.parametrize(
    ("chip", "bf16", "scaler"),
    [
        ("Ascend910B3", True, TORCHS),
        ("Ascend910A", False, HUAWEIS),
        ("Ascend310P3", False, HUAWEIS),
    ],
)
def test_chips(chip, bf16, scaler):
    found = facts(CHIP, FAKE_ACL_SOC=chip)
    assert found["name"] == f"npu:0 ({chip})"
    assert found["bf16"] == (None if bf16 else "npu:0 does not support bf16. Pass --amp fp16.")
    assert found["fp16"] is None
    assert found["scaler"] == scaler
    assert found["enabled"] == [True, False]
    assert found["scale"] == [2.0**16, 1024, mixed_precision.NEVER]
    assert set(found["formats"]) <= {"NCHW", "ND"}


RECAST = """
import json, torch
from wav2lip_npu.devices import device as devices, device_memory, mixed_precision, number_formats, random_state, transfers
where = devices.resolve("npu")
torch.npu.set_device(where)  # without `activate`
network = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3), torch.nn.BatchNorm2d(16))
try:
    network.to(where)
    print(json.dumps(""))
except RuntimeError as error:
    print(json.dumps(str(error)))
"""


def test_without_activate_weights_would_be_recast():
    """The error shows that torch_npu requested an operator that the fake runtime does not have."""
    done = python("-c", RECAST, FAKE_ACL_SOC="Ascend910A")
    assert "there is no operator" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])


# ---- tensors


def test_layout(npu):
    assert devices.memory_format(npu) is torch.contiguous_format
    pictures = torch.rand(2, 3, 8, 8, device=npu)
    assert pictures.contiguous(memory_format=devices.memory_format(npu)).is_contiguous()
    with pytest.raises(RuntimeError, match="contiguous"):  # hence `channels_last` is False in BACKENDS
        pictures.contiguous(memory_format=torch.channels_last)


def test_upload(npu):
    random = np.random.default_rng(0)
    arrays = {
        "faces": random.integers(255, size=(4, 5, 96, 96, 3), dtype=np.uint8),
        "mels": random.normal(size=(4, 80, 16)).astype(np.float32),
        "clip": np.arange(4),
    }
    tensors = transfers.upload(arrays, npu)
    for name, array in arrays.items():
        assert tensors[name].device == npu
        assert np.array_equal(tensors[name].cpu().numpy(), array)
    assert device_memory.device_peak_memory(npu) >= arrays["faces"].nbytes


def test_random_numbers_continue_after_restoring_the_state(npu):
    random_state.seed_all(3)
    torch.rand(3, device=npu)
    states = random_state.rng_state(npu)
    assert set(states) == {"cpu", "npu"}
    assert all(state.device.type == "cpu" for state in states.values())
    before = [torch.rand(4, device=npu).cpu(), torch.rand(4)]
    random_state.seed_all(4)
    random_state.set_rng_state(npu, states)
    assert all(map(torch.equal, before, [torch.rand(4, device=npu).cpu(), torch.rand(4)]))
    random_state.set_rng_state(npu, {"cpu": states["cpu"]})  # the state of a training run on a CPU
    assert torch.equal(torch.rand(4), before[1])


@pytest.mark.parametrize(("amp", "dtype"), [("off", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_autocast(npu, amp, dtype):
    convolution, linear = torch.nn.Conv2d(3, 4, 3).to(npu), torch.nn.Linear(4, 4).to(npu)
    with mixed_precision.autocast(npu, amp):
        made = linear(convolution(torch.rand(2, 3, 8, 8, device=npu)).mean((2, 3)))
        assert made.dtype is getattr(torch, dtype)
        cosine = torch.nn.functional.cosine_similarity(made, made)
        assert cosine.dtype is torch.float32
    made.float().sum().backward()
    assert convolution.weight.grad.dtype is torch.float32
    assert torch.rand(1, device=npu).dtype is torch.float32


def test_out_of_memory(npu):
    """The error of torch_npu is recognised, at a limit far below the memory of the fake device."""
    torch.npu.empty_cache()
    torch.npu.set_per_process_memory_fraction(1e-3, npu)
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 30, dtype=torch.uint8, device=npu)
    finally:
        torch.npu.set_per_process_memory_fraction(1.0, npu)
    assert device_memory.is_out_of_memory(caught.value)
    device_memory.release_memory(npu)
    assert torch.zeros(8, device=npu).sum() == 0


# ---- checkpoints

READ = """
import sys, torch
from wav2lip_npu.models import checkpoint
for path in sys.argv[1:]:
    try:
        weights = torch.load(path, weights_only=True)
        print({each.device.type for each in weights["state_dict"].values()})
    except RuntimeError as error:
        print(str(error).splitlines()[0])
    print(checkpoint.load(path, "generator").width)
assert "torch_npu" not in sys.modules
"""


def test_checkpoints_load_without_an_npu(npu, tmp_path):
    """Other programs can load them. Tensors saved on an NPU by PyTorch can be read only by wav2lip-npu."""
    network = golden_weights(Wav2Lip(width=2)).to(npu)
    ours, plain = tmp_path / "ours.pth", tmp_path / "plain.pth"
    checkpoint.save(ours, network)
    torch.save(network.state_dict(), plain)
    done = python("-c", READ, ours, plain, runtime=False, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert lines[0] == "{'cpu'}"
    assert "npu:0" in lines[2]
    assert lines[1] == lines[3] == "2"


# ---- dubs in separate processes


def dub(face: Path, audio: Path, weights: Path, out: Path, device: str, **options: Any) -> Any:
    words = {"face": face, "audio": audio, "checkpoint_path": weights, "outfile": out, "device": device}
    flags = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
    return python("-m", "wav2lip_npu", "dub", *flags, "--detector", "hog", **options)


def test_the_second_card_dubs(face_video, speech, tiny_checkpoint, tmp_path):
    done = dub(face_video, speech, tiny_checkpoint, tmp_path / "out.mp4", "npu:1")
    assert done.returncode == 0, done.stderr
    assert "device npu:1 (Ascend910B3)" in done.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_without_cann_a_cpu_dubs(face_video, speech, tiny_checkpoint, tmp_path):
    done = dub(face_video, speech, tiny_checkpoint, tmp_path / "out.mp4", "cpu", runtime=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 1000
    assert "torch_npu" not in done.stderr


def test_without_cann_an_npu_is_refused(face_video, speech, tiny_checkpoint, tmp_path):
    done = dub(face_video, speech, tiny_checkpoint, tmp_path / "out.mp4", "npu", runtime=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "libhccl" in line] == [done.stderr.splitlines()[-1]]
    assert done.stderr.splitlines()[-1].startswith(
        "wav2lip-npu: device 'npu' is not available, none found (libhccl"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.mp4").exists()


def test_without_cann_auto_is_a_cpu(face_video, speech, tiny_checkpoint, tmp_path):
    done = dub(face_video, speech, tiny_checkpoint, tmp_path / "out.mp4", "auto", runtime=False)
    assert done.returncode == 0, done.stderr
    assert sum("libhccl" in line for line in done.stderr.splitlines()) == 1
    assert "device cpu" in done.stderr
