"""Frame rates: NTSC fractions, and the choice of source frames."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest

from support.media_files import numbered, numbers_of, write_frames
from wav2lip_npu.media.frame_rate import exact_fps
from wav2lip_npu.media.video_reader import LOOPS, read_frames

RATES = ["24000/1001", "25", "30000/1001", "30", "50", "60"]


def count_video(path: Path, count: int, **options) -> Path:
    return write_frames(path, (numbered(number) for number in range(count)), **options)


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (23.97, "24000/1001"), (23.976, "24000/1001"), (23.98, "24000/1001"), (29.97, "30000/1001"),
        (47.95, "48000/1001"), (59.94, "60000/1001"), (119.88, "120000/1001"), (24, "24"), (25, "25"),
        (30, "30"), (22.13, "2213/100"), (12.5, "25/2"),
    ],
)  # fmt: skip
def test_rates_are_exact_fractions(fps, exact):
    assert exact_fps(fps) == Fraction(exact)


@pytest.mark.parametrize(("source", "wanted"), list(itertools.permutations(RATES, 2)))
def test_resampled_frames_are_the_nearest(tmp_path, source, wanted):
    source, wanted = Fraction(source), Fraction(wanted)
    count = 60
    shown = numbers_of(count_video(tmp_path / "a.mp4", count, fps=source), fps=wanted)
    assert abs(len(shown) - count * wanted / source) <= Fraction(1, 2)
    half = (Fraction(3, 4) if abs(source / wanted - 1) < Fraction(1, 50) else Fraction(1, 2)) / wanted
    late = [position / wanted - number / source for position, number in enumerate(shown)]
    assert -half <= min(late) <= max(late) <= max(half, 1 / source - half)
    if wanted > source:
        assert set(shown) == set(range(count))


def test_half_the_rate_shows_every_second_frame(tmp_path):
    path = count_video(tmp_path / "a.mp4", 60, fps=Fraction(60))
    assert numbers_of(path, fps=Fraction(30)) == list(range(0, 60, 2))
    path = count_video(tmp_path / "b.mp4", 20, fps=Fraction(25))
    assert numbers_of(path, fps=Fraction(50)) == [number // 2 for number in range(40)]


@pytest.mark.parametrize("wanted", [20, 24, 30, 60])
def test_variable_rate_is_resampled_by_time_stamps(tmp_path, wanted):
    stamps, now, chance = [], 0, random.Random(3)
    for _ in range(100):
        stamps.append(now)
        now += chance.choice([17, 33, 33, 40, 120])
    path = count_video(tmp_path / "a.mkv", 100, stamps=stamps, time_base=Fraction(1, 1000))
    shown = numbers_of(path, fps=Fraction(wanted))
    for position, number in enumerate(shown[:-1]):
        latest = [
            n
            for n, stamp in enumerate(stamps)
            if math.floor(Fraction(stamp * wanted, 1000) + Fraction(1, 2)) <= position
        ]
        assert number == latest[-1]


def test_joined_recordings_continue_at_another_rate(tmp_path):
    parts = [count_video(tmp_path / f"{n}.mpg", 30, codec="mpeg1video", form="mpeg") for n in "ab"]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    shown = numbers_of(joined, fps=Fraction(50))
    assert shown[:116] == [number // 2 for number in range(60)] + [number // 2 for number in range(56)]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fps", [None, Fraction(15)])
def test_start_skips_the_first_frames(tmp_path, loop, fps):
    path = count_video(tmp_path / "a.mp4", 23)
    length = len(numbers_of(path, fps=fps))
    every = numbers_of(path, None if loop == "none" else 5 * length, fps=fps, loop=loop)
    for start in (0, 1, length - 1, length, length + 1, 2 * length - 2, 2 * length, 3 * length + 5):
        expected = every[start : start + length + 3]
        frames = list(itertools.islice(read_frames(path, fps=fps, loop=loop, start=start), length + 3))
        assert [frame.index for frame in frames] == list(range(len(expected)))
        assert numbers_of(path, length + 3, fps=fps, loop=loop, start=start) == expected
