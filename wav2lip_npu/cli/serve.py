"""The `serve` command: starts the HTTP service and its engine, and ends both on a signal."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from wav2lip_npu import __version__
from wav2lip_npu.errors import UsageError
from wav2lip_npu.options import group
from wav2lip_npu.serve.options import ServeOptions

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "websockets")
_POLL_S = 0.1
_CLOSE_S = 5
"""Seconds for open requests at the end."""


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Start the HTTP service and its page.

    wav2lip-npu serve

    wav2lip-npu serve --host 0.0.0.0 --token_file token.txt --devices npu:0 npu:1
    """

    serve: Annotated[ServeOptions, group("serve")] = field(default_factory=ServeOptions)

    def run(self) -> None:
        """Serve until a signal."""
        if not all(map(importlib.util.find_spec, _NEEDED)):
            raise UsageError(
                "serve needs FastAPI and uvicorn. Install them: pip install 'wav2lip-npu[serve]'"
            )
        log.info("wav2lip-npu %s", __version__)
        from wav2lip_npu.serve.server import run_server

        run_server(self.serve)
