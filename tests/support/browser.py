"""Chromium with the page of the service; errors of the page fail a test."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PICTURES = os.environ.get("PAGE_PICTURES")
"""Folder for pictures of the page, such as docs; None: no pictures."""
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream "
    "--use-fake-ui-for-media-stream --autoplay-policy=no-user-gesture-required"
).split()
_AUDIT = Path(__file__).with_name("page_audit.js").read_text()


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Run Chromium without a window during the block."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """Open the page of a service. At the end, errors of its scripts and its content policy are errors."""
    errors: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        is_response = message.text.startswith("Failed to load resource")  # of the service; the page shows it
        if message.type in ("error", "warning") and not is_response:
            errors.append(message.text)

    with browser.new_context(
        **{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **context}
    ) as tab:
        page = tab.new_page()
        page.set_default_timeout(60_000)
        page.on("console", hear)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        yield page
        assert not errors


def audit(page: Page) -> list[str]:
    """Return faults of names, labels, identities and contrast, and of a page that is wider than the window."""
    faults: list[str] = page.evaluate(_AUDIT)
    return faults


def differences(page: Page) -> float:
    """Return the mean difference of the upper halves of the two videos that are compared, 0 to 255."""
    difference: float = page.evaluate(
        """() => {
            const halves = [...document.querySelectorAll("#stage video")].map((video) => {
                const { videoWidth: width, videoHeight: height } = video;
                const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
                pen.drawImage(video, 0, 0);
                return pen.getImageData(0, 0, width, height / 3).data;
            });
            return halves[0].reduce((sum, level, i) => sum + Math.abs(level - halves[1][i]), 0) / halves[0].length;
        }"""
    )
    return difference
