"""Run the generator in batches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import device_memory, transfers
from wav2lip_npu.dubbing.blend import Mask
from wav2lip_npu.dubbing.finish import MouthFinish
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.mel import Mel
from wav2lip_npu.models.inputs import face_batch, generator_input, images_of_faces

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

log = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True)
class EncodedFace:
    """A face on the device, [1, 3, S, S] in [0, 1], and its features, each [1, ...]."""

    image: Tensor
    features: list[Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.image, *self.features))


class GeneratorRunner:
    """Runs a generator on batches of faces and mel windows. Thread-safe.

    The last bits of a result depend on the size of its batch. So all batches have one size, the last one with
    repeated faces, and on a CPU that size is not an option. When the device runs out of memory, the batch is
    halved permanently and the call continues.
    """

    def __init__(self, models: Models, batch: int | None, mask: Mask) -> None:
        self.device = models.device
        self.lanes = devices.lanes(models.device)
        """Number of threads that call this object concurrently to use the device fully."""
        self._models = models
        self._mask = mask
        self._finish = None if mask.exact else MouthFinish(mask, models.device)
        self._batch = models.batch
        if devices.is_accelerator(models.device):
            self._batch = max(1, (batch or models.batch) // self.lanes)
        self._batch_lock = threading.Lock()
        self._still: tuple[Image, Tensor, list[Tensor]] | None = None
        """The latest still image, on the device, and its features."""
        self._still_lock = threading.Lock()

    @property
    def batch(self) -> int:
        """Faces per batch of one lane; the lanes together hold the requested number."""
        with self._batch_lock:
            return self._batch

    def __call__(self, faces: list[Image], mels: list[Mel]) -> list[Image]:
        """Return one mouth for each face BGR uint8 [S, S, 3] and mel window [80, 16].

        Mouths are uint8 [S - top_row, S, 3 or 4]: BGR, or under a soft mask BGRA, with
        their opacity.

        A list that repeats one face object is a still image: it is encoded once, also across calls.
        """
        return self.run_many(faces, [mels])[0]

    def run_many(self, faces: list[Image], mels: Sequence[list[Mel]]) -> list[list[Image]]:
        """Return the mouths for several lists of mel windows. Faces are encoded once for all of them.

        A list with fewer mel windows than faces gets as many mouths as it has windows.
        """
        mouths: list[list[Image]] = [[] for _ in mels]
        done = 0
        while done < len(faces):
            batch = self.batch
            part = slice(done, done + batch)
            try:
                results = self._run(faces[part], [windows[part] for windows in mels], batch)
            except (RuntimeError, MemoryError) as error:
                if batch == 1 or not device_memory.is_out_of_memory(error):
                    raise
                self._halve(batch)
                continue
            for all_images, images in zip(mouths, results, strict=True):
                all_images.extend(images)
            done += batch
        return mouths

    @torch.inference_mode()
    def encode_face(self, face: Image) -> EncodedFace:
        """Return a face BGR uint8 [S, S, 3] on the device, with its features, to use it for many frames."""
        tensor, features = self._encode([face], 1)
        return EncodedFace(tensor, features)

    @torch.inference_mode()
    def decode_faces(self, faces: Sequence[EncodedFace], mels: list[Mel]) -> list[Image]:
        """Return the mouths for encoded faces and mel windows, in one batch of just this size."""
        if all(face is faces[0] for face in faces):
            tensor, features = faces[0].image, faces[0].features
        else:
            tensor = torch.cat([face.image for face in faces])
            features = [torch.cat(level) for level in zip(*(face.features for face in faces), strict=True)]
        return self._decode(mels, tensor, features, len(mels))

    def _halve(self, batch: int) -> None:
        """Use batches of half this size from now on, unless another lane already uses smaller ones."""
        with self._batch_lock:
            self._batch = max(1, min(self._batch, batch // 2))
            log.warning("out of memory on %s, continuing with batches of %d", self.device, self._batch)
        device_memory.release_memory(self.device)

    @torch.inference_mode()
    def _run(self, faces: list[Image], mels: list[list[Mel]], batch: int) -> list[list[Image]]:
        tensor, features = self._encode_images(faces, batch)
        return [self._decode(windows, tensor, features, batch) if windows else [] for windows in mels]

    def _encode_images(self, faces: list[Image], batch: int) -> tuple[Tensor, list[Tensor]]:
        """Return faces [B, 3, S, S], B = 1 for a still image, and their features."""
        if any(face is not faces[0] for face in faces):
            return self._encode(faces, batch)
        with self._still_lock:
            if self._still is None or self._still[0] is not faces[0]:
                tensor, features = self._encode(faces, batch)
                self._still = faces[0], tensor[:1].clone(), [feature[:1].clone() for feature in features]
            return self._still[1:]

    def _encode(self, faces: list[Image], batch: int) -> tuple[Tensor, list[Tensor]]:
        tensor = self._to_device(_filled(faces, batch))
        reduced = tensor.to(self._models.precision)
        return tensor, self._models.generator.encode_faces(generator_input(reduced, reduced))

    def _decode(self, mels: list[Mel], faces: Tensor, features: list[Tensor], batch: int) -> list[Image]:
        windows: list[Mel] = _filled(mels, batch)
        uploaded = transfers.upload({"mels": np.stack(windows)[:, None]}, faces.device)
        audio = uploaded["mels"].to(self._models.precision)
        mouths = self._models.generator.decode(audio, features, top_row=self._mask.top_row)
        if self._finish is not None:
            mouths = self._finish(mouths, faces[:, :, self._mask.top_row :])
        return list(transfers.download(images_of_faces(mouths[: len(mels)])).numpy())

    def _to_device(self, images: list[Image]) -> Tensor:
        """Return images as float32 [B, 3, S, S] in [0, 1], in the memory layout of the device."""
        return face_batch(transfers.upload({"faces": np.stack(images)}, self.device)["faces"])


def _filled(items: list[Item], size: int) -> list[Item]:
    """Return the items, the last one repeated up to a size."""
    return items + [items[-1]] * (size - len(items))
