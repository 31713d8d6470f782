"""The generated parts of the docs are up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {path.name: content for path, content in module.pages()}


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
def test_generated_pages_are_up_to_date(name):
    assert (DOCS / name).read_text() == generated()[name], "run python docs/generate.py"
