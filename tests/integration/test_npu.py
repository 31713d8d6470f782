"""The package on the simulated NPU (`TEST_DEVICE=npu`): results equal to the CPU, and rules of the hardware.

Tests of broken rules patch a mistake into the package and check that a run which otherwise succeeds fails.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from support.devices import DEVICE
from support.faces import SquareDetector
from support.trainings import (
    GENERATOR,
    ORIGINAL,
    ROOT,
    SYNCNET,
    WITH_DISC,
    command,
    difference,
    lines,
    start,
    train,
    weights,
)
from wav2lip_npu.cli import main
from wav2lip_npu.devices import device, mixed_precision, transfers
from wav2lip_npu.doctor import device_check
from wav2lip_npu.dubbing import inference
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pipeline import dub
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.s3fd import S3fdDetector
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.parallel import processes
from wav2lip_npu.parallel.work_queue import Failure
from wav2lip_npu.training import generator_objective, losses

pytestmark = [pytest.mark.any_device, pytest.mark.npu_only]
LOSSLESS = EncodeOptions(crf=0, preset="ultrafast")


@pytest.fixture
def simulation() -> Any:
    """Controls of the simulated device."""
    import torch_npu

    assert torch_npu.SIMULATED
    return torch_npu.simulation


def models_on(device_name: str, path: Path, **options: Any) -> inference.Models:
    return replace(
        inference.load_models(path, detector="hog", device=device_name, **options), detector=SquareDetector()
    )


def dub_frames(models: inference.Models, face: Path, audio: Path, out: Path) -> np.ndarray:
    """Dub and return all frames."""
    dub(face, audio, out, models=models, options=DubOptions(encode=LOSSLESS))
    return np.stack([frame.image for frame in video_reader.read_frames(out)])


# Results equal to the CPU


def test_auto_is_the_npu():
    assert device.resolve("auto") == DEVICE == torch.device("npu:0")
    assert "simulated" in device.describe(DEVICE)


@pytest.mark.parametrize(
    "precision", ["fp32", "fp16", "fp32_strict", pytest.param("bf16", marks=pytest.mark.slow)]
)
def test_dub_equals_the_cpu(tiny_checkpoint, face_video, speech, tmp_path, precision):
    results, wanted = (
        dub_frames(
            models_on(target, tiny_checkpoint, precision=precision),
            face_video,
            speech,
            tmp_path / f"{target}.mkv",
        )
        for target in ("npu", "cpu")
    )
    assert results.shape == wanted.shape
    off = np.abs(results.astype(int) - wanted)
    # One level in each YUV plane becomes up to four in BGR.
    assert off.max() <= (4 if precision.startswith("fp32") else 6)
    assert off.mean() < (0.01 if precision.startswith("fp32") else 0.5)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [(SYNCNET, [""]), (GENERATOR, [""]), (WITH_DISC, ["", "disc_"])],
    ids=["syncnet", "generator", "with discriminator"],
)
def test_training_equals_the_cpu(clips, tmp_path, words, kinds, monkeypatch):
    more = {"syncnet_wt": 0.03} if words[0] == "train" else {}
    # Use the layout of the NPU: rounding of another order of summation would grow with each step.
    monkeypatch.setitem(device.BACKENDS, "cpu", device.BACKENDS["cpu"]._replace(channels_last=False))
    outs = [
        train(
            clips,
            tmp_path / target,
            words,
            steps=4,
            device=target,
            eval_interval=2,
            learning_rate=1e-5,
            **more,
        )
        for target in ("npu", "cpu")
    ]
    for kind in kinds:
        one, other = (weights(out / f"{kind}checkpoint_step000000004.pth") for out in outs)
        assert all(value.device.type == "cpu" for value in one.values())
        # Adam turns a gradient that is a rounding error into a whole step.
        assert difference(one, other) < 1e-4
        near = [
            float((one[name] - other[name]).abs().mean()) for name in one if one[name].is_floating_point()
        ]
        assert max(near) < 1e-5
    for part in ("train", "held_out"):
        for one, other in zip(*(lines(out, part) for out in outs), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_s3fd_equals_the_cpu():
    from face_alignment.detection.sfd.net_s3fd import s3fd

    network = s3fd().eval()
    images = np.random.default_rng(0).integers(255, size=(2, 96, 128, 3), dtype=np.uint8)
    wanted = S3fdDetector(network, "cpu")._forward(images)
    results = S3fdDetector(network.to(DEVICE), str(DEVICE))._forward(images)
    for one, other in zip(results, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_retinaface_equals_the_cpu(simulation):
    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    (wanted,) = load_detector("auto", "cpu")([photo])[0]
    with simulation.listed_kernels_only(), simulation.no_wide_dtypes():
        (face,) = load_detector("auto", str(DEVICE))([photo])[0]
    np.testing.assert_allclose(face.box, wanted.box, atol=1e-2)
    np.testing.assert_allclose(face.landmarks, wanted.landmarks, atol=1e-2)
    assert abs(face.score - wanted.score) < 1e-4


def test_mixed_precision_is_close_to_the_cpu():
    """test_ascend_guide.py compares float32 with `doctor`; fp16 is compared below (slow)."""
    differences = device_check.compare_with_cpu(DEVICE, "bf16")
    assert all(entry.is_small for entry in differences), "\n".join(map(str, differences))


# Rules of the hardware


def test_only_supported_operators_and_no_float64(
    clips, tmp_path, tiny_checkpoint, face_video, speech, simulation
):
    """Check training, evaluation and dubbing."""
    with simulation.op_log() as ops, simulation.listed_kernels_only(), simulation.no_wide_dtypes():
        train(clips, tmp_path / "e", SYNCNET, steps=2, eval_interval=1, average=0.9)
        train(clips, tmp_path / "g", WITH_DISC, steps=2, eval_interval=1, syncnet_wt=0.03, clip_grad_norm=1)
        for precision in ("fp32", "fp16"):
            dub_frames(
                models_on("npu", tiny_checkpoint, precision=precision), face_video, speech, tmp_path / "x.mkv"
            )
    assert {"convolution", "convolution[transposed]", "native_batch_norm"} <= ops.names()


def test_device_is_activated_before_its_first_tensor(tiny_checkpoint, clips, tmp_path, simulation):
    """Otherwise torch_npu changes the format of weights in place."""
    for use in (
        lambda: inference.load_models(tiny_checkpoint, device="npu"),
        lambda: train(clips, tmp_path / "e", SYNCNET, steps=1),
    ):
        with simulation.settings_of() as settings:
            use()
        for name in ("set_compile_mode.jit_compile", "config.allow_internal_format"):
            setting = settings.of(name)
            assert setting is not None and setting.value is False and setting.before_first_tensor, name


def test_fp32_strict_turns_hf32_off(tiny_checkpoint, simulation):
    with simulation.settings_of() as settings:
        inference.load_models(tiny_checkpoint, device="npu", precision="fp32_strict")
    assert settings.of("conv.allow_hf32").value is False
    assert settings.of("matmul.allow_hf32").value is False
    assert settings.of("option.ACL_PRECISION_MODE").value == "must_keep_origin_dtype"


RECIPE = {
    name: (ROOT / "recipes" / "starter" / f"{name}.flags").read_text().split()
    for name in ("syncnet", "generator")
}


@pytest.mark.parametrize(
    "words",
    [
        SYNCNET,
        GENERATOR,
        [*SYNCNET, *RECIPE["syncnet"], "--cosine_steps", 9],
        [*GENERATOR, *RECIPE["generator"], "--sync_from", 0, "--ramp_steps", 9],
    ],
    ids=["syncnet", "generator", "recipe of syncnet", "recipe of the generator"],
)
def test_training_step_synchronizes_once(clips, tmp_path, words, simulation):
    """It reads the losses, which are checked before the weights change."""
    waits = []
    for steps in (2, 5):
        with simulation.host_reads() as reads:
            train(clips, tmp_path / str(steps), words, steps=steps, eval_interval=100, average=0)
        waits.append(reads.total())
    assert waits[1] - waits[0] == 3


def test_dub_batch_waits_for_its_own_copy_only(tiny_checkpoint, simulation):
    from wav2lip_npu.dubbing.blend import load_mask

    runner = inference.GeneratorRunner(models_on("npu", tiny_checkpoint), 4, load_mask("soft", 96))
    random = np.random.default_rng(0)
    faces = list(random.integers(255, size=(16, 96, 96, 3), dtype=np.uint8))
    mels = list(random.uniform(-4, 4, (16, 80, 16)).astype(np.float32))
    with simulation.host_reads() as reads:
        runner(faces, mels)
    assert reads.total() == 0, dict(reads)


def test_uninitialized_memory_is_never_read(clips, tmp_path, simulation):
    with simulation.poison():
        train(clips, tmp_path / "poisoned", SYNCNET, steps=2)
    train(clips, tmp_path / "clean", SYNCNET, steps=2)
    one, other = (weights(tmp_path / name / "checkpoint_step000000002.pth") for name in ("poisoned", "clean"))
    assert difference(one, other) == 0


def test_full_memory_halves_the_batch(tiny_checkpoint, simulation, caplog):
    from wav2lip_npu.dubbing.blend import load_mask

    runner = inference.GeneratorRunner(models_on("npu", tiny_checkpoint), 2 * 32, load_mask("soft", 96))
    faces = [np.full((96, 96, 3), number, np.uint8) for number in range(32)]
    mels = [np.zeros((80, 16), np.float32)] * 32
    wanted = runner(faces, mels)
    torch.npu.reset_peak_memory_stats()
    runner(faces, mels)
    peak, held = torch.npu.max_memory_allocated(), torch.npu.memory_allocated()
    with simulation.memory_limit(held + (peak - held) // 2):
        results = runner(faces, mels)
    assert "npu:0" in caplog.text and "16" in caplog.text
    assert np.abs(np.stack(results).astype(int) - np.stack(wanted)).max() <= 1


@pytest.mark.parametrize("chip", ["310P3", "910A"])
def test_chips_without_bf16_reject_it(clips, tmp_path, simulation, chip, capsys):
    mixed_precision._computes_bf16.cache_clear()
    try:
        with simulation.chip(chip):
            assert main.main(command(clips, tmp_path, SYNCNET, steps=1, amp="bf16")) == 2
            assert "does not support bf16. Pass --amp fp16." in capsys.readouterr().err
    finally:
        mixed_precision._computes_bf16.cache_clear()


@pytest.mark.slow  # the backward pass of a generator in fp16 takes minutes on a CPU
def test_fp16_is_close_to_the_cpu_on_a_saturating_chip(simulation):
    with simulation.chip("310P3"):
        assert all(entry.is_small for entry in device_check.compare_with_cpu(DEVICE, "fp16"))


def test_fp16_overflow_is_detected_on_a_saturating_chip(clips, tmp_path, simulation):
    with simulation.chip("310P3"):
        # In small batches, because convolutions in fp16 are slow on a CPU.
        train(clips, tmp_path, ORIGINAL, steps=2, amp="fp16", loss_scale="16777216", log_interval=1)
    assert lines(tmp_path, "train")[-1]["skipped"] > 0
    assert all(
        np.isfinite(value).all() for value in map(np.asarray, weights(next(tmp_path.glob("*2.pth"))).values())
    )


# Broken rules are detected


def test_tensor_on_the_wrong_device_is_detected(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(
        transfers, "upload", lambda arrays, target: {k: torch.from_numpy(v) for k, v in arrays.items()}
    )
    with pytest.raises(RuntimeError, match="same device|on npu"):
        train(clips, tmp_path, SYNCNET, steps=1)


def test_syncnet_input_on_the_wrong_device_is_detected(clips, tmp_path, monkeypatch):
    real = generator_objective.syncnet_input
    monkeypatch.setattr(generator_objective, "syncnet_input", lambda faces: real(faces).cpu())
    with pytest.raises(RuntimeError, match="same device|on npu"):
        train(clips, tmp_path, GENERATOR, steps=1, syncnet_wt=0.03)


def test_unfinished_copy_is_detected(tiny_checkpoint, face_video, speech, tmp_path, monkeypatch):
    models = models_on("npu", tiny_checkpoint)
    wanted = dub_frames(models, face_video, speech, tmp_path / "right.mkv")
    monkeypatch.setattr(transfers, "download", lambda tensor: transfers._copying(tensor)[0])
    results = dub_frames(models, face_video, speech, tmp_path / "wrong.mkv")
    assert np.abs(results.astype(int) - wanted).max() > 50


def test_missing_operator_is_detected(clips, tmp_path, monkeypatch, simulation):
    real = losses.cosines

    def mistaken(mels_: Tensor, faces_: Tensor) -> Tensor:
        table = real(mels_, faces_)
        return table + 0 * torch.linalg.inv(torch.eye(2, device=table.device)).sum()

    monkeypatch.setattr(losses, "cosines", mistaken)
    with simulation.listed_kernels_only(), pytest.raises(NotImplementedError, match="linalg_inv"):
        train(clips, tmp_path, SYNCNET, steps=1)


def test_float64_is_detected(clips, tmp_path, monkeypatch, simulation):
    real = transfers.upload

    def mistaken(arrays: Any, target: torch.device) -> dict[str, Tensor]:
        return real({name: value.astype(np.float64) for name, value in arrays.items()}, target)

    monkeypatch.setattr(transfers, "upload", mistaken)
    with simulation.no_wide_dtypes(), pytest.raises(RuntimeError, match="(?i)double|float64"):
        train(clips, tmp_path, SYNCNET, steps=1)


def test_channels_last_is_detected(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(device, "memory_format", lambda target: torch.channels_last)
    with pytest.raises(RuntimeError, match="(?i)format"):
        inference.load_models(tiny_checkpoint, device="npu")


def test_additional_synchronization_is_detected(clips, tmp_path, monkeypatch, simulation):
    real = losses.cosine

    def mistaken(mels_: Tensor, faces_: Tensor) -> Tensor:
        assert mels_.sum().item() is not None
        return real(mels_, faces_)

    monkeypatch.setattr(losses, "cosine", mistaken)
    with pytest.raises(AssertionError):
        test_training_step_synchronizes_once(clips, tmp_path, [*GENERATOR, "--syncnet_wt", 0.03], simulation)


def test_late_activation_is_detected(tiny_checkpoint, clips, tmp_path, monkeypatch, simulation):
    real = device.activate

    def mistaken(target: torch.device) -> None:
        torch.zeros(1, device=target)
        real(target)

    monkeypatch.setattr(device, "activate", mistaken)
    with pytest.raises(AssertionError):
        test_device_is_activated_before_its_first_tensor(tiny_checkpoint, clips, tmp_path, simulation)


def on_the_device(worker: int):
    """Create a worker that computes on the device, like the face detection of preprocessing."""
    here = device.resolve("npu")
    device.activate(here)
    return lambda item: float(torch.full((2,), float(item), device=here).sum())


def test_workers_share_the_device(monkeypatch):
    """Workers are spawned, because a fork of a process that has used the device fails."""
    torch.ones(1, device=DEVICE)
    assert sorted(processes.map_in_processes([1, 2, 3], on_the_device, 2)) == [(1, 2.0), (2, 4.0), (3, 6.0)]
    real = multiprocessing.get_context
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda _: real("fork"))
    results = [result for _, result in processes.map_in_processes([1, 2, 3], on_the_device, 2)]
    assert all(isinstance(entry, Failure) and "'spawn' start method" in entry.detail for entry in results)


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_acceptance_script_writes_its_report(tmp_path):
    words = ["--device", DEVICE.type, "--width", "2", "--out", str(tmp_path / "report.json")]
    script = str(ROOT / "benchmarks" / "npu_acceptance.py")
    child = start(words, script)
    output, _ = child.communicate(timeout=1500)
    assert child.returncode == 0, output
    results = json.loads((tmp_path / "report.json").read_text())
    assert results["ok"] and not results["failed"] and results["fell_back"] == []
    assert set(results["throughput"]["fp32"]) == {"1", "8", "32", "128"}
    assert results["dub"]["mean_difference_grey_levels"] < 1
    assert set(results["training"]) == {
        f"{entry} {amp}" for entry in ("train_syncnet", "train") for amp in ("off", "fp16")
    }
