"""What the routes of the service share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection

from wav2lip_npu.serve.auth import Tokens
from wav2lip_npu.serve.bodies import JsonRoute
from wav2lip_npu.serve.events import EventHub
from wav2lip_npu.serve.metrics import Metrics
from wav2lip_npu.serve.options import ServeOptions
from wav2lip_npu.serve.probe import Probe
from wav2lip_npu.serve.problems import not_found
from wav2lip_npu.serve.questions import Questions
from wav2lip_npu.serve.records import StoredFile, Video
from wav2lip_npu.serve.store import Store
from wav2lip_npu.serve.streams.registry import Streams
from wav2lip_npu.serve.uploads import UploadLimits
from wav2lip_npu.serve.webhooks import Webhooks

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Router(APIRouter):
    """Routes with bounded bodies, of which those of GET answer HEAD too: the server leaves the body out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=JsonRoute, **options)

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Return a decorator that adds a function as the route of GET and HEAD."""

        def decorate(handler: Handler) -> Handler:
            super(Router, self).head(path, include_in_schema=False)(handler)
            return super(Router, self).get(path, **options)(handler)

        return decorate


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of a running service."""

    options: ServeOptions
    tokens: Tokens
    store: Store
    probe: Probe
    questions: Questions
    hub: EventHub
    metrics: Metrics
    webhooks: Webhooks
    streams: Streams
    probes: CapacityLimiter
    """Files that are probed at once."""
    writes: CapacityLimiter
    """Changes of the store that wait for the disk at once; the others wait without a thread."""
    fetches: CapacityLimiter
    """Files that are fetched from other hosts at once."""

    @property
    def upload_limits(self) -> UploadLimits:
        """Limits of a request with files."""
        options = self.options
        return UploadLimits(
            new_path=self.store.upload_path, max_bytes=options.upload_bytes, floor_bytes=options.floor_bytes
        )

    def file(self, file_id: str) -> StoredFile:
        """Return a file. Raises the problem of an unknown ID."""
        stored = self.store.file(file_id)
        if stored is None:
            raise not_found("file", file_id)
        return stored

    def content(self, file_id: str) -> str:
        """Return the path of the content of a file. Raises the problem of an unknown ID."""
        return os.fspath(self.store.content(self.file(file_id)))

    def video(self, video_id: str) -> Video:
        """Return a video. Raises the problem of an unknown ID."""
        video = self.store.video(video_id)
        if video is None:
            raise not_found("video", video_id)
        return video


async def _of_request(request: HTTPConnection) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_of_request)]
"""Parameter of a route: the service."""
