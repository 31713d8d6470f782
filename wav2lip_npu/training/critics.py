"""The two discriminators in training: what each adds to the generator's loss, and its own loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wav2lip_npu.training.losses import fake_loss, hinge_loss, real_loss
from wav2lip_npu.training.task import Losses
from wav2lip_npu.training.trained_network import TrainedNetwork

QUALITY, PATCH = "discriminator", "patch_discriminator"
"""Kinds of discriminators: the original's, and the one of patches."""
_EPS = 1e-12

Autocast = Callable[[], AbstractContextManager[None]]


class Quality(NamedTuple):
    """Judgement of generated faces."""

    term: Tensor
    """Scalar to minimise."""
    figure: Tensor
    """Scalar for the curves, lower for better faces."""


class Critic(Protocol):
    """A discriminator. Faces are float32 [B, 3, T, S, S]."""

    def quality(self, generated: Tensor) -> Quality:
        """Judge generated faces, without gradients of the discriminator's weights."""

    def held_out(self, generated: Tensor) -> Tensor:
        """Return the figure of generated faces."""

    def losses(self, target: Tensor, generated: Tensor) -> Losses:
        """Return the discriminator's own loss."""


class QualityCritic:
    """The original's discriminator: BCE of the probability that a mouth region is real."""

    def __init__(self, trained: TrainedNetwork, autocast: Autocast) -> None:
        self._trained, self._autocast = trained, autocast

    def quality(self, generated: Tensor) -> Quality:
        """Return the BCE against real."""
        network = self._trained.network.requires_grad_(False)
        try:
            loss = self.held_out(generated)
        finally:
            network.requires_grad_(True)
        return Quality(loss, loss)

    def held_out(self, generated: Tensor) -> Tensor:
        """Return the BCE against real."""
        with self._autocast():
            probability = self._trained.network(generated)
        return real_loss(probability.float())

    def losses(self, target: Tensor, generated: Tensor) -> Losses:
        """Return the BCE of real and of generated faces."""
        with self._autocast():
            both = self._trained.wrapped(torch.cat([target, generated.detach()]))
        real, fake = both.float().view(-1, 2 * len(target)).chunk(2, dim=1)  # time-major
        return _losses(QUALITY, real_loss(real), fake_loss(fake))


class PatchCritic:
    """The patch discriminator. Its gradient is scaled to the size of that of the L1 loss.

    So the weight of the term means the same at any time, however sharp or undecided the discriminator is.
    """

    def __init__(self, trained: TrainedNetwork, autocast: Autocast, weights: Tensor) -> None:
        """`weights` [S, S] are those of the L1 loss."""
        self._trained, self._autocast = trained, autocast
        size = len(weights)
        self._l1_norm = float(weights[size // 2 :].square().sum()) ** 0.5 / size**2
        """Norm of the gradient of the L1 loss at the mouth region of one plane of pixels."""

    def quality(self, generated: Tensor) -> Quality:
        """Return a term with the gradient of the scores, scaled to the norm of that of the L1 loss."""
        judged = generated.detach().requires_grad_()
        network = self._trained.network.requires_grad_(False)
        try:
            with torch.enable_grad():
                scores = self._scores(judged)
                (push,) = torch.autograd.grad(-scores.sum(), judged)
        finally:
            network.requires_grad_(True)
        planes = generated.shape[:3].numel()
        push = push * (self._l1_norm / planes**0.5 / (push.norm() + _EPS))
        return Quality((push * generated).sum(), -scores.detach().mean())

    def held_out(self, generated: Tensor) -> Tensor:
        """Return the negative mean score."""
        return -self._scores(generated).mean()

    def losses(self, target: Tensor, generated: Tensor) -> Losses:
        """Return the hinge losses of real and of generated faces."""
        with self._autocast():
            both = self._trained.wrapped(torch.cat([target, generated.detach()]))
        real, fake = both.float().chunk(2)
        return _losses(PATCH, hinge_loss(real, real=True), hinge_loss(fake, real=False))

    def _scores(self, faces: Tensor) -> Tensor:
        with self._autocast():
            scores: Tensor = self._trained.network(faces)
        return scores.float()


def _losses(kind: str, real: Tensor, fake: Tensor) -> Losses:
    return Losses(kind, real + fake, {"disc_real": real, "disc_fake": fake})
