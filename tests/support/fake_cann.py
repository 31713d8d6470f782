"""Fakes of ais_bench and pyACL with the documented calls; onnxruntime runs the model.

A "compiled" model is the .onnx file under another name. Device addresses are numbers that only the fake can
resolve, so data that was not copied is missing; a call from a thread without a context fails.
"""

from __future__ import annotations

import itertools
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BUSY = 507033
OM_FAILURE = 145000


def install_bench(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> None:
    """Install a fake `ais_bench.infer.interface.InferSession` that records its calls."""

    class InferSession:
        def __init__(self, device_id: int, model_path: str) -> None:
            calls.append(("load", device_id, model_path))
            self._session = session(model_path)

        def infer(self, feeds: list[np.ndarray], mode: str = "static") -> list[np.ndarray]:
            calls.append((mode, [item.shape for item in feeds]))
            names = [item.name for item in self._session.get_inputs()]
            for item, expected in zip(feeds, self._session.get_inputs(), strict=True):
                assert list(item.shape) == expected.shape, "a static model takes its own batch alone"
                assert item.dtype == np.float32 and item.flags.c_contiguous
            return self._session.run(None, dict(zip(names, feeds, strict=True)))

    interface = types.ModuleType("ais_bench.infer.interface")
    interface.InferSession = InferSession
    monkeypatch.setitem(sys.modules, "ais_bench", types.ModuleType("ais_bench"))
    monkeypatch.setitem(sys.modules, "ais_bench.infer", types.ModuleType("ais_bench.infer"))
    monkeypatch.setitem(sys.modules, "ais_bench.infer.interface", interface)


def install_program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a script under the name of one of the vendor's programs, first on the PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both interfaces unavailable."""
    monkeypatch.setitem(sys.modules, "ais_bench.infer.interface", None)
    monkeypatch.setitem(sys.modules, "acl", None)


def session(path: str | Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(Path(path).read_bytes(), providers=["CPUExecutionProvider"])


class FakeAcl(types.ModuleType):
    """The part of pyACL that the package uses: acl.init, acl.rt, acl.mdl, acl.util and data buffers."""

    def __init__(self) -> None:
        super().__init__("acl")
        self.memory: dict[int, bytearray] = {}
        self.freed: list[int] = []
        self.unloaded: list[int] = []
        self.device: int | None = None
        self.code_of: dict[str, int] = {}
        self._bytes: dict[int, bytes] = {}
        self._numbers = itertools.count(1 << 20, 1 << 12)
        self._here = threading.local()
        self._session: Any = None
        self._datasets: dict[int, list[int]] = {}
        names = (
            "set_device",
            "create_context",
            "set_context",
            "malloc",
            "malloc_host",
            "memcpy",
            "free",
            "free_host",
        )
        self.rt = types.SimpleNamespace(**{name: getattr(self, f"_{name}") for name in names})
        names = (
            "load_from_file create_desc get_desc get_num_inputs get_num_outputs get_input_size_by_index "
            "get_output_size_by_index get_output_data_type create_dataset add_dataset_buffer execute unload"
        ).split()
        self.mdl = types.SimpleNamespace(**{name: getattr(self, f"_{name}") for name in names})
        self.util = types.SimpleNamespace(bytes_to_ptr=self._bytes_to_ptr, ptr_to_bytes=self._ptr_to_bytes)

    def init(self) -> int:
        return self.code_of.get("init", 0)

    def create_data_buffer(self, address: int, size: int) -> int:
        assert len(self.memory[address]) == size
        return address

    def _set_device(self, index: int) -> int:
        self.device = index
        return self.code_of.get("set_device", 0)

    def _create_context(self, index: int) -> tuple[int, int]:
        assert index == self.device
        self._here.context = 7
        return 7, 0

    def _set_context(self, context: int) -> int:
        assert context == 7
        self._here.context = context
        return 0

    def _malloc(self, size: int, policy: int) -> tuple[int, int]:
        assert policy == 0
        return self._malloc_host(size)

    def _malloc_host(self, size: int) -> tuple[int, int]:
        address = next(self._numbers) * (1 << 12)
        self.memory[address] = bytearray(size)
        return address, 0

    def _free(self, address: int) -> int:
        del self.memory[address]
        self.freed.append(address)
        return 0

    _free_host = _free

    def _memcpy(self, to: int, room: int, source: int, size: int, kind: int) -> int:
        assert kind in (1, 2) and size <= room
        content = self._bytes.get(source) or bytes(self.memory[source])
        assert len(content) == size
        self.memory[to][:size] = content
        return 0

    def _bytes_to_ptr(self, content: bytes) -> int:
        self._bytes[id(content)] = content
        return id(content)

    def _ptr_to_bytes(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address][:size])

    def _load_from_file(self, path: str) -> tuple[int, int]:
        if code := self.code_of.get("load_from_file", 0):
            return 0, code
        self._session = session(path)
        return 3, 0

    def _create_desc(self) -> int:
        return 4

    def _get_desc(self, desc: int, model: int) -> int:
        assert (desc, model) == (4, 3)
        return 0

    def _get_num_inputs(self, desc: int) -> int:
        return len(self._session.get_inputs())

    def _get_num_outputs(self, desc: int) -> int:
        return len(self._session.get_outputs())

    def _get_input_size_by_index(self, desc: int, index: int) -> int:
        return 4 * int(np.prod(self._session.get_inputs()[index].shape))

    def _get_output_size_by_index(self, desc: int, index: int) -> int:
        return 4 * int(np.prod(self._session.get_outputs()[index].shape))

    def _get_output_data_type(self, desc: int, index: int) -> int:
        return 0

    def _create_dataset(self) -> int:
        self._datasets[len(self._datasets)] = []
        return len(self._datasets) - 1

    def _add_dataset_buffer(self, dataset: int, buffer: int) -> tuple[int, int]:
        self._datasets[dataset].append(buffer)
        return dataset, 0

    def _execute(self, model: int, given: int, got: int) -> int:
        if code := self.code_of.get("execute", 0):
            return code
        assert self._here.context == 7, "each thread sets its context"
        feeds = {
            item.name: np.frombuffer(bytes(self.memory[address]), np.float32).reshape(item.shape)
            for item, address in zip(self._session.get_inputs(), self._datasets[given], strict=True)
        }
        for address, output in zip(self._datasets[got], self._session.run(None, feeds), strict=True):
            self.memory[address][:] = output.tobytes()
        return 0

    def _unload(self, model: int) -> int:
        self.unloaded.append(model)
        return 0
