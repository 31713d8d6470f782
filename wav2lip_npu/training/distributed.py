"""Rank and world size under `torchrun`, and what the ranks tell each other; nothing in one process."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wav2lip_npu import device as devices
from wav2lip_npu.errors import DeviceError


class Ranks(NamedTuple):
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints, curves and the log."""
        return self.rank == 0


ALONE = Ranks()
_LOST = "|".join(
    [
        *(backend.collectives for backend in devices.BACKENDS.values()),
        "reset by peer",
        "closed by (remote )?peer",
        "broken pipe",
        "tim(ed|es) ?out",
    ]
)
"""What a collective says when a process that takes part is gone."""


def local_device(spec: str) -> str:
    """The device of this process: `auto`, `cuda` or `npu` under torchrun means the card of its local rank."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or ":" in spec:
        return spec
    kind = devices.resolve(spec).type
    return kind if kind == devices.HOST else f"{kind}:{local}"


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes when torchrun started this one; leave them at the end.

    Raises `DeviceError` when they cannot be reached, or are gone before the end.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch.distributed as dist

    try:
        dist.init_process_group(devices.BACKENDS[device.type].collectives)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise DeviceError(
            f"the processes of torchrun cannot reach each other at {address} ({error}). "
            "Check --nnodes, --rdzv_endpoint and the network."
        ) from None
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not re.search(_LOST, str(error), re.IGNORECASE):
            raise
        raise DeviceError(
            f"another process of this training is gone, or the network is ({_in_short(error)}). Look at "
            "what the others say, then start the same commands again: they go on from the newest checkpoint."
        ) from error
    finally:
        dist.destroy_process_group()


def _in_short(error: RuntimeError) -> str:
    """The first sentence, without the place in the source of PyTorch."""
    return re.split(r"\.\s|\n", re.sub(r"^\[[^\]]*\]\s*", "", str(error)))[0]


def parallel(network: nn.Module, ranks: Ranks) -> nn.Module:
    """The network wrapped so that backward averages gradients over the ranks, all starting equal."""
    if ranks.size == 1:
        return network
    # Batch statistics are of each rank's own batch; `share_statistics` evens the running ones out.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of the flag is not in PyTorch 2.5
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


def synchronised_norms(network: nn.Module, ranks: Ranks) -> nn.Module:
    """The network with batch norms whose statistics are those of all ranks' batches together."""
    if ranks.size == 1:
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


@torch.no_grad()
def share_statistics(network: nn.Module, ranks: Ranks) -> None:
    """Average the running statistics of batch norms over the ranks, in place."""
    if ranks.size == 1:
        return
    import torch.distributed as dist

    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= ranks.size


def highest(values: Sequence[float], device: torch.device, ranks: Ranks) -> list[float]:
    """The highest of each value over the ranks."""
    return _reduced(values, device, ranks, "MAX")


def total(values: Sequence[float], device: torch.device, ranks: Ranks) -> list[float]:
    """The sum of each value over the ranks."""
    return _reduced(values, device, ranks, "SUM")


def from_each(value: Any, ranks: Ranks) -> list[Any]:
    """The value of every rank, in order of rank."""
    if ranks.size == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * ranks.size
    dist.all_gather_object(values, value)
    return values


def _reduced(values: Sequence[float], device: torch.device, ranks: Ranks, how: str) -> list[float]:
    if ranks.size == 1:
        return list(values)
    import torch.distributed as dist

    tensor = torch.tensor(values, dtype=torch.float32, device=device)
    dist.all_reduce(tensor, getattr(dist.ReduceOp, how))
    reduced: list[float] = tensor.tolist()
    return reduced


def gathered(rows: Tensor, ranks: Ranks) -> Tensor:
    """The rows of all ranks [ranks * B, ...] of this rank's [B, ...]; gradients flow back to each rank's own.

    A loss that every rank computes of all rows has, after `parallel` averages, the gradient of that loss.
    """
    if ranks.size == 1:
        return rows
    everyones: Tensor = _Gather.apply(rows, ranks)  # type: ignore[no-untyped-call]
    return everyones


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        import torch.distributed as dist

        ctx.ranks = ranks
        parts = [torch.empty_like(rows) for _ in range(ranks.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        import torch.distributed as dist

        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        own: Tensor = gradient.chunk(ctx.ranks.size)[ctx.ranks.rank]
        return own, None
