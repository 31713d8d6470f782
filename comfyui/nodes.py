"""The nodes: load weights, dub a video, dub frames, score the lip-sync of a video."""

import logging
import os

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import InputImpl, io

import wav2lip_npu
from wav2lip_npu import UsageError
from wav2lip_npu.storage.hashing import sha256_of

from .media import RgbFrames, fitted, sound_file, temp_path, video_file

FOLDER, STARTER = "wav2lip", "starter"
WEIGHTS = {".pth", ".pt", ".safetensors", ".onnx", ".om"}
DEVICES = ("cpu", "cuda", "npu")
CATEGORY = "video/lip sync"
Wav2LipModel = io.Custom("WAV2LIP_MODEL")


def register_models() -> None:
    """Make models/wav2lip a folder of models, beside folders of extra_model_paths.yaml."""
    folder = os.path.join(folder_paths.models_dir, FOLDER)
    os.makedirs(folder, exist_ok=True)
    folder_paths.add_model_folder_path(FOLDER, folder)
    folders, suffixes = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = folders, set(suffixes) | WEIGHTS


def device_name(choice: str = "auto") -> str:
    """Return the device that ComfyUI uses, or the CPU if it is none of those that Wav2Lip runs on."""
    device = comfy.model_management.get_torch_device() if choice == "auto" else torch.device(choice)
    if getattr(device, "type", None) in DEVICES:
        return str(device)
    logging.warning("Wav2Lip does not run on %s and uses the CPU.", device)
    return "cpu"


class Progress:
    """Shows progress in ComfyUI, and stops the dub when the user interrupts it."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)

    def __call__(self, done: int, total: int) -> None:
        """Show the number of frames done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total)


def dub_inputs() -> list[io.Input]:
    """Return the inputs that both dub nodes share."""
    return [
        io.Combo.Input(
            "blend",
            options=["soft", "hard"],
            default="soft",
            tooltip="soft: the lower face with a feathered edge. hard: the whole box, like the original.",
        ),
        io.Combo.Input(
            "extend",
            options=["loop", "pingpong", "hold", "cut_off", "silence"],
            default="loop",
            tooltip="If the sound is longer than the video: start over, play back and forth, hold the last "
            "frame, end with the video, or loop and show a longer video to its end.",
        ),
        io.Combo.Input(
            "rest", options=["auto", "off"], default="auto", tooltip="auto: close the mouth in pauses."
        ),
        io.Combo.Input(
            "occlusion",
            options=["auto", "off"],
            default="auto",
            tooltip="auto: keep recognised hands and microphones in front of the mouth.",
        ),
        io.String.Input(
            "face_select",
            default="largest",
            tooltip="Face to dub if there are several: largest, left, right, center, or X,Y, a point on it.",
        ),
        io.String.Input(
            "pads",
            default="0 10 0 0",
            tooltip="Pixels added to the box of the face: top bottom left right.",
        ),
    ]


def dub_options(pads: str, **options) -> dict:
    """Return the options of `dub`."""
    try:
        top, bottom, left, right = (int(word) for word in pads.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"pads {pads!r} is not four numbers. Pass top bottom left right.") from None
    return {**options, "pads": (top, bottom, left, right)}


def voice_input() -> io.Input:
    """Return the optional input of both dub nodes, which is the last one."""
    return io.Audio.Input(
        "voice", optional=True, tooltip="Sound that drives the mouth instead, such as a voice without music."
    )


class Load(io.ComfyNode):
    """Load the networks of Wav2Lip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs."""
        return io.Schema(
            node_id="Wav2LipNPU_Load",
            display_name="Wav2Lip Load",
            category=CATEGORY,
            description="Load a generator of Wav2Lip: weights in models/wav2lip, or the small bundled one.",
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=[STARTER, *folder_paths.get_filename_list(FOLDER)],
                    default=STARTER,
                    tooltip="starter is small and bundled; other weights lie in models/wav2lip.",
                ),
                io.Combo.Input(
                    "device",
                    options=["auto", "cpu"],
                    default="auto",
                    tooltip="auto: the device that ComfyUI uses.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["fp32", "bf16", "fp16", "fp32_strict"],
                    default="fp32",
                    tooltip="Number format of the generator.",
                ),
            ],
            outputs=[Wav2LipModel.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, weights: str, device: str, precision: str) -> io.NodeOutput:
        """Return the loaded networks."""
        path = cls._path(weights)
        models = wav2lip_npu.load_models(path, device=device_name(device), precision=precision)
        return io.NodeOutput(models)

    @classmethod
    def fingerprint_inputs(cls, weights: str, device: str, precision: str) -> str:
        """Return the content of the weights, so that a file that was replaced is loaded again."""
        path = cls._path(weights)
        content = wav2lip_npu.__version__ if path == STARTER else sha256_of(path)
        return f"{content} {device_name(device)} {precision}"

    @staticmethod
    def _path(weights: str) -> str:
        return STARTER if weights == STARTER else folder_paths.get_full_path_or_raise(FOLDER, weights)


class DubVideo(io.ComfyNode):
    """Dub a video as a stream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs."""
        return io.Schema(
            node_id="Wav2LipNPU_DubVideo",
            display_name="Wav2Lip Dub Video",
            category=CATEGORY,
            description="Lip-sync a video of any length to a sound. The frames are never in memory together.",
            inputs=[
                Wav2LipModel.Input("model"),
                io.Video.Input("video"),
                *dub_inputs(),
                io.Int.Input("crf", default=18, min=0, max=51, tooltip="Quality of H.264, lower is better."),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Sound of the output. Without it, that of the video."
                ),
                voice_input(),
            ],
            outputs=[io.Video.Output(display_name="video")],
        )

    @classmethod
    def execute(cls, model, video, audio=None, voice=None, **options) -> io.NodeOutput:
        """Return the dubbed video, a file among ComfyUI's temporary files."""
        options = dub_options(**options)
        out = temp_path(".mp4")
        try:
            with video_file(video) as face, sound_file(audio) as sound, sound_file(voice) as drive:
                wav2lip_npu.dub(
                    face, sound or face, out, voice=drive, models=model, progress=Progress(), **options
                )
        except BaseException:
            os.unlink(out)
            raise
        return io.NodeOutput(InputImpl.VideoFromFile(out))


class DubFrames(io.ComfyNode):
    """Dub images in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs."""
        return io.Schema(
            node_id="Wav2LipNPU_DubFrames",
            display_name="Wav2Lip Dub Frames",
            category=CATEGORY,
            description="Lip-sync images, or one photo, to a sound. All are in memory: for long videos, use "
            "Wav2Lip Dub Video.",
            inputs=[
                Wav2LipModel.Input("model"),
                io.Image.Input("images"),
                io.Audio.Input("audio"),
                io.Float.Input("fps", default=25.0, min=1.0, max=240.0, step=0.001, tooltip="Of the images."),
                *dub_inputs(),
                voice_input(),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Audio.Output(display_name="audio"),
                io.Mask.Output(display_name="mouth"),
            ],
        )

    @classmethod
    def execute(cls, model, images, audio, fps: float, voice=None, **options) -> io.NodeOutput:
        """Return the images, the sound of their length, and where the mouth was generated."""
        options = dub_options(**options)
        frames, parts = RgbFrames(images), []
        with sound_file(audio) as sound, sound_file(voice) as drive:
            for frame in wav2lip_npu.dub_frames(
                frames, sound, fps=fps, voice=drive, models=model, progress=Progress(), **options
            ):
                rows, columns = (_extent(frame.mask.any(axis=axis)) for axis in (1, 0))
                changed, mask = frame.image[rows, columns], frame.mask[rows, columns]
                parts.append((frame.source, rows, columns, changed.copy(), mask.copy()))
        dubbed = torch.empty((len(parts), *frames.images.shape[1:]))
        masks = torch.zeros(dubbed.shape[:3])
        for number, (source, rows, columns, changed, mask) in enumerate(parts):
            dubbed[number] = frames.images[source]
            inside, opacity = dubbed[number, rows, columns], torch.from_numpy(mask)
            inside[opacity > 0] = torch.from_numpy(changed).float()[opacity > 0] / 255
            masks[number, rows, columns] = opacity
        if options["extend"] in ("cut_off", "silence"):
            audio = fitted(audio, round(len(parts) / fps * int(audio["sample_rate"])))
        return io.NodeOutput(dubbed, audio, masks)


def _extent(used) -> slice:
    """Return the slice from the first to the last true element."""
    numbers = used.nonzero()[0]
    return slice(int(numbers[0]), int(numbers[-1]) + 1) if len(numbers) else slice(0)


class SyncScore(io.ComfyNode):
    """Score the lip-sync of a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs."""
        return io.Schema(
            node_id="Wav2LipNPU_SyncScore",
            display_name="Wav2Lip Sync Score",
            category=CATEGORY,
            description="Measure how well the lips of a video match its sound, with the bundled SyncNet.",
            inputs=[
                io.Video.Input("video"),
                io.String.Input("face_select", default="largest", tooltip="Face to judge, as for dubbing."),
            ],
            outputs=[
                io.Float.Output(
                    display_name="offset", tooltip="Frames of 1/25 s by which the sound is early."
                ),
                io.Float.Output(display_name="confidence", tooltip="0 to 1, higher is better."),
            ],
        )

    @classmethod
    def execute(cls, video, face_select: str) -> io.NodeOutput:
        """Return offset and confidence."""
        with video_file(video) as path:
            report = wav2lip_npu.evaluate(
                path,
                metrics=("expert",),
                face_select=face_select,
                device=device_name(),
                frame_progress=Progress(),
            )
        reason = next(iter([*report.failed.values(), *report.skipped.values()]), None)
        if reason is not None:
            raise wav2lip_npu.MediaError(f"the video has no sync score: {reason}")
        values = [report.figures[f"expert_{name}"].generated for name in ("offset", "confidence")]
        return io.NodeOutput(*map(float, values))
