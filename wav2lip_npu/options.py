"""Reflection over option dataclasses, which may hold further option dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

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
            advice = closest(name, names) or f"Its options are {', '.join(names)}."
            raise UsageError(f"{type(options).__name__} has no option {name!r}. {advice}")
    replaced: Options = _replaced(options, values)
    return replaced


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return a question that suggests the most similar name; None if none is similar.

    Names with a different first letter must be more similar: `note` does not suggest `rotate`. Upper case in
    `name` is ignored.
    """
    name, names = name.lower(), list(names)
    alike = [other for other in names if other[:1] == name[:1]]
    near = (
        difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        or difflib.get_close_matches(name, alike, n=1, cutoff=0.65)
        or [other for other in alike if len(name) > 3 and other.startswith(name)]
    )
    return f"Did you mean {near[0]}?" if near else None


def nested_by_name(options: type[Options]) -> type[Options]:
    """Let the constructor of an option dataclass accept the options of nested objects by name.

    `DubOptions(resize_factor=2)` is `DubOptions(geometry=Geometry(resize_factor=2))`. An unknown name raises
    `UsageError` instead of `TypeError`.
    """
    construct: Any = options.__init__
    kind: Any = options
    own = {field.name for field in dataclasses.fields(kind)}

    @functools.wraps(construct)
    def accept(self: Any, *arguments: Any, **values: Any) -> None:
        nested = {name: values.pop(name) for name in list(values) if name not in own}
        construct(self, *arguments, **values)
        if nested:
            merged = with_values(self, nested)
            for name in own:
                object.__setattr__(self, name, getattr(merged, name))

    kind.__init__ = accept
    return options


def check_types(options: Any) -> None:
    """Check the types of the fields of an option dataclass, for its `__post_init__`.

    tyro checks flags, but not values from Python callers. Lists become tuples, paths become text and numbers
    of other libraries become `int` or `float`, so that options can be hashed and written as JSON. Fields of
    types that no flag can have are not checked.

    Raises:
        UsageError: A value has another type, is not one of the choices, or is NaN.

    """
    kind: Any = type(options)
    for name, hint in _hints(kind).items():
        value = getattr(options, name)
        try:
            plain = _as_type(value, hint)
        except (TypeError, OverflowError):
            shown = " ".join(f"{value!r:.80}".split())
            flag = name if dataclasses.is_dataclass(hint) else f"--{name}"
            raise UsageError(f"{flag} {shown} is invalid. Pass {_expected(hint)}.") from None
        if plain is not value:
            object.__setattr__(options, name, plain)


@functools.cache
def _hints(options: Any) -> dict[str, Any]:
    hints = get_type_hints(options)
    return {field.name: hints[field.name] for field in dataclasses.fields(options)}


def _as_type(value: Any, hint: Any) -> Any:
    """Return the value with the type of a hint. Raises `TypeError` or `OverflowError` if it has another."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for alternative in inner:
            with contextlib.suppress(TypeError):
                return _as_type(value, alternative)
        raise TypeError
    if origin is Literal:
        if not any(isinstance(value, type(choice)) and value == choice for choice in inner):
            raise TypeError
        return value
    if origin is tuple:
        return _as_tuple(value, inner)
    if hint in _CONVERSIONS:
        return _CONVERSIONS[hint](value)
    if dataclasses.is_dataclass(hint) and not isinstance(value, cast("type", hint)):
        raise TypeError
    return value


def _as_tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError
    hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
    if len(value) != len(hints):
        raise TypeError
    return tuple(_as_type(item, hint) for item, hint in zip(value, hints, strict=True))


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    return value if isinstance(value, int) else int(value)


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(number := float(value)):
        raise TypeError
    return value if isinstance(value, (int, float)) else number


def _as_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _as_text(value: Any) -> str:
    text = os.fspath(value)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half of a character, which no file name can contain
        raise TypeError from None
    if not isinstance(text, str) or "\0" in text:
        raise TypeError
    return text


def _as_none(value: Any) -> None:
    if value is not None:
        raise TypeError


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    int: _as_int,
    float: _as_float,
    bool: _as_bool,
    str: _as_text,
    NoneType: _as_none,
}
_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    NoneType: "None",
}


def _expected(hint: Any) -> str:
    """Describe the valid values of a type hint."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_expected, inner))
    if origin is Literal:
        return f"one of: {', '.join(map(str, inner))}"
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a tuple of {count}{_expected(inner[0]).removeprefix('a ')}s"
    return _EXPECTED.get(hint) or f"{hint.__name__}(...)"


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
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = _replaced(value, values)
        changes[field.name] = value
    return dataclasses.replace(options, **changes)


def check_minimum(options: Any, name: str, minimum: int) -> None:
    """Raise `UsageError` if an option is below a minimum; `None` is not."""
    value = getattr(options, name)
    if value is not None and value < minimum:
        raise UsageError(f"--{name} {value} is out of range. Pass {minimum} or more.")


def check_positive(options: Any, name: str) -> None:
    """Raise `UsageError` if an option is not a finite number above 0; `None` is."""
    value = getattr(options, name)
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"--{name} {value:g} is out of range. Pass a number above 0.")


def check_range(options: Any, name: str, minimum: float, maximum: float) -> None:
    """Raise `UsageError` if an option, or a number of its tuple, is outside of a range; `None` is not."""
    value = getattr(options, name)
    numbers = value if isinstance(value, tuple) else () if value is None else (value,)
    if not all(minimum <= number <= maximum for number in numbers):
        shown = " ".join(f"{number:g}" if isinstance(number, float) else str(number) for number in numbers)
        raise UsageError(f"--{name} {shown:.80} is out of range. Pass {minimum:,} to {maximum:,}.")


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


def expect_text(**values: Any) -> None:
    """Raise `UsageError` if one of the arguments, passed by name, is not a string."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise UsageError(f"{name} {value!r:.80} is invalid. Pass a string, or omit it.")


def path_text(path: Any, name: str) -> str:
    """Return a path as `str`. Raises `UsageError`, which calls it `name`, if it is empty or not a path."""
    try:
        text = _as_text(path)
    except TypeError:
        raise UsageError(f"{name} {path!r:.80} is not a path. Pass a str or a pathlib.Path.") from None
    if not text:
        raise UsageError(f"{name} is empty. Pass a path.")
    return text
