"""Marks of single parameters."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any, id: str | None = None) -> Any:  # noqa: A002 as in pytest
    """Return a parameter set that only `make test-slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


def slow_on_npu(*values: Any) -> Any:
    """Return a parameter set that is slow with TEST_DEVICE=npu."""
    return pytest.param(*values, marks=pytest.mark.slow_on_npu)
