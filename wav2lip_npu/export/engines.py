"""Engines that run an exported generator in place of PyTorch's, behind the two calls of `Wav2Lip`.

An .onnx file runs on the CPU: its graph is cut in two, so that a still face is seen once and several sounds
share the features of a face, and only the rows that are shown are computed. An .om file runs on an NPU as a
whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wav2lip_npu import device as devices
from wav2lip_npu.ascend.om_model import open_offline
from wav2lip_npu.errors import CheckpointError, DeviceError
from wav2lip_npu.export.manifest import FEATURE, OM, ONNX, About, damaged, read_beside, read_onnx
from wav2lip_npu.export.onnx_split import cuts, seeing_part, speaking_part

FILE_BATCH = 8
"""Faces in a batch where a file takes any number: onnxruntime is quicker with more of them than PyTorch."""

Arrays = Mapping[str, NDArray[Any]]
Session = Callable[[Arrays], list[NDArray[Any]]]
"""Runs a graph: inputs by name, outputs in their order."""


class OnnxEngine:
    """A generator in an .onnx file, run by onnxruntime on the CPU; may be called by several threads at once.

    Raises `CheckpointError` or `UsageError` as `read_onnx` does.
    """

    name = ONNX

    def __init__(self, path: str | os.PathLike[str]) -> None:
        model, self.about = read_onnx(path, "generator")
        parts = [speaking_part(model), seeing_part(model)]
        del model  # what a session is made of is large: each copy goes when it has served
        threads = devices.threads_beside_lanes()
        self._see, self._speak = (
            file_session(path, parts.pop().SerializeToString(), threads) for _ in range(2)
        )

    def encode_faces(self, faces: Tensor) -> list[Tensor]:
        """See `Wav2Lip.encode_faces`."""
        made = in_batches(self._see, self.about.batch, {"face": _array(faces)})
        return [torch.from_numpy(each) for each in made]

    def speak(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """See `Wav2Lip.speak`."""
        firsts, inside, start = cuts(top_row, len(features))
        given = {
            f"{FEATURE}{number}": _array(feature[:, :, first:], len(mels))
            for number, (feature, first) in enumerate(zip(features, firsts, strict=True))
        }
        (made,) = in_batches(
            lambda arrays: self._speak({**arrays, **inside}), self.about.batch, {"mel": _array(mels), **given}
        )
        return torch.from_numpy(made[:, :, start:])


class OmEngine:
    """A generator in an .om file, on the NPU of a number; one batch runs at a time.

    Raises `CheckpointError`, or `DeviceError` when it cannot be run here.
    """

    def __init__(self, path: str | os.PathLike[str], index: int = 0) -> None:
        self.about = read_beside(path, "generator")
        self.name = f"{OM} on {devices.NPU}:{index}"
        self._run = offline_session(path, self.about, index)

    def encode_faces(self, faces: Tensor) -> list[Tensor]:
        """The faces: the file is not cut in two."""
        return [faces]

    def speak(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """See `Wav2Lip.speak`; all rows are computed."""
        (faces,) = features
        given = {"mel": _array(mels), "face": _array(faces, len(mels))}
        made = in_batches(self._run, self.about.batch, given)
        return torch.from_numpy(made[0][:, :, top_row:].astype(np.float32))


def load_engine(engine: str, path: str | os.PathLike[str], device: str) -> OnnxEngine | OmEngine:
    """The engine called `onnx` or `om`. Raises what that raises, and `DeviceError` for a wrong device."""
    if engine == OM:
        return OmEngine(path, devices.npu_index(device))
    if device != "auto" and devices.resolve(device).type != devices.HOST:
        raise DeviceError(
            f"{path} runs on the CPU, not on {device}. Pass --device {devices.HOST}, or the weights."
        )
    return OnnxEngine(path)


def session_of(content: bytes, threads: int = 0) -> Session:
    """Runs an ONNX graph on the CPU with so many threads, 0 for one a core.

    Raises `RuntimeError` or `MemoryError` when it fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait for work must not keep the cores from the other stages of a dub.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        try:
            made: list[NDArray[Any]] = session.run(None, dict(arrays))
        except Exception as error:  # its own, which are no children of RuntimeError
            if "allocat" in str(error):
                raise MemoryError(str(error)) from None
            raise RuntimeError(str(error)) from error
        return made

    return run


def file_session(path: str | os.PathLike[str], content: bytes, threads: int = 0) -> Session:
    """`session_of` what was read from a file. Raises `CheckpointError` when it is none that runs."""
    try:
        return session_of(content, threads)
    except Exception as error:  # its own, which are no children of anything known
        raise damaged(path, error) from None


def offline_session(path: str | os.PathLike[str], about: About, index: int) -> Session:
    """Runs an .om file on the NPU of a number; several threads take turns."""
    if about.batch is None:
        raise CheckpointError(f"{path} is not of one batch size. Export it with --batch 8 or the like.")
    run, lock = open_offline(Path(path), index), threading.Lock()
    shapes = list(about.outputs.values())

    def one(arrays: Arrays) -> list[NDArray[Any]]:
        with lock:
            made = run([arrays[name] for name in about.inputs])
        return [np.asarray(each).reshape(shape) for each, shape in zip(made, shapes, strict=True)]

    return one


def in_batches(run: Session, batch: int | None, arrays: Arrays) -> list[NDArray[Any]]:
    """What a session for batches of one size makes of any number: the last batch is filled up."""
    count = len(next(iter(arrays.values())))
    if batch is None or batch == count:
        return run(arrays)
    parts = []
    for first in range(0, count, batch):
        part = {name: array[first : first + batch] for name, array in arrays.items()}
        missing = batch - len(next(iter(part.values())))
        if missing:
            part = {
                name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
                for name, array in part.items()
            }
        parts.append(run(part))
    return [np.concatenate(each)[:count] for each in zip(*parts, strict=True)]


def _array(tensor: Tensor, count: int | None = None) -> NDArray[Any]:
    """A tensor of the host as an array in plain order; one that holds for all is repeated `count` times."""
    if count is not None and len(tensor) != count:
        tensor = tensor.expand(count, *tensor.shape[1:])
    return np.ascontiguousarray(tensor.numpy())
