"""Watch the film of a dub with the networks of its options."""

from __future__ import annotations

import itertools
import logging
import os
import time
from fractions import Fraction

import torch

from wav2lip_npu.errors import NoAudioError
from wav2lip_npu.evaluation.audio_track import read_track
from wav2lip_npu.evaluation.expert_judge import load_expert
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.shot_faces import follow_faces
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.models import light_asd
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.speaking.asd_judge import AsdJudge
from wav2lip_npu.speaking.choice import FPS
from wav2lip_npu.speaking.evidence import Judge
from wav2lip_npu.speaking.film import Film, watch
from wav2lip_npu.speaking.sync_judge import SyncJudge
from wav2lip_npu.storage.hashing import sha256_of

log = logging.getLogger(__name__)


def watch_film(
    info: VideoInfo,
    geometry: Geometry,
    detector: Detector,
    device: torch.device,
    asd: str | None,
    section: tuple[Fraction, Fraction],
) -> Film:
    """Return who speaks in a part of a film: seconds of its start, and seconds that it lasts.

    Raises:
        CheckpointError: The file `asd` cannot be used.
        MediaError: The film cannot be read, or has hardly any sound.

    """
    track = read_track(info.path)
    if track is None:
        raise NoAudioError(f"{info.path} has less than 60 ms of sound, which does not tell who speaks.")
    begin, started = round(section[0] * FPS), time.monotonic()
    judge: Judge
    if asd is None:
        judge = SyncJudge(load_expert(STARTER, str(device)), track.info, begin)
    else:
        name = f"{os.path.basename(asd)} (sha256 {sha256_of(asd)[:12]})"
        judge = AsdJudge(light_asd.load(asd, device), name, track.info, begin)
    log.info("looking for who speaks in %s, by %s", info.path, judge.name)
    frames = read_frames(info, fps=Fraction(FPS), geometry=geometry, start=begin)
    wanted = itertools.islice(frames, round(section[1] * FPS) + 1)
    film = watch(follow_faces(wanted, detector, Fraction(FPS)), judge, ~track.pauses[begin:], begin)
    log.info("%.1f s of the film watched in %.1f s", len(film.speech) / FPS, time.monotonic() - started)
    return film
