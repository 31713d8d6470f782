"""Exported files: content, agreement with PyTorch, and the command for atc."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.exports import export, export_generator
from support.fake_cann import install_program
from support.marks import slow
from support.networks import generator_of, golden_weights
from wav2lip_npu.cli import main
from wav2lip_npu.errors import CheckpointError, ExportError, UsageError
from wav2lip_npu.export import onnx_export, onnx_graph
from wav2lip_npu.export.engines import Arrays, OnnxEngine
from wav2lip_npu.export.manifest import INPUTS, KINDS, OPERATORS, read_onnx
from wav2lip_npu.export.onnx_export import ExportedFile
from wav2lip_npu.export.options import DETECTORS, ExportOptions
from wav2lip_npu.faces.s3fd import S3FD_MEANS
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.models.plan_choice import Design
from wav2lip_npu.models.plans import PLANS
from wav2lip_npu.storage.hashing import sha256_of

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed: pip install 'wav2lip-npu[export]'", allow_module_level=True)

import onnx

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
SIZE = (64, 96)
BY_NAME = {plan.name: plan for plan in PLANS}
NETWORKS = [slow(kind) if kind == "s3fd" else kind for kind in KINDS]
ATC = """#!/bin/sh
echo "$@" > "{folder}/words"
pwd > "{folder}/where"
for word in "$@"; do
  case "$word" in --output=*) cp "{folder}/made" "${{word#--output=}}.om" ;; esac
done
"""


@pytest.fixture(scope="session")
def syncnet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "syncnet.pth"
    checkpoint.save(path, golden_weights(SyncNet(width=2)))
    return path


@pytest.fixture(scope="session")
def s3fd_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from face_alignment.detection.sfd.net_s3fd import s3fd

    path = tmp_path_factory.mktemp("weights") / "s3fd.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(s3fd().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def weights(request, tiny_checkpoint, syncnet_checkpoint):
    """A function that loads a network."""
    paths = {"generator": tiny_checkpoint, "syncnet": syncnet_checkpoint, "retinaface": "starter"}

    def load(network: str) -> onnx_export.LoadedNetwork:
        path = request.getfixturevalue("s3fd_weights") if network == "s3fd" else paths[network]
        return onnx_export.load_network(network, path)

    return load


@pytest.fixture(scope="session")
def exported(tmp_path_factory, weights) -> Callable[[str], ExportedFile]:
    """A function that returns the file of a network for any batch in fp32."""
    folder = tmp_path_factory.mktemp("exported")
    return lru_cache(None)(lambda network: export(weights(network), folder / f"{network}.onnx"))


def run_file(path: Path, arrays: Arrays) -> list[np.ndarray]:
    """Run a file with plain onnxruntime."""
    return _session(path).run(None, dict(arrays))


@lru_cache(1)
def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def of_torch(weights: onnx_export.LoadedNetwork, arrays: Arrays) -> list[np.ndarray]:
    with torch.no_grad():
        given = [torch.from_numpy(item) for item in arrays.values()]
        if weights.network == "s3fd":
            given = [given[0] - torch.tensor(S3FD_MEANS).view(1, 3, 1, 1)]
        result = weights.module(*given)
    return [item.numpy() for item in ([result] if isinstance(result, torch.Tensor) else result)]


def off(network: str, result: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(result, expected, strict=True))


def size_of(network: str) -> tuple[int, int]:
    """Return the size of the images of the example inputs."""
    return (96, 96) if network == "generator" else SIZE


@pytest.mark.parametrize("batch", [slow(1), 8, slow(32)])
@pytest.mark.parametrize("network", ["generator", "syncnet"])
def test_fixed_batch_agrees_with_torch(weights, tmp_path, network, batch):
    path = tmp_path / "file.onnx"
    result = export(weights(network), path, batch=batch)
    onnx.checker.check_model(str(path), full_check=True)
    assert [shape[0] for shape in (result.manifest.inputs | result.manifest.outputs).values()] == [batch] * (
        2 + len(result.manifest.outputs)
    )
    for arrays in onnx_export.example_inputs(network, batch, size_of(network)):
        assert off(network, run_file(path, arrays), of_torch(weights(network), arrays)) < 1e-4
    assert result.difference < 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_dynamic_file_accepts_any_batch(weights, exported, network):
    path = exported(network).path
    onnx.checker.check_model(str(path), full_check=True)
    for batch in (2, 5):  # an export is checked with 1 and 3
        for arrays in onnx_export.example_inputs(network, batch, size_of(network)):
            assert off(network, run_file(path, arrays), of_torch(weights(network), arrays)) < 1e-4


@pytest.mark.parametrize(
    "plan",
    [
        replace(BY_NAME["288"], activation="prelu"),
        replace(BY_NAME["sam"], size=192, audio_refine="normalized"),
        slow(replace(BY_NAME["sam"], audio_refine="plain")),
        *(slow(BY_NAME[name]) for name in ("own-192", "own-256", "256", "288", "384", "384-leaky")),
    ],
    ids=lambda plan: f"{plan.name}-{plan.size}-{plan.activation}",
)
def test_larger_generator(tmp_path, plan):
    """Rows, attention, slopes and the refined audio of the split graph are those of PyTorch."""
    checkpoint.save(tmp_path / "x.pth", generator_of(plan))
    design = Design(face_size=plan.size, audio_refine=plan.audio_refine or "auto")
    exported = export(onnx_export.load_network("generator", tmp_path / "x.pth", design), tmp_path / "x.onnx")
    assert exported.manifest.inputs["face"] == ["batch", 6, plan.size, plan.size]
    engine, network = (
        OnnxEngine(exported.path),
        checkpoint.load(tmp_path / "x.pth", "generator", design).network(),
    )
    faces, mels = torch.rand(1, 6, plan.size, plan.size), torch.rand(2, 1, 80, 16) * 8 - 4
    assert engine.face_size == plan.size
    with torch.inference_mode():
        for row in (0, plan.size // 2):
            measured = engine.decode(mels, engine.encode_faces(faces), top_row=row)
            expected = network.decode(mels, network.encode_faces(faces), top_row=row)
            torch.testing.assert_close(measured, expected, rtol=0, atol=2e-3)


def test_retinaface_accepts_any_size(weights, exported):
    assert exported("retinaface").difference < 1e-4
    arrays = next(iter(onnx_export.example_inputs("retinaface", 1, (160, 96))))
    expected = of_torch(weights("retinaface"), arrays)
    assert off("retinaface", run_file(exported("retinaface").path, arrays), expected) < 1e-4
    with pytest.raises(UsageError, match=r"weights\.pth"):
        onnx_export.load_network("retinaface", "weights.pth")


@pytest.mark.slow
def test_s3fd_with_a_fixed_image_size(weights, tmp_path):
    path = tmp_path / "file.onnx"
    result = export(weights("s3fd"), path, batch=2, size=SIZE)
    assert result.manifest.inputs == {"image": [2, 3, *SIZE]}
    assert result.manifest.outputs["offsets_0"] == [2, 4, 16, 24]
    assert result.manifest.mel is None
    arrays = next(iter(onnx_export.example_inputs("s3fd", 2, SIZE)))
    assert off("s3fd", run_file(path, arrays), of_torch(weights("s3fd"), arrays)) < 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_fp16_is_close_and_half_as_large(weights, exported, tmp_path, network):
    full = exported(network)
    half = export(weights(network), tmp_path / "half.onnx", precision="fp16")
    onnx.checker.check_model(str(half.path), full_check=True)
    assert half.manifest.inputs == full.manifest.inputs
    kinds = {item.type.tensor_type.elem_type for item in onnx.load(half.path).graph.input}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert 1e-6 < half.difference < onnx_export.TOLERANCES["fp16"]
    if network == "s3fd":
        assert half.path.stat().st_size < 0.51 * full.path.stat().st_size


@pytest.mark.parametrize("network", NETWORKS)
def test_operators_are_listed_in_the_docs(weights, tmp_path, network):
    path = tmp_path / "file.onnx"
    export(weights(network), path, batch=1, precision="fp16", size=SIZE if network in DETECTORS else None)
    graph = onnx.load(path)
    used = {node.op_type for node in graph.graph.node}
    assert used <= OPERATORS
    assert [(item.domain, item.version) for item in graph.opset_import] == [("", 13)]
    for operator in used:
        assert f"| `{operator}` |" in DOCS
    assert graph.ir_version <= 8, "the newest that the compiler's onnx 1.12 knows"
    assert not any(item.data_location for item in graph.graph.initializer)


def test_manifest(tiny_checkpoint, tmp_path):
    path = tmp_path / "file.onnx"
    export_generator(path, tiny_checkpoint, batch=8)
    graph = onnx.load(path)
    content = json.loads({item.key: item.value for item in graph.metadata_props}["wav2lip_npu"])
    assert content["network"] == "generator"
    assert content["inputs"] == {"mel": [8, 1, 80, 16], "face": [8, 6, 96, 96]}
    assert list(content["inputs"]) == [item.name for item in graph.graph.input], (
        "an .om file knows the order only"
    )
    assert content["outputs"] == {"picture": [8, 3, 96, 96]}
    assert content["mel"] == asdict(DEFAULT_MEL)
    assert content["sha256"] == sha256_of(tiny_checkpoint)
    assert (content["opset"], content["batch"], content["precision"]) == (13, 8, "fp32")
    assert content["checkpoint"] == "tiny.pth"
    assert content["mel_shift"] is None
    assert read_onnx(path)[1].inputs == content["inputs"]


def test_same_weights_give_the_same_bytes(tiny_checkpoint, tmp_path):
    weights = onnx_export.load_network("generator", tiny_checkpoint)
    for name in ("a", "b"):
        export(weights, tmp_path / name, batch=2, precision="fp16")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_export_leaves_the_network_unchanged(tiny_checkpoint, tmp_path):
    weights = onnx_export.load_network("generator", tiny_checkpoint)
    before = {name: item.clone() for name, item in weights.module.state_dict().items()}
    export(weights, tmp_path / "file.onnx")
    after = weights.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_file_that_differs_from_torch_is_not_written(weights, tmp_path, monkeypatch):
    real = onnx_export.trace_graph

    def broken(network, module, *shapes):
        with torch.no_grad():
            next(module.parameters()).mul_(1.5)
        graph = real(network, module, *shapes)
        with torch.no_grad():
            next(module.parameters()).div_(1.5)
        return graph

    monkeypatch.setattr(onnx_export, "trace_graph", broken)
    with pytest.raises(ExportError, match=r"file.onnx differs from PyTorch by .*, more than 0.0001"):
        export(weights("generator"), tmp_path / "file.onnx")
    assert list(tmp_path.iterdir()) == []


def test_norms_do_not_overflow_in_fp16():
    """Squares of S3FD's activations would. Zero vectors stay 0."""
    x = torch.rand(2, 256, 3, 3) * 3000
    x[0, :, 1, 1] = 0
    expected = torch.nn.functional.normalize(x, dim=1)
    torch.testing.assert_close(onnx_graph._unit(x), expected)
    assert torch.isinf(x.half().pow(2).sum(dim=1)).any()
    torch.testing.assert_close(onnx_graph._unit(x.half()).float(), expected, atol=1e-3, rtol=0)
    assert not onnx_graph._unit(x.half())[0, :, 1, 1].any()


# The command


@pytest.fixture
def command(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    def run(*words: object) -> tuple[int, str, str]:
        code = main.main(["export", "--checkpoint_path", str(tiny_checkpoint), *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.slow
def test_one_file_per_batch_size(command, tmp_path):
    assert command("--batch", 1, 8, 0, "--outdir", "files")[:2] == (0, "")
    names = ["generator.onnx", "generator_b1.onnx", "generator_b8.onnx"]
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == names
    assert command("--precision", "fp16")[0] == 0
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["generator_fp16.onnx"]


def test_starter_is_exported_by_default_under_the_name_given(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert main.main(["export", "--network", "expert", "--batch", "2"]) == 0
    assert "expert_b2.onnx: opset 13, mel [2, 1, 80, 16]; mouths [2, 15, 48, 96]" in caplog.text
    assert read_onnx(tmp_path / "exported" / "expert_b2.onnx", "syncnet")[1].mel_shift == 0


@pytest.mark.slow
def test_s3fd_weights_are_those_of_the_detector(command, tmp_path, s3fd_weights, monkeypatch, capsys):
    words = ["export", "--network", "s3fd", "--batch", "1", "--size", "64", "96"]
    assert main.main(words) == 2
    assert "no S3FD weights" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/s3fd.pth").symlink_to(s3fd_weights)
    assert main.main(words) == 0
    assert (tmp_path / "exported/s3fd_b1_64x96.onnx").is_file()


def test_command_is_printed_where_atc_is_missing(command, tmp_path, caplog):
    code, out, _ = command("--format", "om", "--chip", "Ascend310P3", "--batch", 4)
    assert code == 0
    assert "atc is not on the PATH" in caplog.text
    assert shlex.split(out) == [
        "atc",
        "--framework=5",
        "--model=exported/generator_b4.onnx",
        "--output=exported/generator_b4",
        "--input_format=NCHW",
        "--input_shape=mel:4,1,80,16;face:4,6,96,96",
        "--soc_version=Ascend310P3",
        "--precision_mode=allow_fp32_to_fp16",
        "--output_type=FP32",
    ]
    files = sorted(path.name for path in (tmp_path / "exported").iterdir())
    assert files == ["generator_b4.json", "generator_b4.onnx"]


def test_larger_generator_is_compiled_at_its_size(command, tmp_path):
    checkpoint.save(tmp_path / "x.pth", generator_of(BY_NAME["own-192"]))
    words = ["--checkpoint_path", "x.pth", "--format", "om", "--chip", "Ascend310P3", "--batch", 2]
    code, out, _ = command(*words)
    assert code == 0 and "--input_shape=mel:2,1,80,16;face:2,6,192,192" in out
    manifest = json.loads((tmp_path / "exported/generator_b2.json").read_text())
    assert manifest["outputs"]["picture"] == [2, 3, 192, 192]


def test_retinaface_is_compiled_at_one_size(command, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    install_program(tools, "atc", ATC.format(folder=tools), monkeypatch)
    (tools / "made").write_bytes(b"compiled")
    words = ["--network", "retinaface", "--format", "om", "--chip", "Ascend310P3", "--batch", 1]
    assert command("--checkpoint_path", "starter", *words)[0] == 2
    code, _, _ = command("--checkpoint_path", "starter", *words, "--size", 64, 96)
    assert code == 0 and (tmp_path / "exported/retinaface_b1_64x96.om").read_bytes() == b"compiled"
    assert "--input_shape=image:1,3,64,96" in (tools / "words").read_text()


@pytest.mark.slow
def test_command_is_printed_for_onnx_too(command):
    _, out, _ = command("--chip", "Ascend910B4", "--precision", "fp16", "--batch", 0, 1, 8)
    lines = out.splitlines()
    assert len(lines) == 2 and all(
        "--soc_version=Ascend910B4 --precision_mode=force_fp16" in item for item in lines
    )


def test_atc_is_run_where_it_is_installed(command, tmp_path, monkeypatch, caplog):
    tools = tmp_path / "tools"
    install_program(tools, "atc", ATC.format(folder=tools), monkeypatch)
    (tools / "made").write_bytes(b"an offline model")
    assert command("--format", "om", "--chip", "Ascend310P3")[0] == 0
    assert (tmp_path / "exported/generator_b8.om").read_bytes() == b"an offline model"
    assert f"--model={tmp_path}/exported/generator_b8.onnx" in (tools / "words").read_text()
    assert (tools / "where").read_text().strip() != str(tmp_path), (
        "atc writes logs into its working directory"
    )
    assert "compiled for Ascend310P3: " in caplog.text


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("echo ATC start\necho 'E10001: Value [Ascend1] for parameter [--soc_version] is invalid.'\necho x\nexit 1", "with code 1: E10001: Value [Ascend1]"),
        ("exit 0", "with code 0: no output"),
        ("echo cannot open libge_compiler.so\nexit 127", "with code 127: cannot open libge_compiler.so"),
    ],
)  # fmt: skip
def test_failure_of_atc_is_one_line(command, tmp_path, monkeypatch, text, expected_text):
    install_program(tmp_path / "tools", "atc", f"#!/bin/sh\n{text}\n", monkeypatch)
    code, _, err = command("--format", "om", "--chip", "Ascend1")
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("wav2lip-npu: atc failed ") and expected_text in last and "--chip" in last


def test_chip_is_taken_from_npu_smi(command, tmp_path, monkeypatch):
    assert "--format om needs a chip. Pass --chip" in command("--format", "om")[2]
    table = "| NPU Name | Health |\n| 0     310P3 | OK | 0 |\n| 0     0 | 0000:01:00.0 | 0 |\n"
    install_program(tmp_path / "tools", "npu-smi", f"#!/bin/sh\ncat <<'END'\n{table}END\n", monkeypatch)
    code, out, _ = command("--format", "om", "--batch", 1)
    assert code == 0 and "--soc_version=Ascend310P3" in out


@pytest.mark.parametrize(
    ("words", "expected_text"),
    [
        (["--batch", "-1"], "--batch -1 is out of range"),
        (["--batch", "8", "8"], "--batch 8 8"),
        (["--format", "om", "--batch", "0", "--chip", "x"], "--format om needs a fixed batch size"),
        (["--size", "64", "64"], "--size 64 64"),
        (["--network", "s3fd", "--batch", "1"], "Pass --size 320 576"),
        (["--network", "syncnet"], "is a Wav2Lip generator, not a SyncNet"),
        (["--network", "s3fd"], "does not hold S3FD weights"),
        (["--checkpoint_path", "none.pth"], "cannot read weights none.pth"),
        (["--outdir", "/proc/none"], "cannot write"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, words, expected_text):
    code, _, err = command(*words)
    assert code == 2
    assert expected_text in err.splitlines()[-1]
    assert not list(tmp_path.glob("exported/*"))


@pytest.mark.parametrize(
    ("flag", "value"), [("--network", "discriminator"), ("--format", "tflite"), ("--precision", "int4")]
)
def test_unknown_choice_is_refused(command, flag, value):
    code, _, err = command(flag, value)
    assert code == 2
    assert flag in err and value in err


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package_is_named(command, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = command()
    assert code == 2
    assert f"need the package {package}. Run pip install onnx onnxruntime." in err


def test_example_inputs_have_the_shapes_of_the_manifest():
    for network, shapes in INPUTS.items():
        for arrays in onnx_export.example_inputs(network, 2, size_of(network)):
            assert list(arrays) == list(shapes)
            assert all(item.dtype == np.float32 and len(item) == 2 for item in arrays.values())


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"batch": 257},
        {"network": "discriminator"},
        {"precision": "int4"},
        {"precision": "int8", "network": "syncnet"},
        {"calibration_face": "talk.mp4"},
        {"precision": "int8", "calibration_audio": "speech.wav"},
        {"size": (64, 64)},
        {"network": "s3fd", "batch": 1},
        {"network": "s3fd", "size": (31, 64)},
        {"network": "retinaface", "size": (64, 100)},
        {"network": "retinaface", "batch": 1},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UsageError):
        ExportOptions(**options)


def test_export_onnx_in_python(tiny_checkpoint, tmp_path):
    exported = onnx_export.export_onnx(
        tiny_checkpoint, tmp_path / "new" / "tiny.onnx", batch=2, precision="fp16"
    )
    assert exported.path == tmp_path / "new" / "tiny.onnx"
    assert read_onnx(exported.path)[1] == exported.manifest
    assert (exported.manifest.batch, exported.manifest.precision) == (2, "fp16")
    with pytest.raises(UsageError, match="--batch 0"):
        onnx_export.export_onnx(tiny_checkpoint, tmp_path / "a.onnx", batch=0)
    with pytest.raises(CheckpointError, match="none.pth"):
        onnx_export.export_onnx("none.pth", tmp_path / "a.onnx")
