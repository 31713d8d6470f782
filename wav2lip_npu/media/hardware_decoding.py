"""Decode a video on graphics hardware if it gives the frames of the CPU, and sooner."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import islice
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.container import VideoInfo, open_probed, video_stream
from wav2lip_npu.media.frame_sequence import FrameSequence
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import YuvImage

log = logging.getLogger(__name__)

Hardware = Literal["none", "auto", "cuda", "vaapi", "videotoolbox"]
"""Hardware that decodes. The names are those of FFmpeg."""
_ALL = ("cuda", "vaapi", "videotoolbox")
_TRIAL_FRAMES, _COMPARED_EVERY = 24, 6
"""Frames that both sides decode before one is chosen, and the distance of those that are compared."""
_ROUNDING = 1
"""Largest difference of a pixel. Decoders agree; conversions from 10 bits round."""


def on_hardware(info: VideoInfo, hardware: Hardware) -> VideoInfo:
    """Return the video with the hardware that decodes it; unchanged if the CPU does.

    The first frames are decoded both ways. Hardware must give the same images: size, orientation, colour and
    time; with `auto` it must also be faster. Interlaced videos are left to the CPU. Raises `MediaError` if
    the CPU cannot decode the video.
    """
    if hardware == "none" or info.kind != "video" or isinstance(info, FrameSequence):
        return info
    reasons = ["it is interlaced"]
    if not info.interlaced:
        by_cpu, reasons = _trial(info), []
        for name in _ALL if hardware == "auto" else (hardware,):
            chosen = replace(info, hwaccel=name)
            reason = _refusal(chosen, by_cpu, must_be_faster=hardware == "auto")
            if reason is None:
                log.info("--hwaccel %s: %s is decoded by %s", hardware, info.path, name)
                return chosen
            reasons.append(f"{name} {reason}")
    log.warning("--hwaccel %s: %s is decoded by the CPU: %s", hardware, info.path, ", ".join(reasons))
    return info


class _Trial(NamedTuple):
    images: list[YuvImage]
    seconds: float
    """Without the first image, before which the hardware is opened."""


def _trial(info: VideoInfo) -> _Trial:
    images: list[YuvImage] = []
    start = perf_counter()
    for frame in islice(read_frames(info), _TRIAL_FRAMES):
        start = start if images else perf_counter()
        if frame.index % _COMPARED_EVERY == 0:
            images.append(frame.yuv)
    return _Trial(images, perf_counter() - start)


def _refusal(info: VideoInfo, by_cpu: _Trial, *, must_be_faster: bool) -> str | None:
    """Return what keeps the hardware of a video from being used; None if it is used."""
    try:
        if not _has_decoder(info):
            return "does not decode this codec"
        trial = _trial(info)
    except (MediaError, RuntimeError, NotImplementedError, ValueError) as error:  # PyAV raises all of them
        log.debug("%s: %s", info.hwaccel, error)
        return "does not answer"
    if len(trial.images) != len(by_cpu.images) or not all(map(_are_equal, trial.images, by_cpu.images)):
        return "gives other frames"
    return "is slower" if must_be_faster and trial.seconds >= by_cpu.seconds else None


def _has_decoder(info: VideoInfo) -> bool:
    """Return whether the hardware can be opened, and FFmpeg has a decoder for it. Raises `MediaError`."""
    with open_probed(info) as container:
        return bool(video_stream(container, info.path).codec_context.is_hwaccel)


def _are_equal(one: YuvImage, other: YuvImage) -> bool:
    if one.colour != other.colour or one.y.shape != other.y.shape:
        return False
    pairs = ((one.y, other.y), (one.u, other.u), (one.v, other.v))
    return all(np.abs(a.astype(np.int16) - b).max() <= _ROUNDING for a, b in pairs)
