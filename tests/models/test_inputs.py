"""Network inputs from images."""

from __future__ import annotations

import pytest
import torch

from support.devices import DEVICE
from wav2lip_npu.devices import device
from wav2lip_npu.models.inputs import (
    face_batch,
    face_windows,
    generator_input,
    images_of_faces,
    syncnet_input,
    syncnet_input_of_images,
)


@pytest.fixture
def images():
    """Windows uint8 [2, 5, 96, 96, 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 5, 96, 96, 3), dtype=torch.uint8, generator=generator).to(DEVICE)


@pytest.mark.any_device
def test_faces_are_channels_first_between_0_and_1(images):
    faces = face_batch(images[:, 0])
    assert faces.shape == (2, 3, 96, 96) and faces.dtype == torch.float32
    assert faces.is_contiguous(memory_format=device.memory_format(DEVICE))
    torch.testing.assert_close(faces[1, 2], images[1, 0, :, :, 2].float() / 255)


def test_windows_are_faces_with_a_time_axis(images):
    windows = face_windows(images)
    for frame in range(5):
        assert torch.equal(windows[:, :, frame], face_batch(images[:, frame]))


def test_faces_and_images_are_inverse(images):
    assert torch.equal(images_of_faces(face_batch(images[:, 0])), images[:, 0])


def test_images_are_clamped():
    values = torch.tensor([-0.1, 0.5, 1.1]).view(1, 3, 1, 1)
    assert images_of_faces(values).flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", [(2, 3, 96, 96), (2, 3, 5, 96, 96)])
def test_pairs_are_targets_without_lower_half_then_references(shape):
    targets, references = torch.rand(shape), torch.rand(shape)
    pairs = generator_input(targets, references)
    assert pairs.shape == (2, 6, *shape[2:])
    assert torch.equal(pairs[:, :3, ..., :48, :], targets[..., :48, :])
    assert not pairs[:, :3, ..., 48:, :].any()
    assert torch.equal(pairs[:, 3:], references)
    assert targets[..., 48:, :].any()  # the input is left unchanged


@pytest.mark.any_device
def test_mouths_are_frame_by_frame(images):
    windows = face_windows(images)
    expected = torch.cat([windows[:, :, frame, 48:] for frame in range(5)], dim=1)
    assert torch.equal(syncnet_input(windows), expected)
    assert torch.equal(syncnet_input_of_images(images[:, :, 48:]), expected)
