"""Which frames stay as filmed, and the cross-fade next to them."""

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.landmarks import projected
from wav2lip_npu.dubbing.selection import FaceLimits, select_frames
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Colour, YuvImage

YUV = YuvImage.from_image(np.zeros((240, 320, 3), np.uint8), Colour())
BOX = np.array([100, 100, 200, 220], np.float32)


def frames(yaws, *, cuts=(), box=BOX, pitch=0.0, roll=0.0):
    """Yield one frame per yaw in degrees; None is a frame without a face."""
    for index, yaw in enumerate(yaws):
        landmarks = None if yaw is None else projected(yaw, pitch, roll)
        found = None if yaw is None else box
        yield TrackedFrame(SimpleNamespace(index=index, yuv=YUV), found, index in cuts, landmarks)


def select(tracked, limits=FaceLimits(), skipped=(), fps=25):
    chosen = list(select_frames(tracked, limits, skipped, Fraction(fps), 96))
    assert [item.tracked.frame.index for item in chosen] == list(range(len(chosen)))
    return [item.reason for item in chosen], [item.opacity for item in chosen]


def test_turned_face_stays_as_filmed():
    """B12: near-profiles."""
    reasons, opacities = select(frames([0] * 10 + [70] * 10 + [0] * 20))
    assert reasons[:10] == [None] * 10
    assert reasons[10:20] == ["turned"] * 10
    assert reasons[25:] == [None] * 15
    assert opacities[6:11] == [1, 0.75, 0.5, 0.25, 0]
    back = reasons.index(None, 20)
    assert opacities[back - 1 : back + 4] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("roll", [-90, -45, 45, 90])
def test_face_that_lies_on_its_side_stays_as_filmed(roll):
    """A mouth is generated upright: it came to lie on cheek and eye."""
    assert select(frames([0] * 3, roll=roll))[0] == ["turned"] * 3
    assert select(frames([0] * 3, roll=roll), FaceLimits(max_roll=180))[0] == [None] * 3


def test_limits_are_options():
    assert select(frames([40] * 3), FaceLimits(max_yaw=30))[0] == ["turned"] * 3
    assert select(frames([-40] * 3), FaceLimits(max_yaw=30))[0] == ["turned"] * 3
    assert select(frames([80] * 3), FaceLimits(max_yaw=180))[0] == [None] * 3
    assert select(frames([0] * 3, pitch=-35), FaceLimits(max_pitch=30))[0] == ["turned"] * 3
    assert select(frames([0] * 3, roll=20), FaceLimits(max_roll=15))[0] == ["turned"] * 3
    assert select(frames([0] * 3), FaceLimits(min_face=101))[0] == ["small"] * 3
    assert select(frames([0] * 3), FaceLimits(min_face=100))[0] == [None] * 3


def test_face_at_the_limit_does_not_flicker():
    yaws = 50 + 2 * np.random.default_rng(0).standard_normal(200)
    reasons, _ = select(frames(yaws))
    assert sum(a != b for a, b in itertools.pairwise(reasons)) <= 1


def test_no_cross_fade_over_a_cut():
    reasons, opacities = select(frames([0] * 5 + [70] * 5 + [0] * 5, cuts={5, 10}))
    assert reasons == [None] * 5 + ["turned"] * 5 + [None] * 5
    assert opacities == [1] * 5 + [0] * 5 + [1] * 5


def test_faces_without_landmarks_have_no_limits():
    tracked = [TrackedFrame(SimpleNamespace(index=i, yuv=YUV), BOX / 10, False, None) for i in range(3)]
    assert select(tracked)[0] == [None] * 3


def test_skip_comes_before_other_reasons():
    reasons, _ = select(frames([0, 70, None, 0]), skipped={1, 2})
    assert reasons == [None, "skip", "skip", None]


@given(
    kinds=st.lists(st.sampled_from([0, 70, None]), max_size=60),
    cuts=st.sets(st.integers(0, 60)),
    fps=st.sampled_from([5, 25, 60, 1000]),
)
def test_opacity_is_zero_exactly_in_spans_and_changes_gradually(kinds, cuts, fps):
    reasons, opacities = select(frames(kinds, cuts=cuts), fps=fps)
    assert [opacity == 0 for opacity in opacities] == [reason is not None for reason in reasons]
    fade = min(round(0.12 * fps), 25)
    for index in range(1, len(opacities)):
        if index not in cuts:
            assert abs(opacities[index] - opacities[index - 1]) <= 1 / (fade + 1) + 1e-9


def test_few_frames_are_held():
    taken = []

    def source():
        for frame in frames([0] * 100):
            taken.append(frame.frame.index)
            yield frame

    for item in select_frames(source(), FaceLimits(), (), Fraction(25), 96):
        assert taken[-1] - item.tracked.frame.index <= 4


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"max_yaw": 0}, "--max_yaw"),
        ({"max_yaw": 181}, "--max_yaw"),
        ({"max_pitch": float("nan")}, "--max_pitch"),
        ({"max_roll": 0}, "--max_roll"),
        ({"min_face": -1}, "--min_face"),
        ({"min_face": float("inf")}, "--min_face"),
    ],
)
def test_invalid_limits_are_refused(values, flag):
    with pytest.raises(UsageError, match=flag):
        FaceLimits(**values)


@pytest.mark.parametrize(
    ("values", "detector", "has_box", "expected"),
    [
        ({"max_yaw": 31}, "hog", False, ["--max_yaw 31", "--detector hog"]),
        ({"max_pitch": 32, "min_face": 7}, "s3fd", False, ["--max_pitch 32", "--min_face 7", "s3fd"]),
        ({"min_face": 8}, "retinaface", True, ["--min_face 8", "--box"]),
        ({"min_face": 9}, "retinaface", False, []),
        ({}, "hog", True, []),
    ],
)
def test_limits_without_effect_are_reported_once(caplog, values, detector, has_box, expected):
    for _ in range(2):
        FaceLimits(**values).warn_if_unused(detector, has_constant_box=has_box)
    assert len(caplog.records) == bool(expected)
    assert all(text in caplog.text for text in expected)
