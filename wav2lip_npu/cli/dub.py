"""The `dub` command: its flags, and what it says while it works."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from wav2lip_npu import __version__, device
from wav2lip_npu.dubbing.pipeline import DubOptions, check_files, dub
from wav2lip_npu.media.video_writer import check_writable
from wav2lip_npu.models.bundled import ABOUT, STARTER
from wav2lip_npu.options import resolved

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DubCommand:
    """Put speech into the mouth of a face video or photo.

    wav2lip-npu dub --face talk.mp4 --audio speech.wav --outfile out.mp4
    """

    checkpoint_path: str = STARTER
    """Weights of a Wav2Lip generator: .pth, .pt, .safetensors, or an exported .onnx or .om.
    (default: those of the package)"""
    face: str
    """Video or image with the face."""
    audio: str
    """Sound, or a video with sound: any format."""
    outfile: str = "results/result_voice.mp4"
    """Video to write: .mp4, .mov, .mkv or .avi."""
    dub: DubOptions = field(default_factory=DubOptions)
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]."""
    precision: str = "fp32"
    """Numbers inside the generator: fp32, bf16, fp16, or fp32_strict without an accelerator's shortcuts."""
    engine: str = "auto"
    """What runs the generator: torch, onnx or om. (default: by the kind of the file)"""
    report: str | None = None
    """Write what was done, and the seconds it took, to this JSON file."""

    def run(self) -> None:
        """Load the models, dub, and say where the result is."""
        log.info("wav2lip-npu %s", __version__)
        self.dub.check()
        face = check_files(self.face, self.audio, self.outfile)
        if self.report is not None:
            check_writable(self.report)
        from tqdm import tqdm

        from wav2lip_npu.dubbing.inference import load_models

        models = load_models(
            self.checkpoint_path,
            detector=self.dub.faces.detector,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
        )
        if self.checkpoint_path == STARTER:
            log.info("weights: %s (sha256 %s), %s", STARTER, models.digest, ABOUT)
        place, finder = device.describe(models.device), models.detector.name
        log.info("device %s, engine %s, detector %s", place, models.engine, finder)
        if self.dub.mel_shift is None and models.mel_shift:
            log.info("mel_shift=%g, as %s was trained", models.mel_shift, models.weights)
        log.info("%s", resolved(self))
        with tqdm(unit="frame", disable=None) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            report = dub(face, self.audio, self.outfile, models=models, options=self.dub, progress=show)
        if report.faceless_spans:
            missing = report.frames - report.dubbed_frames
            log.info("%d of %d frames have no face and were left unchanged", missing, report.frames)
        if self.report is not None:
            report.write(self.report)
        log.info(
            "%d frames in %.1f s (%.1f per second): %s",
            report.frames,
            report.seconds,
            report.frames_per_second,
            self.outfile,
        )
