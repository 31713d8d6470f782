"""Compiled networks, and steps whose kernels are captured as a graph."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from wav2lip_npu.errors import DeviceError

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Network = TypeVar("Network", bound=Callable[..., Any])
_RUNS_BEFORE_CAPTURE = 3
CompileOption = Literal["off", "on"]
"""Whether a generator is compiled."""


def check_compile(device: torch.device) -> None:
    """Raise `DeviceError` if PyTorch cannot compile for the device on this machine."""
    if device.type == "npu" and importlib.util.find_spec("torchair") is None:
        raise DeviceError(
            "--compile on needs torchair on an NPU. Install it with CANN, or leave --compile off."
        )
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise DeviceError("--compile on needs a C++ compiler on a CPU. Install g++, or leave --compile off.")


def compiled(network: Network, device: torch.device, *, is_frozen: bool = False) -> Network:
    """Return a network, or a function of one, that is compiled at its first call for each shape.

    It shares the weights; if they are frozen, a CPU keeps copies in the layout of its kernels.
    """
    import torch

    backend = importlib.import_module("torchair").get_npu_backend() if device.type == "npu" else "inductor"
    options: dict[str, Any] | None = {"freezing": True} if is_frozen and device.type == "cpu" else None
    result: Any = torch.compile(network, backend=backend, dynamic=False, options=options)
    return cast("Network", result)


def captures_graphs(device: torch.device) -> bool:
    """Return whether the kernels of a training step can be captured as a graph."""
    return device.type == "cuda"


def check_graphs(device: torch.device) -> None:
    """Raise `DeviceError` if the kernels of a step cannot be captured."""
    if not captures_graphs(device):
        raise DeviceError(f"--compile graph needs CUDA, not {device}. Pass --compile on or off.")


def captured(function: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """Return a function that replays the kernels of another one, and returns its result with new values.

    The function runs a few times before the capture, and must not wait for the device.
    """
    module: Any = importlib.import_module("torch").cuda
    side, graph = module.Stream(device), module.CUDAGraph()
    side.wait_stream(module.current_stream(device))
    with module.stream(side):
        for _ in range(_RUNS_BEFORE_CAPTURE):
            function()
    module.current_stream(device).wait_stream(side)
    with module.graph(graph):
        result = function()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
