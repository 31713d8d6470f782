"""Write docs/api.md from docstrings, and the option tables in the other pages from the option dataclasses.

    python docs/generate.py

A table is between `<!-- options: COMMAND -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

import wav2lip_npu
from wav2lip_npu.cli.main import COMMANDS
from wav2lip_npu.errors import Wav2LipError

DOCS = Path(__file__).resolve().parent
_WITH_METHODS = ("Models", "FaceStream")
"""Classes whose methods users call."""
_MARKED = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each generated page and its content."""
    for path in sorted(DOCS.glob("*.md")):
        if path.name != "api.md":
            yield path, _MARKED.sub(_filled, path.read_text())
    yield DOCS / "api.md", api_page()


def _filled(marked: re.Match[str]) -> str:
    return marked[1] + "\n" + option_table(COMMANDS[marked[2]].load()) + "\n" + marked[3]


def option_table(options: type) -> str:
    """Return a Markdown table of all options of a command, nested ones included."""
    rows = [
        f"| `{_flag(name, field)}{_choices(hint)}` | {_default(field)} | {_one_line(text)} |"
        for name, hint, field, text in _fields(options, nested=True)
    ]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _fields(options: type, *, nested: bool) -> Iterator[tuple[str, Any, dataclasses.Field[Any], str]]:
    """Yield name, type, field and docstring of the fields of a dataclass."""
    hints, texts = get_type_hints(options), field_docstrings(options)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if nested and dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _fields(hint, nested=True)
        else:
            yield field.name, hint, field, texts.get(field.name, "")


def field_docstrings(options: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, including those of its bases."""
    texts: dict[str, str] = {}
    for owner in reversed(options.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[field.target.id] = str(text.value.value)
    return texts


def _flag(name: str, field: dataclasses.Field[Any]) -> str:
    """Return `--name`, or `NAME` for a positional argument."""
    return name.upper() if "Positional" in str(field.type) else f"--{name}"


def _choices(hint: Any) -> str:
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            return " {" + ",".join(map(str, get_args(part))) + "}"
    return ""


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        value = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is None:
            return "required"
    if value in (None, (), ""):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def api_page() -> str:
    """Return the page of all public functions, classes and errors."""
    names = [name for name in wav2lip_npu.__all__ if not name.startswith("_")]
    public = {name: getattr(wav2lip_npu, name) for name in names}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    errors = {name: value for name, value in public.items() if _is_error(value)}
    types = {name: value for name, value in public.items() if name not in functions and name not in errors}
    return "\n".join(
        [
            "# Python API",
            "",
            "Generated from the docstrings by `python docs/generate.py`. A flag in an error message, such as",
            "`--crf`, is the keyword `crf` here. Import names from `wav2lip_npu`:",
            "",
            "```python",
            "from wav2lip_npu import dub, load_models",
            "```",
            "",
            *(line for name, value in functions.items() for line in _function(name, value)),
            *(line for name, value in types.items() for line in _type(name, value)),
            "## Errors",
            "",
            "| error | raised for |",
            "|---|---|",
            *(f"| `{name}` | {_one_line(inspect.getdoc(value) or '')} |" for name, value in errors.items()),
            "",
        ]
    )


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Wav2LipError)


def _function(name: str, function: Any) -> Iterator[str]:
    yield from (f"## {name}", "", "```", _signature(name, function), "```", "")
    yield from _docstring(inspect.getdoc(function) or "")


def _signature(name: str, function: Any) -> str:
    """Return the signature, with one parameter per line and annotations as in the source."""
    signature = inspect.signature(function)
    lines: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        text = re.sub(r": '([^']+)'", r": \1", str(parameter))
        lines.append(re.sub(r"<function .+ at 0x\w+>", "...", text))  # without the address, which varies
    return f"{name}(\n    " + ",\n    ".join(lines) + f",\n) -> {signature.return_annotation}"


def _type(name: str, cls: Any) -> Iterator[str]:
    yield from (f"## {name}", "")
    yield from _docstring(inspect.getdoc(cls) or "")
    methods = [
        f"| `{method}({', '.join(list(inspect.signature(value).parameters)[1:])})` | {_summary(value)} |"
        for method, value in vars(cls).items()
        if name in _WITH_METHODS and inspect.isfunction(value) and not method.startswith("_")
    ]
    if methods:
        yield from ("| method | meaning |", "|---|---|", *methods, "")
    if dataclasses.is_dataclass(cls):
        assert isinstance(cls, type)
        rows = [
            f"| `{field}` | `{_type_name(hint)}` | {_one_line(text)} |"
            for field, hint, _, text in _fields(cls, nested=False)
            if not field.startswith("_")
        ]
        yield from ("| field | type | meaning |", "|---|---|---|", *rows, "")


def _summary(method: Any) -> str:
    return _one_line((inspect.getdoc(method) or "").partition("\n\n")[0])


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        return " or ".join(map(_type_name, get_args(hint)))
    return "None" if hint is type(None) else re.sub(r"\b[\w.]+\.(\w+)", r"\1", inspect.formatannotation(hint))


def _docstring(text: str) -> Iterator[str]:
    """Yield Markdown lines of a docstring with sections in Google's style."""
    parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
    if parsed.description:
        yield from (parsed.description, "")
    if parsed.params:
        yield from (*(f"- `{p.arg_name}`: {_one_line(p.description or '')}" for p in parsed.params), "")
    if parsed.returns:
        yield from (f"Returns: {_one_line(parsed.returns.description or '')}", "")
    if parsed.raises:
        raised = [f"- `{r.type_name}`: {_one_line(r.description or '')}" for r in parsed.raises]
        yield from ("Raises:", "", *raised, "")
    for example in parsed.examples:
        yield from ("```python", *_code(example.description or ""), "```", "")


def _code(example: str) -> list[str]:
    """Return the source lines of an example, without prompts and results."""
    return [line[4:] for line in inspect.cleandoc("\n" + example).splitlines() if line[:3] in (">>>", "...")]


if __name__ == "__main__":
    for page, content in pages():
        if not page.exists() or page.read_text() != content:
            page.write_text(content)
            sys.stdout.write(f"{page}\n")
