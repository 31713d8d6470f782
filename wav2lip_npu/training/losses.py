"""Losses of the three networks: pure functions on float32 tensors.

Formulas are those of Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in
the Wild" (arXiv 2008.10010), unless said otherwise. `B` windows, `T` frames of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_MOUTH, _MOUTH_SPREAD = (0.5, 0.77), (0.16, 0.12)
"""Where the mouth is in a face, across and down, and how far it reaches."""
_EPS = 1e-6
"""Rounding can push a cosine past 1, where the logarithm of the BCE has no value."""


def cosine(sound: Tensor, picture: Tensor) -> Tensor:
    """Cosines [B] of paired unit embeddings [B, D], within (0, 1)."""
    return (sound * picture).sum(dim=1).clamp(_EPS, 1 - _EPS)


def cosines(sound: Tensor, picture: Tensor) -> Tensor:
    """Cosines [M, N] of every unit embedding [M, D] with every other [N, D], within (0, 1)."""
    return (sound @ picture.T).clamp(_EPS, 1 - _EPS)


def pair_loss(sound: Tensor, picture: Tensor, in_sync: Tensor) -> Tensor:
    """The original's loss of the expert: BCE of the cosine of each pair, `in_sync` [B] being 1 or 0."""
    return functional.binary_cross_entropy(cosine(sound, picture), in_sync)


def all_pairs_loss(
    sound: Tensor, picture: Tensor, clip: Tensor, frame: Tensor, same_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """BCE of the cosine of every sound with every picture of a batch [N, D], and the cosines [N, N].

    The N pairs that belong together weigh as much as all others. One pass through the networks so judges
    N^2 pairs instead of N; windows of the same clip are the hard ones among them, and weigh `same_clip` of
    the wrong pairs if that is given, else as much as any. Equal windows (same `clip` and `frame`, [N]) are
    no wrong pair.
    """
    table = cosines(sound, picture)
    alike = clip[:, None] == clip
    equal = alike & (frame[:, None] == frame)
    right = -table.diagonal().log().mean()
    penalty = -(1 - table).log()
    if same_clip is None:
        wrong = _mean(penalty, ~equal)
    else:
        wrong = same_clip * _mean(penalty, alike & ~equal) + (1 - same_clip) * _mean(penalty, ~alike)
    return (right + wrong) / 2, table


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values, 0 if there are none; without a wait for the device."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def mouth_loss(made: Tensor, target: Tensor, mouth_weight: float) -> Tensor:
    """L1 of faces [B, 3, T, S, S]; an error in the middle of the mouth counts `mouth_weight` times.

    The weight falls off as a Gaussian, to 1 at the edge of the face: the mouth is learnt before the hair.
    """
    size = made.shape[-1]
    across, down = (
        torch.exp(-(((torch.arange(size, device=made.device) + 0.5) / size - at) ** 2) / (2 * spread**2))
        for at, spread in zip(_MOUTH, _MOUTH_SPREAD, strict=True)
    )
    weights = 1 + (mouth_weight - 1) * down[:, None] * across
    return ((made - target).abs() * (weights / weights.mean())).mean()


def sync_loss(sound: Tensor, picture: Tensor, floor: float = 0.0, judged: Tensor | None = None) -> Tensor:
    """How far from in sync the expert finds made mouths: the mean of -log cosine, where `judged` [B] is 1.

    Below `floor`, in [0, 1], the logarithm goes on as its tangent: with the original's, a window that means
    nothing to SyncNet, its cosine near 0, pulls harder than all that it understands.
    """
    floor = max(floor, _EPS)
    found = cosine(sound, picture)
    low = found.clamp(min=floor)
    loss = (low - found) / floor - low.log()
    return loss.mean() if judged is None else _mean(loss, judged)


def real_loss(probability: Tensor) -> Tensor:
    """BCE of a discriminator's probabilities [B * T, 1] against real."""
    return functional.binary_cross_entropy(probability, probability.new_ones(probability.shape))


def fake_loss(probability: Tensor) -> Tensor:
    """BCE of a discriminator's probabilities [B * T, 1] against made."""
    return functional.binary_cross_entropy(probability, probability.new_zeros(probability.shape))
