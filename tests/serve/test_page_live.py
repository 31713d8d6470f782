"""The live tab of the page in Chromium: audio in, a speaking face out, by WebRTC and by WebSocket."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from recipes import demo
from support.browser import PICTURES, audit, open_page, running_browser
from support.media_files import write_wav
from support.service import RunningService, running_service
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.serve.interactive import Interactive
from wav2lip_npu.serve.options import ServeOptions

pytest.importorskip("aiortc")

MOUTH = (0.40, 0.47, 0.22, 0.14)
"""Left, top, width and height of the mouth, as shares of the image."""
BROW = (0.38, 0.12, 0.24, 0.18)
expect.set_options(timeout=60_000)
_WATCH = """async ([seconds, ...regions]) => {
    const video = document.querySelector("#live video");
    const sound = new AudioContext();
    const ear = new AnalyserNode(sound, { fftSize: 2048 });
    sound.createMediaStreamSource(video.srcObject).connect(ear);
    const pen = new OffscreenCanvas(video.videoWidth, video.videoHeight).getContext("2d", { willReadFrequently: true });
    const [frames, samples] = [[], new Float32Array(2048)];
    const until = performance.now() + 1000 * seconds;
    let first = null;
    while (performance.now() < until) {
        await new Promise((next) => video.requestVideoFrameCallback(next));
        pen.drawImage(video, 0, 0);
        const now = regions.map(([x, y, w, h]) => pen.getImageData(
            x * video.videoWidth, y * video.videoHeight, w * video.videoWidth, h * video.videoHeight).data);
        ear.getFloatTimeDomainData(samples);
        const level = Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
        const change = (a, b) => a.reduce((sum, one, at) => sum + Math.abs(one - b[at]), 0) / a.length;
        if (frames.length === 12) first = now;
        frames.push([level, ...now.map((region, at) => first ? change(region, first[at]) : 0)]);
    }
    await sound.close();
    return frames;
}"""

_OFFER = """async () => {
    const peer = new RTCPeerConnection();
    for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
    return (await peer.createOffer()).sdp;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of a face, 256x256."""
    import skimage.data

    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    image = skimage.data.astronaut()[20:260, 105:345, ::-1]
    cv2.imwrite(str(path), cv2.resize(np.ascontiguousarray(image), (256, 256), interpolation=cv2.INTER_AREA))
    return path


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of silence, three seconds of a sentence, and half a second of silence."""
    said = read_audio(demo.SENTENCE)[: 3 * 16_000]
    wav = np.concatenate([np.zeros(16_000, np.float32), said, np.zeros(8_000, np.float32)])
    return write_wav(tmp_path_factory.mktemp("sentence") / "sentence.wav", wav)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, photo: Path) -> Iterator[RunningService]:
    """A service with its own live process."""
    with running_service(tmp_path_factory.mktemp("live"), photo, devices=("cpu",), max_streams=2) as running:
        yield running


def begin(page: Page, face: Path, audio: Path | None = None) -> None:
    """Choose a face and perhaps an audio file, and start."""
    page.set_input_files("#face input[type=file]", face)
    expect(page.locator("#face .chosen .name")).to_have_text(face.name)
    if audio is not None:
        page.set_input_files("#voice input[type=file]", audio)
        expect(page.locator("#voice .name")).to_have_text(audio.name)
    page.click("#live-start")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def all_streams_end(live: RunningService) -> bool:
    """Wait for the end of the streams that a page has left: it does not wait for the answer."""
    deadline = monotonic() + 30
    while any(stream["status"] == "open" for stream in live.client.get("/v1/streams").json()["data"]):
        if monotonic() > deadline:
            return False
        sleep(0.05)
    return True


def test_mouth_moves_with_the_sound_by_webrtc(browser, live, photo, sentence):
    with open_page(browser, live.url + "/#live!") as page:
        begin(page, photo, sentence)
        frames = np.array(page.evaluate(_WATCH, [4, MOUTH, BROW]))
        level, mouth, brow = frames.T
        speaks, silent = (
            level > 0.02,
            np.convolve(level > 0.002, np.ones(11), "same") == 0,
        )  # not between words
        assert speaks.sum() > 10 and silent.sum() > 10, frames
        assert mouth[speaks].mean() > 3 * np.median(mouth[silent]), frames
        assert mouth[speaks].mean() > 3 * brow[speaks].mean(), frames

        expect(page.locator("#live .facts")).to_contain_text("WebRTC, ")
        expect(page.locator("#live")).to_have_attribute("data-state", "ended")
        expect(page.locator("#live .facts")).to_contain_text(re.compile(r"Delay\d+"))
        assert not audit(page)
        page.click("#live-start")
        expect(page.locator("#live-interrupt")).to_be_visible()
        page.click("#live-interrupt")
        expect(page.locator("#live")).to_have_attribute("data-state", "ended")
        page.click("#live-stop")
        expect(page.locator("#live-start")).to_be_focused()
        expect(page.locator("#live video")).to_be_hidden()
    assert all_streams_end(live)


def test_without_webrtc_images_come_by_websocket(browser, live, photo):
    """On a narrow phone in Chinese, with the microphone, which Chromium replaces by beeps."""
    phone = {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "locale": "zh-CN",
    }
    with open_page(browser, live.url, **phone) as page:
        page.evaluate("delete window.RTCPeerConnection")
        page.click("[data-to=live]")
        assert not audit(page)
        begin(page, photo)
        expect(page.locator("#live .facts")).to_contain_text("WebSocket, JPEG")
        expect(page.locator("#live .facts")).to_contain_text(re.compile(r"服务内\d+"))
        seen = page.locator("#live canvas").evaluate(
            "one => [...one.getContext('2d').getImageData(one.width / 2, one.height / 2, 1, 1).data]"
        )
        assert max(seen[:3]) > 60, "an image of the face"
        assert not audit(page)
        page.click("[data-to=video]")
        expect(page.locator("#live")).to_be_hidden()
        expect(page.locator("#generate")).to_be_visible()
        assert all_streams_end(live)
        page.click("[data-to=live]")
        expect(page.locator("#live")).to_have_attribute("data-state", "idle")


def test_microphone_that_is_refused_and_missing_inputs(browser, live, photo):
    with open_page(browser, live.url + "/#live!") as page:
        page.click("#live-start")
        expect(page.locator("#live-error")).to_contain_text("face")
        page.set_input_files("#face input[type=file]", photo)
        expect(page.locator("#face .chosen .name")).to_have_text(photo.name)
        page.check("#voice [value=file]", force=True)
        page.click("#live-start")
        expect(page.locator("#live-error")).to_contain_text("audio file")
        page.set_input_files("#voice input[type=file]", photo)
        page.click("#live-start")
        expect(page.locator("#live-error")).to_contain_text("astronaut.png")
        page.evaluate(
            """() => {
                const refuse = async () => { throw new DOMException("", "NotAllowedError"); };
                navigator.mediaDevices.getUserMedia = refuse;
            }"""
        )
        page.check("#voice [value=microphone]", force=True)
        page.click("#live-start")
        expect(page.locator("#live-error")).to_contain_text("microphone")
        expect(page.locator("#live-start")).to_be_focused()


def test_offers_are_answered_or_refused_with_a_reason(browser, live, photo):
    stream = live.client.post("/v1/streams", json={"face_id": live.upload(photo)}).json()
    path = f"/v1/streams/{stream['id']}/whep"

    def offer(content: str, kind: str = "application/sdp", to: str = path) -> tuple[int, str]:
        answer = live.client.post(to, content=content, headers={"Content-Type": kind})
        return answer.status_code, answer.json()["code"]

    assert offer("v=0", "text/plain") == (415, "media_type")
    assert offer("v=0") == (422, "options")
    assert offer("v" * 70_000) == (413, "too_large")
    assert offer("v=0", to="/v1/streams/stream_0/whep") == (404, "not_found")
    assert live.client.delete(f"{path}/peer_0").status_code == 404

    with open_page(browser, live.url) as page:
        sdp = page.evaluate(_OFFER)
    answer = live.client.post(path, content=sdp, headers={"Content-Type": "application/sdp"})
    assert answer.status_code == 201 and answer.headers["content-type"] == "application/sdp"
    assert "m=video" in answer.text and "m=audio" in answer.text
    peer = f"/v1/streams/{stream['id']}/{answer.headers['location']}"
    assert live.client.delete(peer).status_code == 204
    assert live.client.delete(peer).status_code == 404
    assert live.client.delete(f"/v1/streams/{stream['id']}").json()["status"] == "closed"
    assert offer("v=0")[0] in (409, 422)


def test_without_aiortc_the_reason_is_told(live, photo, monkeypatch):
    stream = live.client.post("/v1/streams", json={"face_id": live.upload(photo)}).json()
    monkeypatch.setattr("wav2lip_npu.serve.streams.whep.HAS_WEBRTC", False)
    answer = live.client.post(f"/v1/streams/{stream['id']}/whep", content="v=0")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "wav2lip-npu[webrtc]" in answer.json()["detail"]
    live.client.delete(f"/v1/streams/{stream['id']}")


@pytest.mark.skipif(not PICTURES, reason="PAGE_PICTURES=docs pytest tests/serve/test_page_live.py -k picture")
def test_picture_of_the_docs(browser, photo, sentence, tmp_path):
    """Write serve_live.png: the live way while the face speaks."""
    engine = ServeOptions(data=str(tmp_path / "engine"), devices=("cpu",)).engine
    with (
        contextlib.closing(Interactive(engine)) as interactive,
        running_service(tmp_path / "data", photo, interactive=interactive, devices=("cpu",)) as running,
        open_page(browser, running.url + "/#live!") as page,
    ):
        begin(page, photo, sentence)
        expect(page.locator("#live .facts")).to_contain_text(re.compile(r"Delay\d+"))
        expect(page.locator("#live")).to_have_attribute("data-state", "ended")
        page.click("#live-start")
        page.wait_for_timeout(2700)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=Path(PICTURES, "serve_live.png"), full_page=True)
