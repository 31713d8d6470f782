"""Device names and errors, on a machine without NPU and GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wav2lip_npu.devices import device, device_memory, number_formats
from wav2lip_npu.errors import DeviceError

ROOT = Path(__file__).parents[1]
needs_bare_machine = pytest.mark.skipif(
    torch.cuda.is_available() or device.count_available("npu")[0] > 0,
    reason="this machine has an accelerator",
)

WORKING_PLUGIN = """
import types, torch
torch.utils.rename_privateuse1_backend("npu")
def set_compile_mode(jit_compile):
    print("jit", jit_compile)
torch._register_device_module("npu", types.SimpleNamespace(
    is_available=lambda: True, device_count=lambda: 2, set_compile_mode=set_compile_mode,
    config=types.SimpleNamespace(),
    set_device=lambda where: print("current", where.index),
))
"""
USE_OF_THE_PLUGIN = """
from wav2lip_npu.devices import device, device_memory, number_formats
for spec in "auto", "npu", "npu:1", "npu:2":
    try:
        print(device.resolve(spec))
    except device.DeviceError as error:
        print(error)
device.activate(device.resolve("npu:1"))
"""


@needs_bare_machine
@pytest.mark.parametrize("spec", ["auto", "cpu", "cpu:0"])
def test_cpu_is_resolved(spec: str) -> None:
    assert device.resolve(spec) == torch.device("cpu")
    device.activate(device.resolve(spec))


@pytest.mark.parametrize(
    "spec", ["", "tpu", "cuda:x", "cuda:", "npu:", "cpu:-1", "cuda:1:2", " cpu", "cuda:٣", "npu:" + "9" * 30]
)
def test_unknown_device_is_refused(spec: str) -> None:
    with pytest.raises(DeviceError, match=r"^unknown device '.*'\. Pass --device "):
        device.resolve(spec)


@needs_bare_machine
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cuda", r"none found\..* CUDA build of torch .* --device cpu\."),
        ("cuda:1", r"none found\..* CUDA build of torch .* --device cpu\."),
        ("npu", r"none found \(No module named 'torch_npu'\)\. .*CANN.* --device cpu\."),
        ("npu:7", r"none found .* --device cpu\."),
        ("cpu:1", r"1 found\. Pass --device cpu\."),
    ],
)
def test_missing_device_is_refused(spec: str, message: str) -> None:
    with pytest.raises(DeviceError, match=f"^device '{spec}' is not available, {message}$") as caught:
        device.resolve(spec)
    assert "\n" not in str(caught.value)


@needs_bare_machine
@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        ("raise ImportError('libhccl.so: cannot open shared object file\\nmore')", "libhccl.so: cannot open"),
        ("raise AttributeError('module torch._C has no attribute X')", "has no attribute X"),
        ("raise RuntimeError()", "RuntimeError"),
        ("", "has no attribute 'npu'"),
    ],
    ids=["no CANN", "another torch", "no reason", "no plugin"],
)
def test_error_of_a_broken_plugin_is_reported(
    plugin: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "torch_npu.py").write_text(plugin)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(
            DeviceError, match=r"^device 'npu' is not available, none found \(.*pass --device cpu\.$"
        ) as caught:
            device.resolve("npu")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not caplog.messages
        assert device.resolve("auto") == torch.device("cpu")
        assert [message for message in caplog.messages if reason in message] == caplog.messages
        assert caplog.messages[0].startswith("torch_npu is installed, but no npu is available.")
    finally:
        sys.modules.pop("torch_npu", None)


@needs_bare_machine
def test_npu_has_an_index(tmp_path: Path) -> None:
    """An accelerator always has an index: `torch.cuda.set_device` refuses one without."""
    (tmp_path / "torch_npu.py").write_text(WORKING_PLUGIN)
    done = subprocess.run(  # a process of its own: the change to torch is permanent
        [sys.executable, "-c", USE_OF_THE_PLUGIN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "npu:0",
        "npu:0",
        "npu:1",
        "device 'npu:2' is not available, 2 found. Pass --device npu.",
        "jit False",
        "current 1",
    ]


@pytest.mark.needs_cuda
def test_cuda_is_resolved() -> None:
    if not torch.cuda.is_available():
        assert not os.environ.get("FAIL_WITHOUT_CUDA")
        pytest.skip("no CUDA device")
    where = device.resolve("cuda")
    device.activate(where)
    assert torch.zeros(1, device=where).device == torch.device("cuda:0")
    assert "cuda:0 (" in device.describe(where)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_is_recognised(error: BaseException) -> None:
    assert device_memory.is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError(""),
        ValueError("out of memory"),
        OSError(12, "Cannot allocate memory"),
        KeyboardInterrupt("out of memory"),
    ],
)
def test_other_errors_are_not_out_of_memory(error: BaseException) -> None:
    assert not device_memory.is_out_of_memory(error)


def test_out_of_memory_of_torch_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert device_memory.is_out_of_memory(caught.value)


def test_dtype_of_each_precision() -> None:
    assert [number_formats.dtype_of(name) for name in number_formats.PRECISIONS] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float32,
    ]
    for name in ("float32", "FP32", ""):
        with pytest.raises(DeviceError, match=f"'{name}'. Pass --precision fp32, bf16, fp16, fp32_strict."):
            number_formats.dtype_of(name)


@pytest.mark.parametrize(
    ("kind", "flags", "precision"),
    [
        ("cpu", "avx2 amx_bf16", "bf16"),
        ("cpu", "avx512f avx512_bf16", "bf16"),
        ("cpu", "avx512f", "fp32"),
        ("cuda", "avx2 amx_bf16", "fp32"),
    ],
)
def test_auto_is_bf16_where_a_cpu_computes_it(monkeypatch, kind, flags, precision) -> None:
    monkeypatch.setattr(number_formats, "_cpu_flags", lambda: frozenset(flags.split()))
    assert number_formats.generator_precision("auto", torch.device(kind)) == precision
    assert number_formats.generator_precision("fp16", torch.device(kind)) == "fp16"


def test_cpu_memory_and_cores() -> None:
    cpu = torch.device("cpu")
    assert device.memory_format(cpu) is torch.channels_last
    assert device_memory.device_peak_memory(cpu) is None
    assert device_memory.peak_memory() > 50 << 20
    assert 1 <= device.cpu_count() <= (os.cpu_count() or 1)
    assert device.describe(cpu) == f"cpu ({device.cpu_count()} cores)"
    device_memory.release_memory(cpu)
