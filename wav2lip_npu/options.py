"""Options in the words of the command line."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

from wav2lip_npu.storage.atomic import replacing

log = logging.getLogger(__name__)

STDOUT = "-"
SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""How yes and no are written."""


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


def write_json(content: Any, target: str) -> None:
    """What `--json` asks for: to a file, or to the standard output."""
    text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
        return
    with replacing(target) as part:
        part.write_text(text, encoding="ascii")
    log.info("everything that was found: %s", target)
