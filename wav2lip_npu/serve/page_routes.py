"""The page, and the documentation of the API; both work offline."""

from __future__ import annotations

import html
import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Header, Request, Response
from fastapi.responses import HTMLResponse

from wav2lip_npu.serve.problems import Problem
from wav2lip_npu.serve.service import Router
from wav2lip_npu.storage import hashing

router = Router(include_in_schema=False)

_FOLDER = Path(__file__).resolve().parent / "page"
_METHODS = ("get", "post", "delete")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.5rem 0 .25rem; font: 600 1.05rem ui-monospace, monospace; }
h2 b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; margin: .5rem 0; }
td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884; }
td:first-child { width: 11rem; }
td:nth-child(2) { width: 15rem; }
td:first-child, code { font-family: ui-monospace, monospace; }
"""


@router.get("/")
def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return the page."""
    return _static("index.html", if_none_match)


@router.get("/page/{name}")
def page_file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Return a script, style or picture of the page."""
    return _static(name, if_none_match)


@router.get("/docs.css")
def docs_style() -> Response:
    """Return the style of the documentation."""
    return Response(_STYLE, media_type="text/css")


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Return the OpenAPI document as a page without scripts."""
    return HTMLResponse("".join(_docs(request.app.openapi())))


def _static(name: str, if_none_match: str | None) -> Response:
    """Return a file of the page's folder. Only listed names are served, so that none can lead out of it."""
    files = {path.name: path for path in _FOLDER.iterdir()} if _FOLDER.is_dir() else {}
    if name not in files:
        raise Problem(404, f"no such page: {name:.80}. See /docs.")
    path = files[name]
    etag = f'"{hashing.sha256_of(path)[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match == etag:
        return Response(status_code=304, headers=headers)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=kind, headers=headers)


def _docs(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{_text(info['title'])}</title>"
    yield '<link rel="stylesheet" href="docs.css"><link rel="icon" href="page/icon.svg"></head><body>'
    yield f"<h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['description'])}</p>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">The page</a>.</p>'
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                yield from _operation(method, path, operations[method], document)
    yield "<h1>Objects</h1>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<h2 id="{_text(name)}">{_text(name)}</h2><p>{_text(schema.get("description", ""))}</p>'
        yield from _fields(schema)
    yield "</body></html>"


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><b>{method.upper()}</b> {_text(path)}</h2><p>{_text(operation.get('description', ''))}</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        rows = {entry["name"]: {**entry["schema"], **entry} for entry in parameters}
        yield from _fields(
            {"properties": rows, "required": [e["name"] for e in parameters if e.get("required")]}
        )
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{_text(kind)}</code> {_type(content['schema'])}</p>"
        yield from _fields(content["schema"])
    yield "<p>Answers: "
    yield "; ".join(_answer(status, answer) for status, answer in operation["responses"].items())
    yield "</p>"


def _answer(status: str, answer: dict[str, Any]) -> str:
    kinds = ", ".join(
        _type(content.get("schema", {})) or _text(kind) for kind, content in answer.get("content", {}).items()
    )
    return f"<code>{_text(status)}</code> {_text(answer.get('description', ''))} {kinds}"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the properties of a schema."""
    if not schema.get("properties"):
        return
    yield "<table>"
    for name, field in schema["properties"].items():
        default = field.get("default")
        notes = [_text(field.get("description", ""))]
        notes += ["Required."] if name in schema.get("required", ()) else []
        notes += [f"Default: <code>{_text(json.dumps(default))}</code>."] if default is not None else []
        text = " ".join(filter(None, notes))
        yield f"<tr><td>{_text(name)}</td><td>{_type(field)}</td><td>{text}</td></tr>"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """Return the type of a schema as HTML, with links to objects."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(_text(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return _text(str(schema.get("format") or schema.get("const") or schema.get("type", "")))


def _text(text: str) -> str:
    return html.escape(text)
