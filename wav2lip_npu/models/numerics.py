"""How far two computations of the same numbers are apart, and how much of that is rounding."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

TOLERANCES = {"off": (1e-3, 1e-3), "fp16": (2e-2, 0.2), "bf16": (5e-2, 0.3)}
"""Largest difference of numbers and of gradients that is taken for rounding, by the numbers inside the
networks. Float32 leaves room for other orders of summation; on a CPU half of the others was measured."""


@dataclass(frozen=True)
class Difference:
    """How far a device is from the CPU."""

    what: str
    largest: float
    """Of any number; gradients and statistics are compared as a whole, in parts of their norm."""
    mean: float
    tolerance: float
    cosine: float = float("nan")
    """Of the angle between all numbers of one and of the other."""

    @property
    def is_small(self) -> bool:
        """Whether it is rounding; no number is never small."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.is_small else f"MORE THAN {self.tolerance:g}"
        return (
            f"{self.what:<28} largest {self.largest:.2e}, mean {self.mean:.2e}, cosine {self.cosine:.7f}: "
            f"{verdict}"
        )


def difference(
    what: str, measured: Tensor, expected: Tensor, tolerance: float, *, as_whole: bool = False
) -> Difference:
    """How far what was measured is from what was expected: number by number, or as a whole."""
    measured, expected = measured.cpu().double(), expected.cpu().double()
    off = (measured - expected).abs()
    if as_whole:
        off = off.norm()[None] / expected.norm()
    angle = float(nn.functional.cosine_similarity(measured.flatten(), expected.flatten(), dim=0))
    return Difference(what, float(off.max()), float(off.mean()), tolerance, angle)
