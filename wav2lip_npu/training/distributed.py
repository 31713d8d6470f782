"""Ranks of a training run under `torchrun`, and their collectives. A single process uses neither."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import DeviceError


class Ranks(NamedTuple):
    """Rank of this process, and the number of processes in the training run."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints, curves and the log."""
        return self.rank == 0


SINGLE = Ranks()
_CONNECTION_LOST = "|".join(
    [
        *(backend.collectives for backend in devices.BACKENDS.values()),
        "reset by peer",
        "closed by (remote )?peer",
        "broken pipe",
        "tim(ed|es) ?out",
    ]
)
"""Pattern of the error messages of a collective after another process has ended."""


def local_device(spec: str) -> str:
    """Return the device of this process: under torchrun, the card of its local rank if no index is given."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or ":" in spec:
        return spec
    kind = devices.resolve(spec).type
    return kind if kind == devices.HOST else f"{kind}:{local}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes of torchrun for the duration of the block; yield the rank of this process.

    Raises `DeviceError` if they cannot be reached or one of them ends early.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE
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
        if not re.search(_CONNECTION_LOST, str(error), re.IGNORECASE):
            raise
        raise DeviceError(
            f"another process of this training has ended, or the network failed ({_first_sentence(error)}). "
            "Check the logs of the other processes, then run the same commands again to resume from the "
            "newest checkpoint."
        ) from error
    finally:
        dist.destroy_process_group()


def _first_sentence(error: RuntimeError) -> str:
    """Return the first sentence of a message, without the source position inside PyTorch."""
    return re.split(r"\.\s|\n", re.sub(r"^\[[^\]]*\]\s*", "", str(error)))[0]


def wrap(network: nn.Module, ranks: Ranks) -> nn.Module:
    """Wrap a network so that all ranks start with equal weights and backward averages their gradients."""
    if ranks.size == 1:
        return network
    # Each rank uses the statistics of its own batch; `average_statistics` averages the running statistics.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.5 does not have the new name of the flag
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


def sync_batchnorm(network: nn.Module, ranks: Ranks) -> nn.Module:
    """Return the network with batch norms that span the batches of all ranks."""
    if ranks.size == 1:
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


@torch.no_grad()
def average_statistics(network: nn.Module, ranks: Ranks) -> None:
    """Average the running statistics of batch norms over the ranks, in place."""
    if ranks.size == 1:
        return
    import torch.distributed as dist

    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= ranks.size


def max_of_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """Return the maximum of each value over the ranks, without waiting for the device."""
    if ranks.size > 1:
        import torch.distributed as dist

        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def all_sum(values: Sequence[float], device: torch.device, ranks: Ranks) -> list[float]:
    """Return the sum of each value over the ranks."""
    if ranks.size == 1:
        return list(values)
    import torch.distributed as dist

    tensor = torch.tensor(values, dtype=torch.float32, device=device)
    dist.all_reduce(tensor)
    sums: list[float] = tensor.tolist()
    return sums


def all_gather(value: Any, ranks: Ranks) -> list[Any]:
    """Return the value of every rank, in order of rank."""
    if ranks.size == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * ranks.size
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor, ranks: Ranks) -> Tensor:
    """Return the rows of all ranks [ranks * B, ...] of this rank's [B, ...].

    Gradients flow back to the rows of each rank. If every rank computes a loss over all rows, the averaging
    of `wrap` gives the same gradient as a single process.
    """
    if ranks.size == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, ranks)  # type: ignore[no-untyped-call]
    return gathered


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
