"""Audio of a clip, mono at 16 kHz. It is read from the video twice: to measure and to write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.audio_reader import AudioSource, path_of, read_mono
from wav2lip_npu.mel import DEFAULT_MEL

_FULL_SCALE = 32768


@dataclass(frozen=True)
class ClipAudio:
    """The audio of a clip. Its samples are read block by block."""

    source: AudioSource
    samples: int
    """Number of samples at 16 kHz."""
    is_silent: bool
    """Whether all samples are zero."""

    def blocks(self) -> Iterator[NDArray[np.int16]]:
        """Yield the samples. Raises `MediaError` if the file has changed."""
        rest = self.samples
        for block in _int16_blocks(self.source):
            rest -= len(block)
            if rest < 0:
                break
            yield block
        if rest:
            path = path_of(self.source)
            raise MediaError(f"{path} changed while it was being read. Run the command again.")


def measure_clip_audio(source: AudioSource) -> ClipAudio:
    """Return the audio of a clip after reading all of it. Raises `MediaError`."""
    samples, is_silent = 0, True
    for block in _int16_blocks(source):
        samples += len(block)
        is_silent = is_silent and not block.any()
    return ClipAudio(source, samples, is_silent)


def _int16_blocks(source: AudioSource) -> Iterator[NDArray[np.int16]]:
    for block in read_mono(source, DEFAULT_MEL.sample_rate):
        yield np.clip(np.rint(block * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
