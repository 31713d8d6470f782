"""The `dub` command: flags, log lines and the progress bar."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from wav2lip_npu import __version__
from wav2lip_npu.devices.compilation import CompileOption
from wav2lip_npu.devices.device import describe
from wav2lip_npu.devices.number_formats import PrecisionOption
from wav2lip_npu.dubbing.dialogue import Dialogue, Listeners
from wav2lip_npu.dubbing.dialogue_files import dialogue_of, heard
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.selection import count_text
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.media.video_writer import check_format, video_output
from wav2lip_npu.models.bundled import ABOUT, STARTER, weights_inputs
from wav2lip_npu.models.plan_choice import AudioRefineOption
from wav2lip_npu.options import group, resolved
from wav2lip_npu.parallel.thread_counts import limit_malloc_arenas
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models
    from wav2lip_npu.dubbing.report import CheckResult, SpeakerReport
    from wav2lip_npu.speaking.film import SpokenSpan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DubCommand:
    """Lip-sync a face video or photo to an audio file.

    wav2lip-npu dub --face talk.mp4 --audio speech.wav --outfile out.mp4

    wav2lip-npu dub --face talk.mp4 --speaker anna=anna.wav@left --speaker ben=ben.wav@right
    """

    checkpoint_path: str = STARTER
    """Generator: .pth, .pt, .safetensors, an exported .onnx or .om, or starter, the bundled weights."""
    face: str
    """Video or image with the face."""
    audio: str | None = None
    """Audio file, or a video with audio. With --speaker, --turns or --rttm: the mixed audio."""
    voice: str | None = None
    """Audio that drives the mouth instead of --audio, such as a voice without music. None: --audio."""
    speaker: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Repeatable: NAME=AUDIO@FACE, one of several people who speak. FACE is left, right, X,Y@SECONDS, a
    photo, or auto: whoever speaks in the film at the time. See docs/speakers.md."""
    turns: str | None = None
    """Table of who speaks when, .csv or .json, with the columns who,start,end,audio."""
    rttm: str | None = None
    """RTTM file of a diarisation: who speaks when in --audio."""
    listeners: Listeners = "filmed"
    """Mouths of speakers who do not speak: filmed, or still."""
    outfile: str = "results/result_voice.mp4"
    """Video to write: .mp4, .mov, .mkv or .avi."""
    dub: Annotated[DubOptions, group("dubbing")] = field(default_factory=DubOptions)
    device: str = "auto"
    """cpu, cuda, cuda:1, npu, npu:1, or auto: the first available of npu, cuda, cpu."""
    precision: PrecisionOption = "auto"
    """Number format of the generator. auto: bf16 on a CPU with AMX or AVX-512 BF16, else fp32. fp32_strict
    turns off an accelerator's reduced precision for fp32."""
    compile: CompileOption = "off"
    """on: compile the generator for the device, which takes some ten seconds at the first start. An NPU needs
    torchair, a CPU a C++ compiler. On a CPU it is slower than off."""
    engine: Literal["auto", "torch", "onnx", "om"] = "auto"
    """Runtime of the generator. auto: chosen by the file type."""
    face_size: int | None = None
    """Size of the faces in pixels, for weights that fit several: 192 or 384. None: as published."""
    audio_refine: AudioRefineOption = "auto"
    """Whether a generator uses its layers audio_refine; auto: measured in the weights, see docs/hd.md."""
    report: str | None = None
    """JSON file for the report: frames, spans without a face, and where the time went in each stage."""

    def run(self) -> None:
        """Load the models and dub."""
        log.info("wav2lip-npu %s", __version__)
        limit_malloc_arenas()
        dialogue = self._dialogue()
        self._check_outputs(dialogue)
        from tqdm import tqdm

        from wav2lip_npu.dubbing.pipeline import dub
        from wav2lip_npu.dubbing.speakers import dub_dialogue

        with tqdm(unit="frame", disable=None, delay=1e-6) as bar:  # hidden until the first frame

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            if dialogue is None:
                assert self.audio is not None
                report = dub(
                    self.face,
                    self.audio,
                    self.outfile,
                    voice=self.voice,
                    models=self._load_models,
                    options=self.dub,
                    progress=show,
                )
            else:
                output = Output(heard(dialogue), self.outfile, progress=show)
                report = dub_dialogue(self.face, output, dialogue, models=self._load_models, options=self.dub)
        for speaker in report.speakers or ():
            log.info("%s", _speaker_text(speaker, report.frames))
        if report.spoken is not None:
            log.info("%s", spoken_text(report.spoken))
        if report.unchanged_spans:
            unchanged = report.frames - report.dubbed_frames
            counts = count_text(report.unchanged_spans)
            log.info("%d of %d frames stay as filmed: %s", unchanged, report.frames, counts)
        if report.check is not None:
            log.info("%s", _check_text(report.check))
        if self.report is not None:
            report.write(self.report)
        log.info(
            "%d frames in %.1f s (%.1f per second, slowest stage: %s): %s",
            report.frames,
            report.seconds,
            report.frames_per_second,
            report.bound_by,
            self.outfile,
        )

    def _dialogue(self) -> Dialogue | None:
        """Return who speaks when; None for a single speaker. Raises `UsageError`."""
        if not self.speaker and self.turns is None and self.rttm is None:
            if self.audio is None:
                raise UsageError("--audio is missing. Pass an audio file, or --speaker NAME=AUDIO@FACE.")
            if self.listeners != "filmed":
                raise UsageError("--listeners is for several speakers. Pass --speaker, --turns or --rttm.")
            return None
        if self.voice is not None:
            raise UsageError("--voice is for one speaker. Pass --speaker NAME=VOICE, and --audio.")
        return dialogue_of(self.speaker, self.audio, self.turns, self.rttm, self.listeners, self.dub)

    def _check_outputs(self, dialogue: Dialogue | None) -> None:
        """Check all output files. Raises `OutputError` and `MediaError`."""
        check_format(self.outfile)
        outputs = [video_output(self.outfile)]
        if self.report is not None:
            outputs.append(OutputPath("--report", self.report))
        inputs = [InputPath("--face", self.face), *detector_inputs()]
        for name in ("audio", "turns", "rttm"):
            if (path := getattr(self, name)) is not None:
                inputs.append(InputPath(f"--{name}", path))
        inputs += [] if dialogue is None else dialogue.files
        if self.voice is not None:
            inputs.append(InputPath("--voice", self.voice))
        inputs += [InputPath(f"--{name}", path) for name, path in self.dub.network_files.items()]
        check_outputs(outputs, [*inputs, *weights_inputs("--checkpoint_path", self.checkpoint_path)])

    def _load_models(self) -> Models:
        """Load the models that the flags select, and log their names."""
        from wav2lip_npu.dubbing.inference import load_models

        models = load_models(
            self.checkpoint_path,
            detector=self.dub.faces.detector,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            engine=self.engine,
            face_size=self.face_size,
            audio_refine=self.audio_refine,
        )
        if self.checkpoint_path == STARTER:
            log.info("weights: %s (sha256 %s), %s", STARTER, models.digest, ABOUT)
        name = describe(models.device)
        log.info("device %s, engine %s, detector %s", name, models.engine, models.detector.name)
        if self.dub.mel_shift is None and models.mel_shift:
            log.info("mel_shift=%g, the value that %s was trained with", models.mel_shift, models.weights)
        log.info("%s", resolved(self))
        return models


def _speaker_text(speaker: SpeakerReport, frames: int) -> str:
    """Return a line of the log about a speaker."""
    seconds = sum(end - start for start, end in speaker.turns)
    spoken = f"{speaker.name} speaks for {seconds:.1f} s"
    if speaker.face is None:
        return f"{spoken}, and is only heard"
    return f"{spoken}, {speaker.dubbed_frames} of {frames} frames dubbed"


def spoken_text(spans: Sequence[SpokenSpan]) -> str:
    """Return the result of the search for who speaks as a line of the log."""
    refused = [span for span in spans if span.point is None]
    chosen = len(spans) - len(refused)
    text = f"{chosen} of {len(spans)} times of speech have a face that speaks"
    if not refused:
        return text
    seconds = sum(span.end - span.start for span in refused)
    first = min(refused, key=lambda span: span.start)
    return f"{text}; {seconds:.1f} s stay as filmed, first {first.start:g}-{first.end:g} s"


def _check_text(check: CheckResult) -> str:
    """Return the result of `--check` as a line of the log."""
    state = "suspect" if check.suspect else "checked"
    if check.confidence is None:
        return f"{state}: too few dubbed frames to judge the lip-sync"
    return (
        f"{state}: confidence {check.confidence:.3f}, offset {check.offset}, tail {check.tail:.2f} s, "
        "by the bundled SyncNet"
    )
