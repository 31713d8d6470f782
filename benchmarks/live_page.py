"""Measure the live way of the page in Chromium, on the machine of the service.

    python benchmarks/live_page.py --face man_512.mp4 --audio english_60s_16k.wav [--seconds 40]

Prints the time from the button to the first image, and the medians of what the page shows each second: the
delay from a sound in the page to the same sound that comes back, the part of it in the service, images per
second, and images skipped. `apart` is by how much the image is ahead of the audio, from the time stamps that
Chromium plays at the same moment. Browser and service share the processor.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from dub import processor  # noqa: E402
from serve import running  # noqa: E402

from support.browser import open_page, running_browser  # noqa: E402

KEEP_PEERS = """() => {
    window.peers = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...values) { super(...values); peers.push(this); }
    };
}"""
FACTS = """() => [...document.querySelectorAll("#live .facts div")].map(
    (one) => [...one.children].map((part) => part.textContent)
)"""
APART = """async () => {
    const times = {};
    for (const one of (await peers[0].getStats()).values())
        if (one.type === "inbound-rtp") times[one.kind] = one.estimatedPlayoutTimestamp;
    return times.video && times.audio ? times.video - times.audio : null;
}"""


def main() -> None:
    """Run the page and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True, type=Path, help="video or photo with a face")
    parser.add_argument("--audio", required=True, type=Path, help="audio that is longer than --seconds")
    parser.add_argument("--seconds", type=int, default=40)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as service,
        running_browser() as browser,
    ):
        print(f"{processor()}, aiortc {version('aiortc')}, Chromium {browser.version}", flush=True)
        for name in ("first start", "second start"):
            with open_page(browser, f"http://127.0.0.1:{service.port}") as page:
                page.evaluate(KEEP_PEERS)
                page.click("[data-to=live]")
                page.set_input_files("#face input[type=file]", arguments.face)
                page.wait_for_selector("#face .picture img:not([hidden])")
                page.set_input_files("#voice input[type=file]", arguments.audio)
                start = time.perf_counter()
                page.click("#live-start")
                page.wait_for_selector("#live[data-state=live]")
                print(f"{name}: first image after {time.perf_counter() - start:.1f} s", flush=True)
                if name == "second start":
                    watch(page, arguments.seconds)
                page.click("#live-stop")


def watch(page: Any, seconds: int) -> None:
    """Print what the page shows."""
    shown: dict[str, list[float]] = {}
    for _ in range(seconds):
        page.wait_for_timeout(1000)
        facts: list[tuple[str, str]] = page.evaluate(FACTS)
        apart = page.evaluate(APART)
        for name, text in [*facts, *([("apart", f"{apart} ms")] if apart is not None else [])]:
            if found := re.match(r"-?\d+", text):
                shown.setdefault(name, []).append(float(found[0]))
    for name, values in shown.items():
        half = values[len(values) // 2 :]
        print(f"  {name}: median {statistics.median(half):g}, {min(half):g} to {max(half):g}")


if __name__ == "__main__":
    main()
