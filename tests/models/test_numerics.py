"""Comparison of two computations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wav2lip_npu.models.numerics import Difference, compare_runs, difference


def test_largest_mean_and_cosine():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = difference("x", a, b, 1.0)
    assert found.cosine == pytest.approx(0.5)
    assert (found.largest, found.mean) == (1.0, 0.5)


def test_nan_exceeds_any_tolerance():
    assert not Difference("x", math.nan, 0.0, 1.0).is_small
    (found,) = compare_runs(
        [0], lambda _: {"x": torch.zeros(3)}, lambda _: {"x": torch.tensor([0, math.nan, 0])}, 1.0
    )
    assert not found.is_small
    assert found.used == math.inf


def test_outputs_of_all_inputs_are_compared_by_name():
    def double(value: float) -> dict[str, Tensor]:
        return {"a": torch.full((2,), 2 * value), "b": torch.full((1, 3), value)}

    def close(value: float) -> dict[str, Tensor]:
        outputs = double(value)
        return {"b": outputs["b"] + 0.25 * (value == 2), "a": outputs["a"]}

    a, b = compare_runs([1.0, 2.0], double, close, 0.1)
    assert (a.what, a.largest, a.is_small) == ("a", 0, True)
    assert (b.what, b.largest, b.mean) == ("b", 0.25, 0.125)
    assert not b.is_small and "0.2" in str(b)


def test_tolerance_grows_with_the_expected_output():
    (found,) = compare_runs(
        [0], lambda _: {"x": torch.full((3,), 20.0)}, lambda _: {"x": torch.full((3,), 20.5)}, 0.1
    )
    assert found.tolerance == pytest.approx(2)
    assert found.used == pytest.approx(0.25)


def test_by_norm():
    expected, measured = {"x": torch.tensor([3.0, 4.0])}, {"x": torch.tensor([3.0, 4.5])}
    (found,) = compare_runs([0], lambda _: expected, lambda _: measured, 1e-9, by_norm={"x": 0.2})
    assert found.largest == pytest.approx(0.1) and found.is_small
