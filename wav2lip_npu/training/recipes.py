"""Recipes for training SyncNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RecipeName = Literal["default", "original"]


@dataclass(frozen=True)
class Recipe:
    """A recipe for training SyncNet. docs/training.md has the figures of both recipes."""

    windows_per_clip: int
    """Windows per clip in a batch; each is a negative for the others."""
    rate_factor: float
    """Learning rate after warm-up, as a multiple of --learning_rate, from random weights."""
    warmup_steps: int
    """Warm-up from random weights."""
    average: float


RECIPES: dict[str, Recipe] = {
    "default": Recipe(windows_per_clip=8, rate_factor=10, warmup_steps=20, average=0.99),
    "original": Recipe(windows_per_clip=1, rate_factor=1, warmup_steps=0, average=0.0),
}
