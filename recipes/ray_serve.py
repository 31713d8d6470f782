"""Ray Serve: one dub at a time on each device of a cluster, behind one HTTP address.

    pip install '.[ray]' 'ray[serve]' python-multipart
    serve run --app-dir recipes ray_serve:app device=npu replicas=8
    curl -F face=@talk.mp4 -F audio=@speech.wav localhost:8000/ -o out.mp4

Requests wait in memory. For a durable queue, use `wav2lip-npu serve`, or `batch --cluster`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, FastAPI, HTTPException, UploadFile
from fastapi.responses import FileResponse
from ray import serve

import wav2lip_npu

RESOURCES = {"cpu": {"num_cpus": 2}, "cuda": {"num_gpus": 1}, "npu": {"resources": {"NPU": 1}}}
api = FastAPI()


@serve.deployment(max_ongoing_requests=1)
@serve.ingress(api)
class Dub:
    """Networks on one device."""

    def __init__(self, weights: str, device: str) -> None:
        self.models = wav2lip_npu.load_models(weights, device=device)

    @api.post("/")
    def dub(self, face: UploadFile, audio: UploadFile, background: BackgroundTasks) -> FileResponse:
        """Return the dubbed video."""
        folder = Path(tempfile.mkdtemp())
        background.add_task(shutil.rmtree, folder)
        try:
            for name, upload in (("face", face), ("audio", audio)):
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(upload.file, file)
            wav2lip_npu.dub(folder / "face", folder / "audio", folder / "out.mp4", models=self.models)
        except wav2lip_npu.Wav2LipError as error:
            shutil.rmtree(folder)
            raise HTTPException(422, str(error).replace(str(folder), "upload")) from error
        return FileResponse(folder / "out.mp4", media_type="video/mp4", background=background)


def app(arguments: dict[str, str]) -> Any:
    """Return the application; `arguments` are those after its name on the command line."""
    device = arguments.get("device", "cuda")
    deployment = Dub.options(
        num_replicas=int(arguments.get("replicas", "1")), ray_actor_options=RESOURCES[device]
    )
    return deployment.bind(arguments.get("weights", "starter"), device)
