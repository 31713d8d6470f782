"""Viewers by WebRTC, with a client of aiortc in the same process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiortc")

import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.sdp import SessionDescription
from av import VideoFrame

from wav2lip_npu.errors import BusyError, UsageError
from wav2lip_npu.live import webrtc_media
from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.ice_servers import IceServer
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.live.webrtc import WebRtcPeers
from wav2lip_npu.media.yuv_image import SCREEN, YuvImage

FPS, SIZE, RATE = Fraction(25), (320, 240), 16_000
FLASHES = 8
"""Frames from one flash to the next."""
OPTIONS = StreamOptions(max_sessions=16, max_delay=None, avatar_seconds=0.6, sample_rate=RATE)


@dataclass
class Viewer:
    """A client that keeps what it receives."""

    connection: RTCPeerConnection
    images: list[tuple[float, float]] = field(default_factory=list)
    """Times and brightness."""
    sounds: list[tuple[float, float]] = field(default_factory=list)
    """Times and peaks of 20 ms."""
    colours: list[Any] = field(default_factory=list)
    tasks: list[asyncio.Task] = field(default_factory=list)

    def receive(self, track: Any) -> None:
        self.tasks.append(asyncio.ensure_future(self._receive(track)))

    async def _receive(self, track: Any) -> None:
        while True:
            frame = await track.recv()
            values = frame.to_ndarray()
            if track.kind == "video":
                self.images.append((frame.time, float(values[: frame.height].mean())))
                self.colours.append((frame.color_range, frame.colorspace))
            else:
                self.sounds.append((frame.time, float(np.abs(values).max())))

    async def until(self, images: int) -> None:
        async with asyncio.timeout(30):
            while len(self.images) < images:
                await asyncio.sleep(0.02)


async def offer_of(connection: RTCPeerConnection, codec: str | None = None) -> str:
    video = connection.addTransceiver("video", "recvonly")
    if codec:
        every = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences([one for one in every if one.mimeType == codec])
    connection.addTransceiver("audio", "recvonly")
    await connection.setLocalDescription(await connection.createOffer())
    return connection.localDescription.sdp


@asynccontextmanager
async def watching(peers: WebRtcPeers, codec: str | None = None) -> AsyncIterator[tuple[Viewer, Any]]:
    viewer = Viewer(RTCPeerConnection(RTCConfiguration(iceServers=[])))
    viewer.connection.on("track", viewer.receive)
    try:
        answer = await peers.answer(await offer_of(viewer.connection, codec))
        await viewer.connection.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        yield viewer, answer
    finally:
        for task in viewer.tasks:
            task.cancel()
        await viewer.connection.close()


def flash(number: int) -> LiveFrame:
    """A grey frame; each FLASHES-th one is white, and its audio begins with a click."""
    is_flash = number % FLASHES == 0
    y = np.full(SIZE[::-1], 230 if is_flash else 60, np.uint8)
    chroma = np.full((SIZE[1] // 2, SIZE[0] // 2), 128, np.uint8)
    audio = np.zeros(int(RATE / FPS), np.int16)
    if is_flash:
        audio[:80] = 20_000
    return LiveFrame(number, FPS, YuvImage(y, chroma, chroma, SCREEN), audio, RATE, speaks=False)


async def flashes(peers: WebRtcPeers) -> None:
    """Show flashes in real time."""
    clock = asyncio.get_running_loop().time
    start, number = clock(), 0
    while True:
        peers.show(flash(number))
        number += 1
        await asyncio.sleep(start + number / FPS - clock())


@pytest.mark.parametrize("codec", ["video/H264", "video/VP8"])
def test_image_and_audio_come_at_the_same_time(codec):
    async def run() -> tuple[Viewer, str]:
        peers = WebRtcPeers(FPS, SIZE)
        showing = asyncio.ensure_future(flashes(peers))
        only = codec if codec == "video/VP8" else None
        async with watching(peers, only) as (viewer, answer):
            await viewer.until(images=45)
            showing.cancel()
            await peers.close()
        return viewer, answer.sdp

    viewer, sdp = asyncio.run(run())
    (video,) = [media for media in SessionDescription.parse(sdp).media if media.kind == "video"]
    assert video.rtp.codecs[0].mimeType == codec
    assert sdp.count("a=msid:live ") == 2
    seen = onsets(viewer.images, 140)
    heard = onsets(viewer.sounds, 5_000)
    assert len(seen) >= 3
    for time in heard[1:-1]:
        assert min(abs(time - other) for other in seen) <= 0.04, (seen, heard)
    gaps = np.diff([time for time, _ in viewer.images])
    assert np.allclose(gaps[gaps > 0], 0.04, atol=0.001)


def test_encoder_follows_the_network_and_makes_key_frames_when_asked():
    encoder = webrtc_media._FaceEncoder(FPS, (640, 480))
    noise = np.random.default_rng(0).integers(0, 255, (20, 720, 640), np.uint8)

    def encode(number: int, **values: bool) -> list[bytes]:
        image = VideoFrame.from_ndarray(noise[number], "yuv420p")
        image.pts, image.time_base = number * 3600, Fraction(1, 90_000)
        payloads, time = encoder.encode(image, **values)
        assert time == number * 3600
        return payloads

    encode(0)
    best = encoder.target_bitrate
    assert best == pytest.approx(640 * 480 * 25 * 0.3)
    encoder.target_bitrate = 10 * best
    assert encoder.target_bitrate == best
    before = sum(len(part) for number in range(1, 10) for part in encode(number))
    encoder.target_bitrate = 1
    assert encoder.target_bitrate == best // 4
    after = sum(len(part) for number in range(10, 19) for part in encode(number))
    assert after < 0.7 * before
    assert not has_parameters(encode(19)) and has_parameters(encode(19, force_keyframe=True))


def has_parameters(payloads: list[bytes]) -> bool:
    """Whether a picture begins with the parameters of the stream, as key frames do."""
    return payloads[0][0] & 31 == 24 and payloads[0][3] & 31 == 7


def onsets(values: list[tuple[float, float]], above: float) -> list[float]:
    """Times at which a value exceeds a threshold."""
    return [time for (_, one), (time, other) in itertools.pairwise(values) if one <= above < other]


def test_stream_is_shown_to_several_viewers_and_closed_when_they_vanish(models, face_video, pcm, monkeypatch):
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)
    monkeypatch.setattr(aioice.ice, "CONSENT_FAILURES", 2)

    async def run() -> None:
        with models.stream(face_video, options=OPTIONS) as stream:
            peers = WebRtcPeers(stream.fps, stream.size, max_peers=2)
            playing = asyncio.ensure_future(peers.play(stream, linger=0.3))
            async with watching(peers) as (one, first), watching(peers) as (other, _):
                assert len(peers) == 2
                for peer in peers._peers.values():
                    encoder = vars(peer.connection.getSenders()[0])[webrtc_media._ENCODER]
                    assert isinstance(encoder, webrtc_media._FaceEncoder)
                with pytest.raises(BusyError, match="2 of 2"):
                    await peers.answer(await offer_of(RTCPeerConnection(RTCConfiguration(iceServers=[]))))
                stream.push_audio(pcm[:8_000], RATE)
                stream.flush()
                await asyncio.gather(one.until(images=20), other.until(images=20))
                assert max(peak for _, peak in one.sounds) > 3_000
                await peers.remove(first.peer)
                await peers.remove(first.peer)
                assert first.peer not in peers and len(peers) == 1
                # the other one vanishes without a word
                for transport in other.connection._RTCPeerConnection__iceTransports:
                    for protocol in transport._connection._protocols:
                        protocol.transport.sendto = lambda *_: None
                await asyncio.wait_for(playing, 20)
            assert len(peers) == 0
            with pytest.raises(UsageError, match="has ended"):
                stream.push_audio(pcm, RATE)

    asyncio.run(run())


def test_viewer_that_does_not_connect_is_dropped(monkeypatch):
    monkeypatch.setattr("wav2lip_npu.live.webrtc._CONNECT_S", 0.1)

    async def run() -> None:
        peers = WebRtcPeers(FPS, SIZE)
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        offer = await offer_of(connection)
        await connection.close()
        await peers.answer(offer)
        assert len(peers) == 1
        async with asyncio.timeout(10):
            while len(peers):
                await asyncio.sleep(0.05)
        await peers.close()

    asyncio.run(run())


OFFERS = {
    "nothing": ("", "none"),
    "no SDP": ("m=video\r\nnonsense", "not SDP"),
    "long": ("v=0\r\n" * 20_000, "65536"),
    "two videos": (
        lambda sdp: sdp + sdp.partition("m=video")[1] + sdp.partition("m=video")[2],
        "video, video",
    ),
    "sender": (lambda sdp: sdp.replace("recvonly", "sendonly"), "recvonly"),
    "codec": (lambda sdp: sdp.replace("H264", "H265").replace("VP8", "AV1"), "H.264"),
}


@pytest.mark.parametrize("name", OFFERS)
def test_offers_that_cannot_be_used(name):
    change, words = OFFERS[name]

    async def run() -> None:
        peers = WebRtcPeers(FPS, SIZE)
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        offer = await offer_of(connection)
        await connection.close()
        with pytest.raises(UsageError, match=words):
            await peers.answer(change(offer) if callable(change) else change)
        assert len(peers) == 0

    asyncio.run(run())


def test_addresses_of_ice_servers():
    server = IceServer.of("turn:me:se:cret@turn.example.com:3478?transport=tcp")
    assert server == IceServer("turn:turn.example.com:3478?transport=tcp", "me", "se:cret")
    assert IceServer.of("stun:[fd00::1]").url == "stun:[fd00::1]"
    for wrong in ("http://x", "turn:x.example.com", "stun:me:secret@x.example.com"):
        with pytest.raises(UsageError, match=r"x(\.example\.com)?'") as caught:
            WebRtcPeers(FPS, SIZE, ice_servers=[wrong])
        assert "secret" not in str(caught.value)
