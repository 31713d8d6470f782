"""Record which files are opened."""

from __future__ import annotations

import builtins
from typing import Any

import av
import pytest


def record_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the path of each file that Python, Pillow or PyAV opens."""
    paths: list[str] = []
    open_file, open_container = builtins.open, av.open

    def recorded_file(path: Any, *rest: Any, **options: Any) -> Any:
        paths.append(str(path))
        return open_file(path, *rest, **options)

    def recorded_container(url: str, *rest: Any, **options: Any) -> Any:
        paths.append(url.removeprefix("file:"))
        return open_container(url, *rest, **options)

    monkeypatch.setattr(builtins, "open", recorded_file)
    monkeypatch.setattr(av, "open", recorded_container)
    return paths
