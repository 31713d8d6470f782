"""The `hccl` process group: synchronous gloo on host views of the tensors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d


def register() -> None:
    """Register `hccl` as the process group of npu tensors, once per process."""
    if dist.is_available() and "hccl" not in dist.Backend.backend_list:
        dist.Backend.register_backend("hccl", HCCL, devices=["npu"])


class _Done(dist._Work):
    """Finished work. Its future holds tensors on the device, which DDP uses."""

    def __init__(self, outcome: Any) -> None:
        super().__init__()
        self._future = torch.futures.Future()
        self._future.set_result(outcome)

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def synchronize(self) -> None:
        """Do nothing: no work is pending."""

    def get_future(self) -> torch.futures.Future:
        return self._future

    def result(self) -> Any:
        return self._future.value()


class HCCL(dist.ProcessGroup):
    supports_splitting = False

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self) -> str:  # noqa: N802 its name in PyTorch
        return "hccl"

    @property
    def _takes_host_tensors(self) -> bool:
        """Return whether the group was created as `cpu:gloo,npu:hccl`."""
        return "cpu:gloo" in c10d._world.pg_backend_config.get(self, "")

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("npu")] + [torch.device("cpu")] * self._takes_host_tensors

    def _get_backend(self, device: torch.device) -> HCCL:
        return self

    def _on_host(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._on_host(each) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        if value.device.type != "npu" and not self._takes_host_tensors:
            raise RuntimeError(f"hccl takes npu tensors, this one is on {value.device}")
        return torch.ops.npu_sim.host_view(value.detach())

    def _run(self, collective: str, outcome: Any, *arguments: Any) -> _Done:
        getattr(self._gloo, collective)(*(self._on_host(each) for each in arguments)).wait()
        return _Done(outcome)

    def allreduce(self, tensors: Any, opts: Any = None) -> _Done:
        return self._run("allreduce", tensors, tensors, opts or c10d.AllreduceOptions())

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> _Done:
        for tensor in tensors:
            self.allreduce([tensor], opts)
        return _Done(tensors)

    def broadcast(self, tensors: Any, opts: Any = None) -> _Done:
        return self._run("broadcast", tensors, tensors, opts or c10d.BroadcastOptions())

    def reduce(self, tensors: Any, opts: Any = None) -> _Done:
        return self._run("reduce", tensors, tensors, opts or c10d.ReduceOptions())

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> _Done:
        return self._run("allgather", outputs, outputs, inputs, opts or c10d.AllgatherOptions())

    def all_gather_single(self, output: Any, own: Any, opts: Any = None) -> _Done:
        parts = list(output.view(-1).chunk(self.size()))
        self.allgather([parts], [own.reshape(-1)])
        return _Done(output)

    _allgather_base = all_gather_single

    def gather(self, outputs: Any, inputs: Any, opts: Any = None) -> _Done:
        return self._run("gather", outputs, outputs, inputs, opts or c10d.GatherOptions())

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> _Done:
        return self._run("scatter", outputs, outputs, inputs, opts or c10d.ScatterOptions())

    def send(self, tensors: Any, rank: int, tag: int = 0) -> _Done:
        return self._run("send", tensors, tensors, rank, tag)

    def recv(self, tensors: Any, rank: int, tag: int = 0) -> _Done:
        return self._run("recv", tensors, tensors, rank, tag)

    def barrier(self, opts: Any = None) -> _Done:
        self._gloo.barrier().wait()
        return _Done([])
