"""Compare two computations of the same outputs: how much they differ, and whether that is rounding.

Used by `doctor`, `compare`, `export` and `benchmarks/npu_acceptance.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

TOLERANCES = {"off": (1e-3, 1e-3), "fp16": (2e-2, 0.2), "bf16": (5e-2, 0.3), "int8": (0.3, math.inf)}
"""Largest difference of outputs and of gradients that counts as rounding, by the value of `--amp`, or int8
of an exported file. For float32 it allows for a different order of summation; for the others it is twice the
difference on a CPU."""

Inputs = TypeVar("Inputs")
Outputs = Mapping[str, Tensor]
"""Outputs by name."""


@dataclass(frozen=True)
class Difference:
    """Difference of one output between two computations."""

    what: str
    """Name of the output."""
    largest: float
    """Largest absolute difference; for an output compared by its norm, the norm of the difference
    relative to the expected norm."""
    mean: float
    """Mean absolute difference, in the same units."""
    tolerance: float
    """Largest difference that counts as rounding."""
    cosine: float = math.nan
    """Cosine of the angle between the two outputs, each as one vector."""

    @property
    def is_small(self) -> bool:
        """Whether the difference is within the tolerance; False for NaN."""
        return self.largest <= self.tolerance

    @property
    def used(self) -> float:
        """The largest difference relative to the tolerance; infinite if it is NaN."""
        return math.inf if math.isnan(self.largest) else self.largest / self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, and whether the difference is small as `ok`."""
        return {**asdict(self), "ok": self.is_small}

    def __str__(self) -> str:
        verdict = "ok" if self.is_small else f"exceeds the tolerance of {self.tolerance:g}"
        return (
            f"{self.what:<28} largest {self.largest:.2e}, mean {self.mean:.2e}, cosine {self.cosine:.7f}: "
            f"{verdict}"
        )


def compare_runs(
    inputs: Iterable[Inputs],
    expected: Callable[[Inputs], Outputs],
    measured: Callable[[Inputs], Outputs],
    tolerance: float,
    *,
    by_norm: Mapping[str, float] | None = None,
) -> list[Difference]:
    """Run two computations on the same inputs and compare their outputs by name, over all inputs.

    Both return the same names. The tolerance applies to each element, relative to the largest expected
    element if that is above 1. Outputs named in `by_norm` are compared as one vector, with that tolerance.
    """
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for values in inputs:
        expected_outputs, measured_outputs = expected(values), measured(values)
        for name, output in expected_outputs.items():
            pairs.setdefault(name, []).append((_flat(output), _flat(measured_outputs[name])))
    by_norm = by_norm or {}
    differences = []
    for name, parts in pairs.items():
        want, have = (torch.cat(side) for side in zip(*parts, strict=True))
        if name in by_norm:
            differences.append(difference(name, have, want, by_norm[name], by_norm=True))
        else:
            scale = max(1.0, float(want.abs().max()))
            differences.append(difference(name, have, want, tolerance * scale))
    return differences


def difference(
    what: str, measured: Tensor, expected: Tensor, tolerance: float, *, by_norm: bool = False
) -> Difference:
    """Return the difference of `measured` from `expected`, by element or by norm."""
    measured, expected = _flat(measured), _flat(expected)
    error = (measured - expected).abs()
    if by_norm:
        error = error.norm()[None] / expected.norm()
    cosine = float(nn.functional.cosine_similarity(measured, expected, dim=0))
    return Difference(what, float(error.max()), float(error.mean()), tolerance, cosine)


def _flat(values: Tensor) -> Tensor:
    """Return the values as float64 [N] on the CPU."""
    return values.detach().cpu().double().flatten()
