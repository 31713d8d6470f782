"""Videos and sounds of ComfyUI as files, which the package reads as streams, and images as arrays."""

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence

import av
import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl

from wav2lip_npu import UsageError

_FLOAT, _LARGEST = 3, 0xFFFFFFFF
"""Format tag of floating point samples in a WAV file, and its largest size."""


def temp_path(suffix: str) -> str:
    """Create an empty file in ComfyUI's folder of temporary files, which ComfyUI empties when it starts."""
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    handle, path = tempfile.mkstemp(suffix, "wav2lip_", folder)
    os.close(handle)
    return path


@contextlib.contextmanager
def video_file(video) -> Iterator[str]:
    """Yield the path of a VIDEO. Its frames are never in memory together.

    A file is used where it lies. A buffer is copied to a temporary file. A trimmed or cropped file, whose
    source is the whole one, and a video of images are saved to one by ComfyUI.
    """
    is_whole = isinstance(video, InputImpl.VideoFromFile) and _is_whole(video)
    source = video.get_stream_source() if is_whole else None
    if source is not None and not hasattr(source, "read"):
        yield os.fspath(source)
        return
    path = temp_path(".mp4")
    try:
        if source is None:
            video.save_to(path)
        else:
            with open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
        yield path
    finally:
        os.unlink(path)


def _is_whole(video) -> bool:
    """Return whether a file is neither trimmed nor cropped. Not all versions of ComfyUI can be asked."""
    window = getattr(video, "get_active_trim_window", None)
    if window is not None and any(window()):
        return False
    with av.open(video.get_stream_source()) as container:
        stream = container.streams.video[0]
        size, seconds = sorted((stream.width, stream.height)), container.duration
    if sorted(video.get_dimensions()) != size:
        return False
    return seconds is None or abs(video.get_duration() - seconds / av.time_base) < 1e-3


@contextlib.contextmanager
def sound_file(audio) -> Iterator[str | None]:
    """Yield the path of an AUDIO as a WAV file; None without one."""
    if audio is None:
        yield None
        return
    path = temp_path(".wav")
    try:
        _write_wav(path, samples_of(audio), int(audio["sample_rate"]))
        yield path
    finally:
        os.unlink(path)


def samples_of(audio) -> torch.Tensor:
    """Return the samples of an AUDIO, float32 [C, T], full scale 1."""
    waveform = audio["waveform"].detach().cpu()
    if waveform.ndim != 3 or len(waveform) != 1:
        raise UsageError(f"the AUDIO has the shape {list(waveform.shape)}. Pass one sound: [1, C, T].")
    if not waveform.is_floating_point():  # as some versions of ComfyUI return the sound of a video
        return waveform[0].float() / (torch.iinfo(waveform.dtype).max + 1)
    return waveform[0].float()


def _write_wav(path: str, samples: torch.Tensor, rate: int) -> None:
    channels, count = samples.shape
    size = min(4 * channels * count, _LARGEST - 36)
    fields = (16, _FLOAT, channels, rate, 4 * channels * rate, 4 * channels, 32)
    with open(path, "wb") as file:
        file.write(struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", *fields, b"data", size))
        samples.T.contiguous().numpy().astype("<f4", copy=False).tofile(file)


class RgbFrames(Sequence):
    """An IMAGE batch, float [B, H, W, C] from 0 to 1, as uint8 frames, each converted when it is read."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images[..., :3]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> np.ndarray:
        scaled = self.images[number].detach().cpu().float() * 255
        return scaled.round().clamp(0, 255).to(torch.uint8).numpy()


def fitted(audio: dict, length: int) -> dict:
    """Return a sound cut or followed by silence to a number of samples."""
    samples = samples_of(audio)[:, :length]
    samples = torch.nn.functional.pad(samples, (0, length - samples.shape[1]))
    return {**audio, "waveform": samples[None]}
