"""Wav2Lip lip-sync on Ascend NPUs, CUDA GPUs and CPUs.

    import wav2lip_npu

    report = wav2lip_npu.dub("talk.mp4", "speech.wav", "out.mp4")

Names are imported when they are first used, so that `import wav2lip_npu` does not import torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wav2lip_npu.batch.face_cache import FaceCache as FaceCache
    from wav2lip_npu.batch.jobs import Job as Job
    from wav2lip_npu.batch.options import BatchOptions as BatchOptions
    from wav2lip_npu.batch.progress import JobCount as JobCount
    from wav2lip_npu.batch.progress import JobProgress as JobProgress
    from wav2lip_npu.batch.results import JobResult as JobResult
    from wav2lip_npu.batch.run import run_batch as run_batch
    from wav2lip_npu.batch.runner import run_jobs as run_jobs
    from wav2lip_npu.data.augmentation import Augmentation as Augmentation
    from wav2lip_npu.dubbing.dialogue import Speaker as Speaker
    from wav2lip_npu.dubbing.dialogue import Turn as Turn
    from wav2lip_npu.dubbing.enhance import EnhanceOptions as EnhanceOptions
    from wav2lip_npu.dubbing.enhance import Enhancer as Enhancer
    from wav2lip_npu.dubbing.frames import DubbedImage as DubbedImage
    from wav2lip_npu.dubbing.frames import dub_frames as dub_frames
    from wav2lip_npu.dubbing.inference import Models as Models
    from wav2lip_npu.dubbing.inference import load_models as load_models
    from wav2lip_npu.dubbing.options import DubOptions as DubOptions
    from wav2lip_npu.dubbing.outputs import Output as Output
    from wav2lip_npu.dubbing.pipeline import dub as dub
    from wav2lip_npu.dubbing.pipeline import dub_many as dub_many
    from wav2lip_npu.dubbing.report import CheckResult as CheckResult
    from wav2lip_npu.dubbing.report import DubReport as DubReport
    from wav2lip_npu.dubbing.report import SpeakerReport as SpeakerReport
    from wav2lip_npu.dubbing.speakers import dub_speakers as dub_speakers
    from wav2lip_npu.errors import BusyError as BusyError
    from wav2lip_npu.errors import CheckpointError as CheckpointError
    from wav2lip_npu.errors import CheckpointMismatchError as CheckpointMismatchError
    from wav2lip_npu.errors import DataError as DataError
    from wav2lip_npu.errors import DeviceError as DeviceError
    from wav2lip_npu.errors import ExportError as ExportError
    from wav2lip_npu.errors import FaceError as FaceError
    from wav2lip_npu.errors import MediaError as MediaError
    from wav2lip_npu.errors import NoAudioError as NoAudioError
    from wav2lip_npu.errors import OutputError as OutputError
    from wav2lip_npu.errors import TrainingError as TrainingError
    from wav2lip_npu.errors import UsageError as UsageError
    from wav2lip_npu.errors import Wav2LipError as Wav2LipError
    from wav2lip_npu.evaluation.inputs import Pair as Pair
    from wav2lip_npu.evaluation.options import EvaluateOptions as EvaluateOptions
    from wav2lip_npu.evaluation.report import EvaluationReport as EvaluationReport
    from wav2lip_npu.evaluation.report import VideoEvaluation as VideoEvaluation
    from wav2lip_npu.evaluation.run import evaluate as evaluate
    from wav2lip_npu.export.onnx_export import ExportedFile as ExportedFile
    from wav2lip_npu.export.onnx_export import export_onnx as export_onnx
    from wav2lip_npu.faces.find_faces import FaceOptions as FaceOptions
    from wav2lip_npu.live.frame import LiveFrame as LiveFrame
    from wav2lip_npu.live.options import StreamOptions as StreamOptions
    from wav2lip_npu.live.session import StreamStats as StreamStats
    from wav2lip_npu.live.stream import FaceStream as FaceStream
    from wav2lip_npu.media.geometry import Geometry as Geometry
    from wav2lip_npu.media.video_writer import EncodeOptions as EncodeOptions
    from wav2lip_npu.preprocessing.clip_options import ClipOptions as ClipOptions
    from wav2lip_npu.preprocessing.report import PreprocessSummary as PreprocessSummary
    from wav2lip_npu.preprocessing.report import VideoResult as VideoResult
    from wav2lip_npu.preprocessing.run import PreprocessOptions as PreprocessOptions
    from wav2lip_npu.preprocessing.run import preprocess as preprocess
    from wav2lip_npu.speaking.film import SpokenSpan as SpokenSpan
    from wav2lip_npu.training.generator import train_generator as train_generator
    from wav2lip_npu.training.loop import TrainResult as TrainResult
    from wav2lip_npu.training.loss_options import GeneratorOptions as GeneratorOptions
    from wav2lip_npu.training.options import SyncNetTrainOptions as SyncNetTrainOptions
    from wav2lip_npu.training.options import TrainOptions as TrainOptions
    from wav2lip_npu.training.syncnet import train_syncnet as train_syncnet

# With torch_npu installed but CANN absent, PyTorch's autoload would make `import torch` fail. `devices/`
# loads the plugin when an NPU is requested.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

__version__ = "0.6.0"

_MODULES = {
    "dubbing.pipeline": ("dub", "dub_many"),
    "dubbing.frames": ("dub_frames", "DubbedImage"),
    "dubbing.speakers": ("dub_speakers",),
    "dubbing.dialogue": ("Speaker", "Turn"),
    "dubbing.options": ("DubOptions",),
    "dubbing.enhance": ("EnhanceOptions", "Enhancer"),
    "dubbing.inference": ("load_models", "Models"),
    "dubbing.outputs": ("Output",),
    "dubbing.report": ("DubReport", "CheckResult", "SpeakerReport"),
    "faces.find_faces": ("FaceOptions",),
    "media.geometry": ("Geometry",),
    "media.video_writer": ("EncodeOptions",),
    "batch.run": ("run_batch",),
    "batch.runner": ("run_jobs",),
    "batch.options": ("BatchOptions",),
    "batch.jobs": ("Job",),
    "batch.results": ("JobResult",),
    "batch.progress": (
        "JobCount",
        "JobProgress",
    ),
    "batch.face_cache": ("FaceCache",),
    "live.stream": ("FaceStream",),
    "live.options": ("StreamOptions",),
    "live.frame": ("LiveFrame",),
    "live.session": ("StreamStats",),
    "preprocessing.run": ("preprocess", "PreprocessOptions"),
    "preprocessing.clip_options": ("ClipOptions",),
    "preprocessing.report": ("PreprocessSummary", "VideoResult"),
    "speaking.film": ("SpokenSpan",),
    "training.syncnet": ("train_syncnet",),
    "training.generator": ("train_generator",),
    "training.options": ("SyncNetTrainOptions", "TrainOptions"),
    "training.loss_options": ("GeneratorOptions",),
    "training.loop": ("TrainResult",),
    "data.augmentation": ("Augmentation",),
    "export.onnx_export": ("export_onnx", "ExportedFile"),
    "evaluation.run": ("evaluate",),
    "evaluation.options": ("EvaluateOptions",),
    "evaluation.inputs": ("Pair",),
    "evaluation.report": ("EvaluationReport", "VideoEvaluation"),
    "errors": (
        "Wav2LipError",
        "MediaError",
        "NoAudioError",
        "OutputError",
        "FaceError",
        "CheckpointError",
        "CheckpointMismatchError",
        "DataError",
        "TrainingError",
        "DeviceError",
        "UsageError",
        "ExportError",
        "BusyError",
    ),
}
_OWNERS = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_OWNERS, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_OWNERS[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
