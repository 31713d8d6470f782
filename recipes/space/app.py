"""A Gradio front for Hugging Face Spaces and ModelScope Studios: one dub at a time, from a queue.

    pip install -r requirements.txt
    python app.py

For a server of your own, `wav2lip-npu serve` has a page with face choice, previews and a durable queue.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

import wav2lip_npu

MAX_SECONDS = float(os.environ.get("MAX_SECONDS", "60"))
MAX_FILE, MAX_WAITING, KEEP_S = "200mb", 20, 3600
HELP = f"""# Lip-sync
A video or photo of a face, and a sound. Up to {MAX_SECONDS:g} s are dubbed. Ask the people first."""
models = wav2lip_npu.load_models(
    os.environ.get("WEIGHTS", "starter"), precision=os.environ.get("PRECISION", "fp32")
)


def dub(
    video: str | None,
    photo: str | None,
    sound: str | None,
    extend: str,
    blend: str,
    face_select: str,
    progress: gr.Progress = gr.Progress(),
) -> Iterator[tuple[str, str]]:
    """Yield the dubbed video and a line about it. Gradio copies the video before this function continues."""
    face = video or photo
    if face is None or sound is None:
        raise gr.Error("Add a video or a photo, and a sound.")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dubbed.mp4"
        try:
            report = wav2lip_npu.dub(
                face,
                sound,
                out,
                models=models,
                progress=lambda done, total: progress((done, total), unit="frames"),
                duration=MAX_SECONDS,
                extend=extend,
                blend=blend,
                face_select=face_select.strip() or "largest",
                check=True,
            )
        except wav2lip_npu.Wav2LipError as error:
            message = str(error)
            for path in (face, sound):  # names without the folders of this server
                message = message.replace(path, Path(path).name)
            raise gr.Error(message) from error
        check = report.check
        score = "unknown" if check is None or check.confidence is None else f"{check.confidence:.2f}"
        frames = f"{report.dubbed_frames} of {report.frames} frames"
        yield (
            str(out),
            f"{frames} dubbed in {report.seconds:.0f} s on {report.device}, sync confidence {score}.",
        )


with gr.Blocks(title="wav2lip-npu", analytics_enabled=False, delete_cache=(KEEP_S, KEEP_S)) as page:
    gr.Markdown(HELP)
    with gr.Row():
        with gr.Column():
            with gr.Tab("Video"):
                video = gr.Video(sources=["upload", "webcam"], label="Video")
            with gr.Tab("Photo"):
                photo = gr.Image(type="filepath", sources=["upload", "webcam"], label="Photo")
            sound = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Sound")
            with gr.Accordion("Options", open=False):
                extend = gr.Dropdown(
                    ["loop", "pingpong", "hold", "cut_off"], value="loop", label="If the sound is longer"
                )
                blend = gr.Radio(["soft", "hard"], value="soft", label="Blending")
                face_select = gr.Textbox("largest", label="Face: largest, left, right, center, or X,Y")
            start = gr.Button("Dub", variant="primary")
        with gr.Column():
            result = gr.Video(label="Result", interactive=False)
            about = gr.Markdown()
    start.click(dub, [video, photo, sound, extend, blend, face_select], [result, about], concurrency_limit=1)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    page.queue(max_size=MAX_WAITING).launch(max_file_size=MAX_FILE, ssr_mode=False)
