"""Tracks and encoders of the viewers of a live stream by WebRTC. Needs the package aiortc."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCRtpSender, RTCRtpTransceiver
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError
from av.video.frame import PictureType
from numpy.typing import NDArray

from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.media.video_writer import frame_of

AUDIO_RATE = 48_000
_CHUNK = AUDIO_RATE // 50
"""Samples of an Opus packet, 20 ms."""
_LEAD_S = Fraction(2, 1000)
"""Silence before the audio, more than the resampler holds back, so that each frame completes its chunks."""
_IMAGES, _CHUNKS = 3, 25
"""Frames, and chunks of 0.5 s, that wait for a viewer. Beyond them, the oldest is dropped."""
_PREFERRED = ("video/H264", "audio/opus")
_BITS_PER_PIXEL = 0.3
_MIN_BITRATE, _MAX_BITRATE = 600_000, 8_000_000
_VP8_BITRATE = 1_500_000
"""The most that aiortc's encoder takes."""
_X264 = {"preset": "superfast", "tune": "zerolatency"}
"""3.5 ms for 512x512 on one core; medium, the preset of aiortc's own encoder, takes 20 ms."""
_BUFFER_S = 0.5
"""Seconds by which x264 may exceed the bit rate for a key frame."""
_ENCODER = "_RTCRtpSender__encoder"
"""Where a sender of aiortc keeps its encoder, which it creates with the first frame if there is none."""


class Chunk(NamedTuple):
    """20 ms of audio."""

    pts: int
    """Position in samples from the beginning of the stream."""
    delay: float
    """Seconds after the beginning of its frame."""
    samples: NDArray[np.int16]


class AudioChunks:
    """Cuts the audio of frames into chunks at 48 kHz."""

    def __init__(self) -> None:
        self._next: int | None = None
        """Number of the frame that continues the last one."""

    def push(self, frame: LiveFrame) -> list[Chunk]:
        """Append the audio of a frame, and return the chunks that it completes."""
        samples = frame.audio
        if frame.number != self._next:
            self._resampler = av.AudioResampler("s16", "mono", AUDIO_RATE, _CHUNK)
            lead = round(_LEAD_S * frame.sample_rate)
            self._start, self._samples = frame.time - Fraction(lead, frame.sample_rate), 0
            samples = np.concatenate([np.zeros(lead, np.int16), samples])
        self._next = frame.number + 1
        audio = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        audio.sample_rate, audio.pts = frame.sample_rate, self._samples
        audio.time_base = Fraction(1, frame.sample_rate)
        self._samples += len(samples)
        start = round(self._start * AUDIO_RATE)
        return [
            Chunk(start + part.pts, _seconds(start + part.pts, frame), part.to_ndarray()[0])
            for part in self._resampler.resample(audio)
            if part.pts is not None
        ]


class _Track(MediaStreamTrack):
    """What waits for one viewer."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._items: asyncio.Queue[Any] = asyncio.Queue(most)
        self.is_wanted = False
        """Whether the viewer is connected."""

    def put(self, item: Any) -> None:
        """Append an item. If the viewer is slow, the oldest one is dropped."""
        if self._items.full():
            self._items.get_nowait()
        self._items.put_nowait(item)

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self.put(None)

    async def _next(self) -> Any:
        self.is_wanted = True
        item = await self._items.get()
        if item is None or self.readyState != "live":
            raise MediaStreamError
        return item


class VideoTrack(_Track):
    """The images of frames, with the time of their frames."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__(_IMAGES)

    async def recv(self) -> av.VideoFrame:
        """Return the next image."""
        frame: LiveFrame = await self._next()
        image: Any = frame_of(frame.yuv)
        image.color_range, image.colorspace, image.color_primaries, image.color_trc = frame.yuv.colour.labels
        image.pts, image.time_base = int(frame.time * VIDEO_CLOCK_RATE), VIDEO_TIME_BASE
        return image  # type: ignore[no-any-return]


class AudioTrack(_Track):
    """Chunks of audio, each sent at its time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__(_CHUNKS)

    def put_all(self, chunks: Iterable[Chunk]) -> None:
        """Append the chunks of the frame that is shown now."""
        now = asyncio.get_running_loop().time()
        for chunk in chunks:
            self.put((now + chunk.delay, chunk))

    async def recv(self) -> av.AudioFrame:
        """Return the next chunk, as soon as its part of the frame begins."""
        due, chunk = await self._next()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        audio = av.AudioFrame.from_ndarray(chunk.samples[None], "s16", "mono")
        audio.sample_rate, audio.pts, audio.time_base = AUDIO_RATE, chunk.pts, Fraction(1, AUDIO_RATE)
        return audio


class _FaceEncoder(H264Encoder):
    """H.264 in little time, with a bit rate for the size of the images, which follows that of the network."""

    def __init__(self, fps: Fraction, size: tuple[int, int]) -> None:
        super().__init__()
        self._fps = fps
        bits = int(_BITS_PER_PIXEL * size[0] * size[1] * fps)
        self._best = self._bitrate = max(_MIN_BITRATE, min(bits, _MAX_BITRATE))

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Return the packets of an image, and its time."""
        if self.codec is None:
            self.codec = self._open(frame)
        self.codec.bit_rate = self._bitrate
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        (packet,) = self.codec.encode(frame)
        return self.pack(packet)

    def _open(self, frame: Any) -> Any:
        limits = {"maxrate": str(self._best), "bufsize": str(int(self._best * _BUFFER_S))}
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
        codec.framerate, codec.time_base, codec.bit_rate = self._fps, VIDEO_TIME_BASE, self._bitrate
        for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(codec, name, getattr(frame, name))
        codec.profile = "Baseline"
        codec.options = {**_X264, **limits}
        return codec

    @property
    def target_bitrate(self) -> int:
        """Bits per second."""
        return self._bitrate

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._bitrate = max(self._best // 4, min(bitrate, self._best))


def set_encoder(sender: RTCRtpSender, codec: str, fps: Fraction, size: tuple[int, int]) -> None:
    """Let a sender use an encoder with settings for a live stream, instead of aiortc's defaults."""
    encoder: Encoder
    if codec == "video/H264":
        encoder = _FaceEncoder(fps, size)
    else:
        encoder = Vp8Encoder()
        encoder.target_bitrate = _VP8_BITRATE
    setattr(sender, _ENCODER, encoder)


def prefer(transceiver: RTCRtpTransceiver) -> None:
    """Let a transceiver use H.264 or Opus, if the viewer can."""
    codecs = RTCRtpSender.getCapabilities(transceiver.kind).codecs
    transceiver.setCodecPreferences(sorted(codecs, key=lambda codec: codec.mimeType not in _PREFERRED))


def _seconds(pts: int, frame: LiveFrame) -> float:
    return max(0.0, float(Fraction(pts, AUDIO_RATE) - frame.time))
