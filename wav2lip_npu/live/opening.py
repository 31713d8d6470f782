"""Open live streams: those of one `Models` object share its device, and the faces that they show."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.dubbing.inference import Models
from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.avatar import Avatar
from wav2lip_npu.live.device_loop import DeviceLoop
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.live.stream import FaceStream
from wav2lip_npu.media.container import VideoInfo, probed
from wav2lip_npu.options import expect, with_values
from wav2lip_npu.storage.hashing import sha256_of

_opening = threading.Lock()


def open_stream(
    models: Models,
    face: str | os.PathLike[str] | VideoInfo,
    *,
    options: StreamOptions | None = None,
    cache: FaceCache | None = None,
    values: Mapping[str, Any] | None = None,
) -> FaceStream:
    """Open a stream, see `Models.stream`."""
    options = with_values(expect(options, StreamOptions), values or {})
    if models.enhancer is not None:
        raise UsageError("a live stream does not enhance faces. Load the models without enhancer=...")
    with _opening:
        device = models.live
    avatar = device.avatar(face, options, cache)
    return FaceStream(device.loop, device.loop.open(avatar, options), options)


class LiveDevice:
    """What all streams of one `Models` object share."""

    def __init__(self, models: Models) -> None:
        self.loop = DeviceLoop(models)
        self._avatars: weakref.WeakValueDictionary[Any, Avatar] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def avatar(
        self, face: str | os.PathLike[str] | VideoInfo, options: StreamOptions, cache: FaceCache | None
    ) -> Avatar:
        """Return the avatar of a face, which streams that run at the same time share."""
        info = probed(face)
        key = (sha256_of(info.path), options.dub, options.avatar_seconds)
        with self._lock:
            avatar = self._avatars.get(key)
            if avatar is None:
                avatar = self._avatars[key] = Avatar(info, self.loop.models, options, cache)
            return avatar
