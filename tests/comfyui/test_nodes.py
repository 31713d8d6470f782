"""The nodes of comfyui/ on a stand-in for ComfyUI; docs/comfyui.md says what was run in ComfyUI itself."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import re
import sys
import typing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

import wav2lip_npu
from support.comfy_standin import ComfyUI, InterruptProcessingException, ProgressBar, VideoFromFile
from support.faces import SquareDetector, face_frames
from support.talk import write_talk
from wav2lip_npu import DubOptions, UsageError
from wav2lip_npu.media.audio_reader import measure_audio, read_audio

PACK = Path(__file__).resolve().parents[2] / "comfyui"
FAST = {"occlusion": "off", "rest": "off"}


@pytest.fixture
def comfy(tmp_path, monkeypatch) -> ComfyUI:
    """ComfyUI with an empty folder."""
    comfy = ComfyUI(tmp_path / "ComfyUI")
    comfy.install(monkeypatch)
    return comfy


@pytest.fixture
def nodes(comfy, monkeypatch) -> SimpleNamespace:
    """The nodes by the names of their classes, loaded as ComfyUI loads them."""
    name = "custom_nodes_wav2lip"
    for loaded in [name, f"{name}.nodes", f"{name}.media"]:
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, pack)
    spec.loader.exec_module(pack)
    extension = asyncio.run(pack.comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return SimpleNamespace(**{node.__name__: node for node in classes}, pack=pack, all=classes)


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> wav2lip_npu.Models:
    models = wav2lip_npu.load_models(tiny_checkpoint, detector="hog", device="cpu")
    return replace(models, detector=SquareDetector())


def audio_of(seconds: float = 0.6, rate: int = 16_000, channels: int = 1) -> dict:
    time = torch.arange(round(seconds * rate)) / rate
    buzz = torch.sign(torch.sin(750 * time)) * 0.3
    return {"waveform": buzz.repeat(1, channels, 1), "sample_rate": rate}


def images_of(count: int, alpha: bool = False) -> torch.Tensor:
    """Return an IMAGE with values that 8 bits cannot hold."""
    frames = torch.from_numpy(np.stack([yuv.to_image()[..., ::-1] for yuv in face_frames(count)]))
    images = (frames.float() / 255 + 0.0007).clamp(0, 1)
    return torch.nn.functional.pad(images, (0, 1), value=1.0) if alpha else images


def test_schemas_have_the_choices_of_the_package(nodes):
    hints = typing.get_type_hints(DubOptions)
    default = DubOptions()
    for node in (nodes.DubVideo, nodes.DubFrames):
        widgets = {item.id: item.widget for item in node.GET_SCHEMA().inputs}
        for name in ("blend", "extend", "rest", "occlusion"):
            assert tuple(widgets[name]["options"]) == typing.get_args(hints[name])
            assert widgets[name]["default"] == getattr(default, name)
        assert widgets["pads"]["default"] == " ".join(map(str, default.faces.pads))
        assert widgets["face_select"]["default"] == default.faces.face_select
    assert widgets["fps"]["default"] == 25
    ids = [
        node.GET_SCHEMA().node_id for node in (nodes.Load, nodes.DubVideo, nodes.DubFrames, nodes.SyncScore)
    ]
    assert len(set(ids)) == 4 and all(item.startswith("Wav2LipNPU_") for item in ids)


def test_weights_are_those_of_the_models_folder(nodes, comfy, tiny_checkpoint):
    folder = comfy.folder / "models" / "wav2lip"
    (folder / "mine.pth").write_bytes(tiny_checkpoint.read_bytes())
    (folder / "notes.txt").write_text("")
    widgets = {item.id: item.widget for item in nodes.Load.GET_SCHEMA().inputs}
    assert widgets["weights"]["options"] == ["starter", "mine.pth"]
    (models,) = nodes.Load.run(weights="mine.pth")
    assert models.weights == folder / "mine.pth" and models.device.type == "cpu"
    fingerprint = nodes.Load.fingerprint_inputs("mine.pth", "auto", "fp32")
    assert nodes.Load.fingerprint_inputs("mine.pth", "auto", "fp32") == fingerprint
    assert nodes.Load.fingerprint_inputs("mine.pth", "auto", "bf16") != fingerprint
    assert nodes.Load.fingerprint_inputs("starter", "auto", "fp32") != fingerprint
    with (folder / "mine.pth").open("ab") as file:
        file.write(b"\0")
    assert nodes.Load.fingerprint_inputs("mine.pth", "auto", "fp32") != fingerprint


def test_device_follows_comfyui(nodes, comfy):
    for given, used in (("cuda:1", "cuda:1"), ("meta", "cpu"), ("cpu", "cpu")):
        comfy.device = torch.device(given)
        assert nodes.pack.nodes.device_name() == used
        assert nodes.pack.nodes.device_name("cpu") == "cpu"
    comfy.device = object()  # DirectML
    assert nodes.pack.nodes.device_name() == "cpu"


@pytest.mark.parametrize("buffer", [False, True])
def test_a_video_is_dubbed_as_the_command_line_dubs_it(nodes, model, comfy, face_video, tmp_path, buffer):
    source = io.BytesIO(face_video.read_bytes()) if buffer else str(face_video)
    audio = audio_of(rate=22_050, channels=2)
    (video,) = nodes.DubVideo.run(model=model, video=VideoFromFile(source), audio=audio, **FAST)
    out = Path(video.get_stream_source())
    assert [path.name for path in comfy.temp.iterdir()] == [out.name]
    assert (ProgressBar.bars[-1].current, ProgressBar.bars[-1].total) == (15, 15)
    info = measure_audio(out)
    assert (info.sample_rate, info.channels) == (22_050, 2) and float(info.duration) == pytest.approx(
        0.6, abs=1e-3
    )
    speech, expected = tmp_path / "speech.wav", tmp_path / "expected.mp4"
    nodes.pack.media._write_wav(str(speech), audio["waveform"][0], 22_050)
    wav2lip_npu.dub(face_video, speech, expected, models=model, crf=18, **FAST)
    assert out.read_bytes() == expected.read_bytes()


def test_sound_of_the_video_and_a_voice(nodes, model, tmp_path):
    talk = write_talk(tmp_path / "talk.mp4", 1)
    (video,) = nodes.DubVideo.run(model=model, video=VideoFromFile(str(talk)), voice=audio_of(), **FAST)
    given, kept = read_audio(talk), read_audio(video.get_stream_source())
    assert len(kept) == pytest.approx(len(given), abs=200)
    assert np.corrcoef(given[: len(kept)], kept[: len(given)])[0, 1] > 0.99


def test_only_the_part_of_a_trimmed_video_is_dubbed(nodes, model, comfy, face_video):
    part = VideoFromFile(str(face_video), start_time=1, duration=0.2)
    (video,) = nodes.DubVideo.run(model=model, video=part, audio=audio_of(), extend="cut_off", **FAST)
    with av.open(video.get_stream_source()) as container:
        assert container.streams.video[0].frames == 5
    assert len(list(comfy.temp.iterdir())) == 1


def test_interruption_and_errors_leave_no_file(nodes, model, comfy, face_video, faceless_video):
    comfy.frames_until_interrupt = 3
    with pytest.raises(InterruptProcessingException):
        nodes.DubVideo.run(model=model, video=VideoFromFile(str(face_video)), audio=audio_of(), **FAST)
    with pytest.raises(InterruptProcessingException):
        nodes.DubFrames.run(model=model, images=images_of(4), audio=audio_of(), **FAST)
    with pytest.raises(InterruptProcessingException):
        nodes.SyncScore.run(video=VideoFromFile(str(face_video)))
    comfy.frames_until_interrupt = None
    with pytest.raises(wav2lip_npu.FaceError):
        nodes.DubVideo.run(model=model, video=VideoFromFile(str(faceless_video)), audio=audio_of(), **FAST)
    assert not list(comfy.temp.iterdir())


def test_images_keep_their_values_outside_the_mouth(nodes, model):
    images, audio = images_of(10, alpha=True), audio_of()
    dubbed, sound, mouth = nodes.DubFrames.run(model=model, images=images, audio=audio, **FAST)
    assert dubbed.shape == (15, 240, 320, 3) and mouth.shape == (15, 240, 320)
    assert sound is audio and mouth.min() >= 0 and 0.9 < mouth.max() <= 1
    given = images[torch.arange(15) % 10, ..., :3]
    assert torch.equal(dubbed[mouth == 0], given[mouth == 0])
    assert (dubbed - given)[mouth > 0.5].abs().mean() > 0.02
    assert dubbed.min() >= 0 and dubbed.max() <= 1


def test_sound_has_the_length_of_the_images(nodes, model):
    photo = images_of(1)
    dubbed, sound, _ = nodes.DubFrames.run(model=model, images=photo, audio=audio_of(), fps=50.0, **FAST)
    assert len(dubbed) == 30 and sound["waveform"].shape[2] == 9600
    for extend, frames in (("cut_off", 5), ("silence", 20)):
        count = 5 if extend == "cut_off" else 20
        given = {"model": model, "images": images_of(count), "audio": audio_of(channels=2)}
        dubbed, sound, _ = nodes.DubFrames.run(**given, extend=extend, **FAST)
        assert len(dubbed) == frames and sound["waveform"].shape == (1, 2, frames * 640)


def test_wrong_inputs_are_named(nodes, model, face_video):
    video = VideoFromFile(str(face_video))
    with pytest.raises(UsageError, match="pads '1 2'"):
        nodes.DubVideo.run(model=model, video=video, audio=audio_of(), pads="1 2")
    batch = {"waveform": torch.zeros(2, 1, 100), "sample_rate": 16_000}
    with pytest.raises(UsageError, match=r"\[2, 1, 100\]"):
        nodes.DubVideo.run(model=model, video=video, audio=batch)
    with pytest.raises(wav2lip_npu.MediaError, match="no audio"):
        nodes.SyncScore.run(video=video)


def test_whole_numbers_are_samples_of_full_scale(nodes):
    audio = {"waveform": torch.tensor([[[-32768, 16384]]], dtype=torch.int16), "sample_rate": 8000}
    assert nodes.pack.media.samples_of(audio).tolist() == [[-1.0, 0.5]]


def test_sync_score(nodes, tmp_path):
    talk = write_talk(tmp_path / "talk.mp4", 2.2)
    offset, confidence = nodes.SyncScore.run(video=VideoFromFile(str(talk)))
    assert isinstance(offset, float) and isinstance(confidence, float)
    assert ProgressBar.bars[-1].current == 55 and -15 <= offset <= 15 and 0 <= confidence <= 1


@pytest.mark.parametrize(
    "path", sorted((PACK / "example_workflows").glob("*.json")), ids=lambda path: path.stem
)
def test_example_workflows_fit_the_nodes(nodes, path):
    """ComfyUI stores the values of widgets by their order, and links by the order of inputs and outputs."""
    workflow = json.loads(path.read_text())
    assert path.with_suffix(".jpg").stat().st_size < 100_000
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in nodes.all}
    graph = {node["id"]: node for node in workflow["nodes"]}
    for number, origin, output, target, given, kind in workflow["links"]:
        assert number in graph[origin]["outputs"][output]["links"]
        assert graph[target]["inputs"][given]["link"] == number
        assert graph[origin]["outputs"][output]["type"] == kind
    ours = [node for node in workflow["nodes"] if node["type"] in schemas]
    assert len(ours) >= 2
    for node in ours:
        schema = schemas[node["type"]]
        widgets = [item for item in schema.inputs if "default" in item.widget]
        assert len(node["widgets_values"]) == len(widgets)
        for value, item in zip(node["widgets_values"], widgets, strict=True):
            assert value == item.widget["default"]
        types = {item.id: item.io_type for item in schema.inputs}
        assert {item["name"]: item["type"] for item in node["inputs"]} == types
        assert [item["type"] for item in node["outputs"]] == [item.io_type for item in schema.outputs]


def test_pack_names_the_version_of_the_package_and_pins_nothing_of_comfyui():
    text = (PACK / "pyproject.toml").read_text()
    assert f'version = "{wav2lip_npu.__version__}"' in text
    (dependency,) = re.findall(r"^dependencies = \[(.*)\]$", text, re.MULTILINE)
    assert dependency.strip('"') == (PACK / "requirements.txt").read_text().strip()
    assert dependency.startswith('"wav2lip-npu>=') and re.search(
        r'^requires-comfyui = ">=[\d.]+"$', text, re.MULTILINE
    )
