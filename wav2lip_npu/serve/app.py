"""The ASGI application: its parts, its routes and what surrounds them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from time import time
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wav2lip_npu import __version__
from wav2lip_npu.devices.device import cpu_count
from wav2lip_npu.serve import files, page_routes, system, videos
from wav2lip_npu.serve.auth import Guard, Tokens
from wav2lip_npu.serve.events import EventHub
from wav2lip_npu.serve.interactive import Interactive
from wav2lip_npu.serve.metrics import Measured, Metrics
from wav2lip_npu.serve.options import ServeOptions
from wav2lip_npu.serve.probe import MediaLimits, Probe
from wav2lip_npu.serve.problems import ProblemObject, handle_problems
from wav2lip_npu.serve.questions import Questions
from wav2lip_npu.serve.service import Service
from wav2lip_npu.serve.store import Store
from wav2lip_npu.serve.streams import omnirt, sockets, whep
from wav2lip_npu.serve.streams import routes as streams
from wav2lip_npu.serve.streams.registry import Streams
from wav2lip_npu.serve.webhooks import Webhooks

log = logging.getLogger(__name__)

_SECURITY = {
    b"content-security-policy": (
        b"default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; frame-ancestors 'none'; "
        b"base-uri 'none'; form-action 'self'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
_WRITES, _FETCHES = 4, 8
_WEBHOOKS_S = 1.0
"""Seconds between looks for webhooks that are due."""
_ABOUT = (
    "Lip-sync videos to audio. Upload a face and an audio file, create a video, wait for its events and "
    "download it. The shapes are those of OpenAI's videos API, so its clients work. With a token, send "
    "Authorization: Bearer TOKEN or X-API-Key: TOKEN. Errors are application/problem+json."
)


def create_app(options: ServeOptions, store: Store, interactive: Interactive) -> FastAPI:
    """Return the application.

    Raises:
        UsageError: The tokens or the secret of webhooks cannot be read.

    """
    tokens = Tokens(options.tokens())
    options.ice_servers()  # an error in the file is one of the start
    metrics = Metrics()
    app = FastAPI(
        title="wav2lip-npu",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service = Service(
        options=options,
        tokens=tokens,
        store=store,
        probe=Probe(MediaLimits(options.max_seconds, options.max_pixels)),
        questions=Questions(interactive),
        hub=EventHub(store),
        metrics=metrics,
        streams=Streams(options),
        webhooks=Webhooks(store, options.webhook_hosts, options.webhook_secret()),
        probes=CapacityLimiter(max(1, cpu_count() - 1)),
        writes=CapacityLimiter(_WRITES),
        fetches=CapacityLimiter(_FETCHES),
    )
    for part in (videos, files, streams, sockets, whep, omnirt, system, page_routes):
        app.include_router(part.router)
    handle_problems(app)
    app.add_middleware(Guard, tokens=tokens, host=options.host)
    app.add_middleware(_Headers)
    app.add_middleware(Measured, metrics=metrics)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    calling = asyncio.create_task(_call_webhooks(service.webhooks)) if service.webhooks.is_on else None
    yield
    if calling is not None:
        calling.cancel()
    await service.hub.close()
    await service.streams.close()


async def _call_webhooks(webhooks: Webhooks) -> None:
    """Make the calls that are due, until the service ends."""
    while True:
        await asyncio.sleep(_WEBHOOKS_S)
        try:
            await to_thread.run_sync(webhooks.deliver, time())
        except Exception:
            log.exception("webhooks were not delivered")


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the object of errors and the ways to authenticate."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        parts = document["components"]
        _, problem = models_json_schema(
            [(ProblemObject, "serialization")], ref_template="#/components/schemas/{model}"
        )
        parts["schemas"] |= problem["$defs"]
        parts["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"token": []}, {"key": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema


class _Headers:
    """ASGI middleware that adds headers which restrict what a browser does with a response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in _SECURITY.items() if name not in present]
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, with_headers)
