"""Training samples: pure functions of (seed, epoch, i), in any thread and with a failing disk."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.clip_folders import write_clip, write_original
from wav2lip_npu.data import clip as clips_module
from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip import Clip, mel_columns, read_clip
from wav2lip_npu.data.clip_index import clip_folder, describe, index_clips, index_held_out
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.file_lists import Entry, write_list
from wav2lip_npu.data.samples import (
    MEL_SHIFT,
    Samples,
    WindowSample,
    batches,
    draw_pair,
    draw_target,
    draw_windows,
)
from wav2lip_npu.errors import DataError

NAMES = ["spk 1/it's", 'spk 1/"quoted"', "spk 2/a", "spk 2/b c", "d", "e", "f"]
DRAWS = {"windows": draw_windows(4), "pair": draw_pair(), "target": draw_target()}


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of seven clips, one of them in the original's format, and its list."""
    root = tmp_path_factory.mktemp("data root")
    for number, name in enumerate(NAMES):
        if name == "d":
            write_original(root / name, 24)
        else:
            write_clip(root / name, 20 + 2 * number, gaps=(number,))
    write_list(root / "train.txt", [Entry(name) for name in NAMES])
    return root


@pytest.fixture
def root(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the data root that a test may damage."""
    return shutil.copytree(data_root, tmp_path / "root")


def clips_of(root: Path) -> list[Clip]:
    return index_clips(root, root / "train.txt", MEL_SHIFT).clips


def samples_of(root: Path, draw=DRAWS["target"], *, seed: int = 0, cache: bool = False) -> Samples:
    return Samples(clips_of(root), draw, seed=seed, shift=MEL_SHIFT, reader=FaceReader(cache=cache))


def assert_same(one, other) -> None:
    """Compare samples, or pairs of clip number and sample."""
    if isinstance(one[0], int):
        assert one[0] == other[0]
        one, other = one[1], other[1]
    assert type(one) is type(other)
    for name, ours, theirs in zip(one._fields, one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# The index


def test_usable_clips_are_indexed_and_rejected_ones_counted(root, caplog):
    write_original(root / "few", 15)
    write_original(root / "mute", 20)
    (root / "mute" / "audio.wav").unlink()
    write_clip(root / "holes", 40, gaps=tuple(range(4, 40, 5)))
    write_clip(root / "one shot each", 20, gaps=tuple(range(16, 20)))
    entries = [Entry(name) for name in [*NAMES, "few", "mute", "holes", "gone", "gone too"]]
    write_list(root / "list.txt", [*entries, Entry("d", 2)])
    with caplog.at_level(logging.INFO):
        index = index_clips(root, root / "list.txt", MEL_SHIFT)
    assert [clip.name for clip in index.clips] == [*NAMES, "d"]
    assert index.rejected == {
        "too few pictures": 1, "no sound": 1, "too few whole windows": 1, "no such file or directory": 2,
    }  # fmt: skip
    assert "8 clips" in describe(index) and "5 rejected: 2 no such file" in describe(index)
    assert describe(index) in caplog.text
    assert index.clips[-1].frames[0] == index.clips[NAMES.index("d")].frames[0] + 2


def refused(root: Path, file_list: Path) -> str:
    with pytest.raises(DataError) as caught:
        index_clips(root, file_list)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_path_is_named(data_root, tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere", data_root / "train.txt")
    assert str(tmp_path / "no.txt") in refused(data_root, tmp_path / "no.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    assert str(tmp_path / "empty.txt") in refused(data_root, tmp_path / "empty.txt")
    for unusable in ("x", "y"):
        write_original(tmp_path / unusable, 3)
    write_list(tmp_path / "list.txt", [Entry("x"), Entry("y")])
    assert "2 too few pictures" in refused(tmp_path, tmp_path / "list.txt")


def test_wrong_root_of_50_000_clips_is_detected_from_a_few(data_root, tmp_path, monkeypatch):
    write_list(tmp_path / "list.txt", [Entry(f"main/{n // 50}/{n:05}") for n in range(50_000)])
    checked = []
    monkeypatch.setattr(os.path, "isdir", lambda path: checked.append(path) or False)
    monkeypatch.setattr(Path, "is_dir", lambda path: True)
    message = refused(data_root, tmp_path / "list.txt")
    assert len(checked) < 200
    assert str(data_root / "main/0/00000") in message


def test_partly_preprocessed_data_set_can_be_used(root):
    write_list(root / "list.txt", [*(Entry(f"later/{n}") for n in range(60)), Entry("d"), Entry("e")])
    index = index_clips(root, root / "list.txt")
    assert [clip.name for clip in index.clips] == ["d", "e"]
    assert index.rejected.total() == 60


def test_held_out_clips_that_are_trained_on_are_reported(root, tmp_path, caplog):
    train = index_clips(root, root / "train.txt")
    val = tmp_path / "val.txt"
    assert index_held_out(root, val, train) is train
    write_list(val, [Entry("d"), Entry("./e"), Entry("d")])
    train = train._replace(clips=[clip for clip in train.clips if clip.name != "d"])
    caplog.clear()
    assert [clip.name for clip in index_held_out(root, val, train).clips] == ["d", "./e", "d"]
    (warning,) = warnings_of(caplog)
    assert str(val) in warning and "1 of 3 clips" in warning and "./e" in warning


def test_mels_that_cannot_be_saved_are_reported_once(root, caplog, monkeypatch):
    def forbid(*_args):
        raise OSError(30, "Read-only file system")

    for name in ("e", "f"):
        (root / name / "mel.npy").unlink()
    monkeypatch.setattr(clips_module, "replacing", forbid)
    clips = clips_of(root)
    assert [clip.name for clip in clips if clip.held_mel is not None] == ["d", "e", "f"]
    assert len(warnings_of(caplog)) == 1
    assert "mels of 3 clips" in caplog.text


def test_root_may_include_leading_folders_of_the_list(data_root):
    (data_root / "lrs2" / "main" / "x" / "1").mkdir(parents=True)
    assert clip_folder(data_root / "lrs2", "main/x/1") == data_root / "lrs2" / "main" / "x" / "1"
    assert clip_folder(data_root / "lrs2" / "main", "main/x/1") == data_root / "lrs2" / "main" / "x" / "1"
    assert (
        clip_folder(data_root / "lrs2" / "main", "lrs2/main/x/1") == data_root / "lrs2" / "main" / "x" / "1"
    )
    assert clip_folder(data_root / "lrs2", "other/x") == data_root / "lrs2" / "other" / "x"


@pytest.mark.parametrize("name", ["/etc", "..", "../root", "a/../../b", "", ".", "a/.."])
def test_name_outside_the_root_is_rejected(root, name):
    with pytest.raises(DataError, match="data_root"):
        clip_folder(root, name)


@given(st.text(alphabet=st.sampled_from("./\\ab \0é'\"~$\n")) | st.text())
@example("//")  # a separate root in POSIX
@example("//etc/passwd")
def test_no_name_leads_out_of_the_root(data_root, name):
    try:
        folder = clip_folder(data_root, name)
    except DataError:
        return
    assert Path(os.path.normpath(folder)).is_relative_to(data_root)
    assert Path(os.path.normpath(folder)) != data_root


# Samples


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_sample_depends_on_seed_epoch_and_number_only(root, draw):
    plain = samples_of(root, draw)
    keys = [(epoch, i) for epoch in (0, 1, 7) for i in range(len(plain))]
    expected = {key: plain[key] for key in keys}
    cached = samples_of(root, draw, cache=True)
    with ThreadPoolExecutor(6) as pool:
        mixed = [keys[n] for n in np.random.default_rng(0).permutation(len(keys))]
        for key, actual in zip(mixed, pool.map(cached.__getitem__, mixed), strict=True):
            assert_same(actual, expected[key])
    assert (root / "d" / "faces96.npy").exists()
    warm = samples_of(root, draw, cache=True)
    for key in reversed(keys):
        assert_same(warm[key], expected[key])
    other = samples_of(root, draw, seed=1)
    assert any((other[key][1].mels != expected[key][1].mels).any() for key in keys[:3])


def test_each_epoch_has_every_clip_once_in_a_new_order(data_root):
    samples = samples_of(data_root)
    orders = [tuple(samples[e, i][0] for i in range(len(samples))) for e in range(4)]
    assert all(sorted(order) == list(range(len(NAMES))) for order in orders)
    assert len(set(orders)) == 4


def test_window_sample(data_root):
    samples = samples_of(data_root, draw_windows(8))
    for i in range(len(samples)):
        number, sample = samples[0, i]
        clip = samples.clips[number]
        assert len(set(sample.frames.tolist())) == 8
        assert sample.mels.shape == (8, 80, 16) and sample.mels.dtype == np.float32
        assert sample.faces.shape == (8, 5, 48, 96, 3) and sample.faces.dtype == np.uint8
        for frame, mel, faces in zip(sample.frames, sample.mels, sample.faces, strict=True):
            begin = int(80.0 * (frame / 25.0))
            np.testing.assert_array_equal(mel, clip.mel()[:, begin : begin + 16])
            for k in range(5):
                np.testing.assert_array_equal(faces[k], clip.face(frame + k)[48:])


def test_short_clip_repeats_windows(tmp_path):
    clip = read_clip("x", write_clip(tmp_path / "x", 16, gaps=()))
    actual = draw_windows(50)(clip, clip.windows(), np.random.default_rng(0), FaceReader(cache=False))
    assert len(actual.mels) == 50


def draws(draw, clip: Clip, count: int, shift: int = MEL_SHIFT) -> Iterator[Any]:
    reader = FaceReader()
    for seed in range(count):
        yield draw(clip, clip.windows(shift), np.random.default_rng(seed), reader)


def numbered_clip(folder: Path, num_frames: int, **options) -> Clip:
    """Write a clip whose frame n is grey 3 n, and whose mel column c is c / 100."""
    import cv2

    write_clip(folder, num_frames, **options)
    for number in range(num_frames):
        cv2.imwrite(str(folder / f"{number}.jpg"), np.full((96, 96, 3), 3 * number, np.uint8))
    columns = 1 + num_frames * 640 // 200
    np.save(folder / "mel.npy", np.tile(np.arange(columns, dtype=np.float32) / 100, (80, 1)))
    return read_clip(folder.name, folder)


def numbers_in(faces: np.ndarray) -> list[int]:
    return np.rint(faces.mean(axis=(1, 2, 3)) / 3).astype(int).tolist()


def begin_of(mel: np.ndarray) -> int:
    columns = np.rint(mel[0] * 100).astype(int)
    assert columns.tolist() == list(range(columns[0], columns[0] + 16))
    return int(columns[0])


def test_pair_sample_is_in_sync_half_the_time(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    in_sync, starts = 0, set()
    for sample in draws(draw_pair(), clip, 600):
        assert sample.mels.shape == (1, 80, 16) and sample.faces.shape == (1, 5, 48, 96, 3)
        shown = numbers_in(sample.faces[0])
        assert shown == list(range(shown[0], shown[0] + 5))
        assert sample.in_sync.dtype == np.float32
        fits = begin_of(sample.mels[0]) == int(80.0 * (shown[0] / 25.0))
        assert fits == bool(sample.in_sync[0])
        in_sync += fits
        starts.add(shown[0])
    assert 250 < in_sync < 350
    assert starts == {int(frame) for frame in clip.frames[clip.windows(MEL_SHIFT)]}


def test_target_sample(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    starts = set()
    for sample in draws(draw_target(), clip, 600):
        target, reference = (numbers_in(faces[0]) for faces in (sample.targets, sample.references))
        assert target == list(range(target[0], target[0] + 5))
        assert reference == list(range(reference[0], reference[0] + 5))
        assert target != reference
        assert begin_of(sample.mels[0]) == int(80.0 * (target[0] / 25.0))
        assert sample.frame_mels.shape == (1, 5, 80, 16)
        for number, mel in zip(target, sample.frame_mels[0], strict=True):
            assert begin_of(mel) == int(80.0 * ((number - 1) / 25.0))
        starts.add(target[0])
    assert min(starts) == 1, "the first frame has no audio before it"
    assert len(starts) == len(clip.windows(MEL_SHIFT))


def test_reference_is_of_the_same_shot(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    cut = Clip("x", clip.folder, clip.frames, np.array([8, 13, 40]), clip.columns)
    seen = set()
    for sample in draws(draw_target(), cut, 300):
        shots = {
            np.searchsorted(cut.cuts, numbers_in(faces[0]), side="right")[k]
            for faces in (sample.targets, sample.references)
            for k in (0, 4)
        }
        assert len(shots) == 1
        seen |= shots
    assert seen == {0, 2, 3}, "the shot of one window has no second one"


@pytest.mark.parametrize("distance", [1, 10, 1000])
def test_reference_distance(tmp_path, distance):
    clip = numbered_clip(tmp_path / "x", 60)
    last = len(clip.windows(MEL_SHIFT))
    for sample in draws(draw_target(reference_distance=distance), clip, 200):
        target, reference = (numbers_in(faces[0])[0] for faces in (sample.targets, sample.references))
        farthest = max(target - 1, last - target)
        assert abs(target - reference) >= min(distance + 5, farthest)


@pytest.mark.parametrize("make", [lambda a: draw_windows(4, a), draw_pair, draw_target])
def test_augmentation_does_not_change_which_windows_are_drawn(data_root, make):
    """The order of random draws determines a sample."""
    changes = Augmentation(flip=1.0, loudness=10, colour=0.3)
    for i in range(len(NAMES)):
        (clip, plain), (same_clip, changed) = (
            samples_of(data_root, make(augmentation), seed=5)[1, i] for augmentation in (UNCHANGED, changes)
        )
        assert clip == same_clip and type(plain) is type(changed)
        for before, after in zip(plain, changed, strict=True):
            assert before.shape == after.shape and before.dtype == after.dtype
        assert (plain.mels != changed.mels).any()
        faces = "targets" if hasattr(plain, "targets") else "faces"
        assert (getattr(plain, faces) != getattr(changed, faces)).any()


def test_syncnet_judges_untouched_samples_only(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    changes = Augmentation(gamma=0.5, colour=0.5, untouched=0.5)
    judged = []
    for sample in draws(draw_target(changes), clip, 100):
        judged.append(bool(sample.judged[0]))
        grey = sample.targets[0, 0]
        assert not judged[-1] or (grey[..., 0] == grey[..., 1]).mean() > 0.9, "untouched"
    assert 30 < sum(judged) < 70
    for sample in draws(draw_target(Augmentation(colour=0.5)), clip, 5):
        assert sample.judged[0] == 1, "all, without untouched samples"


# A failing disk


def test_unreadable_clip_is_replaced_by_the_next(root, caplog):
    samples = samples_of(root)
    expected = [samples[0, i] for i in range(len(samples))]
    gone = expected[2][0]
    shutil.rmtree(root / NAMES[gone])
    for _ in range(3):
        for i, before in enumerate(expected):
            actual = samples[0, i]
            if i == 2:
                assert actual[0] == expected[3][0]
            else:
                assert_same(actual, before)
    assert len(warnings_of(caplog)) == 1
    assert NAMES[gone] in caplog.text


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_damaged_jpeg_changes_the_same_samples_with_and_without_a_cache(root, draw, caplog):
    clips = clips_of(root)
    for name in NAMES[:5]:
        (root / name / "12.jpg").write_bytes(b"\xff\xd8 cut off")
    caplog.clear()
    plain, cached = (
        Samples(clips, draw, seed=3, shift=MEL_SHIFT, reader=FaceReader(cache=cache))
        for cache in (False, True)
    )
    keys = [(epoch, i) for epoch in range(3) for i in range(len(plain))]
    expected = {key: plain[key] for key in keys}
    warned = warnings_of(caplog)
    assert 0 < len(warned) == len(set(warned)) <= 5
    caplog.clear()
    for key in reversed(keys):
        assert_same(cached[key], expected[key])
    assert len(warnings_of(caplog)) <= 5


@pytest.mark.parametrize("value", [np.nan, np.inf, 40])
def test_mel_out_of_range_is_not_used(root, value, caplog):
    clips = clips_of(root)
    mel = np.load(root / "e" / "mel.npy")
    mel[:] = value
    np.save(root / "e" / "mel.npy", mel)
    samples = Samples(clips, draw_windows(4), seed=0, shift=MEL_SHIFT, reader=FaceReader())
    actual = [samples[0, i] for i in range(len(samples))]
    assert all(np.abs(sample.mels).max() <= 4 for _, sample in actual)
    assert not any(number == NAMES.index("e") for number, _ in actual)
    assert len(warnings_of(caplog)) == 1


def test_missing_disk_raises(root):
    samples = samples_of(root)
    shutil.rmtree(root)
    with pytest.raises(DataError, match="Check the disk"):
        samples[0, 0]


# Batches


def stream(samples: Samples, position: int, count: int, **options) -> list:
    with closing(batches(samples, position, **options)) as endless:
        return list(itertools.islice(endless, count))


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 9),
    ranks=st.integers(1, 4),
    threads=st.integers(1, 3),
    position=st.integers(0, 40),
    seed=st.integers(0, 2**40),
)
def test_ranks_share_the_stream_and_a_resumed_run_continues_it(
    data_root, size, ranks, threads, position, seed
):
    samples = samples_of(data_root, draw_numbers, seed=seed)
    of_rank = [
        stream(samples, position, 3, size=size, rank=rank, ranks=ranks, threads=threads)
        for rank in range(ranks)
    ]
    alone = stream(samples, position, 3, size=size * ranks)
    for step, whole in enumerate(alone):
        parts = [of_rank[rank][step] for rank in range(ranks)]
        assert {(part.first, part.after) for part in parts} == {(whole.first, whole.after)}
        assert_same(
            Numbers(*map(np.concatenate, zip(*(part.samples for part in parts), strict=True))), whole.samples
        )
        np.testing.assert_array_equal(np.concatenate([part.clips for part in parts]), whole.clips)
        assert len(whole.clips) == whole.after - whole.first == size * ranks
    resumed = stream(samples, alone[0].after, 2, size=size * ranks, threads=threads)
    for one, other in zip(resumed, alone[1:], strict=True):
        assert one.first == other.first
        assert_same(one.samples, other.samples)


class Numbers(NamedTuple):
    """Sample without faces."""

    number: np.ndarray
    mels: np.ndarray


def draw_numbers(clip, positions, random, faces):
    return Numbers(random.integers(10**9, size=1), np.zeros((1, 80, 16), np.float32))


def test_batches_are_stacked_samples(data_root):
    samples = samples_of(data_root, draw_windows(4), cache=False)
    (batch,) = stream(samples, 5, 1, size=4, threads=2)
    assert batch.samples.mels.shape == (16, 80, 16)
    parts = [samples[divmod(key, len(samples))] for key in range(5, 9)]
    stacked = map(np.concatenate, zip(*(sample for _, sample in parts), strict=True))
    assert_same(batch.samples, WindowSample(*stacked))
    assert batch.clips.tolist() == [number for number, _ in parts for _ in range(4)]


def test_threads_end_with_the_batches(data_root):
    before = set(threading.enumerate())
    stream(samples_of(data_root), 0, 2, size=2, threads=2)
    assert set(threading.enumerate()) <= before


@given(frame=st.integers(0, 50))
def test_mel_columns(frame):
    mel = np.arange(80 * 200, dtype=np.float32).reshape(80, 200)
    np.testing.assert_array_equal(mel_columns(mel, frame), mel[:, int(3.2 * frame) :][:, :16])
