"""Spans that stay as filmed: text, times, frames and fades."""

from __future__ import annotations

from fractions import Fraction

import pytest

from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.spans import SkippedFrames, canonical_spans, shifted_spans
from wav2lip_npu.errors import UsageError


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ("", ""), ((), ""), ("3.2-5.0,7-8", "3.2-5,7-8"), ("7-8 3.20-5", "3.2-5,7-8"), ("7-, 3-4", "3-4,7-"),
        ("-2", "0-2"), ("1-3,2-5", "1-5"), ("1-3,3-5", "1-5"), ("1-9,2-3", "1-9"), ("4-,5-6", "4-"),
        ("100-200", "100-200"), ([(3.2, 5), (7, None)], "3.2-5,7-"), ([[0, 0.1]], "0-0.1"),
        ([(1, float("inf"))], "1-"), (["0-1", [2, 3], "5-"], "0-1,2-3,5-"),
    ],
)  # fmt: skip
def test_spans_are_canonical(spans, text):
    assert canonical_spans(spans) == text == canonical_spans(text)
    assert DubOptions(skip=spans).skip == text


@pytest.mark.parametrize(
    "spans",
    [
        "5-3",
        "3-3",
        "a-b",
        "3",
        "-",
        "1--2",
        "1-2-3",
        "nan-3",
        "1e3-2e3",
        [(1,)],
        [(2, 1)],
        5,
        [(-1, 2)],
        [("x", 2)],
        [(0, float("nan"))],
        [(float("inf"), None)],
        None,
    ],
)
def test_wrong_spans_are_refused(spans):
    with pytest.raises(UsageError, match="--skip"):
        DubOptions(skip=spans)


@pytest.mark.parametrize("fps", ["24000/1001", "25", "30000/1001", "60"])
def test_frames_of_a_span(fps):
    fps = Fraction(fps)
    skipped = SkippedFrames.of("0-0.2,3.2-5,7-", fps)
    for number in range(600):
        time = number / fps
        inside = time < Fraction(1, 5) or Fraction(16, 5) <= time < 5 or time >= 7
        assert (number in skipped) == inside


def test_spans_of_a_video_whose_beginning_was_cut_off():
    assert shifted_spans("0-0.2,3.2-5,7-", Fraction(4)) == "0-1,3-"
    assert shifted_spans("0-0.2", Fraction(1, 5)) == shifted_spans("", Fraction(1)) == ""
