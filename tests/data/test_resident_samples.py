"""Samples from clips on the device: the rows of the clips, by the rules of the samples from files."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from support.clip_folders import write_clip, write_original
from support.devices import DEVICE
from wav2lip_npu.data import resident_clips
from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip import Clip, mel_columns
from wav2lip_npu.data.clip_index import index_clips
from wav2lip_npu.data.clip_order import ClipOrder
from wav2lip_npu.data.counter_random import uniforms
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.resident_clips import ResidentClips, size_of, substitutes
from wav2lip_npu.data.resident_samples import ResidentPairs, ResidentSamples, ResidentTargets, ResidentWindows
from wav2lip_npu.data.samples import MEL_SHIFT, batches
from wav2lip_npu.data.window_table import WindowTable
from wav2lip_npu.errors import DataError

pytestmark = pytest.mark.any_device

CHANGES = Augmentation(flip=0.5, colour=0.2, blur=1, noise=4, jpeg=0.5, formants=0.1, untouched=0.3)
NAMES = ["a", "b", "late", "original"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips: one with gaps, one with a cut by offset, one in the original's format."""
    root = tmp_path_factory.mktemp("resident")
    write_clip(root / "a", 30, gaps=(9, 10))
    write_clip(root / "b", 22)
    write_clip(root / "late", 26)
    write_original(root / "original", 24)
    (root / "train.txt").write_text("a\nb\nlate offset=2\noriginal\n")
    return root


@pytest.fixture(scope="module")
def clips(root: Path) -> list[Clip]:
    return index_clips(root, root / "train.txt", MEL_SHIFT).clips


@pytest.fixture(scope="module")
def resident(clips: list[Clip]) -> ResidentClips:
    return ResidentClips(clips, FaceReader(cache=False), DEVICE)


def samples_of(clips, resident, draw, *, seed: int = 0) -> ResidentSamples:
    return ResidentSamples(clips, resident, draw, seed=seed, shift=MEL_SHIFT)


def first(samples, count: int, position: int = 0, **options):
    with closing(batches(samples, position, **options)) as stream:
        return list(itertools.islice(stream, count))


def on_host(rows):
    return [rows_.cpu().numpy() for rows_ in rows]


def test_windows_are_those_of_the_clips(clips, resident):
    (batch,) = first(samples_of(clips, resident, ResidentWindows(8)), 1, size=4)
    mels, faces, frames, numbers = on_host(batch.samples)
    assert sorted(set(batch.clips.tolist())) == [0, 1, 2, 3]
    np.testing.assert_array_equal(numbers, batch.clips)
    assert mels.shape == (32, 80, 16) and faces.shape == (32, 5, 48, 96, 3) and faces.dtype == np.uint8
    for mel, window, frame, number in zip(mels, faces, frames, numbers, strict=True):
        clip = clips[number]
        assert frame in clip.frames[clip.windows(MEL_SHIFT)]
        np.testing.assert_array_equal(mel, mel_columns(clip.mel(), int(frame)))
        for k in range(5):
            np.testing.assert_array_equal(window[k], clip.face(int(frame) + k)[48:])
    for number in range(4):
        assert len(set(frames[numbers == number].tolist())) == 8


def test_clip_with_few_windows_repeats_them(clips, resident):
    count = len(clips[1].windows(MEL_SHIFT))
    (batch,) = first(samples_of(clips, resident, ResidentWindows(count + 3)), 1, size=4)
    frames = on_host(batch.samples)[2]
    assert set(frames[batch.clips == 1].tolist()) <= set(clips[1].frames.tolist())


def test_pairs_are_in_sync_half_of_the_time(clips, resident):
    rows = [
        on_host(batch.samples) for batch in first(samples_of(clips, resident, ResidentPairs()), 30, size=4)
    ]
    in_sync = np.concatenate([row[2] for row in rows])
    assert 0.35 < in_sync.mean() < 0.65
    assert set(in_sync.tolist()) == {0, 1}


@pytest.mark.parametrize("distance", [0, 6, 1000])
def test_references_are_other_windows_of_the_shot(clips, resident, distance):
    table = WindowTable.of(clips, MEL_SHIFT, distance)
    random = np.random.default_rng(0).random((400, 2))
    numbers = np.arange(400) % len(clips)
    seen = set()
    for number, target, reference in zip(numbers, *table.pick_target(numbers, random), strict=True):
        clip = clips[number]
        positions = clip.windows(MEL_SHIFT)
        here = table.positions[target]
        others = positions[(clip.shots[positions] == clip.shots[here]) & (positions != here)]
        distances = np.abs(clip.frames[others] - clip.frames[here])
        if distance:
            others = others[distances >= min(distance + 5, distances.max())]
        assert table.positions[reference] in others
        assert table.frames[reference] == clip.frames[table.positions[reference]]
        seen.add((int(number), int(table.positions[reference])))
    if not distance:
        assert seen == {(n, int(p)) for n, clip in enumerate(clips) for p in clip.windows(MEL_SHIFT)}


def test_targets(clips, resident):
    (batch,) = first(samples_of(clips, resident, ResidentTargets()), 1, size=4)
    targets, references, frame_mels, mels, judged = on_host(batch.samples)
    assert judged.tolist() == [1] * 4
    for row, number in enumerate(batch.clips):
        clip = clips[number]
        faces = np.stack([clip.face(int(frame)) for frame in clip.frames])
        starts = [n for n in clip.windows(MEL_SHIFT) if (faces[n : n + 5] == targets[row]).all()]
        assert starts
        assert any((faces[n : n + 5] == references[row]).all() for n in clip.windows(MEL_SHIFT))
        frame = int(clip.frames[starts[0]])
        assert len(starts) > 1 or (mels[row] == mel_columns(clip.mel(), frame)).all()
        assert len(starts) > 1 or (frame_mels[row, 2] == mel_columns(clip.mel(), frame + MEL_SHIFT + 2)).all()


DRAWS = {
    "windows": ResidentWindows(4, CHANGES),
    "pairs": ResidentPairs(CHANGES),
    "targets": ResidentTargets(CHANGES),
    "unchanged": ResidentTargets(UNCHANGED, 3),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_sample_depends_on_seed_epoch_and_number_only(clips, resident, draw):
    """The same rows in batches of any size, on two ranks, and from any position."""

    def rows_of(found, samples):
        parts = [on_host(batch.samples) for batch in found]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    samples = samples_of(clips, resident, draw)
    once = first(samples, 2, size=4)
    small = first(samples_of(clips, resident, draw), 8, size=1)
    halves = [first(samples_of(clips, resident, draw), 2, size=2, rank=rank, ranks=2) for rank in (0, 1)]
    mixed = [batch for pair in zip(*halves, strict=True) for batch in pair]
    later = first(samples_of(clips, resident, draw), 1, 4, size=4)
    expected = rows_of(once, samples)
    for found in (small, mixed):
        for one, other in zip(rows_of(found, samples), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    half = 4 * draw.windows
    for one, other in zip(rows_of(later, samples), expected, strict=True):
        np.testing.assert_array_equal(one, other[half:])
    assert [(b.first, b.after) for b in mixed[:2]] == [(0, 4), (0, 4)]
    another = rows_of(first(samples_of(clips, resident, draw, seed=1), 2, size=4), samples)
    assert any((one != other).any() for one, other in zip(another, expected, strict=True))


def test_untouched_samples_keep_their_bits_and_only_they_are_judged(clips, resident):
    plain = samples_of(clips, resident, ResidentTargets())
    changed = samples_of(clips, resident, ResidentTargets(CHANGES))
    judged, same = [], []
    for one, other in zip(first(plain, 6, size=4), first(changed, 6, size=4), strict=True):
        judged += other.samples.judged.tolist()
        same += (other.samples.targets == one.samples.targets).flatten(1).all(1).tolist()
    assert 0 < sum(judged) < len(judged)
    assert all(is_same for is_same, is_judged in zip(same, judged, strict=True) if is_judged)


def test_order_is_that_of_the_samples_from_files(clips, resident):
    for epoch in (0, 1):
        (batch,) = first(samples_of(clips, resident, ResidentPairs(), seed=5), 1, epoch * 4, size=4)
        assert batch.clips.tolist() == ClipOrder(clips, 5)(epoch).tolist()


def test_next_clip_replaces_an_unreadable_one(root, clips, caplog, monkeypatch):
    real = resident_clips._checked_mel

    def damaged(clip):
        if clip.name == "b":
            raise resident_clips.ClipError("damaged mel", "its mel is damaged.")
        return real(clip)

    monkeypatch.setattr(resident_clips, "_checked_mel", damaged)
    loaded = ResidentClips(clips, FaceReader(cache=False), DEVICE)
    assert caplog.text.count("b is skipped: its mel is damaged.") == 1
    samples = samples_of(clips, loaded, ResidentPairs())
    order = ClipOrder(clips, 0)(0).tolist()
    after = order[(order.index(1) + 1) % 4]
    (batch,) = first(samples, 1, size=4)
    assert batch.clips.tolist() == [after if number == 1 else number for number in order]
    monkeypatch.setattr(resident_clips, "_checked_mel", lambda clip: damaged(clips[1]))
    with pytest.raises(DataError, match="its mel is damaged"):
        ResidentClips(clips, FaceReader(cache=False), DEVICE)


def test_substitutes():
    readable = np.array([True, False, False, True])
    assert substitutes(np.array([1, 0, 2, 3]), readable).tolist() == [0, 0, 3, 3]
    assert substitutes(np.array([0, 3, 1, 2]), readable).tolist() == [0, 3, 0, 0]
    with pytest.raises(DataError):
        substitutes(np.arange(300), np.arange(300) < 150)


def test_size_and_bits_of_the_set(clips, resident):
    frames = sum(len(clip.frames) for clip in clips)
    assert size_of(clips) == resident.faces.nbytes + resident.mel.nbytes
    assert resident.faces.nbytes == 27_648 * frames
    assert resident.faces.device.type == DEVICE.type


def test_uniforms():
    epochs, numbers = np.repeat(np.arange(20), 50), np.tile(np.arange(50), 20)
    drawn = uniforms(3, epochs, numbers, 8)
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert np.abs(counts - 400).max() < 100
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.12
    assert len(np.unique(drawn)) == drawn.size
    np.testing.assert_array_equal(uniforms(3, epochs[7:9], numbers[7:9], 3), drawn[7:9, :3])
    assert uniforms(2**63 - 1, epochs[:1], numbers[:1], 1)[0, 0] != drawn[0, 0]
