"""Face restoration networks in .onnx files: GFPGAN, RestoreFormer++, CodeFormer and GPEN.

They are recognised by their inputs, not by their names: an image float32 [1, 3, S, S], RGB in [-1, 1], and
for CodeFormer a weight between quality (0) and fidelity (1).
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.export.engines import Session, make_file_session
from wav2lip_npu.export.foreign_file import STANDARD, ForeignNetwork, read_foreign, state_of_file
from wav2lip_npu.export.manifest import shapes_of
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.storage.hashing import FileState

log = logging.getLogger(__name__)

_FLAG, _ADVICE = "--enhance", "Pass a face restoration network such as gfpgan_1.4.onnx."
_DOMAINS = (*STANDARD, "ai.onnx.ml", "com.microsoft")
"""Optimised files have operators of domains that only onnxruntime has."""
_MAX_BYTES = 2047 << 20
"""Largest message of Protocol Buffers."""
_SIZES = (256, 512, 1024, 2048)
_IMAGE_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype(np.float32), 10: np.dtype(np.float16)}
_WEIGHT_TYPES: dict[int, np.dtype[Any]] = {**_IMAGE_TYPES, 11: np.dtype(np.float64)}
"""NumPy types of `onnx.TensorProto` types."""
_SMALL = 256
"""Size of GPEN's small network, which is trained on other crops than the rest."""
_FFHQ = (
    (0.37691676, 0.46864664), (0.62285697, 0.46912813), (0.50123859, 0.61331904),
    (0.39308822, 0.72541100), (0.61150205, 0.72490465),
)  # fmt: skip
_ARCFACE = (
    (0.36167656, 0.40387734), (0.63696719, 0.40235469), (0.50019687, 0.56044219),
    (0.38710391, 0.72160547), (0.61507734, 0.72034453),
)  # fmt: skip
"""Eyes, nose and corners of the mouth in the crops that the networks were trained on, as fractions."""


class RestorationFile:
    """A face restoration network, run by onnxruntime on a device or, where it cannot, on the CPU.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or has other inputs or outputs.
        UsageError: onnx or onnxruntime is missing.

    """

    def __init__(self, path: str | os.PathLike[str], device: torch.device, weight: float) -> None:
        self._path = Path(path)
        loaded = _load(self._path, state_of_file(_FLAG, path), str(device))
        self._session, self._image, self._weight, self.size = loaded
        self._fidelity = weight
        template = _ARCFACE if self.size == _SMALL else _FFHQ
        self.template = np.array(template) * self.size
        """Landmarks in the crop, float64 [5, 2] in pixels."""
        self(np.zeros((self.size, self.size, 3), np.uint8))

    def __call__(self, face: Image) -> Image:
        """Return the restored face of an aligned one, both BGR uint8 [size, size, 3]."""
        name, dtype = self._image
        image = face[:, :, ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        inputs: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(image, dtype)}
        if self._weight is not None:
            inputs[self._weight[0]] = np.full(self._weight[2], self._fidelity, self._weight[1])
        try:
            output = self._session(inputs)[0]
            restored = np.asarray(output, np.float32).reshape(3, self.size, self.size)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{_FLAG} {self._path} does not return a face of {self.size} x {self.size} "
                f"({' '.join(str(error).split()):.120}). {_ADVICE}"
            ) from None
        restored = np.nan_to_num(restored).clip(-1, 1)[::-1].transpose(1, 2, 0)
        return np.asarray(np.rint((restored + 1) * 127.5), np.uint8)


_Image = tuple[str, np.dtype[Any]]
_Weight = tuple[str, np.dtype[Any], tuple[int, ...]]


@lru_cache(maxsize=1)
def _load(path: Path, state: FileState, device: str) -> tuple[Session, _Image, _Weight | None, int]:
    """Return session, image input, weight input and size: one for all dubs of a process.

    A file whose `state` has changed is loaded again.
    """
    network = read_foreign(_FLAG, path, max_bytes=_MAX_BYTES, advice=_ADVICE, domains=_DOMAINS)
    image, weight, size = _inputs(network)
    if weight is not None:
        log.info("%s has the inputs of CodeFormer, whose license forbids commercial use", path)
    elif size == _SMALL:
        log.info("%s has the inputs of GPEN, whose license forbids commercial use", path)
    providers = devices.onnx_providers(torch.device(device))
    if providers == [devices.HOST_PROVIDER] and devices.is_accelerator(torch.device(device)):
        log.warning("this onnxruntime does not support %s; %s runs on the CPU", device, path)
    threads = devices.cpu_count()
    return make_file_session(path, network.content, threads, providers), image, weight, size


def _inputs(network: ForeignNetwork) -> tuple[_Image, _Weight | None, int]:
    """Return image input, weight input if any, and size of a network. Raises `CheckpointError`."""
    shapes = shapes_of(network.inputs)
    types = {value.name: value.type.tensor_type.elem_type for value in network.inputs}
    images = [name for name in shapes if _is_image(shapes[name]) and types[name] in _IMAGE_TYPES]
    weights = [name for name in shapes if shapes[name] in ([], [1]) and types[name] in _WEIGHT_TYPES]
    if len(images) != 1 or len(weights) > 1 or len(images) + len(weights) != len(shapes):
        text = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise CheckpointError(
            f"{_FLAG} {network.path} takes {text or 'nothing'}, not an image [1, 3, S, S] with S of 256, "
            f"512, 1024 or 2048, and at most a weight beside it. {_ADVICE}"
        )
    image: _Image = images[0], _IMAGE_TYPES[types[images[0]]]
    weight: _Weight | None = None
    if weights:
        shape = tuple(int(side) for side in shapes[weights[0]])
        weight = weights[0], _WEIGHT_TYPES[types[weights[0]]], shape
    return image, weight, int(shapes[images[0]][2])


def _is_image(shape: list[str | int]) -> bool:
    """Return whether the shape is that of a square image with a size that is known; the batch may vary."""
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        return False
    return shape[2] in _SIZES and (shape[0] in (0, 1) or isinstance(shape[0], str))
