"""Begin and end of the video and audio of a file, from the time stamps of its packets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wav2lip_npu import signals
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.container import is_cover_art, open_media


@dataclass(frozen=True)
class Timing:
    """Times of the tracks of a file."""

    video_s: float
    """Seconds of video."""
    audio_s: float
    """Seconds of audio; 0 without audio."""
    start_s: float
    """Seconds by which the audio starts after the video."""

    @property
    def tail_s(self) -> float:
        """Seconds by which the audio ends after the video."""
        return self.start_s + self.audio_s - self.video_s


def measure_timing(path: str | os.PathLike[str]) -> Timing:
    """Return the times of a file without decoding it. Raises `MediaError`."""
    spans: dict[str, list[float]] = {}
    with open_media(path) as container:
        streams = [stream for stream in container.streams.video if not is_cover_art(stream)][:1]
        if not streams:
            raise MediaError(f"{path} has no video. Pass a video.")
        audio = container.streams.best("audio")
        for packet in container.demux(*streams, *([audio] if audio is not None else [])):
            signals.check()
            if packet.pts is None or packet.time_base is None:
                continue
            first = float(packet.pts * packet.time_base)
            last = first + float((packet.duration or 0) * packet.time_base)
            kind = packet.stream.type
            begin, end = spans.get(kind, [first, last])
            spans[kind] = [min(begin, first), max(end, last)]
        if (
            audio is not None
            and audio.duration is not None
            and audio.time_base is not None
            and "audio" in spans
        ):
            # The last packet of AAC is padded; MP4 states where the audio ends in it.
            stated = float(((audio.start_time or 0) + audio.duration) * audio.time_base)
            spans["audio"][1] = min(spans["audio"][1], stated)
    video = spans.get("video", [0.0, 0.0])
    sound = spans.get("audio", [video[0], video[0]])
    begin = max(sound[0], video[0])  # audio before the first frame is not played, such as the priming of AAC
    return Timing(video[1] - video[0], max(0.0, sound[1] - begin), begin - video[0])
