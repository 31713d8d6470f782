"""Encode the audio of a video in step with its frames, so that the container interleaves both."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soxr

from wav2lip_npu import signals
from wav2lip_npu.media.audio_reader import AudioSource, Samples, read_blocks
from wav2lip_npu.media.downmix import Downmix
from wav2lip_npu.media.source_errors import from_source

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_BITS_PER_CHANNEL = 192_000  # at half of this rate FFmpeg's AAC encoder garbles the first 50 ms
_SILENCE: Samples = np.zeros((1, 0), np.float32)


@dataclass(frozen=True, kw_only=True)
class Soundtrack:
    """The audio of a video, or a part of it."""

    source: AudioSource
    start: Fraction = Fraction(0)
    """Seconds to skip at the beginning."""
    fit: bool = False
    """Whether to pad or cut audio that ends before the last frame, or more than half a frame after it."""


class AudioTrack:
    """The audio stream of an output container. Errors of the source are raised as `SourceError`."""

    def __init__(self, container: Any, audio: Soundtrack) -> None:
        self._container = container
        self._fit = audio.fit
        self._blocks: Any = from_source(read_blocks(audio.source))
        first: tuple[int, Samples] = next(self._blocks, (AAC_RATES[-1], _SILENCE))
        self._rate, self._block = first
        self._position = self._coded = 0
        self._downmix = Downmix(self._rate)
        # AVI cannot store the start offset of AAC.
        codec = "pcm_s16le" if container.format.name == "avi" else "aac"
        channels = len(self._block) if len(self._block) in _LAYOUTS else 1
        rates = AAC_RATES if codec == "aac" else (self._rate,)
        coded_rate = next((rate for rate in rates if rate >= self._rate), rates[-1])
        self._resampler = (
            soxr.ResampleStream(self._rate, coded_rate, channels) if coded_rate != self._rate else None
        )
        self._stream = container.add_stream(codec, rate=coded_rate, layout=_LAYOUTS[channels])
        if codec == "aac":
            self._stream.bit_rate = _BITS_PER_CHANNEL * channels
        self._skip(round(audio.start * self._rate))

    def close(self) -> None:
        """Close the audio file."""
        self._blocks.close()

    def write_until(self, seconds: Fraction) -> None:
        """Write the audio up to a time; after its end, write silence if `fit` is set."""
        end = round(seconds * self._rate)
        while self._position < end:
            if self._has_samples():
                block, self._block = np.split(self._block, [end - self._position], axis=1)
            elif self._fit:
                missing = min(end - self._position, self._rate)
                block = np.zeros((len(self._block), missing), np.float32)
            else:
                return
            self._write(block)

    def finish(self, seconds: Fraction, frame: Fraction) -> None:
        """Write the rest of the audio. The video ends at `seconds`, and a frame lasts `frame` seconds."""
        self.write_until(seconds)
        rest = round(frame / 2 * self._rate)
        tail: list[Samples] = []
        while self._has_samples() and (rest >= 0 or not self._fit):
            if self._fit:  # audio that ends within half a frame is not cut
                tail.append(self._block)
                rest -= self._block.shape[1]
            else:
                self._write(self._block)
            self._block = self._block[:, :0]
        if rest >= 0:
            for block in tail:
                self._write(block)
        self._write(self._block[:, :0], last=True)
        self._container.mux(self._stream.encode(None))

    def _skip(self, samples: int) -> None:
        while samples and self._has_samples():
            dropped = min(samples, self._block.shape[1])
            self._block = self._block[:, dropped:]
            samples -= dropped

    def _has_samples(self) -> bool:
        """Return whether the current block has samples, after reading the next one if necessary."""
        while not self._block.shape[1]:
            following = next(self._blocks, None)
            if following is None:
                return False
            _, self._block = following
        return True

    def _write(self, block: Samples, *, last: bool = False) -> None:
        signals.check()
        self._position += block.shape[1]
        if len(block) not in _LAYOUTS:
            block = self._downmix(block)[None]
        packed = np.ascontiguousarray(block.T)
        if self._resampler is not None:
            packed = self._resampler.resample_chunk(packed, last=last).reshape(-1, len(block))
        if packed.size:
            # Packed, because PyAV miscounts the planes of 8 or more channels.
            frame = av.AudioFrame.from_ndarray(packed.reshape(1, -1), "flt", _LAYOUTS[len(block)])
            frame.sample_rate = self._stream.rate
            frame.time_base = Fraction(1, self._stream.rate)
            frame.pts = self._coded
            self._coded += len(packed)
            self._container.mux(self._stream.encode(frame))
