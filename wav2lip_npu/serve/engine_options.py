"""Options of the engine, in a module that imports no libraries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of the engine."""

    folder: str
    """Folder of the service."""
    devices: tuple[str, ...] = ("auto",)
    """Devices, see `BatchOptions.devices`."""
    checkpoints: str | None = None
    """Folder with the weights of all models but `starter`."""
    keep: float | None = None
    """Seconds after which finished videos and unused files are removed; None: never."""
    timeout: float | None = None
    """Maximum seconds per job; None: no limit."""
    in_flight: int | None = None
    """Passes that each device runs concurrently; None: 2 on an accelerator, 1 on a CPU."""
