"""The generator made ready to speak, and run in batches."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu import device as devices
from wav2lip_npu.dubbing.blend import Mask
from wav2lip_npu.dubbing.colour_match import ColourMatcher
from wav2lip_npu.errors import UsageError
from wav2lip_npu.export.engines import FILE_BATCH, OmEngine, OnnxEngine, load_engine
from wav2lip_npu.export.manifest import TORCH, engine_of
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.mel import Mel
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.inputs import face_batch, generator_input, images_of_faces
from wav2lip_npu.models.networks import Wav2Lip, fold_norms

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """What dubbing needs, loaded once for any number of videos."""

    generator: Wav2Lip | OnnxEngine | OmEngine
    detector: Detector
    device: torch.device
    precision: torch.dtype
    weights: Path
    digest: str
    """First hex digits of the SHA-256 of the weights file; of that which an exported one was made of."""
    mel_shift: float = 0.0
    """Frames of 1/25 s by which the generator heard the sound moved in training."""
    is_ours: bool = False
    """Whether this package trained it, on references that may lie far from the picture to make."""

    @property
    def engine(self) -> str:
        """What runs the generator."""
        return TORCH if isinstance(self.generator, Wav2Lip) else self.generator.name

    @property
    def batch(self) -> int:
        """Faces that it should see at once: what suits the device, or all that an exported file takes."""
        if isinstance(self.generator, Wav2Lip):
            return devices.BACKENDS[self.device.type].batch
        return self.generator.about.batch or FILE_BATCH


def load_models(
    checkpoint_path: str | os.PathLike[str],
    *,
    detector: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "auto",
) -> Models:
    """Generator and face detector on a device, batch norms folded, in its fastest layout.

    An .onnx or .om file that was exported runs in its own engine. Raises `CheckpointError`, `FaceError`,
    `DeviceError` or `UsageError` naming what is wrong with an argument.
    """
    engine = engine_of(checkpoint_path, engine)
    if engine != TORCH:
        return _load_exported(engine, Path(checkpoint_path), detector, device, precision)
    where = devices.resolve(device)
    dtype = devices.dtype_of(precision)
    devices.activate(where)
    if precision == "fp32_strict":
        devices.full_float32(where)
    loaded = checkpoint.load(checkpoint_path, "generator")
    network = loaded.network()
    assert isinstance(network, Wav2Lip)
    fold_norms(network)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            layout = devices.memory_format(where) if parameter.dim() == 4 else torch.contiguous_format
            # A copy, so that nothing holds the memory map of the file; a new one, as an accelerator that is
            # plugged in refuses to take over the storage of an old one.
            moved = parameter.detach().to(where, dtype, copy=True, memory_format=layout)
            setattr(module, name, torch.nn.Parameter(moved, requires_grad=False))
    found = load_detector(detector, str(where))
    return Models(
        network,
        found,
        where,
        dtype,
        loaded.source,
        loaded.digest(),
        loaded.mel_shift,
        "mel_shift" in loaded.more,
    )


def _load_exported(engine: str, path: Path, detector: str, device: str, precision: str) -> Models:
    """Models whose generator an engine of its own runs; what is beside it runs on the CPU."""
    if precision != "fp32":
        raise UsageError(f"the numbers in {path} are those that it was exported with. Leave --precision out.")
    generator = load_engine(engine, path, device)
    host = devices.resolve(devices.HOST)
    devices.activate(host)
    about, found = generator.about, load_detector(detector, str(host))
    shift = about.mel_shift
    return Models(
        generator, found, host, torch.float32, path, about.sha256[:12], shift or 0.0, shift is not None
    )


class GeneratorRunner:
    """Runs a generator on batches of faces and mel windows; may be called by several threads at once."""

    def __init__(self, models: Models, batch: int | None, mask: Mask) -> None:
        self.device = models.device
        self.lanes = devices.lanes(models.device)
        self.batch = models.batch if batch is None else max(1, batch // self.lanes)
        """Faces in one batch; all lanes together hold what was asked for."""
        self._models = models
        self._mask = mask
        self._fitting = None if mask.exact else ColourMatcher(mask, models.device)
        self._still: tuple[Image, list[Tensor]] | None = None
        self._lock = threading.Lock()

    def __call__(
        self, faces: list[Image], mels: list[Mel], references: list[Image] | None = None
    ) -> list[Image]:
        """Mouths uint8 [S - top_row, S, 3 or 4], one for each face BGR uint8 [S, S, 3] and mel [80, 16].

        They are BGR, or under a soft mask BGRA: fitted to the face, and how much of them is to be seen.
        `references` are the pictures to know the faces from, the faces themselves where they are left out.

        A list of faces that are all the same object is one still picture: it is encoded once, and not
        again when it comes in the next call. When the device runs out of memory the batch is halved, for
        good, and the work goes on.
        """
        return self.run_many(faces, [mels], references)[0]

    def run_many(
        self, faces: list[Image], sounds: Sequence[list[Mel]], references: list[Image] | None = None
    ) -> list[list[Image]]:
        """The same for several sounds: the mouths of each. Faces are encoded once for all of them.

        A sound that has fewer mels than there are faces gets as many mouths.
        """
        mouths: list[list[Image]] = [[] for _ in sounds]
        done = 0
        while done < len(faces):
            batch = self.batch
            part = slice(done, done + batch)
            try:
                known = None if references is None else references[part]
                made = self._run(faces[part], [mels[part] for mels in sounds], known)
            except (RuntimeError, MemoryError) as error:
                if batch == 1 or not devices.is_out_of_memory(error):
                    raise
                self.batch = max(1, min(batch, len(faces)) // 2)
                log.warning("out of memory on %s, going on with batches of %d", self.device, self.batch)
                devices.release_memory(self.device)
                continue
            for so_far, new in zip(mouths, made, strict=True):
                so_far.extend(new)
            done += batch
        return mouths

    @torch.inference_mode()
    def _run(
        self, faces: list[Image], sounds: list[list[Mel]], references: list[Image] | None
    ) -> list[list[Image]]:
        whole, features = self._see(faces, references)
        mouths: list[list[Image]] = []
        for mels in sounds:
            if not mels:
                mouths.append([])
            elif len(mels) == len(faces):
                mouths.append(self._say(mels, whole, features))
            else:  # the last bits of a result depend on the size of the batch: as if this sound were alone
                end = len(mels)
                fewer = self._see(faces[:end], None if references is None else references[:end])
                mouths.append(self._say(mels, *fewer))
        return mouths

    def _see(self, faces: list[Image], references: list[Image] | None) -> tuple[Tensor, list[Tensor]]:
        """Faces [B, 3, S, S], one for all B where they are a still picture, and their features."""
        still = references is None and all(face is faces[0] for face in faces)
        whole = self._whole(faces[:1] if still else faces)
        if still:
            return whole, self._still_features(faces[0], whole, len(faces))
        return whole, self._encode(whole, whole if references is None else self._whole(references))

    def _say(self, mels: list[Mel], whole: Tensor, features: list[Tensor]) -> list[Image]:
        sound = torch.from_numpy(np.stack(mels)[:, None]).to(whole.device, whole.dtype)
        mouths = self._models.generator.speak(sound, features, top_row=self._mask.top_row)
        if self._fitting is not None:
            mouths = self._fitting(mouths, whole[:, :, self._mask.top_row :])
        return list(images_of_faces(mouths).cpu().numpy())

    def _still_features(self, face: Image, whole: Tensor, count: int) -> list[Tensor]:
        """Features of one face for `count` frames: kept for the next call if they may be of use there."""
        if count == 1 and self._still is None:
            return self._encode(whole, whole)
        with self._lock:
            if self._still is None or self._still[0] is not face:
                self._still = (face, self._encode(whole, whole))
            return self._still[1]

    def _encode(self, whole: Tensor, known: Tensor) -> list[Tensor]:
        """Features of faces [B, 3, S, S], to be masked, and of the references of the same shape."""
        return self._models.generator.encode_faces(generator_input(whole, known))

    def _whole(self, faces: list[Image]) -> Tensor:
        """Faces [B, 3, S, S] in [0, 1], in the layout of the device."""
        return face_batch(torch.from_numpy(np.stack(faces)).to(self.device), self._models.precision)
