"""Live streams: the frames of a dub, pushed and read in any order, many at once, without one harming another."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.memory import traced_peak
from wav2lip_npu.dubbing import pipeline
from wav2lip_npu.dubbing.inference import GeneratorRunner
from wav2lip_npu.errors import BusyError, FaceError, UsageError
from wav2lip_npu.live import session as sessions
from wav2lip_npu.live.device_loop import DeviceLoop
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import YuvImage

RATE = 16_000
OPTIONS = StreamOptions(max_sessions=16, max_delay=None, avatar_seconds=0.6)


def open_stream(models, face, **values):
    return models.stream(face, options=OPTIONS, **values)


def push(stream, pcm: np.ndarray, size: int = 320, rate: int = RATE) -> None:
    for start in range(0, len(pcm), size):
        stream.push_audio(pcm[start : start + size], rate)


def spoken(stream, pcm: np.ndarray, size: int = 320) -> list:
    """Push audio in a thread and return all frames."""

    def work() -> None:
        push(stream, pcm, size)
        stream.finish()

    pushing = threading.Thread(target=work)
    pushing.start()
    frames = list(stream)
    pushing.join()
    return frames


def difference(one: YuvImage, other: YuvImage) -> int:
    return max(
        int(np.abs(getattr(one, plane).astype(int) - getattr(other, plane)).max())
        for plane in ("y", "u", "v")
    )


def test_frames_equal_those_of_a_dub(models, face_video, pcm, tmp_path):
    """Same mel, same frame: within one grey level, since the batches have other sizes."""
    audio = tmp_path / "audio.wav"
    soundfile.write(audio, np.tile(pcm, 2), RATE)
    out = tmp_path / "out.mp4"
    pipeline.dub(
        face_video, audio, out, models=models, rest="off", extend="pingpong", crf=0, preset="ultrafast"
    )
    dubbed = list(read_frames(out))
    with open_stream(models, face_video, rest="off", avatar_seconds=5) as stream:
        frames = spoken(stream, np.tile(pcm, 2))
        assert stream.size == (320, 240)
    assert len(frames) == len(dubbed) == 100
    assert [frame.number for frame in frames] == list(range(100))
    assert frames[7].time == Fraction(7, 25)
    for live, dub in zip(frames[:90], dubbed, strict=False):  # the last windows of a dub end with the audio
        assert difference(live.yuv, dub.yuv) <= 1
    assert frames[0].image.shape == (240, 320, 3) and frames[0].image.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([frame.audio for frame in frames]), np.tile(pcm, 2))


def test_avatar_is_played_back_and_forth_without_a_jump(models, face_video, pcm):
    with open_stream(models, face_video) as stream:
        avatar = stream._session.avatar
        indices = [avatar.index(number) for number in range(60)]
        assert len(avatar.frames) == 15 and set(indices) == set(range(15))
        assert set(np.abs(np.diff(indices))) == {1}
        frames = spoken(stream, pcm)
    assert difference(frames[0].yuv, frames[14].yuv) > 50, "the face moves"


def test_silence_skips_the_network_and_closes_the_mouth(models, face_video, pcm, monkeypatch):
    counts: list[int] = []
    decode = GeneratorRunner.decode_faces

    def counting(self, faces, mels):
        counts.append(len(mels))
        return decode(self, faces, mels)

    monkeypatch.setattr(GeneratorRunner, "decode_faces", counting)
    with open_stream(models, face_video) as stream:
        frames = spoken(stream, np.concatenate([pcm, np.zeros(10 * RATE, np.int16)]))
        stats = stream.stats
    silent = [frame.number for frame in frames if not frame.speaks]
    assert len(frames) == 300 and set(range(70, 290)) <= set(silent)
    assert stats.silent == len(silent) and stats.frames == 300
    assert sum(counts) <= 300 - len(silent) + 15, "each closed mouth is generated once"


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_chunks_of_any_size_give_the_same_frames(models, face_video, pcm, size):
    pcm = pcm[: 10_000 if size < 10 else 32_000]
    with open_stream(models, face_video, sample_rate=RATE) as stream:
        frames = spoken(stream, pcm, size)
    with open_stream(models, face_video) as stream:
        others = spoken(stream, pcm)
    assert len(frames) == len(others) == -(-len(pcm) // 640)
    assert all(difference(a.yuv, b.yuv) == 0 for a, b in zip(frames, others, strict=True))


def test_event_loop_reads_and_pushes(models, face_video, pcm):
    async def run() -> list[list[int]]:
        streams = [open_stream(models, face_video) for _ in range(3)]

        async def feed(stream) -> None:
            for start in range(0, len(pcm), 320):
                await stream.push_audio_async(pcm[start : start + 320].tobytes(), RATE)
            stream.finish()

        async def read(stream) -> list[int]:
            return [frame.number async for frame in stream]

        results = await asyncio.gather(*map(read, streams), *map(feed, streams))
        for stream in streams:
            stream.close()
        return results[:3]

    assert asyncio.run(run()) == [list(range(50))] * 3


def test_full_stream_never_blocks_an_event_loop(models, face_video, pcm):
    async def run() -> None:
        with open_stream(models, face_video) as stream:
            with pytest.raises(BusyError, match="push_audio_async"):
                for _ in range(100):
                    stream.push_audio(pcm, RATE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.push_audio_async(pcm, RATE), 0.05)

    asyncio.run(run())


def test_queues_are_bounded_and_no_audio_is_dropped(models, face_video, pcm):
    """Without a reader, pushing waits; a later reader gets everything."""
    audio = np.tile(pcm, 5)
    done = threading.Event()
    with open_stream(models, face_video) as stream:

        def work() -> None:
            push(stream, audio, 1600)
            stream.finish()
            done.set()

        pushing = threading.Thread(target=work)
        pushing.start()
        assert not done.wait(0.5), "10 s of audio do not fit"
        heard = np.concatenate([frame.audio for frame in stream])
        pushing.join()
    np.testing.assert_array_equal(heard, audio)


def test_interruption_drops_what_waits_and_continues_the_time(models, face_video, pcm):
    with open_stream(models, face_video) as stream:
        push(stream, pcm[:20_000])
        frames = iter(stream)
        assert [next(frames).number for _ in range(3)] == [0, 1, 2]
        stream.clear()
        push(stream, pcm[: RATE // 2])
        stream.finish()
        after = list(frames)
        assert [frame.number for frame in after] == list(range(3, 16))
        np.testing.assert_array_equal(after[0].audio, pcm[:640])
        assert stream.stats.cleared > 0


def test_interruption_drops_a_chunk_that_waits(models, face_video, pcm):
    with open_stream(models, face_video) as stream:
        pushed = threading.Thread(target=push, args=(stream, np.tile(pcm, 3), 32_000))
        pushed.start()
        pushed.join(0.3)
        assert pushed.is_alive()
        stream.clear()
        pushed.join(10)
        assert not pushed.is_alive()


def test_flush_completes_a_sentence(models, face_video, pcm):
    with open_stream(models, face_video) as stream:
        push(stream, pcm[:1000])
        stream.flush()
        frames = iter(stream)
        assert [next(frames).number for _ in range(2)] == [0, 1]
        push(stream, pcm[:1000])
        stream.finish()
        assert [frame.number for frame in frames] == [2, 3]


def test_late_frames_repeat_the_image_and_keep_the_audio(models, face_video, pcm, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sessions, "monotonic", lambda: clock[0])
    decode = GeneratorRunner.decode_faces

    def slow(self, faces, mels):
        clock[0] += 0.1  # the device takes 100 ms for a frame of 40 ms
        return decode(self, faces, mels)

    with open_stream(models, face_video, max_delay=0.25, rest="off", queue_seconds=10) as stream:
        monkeypatch.setattr(GeneratorRunner, "decode_faces", slow)
        frames = spoken(stream, np.tile(pcm, 2))
    late = [frame for frame in frames if frame.is_late]
    assert 30 < len(late) < 70 and stream.stats.late == len(late)
    assert not frames[0].is_late and len(frames) == 100
    for frame in late:
        assert frame.yuv is frames[frame.number - 1].yuv
    np.testing.assert_array_equal(np.concatenate([frame.audio for frame in frames]), np.tile(pcm, 2))


def test_slow_reader_is_not_late_and_slows_nobody(models, face_video, pcm, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sessions, "monotonic", lambda: clock[0])
    slow, fast = (open_stream(models, face_video, max_delay=0.25) for _ in range(2))
    slow.push_audio(pcm, RATE)
    assert len(spoken(fast, np.tile(pcm, 3))) == 150, "while the other one is full"
    clock[0] = 100.0
    slow.finish()
    frames = list(slow)
    assert len(frames) == 50 and not any(frame.is_late for frame in frames)
    slow.close(), fast.close()


def test_forgotten_stream_frees_its_place(models, face_video, pcm):
    stream = open_stream(models, face_video, max_sessions=1)
    with pytest.raises(BusyError):
        open_stream(models, face_video, max_sessions=1)
    push(stream, pcm)
    del stream
    gc.collect()
    with open_stream(models, face_video, max_sessions=1) as stream:
        assert len(spoken(stream, pcm)) == 50


def test_threads_end_with_the_last_stream(models, face_video, pcm):
    with open_stream(models, face_video) as stream:
        spoken(stream, pcm[:1600])
        assert any(thread.name.startswith("live-") for thread in threading.enumerate())
    for thread in threading.enumerate():
        if thread.name.startswith("live-"):
            thread.join(10)
            assert not thread.is_alive()


def test_capacity_is_measured(models, face_video, monkeypatch):
    monkeypatch.setattr(DeviceLoop, "_measure", lambda self, avatar, blend: 0.010)
    lanes = models.live.loop.lanes
    streams = [open_stream(models, face_video, max_sessions=None) for _ in range(int(0.8 * lanes * 4))]
    with pytest.raises(BusyError, match=str(len(streams))):
        open_stream(models, face_video, max_sessions=None)
    monkeypatch.undo()
    for stream in streams:
        stream.close()
    assert replace(models).live.loop._measure(streams[0]._session.avatar, "soft") > 0


def test_batch_over_all_streams(models, face_video, pcm, monkeypatch):
    """One batch holds a frame of each stream, and gives the frames of streams on their own."""
    models.live.loop._max_batch = 8
    models.live.loop.lanes = 1
    sizes: list[int] = []
    decode = GeneratorRunner.decode_faces

    def recording(self, faces, mels):
        sizes.append(len(mels))
        return decode(self, faces, mels)

    streams = [open_stream(models, face_video, rest="off") for _ in range(4)]
    monkeypatch.setattr(GeneratorRunner, "decode_faces", recording)
    voices = [np.roll(pcm, shift)[:RATE] for shift in (0, 4_000, 9_000, 15_000)]
    for stream, voice in zip(streams, voices, strict=True):
        stream.push_audio(voice, RATE)
        stream.finish()
    read: list[list] = [[] for _ in streams]
    for number, frames in enumerate(zip(*streams, strict=True)):
        for some, frame in zip(read, frames, strict=True):
            assert frame.number == number
            some.append(frame)
    assert max(sizes) == 4
    for stream, voice, some in zip(streams, voices, read, strict=True):
        stream.close()
        with open_stream(models, face_video, rest="off") as alone:
            others = spoken(alone, voice)
        assert all(difference(a.yuv, b.yuv) <= 1 for a, b in zip(some, others, strict=True))


def test_stream_that_fails_does_not_end_the_others(models, face_video, pcm, monkeypatch):
    good, bad = (open_stream(models, face_video, rest="off") for _ in range(2))
    show = DeviceLoop._show

    def failing(self, plan):
        if plan.task.session is bad._session and plan.task.audio.number == 5:
            raise RuntimeError("broken")
        return show(self, plan)

    monkeypatch.setattr(DeviceLoop, "_show", failing)
    for stream in (good, bad):
        stream.push_audio(pcm, RATE)
        stream.finish()
    with pytest.raises(RuntimeError, match="broken"):
        list(bad)
    assert len(list(good)) == 50
    with pytest.raises(RuntimeError):
        bad.push_audio(pcm, RATE)
    good.close()


def test_garbage_is_refused_and_the_stream_goes_on(models, face_video, pcm):
    with open_stream(models, face_video) as stream:
        push(stream, pcm[:8_000])
        for chunk in (b"odd", np.array([np.nan], np.float32), "text", None, np.zeros(3, np.int32)):
            with pytest.raises(UsageError):
                stream.push_audio(chunk, RATE)
        push(stream, pcm[8_000:])
        stream.finish()
        np.testing.assert_array_equal(np.concatenate([frame.audio for frame in stream]), pcm)
        with pytest.raises(UsageError, match="ended"):
            stream.push_audio(pcm, RATE)


def test_memory_is_flat(models, face_video, pcm):
    with open_stream(models, face_video) as stream:

        def peak(seconds: int) -> int:
            with traced_peak() as measured:
                frames = iter(stream)
                for second in range(seconds):
                    push(stream, pcm[:RATE], 1600)
                    for _ in range(25 if second else 20):
                        next(frames)
                stream.clear()
                return measured()

        peak(1)
        # A few frames more or less are on the way, depending on the threads. The longer run has 50 frames more.
        width, height = stream.size
        assert peak(4) < peak(2) + 10 * 3 * width * height


def test_photo_is_an_avatar(models, face_video, pcm, tmp_path):
    import cv2

    photo = tmp_path / "face.png"
    cv2.imwrite(str(photo), next(read_frames(face_video)).image)
    with open_stream(models, photo) as stream:
        frames = spoken(stream, pcm)
        assert len(stream._session.avatar.frames) == 1
    assert len(frames) == 50
    silent = [frame for frame in frames if not frame.speaks]
    assert difference(silent[10].yuv, silent[11].yuv) == 0


def test_face_is_needed(models, faceless_video):
    with pytest.raises(FaceError, match=Path(faceless_video).name):
        open_stream(models, faceless_video)


@pytest.mark.parametrize(
    "values", [{"fps": 0}, {"fps": 90}, {"buffer_seconds": 0}, {"sample_rate": 5}, {"max_sessions": 0}]
)
def test_options_are_checked(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        StreamOptions(**values)
