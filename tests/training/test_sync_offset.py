"""Cosines of all windows of a clip, and the offset of its audio."""

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


def table_of(folder, **options) -> Similarities:
    return similarities(CodeReader(), read_clip("clip", folder), FaceReader(cache=False), CPU, **options)


@pytest.mark.parametrize("late", [0, 3, -4, 15])
def test_offset_is_positive_when_the_audio_is_late(tmp_path, late):
    similarity = table_of(write_clip(tmp_path / "clip", late=late))
    offset, confidence = similarity.offset()
    assert offset == late
    assert confidence > 0.5
    best = similarity.by_offset()[:, MAX_OFFSET + late]
    assert best.mean() > 0.75  # rounding 3.2 columns misses a fifth of a code


@pytest.mark.parametrize("late", [3, -4])
def test_clip_with_its_offset_is_in_sync(tmp_path, late):
    folder = write_clip(tmp_path / "clip", late=late, gaps=(1,))
    plain, fixed = read_clip("clip", folder), read_clip("clip", folder, late)
    table = similarities(CodeReader(), fixed, FaceReader(cache=False), CPU)
    assert table.offset()[0] == 0
    assert table.in_sync().mean() > 0.75
    np.testing.assert_array_equal(fixed.frames, plain.frames + late)
    for at in (0, 1, 50):  # the same face, another frame number
        np.testing.assert_array_equal(fixed.face(int(fixed.frames[at])), plain.face(int(plain.frames[at])))
    assert fixed.frames[fixed.windows()].min() >= 0
    last = fixed.frames[fixed.windows()].max()
    assert mel_columns(fixed.mel(), int(last)).shape == (80, 16)


def test_face_cache_works_with_any_offset(tmp_path):
    folder = write_clip(tmp_path / "clip", late=3)
    reader = FaceReader()
    first = reader(read_clip("clip", folder), 10)
    np.testing.assert_array_equal(reader(read_clip("clip", folder, 3), 10), first)
    np.testing.assert_array_equal(FaceReader(cache=False)(read_clip("clip", folder, 3), 10), first)


def test_cosines_match_single_embeddings(tmp_path):
    clip = read_clip("clip", write_clip(tmp_path / "clip", 40, gaps=(20,)))
    syncnet = golden_weights(SyncNet(width=2)).eval()
    reader = FaceReader(cache=False)
    similarity = similarities(syncnet, clip, reader, CPU)
    positions = clip.windows()
    np.testing.assert_array_equal(similarity.frames, clip.frames[positions])
    for row, column in ((0, 0), (3, 17), (17, 3)):
        mel = mel_columns(clip.mel(), int(similarity.frames[row]))
        faces = reader(clip, int(positions[column]))[:, 48:]
        audio, face = embed(syncnet, [mel], faces[None], CPU)
        torch.testing.assert_close(similarity.cosines[row, column], (audio * face).sum(), atol=1e-5, rtol=0)
    assert len(similarity.in_sync()) == len(positions)
    assert len(similarity.out_of_sync()) == len(positions) * (len(positions) - 1)
    part = similarities(syncnet, clip, reader, CPU, positions[5:9])
    torch.testing.assert_close(part.cosines, similarity.cosines[5:9, 5:9], atol=1e-5, rtol=0)


def test_cosines_by_offset_match_brute_force():
    frames = np.array([*range(3, 50), *range(60, 110)])
    similarity = Similarities(frames, torch.rand(len(frames), len(frames)))
    rows = []
    for at, frame in enumerate(frames):
        around = [np.flatnonzero(frames == frame + offset) for offset in range(-MAX_OFFSET, MAX_OFFSET + 1)]
        if all(len(rows_at) for rows_at in around):
            rows.append(torch.stack([similarity.cosines[int(rows_at[0]), at] for rows_at in around]))
    torch.testing.assert_close(similarity.by_offset(), torch.stack(rows))


def test_clips_without_a_clear_offset_get_0(tmp_path):
    assert table_of(write_clip(tmp_path / "short", 34)).offset() == (0, 0.0)
    assert table_of(write_clip(tmp_path / "long", 40), positions=np.arange(0)).offset() == (0, 0.0)
    assert Similarities(np.arange(80), torch.full((80, 80), 0.5)).offset() == (0, 0.0)


def test_syncnet_input_is_frame_by_frame():
    faces = torch.randint(255, (2, 5, 48, 96, 3), dtype=torch.uint8)
    stacked = syncnet_input_of_images(faces)
    assert stacked.shape == (2, 15, 48, 96)
    torch.testing.assert_close(stacked[1, 3 * 2 + 1], faces[1, 2, :, :, 1] / 255)


@pytest.mark.parametrize(("gain", "expected"), [(0.02, 0), (0.3, 1)])
def test_offset_is_significant_when_the_windows_agree(gain, expected):
    """A gain of 0.02 among noise of 0.2 may be chance."""
    frames = np.arange(80)
    noise = torch.randn(80, 80, generator=torch.Generator().manual_seed(0)) * 0.05
    table = noise + 0.3 * torch.eye(80) + torch.diag(0.3 + gain + 0.2 * torch.randn(79).clamp(-2, 2), -1)
    similarity = Similarities(frames, table)
    assert similarity.offset()[0] == 1
    assert similarity.significant_offset() == expected


def test_offset_at_the_end_of_the_search_is_not_significant(tmp_path):
    """F2: at +-15 the best offset may be outside the search range."""
    for late, expected in ((14, 14), (-14, -14), (15, 0), (-15, 0)):
        similarity = table_of(write_clip(tmp_path / f"clip{late}", 100, late=late))
        assert similarity.significant_offset() == expected


def test_offset_of_few_windows_is_not_significant(tmp_path):
    """F2: with two windows, any offset can be the best by chance."""
    for count, expected in ((36, 0), (48, 0), (49, 3), (75, 3)):
        similarity = table_of(write_clip(tmp_path / f"clip{count}", count, late=3))
        assert similarity.significant_offset() == expected
