"""Evaluate one video in one pass over its frames and those of its original recording."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from wav2lip_npu import signals
from wav2lip_npu.evaluation.audio_track import AudioTrack, read_track
from wav2lip_npu.evaluation.expert_judge import ExpertJudge, ExpertScore
from wav2lip_npu.evaluation.frame_pair import Figure, FramePair, Measure
from wav2lip_npu.evaluation.identity import IdentityMeasure
from wav2lip_npu.evaluation.inputs import Pair
from wav2lip_npu.evaluation.judges import Judges
from wav2lip_npu.evaluation.listed_frames import ListedFrames, find_report, read_kept_spans
from wav2lip_npu.evaluation.mouth_motion import MouthMeasure
from wav2lip_npu.evaluation.options import EvaluateOptions
from wav2lip_npu.evaluation.perceptual import LpipsMeasure
from wav2lip_npu.evaluation.picture import PictureMeasure
from wav2lip_npu.evaluation.published_judge import PublishedJudge, TrackScore
from wav2lip_npu.evaluation.report import VideoEvaluation
from wav2lip_npu.evaluation.skin import SkinMeasure
from wav2lip_npu.evaluation.thumbnails import Thumbnails
from wav2lip_npu.evaluation.timing import measure_timing
from wav2lip_npu.evaluation.track_figures import TrackMeasure
from wav2lip_npu.faces.find_faces import find_faces
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.container import VideoInfo, probed
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import YuvImage
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.parallel.threads import prefetch

FPS = Fraction(TRAINING_FPS)
_QUEUE_BYTES = 24 << 20
_MAX_QUEUE = 16
_CURVE_POINTS = 600


Progress = Callable[[int, int], None]


def evaluate_video(
    pair: Pair, judges: Judges, options: EvaluateOptions, progress: Progress | None = None
) -> VideoEvaluation:
    """Return the figures of one video. Raises `MediaError` and `DataError`.

    `progress` is called with the number of frames done and the expected total.
    """
    info = probed(pair.generated)
    truth = None if pair.truth is None else probed(pair.truth)
    if truth is not None and truth.is_image:  # of which a batch made a video: its mouth does not move
        pair, truth = replace(pair, truth=None), None
    silent = None if pair.silent is None else probed(pair.silent)
    sides = {"generated": _Side(info, judges, options)}
    if truth is not None:
        sides["truth"] = _Side(truth, judges, options)
    measures = _Measures(pair, info, sides, judges, options)
    frames = faces = 0
    thumbnails = Thumbnails()
    with contextlib.ExitStack() as stack:
        tracked = _tracked(info, judges, options, stack)
        originals = iter(()) if truth is None else _tracked(truth, judges, options, stack)
        quiet = iter(()) if silent is None else _images(silent, stack)
        for index, generated in enumerate(tracked):
            signals.check()
            original = next(originals, None)
            sides["generated"].add(generated)
            if original is not None:
                sides["truth"].add(original)
            if truth is None or original is not None:
                measures.add(FramePair(index, generated, original, next(quiet, None)))
            thumbnails.add(generated)
            frames, faces = frames + 1, faces + (generated.box is not None)
            del generated, original
            if progress is not None:
                progress(frames, max(frames, round((info.duration or 0) * FPS)))
    return _result(pair, sides, measures, thumbnails, frames, faces)


def _tracked(
    info: VideoInfo, judges: Judges, options: EvaluateOptions, stack: contextlib.ExitStack
) -> Iterator[TrackedFrame]:
    """Return the tracked frames of a video at 25 per second, from a thread that ends with the stack."""
    depth = min(_MAX_QUEUE, max(2, _QUEUE_BYTES * 2 // (3 * info.width * info.height)))
    running = prefetch(find_faces(read_frames(info, fps=FPS), judges.detector, options.faces), depth)
    stack.callback(running.close)
    return running


def _images(info: VideoInfo, stack: contextlib.ExitStack) -> Iterator[YuvImage]:
    running = prefetch((frame.yuv for frame in read_frames(info, fps=FPS)), 2)
    stack.callback(running.close)
    return running


class _Side:
    """The judges of one video: the generated one or its original."""

    def __init__(self, info: VideoInfo, judges: Judges, options: EvaluateOptions) -> None:
        self.track: AudioTrack | None = None
        if info.has_audio:
            self.track = read_track(info.path)
        self.skipped: dict[str, str] = {}
        self.published: PublishedJudge | None = None
        self.expert: ExpertJudge | None = None
        for group, wanted in (("sync", judges.syncnet), ("expert", judges.expert)):
            if wanted is not None and self.track is None:
                self.skipped[group] = "the video has no audio"
        if self.track is not None and judges.syncnet is not None:
            crop, min_track = options.crop, options.min_track
            self.published = PublishedJudge(judges.syncnet, self.track.info, crop, min_track)
        if self.track is not None and judges.expert is not None:
            self.expert = ExpertJudge(judges.expert, self.track.info)

    def add(self, tracked: TrackedFrame) -> None:
        """Add the next frame to the judges."""
        if self.published is not None:
            self.published.add(tracked)
        if self.expert is not None:
            self.expert.add(tracked)

    def scores(self) -> tuple[list[TrackScore], ExpertScore | None]:
        """Return the scores; `skipped` gets the reason of a missing one."""
        tracks = [] if self.published is None else self.published.finish()
        if self.published is not None and not tracks:
            longest = self.published.longest_track
            self.skipped["sync"] = (
                f"no track is long or large enough for this crop, the longest has {longest} frames: "
                "pass a lower --min_track"
            )
        score = None if self.expert is None else self.expert.finish()
        if self.expert is not None and score is None:
            self.skipped["expert"] = "fewer than 15 windows of 5 frames have a face and audio at all offsets"
        return tracks, score


class _Measures:
    """The measures of frame pairs."""

    def __init__(
        self,
        pair: Pair,
        info: VideoInfo,
        sides: dict[str, _Side],
        judges: Judges,
        options: EvaluateOptions,
    ) -> None:
        self.skipped: dict[str, str] = {}
        self._pair, self._wanted = pair, options.metrics
        self.picture = PictureMeasure()
        self._measures: dict[str, Measure] = {}
        pauses = [None if side.track is None else side.track.is_pause for side in sides.values()]
        self._set("picture", self.picture)
        self._set("skin", SkinMeasure())
        self._set("mouth", MouthMeasure(*pauses))
        self._set("track", TrackMeasure())
        if judges.identity is not None:
            self._set("identity", IdentityMeasure(judges.identity))
        if judges.lpips is not None:
            self._set("lpips", LpipsMeasure(judges.lpips.of_images))
        if judges.fid is not None:
            self._set("fid", judges.fid)
        if "frames" in self._wanted:
            self._read_report(info.fps)

    def _read_report(self, fps: Fraction) -> None:
        report = find_report(self._pair.report, self._pair.generated)
        spans = None if report is None else read_kept_spans(report, self._pair.generated, fps)
        if spans is not None:
            self._set("frames", ListedFrames(spans))
        elif report is None:
            self.skipped["frames"] = "no report of the dub: pass --reports"
        else:
            self.skipped["frames"] = f"{report} does not describe this video"

    def _set(self, group: str, measure: Measure) -> None:
        if group in self._wanted:
            self._measures[group] = measure

    def add(self, frame_pair: FramePair) -> None:
        """Add the next frames."""
        for measure in self._measures.values():
            measure.add(frame_pair)

    def figures(self) -> dict[str, Figure]:
        """Return all figures, and note which groups have none and why."""
        found: dict[str, Figure] = {}
        for group, measure in self._measures.items():
            figures = measure.figures()
            found |= figures
            if not figures and group != "fid":
                self.skipped[group] = self._reason(group)
        if "timing" in self._wanted:
            timing = measure_timing(self._pair.generated)
            found["audio_start"], found["tail"] = Figure(timing.start_s), Figure(timing.tail_s)
        return found

    def _reason(self, group: str) -> str:
        if self._pair.truth is None and group in ("picture", "frames", "identity", "lpips"):
            return "no original recording: pass --truth"
        if group == "mouth":
            return "no face with landmarks in frames of the same size"
        return "no face, or frames of different sizes"


def _result(
    pair: Pair,
    sides: dict[str, _Side],
    measures: _Measures,
    thumbnails: Thumbnails,
    frames: int,
    faces: int,
) -> VideoEvaluation:
    scores = {name: side.scores() for name, side in sides.items()}
    tracks = {name: found for name, (found, _) in scores.items() if found}
    experts = {name: score for name, (_, score) in scores.items() if score is not None}
    figures = {**_track_figures(tracks), **_expert_figures(experts), **measures.figures()}
    curves = _curves(tracks, experts, measures.picture)
    track = sides["generated"].track
    if track is not None:
        curves["loudness"] = _thinned(list(enumerate(track.envelope.tolist())))
    return VideoEvaluation(
        video=pair.generated,
        truth=pair.truth,
        frames=frames,
        faces=faces,
        figures=figures,
        skipped={**sides["generated"].skipped, **measures.skipped},
        tracks=tracks,
        curves=curves,
        thumbnails=thumbnails.images,
    )


def _track_figures(tracks: dict[str, list[TrackScore]]) -> dict[str, Figure]:
    """Return the means over the tracks of a video; the offset is that of its longest track."""
    if "generated" not in tracks:
        return {}

    def mean(name: str) -> Figure:
        values = [
            float(np.mean([getattr(track, name) for track in tracks[side]])) if side in tracks else None
            for side in ("generated", "truth")
        ]
        return Figure(*values)

    longest = [
        max(tracks[side], key=lambda track: track.windows).offset if side in tracks else None
        for side in ("generated", "truth")
    ]
    return {"lse_d": mean("lse_d"), "lse_c": mean("lse_c"), "lse_offset": Figure(*longest)}


def _expert_figures(scores: dict[str, ExpertScore]) -> dict[str, Figure]:
    generated, truth = scores.get("generated"), scores.get("truth")
    if generated is None:
        return {}
    return {
        f"expert_{name}": Figure(getattr(generated, name), None if truth is None else getattr(truth, name))
        for name in ("confidence", "cosine", "offset")
    }


def _curves(
    tracks: dict[str, list[TrackScore]], experts: dict[str, ExpertScore], picture: PictureMeasure
) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for side, found in tracks.items():
        points = [
            (track.first + number, value) for track in found for number, value in enumerate(track.confidences)
        ]
        curves[f"LSE confidence, {side}"] = _thinned(points)
    for side, score in experts.items():
        curves[f"expert cosine, {side}"] = _thinned(list(zip(score.frames, score.cosines, strict=True)))
    if picture.frames:
        curves["PSNR of the mouth"] = _thinned(list(zip(picture.frames, picture.mouth_psnr, strict=True)))
    return curves


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the means of equal parts of a curve, at most 600."""
    size = -(-len(points) // _CURVE_POINTS) or 1
    parts = (points[first : first + size] for first in range(0, len(points), size))
    return [(part[0][0], round(float(np.mean([value for _, value in part])), 3)) for part in parts]
