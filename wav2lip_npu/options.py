"""Reflection over option dataclasses, which may hold further option dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from wav2lip_npu.errors import UsageError

Options = TypeVar("Options")

SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""Spellings of a boolean."""


def group(title: str) -> Any:
    """Return an annotation that titles a nested options object in `--help`: "TITLE options"."""
    import tyro

    return tyro.conf.arg(name=title, prefix_name=False)


def resolved(options: Any) -> str:
    """Return `name=value, ...` of all options, for the log; fields with `repr=False` are left out."""
    return ", ".join(f"{name}={value!r}" for name, value in fields_of(options))


def fields_of(options: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of the options, nested ones included; fields with `repr=False` are left out."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if not field.repr:
            continue
        if dataclasses.is_dataclass(value):
            yield from fields_of(value)
        else:
            yield field.name, value


def with_values(options: Options, values: Mapping[str, Any]) -> Options:
    """Return `options` with fields replaced by name, at any depth of nesting.

    A nested options object may also be replaced as a whole: `with_values(DubOptions(), {"crf": 18})` and
    `with_values(DubOptions(), {"encode": EncodeOptions(crf=18)})` are equal.

    Raises:
        UsageError: A name is not an option. The message suggests the closest one.

    """
    names = list(_names(options))
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            way_out = f"Did you mean {near[0]}?" if near else f"Its options are {', '.join(names)}."
            raise UsageError(f"{type(options).__name__} has no option {name!r}. {way_out}")
    replaced: Options = _replaced(options, values)
    return replaced


def check_choices(options: Any) -> None:
    """Check the fields of an option dataclass of type `Literal[...]` or `Literal[...] | None`.

    For `__post_init__`: tyro checks flags, but not values from job tables or Python callers.

    Raises:
        UsageError: A value is not one of the choices.

    """
    kind: Any = type(options)
    for name, choices in _choices(kind).items():
        value = getattr(options, name)
        if value not in choices:
            way_out = ", ".join(str(choice) for choice in choices if choice is not None)
            raise UsageError(f"unknown --{name} {value!r}. Pass one of: {way_out}.")


@functools.cache
def _choices(options: Any) -> dict[str, tuple[Any, ...]]:
    """Return the allowed values of each field with choices."""
    choices = {}
    for name, hint in get_type_hints(options).items():
        kinds = get_args(hint) if get_origin(hint) is not Literal else (hint,)
        values = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
        if values:
            choices[name] = (*values, None) if type(None) in kinds else tuple(values)
    return choices


def _names(options: Any) -> Iterator[str]:
    for field in dataclasses.fields(options):
        yield field.name
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _names(value)


def _replaced(options: Any, values: Mapping[str, Any]) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = values.get(field.name, getattr(options, field.name))
        if dataclasses.is_dataclass(value):
            value = _replaced(value, values)
        changes[field.name] = value
    return dataclasses.replace(options, **changes)


def expect(options: Options | None, kind: type[Options], name: str = "options") -> Options:
    """Return the options that a caller passed as argument `name`; those by default for `None`.

    Raises:
        UsageError: They are of another class.

    """
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise UsageError(f"{name} is of type {type(options).__name__}. Pass {name}={kind.__name__}(...).")
    return options


def convert_paths(options: Any, names: Sequence[str]) -> None:
    """Convert the paths among the fields of an option dataclass to `str`; for `__post_init__`.

    Raises:
        UsageError: A value is not a path.

    """
    for name in names:
        value = getattr(options, name)
        if value is not None:
            object.__setattr__(options, name, path_text(value, f"--{name}"))


def path_text(path: Any, name: str) -> str:
    """Return a path as `str`. Raises `UsageError`, which calls it `name`, if it is not a path."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise UsageError(f"{name} {path!r} is not a path. Pass a str or a pathlib.Path.")
    return text
