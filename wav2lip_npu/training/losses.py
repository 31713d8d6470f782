"""Losses of the three networks: pure functions on float32 tensors.

The formulas are those of Prajwal et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in
the Wild" (arXiv 2008.10010), unless noted. `B` windows, `T` frames of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_MOUTH, _MOUTH_SPREAD = (0.5, 0.77), (0.16, 0.12)
"""Centre and standard deviation of the mouth, across and down, as fractions of the face."""
_NOSE = 0.42
"""Height above which image gradients do not count, as a share of the face."""
_COARSEST = 64
"""Size down to which image gradients are compared at half of the size, if faces are larger than 96 px."""
_EPS = 1e-6
"""Rounding can push a cosine past 1, where the logarithm of the BCE is undefined."""


def cosine(audio: Tensor, faces: Tensor) -> Tensor:
    """Return the cosines [B] of paired unit embeddings [B, D], clamped to (0, 1)."""
    return (audio * faces).sum(dim=1).clamp(_EPS, 1 - _EPS)


def cosines(audio: Tensor, faces: Tensor) -> Tensor:
    """Return the cosines [M, N] of unit embeddings [M, D] with unit embeddings [N, D], clamped to (0, 1)."""
    return (audio @ faces.T).clamp(_EPS, 1 - _EPS)


def pair_loss(audio: Tensor, faces: Tensor, in_sync: Tensor) -> Tensor:
    """Return the original's SyncNet loss: BCE of the cosines of pairs against `in_sync` [B], 1 or 0."""
    return functional.binary_cross_entropy(cosine(audio, faces), in_sync)


def all_pairs_loss(
    audio: Tensor, faces: Tensor, clips: Tensor, frames: Tensor, same_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the BCE over all pairs of audio and faces of a batch [N, D], and their cosines [N, N].

    One forward pass compares N^2 pairs instead of N. The N positives together have the same weight as all
    negatives. Negatives from the same clip are the hard ones; `same_clip` is their share of the weight of all
    negatives. `None` weights all negatives equally. Repeated windows (same clip and frame, [N]) are not
    negatives.
    """
    table = cosines(audio, faces)
    alike = clips[:, None] == clips
    equal = alike & (frames[:, None] == frames)
    positive = -table.diagonal().log().mean()
    penalty = -(1 - table).log()
    if same_clip is None:
        negative = _mean(penalty, ~equal)
    else:
        negative = same_clip * _mean(penalty, alike & ~equal) + (1 - same_clip) * _mean(penalty, ~alike)
    return (positive + negative) / 2, table


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values, or 0 if there are none, without a host-device sync."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def mouth_loss(generated: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the L1 loss of faces [B, 3, T, S, S] with weights of pixels [S, S]."""
    return ((generated - target).abs() * weights).mean()


def gradient_loss(generated: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the L1 loss of the image gradients of faces [B, 3, T, S, S], from the nose down: sharp edges.

    Faces of more than 96 px are compared at their size and at each half of it down to about 96 px, with equal
    weights: fine gradients alone do not tell where the edges of the lips are.
    """
    error, losses = generated - target, []
    while True:
        top = int(_NOSE * len(weights))
        across = error[..., top:, :].diff(dim=-1).abs() * weights[top:, 1:]
        down = error[..., top:, :].diff(dim=-2).abs() * weights[top + 1 :]
        losses.append(across.mean() + down.mean())
        if len(weights) < 2 * _COARSEST:
            return losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        error, weights = _halved(error), _halved(weights)


def _halved(planes: Tensor) -> Tensor:
    """Return the means of blocks of 2 x 2 pixels, [..., H/2, W/2]."""
    *outer, height, width = planes.shape
    return planes.reshape(*outer, height // 2, 2, width // 2, 2).mean(dim=(-3, -1))


def motion_loss(generated: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the L1 loss of the differences between frames of the mouth regions of faces [B, 3, T, S, S]."""
    error, top = generated - target, len(weights) // 2
    return (error[..., top:, :].diff(dim=2).abs() * weights[top:]).mean()


def mouth_weights(size: int, mouth_weight: float, device: torch.device) -> Tensor:
    """Return weights of the pixels of a face [S, S] with mean 1.

    Before normalisation, the weight is `mouth_weight` at the centre of the mouth and falls off as a Gaussian
    to 1 at the edge of the face, so that the mouth is learned before the hair.
    """
    across, down = (
        torch.exp(-(((torch.arange(size, device=device) + 0.5) / size - centre) ** 2) / (2 * spread**2))
        for centre, spread in zip(_MOUTH, _MOUTH_SPREAD, strict=True)
    )
    weights = 1 + (mouth_weight - 1) * down[:, None] * across
    return weights / weights.mean()


def sync_loss(audio: Tensor, faces: Tensor, floor: float = 0.0, judged: Tensor | None = None) -> Tensor:
    """Return the mean of -log cosine over the windows whose `judged` [B] is 1; `None` means all.

    Below `floor`, in [0, 1], the logarithm continues as its tangent. In the original's loss, the windows that
    SyncNet does not recognise, with a cosine near 0, have the largest gradients.
    """
    floor = max(floor, _EPS)
    similarity = cosine(audio, faces)
    clamped = similarity.clamp(min=floor)
    loss = (clamped - similarity) / floor - clamped.log()
    return loss.mean() if judged is None else _mean(loss, judged)


def real_loss(probability: Tensor) -> Tensor:
    """Return the BCE of a discriminator's probabilities [B * T, 1] against real."""
    return functional.binary_cross_entropy(probability, probability.new_ones(probability.shape))


def fake_loss(probability: Tensor) -> Tensor:
    """Return the BCE of a discriminator's probabilities [B * T, 1] against generated."""
    return functional.binary_cross_entropy(probability, probability.new_zeros(probability.shape))


def hinge_loss(scores: Tensor, *, real: bool) -> Tensor:
    """Return the hinge loss of a patch discriminator's scores of real or of generated faces."""
    return functional.relu(1 - scores if real else 1 + scores).mean()
