"""Head pose from five landmarks, against points that were projected at known angles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.landmarks import projected
from wav2lip_npu.faces.head_pose import head_pose


@given(yaw=st.floats(-80, 80), scale=st.floats(3, 500))
def test_yaw_is_found_at_any_size(yaw, scale):
    pose = head_pose(projected(yaw, 0, 0, scale))
    assert pose.yaw == pytest.approx(yaw, abs=0.5)
    assert (pose.pitch, pose.roll) == pytest.approx((0, 0), abs=0.5)


@given(st.floats(-170, 170))
def test_roll_is_found(roll):
    pose = head_pose(projected(0, 0, roll))
    assert pose.roll == pytest.approx(roll, abs=0.5)


@given(st.floats(-40, 40))
def test_pitch_is_found(pitch):
    pose = head_pose(projected(0, pitch, 0))
    assert pose.pitch == pytest.approx(pitch, abs=0.5)
    assert (pose.yaw, pose.roll) == pytest.approx((0, 0), abs=0.5)


def test_inaccurate_landmarks_change_the_pose_little():
    pose = head_pose(projected(40, 5, 0, noise=0.04))
    assert pose.yaw == pytest.approx(40, abs=6)
    assert pose.pitch == pytest.approx(5, abs=8)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.ones((5, 2)) * 7, np.eye(5, 2)])
def test_degenerate_landmarks_give_finite_angles(points):
    pose = head_pose(points.astype(np.float32))
    assert np.isfinite([pose.yaw, pose.pitch, pose.roll]).all()
