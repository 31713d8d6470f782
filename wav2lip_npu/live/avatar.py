"""The face of live streams: a video or photo, tracked and cropped once, and played back and forth."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterator

from wav2lip_npu.batch.face_cache import FaceCache, faces_key
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.inference import EncodedFace, GeneratorRunner, Models
from wav2lip_npu.dubbing.selection import SelectedFrame, select_frames
from wav2lip_npu.errors import FaceError
from wav2lip_npu.faces.find_faces import find_faces
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.media.container import VideoInfo, probed
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.storage.hashing import sha256_of

log = logging.getLogger(__name__)

_MAX_BYTES = 256 << 20
"""Bytes of the frames of an avatar in memory, and of the features of their faces."""


class Avatar:
    """Frames of a face video that are shown back and forth, with what the generator needs of their faces.

    Several streams may use it at the same time.

    Args:
        face: Video or image.
        models: Networks; the detector finds the face.
        options: Options of the stream.
        cache: Cache of the faces found in videos.

    Raises:
        MediaError: The file cannot be read.
        FaceError: No frame has a face that can be dubbed.

    """

    def __init__(
        self,
        face: str | os.PathLike[str] | VideoInfo,
        models: Models,
        options: StreamOptions,
        cache: FaceCache | None = None,
    ) -> None:
        info = probed(face)
        self.frames = _prepare(info, models, options, cache or FaceCache(None))
        if all(frame.reason for frame in self.frames):
            raise FaceError(
                f"no face in {info.path}, frames 0-{len(self.frames) - 1}, that can be dubbed. Pass another "
                "--face, or see docs/faces.md."
            )
        self.mask = load_mask(options.blend, models.face_size)
        first = self.frames[0].tracked.frame.yuv
        self.width, self.height = first.width, first.height
        self._closed: list[Image | None] = [None] * len(self.frames)
        self._encoded: list[EncodedFace | None] = [None] * len(self.frames)
        self._keeps = True
        """Whether the features of all faces fit into memory."""
        self._lock = threading.Lock()

    def index(self, number: int) -> int:
        """Return the index of the frame that is shown at a time: back and forth, without repeated turns."""
        last = len(self.frames) - 1
        return last - abs(last - number % (2 * last)) if last else 0

    def is_cut(self, number: int) -> bool:
        """Return whether a new scene begins with this frame, in the direction in which it is shown."""
        here, before = self.index(number), self.index(max(number - 1, 0))
        return here != before and self.frames[max(here, before)].tracked.cut

    def encoded(self, index: int, runner: GeneratorRunner) -> EncodedFace:
        """Return the face of a frame with its features, which are kept while they fit into memory."""
        encoded = self._encoded[index]
        if encoded is None:
            face = self.frames[index].face
            assert face is not None
            encoded = runner.encode_face(face)
            with self._lock:
                self._keeps = encoded.nbytes * len(self.frames) <= _MAX_BYTES
                self._encoded[index] = encoded if self._keeps else None
        return encoded

    def closed_mouth(self, index: int) -> Image | None:
        """Return the mouth of a frame in silence; None if it was not generated yet."""
        return self._closed[index]

    def keep_closed_mouth(self, index: int, mouth: Image) -> None:
        """Keep the mouth of a frame in silence."""
        self._closed[index] = mouth


def _prepare(
    info: VideoInfo, models: Models, options: StreamOptions, cache: FaceCache
) -> list[SelectedFrame]:
    """Return the frames of an avatar, tracked and selected as for a dub."""
    dub = options.dub
    options.limits.warn_if_unused(models.detector.name, has_constant_box=options.faces.has_constant_box)
    fps = dub.output_fps(info)
    frames = read_frames(info, fps=fps, geometry=options.geometry)
    key = "" if info.is_image else faces_key(sha256_of(info.path), models.detector.name, dub)
    memory = None if info.is_image else cache.read(key)
    limit = 1 if info.is_image else max(1, round(options.avatar_seconds * fps))
    if memory is not None:
        memory.expect_frames(limit)
    if info.is_image:
        frames = itertools.islice(frames, 1)
    tracked = find_faces(frames, models.detector, options.faces, memory)
    selected = select_frames(tracked, options.limits, (), fps, models.face_size, dub.load_occlusion())
    kept = list(itertools.islice(_within_memory(selected, info.path), limit))
    if memory is not None:
        cache.write(key, memory)
    return kept


def _within_memory(frames: Iterator[SelectedFrame], path: str) -> Iterator[SelectedFrame]:
    """Yield frames until they take too much memory; at least one."""
    total = 0
    for count, frame in enumerate(frames):
        total += frame.tracked.frame.yuv.nbytes
        if count and total > _MAX_BYTES:
            log.info("the first %d frames of %s are used, which fit into memory", count, path)
            return
        yield frame
