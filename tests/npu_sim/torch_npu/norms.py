"""Kernels of SyncBatchNorm, which PyTorch has only for accelerators. Statistics are float32."""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("aten", "IMPL")


def register() -> None:
    for kernel in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        _library.impl(kernel.__name__, kernel, "PrivateUse1")


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = _rows(x)
    return rows.mean(0), (rows.var(0, correction=0) + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    invstds: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    shares = (counts / counts.sum()).unsqueeze(1)
    mean = (shares * means).sum(0)
    var = (shares * (invstds.pow(-2) - eps + (means - mean).square())).sum(0)
    if running_mean is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        unbiased = var * (counts.sum() / (counts.sum() - 1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return mean, (var + eps).rsqrt()


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    y = (x.float() - _wide(mean, x)) * _wide(invstd, x)
    if weight is not None:
        y = y * _wide(weight, x)
    if bias is not None:
        y = y + _wide(bias, x)
    return y.to(x.dtype)


def batch_norm_backward_reduce(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    input_wanted: bool,
    weight_wanted: bool,
    bias_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = _rows(grad)
    total = grads.sum(0)
    times_distance = (grads * (_rows(x) - mean)).sum(0)
    return total, times_distance, times_distance * invstd, total.clone()


def batch_norm_backward_elemt(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    total: Tensor,
    times_distance: Tensor,
    counts: Tensor,
) -> Tensor:
    count = counts.sum()
    slope = _wide(times_distance / count * invstd.square(), x) * (x.float() - _wide(mean, x))
    factor = invstd if weight is None else invstd * weight
    return ((grad.float() - _wide(total / count, x) - slope) * _wide(factor, x)).to(x.dtype)


def _rows(x: Tensor) -> Tensor:
    """Return [B, C, ...] as [B * ..., C]."""
    return x.float().movedim(1, -1).reshape(-1, x.shape[1])


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """Return [C] in the shape to broadcast to [B, C, ...]."""
    return values.float().view(1, -1, *[1] * (x.dim() - 2))
