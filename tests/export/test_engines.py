"""Dubs with exported generators: the frames of PyTorch, and refusal of unsafe files."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from support import fake_cann
from support.exports import export, export_generator
from support.faces import SquareDetector, face_frames
from support.marks import slow
from support.networks import golden_weights
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.runner import run_jobs
from wav2lip_npu.cli import main
from wav2lip_npu.dubbing import inference
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.pipeline import dub, dub_many
from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError, DeviceError, UsageError
from wav2lip_npu.export import engines, om_export
from wav2lip_npu.export.engines import OmEngine, OnnxEngine, run_in_batches
from wav2lip_npu.export.manifest import read_om_manifest, read_onnx
from wav2lip_npu.export.onnx_export import load_network
from wav2lip_npu.export.options import engine_of
from wav2lip_npu.media import container, video_reader
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet, Wav2Lip

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed: pip install 'wav2lip-npu[export]'", allow_module_level=True)

import onnx

pytestmark = pytest.mark.usefixtures("one_thread")
LOSSLESS = DubOptions(encode=EncodeOptions(crf=0, preset="ultrafast"))
SHOWN = load_mask("soft", 96).top_row


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict[str, Path]:
    """The tiny generator for any batch and for batches of 3, in both precisions, and a SyncNet."""
    folder = tmp_path_factory.mktemp("exported")
    weights = load_network("generator", tiny_checkpoint)
    exported = {
        "any": export(weights, folder / "any.onnx"),
        "three": export(weights, folder / "three.onnx", batch=3),
        "half": export(weights, folder / "half.onnx", precision="fp16"),
        "om": export(weights, folder / "model.onnx", batch=3),
    }
    om_export.write_manifest(exported["om"])
    paths = {name: item.path for name, item in exported.items()}
    paths["om"] = paths["om"].rename(folder / "model.om")  # the fakes run this file
    syncnet = folder / "syncnet.pth"
    checkpoint.save(syncnet, golden_weights(SyncNet(2)))
    paths["syncnet"] = export(load_network("syncnet", syncnet), folder / "syncnet.onnx").path
    return paths


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of the fake ais_bench."""
    calls: list[Any] = []
    fake_cann.install_bench(monkeypatch, calls)
    return calls


@pytest.fixture
def acl(monkeypatch: pytest.MonkeyPatch) -> fake_cann.FakeAcl:
    fake = fake_cann.FakeAcl()
    fake_cann.remove(monkeypatch)
    monkeypatch.setitem(fake_cann.sys.modules, "acl", fake)
    return fake


def loaded(path: Path, **options: Any) -> inference.Models:
    models = inference.load_models(path, detector="hog", precision="fp32", **options)
    return replace(models, detector=SquareDetector())


def decode_with(generator: Any, faces: torch.Tensor, mels: torch.Tensor, top_row: int) -> torch.Tensor:
    with torch.inference_mode():
        return generator.decode(mels, generator.encode_faces(faces), top_row=top_row)


def pixels_of(path: Path) -> np.ndarray:
    """Return all YUV samples of all frames."""
    frames = [frame.yuv for frame in video_reader.read_frames(path)]
    return np.stack([np.concatenate([item.y.ravel(), item.u.ravel(), item.v.ravel()]) for item in frames])


def assert_same_frames(one: Path, other: Path, levels: int = 1) -> None:
    a, b = (pixels_of(path).astype(int) for path in (one, other))
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= levels


# Outputs of the engine


@pytest.mark.parametrize(
    ("name", "top_rows"), [("any", (0, 7, 30, SHOWN, 60, 90)), ("three", (0, SHOWN)), ("half", (0, SHOWN))]
)
def test_rows_equal_those_of_torch(files, tiny_checkpoint, name, top_rows):
    engine, network = OnnxEngine(files[name]), loaded(tiny_checkpoint).generator
    faces, mels = torch.rand(5, 6, 96, 96), torch.rand(5, 1, 80, 16) * 8 - 4
    faces = faces.contiguous(memory_format=torch.channels_last)
    within = {"atol": 2e-2 if name == "half" else 1e-5, "rtol": 0}
    for top_row in top_rows:
        expected = decode_with(network, faces, mels, top_row)
        measured = decode_with(engine, faces, mels, top_row)
        assert measured.shape == expected.shape == (5, 3, 96 - top_row, 96)
        assert measured.dtype == torch.float32
        torch.testing.assert_close(measured, expected, **within)
        still = decode_with(engine, faces[:1], mels, top_row)
        torch.testing.assert_close(still, decode_with(network, faces[:1], mels, top_row), **within)


@pytest.mark.slow
def test_full_size_network(tmp_path):
    path = tmp_path / "full.pth"
    checkpoint.save(path, golden_weights(Wav2Lip()))
    exported_file = export_generator(tmp_path / "full.onnx", path, batch=1)
    assert exported_file.difference < 1e-4
    faces, mels = torch.rand(1, 6, 96, 96), torch.rand(1, 1, 80, 16) * 8 - 4
    measured = decode_with(OnnxEngine(exported_file.path), faces, mels, SHOWN)
    torch.testing.assert_close(
        measured, decode_with(loaded(path).generator, faces, mels, SHOWN), atol=1e-4, rtol=0
    )


def test_hidden_rows_are_not_computed(files):
    """Rows are dropped before the last blocks of the decoder, not at its end."""
    from wav2lip_npu.export.onnx_split import decoder_part, row_slices

    part = decoder_part(read_onnx(files["any"])[0])
    onnx.checker.check_model(part, full_check=True)
    kinds = [node.op_type for node in part.graph.node]
    assert kinds.count("Slice") == 6
    assert kinds[kinds.index("Slice") :].count("ConvTranspose") == 6
    assert row_slices(SHOWN, [96, 48, 24, 12, 6, 3, 1]).feature_rows == [40, 18, 6, 0, 0, 0, 0]


def test_huge_file_is_not_read(tmp_path):
    """A8: the size of an .onnx file is checked before it is read into memory."""
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.write(b"x")
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"a\.onnx.*bytes"):
        read_onnx(path)


def test_last_batch_is_padded():
    seen = []

    def run(arrays: Any) -> list[np.ndarray]:
        seen.append(len(arrays["x"]))
        return [arrays["x"] * 2, arrays["x"][:, :1]]

    x = np.arange(14.0, dtype=np.float32).reshape(7, 2)
    doubled, first = run_in_batches(run, 3, {"x": x})
    assert seen == [3, 3, 3]
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_array_equal(first, x[:, :1])
    assert run_in_batches(run, None, {"x": x})[0].shape == (7, 2) and seen[-1] == 7


# Dubs


@pytest.mark.parametrize("blend", ["soft", slow("hard")])
@pytest.mark.parametrize("name", ["any", "three"])
def test_dub_has_the_frames_of_torch(files, tiny_checkpoint, face_video, speech, tmp_path, blend, name):
    options = replace(LOSSLESS, blend=blend)
    dub(face_video, speech, tmp_path / "torch.mp4", models=loaded(tiny_checkpoint), options=options)
    models = loaded(files[name])
    assert models.batch == (8 if name == "any" else 3)
    report = dub(face_video, speech, tmp_path / "onnx.mp4", models=models, options=options)
    assert (report.engine, report.precision, report.device[:3]) == ("onnx", "float32", "cpu")
    assert_same_frames(tmp_path / "torch.mp4", tmp_path / "onnx.mp4")


@pytest.mark.slow
def test_report_names_the_original_weights(files, tiny_checkpoint, face_video, speech, tmp_path):
    models, of_torch = loaded(files["any"]), loaded(tiny_checkpoint)
    assert models.digest == of_torch.digest
    assert models.mel_shift == of_torch.mel_shift == 0
    report = dub(face_video, speech, tmp_path / "out.mp4", models=models, options=LOSSLESS)
    assert report.checkpoint_sha256 == of_torch.digest and report.checkpoint.endswith("any.onnx")
    assert "onnxruntime" in report.versions
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert f"weights any.onnx (sha256 {of_torch.digest})" in container.metadata["comment"]


@pytest.mark.slow
def test_mel_shift_of_the_starter_is_kept(tmp_path):
    exported_file = export_generator(tmp_path / "starter.onnx", batch=1)
    models, of_torch = loaded(exported_file.path), loaded(Path("starter"))
    assert (models.mel_shift, models.digest) == (-1, of_torch.digest)


def test_still_face_is_encoded_once_for_all_outputs(files, speech, tmp_path, monkeypatch):
    photo = tmp_path / "photo.mkv"
    write_video(face_frames(1), photo, fps=Fraction(25), options=EncodeOptions(crf=0))
    seen: list[int] = []
    encode = OnnxEngine.encode_faces
    monkeypatch.setattr(
        OnnxEngine, "encode_faces", lambda self, faces: seen.append(len(faces)) or encode(self, faces)
    )
    takes = [Output(speech, tmp_path / f"{number}.mkv") for number in range(2)]
    dub_many(photo, takes, models=loaded(files["any"]), options=replace(LOSSLESS, static=True))
    assert len(seen) == 1
    assert_same_frames(tmp_path / "0.mkv", tmp_path / "1.mkv", levels=0)


def test_dub_command_with_an_exported_file(files, face_video, speech, tmp_path, caplog):
    words = ["dub", "--face", face_video, "--audio", speech, "--box", 40, 200, 60, 220]
    words += ["--outfile", tmp_path / "out.mp4", "--report", tmp_path / "report.json"]
    for engine in ([], ["--engine", "onnx"]):
        assert main.main([*map(str, words), "--checkpoint_path", str(files["any"]), *engine]) == 0
        assert json.loads((tmp_path / "report.json").read_text())["engine"] == "onnx"
    assert "engine onnx, detector" in caplog.text


@pytest.mark.slow
def test_jobs_with_an_exported_file(files, face_video, speech, tmp_path):
    job = Job(face=str(face_video), audio=str(speech), outfile=str(tmp_path / "out.mp4"))
    (result,) = run_jobs([job], loaded(files["any"]))
    assert result.status == "ok", result
    table = tmp_path / "jobs.csv"
    table.write_text(
        f"face,audio,outfile,box,checkpoint_path\n{face_video},{speech},a.mp4,40 200 60 220,{files['three']}\n"
    )
    assert main.main(["batch", str(table), "--devices", "cpu", "--cache", "off"]) == 0
    assert container.probe(tmp_path / "a.mp4").frames


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["man_512.mp4", "woman_elderly_512.mp4"])
def test_on_real_clips(shared_data, tmp_path, clip):
    exported_file = export_generator(tmp_path / "starter.onnx")
    face = shared_data / "clips" / clip
    speech_file = tmp_path / "sound.wav"
    cut(face, speech_file, 1.2)
    for name, path in {"torch": Path("starter"), "onnx": exported_file.path}.items():
        precision = "fp32" if name == "torch" else "auto"
        models = inference.load_models(path, detector="hog", device="cpu", precision=precision)
        dub(face, speech_file, tmp_path / f"{name}.mp4", models=models, options=LOSSLESS)
    assert_same_frames(tmp_path / "torch.mp4", tmp_path / "onnx.mp4")


def cut(source: Path, target: Path, seconds: float) -> None:
    import soundfile

    from wav2lip_npu.media.audio_reader import read_audio

    soundfile.write(target, read_audio(source)[: round(seconds * 16_000)], 16_000)


# .om files


def test_om_file_runs_with_ais_bench(files, tiny_checkpoint, face_video, speech, tmp_path, bench):
    dub(face_video, speech, tmp_path / "torch.mp4", models=loaded(tiny_checkpoint), options=LOSSLESS)
    models = loaded(files["om"], device="npu:1", engine="om")
    assert (models.engine, models.batch, models.device.type) == ("om on npu:1", 3, "cpu")
    report = dub(face_video, speech, tmp_path / "om.mp4", models=models, options=LOSSLESS)
    assert report.engine == "om on npu:1"
    assert_same_frames(tmp_path / "torch.mp4", tmp_path / "om.mp4")
    assert bench[0] == ("load", 1, str(files["om"]))
    assert bench[1] == ("static", [(3, 1, 80, 16), (3, 6, 96, 96)])
    assert len(bench) == 1 + 5, "15 frames in batches of 3"


@pytest.mark.slow
def test_om_file_runs_with_acl(files, tiny_checkpoint, face_video, speech, tmp_path, acl):
    dub(face_video, speech, tmp_path / "torch.mp4", models=loaded(tiny_checkpoint), options=LOSSLESS)
    models = loaded(files["om"])
    dub(face_video, speech, tmp_path / "om.mp4", models=models, options=LOSSLESS)
    assert_same_frames(tmp_path / "torch.mp4", tmp_path / "om.mp4")
    assert acl.device == 0
    assert len(acl.memory) == 4, "two inputs, an output on the device and on the host"
    del models
    assert acl.unloaded == [3] and not acl.memory


def test_om_engine_runs_in_another_thread(files, acl):
    engine = OmEngine(files["om"])
    faces, mels, measured = torch.rand(2, 6, 96, 96), torch.rand(2, 1, 80, 16), []
    thread = threading.Thread(target=lambda: measured.append(decode_with(engine, faces, mels, 10)))
    thread.start()
    thread.join()
    torch.testing.assert_close(measured[0], decode_with(engine, faces, mels, 10))


def test_acl_may_be_initialised_already(files, acl):
    acl.code_of["init"] = 100002
    OmEngine(files["om"])


@pytest.mark.parametrize("call", ["init", "set_device", "load_from_file"])
def test_failed_acl_call_is_a_device_error(files, acl, call):
    acl.code_of[call] = fake_cann.OM_FAILURE
    with pytest.raises(DeviceError, match=rf"{call} failed with code 145000.*wav2lip-npu doctor"):
        OmEngine(files["om"])


def test_failed_execution_is_a_runtime_error(files, acl):
    engine = OmEngine(files["om"])
    acl.code_of["execute"] = fake_cann.BUSY
    with pytest.raises(RuntimeError, match="execute failed with code 507033"):
        decode_with(engine, torch.rand(1, 6, 96, 96), torch.rand(1, 1, 80, 16), 0)


def test_error_of_ais_bench_is_one_line(files, bench, tmp_path):
    shutil.copy(files["om"].with_suffix(".json"), tmp_path / "bad.json")
    (tmp_path / "bad.om").write_text("no model")
    with pytest.raises(DeviceError, match=r"bad.om cannot be loaded on NPU 0 \(.*npu-smi info") as caught:
        OmEngine(tmp_path / "bad.om")
    assert "\n" not in str(caught.value)


def test_missing_cann_is_a_device_error(files, monkeypatch):
    fake_cann.remove(monkeypatch)
    with pytest.raises(DeviceError, match=r"model.om needs ais_bench or acl, and neither"):
        OmEngine(files["om"])


def test_om_file_needs_its_manifest(files, tmp_path, bench):
    shutil.copy(files["om"], tmp_path / "lost.om")
    with pytest.raises(CheckpointError, match=r"lost.json is missing; it describes lost.om"):
        OmEngine(tmp_path / "lost.om")
    (tmp_path / "lost.json").write_text("{}")
    with pytest.raises(CheckpointError, match="its manifest is damaged or from another version"):
        OmEngine(tmp_path / "lost.om")
    manifest = json.loads(files["om"].with_suffix(".json").read_text())
    (tmp_path / "lost.json").write_text(json.dumps(manifest | {"batch": None}))
    with pytest.raises(CheckpointError, match="has no fixed batch size"):
        OmEngine(tmp_path / "lost.om")


# Refused files


def with_manifest(path: Path, target: Path, **values: Any) -> Path:
    """Copy an exported file with other values in its manifest."""
    graph = onnx.load(path)
    (entry,) = [item for item in graph.metadata_props if item.key == "wav2lip_npu"]
    entry.value = json.dumps(json.loads(entry.value) | values)
    onnx.save(graph, target)
    return target


def test_other_mel_settings_are_refused(files, tmp_path, face_video, speech, capsys):
    mel = read_onnx(files["any"])[1].mel
    path = with_manifest(files["any"], tmp_path / "other.onnx", mel={**mel, "n_mels": 128, "hop": 160})
    words = [
        "dub",
        "--checkpoint_path",
        path,
        "--face",
        face_video,
        "--audio",
        speech,
        "--outfile",
        tmp_path / "o.mp4",
    ]
    assert main.main(list(map(str, words))) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"wav2lip-npu: {path} was trained with other mel settings (hop=160, not 200; n_mels=128, not 80)"
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mel": None}, "has no mel settings"),
        ({"network": "tts"}, "damaged or from another version"),
        ({"batch": "many"}, "damaged or from another version"),
        ({"batch": 0}, "damaged or from another version"),
        ({"inputs": {}}, "damaged or from another version"),
        ({"inputs": {"mel": [1]}}, r"takes the input mel as \[\], this version passes \[1, 80, 16\]"),
        ({"outputs": {"picture": ["batch", 3, 192, 192]}}, "its inputs and outputs differ from its manifest"),
    ],
)
def test_wrong_manifest_is_refused(files, tmp_path, changes, what):
    with pytest.raises(CheckpointError, match=what) as caught:
        OnnxEngine(with_manifest(files["any"], tmp_path / "odd.onnx", **changes))
    assert "\n" not in str(caught.value)


def test_other_face_size_is_refused(files, tmp_path):
    manifest = read_onnx(files["any"])[1]
    inputs = {**manifest.inputs, "face": ["batch", 6, 192, 192]}
    with pytest.raises(CheckpointError, match=r"large\.onnx"):
        OnnxEngine(with_manifest(files["any"], tmp_path / "large.onnx", inputs=inputs))


def test_other_network_is_refused(files):
    with pytest.raises(CheckpointMismatchError, match="is a SyncNet, not a Wav2Lip generator"):
        inference.load_models(files["syncnet"], detector="hog")


def test_external_data_is_refused(files, tmp_path):
    graph = onnx.load(files["any"])
    onnx.save(
        graph, tmp_path / "two.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    with pytest.raises(CheckpointError, match="it refers to other files"):
        OnnxEngine(tmp_path / "two.onnx")
    graph = onnx.load(files["any"])
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "../../../../etc/passwd", "offset": "0", "length": "64"}.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "one.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match="it refers to other files"):
        OnnxEngine(tmp_path / "one.onnx")


def unknown_operator(graph: Any) -> None:
    graph.graph.node[0].op_type = "PyOp"


def unknown_domain(graph: Any) -> None:
    graph.graph.node[0].domain = "com.microsoft"


def branching(graph: Any) -> None:
    graph.graph.node[0].op_type = "If"


def with_function(graph: Any) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    opset = onnx.helper.make_opsetid("", 13)
    graph.functions.append(onnx.helper.make_function("own", "Relu", ["x"], ["y"], [node], [opset]))


def with_subgraph(graph: Any) -> None:
    inner = onnx.helper.make_graph([], "inner", [], [])
    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", inner))


def without_manifest(graph: Any) -> None:
    del graph.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (unknown_operator, "no export contains the operator PyOp"),
        (unknown_domain, r"no export contains the operator com.microsoft\.Conv"),
        (branching, "no export contains the operator If"),
        (with_function, "more than a plain graph"),
        (with_subgraph, "more than a plain graph"),
        (without_manifest, "it has no manifest"),
    ],
)
def test_foreign_graph_is_refused(files, tmp_path, change, what):
    graph = onnx.load(files["any"])
    change(graph)
    (tmp_path / "odd.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=what) as caught:
        OnnxEngine(tmp_path / "odd.onnx")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(files, tmp_path):
    path = tmp_path / "cut.onnx"
    complete = files["any"].read_bytes()
    for content, what in [
        (b"", "is empty"),
        (complete[: len(complete) // 2], "is damaged|was not exported"),
        (b"<!DOCTYPE html><html>" * 9, "is damaged"),
        (np.random.default_rng(0).bytes(5000), "is damaged|was not exported"),
        (b"\x08\x07", "it has no manifest"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=what) as caught:
            OnnxEngine(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"cannot read .*none.onnx: No such file"):
        OnnxEngine(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match=r"cannot read .*: Is a directory"):
        read_om_manifest(tmp_path, "generator")


def test_incomplete_graph_is_damaged(files, tmp_path):
    graph = onnx.load(files["any"])
    del graph.graph.initializer[3]
    (tmp_path / "holes.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match="holes.onnx is damaged"):
        OnnxEngine(tmp_path / "holes.onnx")


def test_engine_of_a_file(files, tiny_checkpoint, monkeypatch):
    assert [engine_of(item) for item in ("a.pth", "b.ONNX", "c.om", "starter")] == [
        "torch",
        "onnx",
        "om",
        "torch",
    ]
    with pytest.raises(
        UsageError, match=r"--engine onnx runs an exported .onnx file.*wav2lip-npu export --format onnx"
    ):
        inference.load_models(tiny_checkpoint, engine="onnx")
    with pytest.raises(UsageError, match=r"any.onnx is an exported file.*--engine torch"):
        inference.load_models(files["any"], engine="torch")
    with pytest.raises(UsageError, match="unknown engine 'tensorrt'. Pass --engine auto, torch, onnx, om"):
        inference.load_models(files["any"], engine="tensorrt")
    with pytest.raises(UsageError, match="any.onnx.*--precision bf16"):
        inference.load_models(files["any"], precision="bf16")
    with pytest.raises(DeviceError, match="an .om file runs on an NPU, not on 'cpu'"):
        inference.load_models(files["om"], device="cpu")
    monkeypatch.setattr(engines.devices, "resolve", lambda spec: torch.device("cuda"))
    with pytest.raises(DeviceError, match="any.onnx runs on the CPU, not on cuda"):
        inference.load_models(files["any"], device="cuda")


def test_failure_of_onnxruntime_is_a_runtime_error(files):
    engine = OnnxEngine(files["any"])
    with pytest.raises(RuntimeError):
        engine.encode_faces(torch.rand(1, 5, 96, 96))
