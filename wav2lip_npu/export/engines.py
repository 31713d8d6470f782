"""Engines for exported generators, with the same two methods as `Wav2Lip`: `encode_faces` and `decode`.

An .onnx file runs on the CPU. Its graph is split in two, so that a still face is encoded once, several
audio tracks share the features of a face, and only the rows of the mouth region are computed. An .om file
runs on an NPU and is not split.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wav2lip_npu.ascend.om_model import open_om_model
from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import CheckpointError, DeviceError
from wav2lip_npu.export.manifest import FEATURE, Manifest, damaged_file, read_om_manifest, read_onnx
from wav2lip_npu.export.onnx_split import decoder_part, encoder_part, row_slices
from wav2lip_npu.export.options import OM, ONNX

FILE_BATCH = 8
"""Faces per batch if a file accepts any number. onnxruntime prefers larger batches than PyTorch."""

Arrays = Mapping[str, NDArray[Any]]
Session = Callable[[Arrays], list[NDArray[Any]]]
"""Runs a graph: takes inputs by name, returns outputs in order."""


class OnnxEngine:
    """A generator in an .onnx file, run by onnxruntime on the CPU. Thread-safe.

    Raises `CheckpointError` or `UsageError` as `read_onnx` does.
    """

    name = ONNX

    def __init__(self, path: str | os.PathLike[str]) -> None:
        model, self.manifest = read_onnx(path, "generator")
        self._features = [value.name for value in model.graph.value_info]
        parts = [decoder_part(model), encoder_part(model)]
        del model  # graphs are large: free each copy once its session exists
        threads = devices.shared_runtime_threads()
        self._encode, self._decode = (
            make_file_session(path, parts.pop().SerializeToString(), threads) for _ in range(2)
        )

    @property
    def face_size(self) -> int:
        """See `Wav2Lip.face_size`."""
        return self.manifest.face_size

    def encode_faces(self, faces: Tensor) -> list[Tensor]:
        """See `Wav2Lip.encode_faces`."""
        features = run_in_batches(self._encode, self.manifest.batch, {"face": _array(faces)})
        return [torch.from_numpy(feature) for feature in features]

    def decode(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """See `Wav2Lip.decode`."""
        levels = sum(name.startswith(FEATURE) for name in self._features)
        slices = row_slices(top_row, [feature.shape[2] for feature in features[:levels]])
        inputs = {"mel": _array(mels)}
        for name, feature, first_row in zip(self._features, features, itertools.cycle(slices.feature_rows)):
            inputs[name] = _array(feature[:, :, first_row:], len(mels))
        (faces,) = run_in_batches(
            lambda arrays: self._decode({**arrays, **slices.inputs}), self.manifest.batch, inputs
        )
        return torch.from_numpy(faces[:, :, slices.output_row :])


class OmEngine:
    """A generator in an .om file, run on the NPU with the given index, one batch at a time.

    Raises `CheckpointError`, or `DeviceError` if this machine cannot run it.
    """

    def __init__(self, path: str | os.PathLike[str], index: int = 0) -> None:
        self.manifest = read_om_manifest(path, "generator")
        self.name = f"{OM} on {devices.NPU}:{index}"
        self._run = make_om_session(path, self.manifest, index)

    @property
    def face_size(self) -> int:
        """See `Wav2Lip.face_size`."""
        return self.manifest.face_size

    def encode_faces(self, faces: Tensor) -> list[Tensor]:
        """Return the faces themselves: the file is not split."""
        return [faces]

    def decode(self, mels: Tensor, features: list[Tensor], *, top_row: int = 0) -> Tensor:
        """See `Wav2Lip.decode`. All rows are computed."""
        (faces,) = features
        inputs = {"mel": _array(mels), "face": _array(faces, len(mels))}
        (output,) = run_in_batches(self._run, self.manifest.batch, inputs)
        return torch.from_numpy(output[:, :, top_row:].astype(np.float32))


def load_engine(engine: str, path: str | os.PathLike[str], device: str) -> OnnxEngine | OmEngine:
    """Return the engine `onnx` or `om` for a file. Raises `DeviceError` if it cannot run on `device`."""
    if engine == OM:
        return OmEngine(path, devices.npu_index(device))
    if device != "auto" and devices.resolve(device).type != devices.HOST:
        raise DeviceError(
            f"{path} runs on the CPU, not on {device}. Pass --device {devices.HOST}, or the weights."
        )
    return OnnxEngine(path)


def make_session(
    content: bytes, threads: int = 0, providers: Sequence[str] = (devices.HOST_PROVIDER,)
) -> Session:
    """Return a session for an ONNX graph; 0 threads means one per core.

    A call raises `RuntimeError` or `MemoryError` if it fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads must not occupy the cores that the other stages of a dub need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=list(providers))

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        try:
            outputs: list[NDArray[Any]] = session.run(None, dict(arrays))
        except Exception as error:  # onnxruntime's exceptions do not derive from RuntimeError
            if "allocat" in str(error):
                raise MemoryError(str(error)) from None
            raise RuntimeError(str(error)) from error
        return outputs

    return run


def make_file_session(
    path: str | os.PathLike[str],
    content: bytes,
    threads: int = 0,
    providers: Sequence[str] = (devices.HOST_PROVIDER,),
) -> Session:
    """Return a session for the graph of a file. Raises `CheckpointError` if onnxruntime rejects it."""
    try:
        return make_session(content, threads, providers)
    except Exception as error:  # of onnxruntime's own types
        raise damaged_file(path, error) from None


def make_om_session(path: str | os.PathLike[str], manifest: Manifest, index: int) -> Session:
    """Return a session for an .om file on the NPU with the given index. Threads take turns."""
    if manifest.batch is None:
        raise CheckpointError(f"{path} has no fixed batch size. Export it with --batch 8.")
    run, lock = open_om_model(Path(path), index), threading.Lock()
    shapes = list(manifest.outputs.values())

    def run_one_at_a_time(arrays: Arrays) -> list[NDArray[Any]]:
        with lock:
            outputs = run([arrays[name] for name in manifest.inputs])
        return [np.asarray(output).reshape(shape) for output, shape in zip(outputs, shapes, strict=True)]

    return run_one_at_a_time


def run_in_batches(run: Session, batch: int | None, arrays: Arrays) -> list[NDArray[Any]]:
    """Run a session with a fixed batch size on any number of items. The last batch is padded."""
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
    return [np.concatenate(outputs)[:count] for outputs in zip(*parts, strict=True)]


def _array(tensor: Tensor, count: int | None = None) -> NDArray[Any]:
    """Return a CPU tensor as a contiguous array; a single item is repeated `count` times."""
    if count is not None and len(tensor) != count:
        tensor = tensor.expand(count, *tensor.shape[1:])
    return np.ascontiguousarray(tensor.numpy())
