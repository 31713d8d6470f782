"""Find what is in front of a face by a mask network in an .onnx file, such as XSeg."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.device import shared_runtime_threads
from wav2lip_npu.dubbing.occlusion import NOTHING, Front, Weights, front_of
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.export.engines import Session, make_file_session
from wav2lip_npu.export.manifest import damaged_file, has_external_data, import_onnx, is_plain, shapes_of
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.storage.hashing import FileState, state_of
from wav2lip_npu.storage.regular_files import read_limited

_SIZE, _CHANNELS = 256, 3
_MAX_BYTES = 512 << 20
_FLOAT = 1
"""`onnx.TensorProto.FLOAT`."""
_STANDARD = ("", "ai.onnx")


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
        try:
            state = state_of(path)
        except OSError as error:
            raise _unreadable(self._path, error) from None
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
                f"--occlusion_mask {self._path} does not return a mask of {_SIZE} x {_SIZE} "
                f"({' '.join(str(error).split()):.120}). Pass a mask network such as XSeg."
            ) from None
        return np.asarray(np.nan_to_num(shown).clip(0, 1), np.float32)


@lru_cache(maxsize=1)
def _load(path: Path, state: FileState) -> tuple[Session, str, bool]:
    """Return session, name of the input, and whether channels come first: one for all dubs of a process.

    A file whose `state` has changed is loaded again.
    """
    model, name = _read(path)
    channels_first = shapes_of(model.graph.input)[name][1] == _CHANNELS
    session = make_file_session(path, model.SerializeToString(), shared_runtime_threads())
    return session, name, channels_first


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read --occlusion_mask {path}: {error.strerror or error}. Check its path.")


def _read(path: Path) -> tuple[Any, str]:
    """Return the graph of a mask network, and the name of its input."""
    onnx = import_onnx()
    try:
        content = read_limited(path, _MAX_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of any type: the parser raises many for a damaged file
        raise damaged_file(path, error) from None
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    if reason := _refusal(model, inputs, onnx):
        raise CheckpointError(f"--occlusion_mask {path} {reason}. Pass a mask network such as XSeg.")
    return model, inputs[0].name


def _refusal(model: Any, inputs: Sequence[Any], onnx: Any) -> str | None:
    """Return why a model is not accepted as mask network; None if it is."""
    if has_external_data(model, onnx):
        return "refers to other files"
    if not is_plain(model) or any(node.domain not in _STANDARD for node in model.graph.node):
        return "contains more than a plain graph"
    if len(inputs) != 1 or len(model.graph.output) != 1:
        return f"has {len(inputs)} inputs and {len(model.graph.output)} outputs, not one of each"
    shape = shapes_of(inputs)[inputs[0].name]
    is_float = inputs[0].type.tensor_type.elem_type == _FLOAT
    if not is_float or shape[1:] not in ([_SIZE, _SIZE, _CHANNELS], [_CHANNELS, _SIZE, _SIZE]):
        return f"takes {shape}, not float32 [1, {_SIZE}, {_SIZE}, 3] or [1, 3, {_SIZE}, {_SIZE}]"
    return None
