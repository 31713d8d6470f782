"""Options in the words of the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any


def resolved(options: Any) -> str:
    """`name=value, ...` of the fields of a dataclass and of those inside it: what a run was asked for.

    Fields that are not to be shown (`repr=False`) are left out.
    """
    return ", ".join(f"{name}={value!r}" for name, value in fields_of(options))


def fields_of(options: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the fields of a dataclass and of those inside it, but for `repr=False`."""
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if not each.repr:
            continue
        if dataclasses.is_dataclass(value):
            yield from fields_of(value)
        else:
            yield each.name, value
