"""Training and dubs on Huawei's torch_npu, compared with the CPU. `run.py` starts these tests.

The CPU computes in the layout that NPUs have, not channels last: then both add up in the same order, and
what is left of a difference is not rounding.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.networks import golden_weights
from support.trainings import (
    GENERATOR,
    ORIGINAL,
    SYNCNET,
    WITH_DISC,
    assert_same_checkpoints,
    command,
    difference,
    lines,
    read,
    start,
    train,
    weights,
)
from wav2lip_npu.cli import main
from wav2lip_npu.devices import device as devices
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models
from wav2lip_npu.media import video_reader
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip

if not os.environ.get("NPU_ADAPTER_RUNTIME"):
    pytest.skip("needs torch_npu on a fake runtime: run tests/npu_adapter/run.py", allow_module_level=True)
SAME_LAYOUT = Path(__file__).with_name("same_layout.py")
TORCHRUN = f"-m torch.distributed.run --standalone --nproc_per_node 2 {SAME_LAYOUT}"
KINDS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "syncnet": (SYNCNET, {"accumulate": 2}),
    "original": (ORIGINAL, {"clip_grad_norm": 1}),
    "generator": (GENERATOR, {"syncnet_wt": 0.1}),
    "with_disc": (WITH_DISC, {"sync_gate": 100}),
}


@pytest.fixture(scope="module")
def npu() -> torch.device:
    """Load torch_npu before the first backward pass, when PyTorch starts threads for the existing devices."""
    where = devices.resolve("npu")
    devices.activate(where)
    return where


@pytest.fixture
def same_layout(npu, monkeypatch) -> None:
    monkeypatch.setitem(devices.BACKENDS, "cpu", devices.BACKENDS["cpu"]._replace(channels_last=False))


def assert_close(one: Path, other: Path, step: int) -> None:
    names = sorted(path.name for path in one.glob(f"*_step{step:09d}.pth"))
    assert names
    for name in names:
        assert difference(weights(one / name), weights(other / name)) < 1e-4, name
    for part in ("train", "held_out"):
        for first, second in zip(lines(one, part), lines(other, part), strict=True):
            assert first == pytest.approx(second, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_equals_the_cpu(clips, tmp_path, same_layout, kind):
    words, flags = KINDS[kind]
    flags = {"steps": 4, "eval_interval": 2, "log_interval": 1, **flags}
    cpu = train(clips, tmp_path / "cpu", words, device="cpu", **flags)
    npu = train(clips, tmp_path / "npu", words, device="npu", **flags)
    assert_close(cpu, npu, 4)
    saved = read(npu / "checkpoint_step000000004.pth")
    assert set(saved["wav2lip_npu"]["rng"][0]) == {"cpu", "npu"}
    assert saved["optimizer"]["state"][0]["exp_avg"].device.type == "cpu"


def test_resumed_training_equals_uninterrupted_training(clips, tmp_path, npu):
    flags = {"device": "npu", "eval_interval": 2}
    once = train(clips, tmp_path / "once", WITH_DISC, steps=4, **flags)
    twice = train(clips, tmp_path / "twice", WITH_DISC, steps=2, **flags)
    train(clips, twice, WITH_DISC, steps=4, **flags)
    assert_same_checkpoints(once, twice, 4)


def test_training_moves_between_devices(clips, tmp_path, same_layout):
    flags = {"eval_interval": 1, "data_on": "host"}
    cpu = train(clips, tmp_path / "cpu", SYNCNET, steps=4, device="cpu", **flags)
    moved = train(clips, tmp_path / "moved", SYNCNET, steps=2, device="npu", **flags)
    train(clips, moved, SYNCNET, steps=3, device="cpu", **flags)
    train(clips, moved, SYNCNET, steps=4, device="npu", **flags)
    assert_close(cpu, moved, 4)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_half_precision_learns(clips, tmp_path, npu, amp):
    out = train(
        clips, tmp_path / amp, WITH_DISC, steps=3, log_interval=1, device="npu", amp=amp, sync_gate=100
    )
    before = train(clips, tmp_path / "first", WITH_DISC, steps=1, device="npu", amp=amp, sync_gate=100)
    at = "checkpoint_step00000000{}.pth"
    assert difference(weights(out / at.format(3)), weights(before / at.format(1))) > 0
    scaler = read(out / at.format(3))["wav2lip_npu"]["scaler"]
    assert bool(scaler) == (amp == "fp16")
    assert all(np.isfinite(row["l1"]) for row in lines(out, "train"))


@pytest.mark.parametrize(("loss_scale", "skipped"), [("dynamic", 0), ("1e12", 2)])
def test_saturating_chip(training_set, tmp_path, monkeypatch, loss_scale, skipped):
    """With Huawei's scaler, an overflow sets a flag of the chip and does not produce infinity."""
    words = command(
        training_set, tmp_path / "out", GENERATOR, steps=2, device="npu", amp="fp16", loss_scale=loss_scale
    )
    monkeypatch.setenv("FAKE_ACL_SOC", "Ascend910A")
    child = start(words)
    text, _ = child.communicate(timeout=280)
    assert child.returncode == 0, text
    assert "on npu:0 (Ascend910A)" in text
    saved = read(tmp_path / "out" / "checkpoint_step000000002.pth")
    assert saved["wav2lip_npu"]["skipped"] == skipped
    assert bool(saved["optimizer"]["state"]) == (not skipped)


def test_fp16_training_moves_to_a_saturating_chip(training_set, tmp_path, npu, monkeypatch):
    flags = {"device": "npu", "amp": "fp16"}
    out = train(training_set, tmp_path / "out", GENERATOR, steps=1, **flags)
    monkeypatch.setenv("FAKE_ACL_SOC", "Ascend910A")
    child = start(command(training_set, out, GENERATOR, steps=2, **flags))
    text, _ = child.communicate(timeout=280)
    assert child.returncode == 0, text


# ---- dubbing


def test_dub_equals_the_cpu(face_video, speech, tiny_checkpoint, tmp_path, same_layout):
    def dubbed(device: str) -> tuple[dict[str, Any], list[video_reader.Frame]]:
        out, report = tmp_path / f"{device}.mp4", tmp_path / f"{device}.json"
        words = {
            "face": face_video, "audio": speech, "checkpoint_path": tiny_checkpoint, "outfile": out,
            "report": report, "device": device, "detector": "hog", "crf": 0,
        }  # fmt: skip
        assert (
            main.main(["dub", *(str(word) for name, value in words.items() for word in (f"--{name}", value))])
            == 0
        )
        return json.loads(report.read_text()), list(video_reader.read_frames(out))

    (cpu, expected), (npu, frames) = dubbed("cpu"), dubbed("npu")
    assert npu["device"] == "npu:0 (Ascend910B3)"
    assert npu["device_peak_memory_bytes"] > 0
    assert cpu["dubbed_frames"] == npu["dubbed_frames"] == npu["frames"] == len(frames) == len(expected)
    for one, other in zip(expected, frames, strict=True):
        assert np.abs(one.yuv.y.astype(int) - other.yuv.y).max() <= 1


def test_full_memory_halves_the_batch(tmp_path, npu, caplog):
    path = tmp_path / "generator.pth"
    checkpoint.save(path, golden_weights(Wav2Lip(width=8)))
    speaker = GeneratorRunner(load_models(path, detector="hog", device="npu"), 32, load_mask("soft", 96))
    random = np.random.default_rng(0)
    faces = list(random.integers(255, size=(16, 96, 96, 3), dtype=np.uint8))
    mels = list(random.normal(size=(16, 80, 16)).astype(np.float32))
    torch.npu.reset_peak_memory_stats(npu)
    expected = speaker(faces, mels)
    needed, total = torch.npu.max_memory_reserved(npu), torch.npu.mem_get_info(npu)[1]
    torch.npu.empty_cache()
    torch.npu.set_per_process_memory_fraction(0.6 * needed / total, npu)
    try:
        with caplog.at_level(logging.WARNING):
            made = speaker(faces, mels)
    finally:
        torch.npu.set_per_process_memory_fraction(1.0, npu)
    assert "out of memory on npu:0" in caplog.text
    assert speaker.batch < 16
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(expected, made, strict=True)) <= 1


# ---- two processes on ProcessGroupHCCL


@pytest.mark.parametrize("kind", ["syncnet", "with_disc"])
def test_two_ranks(training_set, tmp_path, npu, kind):
    """Each rank has its own card; the results equal two CPU ranks over gloo."""
    words, flags = KINDS[kind]
    for device in ("cpu", "npu"):
        asked = command(
            training_set, tmp_path / device, words, steps=3, eval_interval=2, device=device, **flags
        )
        child = start(asked, TORCHRUN)
        text, _ = child.communicate(timeout=280)
        assert child.returncode == 0, text
        assert f"on {'npu:0 (Ascend910B3)' if device == 'npu' else 'cpu'}" in text
        assert "rank 0 of 2" in text
    saved = read(tmp_path / "npu" / "checkpoint_step000000003.pth")
    assert len(saved["wav2lip_npu"]["rng"]) == 2
    assert_close(tmp_path / "cpu", tmp_path / "npu", 3)
