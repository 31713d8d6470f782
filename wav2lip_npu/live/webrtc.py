"""Viewers of a live stream by WebRTC: H.264 or VP8, and Opus, on one clock. Needs the package aiortc."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.sdp import MediaDescription, SessionDescription

from wav2lip_npu.errors import BusyError, UsageError
from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.ice_servers import IceServer
from wav2lip_npu.live.pacing import paced_frames
from wav2lip_npu.live.stream import FaceStream
from wav2lip_npu.live.webrtc_media import AudioChunks, AudioTrack, Chunk, VideoTrack, prefer, set_encoder

log = logging.getLogger(__name__)

MAX_PEERS = 4
MAX_OFFER = 65_536
"""Most characters of an offer."""
_CONNECT_S = 20.0
"""Seconds in which a viewer must connect."""
_LINGER_S = 30.0
_STREAM_ID = "live"
"""Browsers keep tracks of the same stream in step."""
_LINES_TO_DROP = re.compile(r"^a=(?:end-of-candidates|candidate:.*\.local .*)\r?\n?", re.MULTILINE)
"""Names of browsers that hide their addresses: they call us, and looking them up needs multicast. Without the
mark of the end, the calls are waited for."""


@dataclass(frozen=True)
class Answer:
    """The answer to a viewer."""

    peer: str
    """ID of the viewer."""
    sdp: str


class WebRtcPeers:
    """The viewers of one live stream, in an event loop.

    Args:
        fps: Frames per second of the stream.
        size: Width and height of its images.
        max_peers: Most viewers at once. Each has an encoder of its own.
        ice_servers: STUN and TURN servers, such as `stun:host:3478` or `turn:user:password@host:3478`. By
            default none: viewers reach the addresses of this machine.

    Raises:
        UsageError: An address in `ice_servers` is invalid.

    Example:
        >>> peers = WebRtcPeers(stream.fps, stream.size)
        >>> answer = await peers.answer(offer)  # SDP that came by HTTP, for example
        >>> await peers.play(stream)

    """

    def __init__(
        self,
        fps: Fraction,
        size: tuple[int, int],
        *,
        max_peers: int = MAX_PEERS,
        ice_servers: Sequence[str] = (),
    ) -> None:
        self._fps, self._size, self._max_peers = fps, size, max_peers
        servers = map(IceServer.of, ice_servers)
        self._ice_servers = [RTCIceServer(server.url, server.user, server.password) for server in servers]
        self._peers: dict[str, _Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._chunks = AudioChunks()

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: str) -> bool:
        return peer in self._peers

    async def answer(self, offer: str) -> Answer:
        """Add a viewer, and return the answer to its offer, an SDP.

        The viewer gets frames as soon as it is connected, and is dropped when it does not connect, or
        vanishes: about 30 s after its last sign of life.

        Raises:
            UsageError: The offer is invalid, or has no codec in common.
            BusyError: There are `max_peers` viewers.

        """
        media = _media_of(offer)
        if len(self._peers) >= self._max_peers:
            raise BusyError(f"the stream has {len(self._peers)} of {self._max_peers} viewers. Close one.")
        name = f"peer_{secrets.token_hex(12)}"
        peer = self._peers[name] = _Peer(self._ice_servers)
        peer.connection.on("connectionstatechange", lambda: self._look_at(name))
        try:
            sdp = await peer.negotiate(_LINES_TO_DROP.sub("", offer), media, self._fps, self._size)
        except BaseException:
            await self.remove(name)
            raise
        asyncio.get_running_loop().call_later(_CONNECT_S, self._drop, name, False)
        return Answer(name, sdp)

    def show(self, frame: LiveFrame) -> None:
        """Send a frame to the viewers, at the time at which it is shown."""
        chunks = self._chunks.push(frame)
        for peer in self._peers.values():
            peer.show(frame, chunks)

    async def play(self, stream: FaceStream, linger: float = _LINGER_S) -> None:
        """Show a stream with the option `sample_rate` until it ends; with silence, while no audio comes.

        Closes the stream when there has been no viewer for some seconds.
        """
        watched = monotonic()
        try:
            async for frame in paced_frames(stream):
                watched = monotonic() if self._peers else watched
                if monotonic() - watched > linger:
                    break
                self.show(frame)
        finally:
            await asyncio.to_thread(stream.close)
            await self.close()

    async def remove(self, name: str) -> None:
        """Disconnect a viewer. One that has gone is ignored."""
        peer = self._peers.pop(name, None)
        if peer is not None:
            await peer.connection.close()

    async def close(self) -> None:
        """Disconnect all viewers."""
        for name in list(self._peers):
            await self.remove(name)
        if self._closing:
            await asyncio.wait(self._closing)

    def _look_at(self, name: str) -> None:
        peer = self._peers.get(name)
        if peer is not None and peer.connection.connectionState in ("failed", "closed"):
            self._drop(name, True)

    def _drop(self, name: str, was_connected: bool) -> None:
        """Disconnect a viewer that is gone, or that has not connected."""
        peer = self._peers.get(name)
        if peer is None or (not was_connected and peer.connection.connectionState == "connected"):
            return
        log.debug("%s %s", name, "is gone" if was_connected else "did not connect")
        task = asyncio.ensure_future(self.remove(name))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Peer:
    """One viewer."""

    def __init__(self, ice_servers: list[RTCIceServer]) -> None:
        # Without a list, aiortc asks a public STUN server.
        self.connection = RTCPeerConnection(
            RTCConfiguration(iceServers=ice_servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._video: VideoTrack | None = None
        self._audio: AudioTrack | None = None

    async def negotiate(
        self, offer: str, media: list[MediaDescription], fps: Fraction, size: tuple[int, int]
    ) -> str:
        """Return the answer to an offer with some media."""
        kinds = [each.kind for each in media]
        sender: RTCRtpSender | None = None
        if "video" in kinds:
            self._video = VideoTrack()
            transceiver = self.connection.addTransceiver(self._video, "sendonly")
            prefer(transceiver)
            sender = transceiver.sender
        if "audio" in kinds:
            self._audio = AudioTrack()
            prefer(self.connection.addTransceiver(self._audio, "sendonly"))
        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        except Exception as error:  # aiortc checks offers by what they lead to
            raise UsageError(
                f"the offer cannot be used: {error}. Send one for H.264 or VP8 and Opus."
            ) from error
        answer: Any = await self.connection.createAnswer()
        await self.connection.setLocalDescription(answer)
        sdp = self.connection.localDescription.sdp
        if sender is not None:
            chosen = next(each for each in SessionDescription.parse(sdp).media if each.kind == "video")
            set_encoder(sender, chosen.rtp.codecs[0].mimeType, fps, size)
        return re.sub(r"(?m)^a=msid:\S+", f"a=msid:{_STREAM_ID}", sdp)

    def show(self, frame: LiveFrame, chunks: Sequence[Chunk]) -> None:
        """Send a frame. The tracks begin with the same one."""
        if not all(track.is_wanted for track in (self._video, self._audio) if track is not None):
            return
        if self._video is not None:
            self._video.put(frame)
        if self._audio is not None:
            self._audio.put_all(chunks)


def _media_of(offer: str) -> list[MediaDescription]:
    """Return the media of an offer, which has at most one video and one audio. Raises `UsageError`."""
    if len(offer) > MAX_OFFER:
        raise UsageError(f"the offer has {len(offer)} characters. Send an SDP of at most {MAX_OFFER}.")
    try:
        media = SessionDescription.parse(offer).media
    except Exception as error:  # the parser asserts
        raise UsageError("the offer is not SDP. Send the SDP of a WebRTC offer.") from error
    kinds = sorted(each.kind for each in media)
    if kinds not in (["audio"], ["video"], ["audio", "video"]):
        raise UsageError(
            f"the offer has the media {', '.join(kinds) or 'none'}. Send one for a video and an audio track."
        )
    if any(each.direction not in ("recvonly", "sendrecv") for each in media):
        raise UsageError("the offer does not receive. Send one with the direction recvonly.")
    return media
