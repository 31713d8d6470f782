"""Write the frames of a live stream to a file or pipe: as MPEG-TS, or as raw images."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, BinaryIO, Protocol

import av
import numpy as np

from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.media.audio_track import AAC_RATES
from wav2lip_npu.media.video_writer import frame_of

_X264 = {"preset": "veryfast", "tune": "zerolatency"}
_KEY_FRAMES_S = 1
"""Seconds between key frames, at which a player can begin."""
_AUDIO_BITS = 128_000
_AT_ONCE = {"flush_packets": "1"}


class FrameWriter(Protocol):
    """Writes frames. `OSError` and `av.error.FFmpegError` mean that the file or pipe is gone or full."""

    def write(self, frame: LiveFrame) -> None:
        """Write a frame and its audio at once."""
        ...

    def close(self) -> None:
        """Write what is still in the encoders."""
        ...


class RawImages:
    """Images as BGR bytes, one after the other, without audio."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, frame: LiveFrame) -> None:
        """Write a frame."""
        self._file.write(np.ascontiguousarray(frame.image).data)
        self._file.flush()

    def close(self) -> None:
        """Do nothing: each image is written at once."""


class TransportStream:
    """MPEG-TS with H.264 and AAC. Video has no delay of its own, AAC one of about 60 ms.

    Args:
        file: Binary file or pipe.
        fps: Frames per second.
        crf: Quality of H.264, 0 to 51.

    """

    def __init__(self, file: BinaryIO, fps: Fraction, crf: int) -> None:
        self._file = file
        self._container = av.open(file, "w", format="mpegts", options=_AT_ONCE)
        self._fps, self._crf = fps, crf
        self._video: Any = None
        self._audio: Any = None
        self._samples = 0

    def write(self, frame: LiveFrame) -> None:
        """Encode a frame and its audio, and write the packets."""
        if self._video is None:
            self._open(frame)
        image = frame_of(frame.yuv)
        image.pts, image.time_base = frame.number, 1 / self._fps
        audio = av.AudioFrame.from_ndarray(frame.audio[None], "s16", "mono")
        audio.sample_rate, audio.pts = frame.sample_rate, self._samples
        audio.time_base = Fraction(1, frame.sample_rate)
        self._samples += len(frame.audio)
        self._container.mux(self._video.encode(image))
        self._container.mux(self._audio.encode(audio))
        self._file.flush()

    def close(self) -> None:
        """Write the last packets."""
        if self._video is not None:
            self._container.mux(self._video.encode(None))
            self._container.mux(self._audio.encode(None))
        self._container.close()

    def _open(self, first: LiveFrame) -> None:
        keys = str(round(self._fps * _KEY_FRAMES_S))
        options = {**_X264, "crf": str(self._crf), "g": keys}
        video: Any = self._container.add_stream("libx264", rate=self._fps, options=options)
        context: Any = video.codec_context
        context.width, context.height, context.pix_fmt = first.yuv.width, first.yuv.height, "yuv420p"
        labels = first.yuv.colour.labels
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = labels
        audio: Any = self._container.add_stream("aac", rate=first.sample_rate, layout="mono")
        audio.bit_rate = _AUDIO_BITS
        self._video, self._audio = video, audio


def coded_rate(rate: int) -> int:
    """Return the lowest sample rate of AAC that is not below a rate."""
    return next((coded for coded in AAC_RATES if coded >= rate), AAC_RATES[-1])
