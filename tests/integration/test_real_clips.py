"""Every real clip with every real audio file. This takes half an hour: `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from support.faces import SHARED
from support.networks import golden_weights
from wav2lip_npu.dubbing import inference, pipeline
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import FaceError
from wav2lip_npu.media import audio_reader, container
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip

pytestmark = pytest.mark.slow
FACES = sorted([*SHARED.glob("clips/*"), *SHARED.glob("photos/*"), *sorted(SHARED.glob("grid/others/*"))[:2]])
SOUNDS = sorted(SHARED.glob("audio/*"))
WITHOUT_FACE = {"no_face.mp4", "no_face.jpg"}
QUICK = DubOptions(encode=EncodeOptions(preset="ultrafast"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> inference.Models:
    path = tmp_path_factory.mktemp("weights") / "narrow.pth"
    checkpoint.save(path, golden_weights(Wav2Lip(width=4)))
    return inference.load_models(path, detector="hog", device="cpu")


@pytest.mark.skipif(not FACES, reason=f"needs the real clips in {SHARED}")
@pytest.mark.parametrize("audio", SOUNDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("face", FACES, ids=lambda path: path.stem)
def test_video_and_audio_end_together(
    models: inference.Models, face: Path, audio: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    if face.name in WITHOUT_FACE:
        with pytest.raises(FaceError, match=face.name):
            pipeline.dub(face, audio, out, models=models, options=QUICK)
        assert not list(tmp_path.iterdir())
        return
    report = pipeline.dub(face, audio, out, models=models, options=QUICK)
    expected = audio_reader.measure_audio(audio).duration
    fps = container.probe(out).fps
    assert report.frames == round(expected * fps)
    with av.open(str(out)) as file:
        video, track = file.streams.video[0], file.streams.audio[0]
        assert video.frames == sum(1 for _ in file.decode(video)) == report.frames
        ends = [float((stream.start_time + stream.duration) * stream.time_base) for stream in (video, track)]
    assert abs(ends[0] - ends[1]) <= 1 / fps
    assert ends[1] == pytest.approx(float(expected), abs=0.002)
