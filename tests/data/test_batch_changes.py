"""Changes of whole batches on the device, and that a changed sample depends on its number alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.devices import DEVICE
from wav2lip_npu.data.augmentation import TargetChanges, WindowChanges
from wav2lip_npu.data.batch_changes import ChangedTargets, ChangedWindows, Loudness, Prepare
from wav2lip_npu.data.device_batch import TargetBatch, WindowBatch
from wav2lip_npu.data.samples import Batch, TargetSample, WindowSample
from wav2lip_npu.errors import UsageError

pytestmark = pytest.mark.any_device


def windows_of(rows: int) -> WindowSample:
    random = np.random.default_rng(0)
    return WindowSample(
        random.uniform(-3, 3, (rows, 80, 16)).astype(np.float32),
        random.integers(0, 256, (rows, 5, 48, 96, 3), np.uint8),
        np.arange(rows),
    )


def targets_of(rows: int) -> TargetSample:
    random = np.random.default_rng(0)
    return TargetSample(
        random.integers(0, 256, (rows, 5, 96, 96, 3), np.uint8),
        random.integers(0, 256, (rows, 5, 96, 96, 3), np.uint8),
        random.uniform(-3, 3, (rows, 5, 80, 16)).astype(np.float32),
        random.uniform(-3, 3, (rows, 80, 16)).astype(np.float32),
        np.ones(rows, np.float32),
    )


def changed_windows(sample: WindowSample, first: int = 0, per_clip: int = 1, **options: float) -> WindowBatch:
    count = len(sample.frames)
    prepare = Prepare(
        WindowBatch, ChangedWindows(WindowChanges(**options), DEVICE), DEVICE, seed=3, samples=7
    )
    batch = Batch(first, first + count // per_clip, np.arange(count) // per_clip, sample)
    return WindowBatch(*(rows.cpu() for rows in prepare(batch).samples))


def changed_targets(sample: TargetSample, loud: float = 0.0, **options: float) -> TargetBatch:
    count = len(sample.judged)
    changes = ChangedTargets(
        TargetChanges(**options), DEVICE, lambda clips: np.full(len(clips), loud, np.float32)
    )
    batch = Batch(0, count, np.arange(count), sample)
    rows = Prepare(TargetBatch, changes, DEVICE, seed=3, samples=7)(batch).samples
    return TargetBatch(*(tensor.cpu() for tensor in rows))


def test_grey_windows():
    sample = windows_of(16)
    faces = changed_windows(sample, grey=0.5).faces.numpy()
    grey = (faces == faces[..., :1]).all(axis=(1, 2, 3, 4))
    assert 3 < grey.sum() < 13
    np.testing.assert_array_equal(faces[~grey], sample.faces[~grey])
    luma = sample.faces[grey] @ np.array([0.114, 0.587, 0.299])
    assert np.abs(faces[grey][..., 0] - luma).max() <= 1


def test_hidden_patches_and_bands():
    sample = windows_of(16)
    rows = changed_windows(sample, hide_patch=1, hide_band=1)
    hidden = (rows.faces.numpy() == 128).all(axis=(1, 4)).reshape(16, -1).mean(axis=1)
    assert hidden.min() > 0.01 and hidden.max() < 0.08, "a patch may be cut by the edge"
    bands = (rows.mels.numpy() == -2).all(axis=2).sum(axis=1)
    assert bands.min() >= 5 and bands.max() <= 10
    other = rows.mels.numpy() != -2
    np.testing.assert_array_equal(rows.mels.numpy()[other], sample.mels[other])


def test_noise_on_mels():
    sample = windows_of(8)
    noise = changed_windows(sample, mel_noise=0.1).mels.numpy() - sample.mels
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.2


def test_changed_sample_depends_on_its_number_alone():
    """In batches of other sizes, on two ranks, and in the second epoch of seven samples."""
    options = {"grey": 0.5, "hide_patch": 0.5, "hide_band": 0.5, "mel_noise": 0.1}
    sample = windows_of(8)
    together = changed_windows(sample, first=5, per_clip=2, **options)
    second = WindowSample(*(rows[4:] for rows in sample))
    apart = changed_windows(second, first=7, per_clip=2, **options)
    changes = ChangedWindows(WindowChanges(**options), DEVICE)
    rank = Prepare(WindowBatch, changes, DEVICE, seed=3, samples=7, rank=1, ranks=2)
    of_rank = rank(Batch(5, 9, np.arange(4) // 2, second)).samples
    for one, other, another in zip(together, apart, of_rank, strict=True):
        assert torch.equal(one[4:], other) or one is together.clips
        assert torch.equal(one[4:], another.cpu()) or one is together.clips
    other_epoch = changed_windows(second, first=0, per_clip=2, **options)
    assert not torch.equal(apart.mels, other_epoch.mels)


def test_reference_mouth_is_warped():
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None] * 2, (96, 96, 3))
    sample = targets_of(8)._replace(references=np.broadcast_to(ramp, (8, 5, 96, 96, 3)).copy())
    rows = changed_targets(sample, reference_mouth_warp=1)
    moved = rows.references.numpy().astype(int) - sample.references
    assert np.abs(moved[..., 74, 48, :]).max() < 16, "the middle of the mouth is only shifted"
    assert np.abs(moved[:, :, 60, 48]).std(axis=0).min() > 1, "each sample is changed in another way"
    assert np.abs(moved[:, :, :10]).max() <= 1
    np.testing.assert_array_equal(moved[:, 0], moved[:, 4])
    np.testing.assert_array_equal(rows.targets, sample.targets)


def test_reference_mouth_is_pasted_into_the_target():
    sample = targets_of(16)
    rows = changed_targets(sample, reference_paste=0.5)
    references = rows.references.numpy()
    pasted = (references[:, :, :20] == sample.targets[:, :, :20]).all(axis=(1, 2, 3, 4))
    assert 3 < pasted.sum() < 13
    np.testing.assert_array_equal(references[~pasted], sample.references[~pasted])
    mouth = np.s_[:, :, 70:80, 40:56]
    np.testing.assert_array_equal(references[mouth], sample.references[mouth])


def test_quiet_frames_become_silent():
    sample = targets_of(16)
    sample.frame_mels[:, 2] -= 1
    mels = changed_targets(sample, loud=1.0, silence=0.5).frame_mels.numpy()
    silent = (np.ptp(mels, axis=(2, 3)) == 0) & (mels.max(axis=(2, 3)) <= -3.6)
    assert not silent[:, [0, 1, 3, 4]].any()
    assert 3 < silent[:, 2].sum() < 13
    np.testing.assert_array_equal(mels[~silent], sample.frame_mels[~silent])


def test_loudness_is_that_of_loud_columns():
    read: list[str] = []

    def mel(clip):
        read.append(clip)
        return np.tile(np.linspace(-4, {"a": 0, "b": 4}[clip], 101, dtype=np.float32), (80, 1))

    loudness = Loudness(["a", "b"], SimpleNamespace(mel=mel))
    for _ in range(2):
        np.testing.assert_allclose(loudness(np.array([1, 0, 1])), [3.6, -0.2, 3.6], atol=1e-5)
    assert read == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "flag"),
    [(WindowChanges, "grey"), (WindowChanges, "mel_noise"), (TargetChanges, "silence")],
)
def test_amounts_out_of_range(options, flag):
    for value in (-0.1, 5):
        with pytest.raises(UsageError, match=f"--{flag} {value}"):
            options(**{flag: value})
