"""Check JSON values against type hints."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Row = TypeVar("Row")


def row_of(content: Any, row_type: type[Row]) -> Row:
    """Return an instance of a dataclass from a JSON object.

    Raises `ValueError` if the content is not an object, a field is missing or unknown, or a value has
    the wrong type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__} instead of an object")
    hints: dict[str, Any] = _hints(row_type)  # type: ignore[arg-type]
    for name, value in content.items():
        if name not in hints:
            raise ValueError(f"unknown field {name!r:.80}")
        if not matches(value, hints[name]):
            raise ValueError(f"{name} is {value!r:.80}")
    try:
        return row_type(**content)
    except TypeError:
        raise ValueError("a field is missing") from None


def matches(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has the type of a hint. A list matches a tuple, and an integer a float."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, alternative) for alternative in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin is dict:
        return isinstance(value, dict) and all(matches(item, inner[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(matches(item, inner[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(inner) and all(map(matches, value, inner))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


@functools.cache
def _hints(row_type: Any) -> dict[str, Any]:
    hints = get_type_hints(row_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(row_type)}
