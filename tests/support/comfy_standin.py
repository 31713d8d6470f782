"""A stand-in for the parts of ComfyUI that the node pack uses. Its shape follows ComfyUI 0.3.48 to 0.22.0.

It checks what ComfyUI checks when it loads a node (unique ids, an `execute` that accepts the inputs), and has no
server, no cache and no graph.
"""

from __future__ import annotations

import io as streams
import os
import sys
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import torch

NAMES = ("comfy", "comfy.model_management", "comfy.utils", "comfy_api", "comfy_api.latest", "folder_paths")


class Input:
    widgets: tuple[str, ...] = ()

    def __init__(
        self, name: str, display_name=None, optional=False, tooltip=None, lazy=None, extra_dict=None, **widget
    ):
        unknown = set(widget) - set(self.widgets)
        assert not unknown, f"{type(self).__qualname__} has no {unknown}"
        self.id, self.optional, self.tooltip, self.widget = name, optional, tooltip, widget


class Output:
    def __init__(self, name=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = name, display_name, tooltip


def custom(io_type: str, *widgets: str) -> type:
    """Return a type of inputs and outputs, as `io.Custom` does."""
    accepted = (*widgets, "default", "socketless") if widgets else ()
    parts = {
        "Input": type("Input", (Input,), {"widgets": accepted, "io_type": io_type}),
        "Output": type("Output", (Output,), {"io_type": io_type}),
    }
    return type(io_type, (), {"io_type": io_type, **parts})


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    is_output_node: bool = False

    def validate(self) -> None:
        ids = [item.id for item in self.inputs]
        assert len(ids) == len(set(ids)), ids


class NodeOutput:
    def __init__(self, *args: Any, ui=None, expand=None, block_execution=None):
        self.args = args


class ComfyNode(ABC):
    """Nodes are classes: ComfyUI calls `execute` of a copy of the class, with inputs by their ids."""

    @classmethod
    @abstractmethod
    def define_schema(cls) -> Schema: ...

    @classmethod
    @abstractmethod
    def execute(cls, **inputs: Any) -> NodeOutput: ...

    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802
        schema = cls.define_schema()
        schema.validate()
        return schema

    @classmethod
    def run(cls, **given: Any) -> tuple[Any, ...]:
        """Execute the node as ComfyUI does: with the defaults of its widgets; missing optional inputs are absent."""
        inputs = {}
        for item in cls.GET_SCHEMA().inputs:
            if item.id in given:
                inputs[item.id] = given.pop(item.id)
            elif "default" in item.widget:
                inputs[item.id] = item.widget["default"]
            else:
                assert item.optional, item.id
        assert not given, f"{cls.__name__} has no input {given}"
        output = cls.execute(**inputs)
        assert isinstance(output, NodeOutput) and len(output.args) == len(cls.GET_SCHEMA().outputs)
        return output.args


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]: ...


class VideoFromFile:
    """A VIDEO: a path or a buffer, which may be trimmed."""

    def __init__(self, file: str | streams.BytesIO, *, start_time: float = 0, duration: float = 0):
        self._file, self._start, self._duration = file, start_time, duration

    def get_stream_source(self) -> str | streams.BytesIO:
        if isinstance(self._file, streams.BytesIO):
            self._file.seek(0)
        return self._file

    def get_dimensions(self) -> tuple[int, int]:
        with av.open(self.get_stream_source()) as container:
            stream = container.streams.video[0]
            return stream.width, stream.height

    def get_duration(self) -> float:
        with av.open(self.get_stream_source()) as container:
            whole = float(container.duration / av.time_base)
        return min(self._duration or whole, whole - self._start)

    def save_to(self, path: str, **options: Any) -> None:
        """Encode the trimmed frames, without sound."""
        with av.open(self.get_stream_source()) as container, av.open(path, "w") as out:
            source = container.streams.video[0]
            stream = out.add_stream("libx264", rate=Fraction(source.average_rate), options={"crf": "0"})
            stream.width, stream.height, stream.pix_fmt = source.width, source.height, "yuv420p"
            end = self._start + (self._duration or float("inf"))
            for frame in container.decode(source):
                if self._start <= frame.time < end:
                    out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(), "yuv420p")))
            out.mux(stream.encode())


class InterruptProcessingException(Exception):  # noqa: N818 its name in ComfyUI
    pass


class ProgressBar:
    bars: ClassVar[list[ProgressBar]] = []

    def __init__(self, total: int, node_id: str | None = None):
        self.total, self.current = total, 0
        ProgressBar.bars.append(self)

    def update_absolute(self, value: int, total: int | None = None, preview=None) -> None:
        self.current, self.total = value, total or self.total


class ComfyUI:
    """The state of the stand-in: folders, device, and when the user interrupts."""

    def __init__(self, folder: Path):
        self.folder, self.device = folder, torch.device("cpu")
        self.frames_until_interrupt: int | None = None
        self.temp = folder / "temp"

    def install(self, monkeypatch) -> None:
        """Put the modules where the node pack imports them."""
        modules = {name: types.ModuleType(name) for name in NAMES}
        api, management = modules["comfy_api.latest"], modules["comfy.model_management"]
        api.ComfyExtension = ComfyExtension
        api.InputImpl = types.SimpleNamespace(VideoFromFile=VideoFromFile)
        number = ("min", "max", "step", "control_after_generate", "display_mode")
        api.io = types.SimpleNamespace(
            ComfyNode=ComfyNode,
            Schema=Schema,
            NodeOutput=NodeOutput,
            Input=Input,
            Custom=custom,
            Combo=custom("COMBO", "options", "control_after_generate", "upload"),
            String=custom("STRING", "multiline", "placeholder"),
            Int=custom("INT", *number),
            Float=custom("FLOAT", *number, "round"),
            Image=custom("IMAGE"),
            Mask=custom("MASK"),
            Audio=custom("AUDIO"),
            Video=custom("VIDEO"),
        )
        management.get_torch_device = lambda: self.device
        management.InterruptProcessingException = InterruptProcessingException
        management.throw_exception_if_processing_interrupted = self._check
        modules["comfy.utils"].ProgressBar = ProgressBar
        modules["comfy"].model_management, modules["comfy"].utils = management, modules["comfy.utils"]
        paths = modules["folder_paths"]
        paths.models_dir, paths.folder_names_and_paths = str(self.folder / "models"), {}
        paths.add_model_folder_path = self._add_folder
        paths.get_filename_list = self._names
        paths.get_full_path_or_raise = lambda name, file: str(self.folder / "models" / name / file)
        paths.get_temp_directory = lambda: str(self.temp)
        self.paths = paths
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def _check(self) -> None:
        if self.frames_until_interrupt is not None:
            self.frames_until_interrupt -= 1
            if self.frames_until_interrupt < 0:
                raise InterruptProcessingException

    def _add_folder(self, name: str, folder: str, is_default: bool = False) -> None:
        self.paths.folder_names_and_paths.setdefault(name, ([], set()))[0].append(folder)

    def _names(self, name: str) -> list[str]:
        folders, suffixes = self.paths.folder_names_and_paths[name]
        return sorted(
            file for folder in folders for file in os.listdir(folder) if Path(file).suffix in suffixes
        )
