"""Training of a generator for larger faces: faces, judge, losses, and refused options."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from support.faces import SHARED
from support.marks import slow
from support.trainings import GENERATOR, WITH_DISC, command, lines, train
from wav2lip_npu.cli import main
from wav2lip_npu.data.augmentation import Augmentation
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.inputs import at_syncnet_size, syncnet_input
from wav2lip_npu.preprocessing.clip_options import ClipOptions
from wav2lip_npu.training import losses


@pytest.mark.any_device
@pytest.mark.parametrize("data_on", ["host", slow("device")])
def test_larger_generator_is_trained_and_loaded(
    clips: Path, tmp_path: Path, data_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"turn": 5, "colour": 0.2, "blur": 1, "noise": 4, "jpeg": 0.5, "reference_mouth_warp": 0.5}
    out = train(clips, tmp_path / "out", GENERATOR, steps=1, face_size=192, data_on=data_on, **changes)
    assert caplog.text.count("are enlarged") == 1
    loaded = checkpoint.load(out / "checkpoint_step000000001.pth", "generator")
    assert loaded.plan is not None and loaded.plan.name == "own-192" and loaded.width == 2
    sheet = cv2.imread(str(out / "samples_step000000001.jpg"))
    assert sheet.shape[0] % 192 == 0 and sheet.shape[1] == 4 * 192
    assert list((clips / "data").rglob("faces192.npy"))


def test_checkpoint_of_another_face_size_is_refused(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(command(clips, tmp_path / "x", WITH_DISC, steps=1, face_size=256)) == 2
    assert "--patch_disc_wt" in capsys.readouterr().err
    assert main.main(command(clips, tmp_path / "x", GENERATOR, steps=1, face_size=100)) == 2
    assert "--face_size 100" in capsys.readouterr().err
    words = command(
        clips, tmp_path / "x", GENERATOR, steps=1, face_size=192, checkpoint_path="starter", width=None
    )
    assert main.main([*words, "--weights_only"]) == 2
    assert "96 px" in capsys.readouterr().err


def test_syncnet_judges_the_mean_of_areas() -> None:
    faces = torch.rand(2, 3, 5, 192, 192)
    expected = faces.view(2, 3, 5, 96, 2, 96, 2).mean(dim=(4, 6))
    torch.testing.assert_close(syncnet_input(faces), syncnet_input(expected))
    mouths = np.random.default_rng(0).random((128, 256), np.float32)
    expected = torch.from_numpy(cv2.resize(mouths, (96, 48), interpolation=cv2.INTER_AREA))
    with torch.inference_mode():
        at_syncnet_size(torch.zeros(1, 1, 128, 256))
    image = torch.from_numpy(mouths)[None, None].requires_grad_()
    small = at_syncnet_size(image)
    torch.testing.assert_close(small[0, 0], expected, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(small.sum(), image)
    torch.testing.assert_close(gradient.sum(), torch.tensor(48.0 * 96))


def test_gradients_are_compared_at_several_sizes() -> None:
    device = torch.device("cpu")
    faces, target = torch.rand(1, 3, 5, 192, 192), torch.rand(1, 3, 5, 192, 192)
    weights = losses.mouth_weights(192, 4, device)
    fine = losses.gradient_loss(faces, target, weights)
    halves = [part.view(1, 3, 5, 96, 2, 96, 2).mean(dim=(4, 6)) for part in (faces, target)]
    coarse = losses.gradient_loss(*halves, weights.view(96, 2, 96, 2).mean(dim=(1, 3)))
    error, top = faces - target, int(0.42 * 192)
    finest = (error[..., top:, :].diff(dim=-1).abs() * weights[top:, 1:]).mean()
    finest += (error[..., top:, :].diff(dim=-2).abs() * weights[top + 1 :]).mean()
    torch.testing.assert_close(fine, (finest + coarse) / 2)


def test_augmentation_follows_the_size_of_the_faces() -> None:
    large = cv2.resize(np.random.default_rng(1).integers(0, 255, (6, 6, 3), np.uint8), (192, 192))
    small = cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA)
    options = Augmentation(stretch=0.1, shift=0.1, turn=20, bend=0.05, colour=0.2, gamma=0.3, blur=2)
    a, b = (options.faces(np.random.default_rng(3), face[None])[0][0] for face in (large, small))
    halved = cv2.resize(a, (96, 96), interpolation=cv2.INTER_AREA)
    inner = slice(12, -12)
    assert np.abs(halved[inner, inner].astype(int) - b[inner, inner]).mean() < 3


def test_options_of_clips_at_96_px_are_those_of_earlier_versions() -> None:
    assert "face_size" not in ClipOptions().as_dict()
    assert ClipOptions(face_size=192).as_dict()["face_size"] == 192
    assert [ClipOptions(face_size=size).smallest_face for size in (96, 192, 256)] == [48, 96, 128]


TALKERS = SHARED / "talkers"


@pytest.mark.slow
@pytest.mark.skipif(not TALKERS.exists(), reason=f"needs the talkers in {SHARED}")
def test_training_on_talkers_of_112_px(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It runs and learns: nothing about how good a generator of such small crops is."""
    unpack = SimpleNamespace(**runpy.run_path(str(TALKERS / "unpack.py"))).unpack
    with (TALKERS / "index.csv").open() as file:
        rows = list(csv.DictReader(file))[::500]
    for row in rows:
        unpack((row, tmp_path))
    (tmp_path / "train.txt").write_text("".join(f"{row['speaker']}/{row['clip']}\n" for row in rows))
    (tmp_path / "val.txt").write_text("")
    out = tmp_path / "out"
    flags = {"data_root": tmp_path / "clips", "checkpoint_dir": out, "filelists": tmp_path}
    flags |= {"face_size": 192, "width": 4, "steps": 40, "log_interval": 20, "learning_rate": 1e-3}
    flags |= {"batch_size": 2, "eval_batches": 1, "gradient_weight": 1, "patch_disc_wt": 0.1, "device": "cpu"}
    words = [str(word) for flag in flags.items() for word in (f"--{flag[0]}", flag[1])]
    assert main.main(["train", *words]) == 0
    first, last = lines(out, "train")
    assert last["l1"] < first["l1"] and last["gradients"] < 0.9 * first["gradients"]
    assert "are enlarged" in caplog.text
