"""Find what is in front of a face by a mask network in an .onnx file, such as XSeg."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.devices.device import shared_runtime_threads
from wav2lip_npu.dubbing.occlusion import NOTHING, Front, Weights, front_of
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.export.engines import Session, make_file_session
from wav2lip_npu.export.foreign_file import ForeignNetwork, read_foreign, state_of_file
from wav2lip_npu.export.manifest import shapes_of
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.storage.hashing import FileState

_SIZE, _CHANNELS = 256, 3
_MAX_BYTES = 512 << 20
_FLOAT = 1
"""`onnx.TensorProto.FLOAT`."""
_FLAG, _ADVICE = "--occlusion_mask", "Pass a mask network such as XSeg."


class MaskFileOcclusion:
    """Finds what is in front by an .onnx file, run by onnxruntime on the CPU.

    Its input is a face, float32 BGR in [0, 1], [1, 256, 256, 3] or [1, 3, 256, 256]; its output is a mask
    [1, 256, 256], with or without a channel, that is 1 on the face.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or has other inputs or outputs.
        UsageError: onnx or onnxruntime is missing.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        state = state_of_file(_FLAG, path)
        self._session, self._input, self._channels_first = _load(self._path, state)
        self._mask(np.zeros((_SIZE, _SIZE, 3), np.uint8))

    def __call__(self, frame: TrackedFrame, face: Image | None) -> Front:
        """See `Occlusion`."""
        if frame.box is None or face is None:
            return NOTHING
        covered = 1 - self._mask(frame.frame.yuv.crop(frame.box, _SIZE))
        return front_of(np.asarray(cv2.resize(covered, face.shape[1::-1], interpolation=cv2.INTER_AREA)))

    def _mask(self, face: Image) -> Weights:
        """Return the mask of a face, float32 [256, 256] in [0, 1]."""
        images = face[None].astype(np.float32) / 255
        images = images.transpose(0, 3, 1, 2) if self._channels_first else images
        try:
            (mask,) = self._session({self._input: np.ascontiguousarray(images)})
            shown: NDArray[Any] = np.asarray(mask, np.float32).reshape(_SIZE, _SIZE)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{_FLAG} {self._path} does not return a mask of {_SIZE} x {_SIZE} "
                f"({' '.join(str(error).split()):.120}). {_ADVICE}"
            ) from None
        return np.asarray(np.nan_to_num(shown).clip(0, 1), np.float32)


@lru_cache(maxsize=1)
def _load(path: Path, state: FileState) -> tuple[Session, str, bool]:
    """Return session, name of the input, and whether channels come first: one for all dubs of a process.

    A file whose `state` has changed is loaded again.
    """
    network, name = _read(path)
    channels_first = shapes_of(network.inputs)[name][1] == _CHANNELS
    session = make_file_session(path, network.content, shared_runtime_threads())
    return session, name, channels_first


def _read(path: Path) -> tuple[ForeignNetwork, str]:
    """Return a mask network, and the name of its input."""
    network = read_foreign(_FLAG, path, max_bytes=_MAX_BYTES, advice=_ADVICE)
    if reason := _refusal(network):
        raise CheckpointError(f"{_FLAG} {path} {reason}. {_ADVICE}")
    return network, network.inputs[0].name


def _refusal(network: ForeignNetwork) -> str | None:
    """Return why a network is not accepted as mask network; None if it is."""
    inputs, outputs = network.inputs, network.graph.output
    if len(inputs) != 1 or len(outputs) != 1:
        return f"has {len(inputs)} inputs and {len(outputs)} outputs, not one of each"
    shape = shapes_of(inputs)[inputs[0].name]
    is_float = inputs[0].type.tensor_type.elem_type == _FLOAT
    if not is_float or shape[1:] not in ([_SIZE, _SIZE, _CHANNELS], [_CHANNELS, _SIZE, _SIZE]):
        return f"takes {shape}, not float32 [1, {_SIZE}, {_SIZE}, 3] or [1, 3, {_SIZE}, {_SIZE}]"
    return None
