"""LPIPS, FID and identity with weights of the user: architecture, identity, and definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.linalg import sqrtm

from support.devices import DEVICE
from support.frame_pairs import POINTS, texture, tracked
from support.networks import write_lpips
from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError
from wav2lip_npu.evaluation.frame_pair import FramePair
from wav2lip_npu.evaluation.identity import IdentityMeasure
from wav2lip_npu.evaluation.judges import load_judges
from wav2lip_npu.evaluation.options import EvaluateOptions
from wav2lip_npu.evaluation.perceptual import Fid, Gaussian, LpipsMeasure, frechet_distance
from wav2lip_npu.faces import descriptor
from wav2lip_npu.faces.descriptor import Descriptor
from wav2lip_npu.models.inception import Inception
from wav2lip_npu.models.lpips import Lpips


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory):
    return write_lpips(tmp_path_factory.mktemp("lpips"))


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Return the windows [C, H, W, size, size] of an image [C, ...]."""
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def slow_lpips(files: tuple[Path, Path], images: list[np.ndarray]) -> float:
    """Return the LPIPS of two BGR images [3, H, W] in [0, 1] by numpy alone, as its authors define it."""
    alexnet, linear = (
        {name: value.double().numpy() for name, value in torch.load(path, weights_only=True).items()}
        for path in files
    )
    layers = [(0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)]
    total = 0.0
    means, deviations = ([-0.03, -0.088, -0.188], [0.458, 0.448, 0.45])
    features = [
        (x[::-1] * 2 - 1 - np.reshape(means, (3, 1, 1))) / np.reshape(deviations, (3, 1, 1)) for x in images
    ]
    for tap, (layer, stride, padding, is_pooled) in enumerate(layers):
        weight, bias = (alexnet[f"features.{layer}.{part}"] for part in ("weight", "bias"))
        for place, x in enumerate(features):
            x = windows(x, 3, 2).max(axis=(3, 4)) if is_pooled else x
            x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
            x = np.einsum("cyxij,ocij->oyx", windows(x, weight.shape[-1], stride), weight, optimize=True)
            features[place] = np.maximum(x + bias[:, None, None], 0)
        one, other = (x / (np.sqrt(np.square(x).sum(axis=0)) + 1e-10) for x in features)
        total += np.einsum("c,cyx->yx", linear[f"lin{tap}.model.1.weight"].ravel(), (one - other) ** 2).mean()
    return total


@pytest.mark.any_device
def test_lpips_is_the_published_distance(lpips_files):
    images = torch.randint(255, (2, 64, 48, 3), dtype=torch.uint8)
    others = images.clone()
    others[1, 20:40] = 0
    same, changed = Lpips(*lpips_files).to(DEVICE).of_images(images, others)
    assert same == 0
    pair = [batch[1].permute(2, 0, 1).numpy() / 255 for batch in (images, others)]
    assert changed == pytest.approx(slow_lpips(lpips_files, pair), rel=1e-3)


def test_gradient_of_lpips_is_that_of_the_slow_one(lpips_files):
    """A black image has features of 0, where the gradient of a length is not defined."""
    random = np.random.default_rng(0)
    images, target, direction = (random.random((3, 48, 32)) for _ in range(3))
    given = torch.from_numpy(images)[None].float().requires_grad_()
    loss = Lpips(*lpips_files)(given, torch.from_numpy(target)[None].float()).sum()
    (gradient,) = torch.autograd.grad(loss, given)
    up, down = (slow_lpips(lpips_files, [images + s * direction, target]) for s in (1e-5, -1e-5))
    assert float((gradient[0].numpy() * direction).sum()) == pytest.approx((up - down) / 2e-5, rel=1e-3)
    black = torch.zeros(1, 3, 48, 32, requires_grad=True)
    Lpips(*lpips_files)(black, given.detach()).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all()


def test_lpips_of_a_video(lpips_files):
    measure = LpipsMeasure(Lpips(*lpips_files).of_images)
    for index in range(18):
        measure.add(FramePair(index, tracked(texture()), tracked(texture(index % 2))))
    assert measure.figures()["lpips"].generated > 0
    with pytest.raises(CheckpointMismatchError, match="--alexnet"):
        Lpips(lpips_files[1], lpips_files[1])


def test_inception_has_the_names_and_shapes_of_the_published_file():
    with torch.device("meta"):
        state = Inception().state_dict()
    assert len([name for name in state if name.endswith("conv.weight")]) == 94
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert state["Mixed_6e.branch7x7dbl_5.conv.weight"].shape == (192, 192, 1, 7)
    assert state["Mixed_5b.branch_pool.conv.weight"].shape == (32, 192, 1, 1)
    assert state["fc.weight"].shape == (1008, 2048)
    with torch.device("meta"):
        assert Inception().eval()(torch.empty(2, 3, 96, 96)).shape == (2, 2048)


def test_frechet_distance_matches_the_matrix_root():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 6))
    samples = random.normal(size=(400, 6)) @ mixing, random.normal(1, 2, size=(300, 6))
    gaussians = Gaussian(), Gaussian()
    for gaussian, values in zip(gaussians, samples, strict=True):
        for first in range(0, len(values), 64):
            gaussian.add(values[first : first + 64])
    means, covariances = (
        [f(values) for values in samples] for f in (lambda v: v.mean(0), lambda v: np.cov(v.T))
    )
    expected = np.square(means[0] - means[1]).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    assert frechet_distance(*gaussians) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(gaussians[0], gaussians[0]) == pytest.approx(0, abs=1e-6)


def test_fid_is_that_of_all_videos():
    fid = Fid(lambda images: images.double().mean(dim=(1, 2)))
    assert fid.value() is None
    for index in range(20):
        fid.add(FramePair(index, tracked(texture(index)), tracked(texture(index))))
    value, count = fid.value()
    assert value == pytest.approx(0, abs=1e-4) and count == 20


def test_identity_is_the_distance_of_dlibs_descriptors(monkeypatch, tmp_path):
    import dlib

    class Model:
        def __init__(self, path):
            pass

        def compute_face_descriptor(self, image, shape):
            assert image.shape == (300, 300, 3) and shape.num_parts == 5
            return [image.mean() / 100] * 128

    monkeypatch.setattr(dlib, "face_recognition_model_v1", Model)
    (tmp_path / "a.dat").touch()
    measure = IdentityMeasure(Descriptor(tmp_path / "a.dat"))
    for index in range(10):
        measure.add(FramePair(index, tracked(texture()), tracked(texture() // 2)))
    assert measure.figures()["identity"].generated > 1
    assert not IdentityMeasure(Descriptor(tmp_path / "a.dat")).figures()
    corners = descriptor._corners(POINTS)
    assert corners[0][0] > corners[1][0] > corners[3][0] > corners[2][0]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.dat").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"a\.dat"):
        Descriptor(tmp_path / "a.dat")
    with pytest.raises(CheckpointError, match=r"b\.dat"):
        Descriptor(tmp_path / "b.dat")


def test_weights_in_checkpoints_are_found(lpips_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for path, name in zip(lpips_files, ("alexnet-owt-7be5be79.pth", "lpips_alex.pth"), strict=True):
        (tmp_path / "checkpoints" / name).write_bytes(path.read_bytes())
    judges = load_judges(EvaluateOptions(metrics=("lpips", "fid"), device="cpu"))
    assert judges.lpips is not None and "lpips_alex" in judges.names["lpips"]
    assert judges.fid is None and "--inception" in judges.skipped["fid"]
