"""Evaluate generated videos: lip-sync, picture, motion and timing, beside their original recordings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from wav2lip_npu import signals
from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.evaluation.inputs import Pair, PathLike, pair_videos, read_original_list
from wav2lip_npu.evaluation.judges import Judges, fid_figure, load_judges
from wav2lip_npu.evaluation.options import EvaluateOptions
from wav2lip_npu.evaluation.report import EvaluationReport, VideoEvaluation, mean_figures
from wav2lip_npu.evaluation.video import Progress, evaluate_video
from wav2lip_npu.options import expect, with_values

log = logging.getLogger(__name__)


@signals.deferred()
def evaluate(
    generated: Pair | PathLike | Iterable[Pair | PathLike],
    *,
    truth: PathLike | None = None,
    silent: PathLike | None = None,
    reports: PathLike | None = None,
    filelist: PathLike | None = None,
    data_root: PathLike | None = None,
    progress: Progress | None = None,
    frame_progress: Progress | None = None,
    options: EvaluateOptions | None = None,
    **values: Any,
) -> EvaluationReport:
    """Measure generated videos, beside their original recordings.

    LSE-D and LSE-C are those of the published evaluation and need the user's `syncnet_v2.model`; other
    figures need no weights, or are skipped without them. Figures of different tools cannot be compared, so
    pass `truth` to measure the original recordings with the same one.

    Args:
        generated: Videos, folders of videos, or `Pair` objects, one or several.
        truth: Original recordings: a video, or a folder with videos of the same names.
        silent: The same videos generated with silent audio, to measure how much of the motion of the mouth
            does not come from the audio.
        reports: Reports of the dubs: a file, or a folder with NAME.json or report.jsonl.
        filelist: List of Wav2Lip's evaluation, such as lrs2.txt; `generated` is then the folder of its
            results.
        data_root: Folder of the videos of `filelist`.
        progress: Called with the number of videos done and the total.
        frame_progress: Called with the number of frames of the current video done, 25 per second, and their
            expected total.
        options: Options of the evaluation. Default: `EvaluateOptions()`.
        **values: Options by name, such as `metrics=("expert", "picture")`. They override `options`.

    Returns:
        The report, with the worst videos first. A video that cannot be evaluated is listed in `failed`.

    Raises:
        UsageError: A path does not exist, or an option is unknown or out of range.
        CheckpointError: Weights named by an option cannot be used.
        DeviceError: The device does not exist.

    Example:
        >>> import wav2lip_npu
        >>> report = wav2lip_npu.evaluate("dubbed.mp4", truth="talk.mp4", metrics=("expert", "picture"))
        >>> report.figures["ssim_mouth"].generated

    """
    options = with_values(expect(options, EvaluateOptions), values)
    pairs, missing = _pairs(generated, truth, silent, reports, filelist, data_root)
    started = perf_counter()
    judges = load_judges(options)
    videos: list[VideoEvaluation] = []
    failed: dict[str, str] = {}
    for number, pair in enumerate(pairs):
        if progress is not None:
            progress(number, len(pairs))
        try:
            videos.append(evaluate_video(pair, judges, options, frame_progress))
        except Wav2LipError as error:
            log.warning("%s is skipped: %s", pair.generated, error)
            failed[pair.generated] = str(error)
    if progress is not None:
        progress(len(pairs), len(pairs))
    figures = mean_figures(videos)
    fid, remark = fid_figure(judges)
    if fid is not None:
        figures["fid"] = fid
    elif judges.fid is not None:
        judges.skipped["fid"] = "no two faces in frames of the same size as in an original: pass --truth"
    if remark is not None:
        log.warning("%s", remark)
    return EvaluationReport(
        videos=sorted(videos, key=lambda video: video.score),
        failed=failed,
        missing=missing,
        judges=judges.names,
        figures=figures,
        skipped=_skipped(judges, videos),
        seconds=perf_counter() - started,
    )


def _pairs(
    generated: Pair | PathLike | Iterable[Pair | PathLike],
    truth: PathLike | None,
    silent: PathLike | None,
    reports: PathLike | None,
    filelist: PathLike | None,
    data_root: PathLike | None,
) -> tuple[list[Pair], list[str]]:
    if filelist is None:
        if data_root is not None:
            raise UsageError("--data_root is for --filelist. Pass the original recordings as --truth.")
        return pair_videos(generated, truth, silent, reports), []
    if data_root is None or not isinstance(generated, (str, os.PathLike)):
        raise UsageError("--filelist needs --data_root and one folder of generated videos. Pass both.")
    if truth is not None or silent is not None:
        raise UsageError("--filelist names the original recordings. Remove --truth and --silent.")
    return read_original_list(filelist, data_root, generated)


def _skipped(judges: Judges, videos: list[VideoEvaluation]) -> dict[str, str]:
    """Return the groups that no video has figures of, with the reason."""
    skipped = dict(judges.skipped)
    for group in {group for video in videos for group in video.skipped}:
        reasons = [video.skipped.get(group) for video in videos]
        if all(reasons):
            skipped.setdefault(group, str(reasons[0]))
    return skipped
