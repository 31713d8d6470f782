"""The page in Chromium: the whole way against the service itself, details against one with a quick engine."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import PICTURES, audit, differences, open_page, running_browser
from support.media_files import write_wav
from support.service import FakeInteractive, RunningService, running_service
from support.talk import face, write_talk
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import SCREEN, YuvImage

TOKEN = "a token of the page"
PICTURE = bytes(cv2.imencode(".jpg", face(320)[:240])[1])
expect.set_options(timeout=60_000)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two faces for 0.8 s, no face, two sounds with a pause, and text."""
    folder = tmp_path_factory.mktemp("page")
    buzz = np.sign(np.sin(2 * np.pi * 120 * np.arange(8000) / 16_000)).astype(np.float32) / 4
    said = np.concatenate([buzz, np.zeros(5600, np.float32), buzz])
    (folder / "notes.mp4").write_text("not a video")
    return {
        "faces": write_talk(folder / "faces.mp4", 0.8, faces=2),
        "nobody": write_talk(folder / "nobody.mp4", 0.4, faces=0),
        "said": write_wav(folder / "said.wav", said),
        "long": write_wav(folder / "long.wav", np.tile(said, 20)),
        "notes": folder / "notes.mp4",
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `wav2lip-npu serve`, started as a user does, with a token."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "token").write_text(TOKEN)
    words = [
        "serve",
        "--port",
        "0",
        "--data",
        folder / "data",
        "--token_file",
        folder / "token",
        "--devices",
        "cpu",
    ]
    log = folder / "log"
    with (
        open(log, "w") as file,
        subprocess.Popen([sys.executable, "-m", "wav2lip_npu", *map(str, words)], stderr=file) as process,
    ):
        try:
            while not (found := re.search(r"http://\S+/", log.read_text())):
                assert process.poll() is None, log.read_text()
                sleep(0.1)
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def choose(page: Page, face: Path | None = None, audio: Path | None = None) -> None:
    """Upload files, and wait until their faces and their waveform are shown."""
    if face:
        page.set_input_files("#face input[type=file]", face)
        expect(page.locator("#face .chosen .name")).to_have_text(face.name)
        expect(page.locator("#face .picture img")).to_be_visible()
    if audio:
        page.set_input_files("#audio input[type=file]", audio)
        expect(page.locator("#audio .chosen .name")).to_have_text(audio.name)
        expect(page.locator("#audio .found")).to_contain_text(re.compile(r"\d"))


def state(page: Page, name: str) -> None:
    expect(page.locator("#stage")).to_have_attribute("data-state", name, timeout=60_000)


def enter(page: Page, token: str) -> None:
    """Answer the question for the token."""
    page.fill("#token input", token)
    page.press("#token input", "Enter")


def test_whole_way(browser, address, clips):
    with open_page(browser, address) as page:
        enter(page, "another token")
        expect(page.locator("#token .error")).to_contain_text("token")
        enter(page, TOKEN)
        expect(page.locator("#token")).to_be_hidden()

        page.set_input_files("#face input[type=file]", clips["notes"])
        expect(page.locator("#face > .error")).to_contain_text("notes.mp4")
        choose(page, clips["faces"], clips["said"])
        expect(page.locator("#face > .error")).to_be_hidden()
        boxes = page.locator("#face .boxes input")
        expect(boxes).to_have_count(2)
        other = 1 if boxes.nth(0).is_checked() else 0
        boxes.nth(other).check()

        page.click("#test")
        state(page, "tested")
        expect(page.locator("#stage .layer img")).to_have_count(2)

        page.click("#options summary")
        page.select_option("[name=crf]", "12")
        with page.expect_request("**/v1/videos") as sent:
            page.click("#generate")
        body = sent.value.post_data_json
        assert body["options"]["crf"] == 12 and body["options"]["face_select"]
        state(page, "done")
        check_comparison(page)
        expect(page.locator("#stage .report li").first).to_be_visible()
        with page.expect_download() as download:
            page.click("#stage .save")
        assert download.value.suggested_filename == "faces-dubbed.mp4"
        assert Path(download.value.path()).stat().st_size > 1000

        page.reload()
        state(page, "done")
        expect(page.locator("#face .chosen .name")).to_have_text("faces.mp4")
        expect(page.locator("#recent li")).to_have_count(1)
        until(page, "document.querySelector('#recent img')?.naturalWidth > 0")

        choose(page, audio=clips["long"])
        page.click("#generate")
        expect(page.locator("#stage .facts")).to_contain_text(re.compile(r"[1-9]\d* of"))
        page.click("#stage .cancel")
        state(page, "over")
        expect(page.locator("#recent .state.cancelled")).to_have_count(1)

        choose(page, clips["nobody"], clips["said"])
        page.click("#generate")
        state(page, "over")
        expect(page.locator("#stage > .error")).to_contain_text("no face")

        expect(page.locator("#recent .state.failed")).to_have_count(1)
        remove = page.locator("#recent li:last-child [data-role=remove]")
        remove.click()
        remove.click()
        expect(page.locator("#recent li")).to_have_count(2)


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true; `Page.wait_for_function` is stopped by the content policy."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def check_comparison(page: Page) -> None:
    """Both videos show the same moment, also after the end of the shorter one; each sound can be heard."""
    until(page, "[...document.querySelectorAll('#stage video')].every(video => video.readyState > 3)")
    seek = page.locator("#stage .seek")
    for time in (0.4, 1.2):  # 1.2 s is 0.4 s of the second pass through the face video
        seek.fill(str(time))
        until(page, "[...document.querySelectorAll('#stage video')].every(video => !video.seeking)")
        page.wait_for_timeout(100)
        assert differences(page) < 3
    for mode in ("side", "result", "wipe"):
        page.check(f"#stage [name=mode][value={mode}]")
        expect(page.locator("#stage .layer.original")).to_be_visible(visible=mode != "result")
    heard = "[...document.querySelectorAll('#stage video')].map(video => !video.muted)"
    for sound, expected in (("original", [False, True]), ("off", [False, False]), ("result", [True, False])):
        page.check(f"#stage [name=sound][value={sound}]")
        assert page.evaluate(heard) == expected

    seek.fill("0")
    page.click("#stage .transport .play")
    until(page, "document.querySelector('#stage .result video').currentTime > 0.4")
    times = page.evaluate("[...document.querySelectorAll('#stage video')].map(video => video.currentTime)")
    assert abs(times[0] - times[1]) < 0.2

    page.click("#stage .transport .play")
    page.evaluate(  # a copy of the original that stays two frames ahead
        """async () => {
            const original = document.querySelector("#stage .original video");
            const copy = original.cloneNode();
            copy.currentTime = original.currentTime < 0.4 ? original.currentTime + 0.08 : original.currentTime - 0.08;
            original.replaceWith(copy);
            await new Promise((done) => (copy.onseeked = done));
        }"""
    )
    assert differences(page) > 3


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, clips: dict[str, Path]) -> Iterator[RunningService]:
    """A service without a token, whose engine copies a video."""
    with running_service(tmp_path_factory.mktemp("quick"), clips["faces"], interactive=TwoFaces()) as running:
        yield running


class TwoFaces(FakeInteractive):
    """Sees two faces, the second of which is turned."""

    def faces(self, path: str, time: float, **more: Any) -> dict[str, Any]:
        answer = super().faces(path, time)
        faces = [
            {
                "box": [left, 60, left + 90, 180],
                "confidence": 0.9,
                "pose": None,
                "face_select": f"{left},99",
                "reason": reason,
            }
            for left, reason in ((40, None), (190, "turned"))
        ]
        return {**answer, "faces": faces, "picture": base64.b64encode(PICTURE).decode()}

    def preview(self, *question: Any, **more: Any) -> tuple[bytes, float]:
        return PICTURE, question[-1]


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until an element has the focus, which can be seen on each element before it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        is_there, is_seen = page.evaluate(
            """selector => {
                const focused = document.activeElement;
                const around = [focused, focused.parentElement, focused.nextElementSibling].filter(Boolean);
                const isSeen = around.some((one) => getComputedStyle(one).outlineStyle !== "none");
                return [focused.matches(selector), isSeen || focused === document.body];  // after the last one
            }""",
            selector,
        )
        assert is_seen
        if is_there:
            return
    raise AssertionError(f"{selector} is not reachable")


def test_keyboard_only(browser, quick, clips):
    with open_page(browser, quick.url, reduced_motion="reduce") as page:
        page.on("filechooser", lambda chooser: None)  # keeps the chooser intercepted between the two files
        for kind, clip in (("face", "faces"), ("audio", "said")):
            tab_to(page, f"#{kind} .choose")
            with page.expect_file_chooser() as chooser:
                page.keyboard.press("Enter")
            chooser.value.set_files(clips[clip])
            expect(page.locator(f"#{kind} .replace")).to_be_focused()
        expect(page.locator("#face .boxes input")).to_have_count(2)
        tab_to(page, ".boxes input")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#face .boxes input").nth(1)).to_be_checked()
        expect(page.locator("#face .found")).to_have_class(re.compile("warn"))
        tab_to(page, "#test")
        page.keyboard.press("Enter")
        state(page, "tested")
        tab_to(page, "#generate")
        with page.expect_request("**/v1/videos") as sent:
            page.keyboard.press("Enter")
        assert sent.value.post_data_json["options"] == {"face_select": "190,99"}
        state(page, "done")
        expect(page.locator("#announce")).not_to_be_empty()
        tab_to(page, ".wipe")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#stage .wipe")).to_have_value("51")
        tab_to(page, ".play")
        page.keyboard.press("Space")
        until(page, "document.querySelector('#stage .result video').currentTime > 0")
        tab_to(page, ".save")
        tab_to(page, "[data-role=open]")


@pytest.mark.parametrize(
    "context",
    [{"color_scheme": "light"}, {"color_scheme": "dark", "locale": "zh-CN", **PHONE}],
    ids=["English", "Chinese on a phone"],
)
def test_both_languages_and_widths(context, browser, quick, clips):
    with open_page(browser, quick.url, **context) as page:
        language = "zh-CN" if "locale" in context else "en"
        expect(page.locator("html")).to_have_attribute("lang", language)
        expect(page.locator("#service")).not_to_be_empty()
        assert not audit(page)
        choose(page, clips["faces"], clips["said"])
        page.click("#options summary")
        assert not audit(page)
        page.click("#options summary")
        page.click("#generate")
        state(page, "done")
        expect(page.locator("#stage .report li").first).to_be_visible()
        assert not audit(page)
        texts = page.evaluate(
            "import('./page/texts.js').then(({ texts }) => Object.values(texts).map(Object.keys))"
        )
        assert sorted(texts[0]) == sorted(texts[1])
        assert not page.evaluate(
            "[...document.querySelectorAll('[data-t]')].filter(one => !one.textContent).length"
        )

        check_error(page, "不接受" if language != "en" else "not accept")
        title = page.locator("#stage h2").text_content()
        page.click(f"[data-language={'en' if language != 'en' else 'zh'}]")
        expect(page.locator("#stage h2")).not_to_have_text(title)
        page.reload()
        expect(page.locator("html")).to_have_attribute("lang", "en" if language != "en" else "zh-CN")


def check_error(page: Page, words: str) -> None:
    """An error of the service is in the language of the page, and options have the names that they have there."""
    detail = "--pads 0 20000 0 0 is out of range. Pass 0. Pass --no_face keep to go on. See /docs."
    answer = {"status": 422, "json": {"code": "options", "detail": detail}}
    page.route(
        "**/v1/videos",
        lambda route: route.fulfill(**answer) if route.request.method == "POST" else route.continue_(),
    )
    page.click("#generate")
    expect(page.locator("#work-error")).to_contain_text(words)
    text = page.locator("#work-error").text_content() or ""
    label = page.locator("label:has([name=pads]) span, [data-t=pads]").first.text_content() or ""
    assert "20000 0 0" in text and label and label in text
    assert "--" not in text and "docs" not in text and text.rstrip().endswith("Pass 0.")
    page.unroute("**/v1/videos")


def test_two_speakers_on_a_narrow_phone(browser, quick, clips):
    """Each has a name, a face and audio; the report says who spoke when, and a reload keeps all of it."""
    with open_page(browser, quick.url, **{**PHONE, "viewport": {"width": 360, "height": 780}}) as page:
        choose(page, clips["faces"], clips["said"])
        page.locator("#face .boxes input").nth(0).check()
        page.click("#add-speaker")
        expect(page.locator("#voices .who input")).to_be_focused()
        page.keyboard.type("Ben")
        page.fill("#audio .who input", "Anna")
        page.click("#generate")
        expect(page.locator("#work-error")).to_contain_text("Ben")
        page.set_input_files("#voices input[type=file]", clips["long"])
        expect(page.locator("#voices .chosen .name")).to_have_text("long.wav")
        boxes = page.locator("#face .boxes label span")
        assert boxes.all_text_contents() == ["Anna", "Ben"]
        assert not audit(page)

        page.locator("#face .people input").nth(0).check()
        page.locator("#face .boxes input").nth(1).focus()
        page.keyboard.press("Space")  # Anna takes the face of Ben
        assert boxes.all_text_contents() == ["1", "Anna"]
        expect(page.locator("#announce")).to_contain_text("Anna")
        for name in ("Anna", "a@b"):
            page.fill("#voices .who input", name)
            page.click("#generate")
            expect(page.locator("#work-error")).to_contain_text(name)
            expect(page.locator("#voices .who input")).to_be_focused()
        page.fill("#voices .who input", "Ben")
        page.locator("#face .people input").nth(1).check()
        expect(page.locator("#face .unseen input")).to_be_checked()
        photo = clips["said"].with_name("ben.png")
        photo.write_bytes(PICTURE)
        for path, place in ((clips["said"], "#face > .error"), (photo, "#face .photo label")):
            with page.expect_file_chooser() as chooser:
                page.click("#face .photo button")
            chooser.value.set_files(path)
            expect(page.locator(place)).to_contain_text(path.name)
        with page.expect_request("**/v1/previews") as asked:
            page.click("#test")
        assert list(asked.value.post_data_json["speakers"][1]["face"]) == ["photo_id"]
        assert not audit(page)
        page.locator("#face .boxes input").nth(0).check()
        with page.expect_request("**/v1/previews") as asked:
            page.click("#test")
        assert [one["face"] for one in asked.value.post_data_json["speakers"]] == [
            "235,120@0.000",
            "85,120@0.000",
        ]
        state(page, "tested")

        with page.expect_request("**/v1/videos") as sent:
            page.click("#generate")
        body = sent.value.post_data_json
        assert [(one["name"], one["face"]) for one in body["speakers"]] == [
            ("Anna", "235,120@0.000"),
            ("Ben", "85,120@0.000"),
        ]
        state(page, "done")
        rows = page.locator("#stage .turns li")
        expect(rows.nth(0)).to_contain_text("Anna")
        expect(rows.nth(1).locator(".when")).to_have_class(re.compile("warn"))
        assert rows.nth(1).locator("i").bounding_box()["width"] > 20
        assert not audit(page)

        page.reload()
        expect(page.locator("#voices .chosen .name")).to_have_text("long.wav")
        assert page.input_value("#voices .who input") == "Ben"
        page.locator("#audio .who .remove").click()  # Ben becomes the only one
        expect(page.locator("#audio .chosen .name")).to_have_text("long.wav")
        expect(page.locator("#voices .source")).to_have_count(0)
        expect(page.locator("#face .boxes input").nth(0)).to_be_checked()
        page.click("#stage .again")
        expect(page.locator("#voices .who input")).to_have_value("Ben")
        expect(page.locator("#audio .chosen .name")).to_have_text("said.wav")


@pytest.mark.slow
def test_lost_connections(browser, quick, clips):
    with open_page(browser, quick.url) as page:
        page.route("**/events", lambda route: route.abort())
        choose(page, clips["faces"], clips["said"])
        page.click("#options summary")
        page.uncheck("[name=rest]")
        quick.engine.runs.clear()
        page.click("#generate")
        state(page, "running")
        page.context.set_offline(True)
        expect(page.locator("#banner")).to_be_visible()
        page.context.set_offline(False)
        expect(page.locator("#banner")).to_be_hidden()
        quick.engine.runs.set()
        state(page, "done")

        page.click("#reset")
        page.click("#stage .again")
        expect(page.locator("[name=rest]")).not_to_be_checked()
        page.fill("[name=pads]", "9999")
        page.click("#generate")
        expect(page.locator("#work-error")).to_be_visible()
        expect(page.locator("[name=pads]")).to_be_focused()


def test_recording_dropping_and_limits(browser, quick, clips):
    with open_page(browser, quick.url) as page:
        for kind in ("face", "audio"):
            page.click(f"#{kind} .record")
            expect(page.locator(f"#{kind} [role=timer]")).to_have_text("0:01")
            page.click(f"#{kind} .stop")
            expect(page.locator(f"#{kind} .chosen .about")).to_be_visible()
        drop(page, clips["faces"], clips["said"])
        expect(page.locator("#face .chosen .name")).to_have_text("faces.mp4")
        expect(page.locator("#audio .chosen .name")).to_have_text("said.wav")
        page.set_input_files("#face input[type=file]", clips["said"])
        expect(page.locator("#face > .error")).to_contain_text("said.wav")

        page.route("**/v1/limits", lambda route: route.fulfill(json={"max_upload": 1000}))
        page.reload()
        page.set_input_files("#audio input[type=file]", clips["long"])
        expect(page.locator("#audio > .error")).to_contain_text("long.wav")


def drop(page: Page, *paths: Path) -> None:
    """Drop several files on the page."""
    files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    page.evaluate(
        """files => {
            const dataTransfer = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                dataTransfer.items.add(new File([bytes], name, { type: name.endsWith("wav") ? "audio/wav" : "video/mp4" }));
            }
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        files,
    )


@pytest.mark.skipif(not PICTURES, reason="PAGE_PICTURES=docs pytest tests/serve/test_page.py -k pictures")
def test_pictures_of_the_docs(browser, address, tmp_path):
    """Write serve_page.png and serve_phone.png: the page with the result of `make demo`."""
    import skimage.data

    from recipes import demo

    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    images = (YuvImage.from_image(image, SCREEN) for image in demo.camera(photo, 142))
    write_video(images, tmp_path / "astronaut.mp4", fps=demo.FPS, options=EncodeOptions(crf=12))
    shots = {
        "serve_page.png": {},
        "serve_phone.png": {"color_scheme": "dark", "device_scale_factor": 2, **PHONE},
    }
    for name, context in shots.items():
        with open_page(browser, address, **context) as page:
            enter(page, TOKEN)
            choose(page, tmp_path / "astronaut.mp4", demo.SENTENCE)
            page.click("#generate")
            state(page, "done")
            until(page, "document.querySelector('#stage .result video')?.readyState > 3")
            page.check(f"#stage [value={'wipe' if 'is_mobile' in context else 'side'}]")
            page.locator("#stage .seek").fill("1.24")
            page.locator("#stage .wipe").evaluate("border => (border.value = 36) && border.oninput()")
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur(); document.querySelector('#stage').scrollIntoView()")
            page.wait_for_timeout(500)
            page.screenshot(path=Path(PICTURES, name), full_page="is_mobile" not in context)
