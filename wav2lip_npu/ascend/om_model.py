"""Runs .om files, models compiled for an NPU, through what the vendor's documentation offers for it.

`ais_bench` is the vendor's Python interface, a package of its own; `acl` (pyACL) comes with CANN. PyTorch has
no part in it.
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
"""Inputs in the order of the model, outputs in theirs."""

# Of CANN's acl_base.h and acl_rt.h.
_REPEATED_INIT = 100002
_HUGE_PAGES_FIRST = 0
_TO_DEVICE, _TO_HOST = 1, 2
_TYPES = {0: np.float32, 1: np.float16}


def open_offline(path: Path, index: int) -> Run:
    """What runs a model of one batch size on the NPU of a number, one call at a time, from any thread.

    Raises `DeviceError` when neither interface is there or the model cannot be loaded.
    """
    try:
        bench = _imported("ais_bench.infer.interface")
        if bench is not None:
            session = bench.InferSession(index, str(path))
            return lambda arrays: list(session.infer(list(arrays), mode="static"))
        acl = _imported("acl")
        if acl is not None:
            return _AclModel(acl, path, index)
    except DeviceError:
        raise
    except Exception as error:  # what the driver says, whatever it is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DeviceError(
            f"{path} cannot be loaded on NPU {index} ({reason:.200}). Compile it for the chip that "
            "npu-smi info names, or run wav2lip-npu doctor."
        ) from None
    raise DeviceError(
        f"{path} runs on an NPU through ais_bench or acl, and neither is there. Install CANN and source its "
        "set_env.sh (wav2lip-npu doctor says what is missing), or pass the .onnx file."
    )


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _AclModel:
    """A model that pyACL runs."""

    def __init__(self, acl: Any, path: Path, index: int) -> None:
        self._acl = acl
        if (code := acl.init()) not in (0, _REPEATED_INIT):  # PyTorch's plugin may have been there before
            raise _refused("init", code)
        _done("set_device", acl.rt.set_device(index))
        self._context = _made("create_context", acl.rt.create_context(index))
        self._model = _made("load_from_file", acl.mdl.load_from_file(str(path)))
        self._about = acl.mdl.create_desc()
        _done("get_desc", acl.mdl.get_desc(self._about, self._model))
        count, size = acl.mdl.get_num_inputs, acl.mdl.get_input_size_by_index
        self._inputs = [size(self._about, each) for each in range(count(self._about))]
        count, size = acl.mdl.get_num_outputs, acl.mdl.get_output_size_by_index
        self._outputs = [size(self._about, each) for each in range(count(self._about))]
        self._types = [
            _TYPES[acl.mdl.get_output_data_type(self._about, each)] for each in range(len(self._outputs))
        ]
        self._given, given = self._dataset(self._inputs)
        self._got, got = self._dataset(self._outputs)
        self._host = [_made("malloc_host", acl.rt.malloc_host(size)) for size in self._outputs]
        weakref.finalize(self, _release, acl, self._context, self._model, [*given, *got], self._host)
        self._given_at, self._got_at = given, got

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See `Run`. Raises `RuntimeError` when the device fails."""
        acl = self._acl
        try:
            _done("set_context", acl.rt.set_context(self._context))  # it is that of a thread
            for array, place, size in zip(arrays, self._given_at, self._inputs, strict=True):
                content = array.tobytes()
                source = acl.util.bytes_to_ptr(content)
                _done("memcpy", acl.rt.memcpy(place, size, source, len(content), _TO_DEVICE))
            _done("execute", acl.mdl.execute(self._model, self._given, self._got))
            return [self._fetched(number) for number in range(len(self._outputs))]
        except DeviceError as error:
            raise RuntimeError(str(error)) from None

    def _fetched(self, number: int) -> NDArray[Any]:
        place, host, size = self._got_at[number], self._host[number], self._outputs[number]
        _done("memcpy", self._acl.rt.memcpy(host, size, place, size, _TO_HOST))
        return np.frombuffer(self._acl.util.ptr_to_bytes(host, size), self._types[number])

    def _dataset(self, sizes: Sequence[int]) -> tuple[Any, list[Any]]:
        """Buffers on the device as the model takes them, and where they are."""
        acl = self._acl
        dataset, places = acl.mdl.create_dataset(), []
        for size in sizes:
            places.append(_made("malloc", acl.rt.malloc(size, _HUGE_PAGES_FIRST)))
            buffer = acl.create_data_buffer(places[-1], size)
            _made("add_dataset_buffer", acl.mdl.add_dataset_buffer(dataset, buffer))
        return dataset, places


def _release(acl: Any, context: Any, model: Any, places: Sequence[Any], host: Sequence[Any]) -> None:
    """Give back what a model holds; what else is on the device stays."""
    acl.rt.set_context(context)
    acl.mdl.unload(model)
    for place in places:
        acl.rt.free(place)
    for place in host:
        acl.rt.free_host(place)


def _made(what: str, answer: tuple[Any, int]) -> Any:
    """What a call gave beside its code. Raises `DeviceError` for a code that is not 0."""
    made, code = answer
    _done(what, code)
    return made


def _done(what: str, code: int) -> None:
    if code != 0:
        raise _refused(what, code)


def _refused(what: str, code: int) -> DeviceError:
    return DeviceError(
        f"CANN refused {what} with code {code}. Run wav2lip-npu doctor and look into its logs."
    )
