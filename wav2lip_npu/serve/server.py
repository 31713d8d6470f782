"""Run the service: HTTP in this process, jobs and questions in others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from wav2lip_npu import signals
from wav2lip_npu.errors import UsageError
from wav2lip_npu.serve.app import create_app
from wav2lip_npu.serve.connections import PatientProtocol, allow_many
from wav2lip_npu.serve.engine import running_engine
from wav2lip_npu.serve.interactive import Interactive
from wav2lip_npu.serve.options import ServeOptions
from wav2lip_npu.serve.store import Store
from wav2lip_npu.storage.locks import lock_folder

log = logging.getLogger(__name__)

_NOTICE = "ending; running jobs continue with the next start"
_REFUSED = "ASGI callable returned without completing handshake."
"""What uvicorn logs as an error after a WebSocket was refused with a response."""
_POLL_S = 0.1
_CLOSE_S = 5
"""Seconds for open requests at the end."""
_BACKLOG = 2048
_MAX_MESSAGE = 16 << 20
"""Bytes of a message of a WebSocket: an image in base64 is the largest."""


def run_server(options: ServeOptions) -> None:
    """Serve until a signal; jobs that run then are continued by the next start.

    Raises:
        UsageError: The address is in use, or another service uses the folder.

    """
    options.tokens(), options.webhook_secret()  # before anything is started
    allow_many()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # otherwise it warns of each damaged form
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.getMessage() != _REFUSED)
    with signals.held(_NOTICE) as hold, lock_folder(options.folder) as is_locked:
        if not is_locked:
            raise UsageError(f"--data {options.folder} is used by another service. Pass another folder.")
        interactive = Interactive(options.engine)
        with _listen(options) as listener, contextlib.closing(interactive):
            store = Store(options.folder, options.keep_seconds)
            store.forget_uploads()
            app = create_app(options, store, interactive)
            with running_engine(options.engine):
                _serve(app, listener, options, hold)
    log.info("ended")


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on --host {options.host} --port {options.port}: {error.strerror}. Pass another."
        ) from None
    return listener


def _serve(app: FastAPI, listener: socket.socket, options: ServeOptions, hold: signals.Hold) -> None:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_CLOSE_S,
        server_header=False,
        http=PatientProtocol,
        backlog=_BACKLOG,
        ws_max_size=_MAX_MESSAGE,
        ws_per_message_deflate=False,  # images do not shrink, and a few bytes could grow to _MAX_MESSAGE
    )
    server = _Server(config)
    shown = f"[{options.host}]" if ":" in options.host else options.host
    gc.collect()
    gc.freeze()  # otherwise each full collection looks at all modules, for tens of milliseconds
    log.info("page: http://%s:%d/  documentation: /docs", shown, listener.getsockname()[1])
    asyncio.run(_run(server, listener, hold, app))


async def _run(server: _Server, listener: socket.socket, hold: signals.Hold, app: FastAPI) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not serving.done():
        await asyncio.wait([serving], timeout=_POLL_S)
        if hold.number is not None and not server.should_exit:
            # Streams would keep the server waiting.
            await app.state.service.hub.close()
            await app.state.service.streams.close()
            server.should_exit = True
    serving.result()


class _Server(uvicorn.Server):
    """A server that leaves the handling of signals to the command."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change no handler."""
        yield
