"""Run .om files, which are models compiled for an NPU, with Huawei's `ais_bench` or with `acl`.

`ais_bench` is a Python package; `acl` (pyACL) is part of CANN. Neither requires PyTorch.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import DeviceError

Run = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
"""Takes inputs and returns outputs, both in the order of the model."""

# From CANN's acl_base.h and acl_rt.h.
_REPEATED_INIT = 100002
_HUGE_PAGES_FIRST = 0
_TO_DEVICE, _TO_HOST = 1, 2
_TYPES = {0: np.float32, 1: np.float16}


def open_om_model(path: Path, index: int) -> Run:
    """Load a model with a fixed batch size on the NPU with the given index.

    The result may be called from any thread, one call at a time. Raises `DeviceError` if neither interface
    is installed or the model cannot be loaded.
    """
    try:
        bench = _import_if_installed("ais_bench.infer.interface")
        if bench is not None:
            session = bench.InferSession(index, str(path))
            return lambda arrays: list(session.infer(list(arrays), mode="static"))
        acl = _import_if_installed("acl")
        if acl is not None:
            return _AclModel(acl, path, index)
    except DeviceError:
        raise
    except Exception as error:  # of any type: errors of the driver
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DeviceError(
            f"{path} cannot be loaded on NPU {index} ({reason:.200}). Compile it for the chip in "
            "npu-smi info, or run wav2lip-npu doctor."
        ) from None
    raise DeviceError(
        f"{path} needs ais_bench or acl, and neither is installed. Install CANN and source its set_env.sh "
        "(wav2lip-npu doctor reports what is missing), or pass the .onnx file."
    )


def _import_if_installed(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _AclModel:
    """A model that runs with pyACL."""

    def __init__(self, acl: Any, path: Path, index: int) -> None:
        self._acl = acl
        if (code := acl.init()) not in (0, _REPEATED_INIT):  # torch_npu may have initialised it
            raise _failed("init", code)
        _check("set_device", acl.rt.set_device(index))
        self._context = _value_of("create_context", acl.rt.create_context(index))
        self._model = _value_of("load_from_file", acl.mdl.load_from_file(str(path)))
        self._description = acl.mdl.create_desc()
        _check("get_desc", acl.mdl.get_desc(self._description, self._model))
        count, size = acl.mdl.get_num_inputs, acl.mdl.get_input_size_by_index
        self._input_sizes = [size(self._description, number) for number in range(count(self._description))]
        count, size = acl.mdl.get_num_outputs, acl.mdl.get_output_size_by_index
        self._output_sizes = [size(self._description, number) for number in range(count(self._description))]
        type_of, count = acl.mdl.get_output_data_type, len(self._output_sizes)
        self._types = [_TYPES[type_of(self._description, number)] for number in range(count)]
        self._input_set, inputs = self._dataset(self._input_sizes)
        self._output_set, outputs = self._dataset(self._output_sizes)
        self._host = [_value_of("malloc_host", acl.rt.malloc_host(size)) for size in self._output_sizes]
        weakref.finalize(self, _release, acl, self._context, self._model, [*inputs, *outputs], self._host)
        self._input_addresses, self._output_addresses = inputs, outputs

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the model. Raises `RuntimeError` if the device fails."""
        acl = self._acl
        try:
            _check("set_context", acl.rt.set_context(self._context))  # per thread
            for array, address, size in zip(arrays, self._input_addresses, self._input_sizes, strict=True):
                content = array.tobytes()
                source = acl.util.bytes_to_ptr(content)
                _check("memcpy", acl.rt.memcpy(address, size, source, len(content), _TO_DEVICE))
            _check("execute", acl.mdl.execute(self._model, self._input_set, self._output_set))
            return [self._fetch(number) for number in range(len(self._output_sizes))]
        except DeviceError as error:
            raise RuntimeError(str(error)) from None

    def _fetch(self, number: int) -> NDArray[Any]:
        address, host, size = self._output_addresses[number], self._host[number], self._output_sizes[number]
        _check("memcpy", self._acl.rt.memcpy(host, size, address, size, _TO_HOST))
        return np.frombuffer(self._acl.util.ptr_to_bytes(host, size), self._types[number])

    def _dataset(self, sizes: Sequence[int]) -> tuple[Any, list[Any]]:
        """Return a dataset of device buffers for the model, and their addresses."""
        acl = self._acl
        dataset, addresses = acl.mdl.create_dataset(), []
        for size in sizes:
            addresses.append(_value_of("malloc", acl.rt.malloc(size, _HUGE_PAGES_FIRST)))
            buffer = acl.create_data_buffer(addresses[-1], size)
            _value_of("add_dataset_buffer", acl.mdl.add_dataset_buffer(dataset, buffer))
        return dataset, addresses


def _release(acl: Any, context: Any, model: Any, addresses: Sequence[Any], host: Sequence[Any]) -> None:
    """Free the memory of a model without affecting other models on the device."""
    acl.rt.set_context(context)
    acl.mdl.unload(model)
    for address in addresses:
        acl.rt.free(address)
    for address in host:
        acl.rt.free_host(address)


def _value_of(what: str, answer: tuple[Any, int]) -> Any:
    """Return the value of an answer (value, code). Raises `DeviceError` if the code is not 0."""
    value, code = answer
    _check(what, code)
    return value


def _check(what: str, code: int) -> None:
    if code != 0:
        raise _failed(what, code)


def _failed(what: str, code: int) -> DeviceError:
    return DeviceError(
        f"CANN function {what} failed with code {code}. Run wav2lip-npu doctor and check CANN's logs."
    )
