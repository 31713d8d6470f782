"""Generators in int8: quantised by a clip, compared before they are written, and run by the engine."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.networks import golden_weights
from wav2lip_npu.cli import main
from wav2lip_npu.errors import ExportError, UsageError
from wav2lip_npu.export import calibration, int8_quality, onnx_export
from wav2lip_npu.export.calibration import BUNDLED_CLIP, Samples, read_samples
from wav2lip_npu.export.int8_quality import Int8Quality
from wav2lip_npu.export.onnx_export import example_inputs, export_onnx
from wav2lip_npu.export.onnx_graph import trace_graph
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed: pip install 'wav2lip-npu[export]'", allow_module_level=True)

from wav2lip_npu.export.engines import OnnxEngine, make_session
from wav2lip_npu.export.manifest import read_onnx
from wav2lip_npu.export.onnx_int8 import replace_transposed

pytestmark = pytest.mark.usefixtures("one_thread")
GOOD = Int8Quality(grey_levels=1.0, offset=1, confidence=0.3, original_offset=1, original_confidence=0.31)


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Faces and mels of the first two seconds of the bundled clip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_MAX_FRAMES", 52)
        return read_samples(BUNDLED_CLIP, BUNDLED_CLIP, 0.0, 96)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch, samples: Samples) -> Samples:
    """Read the bundled clip once for all tests."""
    monkeypatch.setattr(onnx_export, "read_samples", lambda *_: samples)
    return samples


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, samples: Samples) -> Path:
    """The bundled generator in int8, by the command."""
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "read_samples", lambda *_: samples)
        assert main.main(["export", "--int8", "--outdir", str(folder)]) == 0
    return folder / "generator_int8.onnx"


def test_bundled_generator_keeps_its_mouths_and_sync(exported, samples):
    manifest = read_onnx(exported, "generator")[1]
    assert (manifest.precision, manifest.batch) == ("int8", None)
    assert exported.stat().st_size < 12e6
    network = onnx_export.load_network("generator").module
    run = make_session(exported.read_bytes())
    with torch.inference_mode():
        arrays = next(samples.batches(4))
        expected = network(*(torch.from_numpy(array) for array in arrays.values())).numpy()
    mouths = slice(48, None)
    assert 255 * np.abs(run(arrays)[0] - expected)[:, :, mouths].mean() < int8_quality.MAX_GREY_LEVELS


def test_engine_computes_the_rows_of_the_whole_graph(exported, samples):
    engine = OnnxEngine(exported)
    arrays = next(samples.batches(3))
    (whole,) = make_session(exported.read_bytes())(arrays)
    features = engine.encode_faces(torch.from_numpy(arrays["face"]))
    assert {feature.dtype for feature in features} == {torch.uint8}
    for top_row in (0, 40):
        rows = engine.decode(torch.from_numpy(arrays["mel"]), features, top_row=top_row)
        np.testing.assert_array_equal(rows.numpy(), whole[:, :, top_row:])
    (still,) = (engine.encode_faces(torch.from_numpy(arrays["face"][:1])),)
    rows = engine.decode(torch.from_numpy(arrays["mel"]), still, top_row=40).numpy()
    np.testing.assert_array_equal(rows[0], whole[0, :, 40:])


def test_dub_with_an_int8_file(exported, tmp_path):
    out = tmp_path / "out.mp4"
    words = ["--face", BUNDLED_CLIP, "--audio", BUNDLED_CLIP, "--outfile", out, "--duration", 0.4]
    words += ["--checkpoint_path", exported, "--engine", "onnx", "--detector", "hog"]
    assert main.main(["dub", *map(str, words)]) == 0
    assert sum(1 for _ in read_frames(out)) == 10


@pytest.mark.slow
@pytest.mark.usefixtures("sampled")
def test_fixed_batch_size(tmp_path):
    network = Wav2Lip(2).eval()
    loaded = onnx_export.LoadedNetwork("generator", network, Path("small.pth"), "0" * 64, None)
    options = onnx_export.ExportOptions(precision="int8", batch=3)
    result = onnx_export.write_onnx(loaded, tmp_path / "small.onnx", options)
    assert result.quality is not None and result.quality.is_good
    engine = OnnxEngine(result.path)
    assert engine.manifest.batch == 3
    assert [len(feature) for feature in engine.encode_faces(torch.zeros(5, 6, 96, 96))] == [5] * 7


@pytest.mark.slow
def test_full_size_network(tmp_path, monkeypatch, samples):
    checkpoint.save(tmp_path / "full.pth", Wav2Lip())
    monkeypatch.setattr(onnx_export, "read_samples", lambda *_: samples)
    result = export_onnx(tmp_path / "full.pth", tmp_path / "full.onnx", precision="int8")
    assert result.quality is not None and result.quality.is_good
    assert result.path.stat().st_size < 50e6


def test_transposed_convolutions_are_replaced_exactly():
    graph = trace_graph("generator", golden_weights(Wav2Lip(2)))
    before = make_session(graph.SerializeToString())
    replace_transposed(graph)
    assert "ConvTranspose" not in {node.op_type for node in graph.graph.node}
    after = make_session(graph.SerializeToString())
    for arrays in example_inputs("generator", 2, (96, 96)):
        np.testing.assert_allclose(after(arrays)[0], before(arrays)[0], atol=1e-5)


def test_file_that_differs_is_not_written(tiny_checkpoint, tmp_path, sampled, monkeypatch):
    monkeypatch.setattr(int8_quality, "MAX_GREY_LEVELS", 0.0)
    with pytest.raises(ExportError, match=r"small\.onnx.*grey levels.*confidence.*--int8") as error:
        export_onnx(tiny_checkpoint, tmp_path / "small.onnx", precision="int8", batch=3)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "is_good"),
    [
        ({}, True),
        ({"grey_levels": 1.6}, False),
        ({"grey_levels": float("nan")}, False),
        ({"offset": 2}, False),
        ({"confidence": 0.2}, False),
        ({"offset": 9, "confidence": 0.01, "original_confidence": 0.015}, True),
    ],
)
def test_quality_is_judged_by_mouth_and_sync(changes, is_good):
    assert replace(GOOD, **changes).is_good == is_good


def test_short_clip_is_refused(monkeypatch):
    monkeypatch.setattr(calibration, "_MAX_FRAMES", 20)
    with pytest.raises(UsageError, match=r"calibration\.mp4.*20 frames.*--calibration_face"):
        read_samples(BUNDLED_CLIP, BUNDLED_CLIP, 0.0, 96)


def test_last_batch_is_filled(samples):
    batches = list(samples.batches(8, 4))
    assert {len(batch["mel"]) for batch in batches} == {8}
    assert len(batches) == -(-len(samples.frames[::4]) // 8)
    np.testing.assert_array_equal(
        batches[-1]["face"][-1],
        next(itertools.islice(samples.batches(1), (len(samples.frames) - 1) // 4 * 4, None))["face"][0],
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--int8", "--format", "om", "--chip", "Ascend310P3"], "--int8"),
        (["--int8", "--chip", "Ascend310P3"], "--chip"),
        (["--int8", "--precision", "fp16"], "--precision fp16"),
        (["--int8", "--network", "syncnet"], "--network syncnet"),
        (["--calibration_face", "talk.mp4"], "--int8"),
        (["--int8", "--calibration_face", "missing.mp4"], "missing.mp4"),
    ],
)
def test_wrong_options_are_one_line(words, named, tmp_path, capsys):
    assert main.main(["export", "--outdir", str(tmp_path / "out"), *words]) == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
