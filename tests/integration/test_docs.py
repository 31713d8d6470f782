"""The generated parts of the docs are up to date, and the extras that pages, images and recipes name exist."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@functools.cache
def generated() -> dict[str, str]:
    """Return the content that each page should have, by its name."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {path.name: content for path, content in module.pages()}


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
def test_generated_pages_are_up_to_date(name):
    assert (DOCS / name).read_text() == generated()[name], "run python docs/generate.py"


def test_named_extras_and_local_pages_exist():
    tomllib = pytest.importorskip("tomllib") if sys.version_info >= (3, 11) else pytest.importorskip("tomli")
    root = DOCS.parent
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [root / "README.md", *DOCS.glob("*.md")]
    named: set[str] = set()
    for path in [*pages, *root.glob("docker/*"), *root.glob("recipes/*.*"), *root.glob("comfyui/*.*")]:
        text = path.read_text(errors="replace")
        for names in re.findall(r"(?:wav2lip-npu|[\"' ]\.)\[([a-z,]+)\]", text):
            named |= set(names.split(","))
    assert {"serve", "export", "ray", "npu"} <= named <= extras.keys()
    for path in pages:
        for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
