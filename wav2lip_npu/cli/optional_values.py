"""Show flags of type `T | None` like flags of type `T` in `--help`, and still accept the value None."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

registry = ConstructorRegistry()
"""Registry for `tyro.cli`."""
_NONE = ["None"]


@registry.primitive_rule
def _optional(
    info: PrimitiveTypeInfo,
) -> PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None:
    """Return the specification of `T` for `T | None`, which also accepts the word None."""
    inner = [hint for hint in get_args(info.type) if hint is not NoneType]
    is_optional = get_origin(info.type) in (Union, UnionType) and NoneType in get_args(info.type)
    if not is_optional or len(inner) != 1:
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner[0], info.markers))
    if isinstance(spec, UnsupportedTypeAnnotationError):
        return spec
    parse: Callable[[list[str]], Any] = spec.instance_from_str
    is_instance, to_text = spec.is_instance, spec.str_from_instance
    return dataclasses.replace(
        spec,
        nargs=(1, spec.nargs) if isinstance(spec.nargs, int) and spec.nargs > 1 else spec.nargs,
        choices=None if spec.choices is None else (*spec.choices, *_NONE),
        instance_from_str=lambda words: None if words == _NONE else parse(words),
        is_instance=lambda value: True if value is None else is_instance(value),
        str_from_instance=lambda value: _NONE if value is None else to_text(value),
    )
