"""Whole dubs with generated media, a tiny network, and every stage in its thread."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from support.devices import DEVICE
from support.faces import SquareDetector, face_frames, write_audio
from support.marks import slow
from support.networks import copying_generator, generator_of
from wav2lip_npu.devices import device as devices
from wav2lip_npu.dubbing import blend, inference, outputs, pipeline, stages
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import FaceError, MediaError, UsageError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media import audio_reader, container, encoders, video_reader
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.plans import PLANS

LOSSLESS = EncodeOptions(crf=0, preset="ultrafast")


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> inference.Models:
    path = tmp_path_factory.mktemp("weights") / "copying.pth"
    checkpoint.save(path, copying_generator())
    loaded = inference.load_models(path, detector="hog", device=str(DEVICE), precision="fp32")
    return replace(loaded, detector=SquareDetector())


def frames_of(path: Path) -> list[video_reader.Frame]:
    return list(video_reader.read_frames(path))


def end_times(path: Path) -> tuple[float, float]:
    """Return the seconds at which video and audio end."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        video_end = max(
            float((p.pts + p.duration) * p.time_base) for p in container.demux(video) if p.pts is not None
        )
        del audio
    return video_end, float(audio_reader.measure_audio(path).duration)


def same(a: YuvImage, b: YuvImage) -> bool:
    return all(np.array_equal(getattr(a, plane), getattr(b, plane)) for plane in "yuv")


@pytest.mark.parametrize("seconds", [0.01, slow(0.1), 0.62, slow(1.5)])
def test_video_and_audio_end_together(models, face_video, tmp_path, seconds):
    audio = write_audio(tmp_path / "sound.wav", seconds)
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face_video, audio, out, models=models)
    assert report.frames == max(1, round(seconds * 25)) == len(frames_of(out))
    video_end, audio_end = end_times(out)
    assert abs(video_end - audio_end) <= 1 / 25
    assert audio_end == pytest.approx(seconds, abs=2e-3)


@pytest.mark.parametrize("fps", ["2213/100", slow("24000/1001"), "30000/1001", slow("30"), "60"])
def test_frame_rate_of_the_video_is_kept(models, speech, tmp_path, fps):
    face = tmp_path / "face.mkv"
    write_video(face_frames(20), face, fps=Fraction(fps), options=LOSSLESS)
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face, speech, out, models=models)
    assert container.probe(out).fps == Fraction(fps) == Fraction(report.fps)
    assert report.frames == round(Fraction(3, 5) * Fraction(fps))
    video_end, audio_end = end_times(out)
    assert abs(video_end - audio_end) <= 1 / Fraction(fps)


@pytest.mark.parametrize("fps", [23.976, 25, slow(29.97), slow(30), slow(50), 60])
def test_fps_of_a_video_is_resampled(models, face_video, speech, tmp_path, fps):
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face_video, speech, out, models=models, fps=fps, crf=0, preset="ultrafast")
    exact = {23.976: Fraction(24000, 1001), 29.97: Fraction(30000, 1001)}.get(fps, Fraction(fps))
    assert container.probe(out).fps == exact == Fraction(report.fps)
    assert report.frames == round(Fraction(3, 5) * exact)
    with av.open(str(out)) as video:
        stamps = sorted(
            packet.pts * packet.time_base for packet in video.demux(video=0) if packet.pts is not None
        )
    assert stamps == [number / exact for number in range(report.frames)]
    sources, half = frames_of(face_video), 1 / exact / 2
    for frame in frames_of(out):
        near = [
            source
            for source in sources
            if abs(source.index / Fraction(25) - frame.index / exact) <= max(half, Fraction(1, 25) - half)
        ]
        assert any(np.array_equal(frame.yuv.y[:60], source.yuv.y[:60]) for source in near)  # above the mouth


@pytest.mark.parametrize("extend", ["loop", "pingpong", "hold"])
def test_short_video_is_extended(models, tmp_path, extend):
    speech = write_audio(tmp_path / "speech.wav", 1.0)
    face = tmp_path / "face.mp4"
    write_video(face_frames(10), face, fps=Fraction(25), options=LOSSLESS)
    out = tmp_path / "out.mp4"
    report = pipeline.dub(
        face, speech, out, models=models, options=DubOptions(extend=extend, encode=LOSSLESS)
    )
    there_and_back = [*range(10), *range(8, 0, -1)]
    order = {"loop": [*range(10)], "pingpong": there_and_back, "hold": [*range(10), *[9] * 15]}[extend]
    sources, results = frames_of(face), frames_of(out)
    assert len(results) == report.frames == 25
    for frame, number in zip(results, itertools.cycle(order), strict=False):
        assert np.array_equal(frame.yuv.y[:60], sources[number].yuv.y[:60])  # above the mouth


def test_nothing_changes_outside_the_mask(models, face_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face_video, speech, out, models=models, options=DubOptions(encode=LOSSLESS))
    assert report.dubbed_frames == report.frames
    changed = np.zeros((240, 320), bool)
    for before, after in zip(frames_of(face_video), frames_of(out), strict=False):
        change = before.yuv.y != after.yuv.y
        assert change.any()
        rows, columns = np.nonzero(change)
        left = 20 + 2 * before.index
        assert rows.min() >= 30 + 180 * 0.4
        assert rows.max() < 30 + 180 + 10
        assert columns.min() >= left - 2
        assert columns.max() <= left + 182
        changed |= change
        below = np.nonzero(before.yuv.u != after.yuv.u)[0]
        assert below.min() >= (30 + 180 * 0.4) / 2
    assert 0.05 < changed.mean() < 0.5


@pytest.mark.slow
@pytest.mark.any_device
def test_result_without_prefetch_is_identical(models, face_video, speech, tmp_path, monkeypatch):
    pipeline.dub(
        face_video, speech, tmp_path / "ahead.mp4", models=models, options=DubOptions(encode=LOSSLESS)
    )
    for module in (stages, outputs):
        monkeypatch.setattr(module, "prefetch", lambda items, depth: items)
    pipeline.dub(
        face_video, speech, tmp_path / "plain.mp4", models=models, options=DubOptions(encode=LOSSLESS)
    )
    ahead, plain = frames_of(tmp_path / "ahead.mp4"), frames_of(tmp_path / "plain.mp4")
    assert len(ahead) == len(plain) == 15
    assert all(same(a.yuv, b.yuv) for a, b in zip(ahead, plain, strict=True))


def test_copying_generator_leaves_no_seam(copying, face_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    pipeline.dub(face_video, speech, out, models=copying, options=DubOptions(encode=LOSSLESS))
    for before, after in zip(frames_of(face_video), frames_of(out), strict=False):
        smooth = [cv2.GaussianBlur(item.image, (0, 0), 6).astype(int) for item in (before, after)]
        assert np.abs(smooth[0] - smooth[1]).max() <= 10


@pytest.mark.slow
def test_batch_size_does_not_change_the_frames(models, face_video, speech, tmp_path):
    for batch in (1, 7, 64):
        options = DubOptions(encode=LOSSLESS, wav2lip_batch_size=batch)
        pipeline.dub(face_video, speech, tmp_path / f"{batch}.mp4", models=models, options=options)
    one, *others = (frames_of(tmp_path / f"{batch}.mp4") for batch in (1, 7, 64))
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert np.abs(a.yuv.y.astype(int) - b.yuv.y).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cores_and_batch_size_do_not_change_the_file(
    models, face_video, speech, tmp_path, monkeypatch, tiny_checkpoint, precision
):
    if precision != "fp32":
        loaded = inference.load_models(tiny_checkpoint, detector="hog", device="cpu", precision=precision)
        models = replace(loaded, detector=models.detector)
    files = set()
    for cores, batch in ((1, None), (2, 3), (16, 8)):
        for module in (devices, encoders):
            monkeypatch.setattr(module, "cpu_count", lambda cores=cores: cores)
        out = tmp_path / f"{cores}.mp4"
        pipeline.dub(
            face_video, speech, out, models=models, wav2lip_batch_size=batch, crf=0, preset="ultrafast"
        )
        files.add(out.read_bytes())
    assert len(files) == 1


def test_out_of_memory_halves_the_batch(models, face_video, speech, tmp_path, monkeypatch):
    sizes = []
    decode = models.generator.decode

    def small_device(mels, features, **options):
        sizes.append(len(mels))
        if len(mels) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return decode(mels, features, **options)

    monkeypatch.setattr(models.generator, "decode", small_device)
    report = pipeline.dub(
        face_video, speech, tmp_path / "out.mp4", models=models, options=DubOptions(wav2lip_batch_size=16)
    )
    assert report.dubbed_frames == 15
    assert max(sizes) > 3
    assert max(sizes[-5:]) == 2  # halved permanently


def test_errors_of_the_generator_are_raised(models, face_video, speech, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(models.generator, "decode", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models)
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_still_image_is_encoded_once(models, speech, tmp_path, monkeypatch):
    photo = tmp_path / "photo.txt"  # only the content matters, not the name
    photo.write_bytes(cv2.imencode(".png", next(face_frames(1)).to_image())[1].tobytes())
    encoded = []
    encode_faces = models.generator.encode_faces
    monkeypatch.setattr(
        models.generator, "encode_faces", lambda faces: encoded.append(len(faces)) or encode_faces(faces)
    )
    models.detector.calls = 0
    report = pipeline.dub(photo, speech, tmp_path / "out.mp4", models=models, options=DubOptions(fps=30))
    assert report.frames == 18
    assert report.fps == "30"
    assert encoded == [models.batch]


def test_static_uses_the_first_frame_only(models, face_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    pipeline.dub(face_video, speech, out, models=models, options=DubOptions(static=True, encode=LOSSLESS))
    first = next(video_reader.read_frames(face_video)).yuv
    assert all(np.array_equal(frame.yuv.y[:60], first.y[:60]) for frame in frames_of(out))


def test_hard_blend_replaces_the_whole_box(models, face_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    faces = FaceOptions(box=(40, 140, 60, 160))
    pipeline.dub(
        face_video, speech, out, models=models, options=DubOptions(blend="hard", faces=faces, encode=LOSSLESS)
    )
    before, after = next(video_reader.read_frames(face_video)), next(video_reader.read_frames(out))
    change = before.yuv.y != after.yuv.y
    rows, columns = np.nonzero(change)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 139, 60, 159)
    assert change[40:140, 60:160].mean() > 0.9


def test_frames_without_face_are_unchanged_and_reported(models, tmp_path):
    speech = write_audio(tmp_path / "speech.wav", 1.5)
    grey = YuvImage.from_image(np.full((240, 320, 3), 110, np.uint8), Colour())
    shown = list(face_frames(12))
    face = tmp_path / "face.mp4"
    write_video([*shown, *[grey] * 20, *shown], face, fps=Fraction(25), options=LOSSLESS)
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face, speech, out, models=models, options=DubOptions(encode=LOSSLESS))
    assert report.faceless_spans == [(12, 31)]
    assert report.dubbed_frames == 38 - 20
    assert all(same(frame.yuv, grey) for frame in frames_of(out)[12:32])
    with pytest.raises(FaceError, match=r"face.mp4, frames 12-31 \(0.5-1.3 s\).*--no_face keep"):
        pipeline.dub(face, speech, out, models=models, options=DubOptions(faces=FaceOptions(no_face="error")))


def test_no_face_is_an_error_after_one_pass(models, faceless_video, tmp_path):
    long = write_audio(tmp_path / "long.wav", 30)
    with pytest.raises(FaceError, match=r"nobody.mp4, frames 0-24\b"):
        pipeline.dub(faceless_video, long, tmp_path / "out.mp4", models=models)
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


def test_geometry_changes_the_whole_frame(models, face_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    geometry = Geometry(resize_factor=2, rotate=True, crop=(0, 140, 10, -1))
    faces = FaceOptions(box=(20, 80, 20, 80))
    report = pipeline.dub(
        face_video, speech, out, models=models, options=DubOptions(geometry=geometry, faces=faces)
    )
    info = container.probe(out)
    assert (info.width, info.height) == (report.width, report.height) == (110, 140)


def test_mel_shift_moves_the_audio(models, face_video, speech, tmp_path):
    videos = []
    for shift in (0, -3):
        out = tmp_path / f"{shift}.mp4"
        options = DubOptions(mel_shift=shift, static=True, encode=LOSSLESS)
        pipeline.dub(face_video, speech, out, models=models, options=options)
        videos.append([frame.yuv for frame in frames_of(out)])
    assert all(same(a, b) for a, b in zip(videos[0][0:10], videos[1][3:13], strict=True))
    assert not same(videos[0][5], videos[1][5])


def test_report_and_metadata(models, face_video, speech, tmp_path):
    out = tmp_path / "out.mp4"
    report = pipeline.dub(face_video, speech, out, models=models)
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["frames"] == 15
    assert written["checkpoint_sha256"] == models.digest
    assert set(written["seconds_per_stage"]) == {"decode", "faces", "generate", "blend", "encode"}
    assert all(spent >= 0 for spent in written["seconds_per_stage"].values())
    assert written["bound_by"] in written["stages"]
    for name, stage in written["stages"].items():
        assert set(stage) == {"busy", "starved", "waiting"}
        assert stage["busy"] == written["seconds_per_stage"][name] <= written["seconds"]
    assert written["peak_memory_bytes"] > 50e6
    assert written["versions"]["torch"] == version("torch")
    with av.open(str(out)) as container:
        comment = container.metadata["comment"]
    assert "wav2lip-npu" in comment
    assert "tiny.pth" in comment
    assert models.digest in comment


def test_output_is_replaced_only_after_success(models, face_video, speech, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    out.write_text("old content")

    def full(*_, **__):
        raise MediaError("the disk is full")

    monkeypatch.setattr(blend, "paste", full)
    with pytest.raises(MediaError):
        pipeline.dub(face_video, speech, out, models=models)
    assert out.read_text() == "old content"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_audio_of_the_face_video_can_be_used(models, face_video, speech, tmp_path):
    talking = tmp_path / "talking.mp4"
    pipeline.dub(face_video, speech, talking, models=models)
    # The tiny generator paints noise, which is not a mouth.
    report = pipeline.dub(talking, talking, tmp_path / "out.mp4", models=models, occlusion="off")
    assert report.frames == 15


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("extend", "mirror"),
        ("blend", "poisson"),
        ("fps", 0),
        ("fps", float("nan")),
        ("wav2lip_batch_size", 0),
        ("crf", 52),
        ("no_face", "skip"),
    ],
)
def test_option_out_of_range_is_named(models, face_video, speech, tmp_path, option, value):
    with pytest.raises(UsageError, match=f"--{option} .*{value}"):
        pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, **{option: value})
    assert list(tmp_path.iterdir()) == []


def test_crop_outside_the_frame_is_an_error(models, face_video, speech, tmp_path):
    with pytest.raises(UsageError, match=r"--crop 0 999 0 -1 .*320x240"):
        pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, crop=(0, 999, 0, -1))
    assert list(tmp_path.iterdir()) == []


def test_options_by_name_override_options(models, face_video, speech, tmp_path):
    options = DubOptions(encode=LOSSLESS, faces=FaceOptions(box=(20, 80, 20, 80)))
    report = pipeline.dub(
        face_video, speech, tmp_path / "out.mp4", models=models, options=options, resize_factor=2, static=True
    )
    assert (report.width, report.height) == (160, 120)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"resize_facto": 2}, "resize_factor"), ({"device": "cpu"}, r"load_models\(device=")],
)
def test_unknown_option_is_named(models, face_video, speech, tmp_path, values, message):
    with pytest.raises(UsageError, match=message):
        pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, **values)


def test_default_models_are_the_bundled_ones(face_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio = write_audio(tmp_path / "speech.wav", 0.2)
    report = pipeline.dub(face_video, audio, "out.mp4")
    assert report.checkpoint.endswith("generator.safetensors")
    assert (report.detector, report.frames) == ("retinaface", 5)


def test_models_are_loaded_after_the_files_are_checked(face_video, tmp_path):
    def load() -> inference.Models:
        raise AssertionError("loaded")

    with pytest.raises(MediaError, match=r"none\.wav"):
        pipeline.dub(face_video, tmp_path / "none.wav", tmp_path / "out.mp4", models=load)


@pytest.mark.any_device
def test_hidden_rows_are_not_computed(models):
    assert load_mask("soft", 96).top_row > 40
    assert load_mask("hard", 96).top_row == 0


def test_concurrent_dubs_restore_the_threads_of_opencv(models, face_video, speech, tmp_path):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    both = threading.Barrier(2, timeout=60)
    is_first = [True, True]

    def dub(number: int) -> None:
        def progress(frames: int, total: int) -> None:
            if is_first[number]:
                is_first[number] = False
                both.wait()

        out = tmp_path / f"{number}.mp4"
        pipeline.dub(
            face_video, speech, out, models=models, progress=progress, box=(0, 60, 0, 60), preset="ultrafast"
        )

    try:
        dubs = [threading.Thread(target=dub, args=(number,)) for number in range(2)]
        for thread in dubs:
            thread.start()
        for thread in dubs:
            thread.join()
        assert is_first == [False, False]
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_outputs_with_the_same_file_are_refused(models, face_video, speech, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    pairs = [(speech, tmp_path / "same.mp4"), (speech, str(tmp_path / "link" / "same.mp4"))]
    with pytest.raises(UsageError, match=r"same\.mp4"):
        pipeline.dub_many(face_video, pairs, models=models)
    assert not (tmp_path / "same.mp4").exists()


@pytest.mark.parametrize("item", ["b.wav", 5, ("b.wav", None), ("b.wav", "c.mp4", "d.mp4")])
def test_wrong_outputs_are_refused(item):
    with pytest.raises(UsageError, match=r"output|outfile"):
        pipeline.dub_many("a.mp4", [item])


@pytest.mark.any_device
@pytest.mark.parametrize("blend", ["soft", slow("hard")])
def test_faces_of_a_larger_generator(blend: str, face_video: Path, speech: Path, tmp_path: Path) -> None:
    plan = next(plan for plan in PLANS if plan.name == "sam")
    checkpoint.save(tmp_path / "x.pth", generator_of(plan))
    models = inference.load_models(tmp_path / "x.pth", detector="hog", device=str(DEVICE), face_size=192)
    models = replace(models, detector=SquareDetector())
    sizes: list[int] = []
    encode = models.generator.encode_faces
    models.generator.encode_faces = lambda faces: sizes.append(faces.shape[-1]) or encode(faces)  # type: ignore
    report = pipeline.dub(face_video, speech, tmp_path / "out.mp4", models=models, blend=blend)
    assert set(sizes) == {192} and report.face_size == 192
    assert report.dubbed_frames == report.frames == 15
