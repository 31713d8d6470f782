"""Cosines of all windows of a clip, and the offset of its sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.clip_folders import CodeReader, write_clip
from support.networks import golden_weights
from wav2lip_npu.data.clip import mel_columns, read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training.sync_offset import MAX_OFFSET, Similarities, embed, similarities

CPU = torch.device("cpu")


def judged(folder, **options) -> Similarities:
    return similarities(CodeReader(), read_clip("clip", folder), FaceReader(cache=False), CPU, **options)


@pytest.mark.parametrize("late", [0, 3, -4, 15])
def test_the_offset_is_positive_when_the_sound_is_late(tmp_path, late):
    found = judged(write_clip(tmp_path / "clip", late=late))
    offset, confidence = found.offset()
    assert offset == late
    assert confidence > 0.5
    best = found.by_offset()[:, MAX_OFFSET + late]
    assert best.mean() > 0.75  # a fifth of a code is missed where 3.2 columns are rounded


@pytest.mark.parametrize("late", [3, -4])
def test_a_clip_read_with_its_offset_is_in_sync(tmp_path, late):
    folder = write_clip(tmp_path / "clip", late=late, gaps=(1,))
    plain, mended = read_clip("clip", folder), read_clip("clip", folder, late)
    table = similarities(CodeReader(), mended, FaceReader(cache=False), CPU)
    assert table.offset()[0] == 0
    assert table.in_sync().mean() > 0.75
    np.testing.assert_array_equal(mended.frames, plain.frames + late)
    for at in (0, 1, 50):  # the same picture, another number
        np.testing.assert_array_equal(mended.face(int(mended.frames[at])), plain.face(int(plain.frames[at])))
    assert mended.frames[mended.windows()].min() >= 0
    last = mended.frames[mended.windows()].max()
    assert mel_columns(mended.mel(), int(last)).shape == (80, 16)


def test_the_cache_of_faces_serves_any_offset(tmp_path):
    folder = write_clip(tmp_path / "clip", late=3)
    reader = FaceReader()
    first = reader(read_clip("clip", folder), 10)
    np.testing.assert_array_equal(reader(read_clip("clip", folder, 3), 10), first)
    np.testing.assert_array_equal(FaceReader(cache=False)(read_clip("clip", folder, 3), 10), first)


def test_every_cosine_is_that_of_its_sound_and_its_picture(tmp_path):
    clip = read_clip("clip", write_clip(tmp_path / "clip", 40, gaps=(20,)))
    syncnet = golden_weights(SyncNet(width=2)).eval()
    reader = FaceReader(cache=False)
    found = similarities(syncnet, clip, reader, CPU)
    positions = clip.windows()
    np.testing.assert_array_equal(found.frames, clip.frames[positions])
    for row, column in ((0, 0), (3, 17), (17, 3)):
        mel = mel_columns(clip.mel(), int(found.frames[row]))
        faces = reader(clip, int(positions[column]))[:, 48:]
        sound, picture = embed(syncnet, [mel], faces[None], CPU)
        torch.testing.assert_close(found.cosines[row, column], (sound * picture).sum(), atol=1e-5, rtol=0)
    assert len(found.in_sync()) == len(positions)
    assert len(found.out_of_sync()) == len(positions) * (len(positions) - 1)
    part = similarities(syncnet, clip, reader, CPU, positions[5:9])
    torch.testing.assert_close(part.cosines, found.cosines[5:9, 5:9], atol=1e-5, rtol=0)


def test_offsets_against_brute_force():
    frames = np.array([*range(3, 50), *range(60, 110)])
    found = Similarities(frames, torch.rand(len(frames), len(frames)))
    rows = []
    for at, frame in enumerate(frames):
        around = [np.flatnonzero(frames == frame + offset) for offset in range(-MAX_OFFSET, MAX_OFFSET + 1)]
        if all(len(each) for each in around):
            rows.append(torch.stack([found.cosines[int(each[0]), at] for each in around]))
    torch.testing.assert_close(found.by_offset(), torch.stack(rows))


def test_nothing_to_tell_is_offset_0(tmp_path):
    assert judged(write_clip(tmp_path / "short", 34)).offset() == (0, 0.0)
    assert judged(write_clip(tmp_path / "long", 40), at=np.arange(0)).offset() == (0, 0.0)
    assert Similarities(np.arange(80), torch.full((80, 80), 0.5)).offset() == (0, 0.0)


def test_mouths_are_frame_by_frame():
    faces = torch.randint(255, (2, 5, 48, 96, 3), dtype=torch.uint8)
    stacked = syncnet_input_of_images(faces)
    assert stacked.shape == (2, 15, 48, 96)
    torch.testing.assert_close(stacked[1, 3 * 2 + 1], faces[1, 2, :, :, 1] / 255)


@pytest.mark.parametrize(("gain", "sure"), [(0.02, 0), (0.3, 1)])
def test_an_offset_is_sure_when_the_windows_agree(gain, sure):
    """A gain of 0.02 among noise of 0.2 may be chance."""
    frames = np.arange(80)
    noise = torch.randn(80, 80, generator=torch.Generator().manual_seed(0)) * 0.05
    table = noise + 0.3 * torch.eye(80) + torch.diag(0.3 + gain + 0.2 * torch.randn(79).clamp(-2, 2), -1)
    found = Similarities(frames, table)
    assert found.offset()[0] == 1
    assert found.significant_offset() == sure
