"""Training samples: pure functions of (seed, epoch, i), whatever reads them and whatever the disk does."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.clip_folders import write_clip, write_original
from wav2lip_npu.data import clip as clips_module
from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip import Clip, mel_columns, read_clip
from wav2lip_npu.data.clip_index import clip_folder, describe, index_clips
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.file_lists import Entry, write_list
from wav2lip_npu.data.samples import (
    MEL_SHIFT,
    Arrays,
    Samples,
    batches,
    draw_pair,
    draw_target,
    draw_windows,
)
from wav2lip_npu.errors import DataError

NAMES = ["spk 1/it's", 'spk 1/"quoted"', "spk 2/a", "spk 2/b c", "d", "e", "f"]
DRAWS = {"windows": draw_windows(4), "pair": draw_pair(), "target": draw_target()}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of seven clips, one of them made by the original's preprocess, and its list."""
    root = tmp_path_factory.mktemp("data root")
    for number, name in enumerate(NAMES):
        if name == "d":
            write_original(root / name, 24)
        else:
            write_clip(root / name, 20 + 2 * number, gaps=(number,))
    write_list(root / "train.txt", [Entry(name) for name in NAMES])
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(made, tmp_path / "root")


def clips_of(root: Path) -> list[Clip]:
    return index_clips(root, root / "train.txt", MEL_SHIFT).clips


def samples_of(root: Path, draw=DRAWS["target"], *, seed: int = 0, cache: bool = False) -> Samples:
    return Samples(clips_of(root), draw, seed=seed, shift=MEL_SHIFT, reader=FaceReader(cache=cache))


def assert_same(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# The index


def test_clips_are_found_and_the_rejected_counted_by_reason(root, caplog):
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


def test_a_wrong_path_is_named(made, tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere", made / "train.txt")
    assert str(tmp_path / "no.txt") in refused(made, tmp_path / "no.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    assert str(tmp_path / "empty.txt") in refused(made, tmp_path / "empty.txt")
    for unusable in ("x", "y"):
        write_original(tmp_path / unusable, 3)
    write_list(tmp_path / "list.txt", [Entry("x"), Entry("y")])
    assert "2 too few pictures" in refused(tmp_path, tmp_path / "list.txt")


def test_a_wrong_root_of_50_000_clips_is_found_out_in_seconds(made, tmp_path):
    write_list(tmp_path / "list.txt", [Entry(f"main/{n // 50}/{n:05}") for n in range(50_000)])
    start = time.monotonic()
    told = refused(made, tmp_path / "list.txt")
    assert time.monotonic() - start < 5
    assert str(made / "main/0/00000") in told


def test_half_a_data_set_is_no_mistake(root):
    write_list(root / "list.txt", [*(Entry(f"later/{n}") for n in range(60)), Entry("d"), Entry("e")])
    index = index_clips(root, root / "list.txt")
    assert [clip.name for clip in index.clips] == ["d", "e"]
    assert index.rejected.total() == 60


def test_mels_that_cannot_be_kept_are_told_once(root, caplog, monkeypatch):
    def forbid(*_args):
        raise OSError(30, "Read-only file system")

    for name in ("e", "f"):
        (root / name / "mel.npy").unlink()
    monkeypatch.setattr(clips_module, "replacing", forbid)
    clips = clips_of(root)
    assert [clip.name for clip in clips if clip.held_mel is not None] == ["d", "e", "f"]
    assert len(warnings_of(caplog)) == 1
    assert "mels of 3 clips" in caplog.text


def test_the_root_may_be_a_folder_of_what_the_list_names(made):
    (made / "lrs2" / "main" / "x" / "1").mkdir(parents=True)
    assert clip_folder(made / "lrs2", "main/x/1") == made / "lrs2" / "main" / "x" / "1"
    assert clip_folder(made / "lrs2" / "main", "main/x/1") == made / "lrs2" / "main" / "x" / "1"
    assert clip_folder(made / "lrs2" / "main", "lrs2/main/x/1") == made / "lrs2" / "main" / "x" / "1"
    assert clip_folder(made / "lrs2", "other/x") == made / "lrs2" / "other" / "x"


@pytest.mark.parametrize("name", ["/etc", "..", "../root", "a/../../b", "", ".", "a/.."])
def test_a_name_that_leads_out_of_the_root_is_refused(root, name):
    with pytest.raises(DataError, match="data_root"):
        clip_folder(root, name)


@given(st.text(alphabet=st.sampled_from("./\\ab \0é'\"~$\n")) | st.text())
@example("//")  # a root of its own to POSIX
@example("//etc/passwd")
def test_no_name_leads_out_of_the_root(made, name):
    try:
        folder = clip_folder(made, name)
    except DataError:
        return
    assert Path(os.path.normpath(folder)).is_relative_to(made)
    assert Path(os.path.normpath(folder)) != made


# What a sample is


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_sample_depends_on_seed_epoch_and_number_only(root, draw):
    plain = samples_of(root, draw)
    places = [(epoch, i) for epoch in (0, 1, 7) for i in range(len(plain))]
    expected = {place: plain[place] for place in places}
    cached = samples_of(root, draw, cache=True)
    with ThreadPoolExecutor(6) as pool:
        mixed = [places[n] for n in np.random.default_rng(0).permutation(len(places))]
        for place, found in zip(mixed, pool.map(cached.__getitem__, mixed), strict=True):
            assert_same(found, expected[place])
    assert (root / "d" / "faces96.npy").exists()
    warm = samples_of(root, draw, cache=True)
    for place in reversed(places):
        assert_same(warm[place], expected[place])
    other = samples_of(root, draw, seed=1)
    assert any((other[place]["mels"] != expected[place]["mels"]).any() for place in places[:3])


def test_each_epoch_shows_every_clip_once_in_an_order_of_its_own(made):
    samples = samples_of(made)
    orders = [tuple(int(samples[e, i]["clip"][0]) for i in range(len(samples))) for e in range(4)]
    assert all(sorted(order) == list(range(len(NAMES))) for order in orders)
    assert len(set(orders)) == 4


def test_windows_of_a_sample_are_different_and_have_their_own_sound_and_faces(made):
    samples = samples_of(made, draw_windows(8))
    for i in range(len(samples)):
        sample = samples[0, i]
        clip = samples.clips[sample["clip"][0]]
        assert len(set(sample["frame"].tolist())) == 8
        assert sample["mels"].shape == (8, 80, 16) and sample["mels"].dtype == np.float32
        assert sample["faces"].shape == (8, 5, 48, 96, 3) and sample["faces"].dtype == np.uint8
        for frame, mel, faces in zip(sample["frame"], sample["mels"], sample["faces"], strict=True):
            begin = int(80.0 * (frame / 25.0))
            np.testing.assert_array_equal(mel, clip.mel()[:, begin : begin + 16])
            for k in range(5):
                np.testing.assert_array_equal(faces[k], clip.face(frame + k)[48:])


def test_a_short_clip_repeats_windows_rather_than_fail(tmp_path):
    clip = read_clip("x", write_clip(tmp_path / "x", 16, gaps=()))
    found = draw_windows(50)(clip, clip.windows(), np.random.default_rng(0), FaceReader(cache=False))
    assert len(found["mels"]) == 50


def draws(draw, clip: Clip, count: int, shift: int = MEL_SHIFT) -> Iterator[Arrays]:
    reader = FaceReader()
    for seed in range(count):
        yield draw(clip, clip.windows(shift), np.random.default_rng(seed), reader)


def numbered_clip(folder: Path, pictures: int, **options) -> Clip:
    """A clip whose picture n is grey of value 3 n, and whose mel column c is c / 100 throughout."""
    import cv2

    write_clip(folder, pictures, **options)
    for number in range(pictures):
        cv2.imwrite(str(folder / f"{number}.jpg"), np.full((96, 96, 3), 3 * number, np.uint8))
    columns = 1 + pictures * 640 // 200
    np.save(folder / "mel.npy", np.tile(np.arange(columns, dtype=np.float32) / 100, (80, 1)))
    return read_clip(folder.name, folder)


def numbers_in(faces: np.ndarray) -> list[int]:
    return np.rint(faces.mean(axis=(1, 2, 3)) / 3).astype(int).tolist()


def begin_of(mel: np.ndarray) -> int:
    columns = np.rint(mel[0] * 100).astype(int)
    assert columns.tolist() == list(range(columns[0], columns[0] + 16))
    return int(columns[0])


def test_a_pair_is_in_sync_half_the_time_and_otherwise_shows_another_window(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    in_sync, starts = 0, set()
    for sample in draws(draw_pair(), clip, 600):
        assert sample["mels"].shape == (1, 80, 16) and sample["faces"].shape == (1, 5, 48, 96, 3)
        shown = numbers_in(sample["faces"][0])
        assert shown == list(range(shown[0], shown[0] + 5))
        assert sample["in_sync"].dtype == np.float32
        fits = begin_of(sample["mels"][0]) == int(80.0 * (shown[0] / 25.0))
        assert fits == bool(sample["in_sync"][0])
        in_sync += fits
        starts.add(shown[0])
    assert 250 < in_sync < 350
    assert starts == {int(frame) for frame in clip.frames[clip.windows(MEL_SHIFT)]}


def test_a_target_has_the_sound_of_each_frame_and_another_window_for_reference(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    starts = set()
    for sample in draws(draw_target(), clip, 600):
        target, reference = (numbers_in(sample[name][0]) for name in ("target", "reference"))
        assert target == list(range(target[0], target[0] + 5))
        assert reference == list(range(reference[0], reference[0] + 5))
        assert target != reference
        assert begin_of(sample["mels"][0]) == int(80.0 * (target[0] / 25.0))
        assert sample["frame_mels"].shape == (1, 5, 80, 16)
        for number, mel in zip(target, sample["frame_mels"][0], strict=True):
            assert begin_of(mel) == int(80.0 * ((number - 1) / 25.0))
        starts.add(target[0])
    assert min(starts) == 1, "the first picture has no sound before it"
    assert len(starts) == len(clip.windows(MEL_SHIFT))


def test_a_reference_is_of_the_same_shot(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    cut = Clip("x", clip.folder, clip.frames, np.array([8, 13, 40]), clip.columns)
    seen = set()
    for sample in draws(draw_target(), cut, 300):
        shots = {
            np.searchsorted(cut.cuts, numbers_in(sample[name][0]), side="right")[k]
            for name in ("target", "reference")
            for k in (0, 4)
        }
        assert len(shots) == 1
        seen |= shots
    assert seen == {0, 2, 3}, "the shot of one window has no second one"


@pytest.mark.parametrize("distance", [1, 10, 1000])
def test_a_reference_is_as_far_away_as_asked_for_or_as_the_clip_allows(tmp_path, distance):
    clip = numbered_clip(tmp_path / "x", 60)
    last = len(clip.windows(MEL_SHIFT))
    for sample in draws(draw_target(reference_distance=distance), clip, 200):
        target, reference = (numbers_in(sample[name][0])[0] for name in ("target", "reference"))
        farthest = max(target - 1, last - target)
        assert abs(target - reference) >= min(distance + 5, farthest)


@pytest.mark.parametrize("make", [lambda a: draw_windows(4, a), draw_pair, draw_target])
def test_augmented_samples_are_of_the_same_windows_in_another_light(made, make):
    """The order of draws is part of a sample: what is chosen must not depend on how it is changed."""
    changes = Augmentation(flip=1.0, loudness=10, colour=0.3)
    for i in range(len(NAMES)):
        plain, changed = (samples_of(made, make(each), seed=5)[1, i] for each in (UNCHANGED, changes))
        assert plain.keys() == changed.keys()
        for name in plain:
            assert plain[name].shape == changed[name].shape and plain[name].dtype == changed[name].dtype
        np.testing.assert_array_equal(plain["clip"], changed["clip"])
        assert (plain["mels"] != changed["mels"]).any()
        faces = "target" if "target" in plain else "faces"
        assert (plain[faces] != changed[faces]).any()


def test_an_expert_judges_samples_that_are_left_as_they_are(tmp_path):
    clip = numbered_clip(tmp_path / "x", 60)
    changes = Augmentation(gamma=0.5, colour=0.5, untouched=0.5)
    judged = []
    for sample in draws(draw_target(changes), clip, 100):
        judged.append(bool(sample["judged"][0]))
        grey = sample["target"][0, 0]
        assert not judged[-1] or (grey[..., 0] == grey[..., 1]).mean() > 0.9, "as it was filmed"
    assert 30 < sum(judged) < 70
    for sample in draws(draw_target(Augmentation(colour=0.5)), clip, 5):
        assert sample["judged"][0] == 1, "all, where none is left alone"


# A disk that fails


def test_a_clip_that_breaks_gives_way_to_the_next(root, caplog):
    samples = samples_of(root)
    expected = [samples[0, i] for i in range(len(samples))]
    gone = expected[2]["clip"][0]
    shutil.rmtree(root / NAMES[gone])
    for _ in range(3):
        for i, before in enumerate(expected):
            found = samples[0, i]
            if i == 2:
                assert found["clip"][0] == expected[3]["clip"][0]
            else:
                assert_same(found, before)
    assert len(warnings_of(caplog)) == 1
    assert NAMES[gone] in caplog.text


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_broken_picture_changes_the_same_samples_with_and_without_a_cache(root, draw, caplog):
    clips = clips_of(root)
    for name in NAMES[:5]:
        (root / name / "12.jpg").write_bytes(b"\xff\xd8 cut off")
    caplog.clear()
    plain, cached = (
        Samples(clips, draw, seed=3, shift=MEL_SHIFT, reader=FaceReader(cache=cache))
        for cache in (False, True)
    )
    places = [(epoch, i) for epoch in range(3) for i in range(len(plain))]
    expected = {place: plain[place] for place in places}
    told = warnings_of(caplog)
    assert 0 < len(told) == len(set(told)) <= 5
    caplog.clear()
    for place in reversed(places):
        assert_same(cached[place], expected[place])
    assert len(warnings_of(caplog)) <= 5


@pytest.mark.parametrize("value", [np.nan, np.inf, 40])
def test_a_mel_out_of_range_is_not_trained_on(root, value, caplog):
    clips = clips_of(root)
    mel = np.load(root / "e" / "mel.npy")
    mel[:] = value
    np.save(root / "e" / "mel.npy", mel)
    samples = Samples(clips, draw_windows(4), seed=0, shift=MEL_SHIFT, reader=FaceReader())
    found = [samples[0, i] for i in range(len(samples))]
    assert all(np.abs(sample["mels"]).max() <= 4 for sample in found)
    assert not any(sample["clip"][0] == NAMES.index("e") for sample in found)
    assert len(warnings_of(caplog)) == 1


def test_a_disk_that_is_gone_ends_it(root):
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
def test_ranks_share_the_stream_and_a_resumed_run_goes_on_in_it(made, size, ranks, threads, position, seed):
    samples = samples_of(made, _numbers, seed=seed)
    of_rank = [
        stream(samples, position, 3, size=size, rank=rank, ranks=ranks, threads=threads)
        for rank in range(ranks)
    ]
    alone = stream(samples, position, 3, size=size * ranks)
    for step, whole in enumerate(alone):
        parts = [of_rank[rank][step] for rank in range(ranks)]
        assert {(part.first, part.after) for part in parts} == {(whole.first, whole.after)}
        assert_same(
            {n: np.concatenate([part.arrays[n] for part in parts]) for n in whole.arrays}, whole.arrays
        )
        assert len(whole.arrays["clip"]) == whole.after - whole.first == size * ranks
    resumed = stream(samples, alone[0].after, 2, size=size * ranks, threads=threads)
    for one, other in zip(resumed, alone[1:], strict=True):
        assert one.first == other.first
        assert_same(one.arrays, other.arrays)


def _numbers(clip, positions, random, faces):
    return {"number": random.integers(10**9, size=1), "mels": np.zeros((1, 80, 16), np.float32)}


def test_batches_are_stacked_samples(made):
    samples = samples_of(made, draw_windows(4), cache=False)
    (batch,) = stream(samples, 5, 1, size=4, threads=2)
    assert batch.arrays["mels"].shape == (16, 80, 16)
    parts = [samples[divmod(place, len(samples))] for place in range(5, 9)]
    assert_same(batch.arrays, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_threads_end_with_the_batches(made):
    before = set(threading.enumerate())
    stream(samples_of(made), 0, 2, size=2, threads=2)
    assert set(threading.enumerate()) <= before


@given(frame=st.integers(0, 50))
def test_columns_of_a_picture(frame):
    mel = np.arange(80 * 200, dtype=np.float32).reshape(80, 200)
    np.testing.assert_array_equal(mel_columns(mel, frame), mel[:, int(3.2 * frame) :][:, :16])
